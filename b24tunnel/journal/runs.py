"""Runs of replay: the last one with those that resumed it, and what they have delivered."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from operator import attrgetter

from b24tunnel.journal import files, lines
from b24tunnel.journal.files import Segment
from b24tunnel.journal.numbers import Numbers
from b24tunnel.journal.pending import session_start
from b24tunnel.journal.scan import Scan
from b24tunnel.recording import Attempt, Cause, SessionEnd, SessionStart, parse_id
from b24tunnel.through import Through

_PURPOSE = "replay"
# A session's file is made and has its first line at once; one whose writer was killed in between never gets it.
_SECONDS_TO_BEGIN = 2.0
_POLL_SECONDS = 0.005


@dataclass(frozen=True)
class Run:
    """A replay with those that resumed it.

    ``sessions`` are theirs, oldest first, without those that a prune removed; ``session`` is the newest.
    ``started_at`` (aware UTC) is when the first of them began to select, and ``through`` what it selected from,
    None where it did not say so. ``arguments`` is the newest command line.
    ``finished``: one ended with nothing left to send. ``running``: a process still writes one.
    """

    session: int
    sessions: tuple[int, ...]
    started_at: datetime
    arguments: tuple[str, ...]
    finished: bool
    running: bool
    through: Through | None = None


def last_run(scan: Scan, *, with_arguments: bool = True) -> Run | None:
    """The newest run; None where there is none. Read are first and last lines, from the newest session back.

    ``with_arguments``: only one with a command line.
    """
    starts = _Starts(scan)
    for session in reversed(starts.sessions):
        chain = starts.chain(session)
        arguments = next((start.arguments for start in reversed(chain) if start.arguments), ())
        if not chain or (with_arguments and not arguments):
            continue
        ends = [_end(scan, starts.segments_of(start.session)) for start in chain]
        through = next((start.through for start in chain if start.through is not None), None)
        return Run(
            session=session,
            sessions=tuple(start.session for start in chain),
            started_at=chain[0].started_at if through is None else through.at,
            arguments=arguments,
            finished=any(end is not None and end.pending == 0 for end, _ in ends),
            running=any(live for _, live in ends),
            through=through,
        )
    return None


def resumed_elsewhere(scan: Scan, session: int, own: int) -> int | None:
    """The lowest session below ``own`` that resumes ``session``; None where there is none."""
    starts = _Starts(scan)
    for other in starts.sessions:
        if session < other < own:
            _wait_for_beginning(starts.segments_of(other))
            start = starts[other]
            if start is not None and start.resumes == session:
                return other
    return None


class _Starts:
    """How the sessions of replay began, each read when it is asked for."""

    def __init__(self, scan: Scan) -> None:
        self._scan = scan
        self._segments: dict[int, list[Segment]] = {
            session: list(own) for session, own in groupby(scan.segments(), key=attrgetter("session"))
        }
        self._read: dict[int, SessionStart | None] = {}
        self.sessions = tuple(self._segments)

    def segments_of(self, session: int) -> list[Segment]:
        """The files of a session."""
        return self._segments[session]

    def __getitem__(self, session: int) -> SessionStart | None:
        """How a session began, which each of its files says; None where that was no replay, or is not there."""
        if session not in self._read:
            starts = (session_start(self._scan, segment) for segment in self._segments.get(session, ()))
            start = next((start for start in starts if start is not None), None)
            replays = start is not None and start.session == session and start.purpose == _PURPOSE
            self._read[session] = start if replays else None
        return self._read[session]

    def chain(self, newest: int) -> list[SessionStart]:
        """A session of replay with all that belong to its run, oldest first, as far as they are still there.

        These are what it resumes, and what else has resumed any of that: of two that resumed one run at the same
        time, the one that gave up may be the newer.
        """
        first = None
        session: int | None = newest
        while session is not None and (start := self[session]) is not None:
            first = start
            session = start.resumes if start.resumes is not None and start.resumes < session else None
        if first is None:
            return []
        # Where the chain ends at a session that is not there any more, that one is known by its number alone.
        oldest = first.session if session is None else session
        members = {first.session, oldest}
        chain = []
        for other in self.sessions:
            start = self[other] if oldest <= other <= newest else None
            if start is not None and (other == first.session or start.resumes in members):
                members.add(other)
                chain.append(start)
        return chain


def _end(scan: Scan, segments: list[Segment]) -> tuple[SessionEnd | None, bool]:
    """A session's last line, where it is an end, and whether a process still writes the session."""
    # Looked at before its last line is read: what has ended by now has written that.
    live = files.is_live(segments[-1])
    line = next(scan.lines_from_end(segments[-1]), None)
    record = scan.read(segments[-1].path, line) if line else None
    end = record if isinstance(record, SessionEnd) else None
    return end, live and end is None


def _wait_for_beginning(segments: list[Segment]) -> None:
    """Wait until a session that is about to begin has its first line, for a short time at most."""
    path = segments[0].path
    while not files.end_of_lines(path) and abs(time.time() - files.changed_at(path)) < _SECONDS_TO_BEGIN:
        time.sleep(_POLL_SECONDS)


class Delivered:
    """How many times each recording was delivered in some runs of replay, to be taken away one by one.

    What went to a second handler (cause ``against``) is not counted, unless that is asked for.

    `len` is how many are left. Memory is four bytes for each recording, and more for each fixture.
    """

    def __init__(self) -> None:
        self._counts = Numbers("I")
        self._fixtures: Counter[str] = Counter()
        self._left = 0

    @classmethod
    def of(cls, scan: Scan, sessions: Collection[int], cause: Cause = "replay") -> Delivered:
        """Read the attempts of these sessions that have this ``cause``.

        A recording is delivered when the handler was reached with it, whatever that made of it, and the try is
        over.
        """
        delivered = cls()
        mark = lines.cause_mark(cause)
        for segment in scan.segments():
            if segment.session not in sessions:
                continue
            for line in scan.lines(segment, lines.NO_ATTEMPT):
                head = lines.attempt_head(line)
                if head is not None and not line.startswith(mark, head.end(1)):
                    continue
                if head is not None and head[5] is not None:
                    delivered._add((int(head[2]), int(head[3])))
                    continue
                attempt = scan.read(segment.path, line)
                if isinstance(attempt, Attempt) and attempt.cause == cause and attempt.delivered:
                    if (place := parse_id(attempt.recording)) is not None:
                        delivered._add(place)
                    else:
                        delivered._fixtures[attempt.recording] += 1
                        delivered._left += 1
        return delivered

    def __len__(self) -> int:
        return self._left

    def take(self, recording_id: str) -> bool:
        """Whether the recording with this id, or fixture of this name, was delivered once more than was taken."""
        place = parse_id(recording_id)
        if place is None:
            if not self._fixtures[recording_id]:
                return False
            self._fixtures[recording_id] -= 1
        else:
            count = self._counts[place]
            if not count:
                return False
            self._counts[place] = count - 1
        self._left -= 1
        return True

    def _add(self, place: tuple[int, int]) -> None:
        self._counts[place] += 1
        self._left += 1

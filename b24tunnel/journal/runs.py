"""Runs of replay: the last one with those that resumed it, and what they have delivered."""

from __future__ import annotations

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
from b24tunnel.recording import Attempt, SessionEnd, SessionStart, parse_id

_PURPOSE = "replay"
# What follows the recording's id in the head of an attempt of a replay.
_REPLAYED = b'","cause":"replay",'


@dataclass(frozen=True)
class Run:
    """A replay from the command line with those that resumed it.

    ``sessions`` are theirs, oldest first, without those that a prune removed; ``session`` is the newest.
    ``started_at`` (aware UTC) is when the first of them began, and ``arguments`` are its command line.
    ``finished``: the newest ended with nothing left to send. ``running``: its process still writes it.
    """

    session: int
    sessions: tuple[int, ...]
    started_at: datetime
    arguments: tuple[str, ...]
    finished: bool
    running: bool


def last_run(scan: Scan) -> Run | None:
    """The newest run; None where there is none. Read are first and last lines, from the newest session back."""
    by_session = {session: list(own) for session, own in groupby(scan.segments(), key=attrgetter("session"))}
    for session in reversed(by_session):
        chain = _chain(scan, by_session, session)
        # A replay from Python has no command line to be resumed with.
        arguments = next((start.arguments for start in chain if start.arguments), ())
        if arguments:
            ended, running = _end(scan, by_session[session])
            finished = ended is not None and ended.pending == 0
            sessions = tuple(start.session for start in chain)
            return Run(session, sessions, chain[0].started_at, arguments, finished, running)
    return None


def _chain(scan: Scan, by_session: dict[int, list[Segment]], session: int | None) -> list[SessionStart]:
    """A session of replay and those that it resumes, oldest first, as far as they are still there."""
    chain: list[SessionStart] = []
    while session is not None and session in by_session:
        start = _start(scan, by_session[session])
        if start is None or start.session != session or start.purpose != _PURPOSE:
            break
        chain.insert(0, start)
        session = start.resumes if start.resumes is not None and start.resumes < session else None
    return chain


def _start(scan: Scan, segments: list[Segment]) -> SessionStart | None:
    """How a session began, which each of its files says."""
    return next((start for segment in segments if (start := session_start(scan, segment)) is not None), None)


def _end(scan: Scan, segments: list[Segment]) -> tuple[SessionEnd | None, bool]:
    """A session's last line, where it is an end, and whether a process still writes the session."""
    # Looked at before its last line is read: what has ended by now has written that.
    live = files.is_live(segments[-1])
    line = next(scan.lines_from_end(segments[-1]), None)
    record = scan.read(segments[-1].path, line) if line else None
    end = record if isinstance(record, SessionEnd) else None
    return end, live and end is None


class Delivered:
    """How many times each recording was delivered in some runs of replay, to be taken away one by one.

    `len` is how many are left. Memory is four bytes for each recording, and more for each fixture.
    """

    def __init__(self) -> None:
        self._counts = Numbers("I")
        self._fixtures: Counter[str] = Counter()
        self._left = 0

    @classmethod
    def of(cls, scan: Scan, sessions: Collection[int]) -> Delivered:
        """Read the attempts of these sessions.

        A recording is delivered when the handler was reached with it, whatever that made of it, and the try is
        over.
        """
        delivered = cls()
        for segment in scan.segments():
            if segment.session not in sessions:
                continue
            for line in scan.lines(segment, lines.NO_ATTEMPT):
                head = lines.attempt_head(line)
                if head is not None and not line.startswith(_REPLAYED, head.end(1)):
                    continue
                if head is not None and head[5] is not None:
                    delivered._add((int(head[2]), int(head[3])))
                    continue
                attempt = scan.read(segment.path, line)
                if isinstance(attempt, Attempt) and attempt.cause == "replay" and attempt.delivered:
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

"""What was not handed over: recordings of ended sessions that no handler was reached with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

from b24tunnel.event import code_is_one_of
from b24tunnel.journal import files, lines
from b24tunnel.journal.files import Segment
from b24tunnel.journal.marks import Marks
from b24tunnel.journal.scan import Scan
from b24tunnel.recording import Attempt, Recording, SessionEnd, SessionStart, parse_id, with_query

# The bit that `Owed.read` sets.
DELIVERED = 1
# A file's time may be coarser than a record's.
_SECONDS_OF_DOUBT = 2.0


@dataclass(frozen=True)
class Debt:
    """A recording that some handler has not got: its id, code and request target, and where it was delivered."""

    id: str
    code: str | None
    target: str
    reached: tuple[str, ...]

    def is_open_at(self, url: str) -> bool:
        """Whether the handler at this URL has not got it."""
        return with_query(url, self.target) not in self.reached


def debts(scan: Scan) -> Iterator[Debt]:
    """These recordings, in the order in which they came."""
    owed = Owed(scan, Marks())
    if not owed.sessions:
        return
    for segment in scan.segments():
        owed.read(segment)
    for document in scan.documents(s for s in scan.segments() if s.session in owed.sessions):
        if not owed.may_include(document.place):
            continue
        if document.recording is not None and (debt := owed.debt(document.recording)) is not None:
            yield debt


class Owed:
    """Which recordings of ended sessions some handler has not got that was to get them; `read` all segments first.

    Memory is about a byte for each recording, and more for those of sessions with several handlers.
    """

    def __init__(self, scan: Scan, marks: Marks) -> None:
        """``marks`` may be used for other bits than `DELIVERED` too."""
        self._scan = scan
        self._marks = marks
        self.sessions = _waiting_sessions(scan)
        self._reached: dict[tuple[int, int], tuple[str, ...]] = {}

    def read(self, segment: Segment) -> None:
        """Take note of the attempts in this segment."""
        if not self._may_matter(segment):
            return
        for line in self._scan.lines(segment, lines.NO_ATTEMPT):
            head = lines.attempt_head(line)
            if head is not None:
                if not line.startswith(lines.HANDING_OVER, head.end(1)):
                    continue
                place = int(head[2]), int(head[3])
                if head[5] is not None and not self._has_routes(place[0]):
                    self._marks[place] |= DELIVERED
                    continue
            attempt = self._scan.read(segment.path, line)
            if not isinstance(attempt, Attempt) or not attempt.hands_over or not attempt.delivered:
                continue
            if (named := parse_id(attempt.recording)) is not None:
                if self._has_routes(named[0]):
                    self._reached[named] = (*self._reached.get(named, ()), attempt.target)
                else:
                    self._marks[named] |= DELIVERED

    def may_include(self, place: tuple[int, int] | None) -> bool:
        """Whether the recording with this session and number may be one of them."""
        return place is None or (place[0] in self.sessions and not self._marks[place] & DELIVERED)

    def debt(self, recording: Recording) -> Debt | None:
        """What of it is owed; None where nothing is."""
        start = self.sessions.get(recording.session)
        place = parse_id(recording.id)
        if start is None or not recording.to_be_forwarded or not self.may_include(place):
            return None
        reached = self._reached.get(place, ()) if place else ()
        debt = Debt(recording.id, recording.code, recording.target, reached)
        if start.routes and not any(
            code_is_one_of(recording.code, events) and debt.is_open_at(url) for url, events in start.routes
        ):
            return None
        return debt

    def _has_routes(self, session: int) -> bool:
        start = self.sessions.get(session)
        return start is not None and bool(start.routes)

    def _may_matter(self, segment: Segment) -> bool:
        """Whether a segment may hold attempts with recordings of the sessions that wait.

        One of an earlier session does where that session still ran when the first of them began.
        """
        if not self.sessions:
            return False
        earliest = min(start.started_at for start in self.sessions.values()).timestamp()
        return segment.session >= min(self.sessions) or (
            files.changed_at(segment.path) >= earliest - _SECONDS_OF_DOUBT
        )


def _waiting_sessions(scan: Scan) -> dict[int, SessionStart]:
    """Sessions that may hold such recordings, and how each began.

    Sessions that still run, only recorded, or ended with nothing pending have none.
    """
    found = {}
    for session, grouped in groupby(scan.segments(), key=attrgetter("session")):
        own = list(grouped)
        start = session_start(scan, own[0])
        if start is None or start.forward is None:
            continue
        if not _ended_with_nothing_pending(scan, own[-1]) and not files.is_live(own[-1]):
            found[session] = start
    return found


def session_start(scan: Scan, segment: Segment) -> SessionStart | None:
    """The first line of a segment, where it is a session's."""
    line = next(scan.lines(segment), None)
    record = scan.read(segment.path, line) if line else None
    return record if isinstance(record, SessionStart) else None


def _ended_with_nothing_pending(scan: Scan, segment: Segment) -> bool:
    line = next(scan.lines_from_end(segment), None)
    record = scan.read(segment.path, line) if line else None
    return isinstance(record, SessionEnd) and record.pending == 0

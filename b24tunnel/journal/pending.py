"""What was not handed over: recordings of ended sessions that no handler was reached with."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from operator import attrgetter

from b24tunnel.journal import files, lines
from b24tunnel.journal.files import Segment
from b24tunnel.journal.marks import Marks
from b24tunnel.journal.scan import Scan
from b24tunnel.recording import Attempt, SessionEnd, SessionStart, parse_id

# The bit that `mark_delivered` sets.
DELIVERED = 1
# A file's time may be coarser than a record's.
_SECONDS_OF_DOUBT = 2.0


def pending(scan: Scan) -> Iterator[str]:
    """The ids of those recordings, in the order in which they came."""
    waiting = waiting_sessions(scan)
    if not waiting:
        return
    delivered = Marks()
    for segment in scan.segments():
        if may_have_delivered(segment, waiting):
            mark_delivered(scan, segment, delivered)
    for document in scan.documents(s for s in scan.segments() if s.session in waiting):
        place = document.place
        if (place is None or not delivered[place] & DELIVERED) and document.recording is not None:
            yield document.recording.id


def waiting_sessions(scan: Scan) -> dict[int, float]:
    """Sessions that may hold such recordings, and when each began (seconds since 1970).

    Sessions that still run, only recorded, or ended with nothing pending have none.
    """
    found = {}
    for session, grouped in groupby(scan.segments(), key=attrgetter("session")):
        own = list(grouped)
        start = session_start(scan, own[0])
        if start is None or start.forward is None:
            continue
        if not _ended_with_nothing_pending(scan, own[-1]) and not files.is_live(own[-1]):
            found[session] = start.started_at.timestamp()
    return found


def may_have_delivered(segment: Segment, waiting: dict[int, float]) -> bool:
    """Whether a segment may hold attempts with recordings of the sessions that wait.

    One of an earlier session does where that session still ran when the first of them began.
    """
    if not waiting:
        return False
    return segment.session >= min(waiting) or (
        files.changed_at(segment.path) >= min(waiting.values()) - _SECONDS_OF_DOUBT
    )


def mark_delivered(scan: Scan, segment: Segment, delivered: Marks) -> None:
    """Mark the recordings that a handler was reached with by the attempts in this segment."""
    for line in scan.lines(segment, lines.NO_ATTEMPT):
        head = lines.attempt_head(line)
        if head is not None and head[5] is not None:
            delivered[int(head[2]), int(head[3])] |= DELIVERED
        elif isinstance(attempt := scan.read(segment.path, line), Attempt) and attempt.delivered:
            place = parse_id(attempt.recording)
            if place is not None:
                delivered[place] |= DELIVERED


def session_start(scan: Scan, segment: Segment) -> SessionStart | None:
    """The first line of a segment, where it is a session's."""
    line = next(scan.lines(segment), None)
    record = scan.read(segment.path, line) if line else None
    return record if isinstance(record, SessionStart) else None


def _ended_with_nothing_pending(scan: Scan, segment: Segment) -> bool:
    line = next(scan.lines_from_end(segment), None)
    record = scan.read(segment.path, line) if line else None
    return isinstance(record, SessionEnd) and record.pending == 0

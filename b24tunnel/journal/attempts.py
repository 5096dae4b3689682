"""The attempts made with chosen recordings: where they may be, and the order in which they were made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from b24tunnel.journal import files, lines
from b24tunnel.journal.files import Segment
from b24tunnel.journal.scan import Scan
from b24tunnel.recording import Attempt, Recording, parse_id

# A file's time may be coarser than a record's.
_SECONDS_OF_DOUBT = 2.0


class History(NamedTuple):
    """A recording and the attempts made with it, oldest first."""

    recording: Recording
    attempts: tuple[Attempt, ...]


def attempts_with(
    scan: Scan, recording_id: str, counts: Callable[[int], bool] = lambda session: True
) -> list[Attempt]:
    """All attempts with this recording, or those of sessions that count; every file of these is looked at."""
    found = _Found((recording_id,))
    for segment in scan.segments():
        if not counts(segment.session):
            continue
        found.add_all(segment.session, _attempts(scan, segment, found.ids))
    return found.of(recording_id)


def histories(scan: Scan, recordings: Sequence[Recording]) -> list[History]:
    """Recordings of this journal with their attempts, in the order given.

    Read is only what may hold some: from the oldest of the recordings on, and what earlier sessions that still
    ran then have written.
    """
    if not recordings:
        return []
    found = _Found(recording.id for recording in recordings)
    oldest = min(recordings, key=lambda recording: parse_id(recording.id) or (0, 0))
    earliest = min(recording.received_at for recording in recordings)
    segments = scan.segments()
    for segment in segments:
        if segment.session < oldest.session:
            if files.changed_at(segment.path) >= earliest.timestamp() - _SECONDS_OF_DOUBT:
                found.add_all(segment.session, _attempts(scan, segment, found.ids))
        elif segment.session > oldest.session:
            found.add_all(segment.session, _attempts(scan, segment, found.ids))
    own = [segment for segment in segments if segment.session == oldest.session]
    # What the session wrote before it concerns none of them, unless another of them was received still earlier.
    stop_at = oldest.id if oldest.received_at == earliest else None
    found.add_all(oldest.session, reversed(list(_attempts_from_end(scan, own, found.ids, stop_at))))
    return [History(recording, tuple(found.of(recording.id))) for recording in recordings]


def in_order(by_session: Iterable[Sequence[Attempt]]) -> list[Attempt]:
    """The attempts with one recording as they followed each other, the last one last.

    ``by_session`` has them as each session wrote them. That order stands, also where the clock was set back
    meanwhile; between sessions, which may run at the same time, the clock decides.
    """
    timed: list[tuple[datetime, Attempt]] = []
    for attempts in by_session:
        latest: datetime | None = None
        for attempt in attempts:
            latest = attempt.started_at if latest is None else max(latest, attempt.started_at)
            timed.append((latest, attempt))
    timed.sort(key=lambda one: one[0])
    return [attempt for _, attempt in timed]


class _Found:
    """Attempts with certain recordings, by recording and session."""

    def __init__(self, ids: Iterable[str]) -> None:
        self._by_id: dict[str, dict[int, list[Attempt]]] = {recording_id: {} for recording_id in ids}
        self.ids = frozenset(recording_id.encode("utf-8", "surrogateescape") for recording_id in self._by_id)

    def add_all(self, session: int, attempts: Iterable[Attempt]) -> None:
        for attempt in attempts:
            if (sessions := self._by_id.get(attempt.recording)) is not None:
                sessions.setdefault(session, []).append(attempt)

    def of(self, recording_id: str) -> list[Attempt]:
        return in_order(attempts for _, attempts in sorted(self._by_id[recording_id].items()))


def _attempts(scan: Scan, segment: Segment, ids: frozenset[bytes]) -> Iterator[Attempt]:
    """A segment's attempts with these recordings, and maybe some with others."""
    for line in scan.lines(segment, lines.NO_ATTEMPT):
        if _may_concern(line, ids) and isinstance(record := scan.read(segment.path, line), Attempt):
            yield record


def _attempts_from_end(
    scan: Scan, segments: list[Segment], ids: frozenset[bytes], stop_at: str | None
) -> Iterator[Attempt]:
    """The same of a session, last first, up to the recording ``stop_at``."""
    head = lines.head_of_recording(stop_at) if stop_at is not None else None
    for segment in reversed(segments):
        for line in scan.lines_from_end(segment, lines.NO_RECORDING_OR_ATTEMPT):
            if line.startswith(lines.RECORDING):
                if head is not None and line.startswith(head):
                    return
            elif _may_concern(line, ids) and isinstance(record := scan.read(segment.path, line), Attempt):
                yield record


def _may_concern(line: bytes, ids: frozenset[bytes]) -> bool:
    """Whether a line may be an attempt with one of these recordings."""
    named = lines.attempted_id(line)
    return named is None or named in ids

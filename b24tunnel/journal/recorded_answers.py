"""What handlers answered to very many recordings: where that stands in the journal, read when asked for."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Collection, Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

from b24tunnel.journal import attempts as gathering
from b24tunnel.journal import files, lines
from b24tunnel.journal.files import Segment
from b24tunnel.journal.numbers import Numbers
from b24tunnel.journal.scan import Scan
from b24tunnel.recording import Attempt, Recording, UnreadableRecord, from_line, parse_id

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

# A position is 0 for none, else from the lowest bit: whether it was forwarded; the offset in its file; the file's
# place in the list, from 1.
_OFFSET_BITS = 40
_LARGEST_OFFSET = (1 << _OFFSET_BITS) - 1
_FILE_SHIFT = _OFFSET_BITS + 1
# Enough for the sessions that ran at the same time.
_MOST_OPEN = 8
_BLOCK = 1 << 16
_READINGS = 3


def recorded_answer(attempts: Iterable[Attempt], before: datetime | None = None) -> Attempt | None:
    """The one of a recording's attempts, oldest first, whose answer a later one is compared with.

    That is the last ``forward`` that was answered, or without one the first ``replay`` that was: the second replay
    to a broken handler is not to be compared with what it broke. Only what began before ``before`` counts, and
    nothing that hands no recording over (`Attempt.hands_over`).
    """
    found: Attempt | None = None
    for attempt in attempts:
        if attempt.status is None or (before is not None and attempt.started_at >= before):
            continue
        if attempt.cause == "forward" or (attempt.hands_over and found is None):
            found = attempt
    return found


class RecordedAnswers:
    """The recorded answers (see `recorded_answer`) of a journal as it was when this was made.

    Making it reads all attempts. What is written afterwards does not count: of sessions that begin later nothing
    does, and of those that were running the clock decides where a prune makes it necessary to read them again.
    Memory is eight bytes for each recording, and as much again while it is made; the answers stay on disk. Use it
    from one thread at a time, and `close` it.
    """

    def __init__(self, scan: Scan, before: datetime | None = None, without: Collection[int] = ()) -> None:
        """Raises `JournalUnreadable`. ``before`` is aware; the sessions ``without`` are left out."""
        self._scan = scan
        self._before = before
        self._without = frozenset(without)
        self._newest = max((segment.session for segment in scan.segments()), default=0)
        self._files = _Files()
        self._positions = Numbers("Q")
        self._read_all()

    def __enter__(self) -> RecordedAnswers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files that are open. It may be asked on, and closed again."""
        self._files.close()

    def to(self, recording: Recording) -> Attempt | None:
        """The recorded answer to this recording; None where there is none, as to a fixture.

        Quick in the order of the journal. Raises `JournalUnreadable`.
        """
        place = parse_id(recording.id)
        if place is None:
            return None
        for _ in range(_READINGS):
            position = self._positions[place]
            if not position:
                return None
            line = self._files.line_at(position)
            if line is not None and (attempt := _answered(line, recording.id)) is not None:
                return attempt
            if line is not None and self._files.is_as_it_was(position):
                break  # the line is spoiled behind its head
            # A prune has put another file in the place of this one: from now on nothing stands where it stood.
            self._before = self._before or self._made_at
            self._read_all()
        return recorded_answer(gathering.attempts_with(self._scan, recording.id, self._counts), self._before)

    def _counts(self, session: int) -> bool:
        return session <= self._newest and session not in self._without

    def _read_all(self) -> None:
        self._made_at = datetime.now(UTC)
        self._files.close()
        self._files = _Files()
        self._positions = Numbers("Q")
        building = _Building(self._scan, self._files, self._positions, self._before)
        for segment in self._scan.segments():
            if self._counts(segment.session):
                building.read(segment)


class _Building:
    """One reading of all attempts, in the order of the files, that fills in the positions.

    Within a session that order stands; between sessions the clock decides, as `gathering.in_order` says. So of
    an attempt it matters whether it is later than those of earlier sessions with the same recording, and that is
    looked up only where sessions ran at the same time, or the clock was set back. Lines that we wrote are taken at
    the word of their heads.
    """

    def __init__(self, scan: Scan, opened: _Files, positions: Numbers, before: datetime | None) -> None:
        self._scan = scan
        self._files = opened
        self._positions = positions
        self._before = None if before is None else (before - _EPOCH) // _MICROSECOND
        self._session = 0
        self._first_of_session = 0  # what the positions of this session are not below
        self._latest = self._latest_before = -1  # of all sessions so far, and of those before this one
        self._moments = Numbers("Q")  # the latest attempt with each recording in this session
        self._ordered_as: dict[tuple[int, int], int] = {}  # moments of positions where it is not their own

    def read(self, segment: Segment) -> None:
        """Take note of the attempts in this segment."""
        if self._scan.is_later(segment.path):
            return
        with files.reading(segment.path), segment.path.open("rb", buffering=files.BUFFER) as file:
            number = self._files.add(segment.path, file)
            base = number << _FILE_SHIFT
            if segment.session != self._session:
                self._session = segment.session
                self._first_of_session = base
                self._latest_before = self._latest
                self._moments = Numbers("Q")
            end = 0
            for line in file:
                offset = end
                if not line.endswith(b"\n") or offset > _LARGEST_OFFSET:
                    break
                end += len(line)
                if not line.startswith(lines.NO_ATTEMPT):
                    self._note(segment.path, base | offset << 1, line)
            self._files.ends_at(number, end)

    def _note(self, path: Path, position: int, line: bytes) -> None:
        head = lines.attempt_head(line)
        moment = lines.microseconds(head[4]) if head is not None else None
        if head is not None and moment is not None:
            place = int(head[2]), int(head[3])
            answered = head[5] is not None
            forwarded = line.startswith(lines.FORWARDED, head.end(1))
            counts = forwarded or line.startswith(lines.REPLAYED, head.end(1))
        else:
            attempt = self._scan.read(path, line)
            named = parse_id(attempt.recording) if isinstance(attempt, Attempt) else None
            if not isinstance(attempt, Attempt) or named is None:
                return
            place = named
            moment = (attempt.started_at - _EPOCH) // _MICROSECOND
            answered = attempt.status is not None
            forwarded = attempt.cause == "forward"
            counts = attempt.hands_over
        ordered_as = max(moment, self._moments[place])
        self._moments[place] = ordered_as
        if ordered_as > self._latest:
            self._latest = ordered_as
        if not (answered and counts) or (self._before is not None and moment >= self._before):
            return
        position |= forwarded
        if self._is_better(place, position, ordered_as):
            self._positions[place] = position
            if ordered_as != moment:
                self._ordered_as[place] = ordered_as
            else:
                self._ordered_as.pop(place, None)

    def _is_better(self, place: tuple[int, int], position: int, ordered_as: int) -> bool:
        """Whether this is rather the recorded answer than the one found so far."""
        found = self._positions[place]
        forwarded = bool(position & 1)
        if not found or forwarded != bool(found & 1):
            return not found or forwarded
        if found >= self._first_of_session or ordered_as > self._latest_before:
            return forwarded  # it is the later one
        other = self._ordered_as.get(place)
        if other is None:
            other = self._moment_at(found)
        return other is None or (ordered_as >= other if forwarded else ordered_as < other)

    def _moment_at(self, position: int) -> int | None:
        """When the attempt at this position began; None where it is not there any more."""
        line = self._files.line_at(position)
        if line is None:
            return None
        head = lines.attempt_head(line)
        if head is not None:
            return lines.microseconds(head[4])
        with suppress(UnreadableRecord):
            if isinstance(attempt := from_line(line), Attempt):
                return (attempt.started_at - _EPOCH) // _MICROSECOND
        return None


class _Known(NamedTuple):
    """A file as it was when it was read: which one, and where its complete lines ended."""

    path: Path
    device: int
    inode: int
    end: int


class _Files:
    """The files in which positions are; a few of them are kept open."""

    def __init__(self) -> None:
        self._known: list[_Known] = []
        self._open: OrderedDict[int, BinaryIO] = OrderedDict()

    def add(self, path: Path, file: BinaryIO) -> int:
        """Take note of a file that is about to be read; its number, from 1."""
        status = os.fstat(file.fileno())
        self._known.append(_Known(path, status.st_dev, status.st_ino, 0))
        return len(self._known)

    def ends_at(self, number: int, end: int) -> None:
        """Take note of where its lines ended."""
        self._known[number - 1] = self._known[number - 1]._replace(end=end)

    def line_at(self, position: int) -> bytes | None:
        """The line at a position; None where the file is another one now, or was removed."""
        number = position >> _FILE_SHIFT
        known = self._known[number - 1]
        with files.reading(known.path):
            file = self._open.get(number)
            if file is None:
                file = known.path.open("rb", buffering=_BLOCK)
                if not _same(known, os.fstat(file.fileno())):
                    file.close()
                    return None
                while len(self._open) >= _MOST_OPEN:
                    self._open.popitem(last=False)[1].close()
                self._open[number] = file
            else:
                self._open.move_to_end(number)
            file.seek(position >> 1 & _LARGEST_OFFSET)
            return file.readline()
        return None

    def is_as_it_was(self, position: int) -> bool:
        """Whether the file of a position is still the one that was read."""
        known = self._known[(position >> _FILE_SHIFT) - 1]
        with files.reading(known.path):
            return _same(known, known.path.stat())
        return False

    def close(self) -> None:
        """Close all that are open."""
        while self._open:
            self._open.popitem()[1].close()


def _same(known: _Known, now: os.stat_result) -> bool:
    # A file that took the place of another one may have the number of one before, but is shorter.
    return (now.st_dev, now.st_ino) == (known.device, known.inode) and now.st_size >= known.end


def _answered(line: bytes, recording_id: str) -> Attempt | None:
    """The attempt that a line is, where it is one with this recording that was answered."""
    with suppress(UnreadableRecord):
        attempt = from_line(line)
        if isinstance(attempt, Attempt) and attempt.recording == recording_id and attempt.status is not None:
            return attempt
    return None

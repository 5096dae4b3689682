"""Removing old recordings and their attempts from the journal, so that a crash leaves each file old or new."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import BinaryIO

from b24tunnel.durable import sync_directory
from b24tunnel.errors import OutsideFailure, WrongUsage
from b24tunnel.journal import files, lines
from b24tunnel.journal.files import Segment
from b24tunnel.journal.marks import Marks
from b24tunnel.journal.pending import Owed
from b24tunnel.journal.scan import Scan
from b24tunnel.journal.writing_mark import nobody_writes
from b24tunnel.recording import Attempt, Record, Recording, UnreadableRecord, from_line, parse_id

# Bits in a recording's mark beside DELIVERED.
_EXISTS = 2
_REMOVED = 4

_UNREADABLE = "it has lines that cannot be read ('b24tunnel list --check' names them)"
_IN_USE = "another process uses it"


@dataclass
class Report:
    """What was removed, or would be. ``size`` is bytes.

    ``not_forwarded``: recordings that were kept only because no handler was reached with them yet.
    ``being_written``: sessions that living processes write and that were left as they are.
    ``left_whole``: files that were left as they are, and why.
    """

    recordings: int = 0
    attempts: int = 0
    size: int = 0
    not_forwarded: int = 0
    being_written: int = 0
    left_whole: dict[Path, str] = field(default_factory=dict)


def prune(
    directory: Path, *, older_than: timedelta | None = None, keep: int | None = None, dry_run: bool = False
) -> Report:
    """Remove recordings from the journal in ``directory``, and their attempts with them.

    ``older_than``: those received longer ago; ``keep``: but never the newest that many. At least one is needed.
    Left are recordings that were not forwarded yet, what living processes write, files of a later format and
    files with unreadable lines. Memory is about a byte for each recording. Raises `WrongUsage`, and
    `OutsideFailure` when another prune is at it or the disk refuses; each file is then as before or done.
    """
    if older_than is None and keep is None:
        raise WrongUsage("Nothing says what to remove: give --older-than, --keep, or both.")
    if (older_than or timedelta()) < timedelta() or (keep or 0) < 0:
        raise WrongUsage("An age and a number of recordings to keep cannot be negative.")
    if not directory.is_dir():
        return Report()
    cutoff = None if older_than is None else datetime.now(UTC) - older_than
    with _alone(directory, dry_run):
        return _Prune(directory, cutoff, keep, dry_run).run()


@dataclass
class _Surveyed:
    """A segment that may be changed: how many recordings come before it in the journal, and how many it has."""

    segment: Segment
    before: int = 0
    recordings: int = 0
    oldest: datetime | None = None


class _Prune:
    def __init__(self, directory: Path, cutoff: datetime | None, keep: int | None, dry_run: bool) -> None:
        self._directory = directory
        self._cutoff = cutoff
        self._keep = keep
        self._dry_run = dry_run
        self._scan = Scan(directory)
        self._marks = Marks()
        self._report = Report()
        self._unknown: set[int] = set()  # sessions of which not every recording can be known
        self._sessions: dict[int, list[Segment]] = {}
        self._highest = 0
        self._owed: Owed
        self._whole: set[Path] = set()  # files of which every line was read
        self._gone: set[Path] = set()

    def run(self) -> Report:
        segments = files.segments(self._directory)
        self._sessions = {session: list(own) for session, own in groupby(segments, key=attrgetter("session"))}
        self._highest = max(self._sessions, default=0)
        # Looked at first: what ended before now has been written whole, so that the survey sees all of it.
        ended = self._ended()
        self._owed = Owed(self._scan, self._marks)
        surveyed = [one for segment in segments if (one := self._survey(segment)) is not None]
        total = sum(one.recordings for one in surveyed)
        before = 0
        for one in surveyed:
            one.before, before = before, before + one.recordings
            if one.segment.session in ended:
                self._mark(one, total)
        # First the recordings, then what came of them: an attempt that went before its recording would make it
        # one that was never forwarded, if the machine stopped between.
        again: list[Segment] = []
        for one in surveyed:
            if one.segment.session in ended:
                self._remove_from(one.segment, again)
        for segment in again:
            self._remove_from(segment, None)
        return self._report

    def _ended(self) -> set[int]:
        """The sessions that nobody writes."""
        ended = set()
        for session, own in self._sessions.items():
            if files.is_live(own[-1]):
                self._report.being_written += 1
            else:
                ended.add(session)
        return ended

    def _survey(self, segment: Segment) -> _Surveyed | None:
        """Count and mark what a segment holds; None for one of a later format."""
        if self._scan.is_later(segment.path):
            self._leave(segment, self._scan.unreadable[segment.path][0])
            return None
        one = _Surveyed(segment)
        for document in self._scan.documents([segment]):
            one.recordings += 1
            received_at = document.get("received_at")
            if received_at is not None and (one.oldest is None or received_at < one.oldest):
                one.oldest = received_at
            if (place := document.place) is not None:
                self._marks[place] |= _EXISTS
        if segment.path in self._scan.unreadable:
            self._unknown.add(segment.session)
        self._owed.read(segment)
        return one

    def _mark(self, one: _Surveyed, total: int) -> None:
        """Mark which of a segment's recordings go, if it is whole."""
        first_kept = total if self._keep is None else total - self._keep
        if one.before >= first_kept or one.oldest is None:
            return
        if self._cutoff is not None and one.oldest >= self._cutoff:
            return
        going = (array("Q"), array("Q"))
        not_forwarded = 0
        index = one.before
        with files.reading(one.segment.path):
            for record in _records(one.segment.path):
                if record is None:
                    self._leave(one.segment, _UNREADABLE)
                    return
                if not isinstance(record, Recording):
                    continue
                place = parse_id(record.id)
                old = self._cutoff is None or record.received_at < self._cutoff
                if place is not None and old and index < first_kept:
                    if self._owed.debt(record) is not None:
                        not_forwarded += 1
                    else:
                        going[0].append(place[0])
                        going[1].append(place[1])
                index += 1
        self._whole.add(one.segment.path)
        self._report.not_forwarded += not_forwarded
        for place in zip(*going, strict=True):
            self._marks[place] |= _REMOVED

    def _remove_from(self, segment: Segment, again: list[Segment] | None) -> None:
        """Remove from a segment what is marked, and attempts with recordings that are nowhere any more.

        ``again`` collects the segments with attempts whose recordings are in later sessions, which stay this time.
        """
        if segment.path in self._report.left_whole:
            return
        try:
            with segment.path.open("rb") as held:
                # As long as it is held, nobody repairs it; whoever asks whether it is written still may.
                if sys.platform != "win32" and not nobody_writes(held, shared=True):
                    self._leave(segment, _IN_USE)
                else:
                    self._remove_from_held(segment, again)
        except FileNotFoundError:
            return  # somebody removed it meanwhile
        except UnreadableRecord:
            self._leave(segment, _UNREADABLE)
        except OSError as error:
            raise _refused(segment.path, error) from error

    def _remove_from_held(self, segment: Segment, again: list[Segment] | None) -> None:
        recordings = attempts = kept = 0
        has_lines = postponed = False
        for line in files.lines_of(segment.path):
            has_lines = True
            place, is_recording = _concerns(line)
            if place is None:
                kept += is_recording is not None
            elif not self._goes(place, is_recording):
                kept += 1
            elif again is not None and place[0] > segment.session:
                kept += 1
                postponed = True
            elif is_recording:
                recordings += 1
            else:
                attempts += 1
        if postponed and again is not None:
            again.append(segment)
        # A file without a line is one whose writer is just about to mark it as its own.
        goes_whole = has_lines and kept == 0 and not self._has_to_stay(segment)
        if not (recordings or attempts or goes_whole):
            return
        if segment.path not in self._whole and not self._is_whole(segment):
            self._leave(segment, _UNREADABLE)
            return
        before = segment.path.stat().st_size
        after = 0
        if goes_whole:
            self._gone.add(segment.path)
            if not self._dry_run:
                segment.path.unlink()
                sync_directory(self._directory)
        else:
            after = self._rewrite(segment, again is None)
        self._report.recordings += recordings
        self._report.attempts += attempts
        self._report.size += before - after

    def _goes(self, place: tuple[int, int], is_recording: bool | None) -> bool:
        mark = self._marks[place]
        return bool(mark & _REMOVED) or (not is_recording and not mark & _EXISTS and place[0] not in self._unknown)

    def _has_to_stay(self, segment: Segment) -> bool:
        """Whether a file without a recording stays.

        The highest session's number must not be given out again; and as long as there is anything of a session,
        its end tells whether something of it waits.
        """
        *others, last = self._sessions[segment.session]
        if segment != last:
            return False
        return segment.session == self._highest or any(one.path not in self._gone for one in others)

    def _is_whole(self, segment: Segment) -> bool:
        """Whether each of its lines can be read."""
        return all(record is not None for record in _records(segment.path))

    def _rewrite(self, segment: Segment, all_at_once: bool) -> int:
        """Put a file without what goes in the segment's place; its size in bytes."""
        size = 0
        with contextlib.ExitStack() as stack:
            file = None if self._dry_run else stack.enter_context(_replacing(segment.path))
            for line in files.lines_of(segment.path):
                place, is_recording = _concerns(line)
                now = place is not None and (all_at_once or place[0] <= segment.session)
                if now and place is not None and self._goes(place, is_recording):
                    continue
                size += len(line)
                if file is not None:
                    file.write(line)
        return size

    def _leave(self, segment: Segment, why: str) -> None:
        """Leave a segment as it is, and with its recordings the attempts."""
        self._report.left_whole[segment.path] = why
        self._unknown.add(segment.session)
        with files.reading(segment.path):
            for document in self._scan.documents([segment]):
                if (place := document.place) is not None:
                    self._marks[place] = self._marks[place] & ~_REMOVED | _EXISTS


def _records(path: Path) -> Iterator[Record | None]:
    """The records of a file, and None for each line that is spoiled or torn."""
    with path.open("rb", buffering=files.BUFFER) as file:
        for line in file:
            try:
                yield from_line(line) if line.endswith(b"\n") else None
            except UnreadableRecord:
                yield None


def _concerns(line: bytes) -> tuple[tuple[int, int] | None, bool | None]:
    """The id that a line is about (None: no recording of a journal), and whether it is the recording itself.

    The latter is None for a session's first and last line. Raises `UnreadableRecord`.
    """
    if (named := lines.named_id(line)) is not None:
        return (int(named[2]), int(named[3])), line.startswith(lines.RECORDING)
    if line.startswith(lines.NO_RECORDING_OR_ATTEMPT):
        return None, None
    record = from_line(line)
    if isinstance(record, Recording):
        return parse_id(record.id), True
    if isinstance(record, Attempt):
        return parse_id(record.recording), False
    return None, None


@contextlib.contextmanager
def _alone(directory: Path, dry_run: bool) -> Iterator[None]:
    """Keep other prunes away, and remove what one that was killed has left."""
    try:
        descriptor = os.open(directory / "prune.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise _refused(directory, error) from error
    with os.fdopen(descriptor, "r+b") as lock:
        if sys.platform != "win32" and not nobody_writes(lock):
            raise OutsideFailure(f"Another prune of {directory} is under way: wait until it has ended.")
        try:
            for left in () if dry_run else directory.glob("session-*.pruning"):
                left.unlink(missing_ok=True)
        except OSError as error:
            raise _refused(directory, error) from error
        yield


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of another one, with its time, once it is on disk."""
    beside = path.with_suffix(".pruning")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o600)
    try:
        with os.fdopen(descriptor, "wb", buffering=files.BUFFER) as file:
            yield file
            file.flush()
            # Readers tell by its time which attempts may be in it.
            changed = path.stat()
            os.utime(beside, ns=(changed.st_atime_ns, changed.st_mtime_ns))
            os.fsync(file.fileno())
        beside.replace(path)
        sync_directory(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def _refused(path: Path, error: OSError) -> OutsideFailure:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    advice = "make room on that disk" if full else "check its permissions"
    return OutsideFailure(
        f"Cannot prune {path} ({error.strerror}): {advice}; what is not removed yet is as it was."
    )

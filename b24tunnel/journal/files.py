"""Where the journal's files lie, what they are called, who writes them, and the repair of a torn last line."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from b24tunnel.errors import OutsideFailure
from b24tunnel.journal import lines
from b24tunnel.journal.writing_mark import nobody_writes
from b24tunnel.recording import FORMAT_VERSION

_NAME = re.compile(r"session-([0-9]{6,9})-([0-9]{3,6})\.jsonl", re.ASCII)
_BLOCK = 1 << 16
BUFFER = 1 << 17
# A first line is short; one that goes on beyond this is no session's.
_SHORT = 1 << 10
_LONGEST_FIRST_LINE = 1 << 16
# Nothing can be written there now; readers skip an incomplete last line anyway.
_NOT_NOW = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOENT)


class JournalUnreadable(OutsideFailure):
    """The journal's directory or one of its files cannot be read."""


@dataclass(frozen=True, order=True)
class Segment:
    """One file of a session. A session has several when it grew beyond the size of one, or one failed."""

    session: int
    number: int
    path: Path


@dataclass(frozen=True)
class TornLine:
    """An incomplete last line that a crash left. It was never acknowledged; its bytes were set aside."""

    session: int
    path: Path
    size: int
    kept_in: Path | None

    def __str__(self) -> str:
        kept = f"; its bytes are kept in {self.kept_in}" if self.kept_in else ""
        return (
            f"Session {self.session} ended in the middle of a write: its last line ({self.size} bytes, never "
            f"acknowledged) was cut off {self.path}{kept}."
        )


@dataclass(frozen=True)
class LaterFormat:
    """A file that a later b24tunnel wrote: it is left alone as a whole, because its meaning is not known."""

    path: Path
    version: int

    def __str__(self) -> str:
        return f"{self.path} is skipped: {self.problem}."

    @property
    def problem(self) -> str:
        """The same without the file's name."""
        return (
            f"all of it is in journal format {self.version} and this b24tunnel reads format {FORMAT_VERSION}, "
            "so update b24tunnel to read it"
        )


def journal_directory(recordings: Path) -> Path:
    """The journal's directory below a directory of recordings."""
    return recordings / "journal"


def segment_path(directory: Path, session: int, number: int) -> Path:
    """The file of one segment; names sort as numbers do."""
    return directory / f"session-{session:06d}-{number:03d}.jsonl"


def segments(directory: Path, session: int | None = None) -> list[Segment]:
    """All segments in order, or those of one session; an absent directory has none."""
    found = []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                match = _NAME.fullmatch(entry.name)
                if match and (session is None or int(match[1]) == session):
                    found.append(Segment(int(match[1]), int(match[2]), Path(entry.path)))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise JournalUnreadable(f"Cannot read {directory} ({error.strerror}): check its permissions.") from error
    return sorted(found)


def prepare_directory(directory: Path) -> None:
    """Make the journal's directory, private to the user, with the `.gitignore` that keeps it out of git."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    ignore = directory / ".gitignore"
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(ignore, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write("# raw recordings hold live tokens\n*\n")


def is_being_written(path: Path) -> bool:
    """Whether a living process writes this segment."""
    try:
        with path.open("rb") as file:
            return not nobody_writes(file, shared=True)
    except OSError:
        return False


def is_live(last: Segment) -> bool:
    """Whether a process writes this session, also where it has gone on from its last segment to a new one."""
    if is_being_written(last.path):
        return True
    return segments(last.path.parent, last.session)[-1:] not in ([last], [])


def later_format(path: Path) -> LaterFormat | None:
    """Whether a later b24tunnel wrote this file, by its first line; None also when it was removed meanwhile."""
    with reading(path), path.open("rb", buffering=0) as file:
        return later_format_of(file, path)
    return None


def later_format_of(file: BinaryIO | io.FileIO, path: Path) -> LaterFormat | None:
    """`later_format` of an open file; it is read from its beginning."""
    file.seek(0)
    head = file.read(_SHORT) or b""
    if len(head) == _SHORT and b"\n" not in head:
        head += file.read(_LONGEST_FIRST_LINE) or b""
    version = lines.later_version(head.partition(b"\n")[0])
    return LaterFormat(path, version) if version is not None else None


def repair(segment: Segment) -> TornLine | None:
    """Cut an incomplete last line off a segment whose writer is gone; None when there is nothing to cut.

    The cut bytes are set aside in a file beside it: Bitrix24 sends an event once, and most of it may be there.
    A segment that this process may not write is left as it is; readers skip an incomplete last line anyway. So
    is one of a later format.
    """
    try:
        with segment.path.open("r+b") as file:
            if _torn_from(file) is None or later_format_of(file, segment.path) or not nobody_writes(file):
                return None
            size = file.seek(0, os.SEEK_END)
            good = _torn_from(file)  # again, now that nobody writes any more
            if good is None:
                return None
            file.seek(good)
            kept_in = segment.path.with_suffix(".torn")
            descriptor = os.open(kept_in, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as aside:
                aside.write(file.read())
                aside.flush()
                os.fsync(aside.fileno())
            file.truncate(good)
            return TornLine(segment.session, segment.path, size - good, kept_in)
    except OSError as error:
        if error.errno in _NOT_NOW:
            return None
        raise JournalUnreadable(
            f"Cannot repair the last line of {segment.path} ({error.strerror}): check the disk."
        ) from error


def lines_of(path: Path, passed_over: tuple[bytes, ...] = ()) -> Iterator[bytes]:
    """The complete lines of a file, each with its newline, but for those that begin with one of ``passed_over``.

    Memory is that of the longest line.
    """
    with path.open("rb", buffering=BUFFER) as file:
        yield from lines_in(file, passed_over)


def lines_in(file: BinaryIO, passed_over: tuple[bytes, ...] = ()) -> Iterator[bytes]:
    """`lines_of` an open file, from its beginning."""
    file.seek(0)
    for line in file:
        if line.startswith(passed_over):
            continue
        if not line.endswith(b"\n"):
            return  # being written, or torn: not acknowledged either way
        yield line


def lines_from_end(path: Path, passed_over: tuple[bytes, ...] = ()) -> Iterator[bytes]:
    """As `lines_of`, last first. Where very many lines begin with the first of ``passed_over``, that is quick."""
    with path.open("rb") as file:
        yield from lines_in_from_end(file, passed_over)


def lines_in_from_end(file: BinaryIO, passed_over: tuple[bytes, ...] = ()) -> Iterator[bytes]:
    """`lines_from_end` of an open file."""
    often = b"\n" + passed_over[0] if passed_over else b""
    end = _end_of_last_line(file, file.seek(0, os.SEEK_END))
    tail: list[bytes] = []  # pieces of the line that is being put together, last piece first
    while end > 0:
        start = max(0, end - _BLOCK)
        file.seek(start)
        block = file.read(end - start)
        end = start
        if often and _all_begin(block, often):
            tail = [block[: block.index(b"\n")]]
            continue
        pieces = block.split(b"\n")
        if len(pieces) > 1:
            tail.append(pieces.pop())
            line = b"".join(reversed(tail))
            if line and not line.startswith(passed_over):
                yield line + b"\n"
            for piece in reversed(pieces[1:]):
                if piece and not piece.startswith(passed_over):
                    yield piece + b"\n"
            tail = []
        tail.append(pieces[0])
    line = b"".join(reversed(tail))
    if line and not line.startswith(passed_over):
        yield line + b"\n"


def _all_begin(block: bytes, often: bytes) -> bool:
    """Whether each line that begins in a block begins so, of which a look at three of them often says no."""
    for start in (0, len(block) // 3, len(block) * 2 // 3):
        if not block.startswith(often, block.find(b"\n", start)):
            return False
    return block.count(often) == block.count(b"\n")


def end_of_lines(path: Path) -> int:
    """The size of a file without an incomplete last line; 0 when it was removed meanwhile."""
    try:
        with path.open("rb") as file:
            return end_of_lines_in(file)
    except FileNotFoundError:
        return 0


def end_of_lines_in(file: BinaryIO) -> int:
    """The size of an open file without an incomplete last line."""
    return _end_of_last_line(file, file.seek(0, os.SEEK_END))


def changed_at(path: Path) -> float:
    """When a file was last written to, in seconds since 1970; 0 when it was removed meanwhile."""
    with reading(path):
        return path.stat().st_mtime
    return 0.0


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns a file's failure into one sentence; a file that was removed meanwhile has nothing in it."""
    try:
        yield
    except FileNotFoundError:
        return
    except OSError as error:
        crowded = error.errno in (errno.EMFILE, errno.ENFILE)
        advice = "close other programs or raise the limit of open files" if crowded else "check its permissions"
        raise JournalUnreadable(f"Cannot read {path} ({error.strerror}): {advice}.") from error


def _torn_from(file: BinaryIO) -> int | None:
    """Where an incomplete last line begins, or None."""
    size = file.seek(0, os.SEEK_END)
    good = _end_of_last_line(file, size)
    return good if good < size else None


def _end_of_last_line(file: BinaryIO, size: int) -> int:
    """The offset after the last newline in the first ``size`` bytes."""
    end = size
    while end > 0:
        start = max(0, end - _BLOCK)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0

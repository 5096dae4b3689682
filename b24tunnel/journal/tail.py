"""Following the journal while it is written: by its own process, and by another one."""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from io import FileIO
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from b24tunnel.journal import files, lines
from b24tunnel.journal.files import LaterFormat
from b24tunnel.journal.writer import JournalWriter, Position
from b24tunnel.recording import Attempt, Record, Recording, UnreadableRecord, from_line

_CHUNK = 1 << 20
_POLL_SECONDS = 0.2
_TOO_MANY_OPEN = (errno.EMFILE, errno.ENFILE)
# So that a busy session neither hides the others nor the signal to stop.
_LINES_A_ROUND = 1000


class Tail:
    """Reads the complete lines of one session from a position on; memory is that of one chunk or one line."""

    def __init__(
        self,
        directory: Path,
        session: int,
        position: Position | None = None,
        *,
        keep_open: bool = False,
        skipped: Callable[[LaterFormat], None] = lambda later: None,
    ) -> None:
        """``keep_open``: hold the file between reads, so that reading on needs no descriptor, until `close`.

        Without it the file is held only until it was read to its end: a `prune` may put another one in its place,
        which is shorter, so that there is nothing to be read beyond that end.
        ``skipped`` is told of each segment of a later format, whose lines are not read.
        """
        self.session = session
        self.position = position or Position(1, 0)
        self._directory = directory
        self._ahead: deque[bytes] = deque()
        self._keep_open = keep_open
        self._file: FileIO | None = None
        self._open_segment = 0
        self._skipped = skipped
        self._known_segment = 0  # whose format is ours
        self._later_segment = 0  # whose format is a later one

    def close(self) -> None:
        """Close the file that is held, if any."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def next(self, limit: Position | None = None, listed: Sequence[int] | None = None) -> bytes | None:
        """The next line, or None when there is no more now; ``position`` is then behind it.

        ``limit`` is the position up to which the writer has synced; without it, all complete lines are read.
        ``listed`` are the numbers of the session's segments, where the caller has just looked at the directory.
        """
        if not self._ahead:
            self._ahead.extend(self._read(limit, listed))
        if not self._ahead:
            return None
        line = self._ahead.popleft()
        self.position = Position(self.position.segment, self.position.offset + len(line))
        return line

    def _read(self, limit: Position | None, listed: Sequence[int] | None) -> list[bytes]:
        """The lines from the position on, of one segment, at most about a mebibyte of them."""
        while limit is None or self.position < limit:
            # Looked for before reading: what is read then is all that its writer put into this segment.
            following = self._following(limit, listed)
            lines = self._read_segment(limit)
            if lines or following is None:
                return lines
            self.position = Position(following, 0)
        return []

    def _following(self, limit: Position | None, listed: Sequence[int] | None) -> int | None:
        if limit is not None and limit.segment == self.position.segment:
            return None
        if listed is None:
            listed = [segment.number for segment in files.segments(self._directory, self.session)]
        return min((number for number in listed if number > self.position.segment), default=None)

    def _read_segment(self, limit: Position | None) -> list[bytes]:
        if self._later_segment == self.position.segment:
            return []
        path = files.segment_path(self._directory, self.session, self.position.segment)
        bound = limit.offset if limit is not None and limit.segment == self.position.segment else None
        data, at_end = b"", True
        with files.reading(path):
            file = self._opened(path)
            file.seek(self.position.offset)
            room = _CHUNK if bound is None else min(_CHUNK, bound - self.position.offset)
            data = file.read(room)
            at_end = len(data) < room or bound is not None
            data = _whole_lines(data, file)
            if data and self._is_later(file, path):
                data, at_end = b"", True
        if at_end and not self._keep_open:
            self.close()
        return [line + b"\n" for line in data[:-1].split(b"\n")] if data else []

    def _is_later(self, file: FileIO, path: Path) -> bool:
        if self._known_segment == self.position.segment:
            return False
        later = files.later_format_of(file, path)
        if later is None:
            self._known_segment = self.position.segment
            return False
        self._later_segment = self.position.segment
        self._skipped(later)
        return True

    def _opened(self, path: Path) -> FileIO:
        if self._file is None or self._open_segment != self.position.segment:
            self.close()
            # Without a buffer, which would keep what a writer cuts off again when it could not finish it.
            self._file = path.open("rb", buffering=0)
            self._open_segment = self.position.segment
        return self._file


def _whole_lines(data: bytes, file: FileIO) -> bytes:
    """``data`` up to the end of its last line; where it has none, with what follows up to the end of one."""
    pieces = [data]
    while pieces[-1] and b"\n" not in pieces[-1]:
        pieces.append(file.read(_CHUNK))
    pieces[-1] = pieces[-1][: pieces[-1].rfind(b"\n") + 1]
    return b"".join(pieces) if pieces[-1] else b""


async def _at_once() -> None:
    """For whoever takes records as fast as they come."""


async def follow(
    writer: JournalWriter, tail: Tail | None = None, room: Callable[[], Awaitable[None]] = _at_once
) -> AsyncIterator[Record]:
    """The records of a running session as they reach the disk, from its beginning or where ``tail`` stands.

    For the process that writes the session. It never ends by itself. Cancelled, it has lost nothing: ``tail``
    stands behind the last record that was given out. ``room`` is awaited before each record is taken.
    """
    tail = tail or Tail(writer.directory, writer.session, keep_open=True)
    try:
        while True:
            changed = writer.changed()
            try:
                await room()
                while (line := tail.next(writer.synced)) is not None:
                    yield from_line(line)
                    await room()
            except files.JournalUnreadable as error:
                if not (isinstance(error.__cause__, OSError) and error.__cause__.errno in _TOO_MANY_OPEN):
                    raise
                await asyncio.sleep(_POLL_SECONDS)  # others' connections hold the descriptors; they end
                continue
            await changed.wait()
    finally:
        tail.close()


def rest(writer: JournalWriter, tail: Tail) -> Iterator[Record]:
    """The records between where ``tail`` stands and what is on disk now."""
    while (line := tail.next(writer.synced)) is not None:
        yield from_line(line)


def rest_unread(writer: JournalWriter, tail: Tail) -> Iterator[Record | None]:
    """As `rest`, for who counts recordings without looking at them: each is a None, and its line is not parsed."""
    while (line := tail.next(writer.synced)) is not None:
        yield None if line.startswith(lines.RECORDING) else from_line(line)


async def follow_directory(
    directory: Path, skipped: Callable[[LaterFormat], None] = lambda later: None
) -> AsyncIterator[Recording | Attempt]:
    """Recordings and attempts of all sessions as other processes write them, from now on.

    ``skipped`` is told of each file that a later b24tunnel writes, which is not read.

    Files of other processes give no signal that works everywhere, so they are looked at five times a second.
    """
    tails: dict[int, Tail] = {}
    for segment in files.segments(directory):
        end = Position(segment.number, files.end_of_lines(segment.path))
        tails[segment.session] = Tail(directory, segment.session, end, skipped=skipped)
    try:
        async with aclosing(_in_rounds(directory, tails, skipped)) as records:
            async for record in records:
                yield record
    finally:
        for tail in tails.values():
            tail.close()


async def _in_rounds(
    directory: Path, tails: dict[int, Tail], skipped: Callable[[LaterFormat], None]
) -> AsyncGenerator[Recording | Attempt, None]:
    while True:
        quiet = True
        for session, own in groupby(files.segments(directory), key=attrgetter("session")):
            tail = tails.setdefault(session, Tail(directory, session, skipped=skipped))
            numbers = [segment.number for segment in own]
            for _ in range(_LINES_A_ROUND):
                if (line := tail.next(listed=numbers)) is None:
                    break
                quiet = False
                try:
                    record = from_line(line)
                except UnreadableRecord:
                    continue  # `list` counts and names them
                if isinstance(record, Recording | Attempt):
                    yield record
        await asyncio.sleep(_POLL_SECONDS if quiet else 0)

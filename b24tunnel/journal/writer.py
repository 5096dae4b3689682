"""Appending to the journal: one thread, one write and one sync for all records that wait (group commit)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import queue
import threading
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from b24tunnel.durable import sync_directory
from b24tunnel.errors import OutsideFailure, WrongUsage
from b24tunnel.journal import files
from b24tunnel.journal.writing_mark import mark_as_written
from b24tunnel.recording import (
    LONGEST_COMMAND_LINE,
    Record,
    SessionEnd,
    SessionStart,
    command_line_length,
    to_line,
)
from b24tunnel.through import Through

SEGMENT_BYTES = 256 * 1024 * 1024
_FIRST_SESSIONS_TO_TRY = 1000
_COLLECT_SECONDS = 0.01
_MOST_COLLECTED = 1000

# A line, and what tells that it is on disk.
_Waiting = tuple[bytes, "asyncio.Future[None]"]

# macOS's fsync leaves data in the drive's cache and it has no fdatasync
_sync = getattr(os, "fdatasync", os.fsync)


class JournalUnwritable(OutsideFailure):
    """A record could not be made durable: disk full, no permission, a failing disk."""


@dataclass(frozen=True, order=True)
class Position:
    """A place in a session: the number of the segment and the offset in bytes within it."""

    segment: int
    offset: int


class JournalWriter:
    """The one writer of a session's files. Use it from one event loop.

    `append` returns when the record is on disk. Records appended while a sync is under way share the next one.
    """

    def __init__(
        self,
        recordings: Path,
        *,
        forward: str | None = None,
        routes: tuple[tuple[str, tuple[str, ...]], ...] = (),
        purpose: str = "listen",
        arguments: tuple[str, ...] = (),
        resumes: int | None = None,
        through: Through | None = None,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        """Claim a new session under ``recordings`` and write its first line; raises `JournalUnwritable`.

        ``forward`` is where the session forwards to; a session without it is never offered for forwarding. For
        ``routes``, ``arguments``, ``resumes`` and ``through`` see `SessionStart`. Raises `WrongUsage` for
        arguments that no system takes as a command line.
        """
        if command_line_length(arguments) > LONGEST_COMMAND_LINE:
            raise WrongUsage(
                f"The command line of a replay is noted for --resume and may have {LONGEST_COMMAND_LINE:,} "
                f"characters, not {command_line_length(arguments):,}: name fewer recordings."
            )
        self.directory = files.journal_directory(recordings)
        self._segment_bytes = segment_bytes
        self._number = 0
        self._descriptor: int | None = None
        self._size = 0
        self._trusted = False
        self._closed = False
        try:
            files.prepare_directory(self.directory)
            self._start = self._claim(
                SessionStart(0, datetime.now(UTC), forward, purpose, routes, arguments, resumes, through)
            )
        except OSError as error:
            raise _unwritable(self.directory, error) from error
        self.session = self._start.session
        self.synced = Position(self._segment, self._size)
        self._changed = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        # Collected in the event loop, because each hand-over wakes the thread.
        self._collected: list[_Waiting] = []
        self._passing_on: asyncio.TimerHandle | None = None
        self._waiting: queue.SimpleQueue[list[_Waiting] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"journal-{self.session}", daemon=True)
        self._thread.start()

    def next_id(self) -> str:
        """The id of the next recording. An id whose write fails is not used again."""
        self._number += 1
        return f"{self.session}-{self._number}"

    async def append(self, record: Record) -> None:
        """Write ``record`` and return when it is on disk; raises `JournalUnwritable` when it is not.

        A cancelled caller does not stop the write. The next call tries again after a failure.
        """
        await self.hand_in(record)

    def hand_in(self, record: Record, *, urgent: bool = True) -> asyncio.Future[None]:
        """`append` for who goes on meanwhile: the future is done when the record is on disk, or was not written.

        Records reach the disk in the order in which they are handed in. Those that are not ``urgent`` are
        collected for a hundredth of a second.
        """
        if self._closed:
            raise JournalUnwritable("The journal is closed: start a new session.")
        loop = self._loop = asyncio.get_running_loop()
        done = loop.create_future()
        self._collected.append((to_line(record), done))
        if urgent or len(self._collected) >= _MOST_COLLECTED:
            self._pass_on()
        elif self._passing_on is None:
            self._passing_on = loop.call_later(_COLLECT_SECONDS, self._pass_on)
        return done

    def _pass_on(self) -> None:
        """Hand what was collected over to the thread."""
        if self._passing_on is not None:
            self._passing_on.cancel()
            self._passing_on = None
        if self._collected:
            collected, self._collected = self._collected, []
            self._waiting.put(collected)

    def changed(self) -> asyncio.Event:
        """An event that is set when more is on disk than now. Take it before reading, wait for it after."""
        return self._changed

    async def close(self, pending: int = 0) -> None:
        """Write the session's last line, with the number of recordings not forwarded yet, and end the thread."""
        if self._closed:
            return
        try:
            await self.append(SessionEnd(pending))
        finally:
            self._closed = True
            self._pass_on()
            self._waiting.put(None)
            await asyncio.to_thread(self._thread.join)

    # -- in the constructor and in the writer's thread ---------------------------------------------------------

    def _claim(self, start: SessionStart) -> SessionStart:
        existing = files.segments(self.directory)
        session = existing[-1].session if existing else 0
        for _ in range(_FIRST_SESSIONS_TO_TRY):
            session += 1
            self._start = replace(start, session=session)
            self._segment = 0
            try:
                self._open_segment()
            except FileExistsError:
                continue  # another process took this number between the look and the creation
            return self._start
        raise OSError(errno.EEXIST, "no free session number found")

    def _open_segment(self) -> None:
        number = self._segment + 1
        path = files.segment_path(self.directory, self._start.session, number)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags, 0o600)
        try:
            mark_as_written(descriptor)
            head = to_line(self._start)
            _write_all(descriptor, head)
            _sync(descriptor)
            sync_directory(self.directory)
        except OSError:
            os.close(descriptor)
            with contextlib.suppress(OSError):
                path.unlink()
            raise
        before, self._descriptor = self._descriptor, descriptor
        self._segment, self._size, self._trusted = number, len(head), True
        # The old lock goes only now, so that the session looks alive at every moment.
        _close(before)

    def _close_segment(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        _close(descriptor)

    def _work(self) -> None:
        ending = False
        while not ending:
            batch, ending = self._next_batch()
            if batch:
                error: Exception | None
                try:
                    error = self._commit(b"".join([line for line, _ in batch]))
                except Exception as failure:  # no memory, for one: whoever waits must hear of it
                    error = failure
                position = Position(self._segment, self._size)
                assert self._loop is not None  # set by the append that filled the batch
                with contextlib.suppress(RuntimeError):  # the loop was closed under us: nobody waits any more
                    self._loop.call_soon_threadsafe(self._release, [done for _, done in batch], error, position)
        self._close_segment()

    def _next_batch(self) -> tuple[list[_Waiting], bool]:
        """All records that wait, once there is one, and whether there will be no more."""
        batch: list[_Waiting] = []
        handed_over = self._waiting.get()
        while handed_over is not None:
            batch += handed_over
            try:
                handed_over = self._waiting.get_nowait()
            except queue.Empty:
                return batch, False
        return batch, True

    def _commit(self, data: bytes) -> OSError | None:
        try:
            descriptor = self._current_segment()
        except OSError as error:
            return error
        try:
            _write_all(descriptor, data)
        except OSError as error:
            # What was written of it goes; and the next line goes into a new file, because whoever follows this
            # one may have read beyond the cut.
            self._cut_back(descriptor)
            self._trusted = False
            return error
        try:
            _sync(descriptor)
        except OSError as error:
            # After a failed sync nobody knows which of its pages are on disk: this file is not trusted again.
            self._cut_back(descriptor)
            self._trusted = False
            return error
        self._size += len(data)
        return None

    def _current_segment(self) -> int:
        descriptor = self._descriptor
        usable = descriptor is not None and self._trusted and self._size < self._segment_bytes
        if descriptor is not None and usable and os.fstat(descriptor).st_nlink > 0:
            return descriptor
        try:
            self._open_segment()
        except FileNotFoundError:  # somebody removed the directory under us
            files.prepare_directory(self.directory)
            self._open_segment()
        except FileExistsError:  # a segment that failed could not be removed
            self._segment += 1
            self._open_segment()
        assert self._descriptor is not None
        return self._descriptor

    def _cut_back(self, descriptor: int) -> None:
        with contextlib.suppress(OSError):  # then readers skip what is left of it
            os.ftruncate(descriptor, self._size)

    # -- back in the event loop --------------------------------------------------------------------------------

    def _release(self, waiting: list[asyncio.Future[None]], error: Exception | None, position: Position) -> None:
        if error is None:
            self.synced = position
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()
        for done in waiting:
            if done.done():  # its caller was cancelled
                continue
            if error is None:
                done.set_result(None)
            else:
                failure = _unwritable(self.directory, error)
                failure.__cause__ = error
                done.set_exception(failure)


def _unwritable(directory: Path, error: Exception) -> JournalUnwritable:
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    advice = "make room on that disk" if full else "check it, or choose another directory with --recordings"
    reason = (isinstance(error, OSError) and error.strerror) or type(error).__name__
    return JournalUnwritable(f"Cannot write to {directory} ({reason}): {advice}.")


def _close(descriptor: int | None) -> None:
    """Close a file whose records are all synced: whatever closing says, nothing is lost, and it is closed."""
    if descriptor is not None:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]

"""Recordings out of the journal for a run, read in a thread: the event loop has answers to wait for meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Iterator

from b24tunnel.recording import Recording

# How many are read ahead, and how large their bodies may be together. In turns with sending each costs more.
_AHEAD = 256
_BYTES_AHEAD = 1024 * 1024


class Reader:
    """Gives out what an iterator has, one by one; the iterator is only ever asked in the reader's own thread.

    Use it from one event loop. Looking for the next recording may take long where few are wanted of many; nobody
    waits for the thread at the end.
    """

    def __init__(self, recordings: Iterator[Recording]) -> None:
        self._recordings = recordings
        self._loop = asyncio.get_running_loop()
        self._read: deque[Recording] = deque()
        self._bytes_read = 0  # counted by the thread
        self._bytes_given = 0  # ... and by the event loop
        self._is_over = False
        self._failure: Exception | None = None
        self._is_waited_for = False
        self._news = asyncio.Event()
        self._has_room = threading.Event()
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="reader of recordings", daemon=True)
        self._thread.start()

    async def next(self) -> Recording | None:
        """The next one, None at the end; raises what the iterator raised, after what came before that."""
        while not self._read:
            self._news.clear()
            self._is_waited_for = True
            # What was read before the thread could see that somebody waits is not told.
            if not self._read and not self._is_over:
                await self._news.wait()
            self._is_waited_for = False
            if not self._read and self._is_over:
                if self._failure is not None:
                    raise self._failure
                return None
        recording = self._read.popleft()
        self._bytes_given += len(recording.body)
        if len(self._read) <= _AHEAD // 2 and not self._has_room.is_set():
            self._has_room.set()
        return recording

    def close(self) -> None:
        """End the thread once it has nothing under way."""
        self._is_closed = True
        self._has_room.set()

    def _work(self) -> None:
        try:
            for recording in self._recordings:
                self._bytes_read += len(recording.body)
                self._read.append(recording)
                self._tell()
                self._wait_for_room()
                if self._is_closed:
                    return
        except Exception as error:
            self._failure = error
        self._is_over = True
        self._tell()

    def _wait_for_room(self) -> None:
        while not self._is_closed and not self._may_read_on():
            self._has_room.clear()
            # What was set in between is not waited for again.
            if not self._is_closed and not self._may_read_on():
                self._has_room.wait()

    def _may_read_on(self) -> bool:
        return len(self._read) < _AHEAD and self._bytes_read - self._bytes_given < _BYTES_AHEAD

    def _tell(self) -> None:
        if self._is_waited_for:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody wants them any more
                self._loop.call_soon_threadsafe(self._news.set)

"""Recordings out of the journal for a run, read in a thread: the event loop has answers to wait for meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections import deque
from collections.abc import Iterator

from b24tunnel.recording import Recording

# How many are read at a time, and how large their bodies may be together.
_AT_A_TIME = 64
_BYTES_AT_A_TIME = 1024 * 1024


class Reader:
    """Gives out what an iterator has, one by one; the iterator is only ever asked in the reader's own thread.

    Use it from one event loop. Looking for the next recording may take long where few are wanted of many; nobody
    waits for the thread at the end.
    """

    def __init__(self, recordings: Iterator[Recording]) -> None:
        self._recordings = recordings
        self._loop = asyncio.get_running_loop()
        self._read: deque[Recording] = deque()
        self._news = asyncio.Event()
        self._is_asked = False
        self._is_over = False
        self._failure: Exception | None = None
        self._asked: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="reader of recordings", daemon=True)
        self._thread.start()

    async def next(self) -> Recording | None:
        """The next one, None at the end; raises what the iterator raised, after what came before that."""
        while not self._read:
            if self._failure is not None:
                raise self._failure
            if self._is_over:
                return None
            self._ask()
            self._news.clear()
            await self._news.wait()
        if len(self._read) <= _AT_A_TIME // 2:
            self._ask()
        return self._read.popleft()

    def close(self) -> None:
        """End the thread once it has nothing under way."""
        self._asked.put(False)

    def _ask(self) -> None:
        if not self._is_asked and not self._is_over:
            self._is_asked = True
            self._asked.put(True)

    def _work(self) -> None:
        while self._asked.get():
            some: list[Recording] = []
            size = 0
            is_over, failure = False, None
            try:
                for recording in self._recordings:
                    some.append(recording)
                    size += len(recording.body)
                    if len(some) == _AT_A_TIME or size > _BYTES_AT_A_TIME:
                        break
                else:
                    is_over = True
            except Exception as error:
                is_over, failure = True, error
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody wants them any more
                self._loop.call_soon_threadsafe(self._take, some, is_over, failure)

    def _take(self, some: list[Recording], is_over: bool, failure: Exception | None) -> None:
        self._read.extend(some)
        self._is_asked, self._is_over, self._failure = False, is_over, failure
        self._news.set()

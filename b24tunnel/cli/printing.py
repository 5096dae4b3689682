"""Printing beside the event loop: a reader who is slow, or has stopped reading, holds nothing up."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import Callable
from functools import partial

_MOST_WAITING = 200
_LAST_LINES_SECONDS = 1.0


class Printer:
    """Calls what it is given one after the other in a thread of its own, for printing.

    Use it from one event loop. ``on_failure`` is called there, once, when the output cannot be written to.
    """

    def __init__(self, on_failure: Callable[[OSError], None]) -> None:
        self._on_failure = on_failure
        self._loop = asyncio.get_running_loop()
        self._printed = 0
        self._waiting: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._room = asyncio.Event()
        self._room.set()
        self._thread = threading.Thread(target=self._work, name="printer", daemon=True)
        self._thread.start()

    def put(self, print_it: Callable[[], None]) -> None:
        """Print when what came before is printed. Await `room` before, where much may come."""
        self._waiting.put(print_it)
        if self._waiting.qsize() >= _MOST_WAITING:
            self._room.clear()

    async def room(self) -> None:
        """Return when little enough waits to be printed."""
        await self._room.wait()

    @property
    def has_room(self) -> bool:
        """Whether little enough waits to be printed, for lines that may also be left out."""
        return self._room.is_set()

    def finish(self, exit_code: int) -> None:
        """Print the rest. Whoever stopped reading without closing is not waited for: the process ends."""
        if not self.drain():
            os._exit(exit_code)

    def drain(self, *, patient: bool = False) -> bool:
        """Print the rest, and give whether all of it was printed: somebody may have stopped reading.

        A reader who is slow is waited for; one who has not taken a line for a while only where ``patient``. After
        False nothing can be printed any more, and the process has to be ended with `os._exit`.
        """
        self._waiting.put(None)
        printed = -1
        while self._thread.is_alive() and (patient or printed != self._printed):
            printed = self._printed
            self._thread.join(_LAST_LINES_SECONDS)
        return not self._thread.is_alive()

    def _work(self) -> None:
        failed = False
        while (print_it := self._waiting.get()) is not None:
            self._printed += 1
            try:
                print_it()
            except OSError as error:
                if not failed:
                    failed = True
                    self._in_loop(partial(self._on_failure, error))
            if self._waiting.qsize() < _MOST_WAITING // 2:
                self._in_loop(self._room.set)

    def _in_loop(self, call: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:
            return  # the loop has ended, and with it whoever would want to know

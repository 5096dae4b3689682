"""Work in the event loop that can wait: while there is other work, it leaves nearly all of the time to that."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

_WORK_SECONDS = 0.001
_REST_SECONDS = 0.009


class Unhurried:
    """Await `pause` between small pieces of work: together they take a tenth of a busy loop's time."""

    def __init__(self, sign_of_work: Callable[[], object]) -> None:
        """``sign_of_work`` returns what differs from before when other work was done meanwhile."""
        self._sign_of_work = sign_of_work
        self._seen: object = None
        self._since = time.monotonic()

    async def pause(self) -> None:
        """Rest, when there has been work for long enough."""
        if time.monotonic() - self._since < _WORK_SECONDS:
            return
        now = self._sign_of_work()
        busy, self._seen = now != self._seen, now
        await asyncio.sleep(_REST_SECONDS if busy else 0)
        self._since = time.monotonic()

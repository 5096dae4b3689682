"""Work in the event loop that can wait: the more other work there is, the more of the time it leaves to that."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

_WORK_SECONDS = 0.001
# For each thing that was done elsewhere since the last rest; a loop can do some ten thousand a second.
_REST_SECONDS = 0.0001
_LONGEST_REST = 0.05


class Unhurried:
    """Await `pause` between small pieces of work: together they take a fiftieth of a saturated loop's time.

    Where little else is done they take as much as they need, and still let others in every millisecond.
    """

    def __init__(self, done_elsewhere: Callable[[], int]) -> None:
        """``done_elsewhere`` counts what else the loop has done."""
        self._done_elsewhere = done_elsewhere
        self._done = done_elsewhere()
        self._since = time.monotonic()

    async def pause(self) -> None:
        """Rest, when there has been work for long enough."""
        if time.monotonic() - self._since < _WORK_SECONDS:
            return
        done = self._done_elsewhere()
        rest, self._done = (done - self._done) * _REST_SECONDS, done
        await asyncio.sleep(min(rest, _LONGEST_REST))
        self._since = time.monotonic()

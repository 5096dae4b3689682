"""How Bitrix24's queue treats slow handlers: a pause between calls that grows and shrinks.

Source: pages "Events" and "Queue of events": a handler that answers slowly is called less often, at longer
intervals. The numbers are not documented there and are this program's own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pacing:
    """How the queue treats slow handlers. All values in seconds but ``concurrency``.

    ``slow_after``: an answer that takes longer is slow. ``first_pause``: the pause after the first slow answer,
    doubled by each further one up to ``max_pause``, halved by each quick one. ``timeout``: when a call is given
    up. ``concurrency``: calls to one handler URL at the same time.
    """

    slow_after: float = 5.0
    first_pause: float = 1.0
    max_pause: float = 60.0
    timeout: float = 30.0
    concurrency: int = 8

    def is_slow(self, duration: float) -> bool:
        """Whether an answer that took ``duration`` seconds is a slow one."""
        return duration > self.slow_after


class Pause:
    """The pause between two calls to one handler's host. Moments are those of ``clock``, in seconds."""

    __slots__ = ("_clock", "_next_start", "_pacing", "seconds")

    def __init__(self, pacing: Pacing, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = 0.0
        self._pacing = pacing
        self._clock = clock
        self._next_start = 0.0

    def next_start(self) -> float:
        """The moment at which the next call may start; the one after it comes a pause later."""
        start = self._clock()
        if self.seconds:
            start = max(start, self._next_start)
            self._next_start = start + self.seconds
        return start

    def answered(self, duration: float) -> None:
        """Take note of an answer, or the lack of one, after ``duration`` seconds."""
        if self._pacing.is_slow(duration):
            longer = max(self._pacing.first_pause, self.seconds * 2)
            self.seconds = min(self._pacing.max_pause, longer)
            self._next_start = max(self._next_start, self._clock() + self.seconds)
        else:
            self.seconds /= 2
            if self.seconds < self._pacing.first_pause:
                self.seconds = self._next_start = 0.0

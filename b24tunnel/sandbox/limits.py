"""How many requests and how much working time the simulated portal allows.

Page "Limits" of the REST documentation: requests fill a bucket that leaks, counted per portal and source
address; working time is counted per method and application over ten minutes.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from dataclasses import dataclass

from b24tunnel.errors import WrongUsage

from .answers import Refusal

WINDOW = 600
MAX_KEPT = 1_000


@dataclass(frozen=True, slots=True)
class Limits:
    """``drain``: requests a second that leave the bucket; ``block``: how many it holds before calls are refused.

    ``operating``: seconds of working time that a method has in ten minutes; None for no bound. The defaults are
    those of cloud portals, where 480 is the documented example of ``operating``.
    """

    drain: float = 2.0
    block: int = 50
    operating: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.drain) and self.drain > 0) or self.block < 1:
            raise WrongUsage("Limits need a drain above 0 requests a second and a block of at least 1 request.")
        if self.operating is not None and not self.operating >= 0:
            raise WrongUsage("The operating time of a method cannot be less than 0 seconds.")


class Intensity:
    """One leaking bucket per source address; the address that was quiet longest is forgotten first."""

    def __init__(self, limits: Limits | None) -> None:
        self._limits = limits
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, source: str) -> None:
        """Counts a request. Refuses it with ``QUERY_LIMIT_EXCEEDED`` (503) when the bucket is full."""
        limits = self._limits
        if limits is None:
            return
        now = time.monotonic()
        level, at = self._buckets.pop(source, (0.0, now))
        level = max(0.0, level - (now - at) * limits.drain)
        full = level + 1 > limits.block
        self._buckets[source] = (level if full else level + 1, now)
        if len(self._buckets) > MAX_KEPT:
            self._buckets.popitem(last=False)
        if full:
            raise Refusal("QUERY_LIMIT_EXCEEDED", "Too many requests", 503)


class Operating:
    """Working time by application and method.

    The ten minutes begin with the first call and begin anew once they are over; Bitrix24 frees them bit by bit.
    """

    def __init__(self, limits: Limits | None) -> None:
        self._budget = None if limits is None else limits.operating
        self._spent: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()

    def check(self, key: tuple[str, str]) -> None:
        """Refuses a call with ``OPERATION_TIME_LIMIT`` (429) when the method has used its time up."""
        if self._budget is not None and self.spent(key)[0] > self._budget:
            raise Refusal("OPERATION_TIME_LIMIT", "Method is blocked due to operation time limit.", 429)

    def add(self, key: tuple[str, str], seconds: float) -> None:
        """Counts the time that a call took."""
        spent, reset_at = self.spent(key)
        self._spent[key] = (spent + seconds, reset_at)
        if len(self._spent) > MAX_KEPT:
            self._spent.popitem(last=False)

    def spent(self, key: tuple[str, str]) -> tuple[float, float]:
        """Seconds used of the present ten minutes, and when these are over, in unix seconds."""
        now = time.time()
        spent, reset_at = self._spent.get(key, (0.0, now + WINDOW))
        return (spent, reset_at) if now < reset_at else (0.0, now + WINDOW)

"""Durations counted in buckets: percentiles of any number of them in bounded memory."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction
from typing import Any

from b24tunnel.errors import WrongUsage

# Milliseconds. What is less counts as nothing, what is more as this: so the number of buckets has a bound.
_SHORTEST, _LONGEST = 0.001, 1e9
PERCENTILES = (50, 90, 95, 99)


class Latency:
    """Durations in milliseconds. A percentile is right to 0.5 %: a bucket holds what agrees in three digits."""

    def __init__(self) -> None:
        self.count = 0
        self.highest = 0.0
        self._lowest = math.inf
        self._sum = 0.0
        self._buckets: Counter[float] = Counter()

    def add(self, ms: float) -> None:
        """Count one duration; one below 0 is counted as 0. Raises `WrongUsage` for what is no finite number."""
        if not math.isfinite(ms):
            raise WrongUsage(f"A duration must be a finite number of milliseconds, not {ms}.")
        ms = 0.0 if ms < _SHORTEST else min(ms, _LONGEST)
        self.count += 1
        self._sum += ms
        if ms > self.highest:
            self.highest = ms
        if ms < self._lowest:
            self._lowest = ms
        self._buckets[float(f"{ms:.3g}")] += 1

    @property
    def mean(self) -> float:
        """The mean, exact; 0 where nothing was counted."""
        return self._sum / self.count if self.count else 0.0

    def percentile(self, p: float) -> float:
        """The lowest duration that ``p`` percent of all do not exceed (nearest rank); 0 where nothing was counted.

        Raises `WrongUsage` unless ``p`` is 0 to 100.
        """
        if not 0 <= p <= 100:
            raise WrongUsage(f"A percentile must be 0 to 100, not {p}.")
        # As written, not as a binary fraction: 99.9 % of 1,000 are 999 of them.
        left = max(1, math.ceil(Fraction(str(p)) * self.count / 100))
        for bucket in sorted(self._buckets):
            left -= self._buckets[bucket]
            if left <= 0:
                # A bucket's own value may lie outside of what was counted.
                return max(self._lowest, min(bucket, self.highest))
        return 0.0

    def to_json(self) -> dict[str, Any]:
        """``count``, and in milliseconds (three places) ``mean``, ``p50``, ``p90``, ``p95``, ``p99``, ``highest``.

        These are None where nothing was counted.
        """
        values = {"mean": self.mean, **{f"p{p}": self.percentile(p) for p in PERCENTILES}, "highest": self.highest}
        return {
            "count": self.count,
            **{name: round(value, 3) if self.count else None for name, value in values.items()},
        }

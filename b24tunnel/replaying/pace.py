"""When each recording of a replay may be sent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Protocol

from b24tunnel.errors import WrongUsage
from b24tunnel.queue_pacing import Pacing, Pause
from b24tunnel.recording import Attempt, Recording

SLOWEST, FASTEST = 0.001, 1_000_000.0
LOWEST_RATE, HIGHEST_RATE = 0.001, 100_000.0
LONGEST_GAP = 86_400.0
MAX_GAP = 60.0
# "May arrive with a slight delay", "after several seconds" (page "Events").
DELAY = 3.0
LONGEST_DELAY = 3_600.0
# With a schedule, recordings are sent at their time and not when the one before is answered.
CONCURRENCY = 32

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]


class Planned(Protocol):
    """What a pace makes of recordings whose times it is given one by one, in constant memory."""

    @property
    def seconds(self) -> float | None:
        """From the first sending to the last; None: as long as the handler takes."""

    @property
    def cut(self) -> int:
        """How many gaps are cut because they are too long."""

    @property
    def back(self) -> int:
        """How many times a recording is older than the one before it."""

    def add(self, received_at: datetime) -> None:
        """The time of the next recording."""


class Pace(Protocol):
    """Decides when the next recording may be sent. Belongs to one run; ``turn`` is never called twice at once.

    ``concurrency`` is how many are under way at most where nobody says otherwise.
    """

    @property
    def concurrency(self) -> int:
        """See above."""

    async def turn(self, recording: Recording) -> float:
        """Return once the recording may be sent, and give how many seconds late that is."""

    def answered(self, attempt: Attempt) -> None:
        """Take note of what came of a sending."""

    def plan(self) -> Planned:
        """A plan for recordings that are yet to be sent; does not change the pace."""


class AtOnce:
    """As fast as the handler answers, one after the other where nobody says otherwise."""

    concurrency = 1

    async def turn(self, recording: Recording) -> float:
        """Return at once."""
        return 0.0

    def answered(self, attempt: Attempt) -> None:
        """Nothing depends on it."""

    def plan(self) -> Planned:
        """A plan of unknown length."""
        return _Unknown()


class OriginalPace:
    """The gaps in which the recordings came in, ``speed`` times as fast.

    A gap of more than ``max_gap`` seconds is cut to it, then all are divided by ``speed``. A recording older than
    the one before it (the clock was set back, or it is of another selector) follows without a gap, and the next
    gap counts from it. Each recording has its moment counted from the start, so that being late with one neither
    moves the others nor lets one out too early. Raises `WrongUsage` for a number out of bounds.
    """

    concurrency = CONCURRENCY

    def __init__(
        self,
        speed: float = 1.0,
        max_gap: float = MAX_GAP,
        *,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        if not SLOWEST <= speed <= FASTEST:
            raise WrongUsage(f"The speed must be {SLOWEST:g} to {FASTEST:,.0f}, not {speed:g}.")
        if not 0 <= max_gap <= LONGEST_GAP:
            raise WrongUsage(f"The longest gap must be 0 to {LONGEST_GAP:,.0f} seconds, not {max_gap:g}.")
        self.speed = speed
        self.max_gap = max_gap
        self._clock = clock
        self._sleep = sleep
        self._start: float | None = None
        self._gaps = _Gaps(speed, max_gap)

    async def turn(self, recording: Recording) -> float:
        """Wait for the recording's moment. Cancelled, the recording still has its place among the others."""
        if self._start is None:
            self._start = self._clock()
        self._gaps.add(recording.received_at)
        return await _until(self._start + self._gaps.seconds, self._clock, self._sleep)

    def answered(self, attempt: Attempt) -> None:
        """Nothing depends on it."""

    def plan(self) -> Planned:
        """A plan of known length."""
        return _Gaps(self.speed, self.max_gap)


class Rate:
    """``per_second`` recordings a second, evenly.

    The moments are counted from the start: after an interruption by a slow handler, what is late is sent without
    waiting, and the rate holds on the whole. Raises `WrongUsage` for a number out of bounds.
    """

    concurrency = CONCURRENCY

    def __init__(self, per_second: float, *, clock: Clock = time.monotonic, sleep: Sleep = asyncio.sleep) -> None:
        if not LOWEST_RATE <= per_second <= HIGHEST_RATE:
            raise WrongUsage(
                f"The rate must be {LOWEST_RATE:g} to {HIGHEST_RATE:,.0f} recordings a second, not {per_second:g}."
            )
        self.per_second = per_second
        self._clock = clock
        self._sleep = sleep
        self._start: float | None = None
        self._taken = 0

    async def turn(self, recording: Recording) -> float:
        """Wait for the next moment. Cancelled, that moment is left for the next recording."""
        if self._start is None:
            self._start = self._clock()
        late = await _until(self._start + self._taken / self.per_second, self._clock, self._sleep)
        self._taken += 1
        return late

    def answered(self, attempt: Attempt) -> None:
        """Nothing depends on it."""

    def plan(self) -> Planned:
        """A plan of known length."""
        return _Even(self.per_second)


class LikeBitrix24:
    """As Bitrix24's queue sends: a delay, then pauses that grow for a slow handler and shrink for a quick one.

    ``delay`` is seconds before the first recording. `Pacing` says what is slow, how long the pauses are, and how
    many are under way at most; its ``timeout`` is for whoever sends. Raises `WrongUsage` for a delay out of
    bounds.
    """

    def __init__(
        self,
        delay: float = DELAY,
        pacing: Pacing | None = None,
        *,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        if not 0 <= delay <= LONGEST_DELAY:
            raise WrongUsage(f"The delay must be 0 to {LONGEST_DELAY:,.0f} seconds, not {delay:g}.")
        self.delay = delay
        self.pacing = pacing or Pacing()
        self._clock = clock
        self._sleep = sleep
        self._pause = Pause(self.pacing, clock)
        self._first: float | None = None
        self._reserved: float | None = None

    @property
    def concurrency(self) -> int:
        """As many as the queue has under way to one handler."""
        return self.pacing.concurrency

    @property
    def pause(self) -> float:
        """The present pause between two sendings, in seconds; 0 for a quick handler."""
        return self._pause.seconds

    async def turn(self, recording: Recording) -> float:
        """Wait for the delay or the pause. Cancelled, the moment waited for is left for the next recording."""
        if self._first is None:
            self._first = self._clock() + self.delay
        if self._reserved is None:
            self._reserved = max(self._first, self._pause.next_start())
        late = await _until(self._reserved, self._clock, self._sleep)
        self._reserved = None
        return late

    def answered(self, attempt: Attempt) -> None:
        """A slow answer makes the pauses longer, a quick one shorter."""
        self._pause.answered(attempt.duration_ms / 1000)

    def plan(self) -> Planned:
        """A plan of unknown length: the pauses depend on the handler."""
        return _Unknown()


async def _until(moment: float, clock: Clock, sleep: Sleep) -> float:
    """Return at ``moment`` or after it, never before, and give how many seconds after."""
    # A sleep can end a little early: by the resolution of the event loop's clock, uvloop's by a millisecond.
    while (remaining := moment - clock()) > 0:
        await sleep(remaining)
    return -remaining


class _Unknown:
    seconds = None
    cut = 0
    back = 0

    def add(self, received_at: datetime) -> None:
        """Nothing depends on it."""


class _Even:
    cut = 0
    back = 0

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._count = 0

    @property
    def seconds(self) -> float:
        return max(0, self._count - 1) / self._per_second

    def add(self, received_at: datetime) -> None:
        self._count += 1


class _Gaps:
    """The gaps so far: both the plan of `OriginalPace` and its schedule, so that these agree."""

    def __init__(self, speed: float, max_gap: float) -> None:
        self.cut = 0
        self.back = 0
        self._speed = speed
        self._max_gap = max_gap
        self._previous: datetime | None = None
        self._recorded = 0.0  # seconds, before they are divided by the speed

    @property
    def seconds(self) -> float:
        return self._recorded / self._speed

    def add(self, received_at: datetime) -> None:
        previous, self._previous = self._previous, received_at
        if previous is None:
            return
        gap = (received_at - previous).total_seconds()
        if gap < 0:
            self.back += 1
        elif gap > self._max_gap:
            self.cut += 1
            self._recorded += self._max_gap
        else:
            self._recorded += gap

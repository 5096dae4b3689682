"""When a replay may send: gaps, rates and Bitrix24's manners, on a clock of the test's and on the real one."""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_server import RawServer

from b24tunnel.errors import WrongUsage
from b24tunnel.forward import Sender
from b24tunnel.queue_pacing import Pacing
from b24tunnel.recording import Attempt, Recording
from b24tunnel.replaying.pace import AtOnce, LikeBitrix24, OriginalPace, Pace, Rate

NOW = datetime(2026, 11, 25, 14, 15, 3, tzinfo=UTC)


class Time:
    """A clock that only sleeping moves, by as much as is slept, or by what ``wakes`` makes of it."""

    def __init__(self, wakes: Callable[[float], float] = lambda seconds: seconds) -> None:
        self.now = 1000.0
        self.wakes = wakes
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.slept.append(seconds)
        await asyncio.sleep(0)
        self.now += self.wakes(seconds)

    @property
    def passed(self) -> float:
        return self.now - 1000.0


def at(seconds: float) -> Recording:
    return Recording("1-1", NOW + timedelta(seconds=seconds), "POST", "/b24/x", (), b"event=x", code="X")


def answered_in(seconds: float) -> Attempt:
    return Attempt("1-1", "replay", "http://h/", NOW, seconds * 1000, status=200)


async def moments(pace: Pace, clock: Time, times: Sequence[float]) -> list[float]:
    """When each may be sent, in seconds since the start."""
    found = []
    for seconds in times:
        await pace.turn(at(seconds))
        found.append(round(clock.passed, 6))
    return found


def original(clock: Time, speed: float = 1.0, max_gap: float = 60.0) -> OriginalPace:
    return OriginalPace(speed, max_gap, clock=clock.clock, sleep=clock.sleep)


def planned(pace: Pace, times: Sequence[float]) -> tuple[float | None, int, int]:
    plan = pace.plan()
    for seconds in times:
        plan.add(at(seconds).received_at)
    return plan.seconds, plan.cut, plan.back


async def test_at_once_never_waits() -> None:
    pace = AtOnce()
    assert [await pace.turn(at(seconds)) for seconds in (0, 1000)] == [0, 0]
    assert planned(pace, [0, 1000]) == (None, 0, 0)


async def test_the_original_gaps_are_kept() -> None:
    clock = Time()
    assert await moments(original(clock), clock, [0, 0.25, 0.25, 7]) == [0, 0.25, 0.25, 7]


async def test_gaps_are_divided_by_the_speed() -> None:
    clock = Time()
    assert await moments(original(clock, speed=10), clock, [0, 5, 6]) == [0, 0.5, 0.6]
    clock = Time()
    assert await moments(original(clock, speed=0.5), clock, [0, 5, 6]) == [0, 10, 12]


async def test_a_long_gap_is_cut_before_it_is_divided() -> None:
    clock = Time()
    assert await moments(original(clock, speed=2, max_gap=60), clock, [0, 60, 121, 122]) == [0, 30, 60, 60.5]


async def test_a_clock_that_was_set_back_stalls_nothing_and_gaps_go_on_from_there() -> None:
    clock = Time()
    times = [0, 10, -5_000_000, -4_999_997, 20]
    assert await moments(original(clock), clock, times) == [0, 10, 10, 13, 73]
    assert planned(original(clock), times) == (73, 1, 1)


async def test_being_late_once_does_not_move_the_others() -> None:
    clock = Time()
    pace = original(clock)
    await pace.turn(at(0))
    clock.now += 2.5
    assert [round(await pace.turn(at(seconds)), 6) for seconds in (1, 2, 3)] == [1.5, 0.5, 0]
    assert clock.slept == [0.5]
    assert await pace.turn(at(4)) == 0
    assert clock.passed == 4


async def test_a_sleep_that_ends_early_lets_nothing_out_early() -> None:
    clock = Time(lambda seconds: max(seconds * 0.75, 0.0001))
    pace = original(clock)
    for seconds in (0, 1, 2):
        await pace.turn(at(seconds))
        assert clock.passed >= seconds


async def test_sleeps_that_end_late_do_not_add_up() -> None:
    clock = Time(lambda seconds: seconds + 0.001)
    pace = original(clock)
    lates = [await pace.turn(at(number * 0.01)) for number in range(1000)]
    assert lates == pytest.approx([0] + [0.001] * 999)


@pytest.mark.parametrize("retried", [1.0, 2.0])
async def test_a_cancelled_turn_leaves_the_original_schedule_as_it_was(retried: float) -> None:
    clock = Time()
    pace = original(clock)
    await pace.turn(at(0))
    await cancelled(pace.turn(at(1)))
    await pace.turn(at(retried))
    assert clock.passed == retried
    await pace.turn(at(5))
    assert clock.passed == 5


async def cancelled(turn: object) -> None:
    """Let the turn begin to wait and cancel it there."""
    task = asyncio.ensure_future(turn)  # type: ignore[call-overload]
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@given(
    st.lists(st.floats(-100_000, 100_000), max_size=30),
    st.floats(0.001, 1_000_000),
    st.floats(0, 86_400),
)
async def test_the_plan_is_what_the_pace_does(times: list[float], speed: float, max_gap: float) -> None:
    clock = Time()
    pace = original(clock, speed, max_gap)
    seconds, cut, back = planned(pace, times)
    done = await moments(pace, clock, times)
    assert seconds == pytest.approx(done[-1] if done else 0, abs=0.001)
    assert done == sorted(done)
    gaps = [(at(b).received_at - at(a).received_at).total_seconds() for a, b in pairwise(times)]
    assert (cut, back) == (sum(gap > max_gap for gap in gaps), sum(gap < 0 for gap in gaps))


async def test_a_rate_is_even_whatever_the_recordings_say() -> None:
    clock = Time()
    pace = Rate(4, clock=clock.clock, sleep=clock.sleep)
    assert await moments(pace, clock, [0, 500, -3, 7]) == [0, 0.25, 0.5, 0.75]
    assert planned(pace, [0, 500, -3, 7]) == (0.75, 0, 0)
    assert planned(pace, []) == (0, 0, 0)


async def test_a_rate_holds_on_the_whole_after_an_interruption() -> None:
    clock = Time()
    pace = Rate(10, clock=clock.clock, sleep=clock.sleep)
    await pace.turn(at(0))
    clock.now += 0.35
    assert [round(await pace.turn(at(0)), 6) for _ in range(4)] == [0.25, 0.15, 0.05, 0]
    assert round(clock.passed, 6) == 0.4


async def test_a_cancelled_turn_leaves_its_moment_to_the_next_at_a_rate() -> None:
    clock = Time()
    pace = Rate(1, clock=clock.clock, sleep=clock.sleep)
    await pace.turn(at(0))
    await cancelled(pace.turn(at(0)))
    assert await moments(pace, clock, [0, 0]) == [1, 2]


def like_bitrix24(clock: Time, delay: float = 3) -> LikeBitrix24:
    pacing = Pacing(slow_after=5, first_pause=1, max_pause=6)
    return LikeBitrix24(delay, pacing, clock=clock.clock, sleep=clock.sleep)


async def test_like_bitrix24_only_the_first_is_delayed_for_a_quick_handler() -> None:
    clock = Time()
    pace = like_bitrix24(clock)
    for _ in range(3):
        await pace.turn(at(0))
        pace.answered(answered_in(1))
        assert clock.passed == 3
    assert planned(pace, [0, 1]) == (None, 0, 0)


async def test_like_bitrix24_pauses_grow_for_a_slow_handler_and_shrink_for_a_quick_one() -> None:
    clock = Time()
    pace = like_bitrix24(clock, delay=0)
    pauses, starts = [], []
    for duration in (8, 8, 8, 8, 1, 1, 1, 1):
        await pace.turn(at(0))
        starts.append(clock.passed)
        clock.now += duration
        pace.answered(answered_in(duration))
        pauses.append(pace.pause)
    assert pauses == [1, 2, 4, 6, 3, 1.5, 0, 0]
    assert starts == [0, 9, 19, 31, 45, 51, 54, 55]


async def test_like_bitrix24_a_cancelled_turn_leaves_its_moment_to_the_next() -> None:
    clock = Time()
    pace = like_bitrix24(clock)
    await cancelled(pace.turn(at(0)))
    await pace.turn(at(0))
    assert clock.passed == 3
    pace.answered(answered_in(9))
    for _ in range(3):
        await cancelled(pace.turn(at(0)))
    await pace.turn(at(0))
    assert clock.passed == 4


@pytest.mark.parametrize(
    "make",
    [
        lambda: OriginalPace(0),
        lambda: OriginalPace(0.0009),
        lambda: OriginalPace(1_000_001),
        lambda: OriginalPace(math.nan),
        lambda: OriginalPace(math.inf),
        lambda: OriginalPace(max_gap=-1),
        lambda: OriginalPace(max_gap=86_401),
        lambda: OriginalPace(max_gap=math.nan),
        lambda: Rate(0),
        lambda: Rate(100_001),
        lambda: Rate(math.nan),
        lambda: LikeBitrix24(-1),
        lambda: LikeBitrix24(math.inf),
    ],
)
def test_numbers_out_of_bounds_are_refused_in_a_sentence(make: Callable[[], object]) -> None:
    with pytest.raises(WrongUsage, match=r"must be .* to .*, not .*\.$"):
        make()


def test_the_bounds_themselves_are_allowed() -> None:
    for speed in (0.001, 1_000_000):
        assert OriginalPace(speed).speed == speed
    for gap in (0, 86_400):
        assert OriginalPace(max_gap=gap).max_gap == gap
    for rate in (0.001, 100_000):
        assert Rate(rate).per_second == rate


async def test_on_the_real_clock_nothing_arrives_before_its_time_and_in_order() -> None:
    """The schedule against the real Sender and sockets. Its precision is measured, not asserted."""
    times = [number * 0.004 for number in range(50)]
    arrived: list[float] = []

    with RawServer() as server:
        async with Sender(server.url, cause="replay", concurrency=8) as sender:
            pace, turn = OriginalPace(), asyncio.Lock()
            remaining = iter(times)
            sent: list[float] = []
            start = time.monotonic()

            async def work() -> None:
                while True:
                    async with turn:
                        seconds = next(remaining, None)
                        if seconds is None:
                            return
                        recording = at(seconds)
                        late = await pace.turn(recording)
                        sent.append(time.monotonic() - start)
                        assert late >= 0
                    pace.answered(await sender.send(recording))
                    arrived.append(seconds)

            async with asyncio.TaskGroup() as group:
                for _ in range(8):
                    group.create_task(work())
        assert len(server.requests) == len(times)
    assert sorted(arrived) == times
    assert all(moment >= seconds for moment, seconds in zip(sent, times, strict=True))

"""Percentiles of many durations in little memory."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b24tunnel.errors import WrongUsage
from b24tunnel.replaying.latency import Latency


def latency(*durations: float) -> Latency:
    made = Latency()
    for ms in durations:
        made.add(ms)
    return made


def nearest_rank(durations: list[float], p: int) -> float:
    return sorted(durations)[max(1, -(-p * len(durations) // 100)) - 1]


@given(st.lists(st.floats(0.001, 1e8), min_size=1, max_size=200), st.integers(0, 100))
def test_a_percentile_is_that_of_the_nearest_rank_to_half_a_percent(durations: list[float], p: int) -> None:
    assert latency(*durations).percentile(p) == pytest.approx(nearest_rank(durations, p), rel=0.005)


@given(st.lists(st.floats(0.001, 1e8), min_size=1, max_size=50))
def test_the_highest_and_the_mean_are_exact(durations: list[float]) -> None:
    made = latency(*durations)
    assert made.count == len(durations)
    assert made.highest == max(durations)
    assert made.mean == pytest.approx(math.fsum(durations) / len(durations))


def test_ranks_are_those_of_the_number_as_it_is_written() -> None:
    few = latency(*[1.0] * 7, *[500.0] * 9993)
    assert few.percentile(0.07) == 1  # as binary fractions, 0.07 % of 10,000 are more than 7
    assert few.percentile(0.0701) == 500


def test_no_percentile_lies_outside_of_what_was_counted() -> None:
    assert latency(1.0049).percentile(50) == 1.0049
    assert latency(1.0051).percentile(50) == 1.0051


def test_nothing_counted_gives_numbers_and_no_percentiles_in_json() -> None:
    made = Latency()
    assert (made.count, made.mean, made.highest, made.percentile(50)) == (0, 0, 0, 0)
    assert made.to_json() == {
        "count": 0,
        "mean": None,
        "p50": None,
        "p90": None,
        "p95": None,
        "p99": None,
        "highest": None,
    }


def test_json_has_milliseconds_to_three_places() -> None:
    assert latency(*range(1, 101), 0.12345).to_json() == {
        "count": 101,
        "mean": 50.001,
        "p50": 50,
        "p90": 90,
        "p95": 95,
        "p99": 99,
        "highest": 100,
    }


def test_any_number_of_durations_take_the_room_of_some_thousands() -> None:
    chance = random.Random(1)
    made = Latency()
    for _ in range(200_000):
        made.add(10 ** chance.uniform(-9, 15))
    assert made.count == 200_000
    assert len(made._buckets) < 12_000


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_what_is_no_finite_number_is_refused(wrong: float) -> None:
    made = Latency()
    with pytest.raises(WrongUsage):
        made.add(wrong)
    assert made.count == 0


def test_a_duration_below_nothing_counts_as_nothing() -> None:
    assert latency(-5).to_json()["highest"] == 0


@pytest.mark.parametrize("wrong", [-1, 100.1, math.nan])
def test_there_are_percentiles_from_0_to_100_only(wrong: float) -> None:
    with pytest.raises(WrongUsage):
        latency(1).percentile(wrong)

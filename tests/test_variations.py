"""Dropped, repeated and shuffled recordings, and the seed that brings them back."""

import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b24tunnel.errors import WrongUsage
from b24tunnel.recording import Recording
from b24tunnel.replaying import variations
from b24tunnel.replaying.variations import Variation, parse_share

NOW = datetime(2026, 11, 25, 14, 15, 3, tzinfo=UTC)


def recording(number: int, body: bytes = b"event=x") -> Recording:
    return Recording(f"1-{number}", NOW, "POST", "/b24/x", (), body, code="X")


def some(count: int) -> list[Recording]:
    return [recording(number) for number in range(1, count + 1)]


def numbers(variation: Variation, count: int) -> list[int]:
    return [int(sent.id.removeprefix("1-")) for sent in variation.varied(some(count))]


def test_without_a_wish_nothing_varies_and_no_seed_is_chosen() -> None:
    variation = Variation()
    assert numbers(variation, 4) == [1, 2, 3, 4]
    assert not variation.needs_seed
    assert variation.seed is None


def test_times_sends_each_so_often_in_a_row() -> None:
    variation = Variation(times=3)
    assert numbers(variation, 2) == [1, 1, 1, 2, 2, 2]
    assert not variation.needs_seed


def test_a_seed_gives_this_sequence_everywhere() -> None:
    """The numbers are part of what is promised: they must not change with Python or with this program."""
    assert numbers(Variation(drop=0.5, seed=7), 12) == [3, 5, 8]
    assert numbers(Variation(shuffle=True, seed=7), 8) == [1, 2, 7, 6, 5, 8, 4, 3]
    all_of_it = Variation(times=2, shuffle=True, drop=0.3, seed=2**63 - 1)
    assert numbers(all_of_it, 6) == [1, 6, 5, 4, 6, 3, 5, 4, 3, 2, 2, 1]


def test_what_the_sequence_rests_on_is_what_it_is_documented_to_be() -> None:
    chance = random.Random(7)
    kept = [number for number in range(1, 13) if chance.random() >= 0.5]
    assert numbers(Variation(drop=0.5, seed=7), 12) == kept


@pytest.mark.parametrize("wish", [{"shuffle": True}, {"drop": 0.2}])
def test_a_seed_is_chosen_where_one_is_needed_and_brings_the_run_back(wish: dict[str, float]) -> None:
    chosen = Variation(**wish)  # type: ignore[arg-type]
    assert chosen.needs_seed
    assert chosen.seed is not None
    again = Variation(**wish, seed=chosen.seed)  # type: ignore[arg-type]
    assert numbers(again, 200) == numbers(chosen, 200)
    assert numbers(chosen, 200) == numbers(chosen, 200)


def test_another_run_has_another_seed() -> None:
    assert len({Variation(shuffle=True).seed for _ in range(5)}) > 1


def test_a_shuffle_of_two_always_turns_them_round() -> None:
    assert {tuple(numbers(Variation(shuffle=True, seed=seed), 2)) for seed in range(50)} == {(2, 1)}


@given(st.integers(2, 5), st.integers(1, 3), st.integers(0, 2**63 - 1))
def test_a_shuffle_is_another_order_of_the_same(count: int, times: int, seed: int) -> None:
    ordered = numbers(Variation(times=times), count)
    shuffled = numbers(Variation(times=times, shuffle=True, seed=seed), count)
    assert shuffled != ordered
    assert Counter(shuffled) == Counter(ordered)


def test_every_order_but_the_original_comes_out() -> None:
    found = Counter(tuple(numbers(Variation(shuffle=True, seed=seed), 3)) for seed in range(500))
    assert len(found) == 5
    assert min(found.values()) > 60


@pytest.mark.parametrize("given_", [[], [recording(1)], [recording(1)] * 3])
def test_what_has_one_order_only_is_sent_in_it(given_: list[Recording]) -> None:
    assert list(Variation(shuffle=True, times=2, seed=1).varied(given_)) == given_ * 2


def test_a_shuffle_changes_nothing_about_what_is_dropped() -> None:
    for seed in range(20):
        kept = numbers(Variation(drop=0.4, seed=seed), 50)
        both = numbers(Variation(drop=0.4, shuffle=True, times=2, seed=seed), 50)
        assert sorted(both) == sorted(kept * 2)


def test_dropping_changes_nothing_about_the_order() -> None:
    for seed in range(20):
        kept = numbers(Variation(drop=0.4, seed=seed), 20)
        order = numbers(Variation(shuffle=True, seed=seed), len(kept))
        assert numbers(Variation(drop=0.4, shuffle=True, seed=seed), 20) == [kept[place - 1] for place in order]


def test_about_the_share_is_dropped() -> None:
    assert 8_700 < len(numbers(Variation(drop=0.1, seed=3), 10_000)) < 9_300


def test_without_a_shuffle_recordings_are_taken_one_by_one() -> None:
    taken = 0

    def endless() -> Iterator[Recording]:
        nonlocal taken
        while True:
            taken += 1
            yield recording(taken)

    sent = Variation(times=2, drop=0.5, seed=1).varied(endless())
    for _ in range(10):
        next(sent)
    assert taken < 50


def endless(body: bytes = b"") -> Iterator[Recording]:
    one = recording(1, body)
    while True:
        yield one


def test_what_is_too_much_for_a_shuffle_is_refused_before_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    variation = Variation(shuffle=True, seed=1)
    with pytest.raises(WrongUsage, match=r"More than 100,000 recordings cannot be shuffled"):
        next(variation.varied(endless()))
    with pytest.raises(WrongUsage, match=r"More than 1,000,000 sendings .* each recording is sent 1000 times"):
        next(Variation(shuffle=True, times=1000, seed=1).varied(endless()))
    with pytest.raises(WrongUsage, match=r"more than 256 MiB cannot be shuffled"):
        next(variation.varied(endless(b"x" * 1024 * 1024)))
    monkeypatch.setattr(variations, "MOST_SHUFFLED", 3)
    assert len(list(variation.varied(some(3)))) == 3
    with pytest.raises(WrongUsage):
        list(variation.varied(some(4)))


def test_headers_and_target_count_towards_what_a_shuffle_may_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variations, "MOST_SHUFFLED_BYTES", 1000)
    large = [
        Recording("1-1", NOW, "POST", "/b24/x", (("X", "y" * 1000),), b""),
        Recording("1-2", NOW, "POST", "/b24/x?" + "y" * 1000, (), b""),
    ]
    for one in large:
        with pytest.raises(WrongUsage):
            list(Variation(shuffle=True).varied([one]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"times": 0},
        {"times": 1001},
        {"drop": -0.1},
        {"drop": 1.0},
        {"drop": float("nan")},
        {"seed": -1},
        {"seed": 2**63},
    ],
)
def test_numbers_out_of_bounds_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(WrongUsage, match=r"not [-\w.]+\.$"):
        Variation(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("10%", 0.1),
        ("0.1", 0.1),
        (".5", 0.5),
        ("0", 0),
        ("0%", 0),
        ("99.9%", 0.999),
        (" 2.5 % ", 0.025),
        ("0.", 0),
    ],
)
def test_a_share_is_a_number_or_a_percentage(text: str, share: float) -> None:
    assert parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "1", "100%", "150%", "-1%", "-0.1", "nan", "1e-3", "0,1", "10%%", "%", "."])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(WrongUsage, match=r"is no share of less than the whole: give one like 10% or 0\.1\."):
        parse_share(text)

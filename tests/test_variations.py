"""Dropped, repeated and shuffled recordings, and the seed that brings them back."""

import hashlib
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
    assert numbers(Variation(drop=0.5, seed=7), 12) == [3, 6, 7, 11, 12]
    assert numbers(Variation(shuffle=True, seed=7), 8) == [5, 8, 4, 2, 7, 6, 1, 3]
    all_of_it = Variation(times=2, shuffle=True, drop=0.3, seed=2**63 - 1)
    assert numbers(all_of_it, 6) == [2, 4, 4, 2]


def number(seed: int, purpose: bytes, thing: str, drawn: int = 0) -> int:
    """The chance that is documented."""
    key, salt = seed.to_bytes(8, "big"), drawn.to_bytes(8, "big")
    keyed = hashlib.blake2b(thing.encode(), digest_size=8, key=key, person=purpose, salt=salt)
    return int.from_bytes(keyed.digest(), "big")


def test_what_the_sequence_rests_on_is_what_it_is_documented_to_be() -> None:
    kept = [n for n in range(1, 13) if (number(7, b"drop", f"1-{n}") >> 11) / 2**53 >= 0.5]
    assert numbers(Variation(drop=0.5, seed=7), 12) == kept
    keys = {(number(7, b"order", f"{ordinal} 1-{n}"), n) for n in range(1, 9) for ordinal in range(2)}
    assert numbers(Variation(shuffle=True, times=2, seed=7), 8) == [n for _, n in sorted(keys)]


def test_an_order_that_is_the_original_one_is_drawn_again_with_the_next_salt() -> None:
    seen = set()
    for seed in range(40):
        first, second, third = (
            [n for _, n in sorted((number(seed, b"order", f"0 1-{n}", drawn), n) for n in range(1, 4))]
            for drawn in range(3)
        )
        expected = next(order for order in (first, second, third) if order != [1, 2, 3])
        assert numbers(Variation(shuffle=True, seed=seed), 3) == expected
        seen.add(first == [1, 2, 3])
    assert seen == {True, False}


selections = st.sets(st.integers(1, 60), min_size=3)
seeds = st.integers(0, 2**63 - 1)


@given(selections, selections, seeds)
def test_what_else_is_selected_changes_nothing_about_what_is_dropped(
    one: set[int], other: set[int], seed: int
) -> None:
    variation = Variation(drop=0.5, seed=seed)
    kept, also_kept = (
        {sent.id for sent in variation.varied(recording(n) for n in sorted(chosen))} for chosen in (one, other)
    )
    both = {f"1-{n}" for n in one & other}
    assert kept & both == also_kept & both


@given(st.sets(st.integers(1, 1000), min_size=12, max_size=30), st.sets(st.integers(1, 1000)), seeds)
def test_what_else_is_selected_changes_nothing_about_the_order(left: set[int], gone: set[int], seed: int) -> None:
    """Twelve and more come out in their original order only where the chance of it is broken."""
    variation = Variation(shuffle=True, times=2, seed=seed)
    before, after = (
        [sent.id for sent in variation.varied(recording(n) for n in sorted(chosen))]
        for chosen in (left | gone, left)
    )
    assert [id for id in before if int(id[2:]) in left] == after


def test_copies_share_their_fate_and_not_their_place() -> None:
    copies = [recording(1)] * 50
    for seed in range(20):
        assert len(list(Variation(drop=0.5, seed=seed).varied(copies))) in (0, 50)
    others = [recording(n) for n in range(2, 52)]
    order = [sent.id == "1-1" for sent in Variation(shuffle=True, seed=1).varied(copies + others)]
    assert any(order[:20])
    assert any(order[-20:])
    assert order.count(True) == 50


@pytest.mark.parametrize("id", ["oncrmdealadd", "сделка", "\ud800", ""])
def test_any_text_is_an_id(id: str) -> None:
    one = Recording(id, NOW, "POST", "/b24/x", (), b"")
    assert Counter(Variation(shuffle=True, drop=1e-9, seed=1).varied([one, recording(1)])) == Counter(
        [one, recording(1)]
    )


def test_order_and_dropping_are_not_drawn_from_the_same_number() -> None:
    """Else those that come first would be those that are dropped first."""
    firsts = [numbers(Variation(drop=0.3, shuffle=True, seed=seed), 10)[0] for seed in range(60)]
    whole = [numbers(Variation(shuffle=True, seed=seed), 10)[0] for seed in range(60)]
    same = sum(one == other for one, other in zip(firsts, whole, strict=True))
    assert 30 < same < 55


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
        order = numbers(Variation(shuffle=True, seed=seed), 40)
        both = numbers(Variation(drop=0.4, shuffle=True, seed=seed), 40)
        assert both == [place for place in order if place in both]
        assert 10 < len(both) < 40


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

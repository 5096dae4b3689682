"""Two sequences side by side: which item of one stands for which of the other, within a bounded amount of work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

_Key = TypeVar("_Key", str, bytes)
Pairs = list[tuple[int | None, int | None]]

# Items that are only in one of two sequences. With more of them these are not much alike.
_MOST_ODD = 200
_LARGEST_GAP = 400


@dataclass
class Budget:
    """The steps that may be spent on everything that belongs to one comparison: a second or less."""

    steps: int = 2_000_000


def aligned(
    before: Sequence[_Key],
    after: Sequence[_Key],
    budget: Budget,
    alike: Callable[[int, int], float] | None = None,
) -> Pairs:
    """Indexes side by side, in order: of equal items, of items in each other's place, and with None of odd ones.

    The equal ones are a longest common subsequence where few items are odd and the budget lasts; else items are
    paired by position. ``alike`` says how alike two unequal items are, 0 to 1. Swapped sequences give the same
    pairs swapped.
    """
    # Among solutions that are as good as each other the order of the arguments must not decide.
    if (len(after), list(after)) < (len(before), list(before)):
        swapped = None if alike is None else lambda i, j: alike(j, i)
        return [(i, j) for j, i in aligned(after, before, budget, swapped)]
    start: int = 0
    shorter = len(before)
    while start < shorter and before[start] == after[start]:
        start += 1
    same_end = 0
    while same_end < shorter - start and before[-1 - same_end] == after[-1 - same_end]:
        same_end += 1
    end_before, end_after = len(before) - same_end, len(after) - same_end
    budget.steps -= len(before) + len(after)
    pairs: Pairs = [(place, place) for place in range(start)]
    i, j = start, start
    equal_ones: list[tuple[int, int]] = _equal_ones(before[start:end_before], after[start:end_after], budget)
    for x, y in [*((start + p, start + q) for p, q in equal_ones), (end_before, end_after)]:
        if i < x or j < y:
            pairs += _in_gap(range(i, x), range(j, y), budget, alike)
        if x < end_before:
            pairs.append((x, y))
        i, j = x + 1, y + 1
    pairs += ((end_before + place, end_after + place) for place in range(same_end))
    return pairs


def _equal_ones(before: Sequence[_Key], after: Sequence[_Key], budget: Budget) -> list[tuple[int, int]]:
    """A longest common subsequence (E. Myers, "An O(ND) Difference Algorithm", 1986), [] beyond the bounds."""
    furthest = {1: 0}
    trace: list[dict[int, int]] = []
    for odd in range(min(_MOST_ODD, len(before) + len(after)) + 1):
        if budget.steps < 0:
            return []
        trace.append(furthest.copy())
        for diagonal in range(-odd, odd + 1, 2):
            down = diagonal == -odd or (diagonal != odd and furthest[diagonal - 1] < furthest[diagonal + 1])
            x = first = furthest[diagonal + 1] if down else furthest[diagonal - 1] + 1
            while x < len(before) and x - diagonal < len(after) and before[x] == after[x - diagonal]:
                x += 1
            furthest[diagonal] = x
            budget.steps -= x - first + 1
            if x >= len(before) and x - diagonal >= len(after):
                return _way_back(trace, len(before), len(after))
    return []


def _way_back(trace: list[dict[int, int]], x: int, y: int) -> list[tuple[int, int]]:
    matches: list[tuple[int, int]] = []
    for odd in range(len(trace) - 1, -1, -1):
        furthest, diagonal = trace[odd], x - y
        down = diagonal == -odd or (diagonal != odd and furthest[diagonal - 1] < furthest[diagonal + 1])
        came_from = diagonal + 1 if down else diagonal - 1
        to_x = furthest[came_from]
        to_y = to_x - came_from
        while x > max(to_x, 0) and y > max(to_y, 0):
            x, y = x - 1, y - 1
            matches.append((x, y))
        x, y = to_x, to_y
    return matches[::-1]


def _in_gap(before: range, after: range, budget: Budget, alike: Callable[[int, int], float] | None) -> Pairs:
    """Items none of which is equal to another: the most alike are taken for one another, or those in order."""
    size = len(before) * len(after)
    if alike is None or not 1 < size <= _LARGEST_GAP or budget.steps < 0:
        both = min(len(before), len(after))
        pairs: Pairs = list(zip(before, after, strict=False))
        pairs += ((i, None) for i in before[both:])
        pairs += ((None, j) for j in after[both:])
        return pairs
    budget.steps -= 10 * size
    # A little for being paired at all, so that what has nothing in common is paired in order.
    gain = [[0.01 + alike(i, j) for j in after] for i in before]
    best = [[0.0] * (len(after) + 1) for _ in range(len(before) + 1)]
    for p in range(len(before) - 1, -1, -1):
        for q in range(len(after) - 1, -1, -1):
            best[p][q] = max(best[p + 1][q + 1] + gain[p][q], best[p + 1][q], best[p][q + 1])
    pairs = []
    p = q = 0
    while p < len(before) or q < len(after):
        if p < len(before) and q < len(after) and best[p][q] == best[p + 1][q + 1] + gain[p][q]:
            pairs.append((before[p], after[q]))
            p, q = p + 1, q + 1
        elif p < len(before) and (q == len(after) or best[p][q] == best[p + 1][q]):
            pairs.append((before[p], None))
            p += 1
        else:
            pairs.append((None, after[q]))
            q += 1
    return pairs

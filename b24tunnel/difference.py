"""One place in which two answers, or two recordings, differ, and a bounded list of such places."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Sequence
from typing import NamedTuple

MOST = 100
_MORE = re.compile(r"and ([0-9]+) more")


class Difference(NamedTuple):
    """``where`` says the place (``status``, ``header Content-Type``, ``body $.result.id``, ``data.FIELDS.ID``).

    ``before`` and ``after`` are what stands there as text; None where nothing does. Where there are too many
    differences to be listed, the last one is ``and 23 more`` with neither.
    """

    where: str
    before: str | None
    after: str | None


def how_many(differences: Sequence[Difference]) -> int:
    """The number of differences, with those that the last one only counts."""
    if differences and differences[-1][1:] == (None, None) and (more := _MORE.fullmatch(differences[-1].where)):
        return len(differences) - 1 + int(more[1])
    return len(differences)


class Found:
    """Collects differences: the first ``most`` of them, and the number of the others."""

    def __init__(self, most: int = MOST, leave_out: Container[str] = ()) -> None:
        """``leave_out``: places whose differences are none."""
        self._most = most
        self._leave_out = leave_out
        self._kept: list[Difference] = []
        self._number = 0

    def add(self, where: str, before: str | None, after: str | None) -> None:
        """Note a difference."""
        self.add_made(where, lambda: (before, after))

    def add_made(self, where: str, make: Callable[[], tuple[str | None, str | None]]) -> None:
        """Note a difference whose texts, before and after, are made only where it is kept."""
        if where in self._leave_out:
            return
        self._number += 1
        if self._number <= self._most:
            self._kept.append(Difference(where, *make()))

    def differences(self) -> tuple[Difference, ...]:
        """What was noted, in order; where there was more, the last one says how much."""
        if self._number <= self._most:
            return tuple(self._kept)
        return (*self._kept, Difference(f"and {self._number - self._most} more", None, None))

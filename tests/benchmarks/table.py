"""Rows with their samples, ratio and goal, and the table of them: as text, Markdown or JSON."""

from __future__ import annotations

import statistics
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from processes import Failed, Unmeasured

_T = TypeVar("_T")

HEADINGS = ("what", "measured", "peer", "ratio", "goal", "reached?")

Unit = Literal["/s", "s", "MB"]


@dataclass(frozen=True)
class Samples:
    """What was measured in several rounds: the median counts, lowest and highest are its spread."""

    values: tuple[float, ...]
    unit: Unit
    beside: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        low, high = min(self.values), max(self.values)
        text = shown(self.median, self.unit)
        if len(self.values) > 1:
            text += f" ({shown(low, self.unit)} – {shown(high, self.unit)})"
        return f"{text}, {self.beside}" if self.beside else text


@dataclass(frozen=True)
class Goal:
    """A bound for the ratio (without a unit) or for the measured median (with one)."""

    sign: Literal["≥", "≤", "<"]
    bound: float
    unit: Unit | None = None

    def reached(self, value: float) -> bool:
        if self.sign == "≥":
            return value >= self.bound
        return value < self.bound if self.sign == "<" else value <= self.bound

    def __str__(self) -> str:
        return f"{self.sign} {shown(self.bound, self.unit) if self.unit else f'{self.bound:g} ×'}"


@dataclass(frozen=True)
class Row:
    """One line of the table. ``reason`` says why nothing was measured."""

    name: str
    what: str
    measured: Samples | None = None
    peer: Samples | None = None
    peer_name: str = ""
    goal: Goal | None = None
    reason: Unmeasured | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def ratio(self) -> float | None:
        """The ratio of the medians."""
        if self.measured is None or self.peer is None or self.peer.median == 0:
            return None
        return self.measured.median / self.peer.median

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached; None without a goal, or where nothing was measured."""
        if self.goal is None or self.measured is None:
            return None
        value = self.measured.median if self.goal.unit else self.ratio
        return None if value is None else self.goal.reached(value)

    @property
    def failed(self) -> bool:
        """Something did not do what it should, other than that it cannot be measured here."""
        return isinstance(self.reason, Failed)

    def cells(self) -> tuple[str, ...]:
        if self.measured is None:
            why = f"{'failed' if self.failed else 'not measured'}: {self.reason}"
            return (self.what, why, self.peer_name, "", str(self.goal or ""), "")
        peer = f"{self.peer_name}: {self.peer}" if self.peer else self.peer_name
        ratio = "" if self.ratio is None else f"{self.ratio:.3g} ×"
        verdict = {True: "yes", False: "NO", None: ""}[self.reached]
        return (self.what, str(self.measured), peer, ratio, str(self.goal or ""), verdict)

    def to_json(self) -> dict[str, Any]:
        """The row with its raw samples; seconds, bytes ÷ 10⁶ or a number a second, as ``unit`` says."""
        return {
            "name": self.name,
            "what": self.what,
            "unit": self.measured.unit if self.measured else None,
            "measured": list(self.measured.values) if self.measured else None,
            "beside": self.measured.beside if self.measured else None,
            "peer": self.peer_name or None,
            "peer_measured": list(self.peer.values) if self.peer else None,
            "ratio": self.ratio,
            "goal": str(self.goal) if self.goal else None,
            "reached": self.reached,
            "not_measured": str(self.reason) if self.reason and not self.failed else None,
            "failed": str(self.reason) if self.failed else None,
            "notes": list(self.notes),
        }


def row(
    name: str,
    what: str,
    ours: list[_T] | Unmeasured,
    samples: Callable[[list[_T]], Samples],
    goal: Goal | None = None,
    *,
    peer_name: str = "",
    peer: list[_T] | Unmeasured | None = None,
    notes: tuple[str, ...] = (),
) -> Row:
    """The row of results that were taken in turns; without numbers where either side has none."""
    for side in (ours, peer):
        if isinstance(side, Unmeasured):
            return Row(name, what, peer_name=peer_name, goal=goal, reason=side)
    assert isinstance(ours, list)
    compared = samples(peer) if isinstance(peer, list) else None
    return Row(name, what, samples(ours), compared, peer_name, goal, notes=notes)


def shown(value: float, unit: Unit) -> str:
    """A number with its unit in three digits or so."""
    if unit == "/s":
        return f"{value:,.0f}/s" if value >= 100 else f"{value:.3g}/s"
    if unit == "MB":
        return f"{value:.1f} MB"
    if abs(value) < 0.00095:
        return f"{value * 1e6:.0f} µs"
    if abs(value) < 0.95:
        return f"{value * 1e3:.3g} ms"
    return f"{value:.3g} s"


def notes(rows: Sequence[Row]) -> list[str]:
    """What has to be said to some rows, each once."""
    return list(dict.fromkeys(note for row in rows for note in row.notes))


def text(rows: Sequence[Row]) -> str:
    """The table for a terminal."""
    lines = [HEADINGS, *(row.cells() for row in rows)]
    # A reason instead of numbers may run on into the columns beside it.
    filled = [HEADINGS, *(row.cells() for row in rows if row.measured is not None)]
    first = max(_width(line[0]) for line in lines)
    widths = [first, *(max(_width(line[column]) for line in filled) for column in range(1, len(HEADINGS)))]
    rule = "  ".join("-" * width for width in widths)
    printed = ["  ".join(_padded(cell, width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    return "\n".join(line.rstrip() for line in (printed[0], rule, *printed[1:], *("", *notes(rows))))


def markdown(rows: Sequence[Row], machine: str) -> str:
    """The table for the README, under the machine's description."""
    lines = [HEADINGS, ("---",) * len(HEADINGS), *(row.cells() for row in rows)]
    table = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([machine, "", *table, "", *notes(rows)])


def _width(cell: str) -> int:
    return sum(0 if unicodedata.combining(character) else 1 for character in cell)


def _padded(cell: str, width: int) -> str:
    return cell + " " * (width - _width(cell))

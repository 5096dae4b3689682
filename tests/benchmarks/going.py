"""One go of the benchmark: its settings, its directories and processes, and measuring in turns."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar

from processes import NotMeasured, Processes, Unmeasured

_T = TypeVar("_T")


@dataclass(frozen=True)
class Settings:
    """How thoroughly to measure. ``seconds`` is that of one load; ``deliveries`` and ``recordings`` are counts."""

    seconds: float
    rounds: int
    deliveries: int
    warm_up: int
    recordings: int
    replayed: int
    paced: int
    cache: Path
    without: frozenset[str] = frozenset()
    only: tuple[str, ...] = ()


@dataclass
class Going:
    """What all rows share while the benchmark runs."""

    settings: Settings
    directory: Path
    processes: Processes
    _counter: Iterator[int] = field(default_factory=itertools.count)

    def wants(self, name: str) -> bool:
        """Whether a row is asked for."""
        return not self.settings.only or any(fnmatchcase(name, pattern) for pattern in self.settings.only)

    def find(self, tool: str) -> str:
        """The path of a program; raises `NotMeasured` where it is missing or not to be used."""
        self.check_not_left_out(tool)
        found = shutil.which(tool)
        if found is None:
            raise NotMeasured(f"{tool} is not installed")
        return found

    def check_not_left_out(self, tool: str) -> None:
        """Raise `NotMeasured` for a tool that was left out on the command line."""
        if tool in self.settings.without:
            raise NotMeasured(f"--without {tool}")

    @contextmanager
    def fresh(self) -> Iterator[Path]:
        """An empty directory for one measurement. What others left to be written is on disk before it begins."""
        directory = self.directory / f"measurement-{next(self._counter)}"
        directory.mkdir()
        os.sync()
        try:
            yield directory
        finally:
            shutil.rmtree(directory)

    def say(self, what: str) -> None:
        """Progress, beside the table."""
        print(f"  {what}", file=sys.stderr, flush=True)

    def in_turns(
        self, what: str, measured: Mapping[str, Callable[[], _T]], rounds: int | None = None
    ) -> dict[str, list[_T] | Unmeasured]:
        """Measure all in turns (A B A B A B); of each its results, or why there are none."""
        results: dict[str, list[_T] | Unmeasured] = {name: [] for name in measured}
        rounds = rounds or self.settings.rounds
        for number in range(1, rounds + 1):
            for name, measure in measured.items():
                so_far = results[name]
                if isinstance(so_far, Unmeasured):
                    continue
                try:
                    so_far.append(measure())
                    result = so_far[-1]
                    shown = f"{result:.4g}" if isinstance(result, float) else result
                    self.say(f"{what}, {number} of {rounds}: {name}: {shown}")
                except Unmeasured as reason:
                    results[name] = reason
                    self.say(f"{what}: {name}: {reason}")
        return results

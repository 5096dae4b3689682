"""Reading a large journal: the last 50, one event's recordings out of all, and the memory that takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from going import Going
from made_journal import SELDOM, SELDOM_COUNT, SOMETIMES, found_sometimes, made_journal
from processes import Failed, python
from starting import command, seconds_of
from table import Goal, Row, Samples, row

_LAST = 50
_SMALLER = 100
_SECONDS_AT_MOST = 600
_FLAT = Goal("≤", 1.1)
_NOTES = ("The made journal's files are in the page cache, and each of its recordings has an attempt.",)

_LAST_ROWS = ("last-50", "memory-of-last-50")
_FILTER_ROWS = ("filter", "memory-of-filter")
NAMES = (*_LAST_ROWS, "list-last-50", *_FILTER_ROWS, "list-code")


class Read(NamedTuple):
    """One reading by a process of its own: seconds without its start-up, and its peak of memory in bytes."""

    seconds: float
    peak: float

    def __str__(self) -> str:
        return f"{self.seconds:.4f} s, {self.peak / 1e6:.1f} MB"


class Listed(NamedTuple):
    """Seconds of a whole `b24tunnel list`, and of one that has nothing to list."""

    whole: float
    start_up: float

    def __str__(self) -> str:
        return f"{self.whole:.3f} s, start-up {self.start_up:.3f} s"


def measure(going: Going) -> Iterator[Row]:
    """The rows that are wanted."""
    if not any(going.wants(name) for name in NAMES):
        return
    count = going.settings.recordings
    going.say(f"a journal of {count:,} recordings, made now or cached")
    large = made_journal(going.settings.cache, count)
    small = made_journal(going.settings.cache, count // _SMALLER)
    of_all = f"of {count:,}"
    if any(going.wants(name) for name in _LAST_ROWS):
        of_last = ("--last", str(_LAST))
        yield from _read(
            going,
            _LAST_ROWS,
            f"journal.last({_LAST}) {of_all}",
            Goal("<", 0.1, "s"),
            partial(_reading, going, large, of_last, _LAST),
            partial(_reading, going, small, of_last, min(_LAST, count // _SMALLER)),
        )
    if going.wants("list-last-50"):
        options = ("-n", str(_LAST))
        what = f"b24tunnel list -n {_LAST} {of_all}, without start-up"
        yield _listed(going, "list-last-50", what, large, options, Goal("<", 0.1, "s"))
    if any(going.wants(name) for name in _FILTER_ROWS):
        of_code = ("--code", SOMETIMES)
        yield from _read(
            going,
            _FILTER_ROWS,
            f'journal.search(where("code") == …) over all {of_all}',
            Goal("<", 3, "s"),
            partial(_reading, going, large, of_code, found_sometimes(count)),
            partial(_reading, going, small, of_code, found_sometimes(count // _SMALLER)),
        )
    if going.wants("list-code"):
        what = f"b24tunnel list CODE, {SELDOM_COUNT} {of_all}, without start-up"
        yield _listed(going, "list-code", what, large, (SELDOM,), Goal("<", 3, "s"))


def _read(
    going: Going,
    names: tuple[str, str],
    what: str,
    goal: Goal,
    of_large: Callable[[], Read],
    of_small: Callable[[], Read],
) -> Iterator[Row]:
    """A row for the time and one for the peak of memory, both from the same readings."""
    results = going.in_turns(what, {"large": of_large, "small": of_small})
    large, small = results["large"], results["small"]
    peer = f"1/{_SMALLER} of them"
    rows: tuple[tuple[str, str, Callable[[list[Read]], Samples], Goal], ...] = (
        (names[0], what, _seconds, goal),
        (names[1], f"{what}: peak of memory", _peaks, _FLAT),
    )
    for name, text, samples, bound in rows:
        if going.wants(name):
            yield row(name, text, large, samples, bound, peer_name=peer, peer=small, notes=_NOTES)


def _seconds(results: list[Read]) -> Samples:
    return Samples(tuple(read.seconds for read in results), "s")


def _peaks(results: list[Read]) -> Samples:
    return Samples(tuple(read.peak / 1e6 for read in results), "MB")


def _reading(going: Going, recordings: Path, options: tuple[str, ...], expected: int) -> Read:
    arguments = python("clients/reading.py", str(recordings), *options)
    result = going.processes.run_json(arguments, _SECONDS_AT_MOST)
    if result["found"] != expected:
        raise Failed(f"{result['found']} recordings found instead of {expected}")
    return Read(result["seconds"], result["peak"])


def _listed(going: Going, name: str, what: str, recordings: Path, options: tuple[str, ...], goal: Goal) -> Row:
    """The command's time less that of `list` on an empty journal, round by round."""
    with going.fresh() as empty:

        def once() -> Listed:
            return Listed(_listing(going, recordings, options), _listing(going, empty, ()))

        results = going.in_turns(what, {name: once})
    return row(name, what, results[name], _without_start_up, goal, notes=_NOTES)


def _without_start_up(results: list[Listed]) -> Samples:
    start_up = Samples(tuple(listed.start_up for listed in results), "s")
    less = tuple(max(0.0, listed.whole - listed.start_up) for listed in results)
    return Samples(less, "s", f"start-up alone {start_up}")


def _listing(going: Going, recordings: Path, options: tuple[str, ...]) -> float:
    return seconds_of(going, [*command(), "list", "--recordings", str(recordings), *options])

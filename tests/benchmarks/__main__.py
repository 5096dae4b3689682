"""Measure all that design.md §6 promises, side by side in one go, and print one table.

Run from the checkout:  python tests/benchmarks
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import acknowledging
import answering
import memory
import pacing
import reading
import replaying
import starting
import table
from going import Going, Settings
from machine import describe
from platformdirs import user_cache_path
from processes import Failed, Processes, Unmeasured
from table import Row

_SUBJECTS: tuple[tuple[tuple[str, ...], Callable[[Going], Iterator[Row]]], ...] = (
    (acknowledging.NAMES, acknowledging.measure),
    (answering.NAMES, answering.measure),
    (replaying.NAMES, replaying.measure),
    (pacing.NAMES, pacing.measure),
    (reading.NAMES, reading.measure),
    (memory.NAMES, memory.measure),
    (starting.NAMES, starting.measure),
)
_NAMES = tuple(name for names, _ in _SUBJECTS for name in names)
_TOOLS = ("wrk", "php", "mitmdump")


def main() -> int:
    """Measure and print. Gives 0, or 1 where a row failed; with --strict also where one is short of its goal."""
    options = _options()
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda number, frame: sys.exit(128 + number))
    where = options.directory or _directory_beside_the_checkout()
    with tempfile.TemporaryDirectory(
        prefix="benchmark-of-b24tunnel-", dir=where, ignore_cleanup_errors=True
    ) as name:
        directory = Path(name)
        going = Going(_settings(options), directory, Processes(directory))
        try:
            machine = describe(directory)
            print(machine, file=sys.stderr)
            rows = [row for names, measure in _SUBJECTS for row in _rows(names, measure, going)]
        finally:
            going.processes.end_all()
    if options.json:
        print(json.dumps({"machine": machine, "rows": [row.to_json() for row in rows]}, indent=1))
    elif options.markdown:
        print(table.markdown(rows, machine))
    else:
        print(table.text(rows))
    failed = any(row.failed for row in rows)
    short = any(row.reason or row.reached is False for row in rows)
    return 1 if failed or (options.strict and short) else 0


def _rows(names: tuple[str, ...], measure: Callable[[Going], Iterator[Row]], going: Going) -> Iterator[Row]:
    """The wanted rows of one subject; what breaks in it takes none of the others with it."""
    missing = [name for name in names if going.wants(name)]
    try:
        for row in measure(going):
            missing.remove(row.name)
            yield row
    except Exception as error:
        if not isinstance(error, Unmeasured):
            traceback.print_exc()
        reason = error if isinstance(error, Unmeasured) else Failed(f"{type(error).__name__}: {error}")
        for name in missing:
            yield Row(name, name, reason=reason)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python tests/benchmarks",
        description="Measure b24tunnel and its peers side by side, and print one table.",
        epilog=f"Rows: {', '.join(_NAMES)}",
    )
    parser.add_argument("--quick", action="store_true", help="only that every row works: small counts, one round")
    parser.add_argument("--only", nargs="+", default=(), metavar="NAME", help="only these rows, also as globs")
    parser.add_argument("--without", nargs="+", default=(), choices=_TOOLS, help="leave these programs out")
    parser.add_argument("--seconds", type=float, help="of one load, several of which make a row (3)")
    parser.add_argument("--rounds", type=int, help="how often each row and its peer are measured in turns (3)")
    parser.add_argument("--deliveries", type=int, help="for the memory of listen (1,000,000)")
    parser.add_argument("--recordings", type=int, help="of the made journal (1,000,000)")
    parser.add_argument("--directory", type=Path, help="where to write; a temporary one on the checkout's disk")
    parser.add_argument("--cache", type=Path, help="where the made journal (1.5 GB) and mitmproxy are kept")
    printed = parser.add_mutually_exclusive_group()
    printed.add_argument("--json", action="store_true", help="print JSON")
    printed.add_argument("--markdown", action="store_true", help="print the table for the README")
    parser.add_argument("--strict", action="store_true", help="exit 1 where one is not measured or not reached")
    options = parser.parse_args()
    if sys.platform != "linux":
        parser.error("processes are watched through /proc, which only Linux has")
    if options.directory and not options.directory.is_dir():
        parser.error(f"there is no directory {options.directory}")
    for pattern in options.only:
        if not any(fnmatchcase(name, pattern) for name in _NAMES):
            parser.error(f"no row is called {pattern}: {', '.join(_NAMES)}")
    return options


def _settings(options: argparse.Namespace) -> Settings:
    quick = options.quick
    return Settings(
        seconds=options.seconds or (0.3 if quick else 3.0),
        rounds=options.rounds or (1 if quick else 3),
        deliveries=options.deliveries or (1_000 if quick else 1_000_000),
        warm_up=500 if quick else 20_000,
        recordings=options.recordings or (5_000 if quick else 1_000_000),
        replayed=200 if quick else 5_000,
        paced=100 if quick else 1_000,
        cache=options.cache or user_cache_path("b24tunnel-benchmarks"),
        without=frozenset(options.without),
        only=tuple(options.only),
    )


def _directory_beside_the_checkout() -> Path:
    """A directory for temporary files on the disk that holds this file, so that no memory takes a disk's place."""
    disk = Path(__file__).stat().st_dev
    for candidate in (Path(tempfile.gettempdir()), Path("/var/tmp")):
        if candidate.is_dir() and candidate.stat().st_dev == disk and os.access(candidate, os.W_OK):
            return candidate
    return Path(__file__).resolve().parents[2]


if __name__ == "__main__":
    try:
        code = main()
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)

"""Reads a journal in one way and prints the seconds, how many recordings were found and the peak of memory."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from tinydb import where

from b24tunnel import Journal


def peak_memory() -> int:
    """The most bytes that this process has had in memory."""
    # Not getrusage: there a child begins with what its parent had.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recordings")
    parser.add_argument("--last", type=int, help="the last so many recordings")
    parser.add_argument("--code", help="all recordings of this event")
    options = parser.parse_args()
    start = time.perf_counter()
    journal = Journal.open(options.recordings)
    if options.last is not None:
        found = len(journal.last(options.last))
    else:
        found = sum(1 for _ in journal.search(where("code") == options.code))
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "found": found, "peak": peak_memory()}))


if __name__ == "__main__":
    main()

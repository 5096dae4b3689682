"""Replays a journal, noting each attempt in it, and prints how its memory grew after the first tenth, in bytes.

The journal is not written to: its files are linked into an empty directory, where the attempts go too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from b24tunnel import Journal, areplay
from b24tunnel.replaying import Report, Result

_PAGE = os.sysconf("SC_PAGE_SIZE")
_SAMPLES = 1000


@dataclass
class Memory:
    """This process's memory while results come: after the first tenth, at its highest since, and at the end."""

    expected: int
    results: int = 0
    before: int = 0
    highest: int = 0
    after: int = 0

    def on_result(self, result: Result) -> None:
        self.results += 1
        if self.results * 10 < self.expected or self.results % max(1, self.expected // _SAMPLES):
            return
        self.after = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE
        self.before = self.before or self.after
        self.highest = max(self.highest, self.after)


async def replay(source: Path, empty: Path, to: str, expected: int, concurrency: int) -> tuple[Report, Memory]:
    """The report and the memory of one replay of ``expected`` recordings."""
    linked = empty / "journal"
    linked.mkdir()
    for segment in (source / "journal").glob("*.jsonl"):
        (linked / segment.name).symlink_to(segment.resolve())
    journal = Journal.open(empty)
    memory = Memory(expected)
    report = await areplay(
        journal.recordings(),
        to,
        concurrency=concurrency,
        journal=journal,
        report=Report(keep=0),
        on_result=memory.on_result,
    )
    return report, memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recordings", type=Path)
    parser.add_argument("empty", type=Path)
    parser.add_argument("to")
    parser.add_argument("--expected", type=int, required=True, help="how many recordings there are")
    parser.add_argument("--concurrency", type=int, default=8)
    options = parser.parse_args()
    report, memory = asyncio.run(
        replay(options.recordings, options.empty, options.to, options.expected, options.concurrency)
    )
    if not report.ok or report.sent != options.expected:
        sys.exit(f"{report.sent} of {options.expected} sent, {report.wrong} not answered 2xx")
    print(
        json.dumps(
            {
                "before": memory.before,
                "highest": memory.highest,
                "after": memory.after,
                "seconds": report.seconds,
            }
        )
    )


if __name__ == "__main__":
    main()

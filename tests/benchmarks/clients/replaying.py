"""Replays a journal with `areplay` and prints how many recordings a second: clients/bare_loop.py is its peer."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time

from b24tunnel import Journal, allocator, areplay
from b24tunnel.replaying import Report
from b24tunnel.selecting import Selection


async def replay(recordings: str, to: str, concurrency: int, noted: bool) -> float:
    """Recordings a second, reading them from the journal included."""
    journal = Journal.open(recordings)
    start = time.perf_counter()
    report = await areplay(
        Selection(journal),
        to,
        concurrency=concurrency,
        journal=journal if noted else None,
        report=Report(keep=0),
    )
    seconds = time.perf_counter() - start
    if not report.ok:
        sys.exit(f"{report.wrong} of {report.sent} were not answered 2xx")
    return report.sent / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recordings")
    parser.add_argument("to")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--noted", action="store_true", help="note each attempt in the journal")
    options = parser.parse_args()
    allocator.keep_what_is_freed()  # as the command does
    rate = asyncio.run(replay(options.recordings, options.to, options.concurrency, options.noted))
    print(json.dumps({"rate": rate, "cpu": time.process_time()}))


if __name__ == "__main__":
    main()

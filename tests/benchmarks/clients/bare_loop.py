"""Posts a journal's bodies with nothing but an aiohttp client, and prints how many a second.

The bodies and headers are made ready before the clock starts; no answer is kept.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time

import aiohttp

from b24tunnel import Journal
from b24tunnel.forward import forwarded_headers


async def post(recordings: str, to: str, concurrency: int) -> float:
    """Posts a second."""
    ready = [(recording.body, forwarded_headers(recording)) for recording in Journal.open(recordings).recordings()]
    remaining = iter(ready)

    async def work(client: aiohttp.ClientSession) -> None:
        for body, headers in remaining:
            async with client.post(to, data=body, headers=headers) as answer:
                await answer.read()
                if answer.status != 200:
                    sys.exit(f"answered {answer.status}")

    start = time.perf_counter()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=concurrency)) as client:
        await asyncio.gather(*(work(client) for _ in range(concurrency)))
    return len(ready) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recordings")
    parser.add_argument("to")
    parser.add_argument("--concurrency", type=int, default=8)
    options = parser.parse_args()
    rate = asyncio.run(post(options.recordings, options.to, options.concurrency))
    print(json.dumps({"rate": rate, "cpu": time.process_time()}))


if __name__ == "__main__":
    main()

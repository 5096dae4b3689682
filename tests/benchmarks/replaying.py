"""Recordings replayed a second, against a bare aiohttp client loop that posts the same bodies."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import delivery
import peers
from going import Going
from processes import python
from table import Goal, Row, Samples, row

from b24tunnel import Recording
from b24tunnel.journal import JournalWriter

_CONCURRENCIES = (8, 64)
_GOAL = Goal("≥", 0.8)
_SECONDS_AT_MOST = 300
_BARE = "bare aiohttp client loop"
_NOTES = (
    "Replays read the recordings from the journal as they go; the bare loop has its bodies in memory. Noted: "
    "attempts are written to the journal meanwhile, and all are on disk in the end, as with `b24tunnel replay`.",
)

NAMES = tuple(f"replay-{concurrency}{noted}" for concurrency in _CONCURRENCIES for noted in ("", "-noted"))


def measure(going: Going) -> Iterator[Row]:
    """The rows that are wanted; those with the same concurrency are measured in the same turns."""
    if not any(going.wants(name) for name in NAMES):
        return
    with going.fresh() as recordings, peers.empty(going) as handler:
        asyncio.run(_record(recordings, going.settings.replayed))
        for concurrency in _CONCURRENCIES:
            names = (f"replay-{concurrency}", f"replay-{concurrency}-noted")
            wanted = [name for name in names if going.wants(name)]
            if not wanted:
                continue
            run = partial(_run, going, recordings, handler.url, concurrency)
            measured = {_BARE: partial(run, "clients/bare_loop.py")}
            for name in wanted:
                options = ("--noted",) if name.endswith("noted") else ()
                measured[name] = partial(run, "clients/replaying.py", *options)
            results = going.in_turns(f"replay, {concurrency} at a time", measured)
            for name in wanted:
                noted = ", noted in the journal" if name.endswith("noted") else ""
                what = f"replay, {concurrency} at a time{noted}"
                bare = results[_BARE]
                yield row(name, what, results[name], _samples, _GOAL, peer_name=_BARE, peer=bare, notes=_NOTES)


async def _record(directory: Path, count: int) -> None:
    """Make a journal of ``count`` recordings."""
    writer = JournalWriter(directory)
    content = delivery.body()
    headers = delivery.headers(content)

    def recording() -> Recording:
        now = datetime.now(UTC)
        return Recording(writer.next_id(), now, "POST", "/b24/handler", headers, content, code=delivery.CODE)

    for start in range(0, count, 1000):
        await asyncio.gather(*(writer.append(recording()) for _ in range(start, min(start + 1000, count))))
    await writer.close()


def _run(going: Going, recordings: Path, url: str, concurrency: int, script: str, *options: str) -> float:
    """One replay of a copy, because noting adds to a journal."""
    with going.fresh() as copy:
        shutil.copytree(recordings, copy, dirs_exist_ok=True)
        arguments = python(script, str(copy), url, "--concurrency", str(concurrency), *options)
        return float(going.processes.run_json(arguments, _SECONDS_AT_MOST)["rate"])


def _samples(results: list[float]) -> Samples:
    return Samples(tuple(results), "/s")

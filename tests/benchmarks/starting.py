"""How long the command takes to say how it is used."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from going import Going
from table import Goal, Row, Samples, row

NAMES = ("start-up",)
_TIMES_A_ROUND = 5
_PEER = "python -c 'import click'"


def command() -> list[str]:
    """`b24tunnel` as it was installed beside this interpreter."""
    script = Path(sys.executable).with_name("b24tunnel")
    return [str(script)] if script.exists() else [sys.executable, "-m", "b24tunnel"]


def measure(going: Going) -> Iterator[Row]:
    """`--help` against the import of what it is built on."""
    if not going.wants("start-up"):
        return
    results = going.in_turns(
        "start-up",
        {
            "ours": partial(seconds_of, going, [*command(), "--help"]),
            "peer": partial(seconds_of, going, [sys.executable, "-c", "import click"]),
        },
        rounds=going.settings.rounds * _TIMES_A_ROUND,
    )
    ours, peer = results["ours"], results["peer"]
    yield row("start-up", "b24tunnel --help", ours, _samples, Goal("≤", 3), peer_name=_PEER, peer=peer)


def _samples(results: list[float]) -> Samples:
    return Samples(tuple(results), "s")


def seconds_of(going: Going, arguments: list[str]) -> float:
    """How long a command takes from its start to its end."""
    start = time.perf_counter()
    going.processes.run(arguments, 600)
    return time.perf_counter() - start

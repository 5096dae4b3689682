"""Load from another process: as much as goes, from wrk, or at a fixed rate, from clients/steady.py."""

from __future__ import annotations

import json
import math
import time
from typing import NamedTuple

import delivery
from going import Going
from processes import HERE, Failed, Process, python


class Answered(NamedTuple):
    """What wrk got out of a server: deliveries answered 200, the seconds, and the server's share of one core."""

    count: int
    seconds: float
    processor: float

    @property
    def rate(self) -> float:
        """Deliveries acknowledged a second."""
        return self.count / self.seconds

    def __str__(self) -> str:
        return f"{self.rate:,.0f}/s, {self.processor:.0%} of a core"


class Latency(NamedTuple):
    """How long answers took at a fixed rate, in seconds."""

    p50: float
    p99: float
    worst: float

    def __str__(self) -> str:
        return f"p50 {self.p50 * 1e3:.2f} ms, p99 {self.p99 * 1e3:.2f} ms, worst {self.worst * 1e3:.1f} ms"


def as_much_as_goes(
    going: Going, server: Process, url: str, connections: int, seconds: float, *, closes: bool = False
) -> Answered:
    """Load by wrk; whole seconds. Raises `NotMeasured` without wrk and `Failed` for any answer but 2xx.

    ``closes``: the server ends each connection after its answer, which wrk counts beside the answer.
    """
    arguments = (
        *(going.find("wrk"), "-t", "1", "-c", str(connections), "-d", f"{max(1, math.ceil(seconds))}s"),
        *("--timeout", "60s", "-s", str(HERE / "deliver.lua"), url),
        *("--", delivery.body().decode(), delivery.USER_AGENT, delivery.CONTENT_TYPE),
    )
    before, start = server.cpu_seconds(), time.monotonic()
    said = going.processes.run(arguments, seconds + 60)
    used, took = server.cpu_seconds() - before, time.monotonic() - start
    summary = json.loads(said.splitlines()[-1])
    cut = summary["closed"] and not closes
    if summary["not_2xx"] or summary["lost"] or cut or not summary["answered"]:
        raise Failed(f"wrk, {connections} connections: {said.splitlines()[-1]}")
    return Answered(summary["answered"], summary["microseconds"] / 1e6, used / took)


def at_a_rate(going: Going, url: str, *, connections: int, rate: float, seconds: float) -> Latency:
    """Load at ``rate`` deliveries a second."""
    arguments = python(
        *("clients/steady.py", url, "--connections", str(connections)),
        *("--rate", str(rate), "--seconds", str(seconds)),
    )
    summary = going.processes.run_json(arguments, seconds + 60)
    return Latency(summary["p50"], summary["p99"], summary["worst"])

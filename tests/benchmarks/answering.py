"""How long an acknowledgement takes, depending on what the handler does behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import peers
from going import Going
from load import Latency, at_a_rate
from table import Goal, Row, Samples, row

_CONNECTIONS = 16
_RATE = 500
_SLEEP_SECONDS = 30


@contextmanager
def _url(server: AbstractContextManager[peers.Peer]) -> Iterator[str]:
    with server as peer:
        yield peer.url


_HANDLERS: dict[str, tuple[str, Goal | None, Callable[[Going], AbstractContextManager[str | None]]]] = {
    "answer-none": ("none", None, lambda going: nullcontext()),
    "answer-fast": ("one that answers at once", None, lambda going: _url(peers.empty(going))),
    "answer-sleeping": (
        f"one that sleeps {_SLEEP_SECONDS} s",
        Goal("≤", 1.5),
        lambda going: _url(peers.sleeping(going, _SLEEP_SECONDS)),
    ),
    "answer-dead": ("one that is dead", None, lambda going: nullcontext(peers.DEAD)),
}
NAMES = tuple(_HANDLERS)


def measure(going: Going) -> Iterator[Row]:
    """The p99 with each handler, and against that without one."""
    wanted = [name for name in NAMES if going.wants(name)]
    if not wanted:
        return
    names = dict.fromkeys(("answer-none", *wanted))
    measured = {name: partial(_once, going, _HANDLERS[name][2]) for name in names}
    rounds = 2 * going.settings.rounds - 1  # more than elsewhere, for a p99 is made by few of the answers
    results = going.in_turns(f"acknowledgement at {_RATE}/s", measured, rounds)
    for name in wanted:
        handler, goal, _ = _HANDLERS[name]
        what = f"acknowledgement p99 at {_RATE}/s, handler: {handler}"
        none = None if name == "answer-none" else results["answer-none"]
        peer = "" if none is None else "handler: none"
        yield row(name, what, results[name], _samples, goal, peer_name=peer, peer=none)


def _once(going: Going, handler: Callable[[Going], AbstractContextManager[str | None]]) -> Latency:
    with handler(going) as url, peers.recorder(going, forward=url) as recorder:
        seconds = going.settings.seconds
        return at_a_rate(going, recorder.url, connections=_CONNECTIONS, rate=_RATE, seconds=seconds)


def _samples(results: list[Latency]) -> Samples:
    p50 = Samples(tuple(result.p50 for result in results), "s")
    return Samples(tuple(result.p99 for result in results), "s", f"p50 {p50}")

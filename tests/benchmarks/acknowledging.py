"""Deliveries acknowledged a second: our recorder against an empty handler and against what others record with."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial

import peers
from going import Going
from load import Answered, as_much_as_goes
from peers import Loop, Peer
from processes import Failed
from table import Goal, Row, Samples, row

OURS = "b24tunnel listen"
_EMPTY = "aiohttp, empty handler"

_AGAINST_EMPTY = {64: Goal("≥", 0.8), 16: Goal("≥", 0.5)}
_AGAINST_OTHERS: dict[str, tuple[str, Goal | None, Callable[[Going], AbstractContextManager[Peer]]]] = {
    "against-tinydb": ("aiohttp + default TinyDB insert", Goal("≥", 30), peers.tinydb),
    "against-mitmdump": ("mitmdump -w, reverse mode", Goal("≥", 8), peers.mitmdump),
    "against-php": ("php -S, file_put_contents", None, peers.php),
}

_NOTES = (
    "Acknowledged by `b24tunnel listen` means on disk (fdatasync). TinyDB syncs too, its whole file at each "
    "insert, so it falls as it grows; mitmdump and PHP never sync.",
)

NAMES = (
    *("acknowledged-64", "acknowledged-16", "acknowledged-64-uvloop", "acknowledged-16-uvloop"),
    *_AGAINST_OTHERS,
)


def measure(going: Going) -> Iterator[Row]:
    """The rows that are wanted; those at 16 connections are all measured in the same turns."""
    if going.wants("acknowledged-64"):
        yield from _against_empty(going, 64, "asyncio")
    yield from _at_16(going)
    for connections in (64, 16):
        if going.wants(f"acknowledged-{connections}-uvloop"):
            yield from _against_empty(going, connections, "uvloop")


def _against_empty(going: Going, connections: int, loop: Loop) -> Iterator[Row]:
    suffix = "-uvloop" if loop == "uvloop" else ""
    what = f"acknowledged, {connections} connections{', both on uvloop' if suffix else ''}"
    results = going.in_turns(
        what,
        {
            OURS: partial(_acknowledged, going, connections, partial(peers.recorder, loop=loop)),
            _EMPTY: partial(_acknowledged, going, connections, partial(peers.empty, loop=loop)),
        },
    )
    name = f"acknowledged-{connections}{suffix}"
    goal = _AGAINST_EMPTY[connections]
    yield row(name, what, results[OURS], _samples, goal, peer_name=_EMPTY, peer=results[_EMPTY], notes=_NOTES)


def _at_16(going: Going) -> Iterator[Row]:
    wanted = {
        peer: (name, goal, start)
        for name, (peer, goal, start) in {
            "acknowledged-16": (_EMPTY, _AGAINST_EMPTY[16], peers.empty),
            **_AGAINST_OTHERS,
        }.items()
        if going.wants(name)
    }
    if not wanted:
        return
    what = "acknowledged, 16 connections"
    measured: dict[str, Callable[[], Answered]] = {OURS: partial(_acknowledged, going, 16, peers.recorder)}
    measured |= {peer: partial(_acknowledged, going, 16, start) for peer, (_, _, start) in wanted.items()}
    results = going.in_turns(what, measured)
    for peer, (name, goal, _) in wanted.items():
        yield row(name, what, results[OURS], _samples, goal, peer_name=peer, peer=results[peer], notes=_NOTES)


def _acknowledged(
    going: Going, connections: int, start: Callable[[Going], AbstractContextManager[Peer]]
) -> Answered:
    """Load on one that is started afresh. Where it can be counted, all that it acknowledged must be recorded."""
    with start(going) as peer:
        answered = as_much_as_goes(
            going, peer.process, peer.url, connections, going.settings.seconds, closes=peer.closes
        )
        peer.process.kill()
        if peer.recorded is not None and (recorded := peer.recorded()) < answered.count:
            raise Failed(f"{answered.count} deliveries were acknowledged and {recorded} are recorded")
        return answered


def _samples(results: list[Answered]) -> Samples:
    share = statistics.median(result.processor for result in results)
    return Samples(tuple(result.rate for result in results), "/s", f"{share:.0%} of a core")

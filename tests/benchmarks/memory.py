"""The memory of a `listen` over very many deliveries, its handler dead or answering, and that of a long replay."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from threading import Event, Thread

import peers
from going import Going
from load import as_much_as_goes
from made_journal import made_journal
from processes import Process, Unmeasured, python
from table import Goal, Row, Samples

_GOAL = Goal("<", 30, "MB")
_CONNECTIONS = 64
_FEWER = 10
_SECONDS_A_LOAD = 10
_SAMPLE_SECONDS = 0.1
_REPLAY_SECONDS_AT_MOST = 1800

NAMES = ("memory-dead", "memory-fast", "memory-replay")


def measure(going: Going) -> Iterator[Row]:
    """The growth after a warm-up, with each handler, and that of a replay after its first tenth."""
    deliveries = going.settings.deliveries
    if going.wants("memory-dead"):
        yield _row(going, "memory-dead", "dead", peers.DEAD, deliveries)
    if going.wants("memory-fast"):
        with peers.empty(going) as handler:
            yield _row(going, "memory-fast", "answering", handler.url, deliveries // _FEWER)
    if going.wants("memory-replay"):
        yield _replay(going)


class Watch:
    """Samples a process's memory while it works, in a thread."""

    def __init__(self, process: Process) -> None:
        self.highest = 0
        self._process = process
        self._over = Event()
        self._thread = Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._over.wait(_SAMPLE_SECONDS):
            with suppress(OSError):  # it died, and the load says so
                self.highest = max(self.highest, self._process.resident())


def _row(going: Going, name: str, handler: str, forward: str, deliveries: int) -> Row:
    what = f"memory growth of listen, handler {handler}"
    warm_up = going.settings.warm_up
    try:
        with peers.recorder(going, forward=forward) as recorder:
            _deliver(going, recorder, warm_up)
            before = recorder.process.resident()
            with Watch(recorder.process) as watch:
                start = time.monotonic()
                delivered = _deliver(going, recorder, deliveries)
                took = time.monotonic() - start
            after = recorder.process.resident()
    except Unmeasured as reason:
        return Row(name, what, goal=_GOAL, reason=reason)
    what = f"{what}, {delivered:,} deliveries in {took:.0f} s"
    # What is held at the highest moment counts; its end tells whether it comes back.
    highest = max(watch.highest, after) - before
    growth = Samples((highest / 1e6,), "MB", f"{(after - before) / 1e6:.1f} MB at the end")
    return Row(name, what, growth, peer_name=f"{before / 1e6:.1f} MB after {warm_up:,}", goal=_GOAL)


def _deliver(going: Going, recorder: peers.Peer, count: int) -> int:
    """Deliver ``count`` times at least; gives how many it were."""
    delivered = 0
    rate = 0.0
    while delivered < count:
        seconds = min(_SECONDS_A_LOAD, (count - delivered) / rate) if rate else 1
        answered = as_much_as_goes(going, recorder.process, recorder.url, _CONNECTIONS, seconds)
        delivered += answered.count
        rate = answered.rate
        going.say(f"memory: {delivered:,} of {count:,}: {recorder.process.resident() / 1e6:.1f} MB, {answered}")
    return delivered


def _replay(going: Going) -> Row:
    """A replay of the made journal that notes its attempts and keeps no result."""
    count = going.settings.recordings
    going.say(f"a journal of {count:,} recordings, made now or cached")
    made = made_journal(going.settings.cache, count)
    with going.fresh() as empty, peers.empty(going) as handler:
        script = "clients/replaying_memory.py"
        command = python(script, str(made), str(empty), handler.url, "--expected", str(count))
        memory = going.processes.run_json(command, _REPLAY_SECONDS_AT_MOST)
    before, highest, after = memory["before"], memory["highest"], memory["after"]
    what = f"memory growth of replay, {count:,} recordings in {memory['seconds']:.0f} s"
    growth = Samples(((highest - before) / 1e6,), "MB", f"{(after - before) / 1e6:.1f} MB at the end")
    return Row("memory-replay", what, growth, peer_name=f"{before / 1e6:.1f} MB after a tenth", goal=_GOAL)

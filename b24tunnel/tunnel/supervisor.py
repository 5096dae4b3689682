"""Owns the public address: opens it, probes through it, opens it again, and says what it is now."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from b24tunnel.errors import OutsideFailure
from b24tunnel.tunnel.finding import Finding
from b24tunnel.tunnel.provider import Lost, Tunnel, TunnelFailed


class Probes(Protocol):
    """What sends a probe through a public address (`b24tunnel.tunnel.probe.Prober`)."""

    async def probe(self, address: str) -> Finding:
        """See `b24tunnel.tunnel.probe.Prober.probe`."""
        ...


@dataclass(frozen=True)
class Candidate:
    """A tunnel that may be tried.

    Where it was not asked for by name: ``why`` it is tried, and, if it works, what would be ``better``.
    """

    tunnel: Tunnel
    why: str = ""
    better: str = ""


@dataclass(frozen=True)
class Pace:
    """How soon what happens; all in seconds but ``stay``.

    ``settle``: for a fresh address to begin to work, ``settle_given`` for one of the user's own. ``patience``:
    until it is told that an opening takes its time. ``confirm``: pauses before a probe that failed is repeated,
    the last of which decides. ``back_off``: pauses between rounds of openings; they begin anew after an address
    has been up for ``steady``. ``stay``: rounds in which only the candidate that was lost has its turn.
    ``look``: between looks at the clock for a sleep of the machine.
    """

    settle: float = 25.0
    settle_given: float = 2.0
    patience: float = 3.0
    confirm: tuple[float, ...] = (2.0,)
    back_off: tuple[float, ...] = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
    steady: float = 60.0
    stay: int = 5
    look: float = 5.0


@dataclass(frozen=True)
class TunnelState:
    """How the public address is.

    ``up``: the last probe came back. ``since`` (UTC): when that began to hold. ``seen_at`` (UTC): when a probe
    last came back; None where the address is taken for granted. ``latency_ms``: what it took there and back.
    ``losses``: how often it was lost. ``reason``: why it is down.
    """

    provider: str
    url: str | None
    up: bool
    since: datetime
    seen_at: datetime | None = None
    losses: int = 0
    latency_ms: float | None = None
    reason: str | None = None


class Supervisor:
    """Keeps one of ``candidates`` open, the first that works; `state` is None until `open` has returned.

    ``on_state`` gets every new state, after each probe. ``say`` gets what is worth knowing, ``trouble`` what goes
    wrong; both a sentence at a time, in the event loop.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        prober: Probes,
        *,
        say: Callable[[str], None],
        trouble: Callable[[str], None],
        on_state: Callable[[TunnelState], None],
        pace: Pace | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """``wall_clock`` goes on while the machine sleeps, unlike the event loop's."""
        self.state: TunnelState | None = None
        self._candidates = candidates
        self._prober = prober
        self._say = say
        self._trouble = trouble
        self._on_state = on_state
        self._pace = pace or Pace()
        self._clock = wall_clock
        self._turn = 0
        self._port = 0
        self._ahead = 0.0
        self._last: Finding | None = None
        self._came_up = 0.0  # on the event loop's clock, as the next ones are
        self._rests_until: dict[int, float] = {}
        self._rounds = 0

    @property
    def tunnel(self) -> Tunnel:
        """The candidate whose turn it is."""
        return self._candidates[self._turn].tunnel

    async def open(self, port: int, *, unproven: bool = False) -> str:
        """Open the first candidate that a probe comes back through; returns its public address.

        With ``unproven`` an address of the user's own that no probe came back through is told as trouble, returned
        all the same, and watched. Raises `OutsideFailure` with what each candidate failed with.
        """
        self._port = port
        self._has_slept()  # from now on
        failures: list[tuple[str, TunnelFailed]] = []
        for turn, candidate in enumerate(self._candidates):
            self._turn = turn
            if candidate.why:
                self._say(f"Tunnel {candidate.tunnel.name}: {candidate.why}.")
            given = unproven and candidate.tunnel.name == "url"
            try:
                with self._told_when_slow():
                    url = await candidate.tunnel.open(port, self._say)
                    finding = await (self._probe(url) if given else self._settled(url))
                if not finding.works and not given:
                    raise TunnelFailed(f"A probe did not come back: {finding.message}.{_hint(candidate, port)}")
            except TunnelFailed as failure:
                await candidate.tunnel.close()
                failures.append((candidate.tunnel.name, failure))
                continue
            for name, reason in failures:
                self._say(f"Tunnel {name} is of no use now: {reason}")
            if candidate.better:
                self._say(candidate.better)
            if finding.works:
                self._up(url, finding)
            else:
                self._trouble(f"The address does not lead here yet: {finding.message}.")
                self._set(url=url, reason=f"{finding.message}.")
            return url
        raise _none_of(failures)

    async def watch(self, on_address: Callable[[str], None]) -> None:
        """Probe on, for ever; after a loss open again. ``on_address`` gets the address whenever it may be new."""
        while True:
            lost = await self._until_lost()
            if lost.url is None:
                url = await self._reopened(lost.reason)
            else:
                self._say(f"Tunnel {self.tunnel.name}: {lost.reason}")
                finding = await self._settled(lost.url)
                if not finding.works:
                    url = await self._reopened(f"{finding.message}.")
                else:
                    url = lost.url
                    self._up(url, finding)
            on_address(url)

    async def close(self) -> None:
        """End the tunnel."""
        await self.tunnel.close()

    async def _until_lost(self) -> Lost:
        assert self.state is not None
        if not self.state.up:  # it never was
            return Lost(self.state.reason or "")
        losing = asyncio.create_task(self.tunnel.lost())
        try:
            while True:
                await self._pause(self.tunnel.probe_seconds, losing)
                if losing.done():
                    return losing.result()
                finding = await self._confirmed(losing)
                if finding is None:
                    return losing.result()
                if not finding.works:
                    return Lost(f"{finding.message}.")
                self._up(self.state.url, finding)
        finally:
            losing.cancel()
            await asyncio.gather(losing, return_exceptions=True)

    async def _confirmed(self, losing: asyncio.Task[Lost]) -> Finding | None:
        """What a probe finds, repeated before it is believed that nothing works; None if ``losing`` was first."""
        assert self.state is not None
        assert self.state.url is not None
        finding = await self._probe(self.state.url)
        for pause in self._pace.confirm:
            if finding.works:
                break
            await self._pause(pause, losing)
            if losing.done():
                return None
            finding = await self._probe(self.state.url)
        return finding

    async def _probe(self, url: str) -> Finding:
        finding = await self._prober.probe(url)
        self._last = finding
        return finding

    async def _reopened(self, reason: str) -> str:
        """Open again, however long it takes; the address then.

        The candidate that was lost goes first in each round, so that an outage of this machine's own network does
        not end with another address.
        """
        assert self.state is not None
        was_up = self.state.up
        seen = self.state.seen_at or self.state.since
        self._down(reason)
        former = self._turn
        named: set[int] = {former}
        told = reason
        loop = asyncio.get_running_loop()
        # One that is lost as soon as it is up is not opened without a pause.
        rounds = self._rounds + 1 if loop.time() - self._came_up < self._pace.steady else 0
        alone = 0
        others_too = False
        while True:
            others_too = others_too or alone == self._pace.stay
            await self._rest(rounds, range(len(self._candidates)) if others_too else (former,))
            turns = [former]
            if others_too:
                turns += self._others(former)
            for turn in turns:
                if self._rests_until.get(turn, 0.0) > loop.time():
                    continue
                await self._take_turn(turn, former, named)
                result = await self._try_to_open()
                if isinstance(result, tuple):
                    self._rounds = rounds
                    self._up(*result)
                    self._tell_up(was_up, seen)
                    return result[0]
                if str(result) != told:
                    told = str(result)
                    self._trouble(f"Tunnel {self.tunnel.name} is still down: {told}")
                    self._set(reason=told)
                if turn == former and not others_too and (result.permanent or result.pause):
                    others_too = True
                    turns += self._others(former)
            rounds += 1
            alone += 1

    def _others(self, former: int) -> list[int]:
        return [turn for turn in range(len(self._candidates)) if turn != former]

    async def _rest(self, rounds: int, turns: Iterable[int]) -> None:
        """Pause before a round, the longer the more there were, and until one of these may be tried again."""
        loop = asyncio.get_running_loop()
        pause = 0.0
        if rounds:
            pause = self._pace.back_off[min(rounds, len(self._pace.back_off)) - 1] * random.uniform(0.8, 1.2)
        await self._pause(max(pause, min(self._rests_until.get(turn, 0.0) for turn in turns) - loop.time()))

    async def _take_turn(self, turn: int, former: int, named: set[int]) -> None:
        await self.tunnel.close()
        self._turn = turn
        if turn not in named:
            named.add(turn)
            self._say(f"Tunnel {self.tunnel.name} is tried in place of {self._candidates[former].tunnel.name}.")

    async def _try_to_open(self) -> tuple[str, Finding] | TunnelFailed:
        """An address that works and what the probe found, or why there is none."""
        try:
            url = await self.tunnel.open(self._port, self._say)
            finding = await self._settled(url)
        except TunnelFailed as failure:
            self._rests_until[self._turn] = asyncio.get_running_loop().time() + failure.pause
            return failure
        if finding.works:
            return url, finding
        return TunnelFailed(f"{finding.message}.")

    def _tell_up(self, was_up: bool, seen: datetime) -> None:
        if not was_up:
            self._say("The address leads here now.")
            return
        gap = _duration(self._clock() - seen.timestamp())
        self._say(
            f"Tunnel {self.tunnel.name} is up again, {gap} after it was last seen to work: what Bitrix24 sent "
            "meanwhile may be lost, for it does not send again."
        )

    async def _settled(self, url: str) -> Finding:
        """What a probe finds once a fresh address has begun to work, or when that takes too long."""
        loop = asyncio.get_running_loop()
        given = self.tunnel.name in ("url", "local")  # nothing is coming up there
        end = loop.time() + (min(self._pace.settle, self._pace.settle_given) if given else self._pace.settle)
        pause = 0.25
        while True:
            finding = await self._probe(url)
            if not finding.may_pass or loop.time() + pause > end:
                return finding
            await asyncio.sleep(pause)
            pause = min(pause * 2, 4.0)

    async def _pause(self, seconds: float, losing: asyncio.Task[Lost] | None = None) -> None:
        """Wait so long, or until ``losing`` is done, or until the machine wakes up from sleep."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while (left := end - loop.time()) > 0:
            look = min(left, self._pace.look)
            if losing is None:
                await asyncio.sleep(look)
            else:
                await asyncio.wait((losing,), timeout=look)
                if losing.done():
                    return
            if self._has_slept():
                return

    def _has_slept(self) -> bool:
        """Whether the wall clock has gone on since the last look while the event loop's stood still."""
        ahead = self._clock() - asyncio.get_running_loop().time()
        slept = ahead - self._ahead > 2 * self._pace.look
        self._ahead = ahead
        return slept

    @contextmanager
    def _told_when_slow(self) -> Iterator[None]:
        """Nobody shall take it for dead while it opens."""
        self._last = None

        def tell() -> None:
            so_far = f" ({self._last.message})" if self._last is not None else ""
            self._say(f"Tunnel {self.tunnel.name} takes its time{so_far}.")

        timer = asyncio.get_running_loop().call_later(self._pace.patience, tell)
        try:
            yield
        finally:
            timer.cancel()

    def _up(self, url: str | None, finding: Finding) -> None:
        if self.state is None or not self.state.up:
            self._came_up = asyncio.get_running_loop().time()
        seen = None if finding.latency_ms is None else self._now()
        self._set(url=url, up=True, seen_at=seen, latency_ms=finding.latency_ms, reason=None)

    def _down(self, reason: str) -> None:
        assert self.state is not None
        if self.state.up:
            self._trouble(f"Tunnel {self.tunnel.name} is down: {reason}")
            self._set(up=False, losses=self.state.losses + 1, latency_ms=None, reason=reason)

    def _set(self, **changes: object) -> None:
        name = self.tunnel.name
        now = self._now()
        before = self.state or TunnelState(name, None, up=False, since=now)
        state = dataclasses.replace(before, provider=name, **changes)  # type: ignore[arg-type]
        if state.up != before.up:
            state = dataclasses.replace(state, since=now)
        self.state = state
        self._on_state(state)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


def _hint(candidate: Candidate, port: int) -> str:
    if candidate.tunnel.name != "url":
        return ""
    return (
        f" It has to lead to 127.0.0.1:{port} (--port gives it a number that stays); --no-probe is for an address "
        "that this machine cannot see from outside."
    )


def _none_of(failures: Sequence[tuple[str, TunnelFailed]]) -> OutsideFailure:
    if len(failures) == 1:
        return failures[0][1]
    reasons = " ".join(f"{name}: {failure}" for name, failure in failures)
    return OutsideFailure(
        "No tunnel gives an address that works: check the network, see what else there is ('b24tunnel tunnels'), "
        f"or give an address of your own with --public-url. {reasons}"
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"

"""A session of this process that runs beside the test, and what it tells."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from b24tunnel.happenings import Happening, Ready, Stopped
from b24tunnel.session import Session, Settings
from b24tunnel.tunnel import Tunnel
from b24tunnel.tunnel.supervisor import Candidate

DEADLINE = 20.0


class Running:
    """A session that runs in a task, and what it told."""

    def __init__(self, settings: Settings) -> None:
        self.told: list[Happening] = []
        self.stop = asyncio.Event()
        self.session = Session(settings, self.told.append)
        self.task = asyncio.create_task(self.session.run(self.stop))

    def of(self, kind: type) -> list[Any]:
        """What it told of one kind."""
        return [happening for happening in self.told if isinstance(happening, kind)]

    async def until(self, condition: Callable[[], Any]) -> Any:
        """The condition's value once it is true; fails when the session ends before."""
        async with asyncio.timeout(DEADLINE):
            while not (value := condition()):
                if self.task.done():
                    self.task.result()
                    raise AssertionError(f"it ended: {self.told}")
                await asyncio.sleep(0.005)
        return value

    async def ready(self) -> Ready:
        """What it told when it was ready."""
        ready: Ready = (await self.until(lambda: self.of(Ready)))[0]
        return ready

    async def stopped(self) -> Stopped:
        """The sum, once it has ended in order; without the tunnel's state, in which times are."""
        self.stop.set()
        async with asyncio.timeout(DEADLINE):
            await self.task
        assert isinstance(self.told[-1], Stopped)
        return replace(self.told[-1], tunnel=None)


def tried(*tunnels: Tunnel) -> tuple[Candidate, ...]:
    """These tunnels, as `Settings` takes them."""
    return tuple(Candidate(tunnel) for tunnel in tunnels)

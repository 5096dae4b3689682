"""The session that receives during a walk, and the step that sees whether its public address leads to it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from b24tunnel.doctor.step import Found, failed, ok, warning
from b24tunnel.doctor.walk import Walk
from b24tunnel.errors import OutsideFailure, UserError
from b24tunnel.happenings import Happening, Note, Ready, Trouble, TunnelProbed
from b24tunnel.session import Session, Settings, check_reachable
from b24tunnel.tunnel.supervisor import TunnelState

_ANOTHER = "Take another tunnel ('b24tunnel tunnels' lists them), or an address of your own with --public-url."


class Listening:
    """A session under way that binds nothing by itself, and what it tells."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.notes: list[str] = []
        self.troubles: list[str] = []
        self._told: asyncio.Queue[Happening] = asyncio.Queue()
        self._session = Session(settings, self._take)
        self._task: asyncio.Task[None]
        self._path = ""
        self._url = ""

    @property
    def handler_url(self) -> str:
        """The address to bind now: the public one may have become another since the start."""
        return self._url + self._path

    @asynccontextmanager
    async def under_way(self) -> AsyncIterator[Listening]:
        """It runs inside the block, and is stopped in order at its end."""
        stop = asyncio.Event()
        self._task = asyncio.create_task(self._session.run(stop))
        try:
            yield self
        finally:
            stop.set()
            await asyncio.gather(self._task, return_exceptions=True)  # what it failed with was told by `until`

    async def until(self, wanted: Callable[[Happening], bool]) -> Happening:
        """The next happening that is ``wanted``; raises what the session failed with, if it does before."""
        while True:
            next_one = asyncio.create_task(self._told.get())
            try:
                await asyncio.wait((next_one, self._task), return_when=asyncio.FIRST_COMPLETED)
                if not next_one.done():
                    self._task.result()
                    raise OutsideFailure("The session ended by itself; try again")
                if wanted(happening := next_one.result()):
                    return happening
            finally:
                next_one.cancel()

    def _take(self, happening: Happening) -> None:
        if isinstance(happening, Ready):
            self._path = "/b24/" + happening.handler_url.rpartition("/b24/")[2]
        elif isinstance(happening, TunnelProbed):
            self._url = happening.state.url or self._url
        elif isinstance(happening, Note):
            self.notes.append(happening.message)
        elif isinstance(happening, Trouble):
            self.troubles.append(happening.message)
        self._told.put_nowait(happening)


async def tunnel(walk: Walk) -> Found:
    """A tunnel is up, and a probe through its public address has come back."""
    plan = walk.plan
    settings = Settings(
        recordings=walk.recordings,
        tunnels=walk.tunnels,
        portal=walk.portal,
        state=walk.state,
        bind=False,
        probe=plan.probe,
        pace=plan.pace,
        forward=plan.forward,
        routes=plan.routes,
        resume=False,
        port=plan.port or 0,
        timeout=plan.handler_seconds,
    )
    names = ", ".join(candidate.tunnel.name for candidate in walk.tunnels)
    in_vain = failed(
        f"The tunnel ({names}) is not up within the {plan.timeout:g} s of the whole walk.", _ANOTHER, 3
    )
    try:
        check_reachable(dataclasses.replace(settings, bind=True))
        walk.listening = await walk.stack.enter_async_context(Listening(settings).under_way())
        async with walk.waiting(plan.timeout, in_vain):
            state = _state(await walk.listening.until(lambda told: isinstance(told, TunnelProbed)))
    except UserError as error:
        return failed(str(error), _ANOTHER, error.exit_code)
    if not state.up:
        return failed(
            f"The address {state.url} is up and does not lead here: {state.reason}",
            "Let it lead to the --port that you give here, unchanged and without a page or a login before it; "
            "--no-probe is for an address that this machine cannot see from outside.",
            OutsideFailure.exit_code,
        )
    useless = [note for note in walk.listening.notes if "is of no use now" in note]
    leads = f"The tunnel {state.provider} gives {state.url}"
    if state.latency_ms is None:
        return warning(f"{leads}, which is taken to lead here.", "Leave --no-probe out to have it proved.")
    leads += f", and a probe through it came back after {state.latency_ms:.0f} ms."
    return warning(f"{leads} {' '.join(useless)}", _ANOTHER) if useless else ok(leads)


def _state(told: Happening) -> TunnelState:
    assert isinstance(told, TunnelProbed)
    return told.state

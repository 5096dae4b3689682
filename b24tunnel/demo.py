"""The whole walk in one go, with nothing but this machine: what `b24tunnel demo` shows and checks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import aiohttp
from aiohttp import web

from b24tunnel.errors import CheckFailed
from b24tunnel.event import Event
from b24tunnel.happenings import Attempted, Happening, Ready, Recorded, Trouble
from b24tunnel.journal import Journal
from b24tunnel.portal import Portal, RestClient, State
from b24tunnel.recording import Attempt, Recording
from b24tunnel.replaying import areplay
from b24tunnel.sandbox import Sandbox
from b24tunnel.session import Session, Settings
from b24tunnel.tunnel.local import LocalTunnel
from b24tunnel.tunnel.supervisor import Candidate

_EVENT = "ONCRMDEALUPDATE"
_STEP_SECONDS = 20.0

Say = Callable[[str], None]
_T = TypeVar("_T")


async def demo(directory: Path, say: Say) -> None:
    """Walk through recording, forwarding and replaying on a simulated portal; one ``say`` a step that held.

    Journal and state are written below ``directory``. Raises `CheckFailed` at the first step that does not hold.
    """
    recordings = directory / "recordings"
    state = State.open(directory / "home")
    async with Sandbox(delay=0.1) as sandbox, _Handler().serving() as handler:
        portal = Portal.from_mapping("sandbox", sandbox.credentials.as_dict())
        state.save_portal(portal)
        say(f"A simulated portal runs at {sandbox.url}.")
        say(f"A sample handler runs at {handler.url}; it asks the portal what has changed.")
        async with (
            RestClient(portal, state) as client,
            _listening(
                Settings(
                    recordings=recordings,
                    tunnels=(Candidate(LocalTunnel()),),
                    events=(_EVENT,),
                    portal=portal,
                    state=state,
                    forward=handler.url,
                )
            ) as seen,
        ):
            _check([b.event for b in sandbox.bindings] == [_EVENT], f"{_EVENT} is bound once")
            say(f"Bound {_EVENT} to {seen.ready.handler_url}.")
            deal = await client.call("crm.deal.add", {"fields": {"TITLE": "A deal", "OPPORTUNITY": 100}})
            await client.call("crm.deal.update", {"id": deal, "fields": {"TITLE": "A better deal"}})
            say(f"Changed deal {deal} on the portal.")
            recording = await seen.next_recording()
            sent = [delivery.body for delivery in sandbox.deliveries]
            _check(sent == [recording.body], "the recording holds the bytes that the portal sent")
            say(f"Recorded {recording.id}: {recording.code}, {len(recording.body)} bytes, {recording.verdict}.")
            attempt = await seen.next_attempt()
            _check(attempt.ok, f"the handler answered 2xx, not {attempt.status or attempt.error}")
            _check(handler.bodies == [recording.body], "the handler got the bytes that were recorded")
            say(f"Forwarded it; the handler answered {attempt.status}: {attempt.body.decode()!r}.")
            await sandbox.idle(_STEP_SECONDS)
            _check([d.status for d in sandbox.deliveries] == [200], "the portal was answered 200")
        _check(not sandbox.bindings, "nothing is left bound")
        say("Stopped listening and unbound.")
        stored = Journal.open(recordings).get(recording.id)
        _check(stored == recording, "the journal on disk holds the recording")
        report = await areplay([recording], handler.url)
        _check(report.ok, "the handler answered the replay 2xx")
        _check(handler.bodies == [recording.body] * 2, "the replay sent the same bytes")
        say(f"Replayed {recording.id} from disk: the handler got the same {len(recording.body)} bytes again.")


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise CheckFailed(f"The demo found that this does not hold: {what}.")


@dataclass
class _Handler:
    """A handler as an application has one: it gets the ID of what changed and asks the portal for the rest."""

    url: str = ""
    bodies: list[bytes] = field(default_factory=list)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[_Handler]:
        application = web.Application()
        application.router.add_post("/handler", self._handle)
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            host, port = runner.addresses[0][:2]
            self.url = f"http://{host}:{port}/handler"
            yield self
        finally:
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.bodies.append(body)
        event = Event.from_body(body)
        auth = event.auth or {}
        call = {"auth": auth["access_token"], "id": event.data["FIELDS"]["ID"]}
        async with (
            aiohttp.ClientSession() as client,
            client.post(auth["client_endpoint"] + "crm.deal.get", data=call) as answer,
        ):
            deal = (await answer.json())["result"]
        return web.Response(text=f"deal {deal['ID']} is now {deal['TITLE']}")


class _Seen:
    """What a session has told so far, to be waited for one by one."""

    def __init__(self) -> None:
        self.ready: Ready
        self.started = asyncio.Event()
        self._recordings: asyncio.Queue[Recording] = asyncio.Queue()
        self._attempts: asyncio.Queue[Attempt] = asyncio.Queue()
        self._troubles: list[str] = []

    def take(self, happening: Happening) -> None:
        if isinstance(happening, Ready):
            self.ready = happening
            self.started.set()
        elif isinstance(happening, Recorded):
            self._recordings.put_nowait(happening.recording)
        elif isinstance(happening, Attempted):
            self._attempts.put_nowait(happening.attempt)
        elif isinstance(happening, Trouble):
            self._troubles.append(happening.message)

    async def next_recording(self) -> Recording:
        return await self._next(self._recordings, "a delivery is recorded")

    async def next_attempt(self) -> Attempt:
        return await self._next(self._attempts, "the handler is tried")

    async def _next(self, queue: asyncio.Queue[_T], what: str) -> _T:
        try:
            async with asyncio.timeout(_STEP_SECONDS):
                return await queue.get()
        except TimeoutError:
            raise CheckFailed(
                f"The demo waited {_STEP_SECONDS:.0f} seconds in vain until {what}. {' '.join(self._troubles)}"
            ) from None


@asynccontextmanager
async def _listening(settings: Settings) -> AsyncIterator[_Seen]:
    """A session under way, stopped in order at the end."""
    seen = _Seen()
    stop = asyncio.Event()
    session = asyncio.create_task(Session(settings, seen.take).run(stop))
    started = asyncio.create_task(seen.started.wait())
    try:
        await asyncio.wait((session, started), return_when=asyncio.FIRST_COMPLETED)
        if session.done():
            session.result()
        yield seen
    finally:
        started.cancel()
        stop.set()
        await session

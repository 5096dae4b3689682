"""A session that catches up after gaps: nothing falls between queue and public address, nothing is doubled."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from raw_server import RawServer
from running_session import Running, tried
from way_tunnel import WayTunnel

from b24tunnel import form
from b24tunnel import session as session_module
from b24tunnel.happenings import Bound
from b24tunnel.journal import Journal
from b24tunnel.portal import Portal, State
from b24tunnel.sandbox import Fault, Sandbox
from b24tunnel.session import Settings
from b24tunnel.tunnel.supervisor import Pace

ADD, UPDATE = "ONCRMDEALADD", "ONCRMDEALUPDATE"
PACE = Pace(settle=0.3, confirm=(0.01,), back_off=(0.01,), look=0.05)


class Stage:
    """A sandbox, a handler, and a session with a tunnel that can be lost."""

    def __init__(self, directory: Path, sandbox: Sandbox, handler: RawServer) -> None:
        self.recordings = directory / "recordings"
        self.sandbox = sandbox
        self.handler = handler
        self.tunnel = WayTunnel()
        state = State.open(directory / "home")
        portal = Portal.from_mapping("mine", sandbox.credentials.as_dict())
        state.save_portal(portal)
        self.running = Running(
            Settings(
                recordings=self.recordings,
                tunnels=tried(self.tunnel),
                events=(ADD, UPDATE),
                portal=portal,
                state=state,
                pace=PACE,
                forward=handler.url,
                catch_up=True,
            )
        )

    def change(self, code: str, deal: int) -> None:
        self.sandbox.raise_event(code, {"FIELDS": {"ID": deal}})

    def calls(self, method: str) -> int:
        return sum(call.method == method for call in self.sandbox.calls)

    def got(self) -> list[tuple[str, str]]:
        """What the handler was told of."""
        told: list[Any] = [form.parse(body) for body in self.handler.bodies()]
        return sorted((fields["event"], fields["data"]["FIELDS"]["ID"]) for fields in told)

    def sources(self) -> list[str]:
        return [recording.source for recording in Journal.open(self.recordings).recordings()]

    async def until_drained(self, since: int) -> None:
        """Return once a drain has found the queue empty, after so many calls."""
        await self.running.until(lambda: self.calls("event.offline.get") > since and not self.sandbox.offline)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with Sandbox(delay=0) as sandbox:
        with RawServer() as handler:
            stage = Stage(tmp_path, sandbox, handler)
            yield stage
            stage.running.task.cancel()
            await asyncio.gather(stage.running.task, return_exceptions=True)


async def test_what_changes_while_the_new_address_is_being_bound_comes_from_the_queue(stage: Stage) -> None:
    running = stage.running
    await running.ready()
    binds = stage.calls("event.bind")
    stage.sandbox.fail("event.bind", Fault.slow(1))  # of the first event; the second is still at the old address
    stage.tunnel.lose()
    await running.until(lambda: stage.calls("event.bind") > binds)
    stage.change(UPDATE, 1)
    await running.until(lambda: running.of(Bound))
    await running.until(lambda: stage.got() == [(UPDATE, "1")])
    await running.stopped()
    assert stage.sources() == ["offline"]


async def _held_drain(stage: Stage) -> None:
    """The tunnel is up again and everything bound; the drain after that is on its way, since a second at least."""
    running = stage.running
    await running.ready()
    infos = stage.calls("app.info")
    stage.sandbox.fail("app.info", Fault.slow(2.5))
    stage.tunnel.lose()
    await running.until(lambda: running.of(Bound) and stage.calls("app.info") > infos)
    bound_at = int(time.time())
    await running.until(lambda: int(time.time()) > bound_at)  # the queue's times are whole seconds


async def test_what_happens_while_the_queue_is_drained_arrives_once(
    stage: Stage,
) -> None:
    await _held_drain(stage)
    stage.sandbox._queue.delay = 3.0  # its delivery is still on its way when the drain sees it in the queue
    gets = stage.calls("event.offline.get")
    stage.change(ADD, 7)
    await stage.running.until(lambda: stage.calls("event.offline.get") > gets)
    assert stage.got() == []
    await stage.running.until(lambda: stage.got() == [(ADD, "7")])
    await stage.running.stopped()
    assert stage.sources() == ["tunnel"]


async def test_what_happens_meanwhile_and_does_not_arrive_is_taken_from_the_queue_a_little_later(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "ONLINE_SECONDS", 0.5)
    await _held_drain(stage)
    stage.sandbox._queue.delay = 3600.0  # lost by the portal
    stage.change(ADD, 7)
    await stage.running.until(lambda: stage.got() == [(ADD, "7")])
    await stage.running.stopped()
    assert stage.sources() == ["offline"]
    assert stage.sandbox.offline == []

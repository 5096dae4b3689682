"""A session whose public address comes and goes: bindings follow it, and nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from altering_way import answer
from programs import free_port
from raw_server import deliver
from running_session import Running, tried
from way_tunnel import WayTunnel

from b24tunnel.errors import OutsideFailure, UserError
from b24tunnel.happenings import Bound, Note, Ready, Recorded, Trouble, TunnelProbed
from b24tunnel.journal import Journal
from b24tunnel.portal import Portal, RestClient, State
from b24tunnel.sandbox import Sandbox
from b24tunnel.session import Settings
from b24tunnel.tunnel import TunnelFailed
from b24tunnel.tunnel.supervisor import Pace
from b24tunnel.tunnel.url import UrlTunnel

PACE = Pace(settle=0.3, confirm=(0.01,), back_off=(0.01,), look=0.05)
EVENTS = ("ONCRMDEALADD", "ONCRMDEALUPDATE")


class Stage:
    """A sandbox, a tunnel, and sessions over one directory."""

    def __init__(self, sandbox: Sandbox, directory: Path) -> None:
        self.sandbox = sandbox
        self.state = State.open(directory / "home")
        portal = Portal.from_mapping("sandbox", sandbox.credentials.as_dict())
        self.state.save_portal(portal)
        self.recordings = directory / "recordings"
        self.tunnel = WayTunnel()
        self.settings = Settings(
            self.recordings, tried(self.tunnel), EVENTS, portal=portal, state=self.state, pace=PACE
        )
        self._all: list[Running] = []

    def start(self, **changes: Any) -> Running:
        running = Running(replace(self.settings, **changes))
        self._all.append(running)
        return running

    def bound(self) -> list[tuple[str, str]]:
        return [(row.event, row.handler) for row in self.sandbox.bindings]

    def called(self, *methods: str) -> list[tuple[str, str]]:
        """The calls of these methods that the portal took, in order, each with the handler that it named."""
        return [
            (call.method, call.params.get("handler", call.params.get("HANDLER", "")))
            for call in self.sandbox.calls
            if call.method in methods and call.error is None
        ]

    async def end_all(self) -> None:
        for running in self._all:
            running.task.cancel()
        await asyncio.gather(*(running.task for running in self._all), return_exceptions=True)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with Sandbox(delay=0.02) as sandbox:
        stage = Stage(sandbox, tmp_path)
        yield stage
        await stage.end_all()


def bound_to(url: str) -> list[tuple[str, str]]:
    return [(event, url) for event in EVENTS]


async def test_nothing_is_bound_before_a_probe_has_come_back(stage: Stage) -> None:
    stage.tunnel.deed = answer(200, "<title>Visit the site?</title>")
    with pytest.raises(OutsideFailure, match="Visit the site"):
        await stage.start().task
    assert stage.bound() == []
    assert stage.called("event.bind") == []
    assert stage.tunnel.way is None


async def test_what_is_bound_follows_the_address_the_new_one_before_the_old(stage: Stage) -> None:
    running = stage.start()
    before = (await running.ready()).handler_url
    assert stage.bound() == bound_to(before)
    stage.tunnel.lose()
    [bound] = await running.until(lambda: running.of(Bound))
    await running.until(lambda: len(stage.bound()) == 2)
    after = bound.handler_url
    assert after.startswith(stage.tunnel.opened[1])
    assert stage.bound() == bound_to(after)
    await running.until(lambda: [row.handler for row in stage.state.ledger()] == [after, after])
    calls = stage.called("event.bind", "event.unbind")
    assert calls[2:4] == [("event.bind", after), ("event.bind", after)]
    assert sorted(calls[4:]) == [("event.unbind", before), ("event.unbind", before)]
    await running.stopped()
    assert stage.bound() == []
    assert stage.state.ledger() == []


async def test_no_delivery_that_was_acknowledged_is_lost_while_the_address_changes(stage: Stage) -> None:
    running = stage.start()
    first = (await running.ready()).handler_url
    acknowledged = []
    urls = [first]
    over = asyncio.Event()

    async def send() -> None:
        """To whatever address is bound, as Bitrix24 does; what is not answered 200 is its loss."""
        number = 0
        token = stage.sandbox.credentials.application_token.encode()
        while not over.is_set():
            number += 1
            body = b"event=ONCRMDEALADD&data[FIELDS][ID]=%d&auth[application_token]=%s" % (number, token)
            try:
                if (await asyncio.to_thread(deliver, urls[-1], body)).status == 200:
                    acknowledged.append(body)
            except (OSError, AssertionError):
                await asyncio.sleep(0)  # nobody is there now

    sending = asyncio.create_task(send())
    for turn in range(3):
        count = len(acknowledged)
        await running.until(lambda count=count: len(acknowledged) > count + 5)
        stage.tunnel.lose()
        await running.until(lambda turn=turn: len(running.of(Bound)) > turn)
        urls.append(running.of(Bound)[-1].handler_url)
    count = len(acknowledged)
    await running.until(lambda: len(acknowledged) > count + 5)
    over.set()
    await sending
    await running.stopped()
    recorded = [recording.body for recording in Journal.open(stage.recordings).recordings()]
    assert set(acknowledged) <= set(recorded)


async def test_a_delivery_of_the_portal_arrives_at_the_new_address(stage: Stage) -> None:
    running = stage.start()
    await running.ready()
    stage.tunnel.lose()
    await running.until(lambda: running.of(Bound))
    stage.sandbox.raise_event("ONCRMDEALADD", {"FIELDS": {"ID": "7"}})
    [recorded] = await running.until(lambda: running.of(Recorded))
    assert recorded.recording.event.data == {"FIELDS": {"ID": "7"}}


async def test_a_portal_that_is_away_while_the_address_changes_is_asked_again_until_it_answers(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = stage.start()
    await running.ready()
    failures = 0
    bind = RestClient.event_bind

    async def away(self: RestClient, event: str, handler: str, *more: Any) -> bool:
        nonlocal failures
        if failures < 3:
            failures += 1
            raise UserError("the portal sandbox cannot be reached")
        return await bind(self, event, handler, *more)

    monkeypatch.setattr(RestClient, "event_bind", away)
    stage.tunnel.lose()
    [bound] = await running.until(lambda: running.of(Bound))
    await running.until(lambda: stage.bound() == bound_to(bound.handler_url))
    troubles = [trouble.message for trouble in running.of(Trouble)]
    assert sum("not bound yet: the portal sandbox cannot be reached" in trouble for trouble in troubles) == 1


async def test_the_state_of_the_tunnel_is_told_and_stands_in_the_sum(stage: Stage) -> None:
    running = stage.start()
    await running.ready()
    await running.until(lambda: len(running.of(TunnelProbed)) > 2)
    first = running.of(TunnelProbed)[0]
    assert running.told.index(first) > running.told.index(running.of(Ready)[0])
    assert first.asked
    assert (first.state.provider, first.state.up, first.state.losses) == ("way", True, 0)
    stage.tunnel.failures = [TunnelFailed("No way today.")]
    stage.tunnel.lose("The connection is gone.")
    await running.until(lambda: running.of(Bound))
    down = [told.state for told in running.of(TunnelProbed) if not told.state.up]
    assert [state.reason for state in down] == ["The connection is gone.", "No way today."]
    running.session.tell_tunnel()
    assert running.of(TunnelProbed)[-1].asked
    running.stop.set()
    await running.task
    state = running.told[-1].tunnel  # type: ignore[union-attr]
    assert (state.losses, state.up) == (1, True)  # type: ignore[union-attr]


async def test_without_bindings_a_changed_address_is_told_as_one_to_paste(stage: Stage) -> None:
    running = stage.start(bind=False, portal=None, events=())
    await running.ready()
    stage.tunnel.lose()

    def told() -> list[Trouble]:
        return [trouble for trouble in running.of(Trouble) if "to be pasted" in trouble.message]

    await running.until(told)
    assert stage.tunnel.opened[1] in told()[0].message
    assert running.of(Bound) == []


async def test_what_is_to_be_kept_stays_bound_and_is_told_to_the_next_session(stage: Stage) -> None:
    running = stage.start(keep_bound=True)
    kept = (await running.ready()).handler_url
    await running.stopped()
    assert stage.bound() == bound_to(kept)
    assert {row.state for row in stage.state.ledger()} == {"kept"}
    assert "bindings clean --kept" in running.of(Note)[-1].message
    again = stage.start()
    another = (await again.ready()).handler_url
    notes = [note.message for note in again.of(Note)]
    assert sum(f"{kept} (kept by an earlier run" in note for note in notes) == 2
    await again.stopped()
    assert another != kept
    assert stage.bound() == bound_to(kept)


@pytest.mark.parametrize("keep", [False, True])
async def test_a_former_address_that_could_not_be_unbound_is_unbound_at_the_end(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, keep: bool
) -> None:
    running = stage.start(keep_bound=keep)
    former = (await running.ready()).handler_url
    unbind = RestClient.event_unbind

    async def refused(self: RestClient, event: str, handler: str, *more: Any) -> int:
        raise UserError("the portal sandbox is out of order")

    monkeypatch.setattr(RestClient, "event_unbind", refused)
    stage.tunnel.lose()
    [bound] = await running.until(lambda: running.of(Bound))
    await running.until(lambda: [told for told in running.of(Trouble) if "former address" in told.message])
    assert stage.bound() == bound_to(former) + bound_to(bound.handler_url)
    monkeypatch.setattr(RestClient, "event_unbind", unbind)
    await running.stopped()
    assert stage.bound() == (bound_to(bound.handler_url) if keep else [])


async def test_what_was_kept_is_taken_over_by_a_session_with_the_same_address(stage: Stage) -> None:
    way = WayTunnel()
    first = stage.start(tunnels=tried(way), keep_bound=True, port=(port := free_port()))
    url = (await first.ready()).handler_url
    assert way.way is not None
    address = UrlTunnel(way.way.url)
    first.stop.set()
    way.close = lambda: asyncio.sleep(0)  # type: ignore[method-assign]  # the same address leads here next time
    await first.task
    second = stage.start(tunnels=tried(address), port=port)
    assert (await second.ready()).handler_url == url
    assert {row.state for row in stage.state.ledger()} == {"bound"}
    assert not [note for note in second.of(Note) if "also goes" in note.message]
    await second.stopped()
    assert stage.bound() == []
    await WayTunnel.close(way)


async def test_an_address_that_comes_back_is_kept(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A to B, where A cannot be unbound, and to A again."""
    running = stage.start(keep_bound=True)
    first = (await running.ready()).handler_url
    assert stage.tunnel.way is not None
    first_url = stage.tunnel.way.url
    unbind = RestClient.event_unbind

    async def refused(self: RestClient, event: str, handler: str, *more: Any) -> int:
        raise UserError("the portal sandbox is out of order")

    monkeypatch.setattr(RestClient, "event_unbind", refused)
    await stage.tunnel.announce_another()
    await running.until(lambda: running.of(Bound))
    monkeypatch.setattr(RestClient, "event_unbind", unbind)
    stage.tunnel.lose("It has the first address again.", first_url)
    await running.until(lambda: len(running.of(Bound)) == 2)
    await running.stopped()
    assert stage.bound() == bound_to(first)
    assert not [note for note in running.of(Note) if "also goes to" in note.message], "they are its own"


async def test_a_list_that_cannot_be_asked_for_is_no_failed_binding(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = stage.start()
    await running.ready()

    async def away(self: RestClient) -> list[Any]:
        raise UserError("the portal sandbox is out of order")

    monkeypatch.setattr(RestClient, "event_get", away)
    stage.tunnel.lose()
    await running.until(lambda: [told for told in running.of(Trouble) if "could not be looked up" in told.message])
    assert not [told for told in running.of(Trouble) if "not bound yet" in told.message]


async def test_stopped_before_it_is_ready_it_keeps_nothing(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = asyncio.Event()

    async def hanging(self: RestClient) -> list[Any]:
        asked.set()
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(RestClient, "event_get", hanging)
    running = stage.start(keep_bound=True)
    await running.until(asked.is_set)
    running.stop.set()
    await running.task
    assert stage.bound() == []
    assert not [note for note in running.of(Note) if "Left bound" in note.message]


async def test_other_handlers_of_the_same_events_are_told_at_the_start(stage: Stage) -> None:
    production = "https://app.example.org/handler?key=secret"
    portal = stage.state.portal("sandbox")
    async with RestClient(portal, stage.state) as client:
        await client.event_bind("ONCRMDEALADD", production)
    running = stage.start()
    await running.ready()
    second = stage.start(tunnels=tried(WayTunnel("second")))
    await second.ready()
    assert [note.message for note in running.of(Note)] == [
        "ONCRMDEALADD also goes to https://app.example.org/handler, which fires too."
    ]
    notes = [note.message for note in second.of(Note)]
    assert sum("(another listen, process" in note for note in notes) == 2
    for session in (running, second):
        await session.stopped()
    assert stage.bound() == [("ONCRMDEALADD", production)]


async def test_what_a_crashed_run_left_goes_only_after_the_new_ones_are_bound(stage: Stage) -> None:
    crashed = stage.start()
    left = (await crashed.ready()).handler_url
    for row in stage.state.ledger():
        stage.state.put_row(replace(row, owner="crashed", pid=2**22 + 1, started="gone"))
    crashed.task.cancel()
    await asyncio.gather(crashed.task, return_exceptions=True)
    assert stage.bound() == bound_to(left)
    running = stage.start()
    url = (await running.ready()).handler_url
    assert stage.bound() == bound_to(url)
    calls = stage.called("event.bind", "event.unbind")
    assert calls.index(("event.bind", url)) < calls.index(("event.unbind", left))
    await running.stopped()


async def test_a_part_that_fails_unbinds_and_closes_all_the_same(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = stage.start()
    await running.ready()

    async def broken() -> None:
        raise RuntimeError("a bug in a provider")

    monkeypatch.setattr(stage.tunnel, "open", lambda port, say: broken())
    stage.tunnel.lose()
    async with asyncio.timeout(20):
        with pytest.raises(OutsideFailure, match="a bug in a provider"):
            await running.task
    assert stage.bound() == []
    assert stage.state.ledger() == []
    assert stage.tunnel.way is None


async def test_an_address_that_cannot_be_probed_from_here_is_bound_where_that_is_said(stage: Stage) -> None:
    stage.tunnel.deed = answer(403)
    running = stage.start(probe=False)
    url = (await running.ready()).handler_url
    assert stage.bound() == bound_to(url)
    await running.stopped()


@pytest.mark.parametrize("ends", ["stop", "cancel"])
async def test_it_ends_while_the_tunnel_is_down_and_unbinds(stage: Stage, ends: str) -> None:
    running = stage.start()
    await running.ready()
    stage.tunnel.failures = [TunnelFailed("No.")] * 100_000
    stage.tunnel.lose()
    await running.until(lambda: any(not told.state.up for told in running.of(TunnelProbed)))
    if ends == "stop":
        running.stop.set()
    else:
        running.task.cancel()
    async with asyncio.timeout(20):
        await asyncio.gather(running.task, return_exceptions=True)
    assert stage.bound() == []
    assert stage.tunnel.way is None

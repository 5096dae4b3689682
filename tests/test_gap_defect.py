"""A laptop that sleeps: what changed meanwhile comes from the offline queue, each change once, whatever breaks."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from programs import Program, Programs, wait_until
from raw_server import RawServer
from rest_call import rest
from running_session import Running, tried
from waiting import until
from way_tunnel import WayTunnel

from b24tunnel import Journal, form
from b24tunnel.happenings import Note
from b24tunnel.portal import Portal, State
from b24tunnel.sandbox import Fault, Sandbox
from b24tunnel.session import Settings
from b24tunnel.tunnel import TunnelFailed
from b24tunnel.tunnel.supervisor import Pace

ADD, UPDATE = "ONCRMDEALADD", "ONCRMDEALUPDATE"

# What happened to a deal: the event's code and the deal's ID.
Change = tuple[str, str]


def listening(programs: Programs, handler: RawServer) -> Program:
    """A `listen` that catches up."""
    options = ("--portal", "sandbox", "--catch-up", "--forward", handler.url, "--output", "json")
    return programs.b24tunnel("listen", ADD, UPDATE, *options)


def add(credentials: dict[str, Any], count: int) -> list[Change]:
    """So many new deals."""
    return [(ADD, str(rest(credentials, "crm.deal.add", fields={"TITLE": "New"}))) for _ in range(count)]


def update(credentials: dict[str, Any], deals: list[Change]) -> list[Change]:
    """A change to each of these."""
    for _, deal in deals:
        assert rest(credentials, "crm.deal.update", id=deal, fields={"TITLE": "Other"}) is True
    return [(UPDATE, deal) for _, deal in deals]


def change_in(body: bytes) -> Change:
    """What a delivery tells of."""
    fields: Any = form.parse(body)
    return fields["event"], fields["data"]["FIELDS"]["ID"]


def handed_over(handler: RawServer) -> Counter[Change]:
    """How often the handler was told of each change."""
    return Counter(map(change_in, handler.bodies()))


def attempts(listen: Program) -> int:
    """How many are in the journal, and told from there."""
    return sum('"type":"attempt"' in line.replace(" ", "") for line in listen.lines)


def told_of(handler: RawServer, *changes: list[Change]) -> bool:
    """Whether the handler got as many deliveries as there are changes."""
    return len(handler.requests) >= sum(map(len, changes))


def journalled(directory: Path, *sources: str) -> Counter[Change]:
    """How often the journal holds each change that came this way."""
    journal = Journal.open(directory / "recordings")
    found = Counter(change_in(each.body) for each in journal.recordings() if each.source in sources)
    assert journal.unreadable == {}
    return found


def queued(credentials: dict[str, Any]) -> list[Any]:
    """What is in the offline queues that the application has bound."""
    names = {row["connector_id"] for row in rest(credentials, "event.get") if row["offline"]}
    assert names
    rows = [rest(credentials, "event.offline.list", auth_connector=name) for name in names]
    return [row for page in rows for row in page]


def once(*changes: list[Change]) -> Counter[Change]:
    """Each of them one time."""
    return Counter(change for some in changes for change in some)


def nottest_b_the_laptop_slept_is_recorded_and_forwarded_once(programs: Programs) -> None:
    credentials = programs.b24tunnel("sandbox", "--delay", "0", "--json").next_json()
    with RawServer() as handler:
        listen = listening(programs, handler)
        listen.next_json("ready")
        online = add(credentials, 110)
        online += update(credentials, online[:10])
        wait_until(lambda: told_of(handler, online), "what came online is forwarded")
        wait_until(lambda: attempts(listen) == len(online), "and known to be")
        listen.kill()
        asleep = add(credentials, 100)
        asleep += update(credentials, online[10:110])
        assert queued(credentials) != []
        again = listening(programs, handler)
        again.next_json("ready")
        wait_until(lambda: told_of(handler, online, asleep), "what was caught up is forwarded")
        assert queued(credentials) == []
        later = add(credentials, 1)
        wait_until(lambda: told_of(handler, online, asleep, later), "what comes online again")
        assert again.stop() == 0
        assert "Traceback" not in str(again)
    # Nothing came after that, and nothing twice.
    assert handed_over(handler) == once(online, asleep, later)
    assert journalled(programs.directory, "offline") == once(asleep)
    assert journalled(programs.directory, "tunnel") == once(online, later)
    assert Journal.open(programs.directory / "recordings").pending() == []
    assert {row["offline"] for row in rest(credentials, "event.get")} == {1}


@pytest.fixture
async def sandbox(home: Path) -> AsyncIterator[Sandbox]:
    """A portal of this process, whose calls can be watched and held up."""
    async with Sandbox(delay=0) as running:
        State.open(home).save_portal(Portal.from_mapping("sandbox", running.credentials.as_dict()))
        yield running


def met(sandbox: Sandbox) -> int:
    """How many calls met a fault."""
    return sum(call.fault is not None for call in sandbox.calls)


def caught_up(directory: Path) -> int:
    """How many recordings came from the queue, those of a line that is being written included."""
    files = (directory / "recordings" / "journal").glob("*.jsonl")
    return sum(file.read_bytes().count(b'"source":"offline"') for file in files)


# Where a drain is killed: in the n-th call of event.offline.get or .clear, before that call is carried out or when
# only its answer is still on its way, or once n entries more are in the journal.
MOMENTS = (
    *(("get answered", 1), ("clear", 1), ("journal", 1), ("clear answered", 2), ("get answered", 3)),
    *(("journal", 51), ("clear", 2), ("get", 2), ("journal", 20), ("clear answered", 1)),
)


async def nottest_a_is_killed_ten_times_in_the_drain_loses_nothing_and_doubles_nothing(
    sandbox: Sandbox, programs: Programs
) -> None:
    credentials, directory = sandbox.credentials.as_dict(), programs.directory
    with RawServer() as handler:
        listen = listening(programs, handler)
        await asyncio.to_thread(listen.next_json, "ready")
        online = await asyncio.to_thread(add, credentials, 100)
        await until(lambda: told_of(handler, online))
        await until(lambda: attempts(listen) == len(online))
        listen.kill()
        asleep = await asyncio.to_thread(add, credentials, 100)
        asleep += await asyncio.to_thread(update, credentials, online)
        for where, count in MOMENTS:
            faults, written = met(sandbox), caught_up(directory)
            if where == "journal":
                # Each batch is long enough on its way to be seen.
                for method in ("event.offline.get", "event.offline.clear"):
                    sandbox.fail(method, Fault.slow(0.3), times=100)
            else:
                # What a get reserved is so under a mark that nobody knows.
                method, _, answered = where.partition(" ")
                stuck = Fault.slow(60) if answered else Fault.hang()
                for fault in (*(Fault.slow(0) for _ in range(count - 1)), stuck):
                    sandbox.fail(f"event.offline.{method}", fault)
            listen = listening(programs, handler)
            if where == "journal":
                await until(lambda: caught_up(directory) >= written + count)  # noqa: B023
            else:
                await until(lambda: met(sandbox) == faults + count)  # noqa: B023
            assert listen.process.poll() is None, str(listen)
            await asyncio.to_thread(listen.kill)
            assert '"ready"' not in str(listen)
            assert sandbox.offline != []
            assert handed_over(handler) == once(online)
            sandbox._rest.faults._waiting.clear()
            asleep += await asyncio.to_thread(add, credentials, 60)
        last = listening(programs, handler)
        await asyncio.to_thread(last.next_json, "ready")
        assert sandbox.offline == []
        await until(lambda: told_of(handler, online, asleep))
        assert await asyncio.to_thread(last.stop) == 0, str(last)
    assert handed_over(handler) == once(online, asleep)
    assert journalled(directory, "offline") == once(asleep)
    assert journalled(directory, "tunnel") == once(online)
    assert Journal.open(directory / "recordings").pending() == []
    assert {row.offline for row in sandbox.bindings} == {True}


def bound(sandbox: Sandbox) -> list[str]:
    """The public addresses that are bound."""
    return [row.handler.partition("/b24/")[0] for row in sandbox.bindings if not row.offline]


PACE = Pace(settle=0.3, confirm=(0.01,), back_off=(0.01,), look=0.05)



async def test_what_changes_while_the_new_address_is_being_bound_is_recorded(
    sandbox: Sandbox, tmp_path: Path, home: Path
) -> None:
    credentials, state, tunnel = sandbox.credentials.as_dict(), State.open(home), WayTunnel()
    with RawServer() as handler:
        running = Running(
            Settings(tmp_path / "recordings", tried(tunnel), (ADD, UPDATE), portal=state.portal("sandbox"), state=state,
                pace=PACE, forward=handler.url, catch_up=True)
        )
        try:
            await running.ready()
            online = await asyncio.to_thread(add, credentials, 1)
            await running.until(lambda: told_of(handler, online))
            faults = met(sandbox)
            sandbox.fail("event.bind", Fault.slow(2))  # of the first event; the second is bound after it
            gets = sum(c.method == "event.offline.get" for c in sandbox.calls)
            tunnel.lose()
            await running.until(lambda: met(sandbox) == faults + 1)
            await running.until(lambda: sandbox.offline == [] and sum(c.method == "event.offline.get" for c in sandbox.calls) >= gets + 2)
            gone = await asyncio.to_thread(update, credentials, online)
            await running.until(lambda: bound(sandbox) == [tunnel.opened[-1]] * 2)
            try:
                await running.until(lambda: told_of(handler, online, gone))
            except TimeoutError:
                pass
            print([(d.code, d.status, d.error) for d in sandbox.deliveries], sandbox.offline, running.told[-6:])
            assert handed_over(handler) == once(online, gone)
        finally:
            running.task.cancel()
            await asyncio.gather(running.task, return_exceptions=True)


async def test_what_is_delivered_while_the_queue_is_drained_is_forwarded_once(
    tmp_path: Path, home: Path
) -> None:
  async with Sandbox(delay=0.5) as sandbox:
    State.open(home).save_portal(Portal.from_mapping("sandbox", sandbox.credentials.as_dict()))
    credentials, state, tunnel = sandbox.credentials.as_dict(), State.open(home), WayTunnel()
    with RawServer() as handler:
        settings = Settings(tmp_path / "recordings", tried(tunnel), (ADD, UPDATE), portal=state.portal("sandbox"), state=state,
                pace=PACE, forward=handler.url, catch_up=True)
        running = Running(settings)
        try:
            await running.ready()
            sandbox.fail("app.info", Fault.slow(0.3))
            tunnel.lose()
            await running.until(lambda: bound(sandbox) == [tunnel.opened[-1]] * 2 and len(tunnel.opened) == 2)
            new = await asyncio.to_thread(add, credentials, 1)
            await asyncio.sleep(3)
            print([(r.source, r.code) for r in Journal.open(tmp_path / "recordings").recordings()])
            assert handed_over(handler) == once(new)
        finally:
            running.task.cancel()
            await asyncio.gather(running.task, return_exceptions=True)

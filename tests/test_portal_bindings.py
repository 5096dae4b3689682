"""Bindings: written down before they are made, all or none, and only what this tool made is ever removed."""

import asyncio
import dataclasses
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from b24tunnel import form
from b24tunnel.errors import UserError, WrongUsage
from b24tunnel.portal import Bindings, LedgerRow, Portal, PortalError, PortalUnreachable, RestClient, State
from b24tunnel.portal.bindings import removable
from b24tunnel.portal.process import start_mark
from b24tunnel.sandbox import Sandbox

HANDLER = "https://t.example/b24/5f2c"
DEAL, LEAD, TASK = "ONCRMDEALADD", "ONCRMLEADADD", "ONTASKADD"


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as running:
        yield running


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State.open(tmp_path / "home")


@pytest.fixture
async def client(sandbox: Sandbox, state: State) -> AsyncIterator[RestClient]:
    portal = Portal.from_mapping("sandbox", sandbox.credentials.as_dict())
    state.save_portal(portal)
    async with RestClient(portal, state, timeout=10) as opened:
        yield opened


@pytest.fixture
def bindings(client: RestClient, state: State) -> Bindings:
    return Bindings(client, state, "run-1")


def bound(sandbox: Sandbox) -> list[tuple[str, str]]:
    return [(row.event, row.handler) for row in sandbox.bindings]


def written(state: State) -> list[tuple[str, str, str]]:
    return [(row.event, row.state, row.owner) for row in state.ledger()]


def an_ended_process() -> tuple[int, str]:
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    mark = start_mark(child.pid)
    child.communicate(timeout=30)
    return child.pid, mark


def a_row(event: str, handler: str = HANDLER, **changes: Any) -> LedgerRow:
    pid, mark = an_ended_process()
    row = LedgerRow("sandbox", event, handler, "run-0", pid, mark, "2026-11-25T10:00:00Z", "bound")
    return dataclasses.replace(row, **changes)


class Interposed:
    """A way to the sandbox that can break: ``break_after`` passes the call on and drops the answer.

    ``break_before`` drops the call itself, ``refuse`` answers with a code. All name (method, event) pairs.
    """

    def __init__(self) -> None:
        self.break_after: set[tuple[str, str]] = set()
        self.break_before: set[tuple[str, str]] = set()
        self.refuse: dict[tuple[str, str], str] = {}
        self.calls: list[tuple[str, str]] = []
        self.on_call: Any = None
        self.target = ""
        self.origin = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        params: Any = form.parse(body)
        call = (request.path.rpartition("/")[2], params.get("event", ""))
        self.calls.append(call)
        if self.on_call is not None:
            self.on_call(call)
        assert request.transport is not None
        if call in self.refuse:
            return web.json_response({"error": self.refuse[call]}, status=400)
        if call in self.break_before:
            request.transport.abort()
            return web.Response()
        headers = {"Content-Type": request.headers["Content-Type"]}
        async with (
            aiohttp.ClientSession() as session,
            session.post(self.target + request.path, data=body, headers=headers) as response,
        ):
            payload, status = await response.read(), response.status
        if call in self.break_after:
            request.transport.abort()
        return web.Response(body=payload, status=status, content_type="application/json")


@pytest.fixture
async def way(sandbox: Sandbox) -> AsyncIterator[Interposed]:
    interposed = Interposed()
    interposed.target = sandbox.url
    runner = web.ServerRunner(web.Server(interposed.handle), shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    interposed.origin = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield interposed
    await runner.cleanup()


@pytest.fixture
async def by_way(way: Interposed, sandbox: Sandbox, state: State) -> AsyncIterator[Bindings]:
    values = {**sandbox.credentials.as_dict(), "client_endpoint": f"{way.origin}/rest/"}
    portal = Portal.from_mapping("sandbox", values)
    state.save_portal(portal)
    async with RestClient(portal, state, timeout=10) as client:
        yield Bindings(client, state, "run-1")


async def test_a_binding_is_on_the_portal_and_on_the_ledger(
    sandbox: Sandbox, state: State, bindings: Bindings
) -> None:
    assert await bindings.bind("onCrmDealAdd", HANDLER) is True
    assert bound(sandbox) == [(DEAL, HANDLER)]
    [row] = state.ledger()
    assert (row.portal, row.event, row.handler, row.owner) == ("sandbox", DEAL, HANDLER, "run-1")
    assert (row.pid, row.started, row.state) == (os.getpid(), start_mark(os.getpid()), "bound")
    assert row.created_at.endswith("Z")


async def test_the_ledger_row_is_on_disk_before_the_portal_is_asked(
    state: State, way: Interposed, by_way: Bindings
) -> None:
    seen: list[list[tuple[str, str, str]]] = []
    way.on_call = lambda call: seen.append(written(State.open(state.home)))
    await by_way.bind(DEAL, HANDLER)
    assert seen == [[(DEAL, "binding", "run-1")]]
    assert written(state) == [(DEAL, "bound", "run-1")]


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("https://t.example/" + "x" * 238, "256 characters"),
        ("http://localhost:8000/handler", "no dot"),
        ("https:///path", "no dot"),
        ("https://.localhost/", "no dot"),
        ("http://[::1]/", "no dot"),
        ("ftp://t.example/", "'ftp'"),
        ("t.example/handler", "no scheme"),
        ("http://[t.example/", "no address"),
        ("", "no scheme"),
    ],
)
async def test_an_address_that_bitrix24_would_refuse_is_refused_before_the_call(
    sandbox: Sandbox, state: State, bindings: Bindings, address: str, words: str
) -> None:
    for attempt in (bindings.bind(DEAL, address), bindings.bind_all([DEAL], address)):
        with pytest.raises(WrongUsage, match=words) as caught:
            await attempt
        assert caught.value.exit_code == 2
    assert sandbox.calls == []
    assert state.ledger() == []


async def test_an_address_of_255_characters_passes(sandbox: Sandbox, bindings: Bindings) -> None:
    address = "http://127.0.0.1:9/".ljust(255, "x")
    await bindings.bind(DEAL, address)
    assert bound(sandbox) == [(DEAL, address)]


async def test_binding_twice_is_no_error(sandbox: Sandbox, state: State, bindings: Bindings) -> None:
    assert await bindings.bind(DEAL, HANDLER) is True
    assert await bindings.bind(DEAL, HANDLER) is False
    assert bound(sandbox) == [(DEAL, HANDLER)]
    assert written(state) == [(DEAL, "bound", "run-1")]
    assert await bindings.unbind_all() == []
    assert bound(sandbox) == []


async def test_a_binding_that_somebody_else_made_is_accepted_but_not_ours_to_remove(
    sandbox: Sandbox, state: State, client: RestClient, bindings: Bindings
) -> None:
    await client.event_bind(DEAL, HANDLER)
    assert await bindings.bind(DEAL, HANDLER) is False
    assert state.ledger() == []
    assert await bindings.unbind_all() == []
    assert bound(sandbox) == [(DEAL, HANDLER)]


async def test_a_refused_binding_leaves_no_row(state: State, bindings: Bindings) -> None:
    with pytest.raises(PortalError, match="scope") as caught:
        await bindings.bind("ONNOSUCHEVENT", HANDLER)
    assert caught.value.code == "ERROR_EVENT_NOT_FOUND"
    assert state.ledger() == []


async def test_a_refused_binding_keeps_the_row_that_was_there(
    state: State, way: Interposed, by_way: Bindings
) -> None:
    before = a_row(DEAL)
    state.put_row(before)
    way.refuse[("event.bind", DEAL)] = "ACCESS_DENIED"
    with pytest.raises(PortalError):
        await by_way.bind(DEAL, HANDLER)
    assert state.ledger() == [before]


async def test_a_portal_that_was_not_reached_leaves_no_row(
    sandbox: Sandbox, state: State, bindings: Bindings
) -> None:
    await sandbox.stop()
    with pytest.raises(PortalUnreachable):
        await bindings.bind(DEAL, HANDLER)
    assert state.ledger() == []


async def test_a_binding_whose_answer_was_lost_stays_on_the_ledger_and_is_cleaned_up(
    sandbox: Sandbox, state: State, way: Interposed, by_way: Bindings
) -> None:
    way.break_after.add(("event.bind", DEAL))
    with pytest.raises(PortalUnreachable):
        await by_way.bind(DEAL, HANDLER)
    assert bound(sandbox) == [(DEAL, HANDLER)]
    assert written(state) == [(DEAL, "binding", "run-1")]
    assert await by_way.unbind_all() == []
    assert (bound(sandbox), state.ledger()) == ([], [])


async def test_a_binding_whose_answer_was_lost_is_ours_when_it_is_made_again(
    sandbox: Sandbox, state: State, way: Interposed, by_way: Bindings
) -> None:
    way.break_after.add(("event.bind", DEAL))
    with pytest.raises(PortalUnreachable):
        await by_way.bind(DEAL, HANDLER)
    way.break_after.clear()
    assert await by_way.bind(DEAL, HANDLER) is False
    assert written(state) == [(DEAL, "bound", "run-1")]


async def test_an_expired_token_does_not_get_in_the_way(
    sandbox: Sandbox, state: State, bindings: Bindings
) -> None:
    before = state.portal("sandbox")
    sandbox.expire_access_token()
    await bindings.bind_all([DEAL, LEAD], HANDLER)
    assert bound(sandbox) == [(DEAL, HANDLER), (LEAD, HANDLER)]
    stored = state.portal("sandbox")
    assert stored.access_token == sandbox.credentials.access_token != before.access_token
    assert stored.refresh_token == sandbox.credentials.refresh_token != before.refresh_token
    assert stored.domain == before.domain


async def test_all_events_are_bound(sandbox: Sandbox, state: State, bindings: Bindings) -> None:
    await bindings.bind_all([DEAL, LEAD, "oncrmdealadd"], HANDLER)
    assert bound(sandbox) == [(DEAL, HANDLER), (LEAD, HANDLER)]
    assert written(state) == [(DEAL, "bound", "run-1"), (LEAD, "bound", "run-1")]


async def test_one_event_that_fails_takes_the_others_with_it(
    sandbox: Sandbox, state: State, client: RestClient, bindings: Bindings
) -> None:
    await bindings.bind(LEAD, HANDLER)
    await client.event_bind(TASK, HANDLER)
    sandbox.bind_foreign(DEAL, HANDLER)
    before = bound(sandbox)
    with pytest.raises(PortalError, match=r"^event\.bind of ONNOSUCHEVENT on the portal sandbox"):
        await bindings.bind_all([DEAL, LEAD, TASK, "ONNOSUCHEVENT"], HANDLER)
    assert bound(sandbox) == before
    assert written(state) == [(LEAD, "bound", "run-1")]


async def test_a_lost_answer_takes_its_own_binding_back_too(
    sandbox: Sandbox, state: State, way: Interposed, by_way: Bindings
) -> None:
    way.break_after.add(("event.bind", LEAD))
    with pytest.raises(PortalUnreachable):
        await by_way.bind_all([DEAL, LEAD, TASK], HANDLER)
    assert (bound(sandbox), state.ledger()) == ([], [])
    assert ("event.bind", TASK) not in way.calls


async def test_what_cannot_be_taken_back_is_said_and_stays_on_the_ledger(
    sandbox: Sandbox, state: State, way: Interposed, by_way: Bindings
) -> None:
    way.refuse[("event.bind", LEAD)] = "ACCESS_DENIED"
    way.break_before.add(("event.unbind", DEAL))
    with pytest.raises(PortalError, match="ACCESS_DENIED") as caught:
        await by_way.bind_all([DEAL, LEAD], HANDLER)
    [note] = caught.value.__notes__
    assert note.startswith("ONCRMDEALADD may still be bound: event.unbind of ONCRMDEALADD on the portal sandbox")
    assert bound(sandbox) == [(DEAL, HANDLER)]
    assert written(state) == [(DEAL, "bound", "run-1")]


async def test_unbinding_removes_one_binding_and_its_row_only(
    sandbox: Sandbox, state: State, client: RestClient, bindings: Bindings
) -> None:
    sandbox.bind_foreign(DEAL, HANDLER)
    await client.event_bind(DEAL, "https://other.example/")
    await bindings.bind_all([DEAL, LEAD], HANDLER)
    assert await bindings.unbind(DEAL, HANDLER) == 1
    assert bound(sandbox) == [(DEAL, HANDLER), (DEAL, "https://other.example/"), (LEAD, HANDLER)]
    assert written(state) == [(LEAD, "bound", "run-1")]
    assert await bindings.unbind(DEAL, HANDLER) == 0


async def test_every_unbinding_names_event_and_handler(sandbox: Sandbox, state: State, bindings: Bindings) -> None:
    await bindings.bind_all([DEAL, LEAD], HANDLER)
    state.put_row(a_row(TASK))
    await bindings.unbind(DEAL, HANDLER)
    await bindings.clean()
    await bindings.unbind_all()
    asked = [call.params for call in sandbox.calls if call.method == "event.unbind"]
    assert len(asked) == 3
    assert all(params["event"] and params["handler"] == HANDLER for params in asked)


@pytest.mark.parametrize(("event", "handler"), [("", HANDLER), (" ", HANDLER), (DEAL, ""), (DEAL, " ")])
async def test_unbinding_without_event_or_handler_never_reaches_the_portal(
    sandbox: Sandbox, bindings: Bindings, event: str, handler: str
) -> None:
    await bindings.bind(DEAL, HANDLER)
    with pytest.raises(WrongUsage):
        await bindings.unbind(event, handler)
    assert bound(sandbox) == [(DEAL, HANDLER)]


async def test_unbinding_all_removes_what_this_owner_bound_and_nothing_else(
    sandbox: Sandbox, state: State, client: RestClient, bindings: Bindings
) -> None:
    other = Bindings(client, state, "run-2")
    await bindings.bind_all([DEAL, LEAD], HANDLER)
    await other.bind(DEAL, "https://second.example/")
    sandbox.bind_foreign(DEAL, HANDLER)
    assert await bindings.unbind_all() == []
    assert bound(sandbox) == [(DEAL, "https://second.example/"), (DEAL, HANDLER)]
    assert written(state) == [(DEAL, "bound", "run-2")]


async def test_unbinding_all_goes_on_after_a_failure_and_reports_it(
    sandbox: Sandbox, state: State, way: Interposed, by_way: Bindings
) -> None:
    await by_way.bind_all([DEAL, LEAD, TASK], HANDLER)
    way.break_before.add(("event.unbind", DEAL))
    way.refuse[("event.unbind", TASK)] = "ACCESS_DENIED"
    left = await by_way.unbind_all()
    assert [(leftover.row.event, leftover.row.owner) for leftover in left] == [(DEAL, "run-1"), (TASK, "run-1")]
    assert "connection was closed" in left[0].reason
    assert "ACCESS_DENIED" in left[1].reason
    assert bound(sandbox) == [(DEAL, HANDLER), (TASK, HANDLER)]
    assert written(state) == [(DEAL, "bound", "run-1"), (TASK, "bound", "run-1")]


async def test_unbinding_all_on_a_portal_that_is_gone_reports_every_row(
    sandbox: Sandbox, state: State, bindings: Bindings
) -> None:
    await bindings.bind_all([DEAL, LEAD], HANDLER)
    await sandbox.stop()
    left = await bindings.unbind_all()
    assert [leftover.row.event for leftover in left] == [DEAL, LEAD]
    assert len(state.ledger()) == 2


async def test_unbinding_all_reports_every_row_when_another_process_holds_the_lock(
    state: State, bindings: Bindings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bindings.bind(DEAL, HANDLER)
    exclusive = state.exclusive
    monkeypatch.setattr(state, "exclusive", lambda purpose, portal: exclusive(purpose, portal, 0.05))
    async with exclusive("bindings", "sandbox"):
        [leftover] = await bindings.unbind_all()
    assert "another b24tunnel process" in leftover.reason


async def test_the_survey_names_other_handlers_of_the_asked_events_and_whose_they_are(
    state: State, client: RestClient, bindings: Bindings
) -> None:
    staging = "https://staging.example/handler"
    await bindings.bind_all([DEAL, LEAD], HANDLER)
    await Bindings(client, state, "run-2").bind(LEAD, "https://run-2.example/b24/1")
    await client.event_bind(DEAL, staging)
    await client.event_bind(TASK, staging)
    await client.call("event.bind", {"event": DEAL, "event_type": "offline"})
    found = await bindings.survey(["onCrmDealAdd", LEAD], HANDLER)
    assert found.missing == ()
    assert {(other.event, other.handler, other.row and other.row.owner) for other in found.others} == {
        (DEAL, staging, None),
        (LEAD, "https://run-2.example/b24/1", "run-2"),
    }


async def test_the_survey_names_events_that_lack_our_handler(client: RestClient, bindings: Bindings) -> None:
    await bindings.bind_all([DEAL, LEAD], HANDLER)
    await client.event_unbind(LEAD, HANDLER)
    assert (await bindings.survey([DEAL, LEAD], HANDLER)).missing == (LEAD,)


async def test_one_address_is_left_bound_where_it_is_named(sandbox: Sandbox, bindings: Bindings) -> None:
    await bindings.bind_all([DEAL, LEAD], HANDLER)
    await bindings.bind_all([DEAL, LEAD], "https://new.example/b24/1")
    assert await bindings.unbind_all(but="https://new.example/b24/1") == []
    assert bound(sandbox) == [(DEAL, "https://new.example/b24/1"), (LEAD, "https://new.example/b24/1")]


async def test_what_is_to_be_kept_is_no_orphan_and_is_cleaned_only_when_asked(
    sandbox: Sandbox, state: State, client: RestClient, bindings: Bindings
) -> None:
    await Bindings(client, state, "keeper", keep=True).bind(DEAL, HANDLER)
    [kept] = state.ledger()
    assert kept.state == "kept"
    pid, mark = an_ended_process()
    state.put_row(dataclasses.replace(kept, pid=pid, started=mark))
    assert (await bindings.clean()).unbound == ()
    assert bound(sandbox) == [(DEAL, HANDLER)]
    assert len((await bindings.clean(kept=True)).unbound) == 1
    assert bound(sandbox) == []


async def test_what_another_run_has_kept_is_its_again_when_binding_all_fails(
    sandbox: Sandbox, state: State, client: RestClient, bindings: Bindings
) -> None:
    await Bindings(client, state, "keeper", keep=True).bind(DEAL, HANDLER)
    with pytest.raises(PortalError):
        await bindings.bind_all([LEAD, DEAL, "ONNOSUCHEVENT"], HANDLER)
    assert await bindings.unbind_all() == []
    assert bound(sandbox) == [(DEAL, HANDLER)]
    assert written(state) == [(DEAL, "kept", "keeper")]


async def test_what_is_kept_is_not_cleaned_while_its_run_goes_on(
    sandbox: Sandbox, state: State, client: RestClient, bindings: Bindings
) -> None:
    await Bindings(client, state, "keeper", keep=True).bind(DEAL, HANDLER)
    assert (await bindings.clean(kept=True)).unbound == ()
    assert bound(sandbox) == [(DEAL, HANDLER)]


async def test_orphans_are_the_rows_whose_process_has_ended(
    state: State, client: RestClient, bindings: Bindings
) -> None:
    await bindings.bind(LEAD, HANDLER)
    await Bindings(client, state, "run-2").bind(TASK, HANDLER)
    ended = a_row(DEAL)
    state.put_row(ended)
    state.put_row(a_row(DEAL, portal="another"))
    assert removable(state.ledger("sandbox")) == [ended]


@pytest.mark.skipif(not start_mark(os.getpid()), reason="needs /proc")
async def test_a_pid_that_another_process_has_now_is_an_orphan_all_the_same(
    state: State, bindings: Bindings
) -> None:
    reused = a_row(DEAL, pid=os.getpid(), started=start_mark(os.getpid()) + "0")
    state.put_row(reused)
    assert removable(state.ledger()) == [reused]


async def test_cleaning_removes_exactly_the_orphans(
    sandbox: Sandbox, state: State, client: RestClient, bindings: Bindings
) -> None:
    old = "https://old.example/b24/1"
    await client.event_bind(DEAL, old)
    await client.event_bind(DEAL, "https://app.example/handler")
    sandbox.bind_foreign(DEAL, old)
    await bindings.bind(DEAL, HANDLER)
    orphan, gone = a_row(DEAL, old), a_row(LEAD, old, state="binding")
    state.put_row(orphan)
    state.put_row(gone)
    done = await bindings.clean()
    assert done.unbound == (orphan, gone)
    assert done.left == ()
    assert bound(sandbox) == [(DEAL, "https://app.example/handler"), (DEAL, old), (DEAL, HANDLER)]
    assert [row.client_id == client.portal.client_id for row in sandbox.bindings] == [True, False, True]
    assert written(state) == [(DEAL, "bound", "run-1")]


async def test_an_orphan_that_cannot_be_removed_is_reported_and_stays(
    state: State, way: Interposed, by_way: Bindings
) -> None:
    orphan = a_row(DEAL)
    state.put_row(orphan)
    way.refuse[("event.unbind", DEAL)] = "ACCESS_DENIED"
    done = await by_way.clean()
    assert done.unbound == ()
    assert [leftover.row for leftover in done.left] == [orphan]
    assert state.ledger() == [orphan]


async def test_cleaning_does_not_take_what_a_new_run_has_bound_again(
    sandbox: Sandbox, state: State, client: RestClient, bindings: Bindings
) -> None:
    state.put_row(a_row(DEAL))
    async with state.exclusive("bindings", "sandbox"):
        cleaning = asyncio.create_task(Bindings(client, state, "run-2").clean())
        await asyncio.sleep(0)
        await bindings._bind(DEAL, HANDLER)
    assert (await cleaning).unbound == ()
    assert bound(sandbox) == [(DEAL, HANDLER)]


async def test_a_run_that_was_killed_is_cleaned_up_by_the_next(
    sandbox: Sandbox, state: State, client: RestClient, bindings: Bindings
) -> None:
    code = """
import asyncio, sys
from pathlib import Path
from b24tunnel.portal import Bindings, RestClient, State
async def main():
    state = State.open(Path(sys.argv[1]))
    async with RestClient(state.portal("sandbox"), state) as client:
        await Bindings(client, state, "killed").bind_all(["ONCRMDEALADD", "ONTASKADD"], sys.argv[2])
        print("bound", flush=True)
        sys.stdin.readline()
asyncio.run(main())
"""
    run = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        code,
        str(state.home),
        HANDLER,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert run.stdout is not None
    assert await asyncio.wait_for(run.stdout.readline(), 30) == b"bound\n"
    assert removable(state.ledger()) == []
    assert (await bindings.clean()).unbound == ()
    run.kill()
    await asyncio.wait_for(run.communicate(), 30)
    await bindings.bind(DEAL, "https://new.example/")
    done = await bindings.clean()
    assert [row.event for row in done.unbound] == [DEAL, TASK]
    assert bound(sandbox) == [(DEAL, "https://new.example/")]


async def test_no_error_of_a_binding_tells_a_token(
    sandbox: Sandbox, state: State, way: Interposed, by_way: Bindings
) -> None:
    way.refuse[("event.bind", DEAL)] = state.portal("sandbox").access_token
    with pytest.raises(UserError) as caught:
        await by_way.bind(DEAL, HANDLER)
    told = str(caught.value) + repr(caught.value) + repr(vars(caught.value))
    assert not any(secret in told for secret in state.portal("sandbox").secrets())

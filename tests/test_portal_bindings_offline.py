"""Offline bindings: written down before they are made, kept on purpose, unbound from their own queue only."""

import asyncio
import dataclasses
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from programs import Programs

from b24tunnel.errors import UserError
from b24tunnel.portal import Bindings, LedgerRow, Portal, RestClient, State, offline_ledger
from b24tunnel.portal.bindings import removable
from b24tunnel.portal.clean_up import clean_all
from b24tunnel.portal.process import start_mark
from b24tunnel.sandbox import Fault, Sandbox

HANDLER = "https://t.example/b24/5f2c"
DEAL, LEAD = "ONCRMDEALADD", "ONCRMLEADADD"


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as running:
        yield running


@pytest.fixture
def state(home: Path) -> State:
    return State.open(home)


@pytest.fixture
async def client(sandbox: Sandbox, state: State) -> AsyncIterator[RestClient]:
    portal = Portal.from_mapping("sandbox", sandbox.credentials.as_dict())
    state.save_portal(portal)
    async with RestClient(portal, state, timeout=10) as opened:
        yield opened


@pytest.fixture
def bindings(client: RestClient, state: State) -> Bindings:
    return Bindings(client, state, "run-1")


def bound(sandbox: Sandbox) -> list[tuple[str, str, str]]:
    return [(row.event, row.handler, row.connector if row.offline else "online") for row in sandbox.bindings]


def end_the_run(state: State) -> None:
    """As if the process that made everything on the ledger had ended."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    mark = start_mark(child.pid)
    child.communicate(b"\n", timeout=30)
    for row in state.ledger():
        state.put_row(dataclasses.replace(row, pid=child.pid, started=mark))


async def test_an_offline_binding_is_on_the_portal_and_kept_on_the_ledger(
    sandbox: Sandbox, state: State, bindings: Bindings
) -> None:
    assert await bindings.bind_offline(["onCrmDealAdd", DEAL, LEAD], "mine") == [DEAL, LEAD]
    assert bound(sandbox) == [(DEAL, "", "mine"), (LEAD, "", "mine")]
    rows = state.ledger()
    assert [(row.event, row.handler, row.state, row.owner) for row in rows] == [
        (DEAL, "", "kept", "run-1"),
        (LEAD, "", "kept", "run-1"),
    ]
    assert [offline_ledger.connector_of(state, row) for row in rows] == ["mine", "mine"]


async def test_the_row_is_kept_before_the_portal_is_asked(
    sandbox: Sandbox, state: State, bindings: Bindings
) -> None:
    sandbox.fail("event.bind", Fault.drop())
    sandbox.fail("event.unbind", Fault.drop())
    with pytest.raises(UserError) as caught:
        await bindings.bind_offline([DEAL])
    assert "may still be bound offline" in caught.value.__notes__[0]
    [row] = state.ledger()
    assert (row.event, row.handler, row.state) == (DEAL, "", "kept")


async def test_binding_offline_again_is_no_error_and_not_new(
    sandbox: Sandbox, state: State, bindings: Bindings
) -> None:
    await bindings.bind_offline([DEAL], "mine")
    assert await bindings.bind_offline([DEAL], "mine") == []
    assert bound(sandbox) == [(DEAL, "", "mine")]
    assert len(state.ledger()) == 1


async def test_a_refused_event_takes_back_what_the_call_had_bound_and_nothing_older(
    sandbox: Sandbox, state: State, bindings: Bindings
) -> None:
    await bindings.bind_offline([DEAL], "mine")
    with pytest.raises(UserError, match="ONNOSUCHEVENT"):
        await bindings.bind_offline([DEAL, LEAD, "ONNOSUCHEVENT"], "mine")
    assert bound(sandbox) == [(DEAL, "", "mine")]
    assert [row.event for row in state.ledger()] == [DEAL]


async def test_an_older_binding_survives_a_call_of_unknown_outcome(
    sandbox: Sandbox, state: State, bindings: Bindings
) -> None:
    await bindings.bind_offline([DEAL], "mine")
    sandbox.fail("event.bind", Fault.drop(after=True))
    with pytest.raises(UserError):
        await bindings.bind_offline([DEAL], "mine")
    assert bound(sandbox) == [(DEAL, "", "mine")]
    [row] = state.ledger()
    assert offline_ledger.connector_of(state, row) == "mine"


async def test_the_end_of_a_run_leaves_its_offline_bindings(
    sandbox: Sandbox, state: State, bindings: Bindings
) -> None:
    await bindings.bind_all([DEAL], HANDLER)
    await bindings.bind_offline([DEAL], "mine")
    assert await bindings.unbind_all() == []
    assert bound(sandbox) == [(DEAL, "", "mine")]
    assert [row.handler for row in state.ledger()] == [""]


async def test_no_run_removes_the_offline_bindings_of_one_that_crashed(
    sandbox: Sandbox, state: State, bindings: Bindings
) -> None:
    await bindings.bind_all([DEAL], HANDLER)
    await bindings.bind_offline([DEAL], "mine")
    end_the_run(state)
    assert [row.handler for row in removable(state.ledger())] == [HANDLER]
    assert len((await bindings.clean()).unbound) == 1
    assert bound(sandbox) == [(DEAL, "", "mine")]


async def test_cleaning_what_was_kept_unbinds_from_this_tools_queue_and_nobody_elses(
    sandbox: Sandbox, state: State, client: RestClient, bindings: Bindings
) -> None:
    await client.event_bind_offline(DEAL)
    await client.event_bind_offline(DEAL, "production")
    await client.event_bind(DEAL, HANDLER)
    await bindings.bind_offline([DEAL, LEAD], "mine")
    end_the_run(state)
    [done] = await clean_all(state, kept=True)
    assert [(row.event, row.handler) for row in done.unbound] == [(DEAL, ""), (LEAD, "")]
    assert done.left == ()
    assert bound(sandbox) == [(DEAL, "", ""), (DEAL, "", "production"), (DEAL, HANDLER, "online")]
    assert state.ledger() == []
    assert all(call.params["event_type"] == "offline" for call in sandbox.calls if call.method == "event.unbind")


async def test_offline_bindings_of_a_run_that_goes_on_are_not_cleaned(
    sandbox: Sandbox, state: State, bindings: Bindings
) -> None:
    await bindings.bind_offline([DEAL], "mine")
    assert await clean_all(state, kept=True) == []
    assert bound(sandbox) == [(DEAL, "", "mine")]


async def test_a_row_whose_queue_is_not_known_is_left_and_reported(
    sandbox: Sandbox, state: State, client: RestClient, bindings: Bindings
) -> None:
    await client.event_bind_offline(DEAL)
    state.put_row(LedgerRow("sandbox", DEAL, "", "run-0", 0, "", "2026-11-25T10:00:00Z", "kept"))
    done = await bindings.clean(kept=True)
    assert "event_type=offline" in done.left[0].reason
    assert bound(sandbox) == [(DEAL, "", "")]
    assert [call.method for call in sandbox.calls] == ["event.bind"]


async def test_the_same_event_online_and_offline_are_two_rows(
    sandbox: Sandbox, state: State, bindings: Bindings
) -> None:
    await bindings.bind_offline([DEAL], "mine")
    await bindings.bind_all([DEAL], HANDLER)
    assert bound(sandbox) == [(DEAL, "", "mine"), (DEAL, HANDLER, "online")]
    survey = await bindings.survey([DEAL], HANDLER)
    assert (survey.missing, survey.others) == ((), ())


async def test_others_are_those_of_the_same_queue_that_are_not_on_the_ledger(
    state: State, client: RestClient, bindings: Bindings
) -> None:
    await client.event_bind_offline(LEAD)
    await client.event_bind_offline(LEAD, "production")
    await bindings.bind_offline([DEAL])
    assert await bindings.others_offline() == [LEAD]
    assert await bindings.others_offline("mine") == []


def test_the_queues_name_is_chosen_once(state: State) -> None:
    name = offline_ledger.choose_queue(state, "a", separate=True)
    assert name.startswith("b24tunnel-")
    assert offline_ledger.choose_queue(State.open(state.home), "a", separate=True) == name
    assert offline_ledger.choose_queue(state, "b", separate=True) != name
    assert offline_ledger.choose_queue(state, "c", separate=False) == ""
    assert offline_ledger.choose_queue(state, "c", separate=True) == ""
    assert offline_ledger.choose_queue(state, "a", separate=False) == ""


def test_a_queue_is_drained_when_that_was_noted_last(state: State) -> None:
    assert not offline_ledger.is_drained(state, "a")
    offline_ledger.note_drained(state, "a", True)
    assert offline_ledger.is_drained(State.open(state.home), "a")
    assert not offline_ledger.is_drained(state, "b")
    offline_ledger.note_drained(state, "a", False)
    assert not offline_ledger.is_drained(state, "a")


async def test_the_command_lists_and_cleans_them(
    sandbox: Sandbox, state: State, bindings: Bindings, programs: Programs
) -> None:
    await bindings.bind_offline([DEAL], "mine")
    end_the_run(state)
    listed = await asyncio.to_thread(programs.run, "bindings")
    assert "offline queue" in "".join(listed.lines)
    assert "kept" in "".join(listed.lines)
    plain = await asyncio.to_thread(programs.run, "bindings", "clean")
    assert plain.wait() == 0
    assert bound(sandbox) == [(DEAL, "", "mine")]
    kept = await asyncio.to_thread(programs.run, "bindings", "clean", "--kept")
    assert (kept.wait(), "".join(kept.lines)) == (0, "Unbound 1 binding.\n")
    assert bound(sandbox) == []

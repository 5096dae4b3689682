"""Catching up: everything in the offline queue reaches the journal once, whatever breaks on the way."""

import asyncio
import contextlib
import dataclasses
import errno
import json
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from b24pysdk.credentials import OAuthEventData
from held_disk import Disk
from waiting import until

from b24tunnel import form
from b24tunnel.already_recorded import AlreadyRecorded
from b24tunnel.catching_up import CatchUp
from b24tunnel.errors import UserError
from b24tunnel.happenings import Happening, Note, Trouble
from b24tunnel.journal import Journal, JournalUnwritable, JournalWriter
from b24tunnel.portal import Portal, PortalError, RestClient, State
from b24tunnel.recording import Recording, Verdict
from b24tunnel.sandbox import Fault, Sandbox

UPDATE, LEAD = "ONCRMDEALUPDATE", "ONCRMLEADADD"
ENOUGH = 60.0


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as running:
        yield running


@pytest.fixture
def state(tmp_path: Path, sandbox: Sandbox) -> State:
    state = State.open(tmp_path / "home")
    state.save_portal(Portal.from_mapping("sandbox", sandbox.credentials.as_dict()))
    return state


class Run:
    """One run of the tool as far as catching up goes: a journal's session, a `CatchUp`, and what it told."""

    def __init__(self, state: State, recordings: Path, *events: str) -> None:
        self.told: list[Happening] = []
        self.recordings = recordings
        self.writer = JournalWriter(recordings)
        self.catch_up = CatchUp(
            state.portal("sandbox"),
            state,
            events or (UPDATE,),
            self.writer,
            Journal.open(recordings),
            self.told.append,
            target="/b24/0123456789abcdef",
        )

    def texts(self, kind: type = Note) -> list[str]:
        return [told.message for told in self.told if isinstance(told, Note | Trouble) and type(told) is kind]


@contextlib.asynccontextmanager
async def run(state: State, recordings: Path, *events: str) -> AsyncIterator[Run]:
    running = Run(state, recordings, *events)
    try:
        yield running
    finally:
        await running.writer.close()


@pytest.fixture
async def first(state: State, tmp_path: Path) -> AsyncIterator[Run]:
    """A run that has bound its events."""
    async with run(state, tmp_path / "recordings") as running:
        await running.catch_up.prepare()
        yield running


def change(sandbox: Sandbox, *deals: int) -> None:
    for deal in deals:
        sandbox.raise_event(UPDATE, {"FIELDS": {"ID": deal}})


def recorded(recordings: Path) -> list[Recording]:
    journal = Journal.open(recordings)
    found = list(journal.recordings())
    assert journal.unreadable == {}
    return found


def deals(recordings: Path) -> list[int]:
    return sorted(int(found.event.data["FIELDS"]["ID"]) for found in recorded(recordings))


def called(sandbox: Sandbox, method: str) -> list[dict[str, Any]]:
    return [dict(call.params) for call in sandbox.calls if call.method == method]


async def record_online(
    run: Run,
    deal: int,
    ts: int,
    *,
    code: str = UPDATE,
    verdict: Verdict = "verified",
    portal: str = "sandbox",
    source: Any = "tunnel",
) -> None:
    """A delivery of this change as it comes through the tunnel."""
    body = form.encode({"event": code, "data": {"FIELDS": {"ID": str(deal)}}, "ts": str(ts)})
    await run.writer.append(
        Recording(
            run.writer.next_id(),
            datetime.now(UTC),
            "POST",
            "/b24/x",
            (),
            body,
            code=code,
            verdict=verdict,
            portal=portal,
            source=source,
        )
    )


# -- the whole of it ---------------------------------------------------------------------------------------------


async def test_two_hundred_changes_while_nobody_listened_are_recorded_once_each(
    sandbox: Sandbox, state: State, tmp_path: Path, first: Run
) -> None:
    change(sandbox, *range(1, 201))
    async with run(state, tmp_path / "recordings") as second:
        await second.catch_up.prepare()
        assert await second.catch_up.drain() == 200
        assert await second.catch_up.drain() == 0
        assert second.texts(Trouble) == []
    assert deals(tmp_path / "recordings") == list(range(1, 201))
    assert sandbox.offline == []


async def test_what_changed_twice_is_recorded_once_with_its_last_time(
    sandbox: Sandbox, state: State, first: Run
) -> None:
    change(sandbox, 7, 8, 7)
    async with RestClient(state.portal("sandbox"), state) as client:
        page = await client.offline_list(connector=sandbox.bindings[0].connector)
    assert await first.catch_up.drain() == 2
    times = {row["EVENT_DATA"]["FIELDS"]["ID"]: datetime.fromisoformat(row["TIMESTAMP_X"]) for row in page.rows}
    assert {int(found.event.data["FIELDS"]["ID"]): found.event.ts for found in recorded(first.recordings)} == times


async def test_the_recording_is_a_delivery_in_the_normal_form_that_says_where_it_is_from(
    sandbox: Sandbox, state: State, first: Run
) -> None:
    sandbox.raise_event(UPDATE, {"FIELDS": {"ID": 7, "NAME": "x y", "OPEN": True, "NOTE": None}})
    [waiting] = sandbox.offline
    await first.catch_up.drain()
    [found] = recorded(first.recordings)
    portal = state.portal("sandbox")
    assert (found.method, found.target, found.code) == ("POST", "/b24/0123456789abcdef", UPDATE)
    assert (found.source, found.verdict, found.portal, found.remote) == ("offline", "verified", "sandbox", None)
    assert found.body.startswith(b"event=ONCRMDEALUPDATE&event_handler_id=0&data%5BFIELDS%5D%5BID%5D=7")
    assert found.event.data == {"FIELDS": {"ID": "7", "NAME": "x y", "OPEN": "1", "NOTE": ""}}
    auth = found.event.auth
    assert auth is not None
    assert auth["access_token"] == portal.access_token
    assert auth["application_token"] == portal.application_token
    assert (auth["domain"], auth["member_id"], auth["user_id"]) == (portal.domain, portal.member_id, "1")
    assert "refresh_token" not in auth
    assert portal.refresh_token.encode() not in found.body
    headers = dict(found.headers)
    assert headers["User-Agent"] == "Bitrix24 Webhook Engine"
    assert headers["Content-Length"] == str(len(found.body))
    process_id, number, message_id = headers["X-B24tunnel-Offline"].split(" ")
    assert len(process_id) > 10
    assert (number, message_id) == ("1", waiting.message_id)


async def test_the_official_sdk_reads_the_recording_as_an_event(sandbox: Sandbox, first: Run) -> None:
    change(sandbox, 7)
    await first.catch_up.drain()
    [found] = recorded(first.recordings)
    fields = form.parse(found.body)
    assert isinstance(fields, dict)
    event = OAuthEventData.from_dict(fields)
    assert (event.event, event.data) == (UPDATE, {"FIELDS": {"ID": "7"}})
    assert not event.is_system
    assert event.auth.oauth_token.access_token == sandbox.credentials.access_token
    assert event.auth.oauth_token.refresh_token is None


async def test_the_applications_status_is_what_the_portal_says(
    sandbox: Sandbox, first: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = RestClient.call_full

    async def paid(client: RestClient, method: str, *given: Any) -> dict[str, Any]:
        return {"result": {"STATUS": "P"}} if method == "app.info" else await call(client, method, *given)

    monkeypatch.setattr(RestClient, "call_full", paid)
    change(sandbox, 7)
    await first.catch_up.drain()
    [found] = recorded(first.recordings)
    assert found.event.auth is not None
    assert found.event.auth["status"] == "P"


async def test_an_event_without_data_is_recorded_too(sandbox: Sandbox, state: State, tmp_path: Path) -> None:
    async with run(state, tmp_path / "r", LEAD) as running:
        await running.catch_up.prepare()
        sandbox.raise_event(LEAD, [])
        assert await running.catch_up.drain() == 1
    [found] = recorded(tmp_path / "r")
    assert found.event.data is None


async def test_the_tokens_are_fresh_where_those_stored_have_expired(
    sandbox: Sandbox, state: State, first: Run
) -> None:
    before = state.portal("sandbox").access_token
    change(sandbox, 7)
    sandbox.expire_access_token()
    assert await first.catch_up.drain() == 1
    [found] = recorded(first.recordings)
    assert found.event.auth is not None
    assert found.event.auth["access_token"] == sandbox.credentials.access_token != before


async def test_every_event_but_that_of_the_queue_itself_is_bound_offline(
    sandbox: Sandbox, state: State, tmp_path: Path
) -> None:
    async with run(state, tmp_path / "r", "onCrmDealUpdate", "OnOfflineEvent", LEAD) as running:
        await running.catch_up.prepare()
    assert [(row.event, row.offline) for row in sandbox.bindings] == [(UPDATE, True), (LEAD, True)]
    assert [(row.event, row.handler, row.state) for row in state.ledger()] == [
        (UPDATE, "", "kept"),
        (LEAD, "", "kept"),
    ]


async def test_what_the_queue_cannot_give_is_told_and_what_was_bound_how_to_undo_it(first: Run) -> None:
    bound, limits = first.texts()
    assert UPDATE in bound
    assert "b24tunnel bindings clean --kept" in bound
    assert "last state" in limits
    assert "tokens" in limits


async def test_the_next_run_has_the_same_queue_and_binds_nothing_anew(
    sandbox: Sandbox, state: State, tmp_path: Path, first: Run
) -> None:
    async with run(state, tmp_path / "r") as second:
        await second.catch_up.prepare()
        assert len(second.texts()) == 1
    [row] = sandbox.bindings
    assert row.connector.startswith("b24tunnel-")


async def test_a_drain_without_anything_in_the_queue_does_not_read_the_journal(
    first: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any) -> AlreadyRecorded:
        raise AssertionError("read")

    monkeypatch.setattr(AlreadyRecorded, "read", never)
    assert await first.catch_up.drain() == 0


# -- whom it is not for ------------------------------------------------------------------------------------------


async def test_who_is_no_administrator_is_told_so_before_anything_is_bound(tmp_path: Path) -> None:
    async with Sandbox(admin=False) as sandbox:
        state = State.open(tmp_path / "home")
        state.save_portal(Portal.from_mapping("sandbox", sandbox.credentials.as_dict()))
        async with run(state, tmp_path / "r") as running:
            with pytest.raises(UserError, match="needs an administrator") as caught:
                await running.catch_up.prepare()
            assert caught.value.exit_code == 3
        assert sandbox.bindings == []
        assert called(sandbox, "event.bind") == []
        assert state.ledger() == []


async def test_the_common_queue_is_not_drained_where_another_program_has_bound_it(tmp_path: Path) -> None:
    async with Sandbox(auth_connectors=False) as sandbox:
        state = State.open(tmp_path / "home")
        state.save_portal(Portal.from_mapping("sandbox", sandbox.credentials.as_dict()))
        async with RestClient(state.portal("sandbox"), state) as client:
            await client.event_bind_offline(LEAD)
        sandbox.raise_event(LEAD, {"FIELDS": {"ID": 1}})
        async with run(state, tmp_path / "r") as running:
            with pytest.raises(UserError, match=f"another program of this application collects {LEAD}"):
                await running.catch_up.prepare()
            with pytest.raises(UserError, match="another program"):
                await running.catch_up.drain()
        assert [row.event for row in sandbox.bindings] == [LEAD]
        assert [waiting.process_id for waiting in sandbox.offline] == [""]
        assert state.ledger() == []


async def test_another_programs_queue_is_left_alone_where_each_has_its_own(
    sandbox: Sandbox, state: State, tmp_path: Path
) -> None:
    async with RestClient(state.portal("sandbox"), state) as client:
        await client.event_bind_offline(UPDATE)
        await client.event_bind_offline(UPDATE, "production")
    async with run(state, tmp_path / "r") as running:
        await running.catch_up.prepare()
        change(sandbox, 1, 2)
        assert await running.catch_up.drain() == 2
    assert Counter(waiting.connector for waiting in sandbox.offline) == {"": 2, "production": 2}


async def test_the_common_queue_is_used_where_only_this_tool_has_bound_it(tmp_path: Path) -> None:
    async with Sandbox(auth_connectors=False) as sandbox:
        state = State.open(tmp_path / "home")
        state.save_portal(Portal.from_mapping("sandbox", sandbox.credentials.as_dict()))
        for session in range(2):
            async with run(state, tmp_path / "r") as running:
                await running.catch_up.prepare()
                change(sandbox, session)
                assert await running.catch_up.drain() == 1
        assert [row.connector for row in sandbox.bindings] == [""]


# -- without the extended mode -----------------------------------------------------------------------------------


@pytest.fixture
async def basic() -> AsyncIterator[Sandbox]:
    async with Sandbox(offline_extended=False) as running:
        yield running


@pytest.fixture
async def on_basic(basic: Sandbox, tmp_path: Path) -> AsyncIterator[Run]:
    state = State.open(tmp_path / "home")
    state.save_portal(Portal.from_mapping("sandbox", basic.credentials.as_dict()))
    async with run(state, tmp_path / "r") as running:
        await running.catch_up.prepare()
        yield running


async def test_a_basic_plan_is_told_and_drained_all_the_same(basic: Sandbox, on_basic: Run) -> None:
    assert any("rest_offline_extended" in text for text in on_basic.texts())
    change(basic, *range(1, 121))
    assert await on_basic.catch_up.drain() == 120
    assert deals(on_basic.recordings) == list(range(1, 121))
    assert basic.offline == []
    assert all(params["clear"] == "1" for params in called(basic, "event.offline.get"))


@pytest.mark.parametrize("fault", [Fault.http(500), Fault.drop(), Fault.drop(after=True)])
async def test_on_a_basic_plan_a_failed_removal_loses_and_doubles_nothing(
    basic: Sandbox, on_basic: Run, fault: Fault
) -> None:
    change(basic, *range(1, 81))
    basic.fail("event.offline.get", fault)
    with pytest.raises(UserError):
        await on_basic.catch_up.drain()
    await on_basic.catch_up.drain()
    assert deals(on_basic.recordings) == list(range(1, 81))
    assert basic.offline == []


async def test_on_a_basic_plan_what_changes_while_it_is_fetched_is_recorded_again(
    basic: Sandbox, on_basic: Run, disk: Disk
) -> None:
    change(basic, 1)
    disk.shut()
    draining = asyncio.create_task(on_basic.catch_up.drain())
    await disk.reached()
    listed = basic._portal.offline.select(lambda event: True)
    listed[0].changed_at = listed[0].changed_at.replace(year=listed[0].changed_at.year + 1)
    disk.gate.set()
    assert await draining == 2
    assert deals(on_basic.recordings) == [1, 1]
    assert basic.offline == []


async def test_on_a_basic_plan_what_was_handed_out_and_not_written_is_written_by_the_next_drain(
    basic: Sandbox, on_basic: Run, disk: Disk
) -> None:
    change(basic, 1)
    disk.shut()
    draining = asyncio.create_task(on_basic.catch_up.drain())
    await disk.reached()
    listed = basic._portal.offline.select(lambda event: True)
    listed[0].changed_at = listed[0].changed_at.replace(year=listed[0].changed_at.year + 1)
    outcomes: list[OSError | None] = [None, OSError(errno.ENOSPC, "No space left on device")]
    disk.failures = _Scripted(outcomes)
    disk.gate.set()
    with pytest.raises(JournalUnwritable):
        await draining
    assert deals(on_basic.recordings) == [1]
    assert await on_basic.catch_up.drain() == 1
    assert deals(on_basic.recordings) == [1, 1]


class _Scripted(list[Any]):
    """Failures in turn; where there is None, the sync goes well."""

    def __bool__(self) -> bool:
        if len(self) and self[0] is None:
            self.pop(0)
            return False
        return len(self) > 0


# -- what breaks in between --------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Fault.http(500), Fault.drop(), Fault.drop(after=True)])
async def test_a_removal_that_fails_after_the_writing_doubles_nothing(
    sandbox: Sandbox, first: Run, fault: Fault
) -> None:
    change(sandbox, *range(1, 121))
    sandbox.fail("event.offline.clear", fault)
    with pytest.raises(UserError, match=r"event\.offline\.clear"):
        await first.catch_up.drain()
    assert await first.catch_up.drain() == 70
    assert deals(first.recordings) == list(range(1, 121))
    assert sandbox.offline == []


@pytest.mark.parametrize("fault", [Fault.http(502), Fault.drop(), Fault.drop(after=True)])
async def test_an_answer_with_entries_that_is_lost_loses_none(sandbox: Sandbox, first: Run, fault: Fault) -> None:
    change(sandbox, *range(1, 121))
    sandbox.fail("event.offline.get", fault)
    with pytest.raises(UserError):
        await first.catch_up.drain()
    assert await first.catch_up.drain() == 120
    assert deals(first.recordings) == list(range(1, 121))
    assert sandbox.offline == []


async def test_an_answer_that_is_lost_after_a_drain_that_went_well_loses_nothing_either(
    sandbox: Sandbox, first: Run
) -> None:
    assert await first.catch_up.drain() == 0
    change(sandbox, *range(1, 61))
    sandbox.fail("event.offline.get", Fault.drop(after=True))
    with pytest.raises(UserError):
        await first.catch_up.drain()
    assert await first.catch_up.drain() == 60
    assert deals(first.recordings) == list(range(1, 61))


async def test_a_portal_that_is_in_a_hurry_is_asked_again(sandbox: Sandbox, first: Run) -> None:
    change(sandbox, *range(1, 61))
    sandbox.fail("event.offline.get", Fault.error("QUERY_LIMIT_EXCEEDED", status=503))
    assert await first.catch_up.drain() == 60


async def test_nothing_is_removed_from_the_queue_while_the_disk_is_full(
    sandbox: Sandbox, first: Run, disk: Disk
) -> None:
    change(sandbox, *range(1, 61))
    disk.failures = [OSError(errno.ENOSPC, "No space left on device") for _ in range(50)]
    with pytest.raises(JournalUnwritable, match="make room"):
        await first.catch_up.drain()
    assert called(sandbox, "event.offline.clear") == []
    assert len(sandbox.offline) == 60
    disk.failures = []
    assert await first.catch_up.drain() == 60
    assert deals(first.recordings) == list(range(1, 61))
    assert sandbox.offline == []


async def test_nothing_is_removed_before_it_is_on_disk(sandbox: Sandbox, first: Run, disk: Disk) -> None:
    change(sandbox, 1)
    disk.shut()
    draining = asyncio.create_task(first.catch_up.drain())
    await disk.reached()
    assert called(sandbox, "event.offline.clear") == []
    disk.gate.set()
    assert await draining == 1
    assert len(called(sandbox, "event.offline.clear")) == 1


async def test_a_drain_that_is_cancelled_while_it_writes_doubles_nothing(
    sandbox: Sandbox, first: Run, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(sandbox, *range(1, 11))
    disk.shut()
    draining = asyncio.create_task(first.catch_up.drain())
    await disk.reached()
    draining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await draining
    # Only what is on disk can be found in the journal, so the next drain waits for it first.
    asked_when_written = []
    client = first.catch_up._client

    async def noted() -> RestClient:
        asked_when_written.append(disk.gate.is_set())
        return await client()

    monkeypatch.setattr(first.catch_up, "_client", noted)
    again = asyncio.create_task(first.catch_up.drain())
    for _ in range(20):
        await asyncio.sleep(0)
    disk.gate.set()
    assert await again == 0
    assert asked_when_written == [True]
    assert deals(first.recordings) == list(range(1, 11))
    assert sandbox.offline == []


async def test_what_a_crashed_run_recorded_in_another_directory_is_not_lost_for_this_one(
    sandbox: Sandbox, state: State, tmp_path: Path, first: Run
) -> None:
    change(sandbox, *range(1, 61))
    sandbox.fail("event.offline.clear", Fault.http(500))
    with pytest.raises(PortalError):
        await first.catch_up.drain()
    async with run(state, tmp_path / "elsewhere") as second:
        assert await second.catch_up.drain() == 60
    assert deals(tmp_path / "elsewhere") == list(range(1, 61))
    assert sandbox.offline == []


# -- damaged entries ---------------------------------------------------------------------------------------------

Change = Callable[[dict[str, Any]], None]


@contextlib.asynccontextmanager
async def altered(sandbox: Sandbox, state: State, change: Change) -> AsyncIterator[None]:
    """A way to the sandbox on which each entry of the queue is given to ``change``."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        headers = {"Content-Type": request.headers.get("Content-Type", "")}
        async with (
            aiohttp.ClientSession() as session,
            session.post(sandbox.url + request.path, data=await request.read(), headers=headers) as response,
        ):
            answer, status = await response.json(), response.status
        if request.path.endswith("event.offline.get") and "result" in answer:
            for entry in answer["result"]["events"]:
                change(entry)
        return web.json_response(answer, status=status)

    runner = web.ServerRunner(web.Server(handle), shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    values = {
        **sandbox.credentials.as_dict(),
        "client_endpoint": f"http://127.0.0.1:{runner.addresses[0][1]}/rest/",
    }
    state.save_portal(Portal.from_mapping("sandbox", values))
    try:
        yield
    finally:
        await runner.cleanup()


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("MESSAGE_ID", "short", "32 characters"),
        ("MESSAGE_ID", None, "32 characters"),
        ("ID", "x", "ID is no number"),
        ("EVENT_NAME", "", "EVENT_NAME"),
        ("EVENT_NAME", "a b", "EVENT_NAME"),
        ("TIMESTAMP_X", "yesterday", "TIMESTAMP_X"),
        ("TIMESTAMP_X", "2026-11-25T10:00:00", "time zone"),
        ("EVENT_DATA", {"a": "\ud800"}, "cannot be sent"),
        ("EVENT_DATA", nested(80), "deep"),
        ("EVENT_DATA", {"k" * 1000: ["x"] * 5000}, "bytes"),
    ],
)
async def test_a_damaged_entry_is_told_and_stays_and_the_others_go_on(
    sandbox: Sandbox, state: State, first: Run, tmp_path: Path, key: str, value: Any, words: str
) -> None:
    def damage(entry: dict[str, Any]) -> None:
        if entry["EVENT_DATA"] == {"FIELDS": {"ID": 2}}:
            entry[key] = value

    change(sandbox, 1, 2, 3)
    async with altered(sandbox, state, damage), run(state, tmp_path / "r") as second:
        assert await second.catch_up.drain() == 2
        [told] = second.texts(Trouble)
        assert words in told
        assert await second.catch_up.drain() == 0
        assert second.texts(Trouble) == [told]
    assert deals(tmp_path / "r") == [1, 3]
    assert [waiting.data for waiting in sandbox.offline] == [{"FIELDS": {"ID": 2}}]


async def test_a_damaged_entry_that_a_crash_left_reserved_is_passed_by_and_told_once(
    sandbox: Sandbox, state: State, first: Run, tmp_path: Path
) -> None:
    def damage(entry: dict[str, Any]) -> None:
        if entry["EVENT_DATA"] == {"FIELDS": {"ID": 2}}:
            entry["TIMESTAMP_X"] = ""

    change(sandbox, 1, 2, 3)
    async with altered(sandbox, state, damage), run(state, tmp_path / "r") as second:
        for _ in range(2):
            sandbox.fail("event.offline.clear", Fault.http(500))
            with pytest.raises(UserError):
                await second.catch_up.drain()
        async with asyncio.timeout(ENOUGH):
            assert await second.catch_up.drain() == 0
        assert len(second.texts(Trouble)) == 1
    assert deals(tmp_path / "r") == [1, 3]
    assert [waiting.data for waiting in sandbox.offline] == [{"FIELDS": {"ID": 2}}]


async def test_a_whole_page_of_damaged_entries_does_not_hold_up_the_rest(
    sandbox: Sandbox, state: State, first: Run, tmp_path: Path
) -> None:
    def damage(entry: dict[str, Any]) -> None:
        if int(entry["EVENT_DATA"]["FIELDS"]["ID"]) <= 50:
            entry["TIMESTAMP_X"] = ""

    change(sandbox, *range(1, 61))
    async with altered(sandbox, state, damage), run(state, tmp_path / "r") as second:
        assert await second.catch_up.drain() == 10
        assert "50 of the entries" in second.texts(Trouble)[0]
    assert deals(tmp_path / "r") == list(range(51, 61))


async def test_an_entry_without_a_user_is_recorded_with_that_of_the_tokens(
    sandbox: Sandbox, state: State, first: Run, tmp_path: Path
) -> None:
    change(sandbox, 1)
    way = altered(sandbox, state, lambda entry: entry.update(EVENT_ADDITIONAL=[]))
    async with way, run(state, tmp_path / "r") as second:
        assert await second.catch_up.drain() == 1
    [found] = recorded(tmp_path / "r")
    assert found.event.auth is not None
    assert found.event.auth["user_id"] == "1"


# -- what came online --------------------------------------------------------------------------------------------


def made_older(sandbox: Sandbox, deal: int, seconds: int) -> int:
    """Let the free entry of a deal have changed so much earlier; when that is, in unix seconds."""
    [event] = sandbox._portal.offline.select(lambda event: event.data == {"FIELDS": {"ID": deal}})
    event.changed_at -= timedelta(seconds=seconds)
    return int(event.changed_at.timestamp())


async def changed_at(sandbox: Sandbox) -> int:
    [event] = sandbox._portal.offline.select(lambda event: True)
    return int(event.changed_at.timestamp())


@pytest.mark.parametrize("later", [0, 5])
async def test_what_was_delivered_online_is_removed_and_not_recorded_again(
    sandbox: Sandbox, first: Run, later: int
) -> None:
    change(sandbox, 7)
    await record_online(first, 7, await changed_at(sandbox) + later)
    await record_online(first, 7, await changed_at(sandbox) - 100)
    assert await first.catch_up.drain() == 0
    assert sandbox.offline == []
    assert [found.source for found in recorded(first.recordings)] == ["tunnel", "tunnel"]


@pytest.mark.parametrize(
    "different",
    [
        {"deal": 8},
        {"earlier": 1},
        {"code": "ONCRMDEALADD"},
        {"verdict": "mismatched"},
        {"portal": "another"},
        {"source": "import"},
        {"earlier": -3600},  # of a time that has not come: made up, and would stand for every change until then
    ],
)
async def test_what_may_be_another_change_is_recorded(
    sandbox: Sandbox, first: Run, different: dict[str, Any]
) -> None:
    change(sandbox, 7)
    ts = await changed_at(sandbox) - different.pop("earlier", 0)
    await record_online(first, different.pop("deal", 7), ts, **different)
    assert await first.catch_up.drain() == 1
    assert [found.source for found in recorded(first.recordings)][1:] == ["offline"]


async def test_each_entry_is_compared_with_the_latest_delivery_of_its_own_change(
    sandbox: Sandbox, first: Run
) -> None:
    change(sandbox, 1, 2, 3)
    made_older(sandbox, 1, 1000)
    second, third = made_older(sandbox, 2, 0), made_older(sandbox, 3, 0)
    await record_online(first, 2, second)
    await record_online(first, 2, second - 500)
    await record_online(first, 3, third - 500)
    assert await first.catch_up.drain() == 2
    taken = [found.event.data for found in recorded(first.recordings) if found.source == "offline"]
    assert taken == [{"FIELDS": {"ID": "1"}}, {"FIELDS": {"ID": "3"}}]
    assert sandbox.offline == []


async def test_what_was_left_by_a_crash_is_compared_as_well_though_it_is_older_than_the_rest(
    sandbox: Sandbox, first: Run
) -> None:
    change(sandbox, *range(1, 52))
    for deal in range(1, 51):
        made_older(sandbox, deal, 1000)
    when = made_older(sandbox, 50, 0)
    sandbox.fail("event.offline.get", Fault.drop(after=True))
    with pytest.raises(UserError):
        await first.catch_up.drain()
    change(sandbox, 60)
    made_older(sandbox, 60, 2000)
    await record_online(first, 50, when)
    assert await first.catch_up.drain() == 51
    taken = [int(f.event.data["FIELDS"]["ID"]) for f in recorded(first.recordings) if f.source == "offline"]
    assert sorted(taken) == [*range(1, 50), 51, 60]


async def test_an_online_delivery_without_a_token_known_counts_as_well(sandbox: Sandbox, first: Run) -> None:
    change(sandbox, 7)
    await record_online(first, 7, await changed_at(sandbox), verdict="unverified")
    assert await first.catch_up.drain() == 0


@pytest.mark.parametrize("data", [[], {"FIELDS": {"ID": 7, "EMPTY": []}}, {"LIST": {"0": "a", "1": 2.5}}])
async def test_data_is_compared_as_it_is_found_in_a_delivery(sandbox: Sandbox, first: Run, data: Any) -> None:
    sandbox.raise_event(UPDATE, data)
    fields = {"event": UPDATE, "data": data, "ts": str(await changed_at(sandbox))}
    await first.writer.append(
        Recording(
            first.writer.next_id(),
            datetime.now(UTC),
            "POST",
            "/b24/x",
            (),
            form.encode(fields),
            code=UPDATE,
            verdict="verified",
            portal="sandbox",
        )
    )
    assert await first.catch_up.drain() == 0


async def test_what_was_caught_up_before_does_not_hide_a_later_change(sandbox: Sandbox, first: Run) -> None:
    change(sandbox, 7)
    assert await first.catch_up.drain() == 1
    change(sandbox, 7)
    assert await first.catch_up.drain() == 1


# -- processes ---------------------------------------------------------------------------------------------------

_DRAIN = """
import asyncio, sys
from pathlib import Path
from b24tunnel.catching_up import CatchUp
from b24tunnel.journal import Journal, JournalWriter
from b24tunnel.portal import State

async def main():
    state, recordings = State.open(Path(sys.argv[1])), Path(sys.argv[2])
    journal = Journal.open(recordings)
    writer = JournalWriter(recordings)
    portal = state.portal("sandbox")
    catch_up = CatchUp(portal, state, ["ONCRMDEALUPDATE"], writer, journal, print, target="/b24/x")
    await catch_up.prepare()
    print("drained", await catch_up.drain(), flush=True)
    await writer.close()

asyncio.run(main())
"""


async def a_drain(state: State, recordings: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _DRAIN,
        str(state.home),
        str(recordings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def ended(process: asyncio.subprocess.Process) -> int:
    """How many recordings the drain says that it made."""
    out, err = await asyncio.wait_for(process.communicate(), ENOUGH)
    assert process.returncode == 0, err.decode()
    return int(out.split()[-1])


async def killed(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await asyncio.wait_for(process.communicate(), ENOUGH)


def is_larger(recordings: Path, than: int) -> bool:
    return size(recordings) > than


def has_met(sandbox: Sandbox, faults: int) -> bool:
    return sum(call.fault is not None for call in sandbox.calls) >= faults


def size(recordings: Path) -> int:
    return sum(file.stat().st_size for file in (recordings / "journal").glob("*.jsonl"))


@pytest.mark.parametrize("where", ["size", "clear", "get"])
async def test_a_drain_that_is_killed_ten_times_over_records_everything_once(
    sandbox: Sandbox, state: State, first: Run, tmp_path: Path, where: str
) -> None:
    chance = random.Random(where)
    recordings = tmp_path / "r"
    change(sandbox, *range(1, 201))
    total = 200
    for _ in range(10):
        faults = sum(call.fault is not None for call in sandbox.calls)
        passed = chance.randint(0, 2)
        if where == "size":
            # Slow enough to be hit in the middle.
            for method in ("event.offline.get", "event.offline.clear"):
                sandbox.fail(method, Fault.slow(0.02), times=20)
        else:
            method = f"event.offline.{where}"
            # The answer to a get is on its way for ever: what it reserved is, under a mark that nobody knows.
            stuck = Fault.hang() if where == "clear" else Fault.slow(ENOUGH)
            if passed:
                sandbox.fail(method, Fault.slow(0), times=passed)
            sandbox.fail(method, stuck)
        process = await a_drain(state, recordings)
        if where == "size":
            await until(partial(is_larger, recordings, size(recordings) + chance.randint(1, 120_000)), ENOUGH)
        else:
            await until(partial(has_met, sandbox, faults + passed + 1), ENOUGH)
        assert process.returncode is None
        await killed(process)
        change(sandbox, *range(total + 1, total + 101))
        total += 100
    sandbox._rest.faults._waiting.clear()
    await ended(await a_drain(state, recordings))
    assert deals(recordings) == list(range(1, total + 1))
    assert sandbox.offline == []


async def test_two_processes_that_drain_at_the_same_time_record_everything_once(
    sandbox: Sandbox, state: State, first: Run, tmp_path: Path
) -> None:
    change(sandbox, *range(1, 201))
    recordings = tmp_path / "r"
    processes = [await a_drain(state, recordings) for _ in range(2)]
    assert sum([await ended(process) for process in processes]) == 200
    assert deals(recordings) == list(range(1, 201))
    assert sandbox.offline == []


async def test_a_second_drain_does_not_take_what_the_first_has_in_hand(
    sandbox: Sandbox, state: State, first: Run, tmp_path: Path, disk: Disk
) -> None:
    change(sandbox, *range(1, 11))
    async with run(state, tmp_path / "elsewhere") as second:
        await second.catch_up.prepare()
        disk.shut()
        draining = [asyncio.create_task(first.catch_up.drain())]
        await disk.reached()
        asked = len(sandbox.calls)
        draining.append(asyncio.create_task(second.catch_up.drain()))
        async with RestClient(state.portal("sandbox"), state) as client:
            for _ in range(20):
                await client.profile()
        assert {call.method for call in sandbox.calls[asked:]} == {"profile"}
        disk.gate.set()
        assert await asyncio.gather(*draining) == [10, 0]


async def test_a_long_search_of_the_journal_ends_with_the_drain(
    sandbox: Sandbox, first: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(sandbox, 1)
    stopped: list[bool] = []
    begun, over = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def endless(*args: Any) -> AlreadyRecorded:
        loop.call_soon_threadsafe(begun.set)
        stopped.append(args[-1].wait(ENOUGH))
        loop.call_soon_threadsafe(over.set)
        return AlreadyRecorded(0)

    monkeypatch.setattr(AlreadyRecorded, "read", endless)
    draining = asyncio.create_task(first.catch_up.drain())
    await asyncio.wait_for(begun.wait(), ENOUGH)
    draining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await draining
    await asyncio.wait_for(over.wait(), 2 * ENOUGH)
    assert stopped == [True]


async def test_no_token_is_told_whatever_fails(sandbox: Sandbox, state: State, first: Run) -> None:
    change(sandbox, 1)
    sandbox.fail("event.offline.get", Fault.error("X", state.portal("sandbox").access_token))
    with pytest.raises(UserError) as caught:
        await first.catch_up.drain()
    told = str(caught.value) + repr(first.told) + json.dumps([dataclasses.asdict(t) for t in first.told])
    assert not any(secret in told for secret in state.portal("sandbox").secrets())

"""Faults that are switched on: what comes over the wire, how often, and what is remembered."""

import asyncio
import time

import aiohttp
import pytest
from sandboxed import DEADLINE, rest
from waiting import until

from b24tunnel.errors import WrongUsage
from b24tunnel.sandbox import Fault, Sandbox, server


@pytest.fixture
async def http():
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def sandbox():
    async with Sandbox(delay=0) as portal:
        yield portal


def post(http, sandbox, method, **params):
    body = {**params, "auth": sandbox.credentials.access_token}
    return http.post(f"{sandbox.url}/rest/{method}", json=body)


def refresh(http, sandbox):
    credentials = sandbox.credentials
    params = {
        "grant_type": "refresh_token",
        "client_id": credentials.client_id,
        "client_secret": credentials.client_secret,
        "refresh_token": credentials.refresh_token,
    }
    # A GET on a connection that was dropped is tried again by aiohttp's client itself.
    return http.post(f"{sandbox.url}/oauth/token/", data=params)


async def test_an_error_is_met_as_often_as_was_said_and_the_call_is_not_made(http, sandbox):
    sandbox.fail("CRM.deal.add", Fault.error("OVERLOAD_LIMIT", "REST API is blocked", 503), times=2)
    for _ in range(2):
        async with post(http, sandbox, "crm.deal.add", fields={"TITLE": "x"}) as answer:
            assert answer.status == 503
            assert await answer.json() == {"error": "OVERLOAD_LIMIT", "error_description": "REST API is blocked"}
    assert (await rest(sandbox, "crm.deal.add"))["result"] == 1
    assert [(call.status, call.error, call.fault) for call in sandbox.calls] == [
        (503, "OVERLOAD_LIMIT", "error"),
        (503, "OVERLOAD_LIMIT", "error"),
        (200, None, None),
    ]
    assert sandbox.calls[0].params == {"fields": {"TITLE": "x"}}


async def test_any_call_meets_a_fault_for_all_after_one_for_its_own_name(http, sandbox):
    sandbox.fail("*", Fault.error("any"))
    sandbox.fail("profile", Fault.error("own"))
    sandbox.fail("profile", Fault.error("later"))
    got = [(await rest(sandbox, name)).get("error") for name in ("profile", "profile", "scope", "profile")]
    assert got == ["own", "later", "any", None]
    sandbox.fail("*", Fault.error("any"))
    async with refresh(http, sandbox) as answer:
        assert answer.status == 200, "a fault for any REST call is none of the token endpoint's"
    assert (await rest(sandbox, "profile"))["error"] == "any"


async def test_faults_are_met_in_the_order_in_which_they_were_switched_on(sandbox):
    sandbox.fail("profile", Fault.error("first"), times=2)
    sandbox.fail("profile", Fault.error("second"))
    assert [(await rest(sandbox, "profile")).get("error") for _ in range(4)] == ["first", "first", "second", None]


async def test_an_answer_that_is_no_rest_comes_as_it_was_given(http, sandbox):
    sandbox.fail("profile", Fault.http(502, b"<h1>Bad Gateway</h1>\xff", "text/html; charset=x"))
    async with post(http, sandbox, "profile") as answer:
        assert (answer.status, await answer.read()) == (502, b"<h1>Bad Gateway</h1>\xff")
        assert answer.headers["Content-Type"] == "text/html; charset=x"
    sandbox.fail("oauth/token", Fault.http(500))
    async with refresh(http, sandbox) as answer:
        assert (answer.status, await answer.read()) == (500, b"")
    assert [(call.method, call.status, call.fault) for call in sandbox.calls] == [
        ("profile", 502, "http"),
        ("oauth/token", 500, "http"),
    ]


async def test_a_dropped_connection_has_no_answer(http, sandbox):
    sandbox.fail("crm.deal.add", Fault.drop())
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await post(http, sandbox, "crm.deal.add")
    assert (sandbox.calls[-1].status, sandbox.calls[-1].fault) == (0, "drop")
    assert (await rest(sandbox, "crm.deal.list"))["total"] == 0


async def test_a_connection_dropped_after_the_call_was_carried_out(http, sandbox):
    sandbox.fail("crm.deal.add", Fault.drop(after=True))
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await post(http, sandbox, "crm.deal.add")
    assert (sandbox.calls[-1].status, sandbox.calls[-1].fault) == (200, "drop")
    assert (await rest(sandbox, "crm.deal.list"))["total"] == 1


async def test_a_refresh_whose_answer_is_lost_has_spent_the_token(http, sandbox):
    request = refresh(http, sandbox)
    again = refresh(http, sandbox)
    sandbox.fail("oauth/token", Fault.drop(after=True))
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await request
    async with again as answer:
        assert (answer.status, (await answer.json())["error"]) == (400, "invalid_grant")
    sandbox.fail("oauth/token", Fault.drop())
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await refresh(http, sandbox)
    async with refresh(http, sandbox) as answer:
        assert answer.status == 200


async def test_a_hanging_call_ends_with_its_client(http, sandbox):
    sandbox.fail("profile", Fault.hang())
    before = asyncio.all_tasks()
    call = asyncio.ensure_future(post(http, sandbox, "profile"))
    await until(lambda: sandbox.calls)
    assert not call.done()
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await until(lambda: asyncio.all_tasks() <= before | {asyncio.current_task()})
    assert (sandbox.calls[-1].status, sandbox.calls[-1].fault) == (0, "hang")


async def test_a_hanging_call_does_not_hold_up_the_stop(http, monkeypatch):
    monkeypatch.setattr(server, "SHUTDOWN_SECONDS", 2 * DEADLINE)
    sandbox = Sandbox()
    await sandbox.start()
    sandbox.fail("*", Fault.hang())
    sandbox.fail("oauth/token", Fault.hang())
    calls = [asyncio.ensure_future(post(http, sandbox, "profile")), asyncio.ensure_future(refresh(http, sandbox))]
    await until(lambda: len(sandbox.calls) == 2)
    await sandbox.stop()
    async with asyncio.timeout(DEADLINE):
        answers = await asyncio.gather(*calls, return_exceptions=True)
    for answer in answers:
        assert isinstance(answer, aiohttp.ClientError)


async def test_a_slow_call_is_carried_out_at_once_and_answered_late(http, sandbox):
    sandbox.fail("crm.deal.add", Fault.slow(0.2))
    started = time.monotonic()
    call = asyncio.ensure_future(rest(sandbox, "crm.deal.add"))
    await until(lambda: sandbox.calls)
    assert (await rest(sandbox, "crm.deal.list"))["total"] == 1
    answer = await call
    assert time.monotonic() - started >= 0.2
    assert answer["result"] == 1
    assert answer["time"]["duration"] >= 0.2
    assert answer["time"]["operating"] >= 0.2


@pytest.mark.parametrize(
    ("what", "make", "times", "says"),
    [
        ("crm.deal.fly", lambda: Fault.hang(), 1, "crm.deal.fly"),
        ("profile", lambda: Fault.hang(), 0, "0 times"),
        ("profile", lambda: Fault.slow(float("nan")), 1, "nan seconds"),
        ("profile", lambda: Fault.slow(-1), 1, "-1 seconds"),
        ("profile", lambda: Fault.error("x", status=99), 1, "99 is no HTTP status"),
        ("profile", lambda: Fault.http(1000), 1, "1000 is no HTTP status"),
    ],
)
async def test_a_fault_that_cannot_be_is_told(sandbox, what, make, times, says):
    with pytest.raises(WrongUsage, match=says):
        sandbox.fail(what, make(), times)


async def test_requests_for_tokens_are_remembered_without_secrets(http, sandbox):
    async with refresh(http, sandbox):
        pass
    [call] = sandbox.calls
    assert (call.method, call.params, call.status, call.error) == (
        "oauth/token",
        {"grant_type": "refresh_token"},
        200,
        None,
    )

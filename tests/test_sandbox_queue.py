"""The sandbox's queue: what reaches a handler, when, and how often."""

import asyncio
import time
from urllib.parse import parse_qsl

import aiohttp
import pytest
from b24pysdk.credentials import OAuthEventData
from sandboxed import DEADLINE, OK, Handler, bind, rest

from b24tunnel import catalogue, form
from b24tunnel.sandbox import Pacing, Sandbox
from b24tunnel.sandbox import queue as queue_module


@pytest.fixture
async def handler():
    async with Handler() as server:
        yield server


@pytest.fixture
async def sandbox():
    async with Sandbox(delay=0.01) as portal:
        yield portal


async def test_a_delivery_has_the_headers_of_the_real_one_and_no_others(sandbox, handler):
    await bind(sandbox, handler.url)
    await rest(sandbox, "crm.deal.add")
    await sandbox.idle(DEADLINE)
    [(head, body)] = handler.requests
    assert head.decode().split("\r\n") == [
        "POST /handler?key=a%2Fb HTTP/1.1",
        f"Host: 127.0.0.1:{handler.port}",
        "User-Agent: Bitrix24 Webhook Engine",
        "Content-Type: application/x-www-form-urlencoded",
        f"Content-Length: {len(body)}",
        "Accept-Encoding: gzip",
        "Connection: close",
        "",
        "",
    ]


async def test_a_delivery_has_the_body_of_the_real_one(sandbox, handler):
    await bind(sandbox, handler.url)
    before = int(time.time())
    await rest(sandbox, "crm.deal.add")
    await sandbox.idle(DEADLINE)
    [(_, body)] = handler.requests
    names = [name for name, _ in parse_qsl(body.decode(), keep_blank_values=True)]
    assert names == [
        "event",
        "event_handler_id",
        "data[FIELDS][ID]",
        "ts",
        "auth[access_token]",
        "auth[expires]",
        "auth[expires_in]",
        "auth[scope]",
        "auth[domain]",
        "auth[server_endpoint]",
        "auth[status]",
        "auth[client_endpoint]",
        "auth[member_id]",
        "auth[user_id]",
        "auth[application_token]",
    ]
    assert body.startswith(b"event=ONCRMDEALADD&event_handler_id=1&data%5BFIELDS%5D%5BID%5D=1&ts=")
    event = form.parse(body)
    credentials = sandbox.credentials
    assert before <= int(event["ts"]) <= time.time()
    auth = event["auth"]
    assert auth["application_token"] == credentials.application_token
    assert auth["member_id"] == credentials.member_id
    assert auth["domain"] == credentials.domain
    assert auth["client_endpoint"] == credentials.client_endpoint
    assert auth["scope"] == credentials.scope
    assert auth["status"] == "L"
    assert auth["expires_in"] == "3600"


async def test_the_delivered_token_calls_the_portal(sandbox, handler):
    await bind(sandbox, handler.url)
    number = (await rest(sandbox, "crm.deal.add", fields={"TITLE": "x"}))["result"]
    await sandbox.idle(DEADLINE)
    [event] = handler.bodies()
    answer = await rest(sandbox, "crm.deal.get", event["auth"]["access_token"], id=event["data"]["FIELDS"]["ID"])
    assert answer["result"]["ID"] == str(number)


async def test_a_token_that_travelled_before_the_expiry_does_not_travel_again(sandbox, handler):
    await bind(sandbox, handler.url)
    sandbox.raise_event("ONCRMDEALADD")
    await sandbox.idle(DEADLINE)
    sandbox.expire_access_token()
    sandbox.raise_event("ONCRMDEALADD")
    await sandbox.idle(DEADLINE)
    old, new = (event["auth"]["access_token"] for event in handler.bodies())
    assert (await rest(sandbox, "profile", old))["error"] == "expired_token"
    assert (await rest(sandbox, "profile", new))["result"]["ID"] == "1"


@pytest.mark.parametrize("user", [True, False])
async def test_the_official_sdk_accepts_a_delivery(sandbox, handler, user):
    await bind(sandbox, handler.url)
    sandbox.raise_event("ONCRMDEALADD", {"FIELDS": {"ID": 7}}, user=user)
    await sandbox.idle(DEADLINE)
    [(_, body)] = handler.requests
    data = OAuthEventData.from_dict(dict(parse_qsl(body.decode(), keep_blank_values=True)))
    assert data.event == "ONCRMDEALADD"
    assert data.event_handler_id == sandbox.bindings[0].handler_id
    assert data.data == {"FIELDS": {"ID": "7"}}
    assert data.is_system is not user
    assert data.auth.application_token == sandbox.credentials.application_token


@pytest.mark.parametrize("code", ["ONAPPUNINSTALL", "ONAPPMETHODCONFIRM", "ONCRMDEALADD"])
async def test_events_without_a_user_carry_no_tokens(sandbox, handler, code):
    await bind(sandbox, handler.url, code)
    sandbox.raise_event(code, user=code != "ONCRMDEALADD")
    await sandbox.idle(DEADLINE)
    [event] = handler.bodies()
    assert list(event["auth"]) == [
        "domain",
        "client_endpoint",
        "server_endpoint",
        "member_id",
        "application_token",
    ]


@pytest.mark.parametrize("code", ["ONAPPINSTALL", "ONAPPUPDATE", "ONAPPTEST", "ONOFFLINEEVENT"])
async def test_some_events_of_the_application_carry_a_refresh_token_that_works(sandbox, handler, code):
    await bind(sandbox, handler.url, code)
    sandbox.raise_event(code)
    await sandbox.idle(DEADLINE)
    [event] = handler.bodies()
    assert list(event["auth"])[-3:] == ["refresh_token", "user_id", "application_token"]
    params = {
        "grant_type": "refresh_token",
        "refresh_token": event["auth"]["refresh_token"],
        "client_id": sandbox.credentials.client_id,
        "client_secret": sandbox.credentials.client_secret,
    }
    async with aiohttp.ClientSession() as http, http.get(f"{sandbox.url}/oauth/token/", params=params) as answer:
        assert answer.status == 200


async def test_every_scalar_travels_as_text_and_an_empty_array_not_at_all(sandbox, handler):
    await bind(sandbox, handler.url)
    sandbox.raise_event("ONCRMDEALADD", {"a": [1, True, False, None, "ü +&"], "b": {}, "c": [], "7": 1.5})
    sandbox.raise_event("ONCRMDEALADD", [])
    await sandbox.idle(DEADLINE)
    full, empty = sorted(handler.bodies(), key=len, reverse=True)
    assert full["data"] == {"a": ["1", "1", "0", "", "ü +&"], "7": "1.5"}
    assert list(empty) == ["event", "event_handler_id", "ts", "auth"]


async def test_every_event_of_the_catalogue_can_be_delivered(sandbox, handler):
    codes = [code for code, entry in catalogue.events().items() if entry.delivered and not entry.pattern]
    for code in codes:
        await bind(sandbox, handler.url, code)
        assert sandbox.raise_event(code) == 1
    await sandbox.idle(DEADLINE)
    assert {event["event"] for event in handler.bodies()} == set(codes)


async def test_event_test_reaches_only_the_own_handlers(sandbox, handler):
    await bind(sandbox, handler.url, "ONAPPTEST")
    sandbox.bind_foreign("ONAPPTEST", handler.url)
    assert (await rest(sandbox, "event.test", any="data"))["result"] == 1
    await sandbox.idle(DEADLINE)
    [event] = handler.bodies()
    assert event["data"] == {"QUERY": {"any": "data"}, "LANGUAGE_ID": "en"}
    assert event["auth"]["application_token"] == sandbox.credentials.application_token


async def test_event_test_refuses_data_that_would_grow_without_bound(sandbox, handler):
    await bind(sandbox, handler.url, "ONAPPTEST")
    answer = await rest(sandbox, "event.test", **{"k" * 100_000: [1] * 100_000})
    assert answer["error"] == "ERROR_CORE"


async def test_each_handler_row_gets_its_own_delivery(sandbox, handler):
    await bind(sandbox, handler.url)
    await bind(sandbox, handler.url, auth_type=5)
    foreign = sandbox.bind_foreign("ONCRMDEALADD", handler.url)
    await rest(sandbox, "crm.deal.add")
    await sandbox.idle(DEADLINE)
    by_id = {event["event_handler_id"]: event["auth"] for event in handler.bodies()}
    assert set(by_id) == {"1", "2", "3"}
    assert by_id["1"]["user_id"] == "1"
    assert by_id["2"]["user_id"] == "5"
    assert by_id[str(foreign.handler_id)]["application_token"] != sandbox.credentials.application_token


@pytest.mark.parametrize("kind", ["deal", "lead", "contact"])
async def test_changes_of_an_entity_raise_its_events(sandbox, handler, kind):
    for verb in ("ADD", "UPDATE", "DELETE"):
        await bind(sandbox, handler.url, f"ONCRM{kind}{verb}")
    await rest(sandbox, f"crm.{kind}.add")
    await rest(sandbox, f"crm.{kind}.update", id=1, fields={"COMMENTS": "x"})
    await rest(sandbox, f"crm.{kind}.delete", id=1)
    await rest(sandbox, f"crm.{kind}.delete", id=1)
    await sandbox.idle(DEADLINE)
    got = sorted((event["event"], event["data"]["FIELDS"]["ID"]) for event in handler.bodies())
    assert got == [(f"ONCRM{kind.upper()}{verb}", "1") for verb in ("ADD", "DELETE", "UPDATE")]


async def test_nothing_is_delivered_before_the_installation_is_finished(sandbox, handler):
    sandbox.installed = False
    await bind(sandbox, handler.url)
    await rest(sandbox, "crm.deal.add")
    assert sandbox.deliveries == []
    sandbox.installed = True
    await rest(sandbox, "crm.deal.add")
    await sandbox.idle(DEADLINE)
    assert [event["data"]["FIELDS"]["ID"] for event in handler.bodies()] == ["2"]


async def test_a_chain_of_events_ends_after_three_deliveries(sandbox, handler):
    await bind(sandbox, handler.url)
    token = sandbox.credentials.access_token
    for count in (1, 2, 3):
        await rest(sandbox, "crm.deal.add", token)
        await sandbox.idle(DEADLINE)
        assert len(handler.requests) == count
        token = handler.bodies()[-1]["auth"]["access_token"]
    assert (await rest(sandbox, "crm.deal.add", token))["result"] == 4
    await sandbox.idle(DEADLINE)
    assert len(handler.requests) == 3


async def test_an_offline_entry_is_announced_to_the_handler_of_onofflineevent(sandbox, handler):
    await bind(sandbox, handler.url, "ONOFFLINEEVENT")
    await bind(sandbox, "", "ONCRMDEALADD", event_type="offline")
    await rest(sandbox, "crm.deal.add")
    await sandbox.idle(DEADLINE)
    [event] = handler.bodies()
    assert event["event"] == "ONOFFLINEEVENT"
    assert "data" not in event


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 401 No\r\nWWW-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n",
        b"",
        b"nonsense\r\n\r\n",
    ],
)
async def test_a_delivery_is_tried_once_whatever_comes_back(sandbox, answer):
    async with Handler([answer]) as handler:
        await bind(sandbox, handler.url)
        await rest(sandbox, "crm.deal.add")
        await sandbox.idle(DEADLINE)
        assert len(handler.requests) == 1
        [delivery] = sandbox.deliveries
        assert delivery.done
        if answer.startswith(b"HTTP"):
            assert (delivery.status, delivery.error) == (int(answer.split()[1]), None)
        else:
            assert delivery.status is None
            assert delivery.error
        await rest(sandbox, "crm.deal.add")
        await sandbox.idle(DEADLINE)
        assert len(handler.requests) == 2


async def test_the_log_tells_when_and_how_a_delivery_went(sandbox, handler):
    await bind(sandbox, handler.url)
    sandbox.raise_event("ONCRMDEALADD")
    [queued] = sandbox.deliveries
    assert (queued.sent_at, queued.status, queued.done) == (None, None, False)
    await sandbox.idle(DEADLINE)
    [delivery] = sandbox.deliveries
    assert delivery.code == "ONCRMDEALADD"
    assert delivery.url == handler.url
    assert delivery.body == handler.requests[0][1]
    assert delivery.status == 200
    assert delivery.duration >= 0
    assert (delivery.sent_at - delivery.queued_at).total_seconds() >= 0.01


async def test_a_handler_that_is_not_there_is_logged_as_an_error(sandbox):
    async with Handler() as gone:
        pass
    await bind(sandbox, gone.url)
    sandbox.raise_event("ONCRMDEALADD")
    await sandbox.idle(DEADLINE)
    [delivery] = sandbox.deliveries
    assert delivery.status is None
    assert "Connect" in delivery.error


async def test_a_handler_that_never_answers_is_given_up(handler):
    handler.hold = asyncio.Event()
    async with Sandbox(delay=0, pacing=Pacing(timeout=0.1)) as sandbox:
        await bind(sandbox, handler.url)
        sandbox.raise_event("ONCRMDEALADD")
        await sandbox.idle(DEADLINE)
        [delivery] = sandbox.deliveries
        assert delivery.error == "no complete answer within 0.1 s"
        handler.hold.set()


async def test_an_answer_without_end_is_not_read_to_its_end(sandbox):
    async def endless():
        return b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n" + b"x" * 1_000_000

    async with Handler([endless]) as handler:
        await bind(sandbox, handler.url)
        sandbox.raise_event("ONCRMDEALADD")
        await sandbox.idle(DEADLINE)
        assert sandbox.deliveries[0].status == 200


async def test_one_stuck_handler_does_not_hold_up_another(sandbox, handler):
    hold = asyncio.Event()
    async with Handler(hold=hold) as stuck:
        await bind(sandbox, stuck.url)
        await bind(sandbox, handler.url)
        for _ in range(20):
            sandbox.raise_event("ONCRMDEALADD")
        await handler.wait_for(20)
        await stuck.wait_for(Pacing().concurrency)
        assert stuck.most_open == Pacing().concurrency
        with pytest.raises(TimeoutError, match="20 deliveries"):
            await sandbox.idle(0.01)
        hold.set()
        await sandbox.idle(DEADLINE)
        assert len(stuck.requests) == 20
        assert stuck.most_open == Pacing().concurrency


async def test_a_slow_handler_is_called_at_growing_pauses_and_recovers():
    async def slow():
        await asyncio.sleep(0.06)
        return OK

    pacing = Pacing(slow_after=0.05, first_pause=0.1, max_pause=0.2, concurrency=1)
    async with Handler([slow, slow, slow]) as handler, Sandbox(delay=0, pacing=pacing) as sandbox:
        await bind(sandbox, handler.url)
        pauses = []
        for _ in range(6):
            sandbox.raise_event("ONCRMDEALADD")
            await sandbox.idle(DEADLINE)
            pauses.append(sandbox.pause(handler.url))
        gaps = [later - earlier for earlier, later in zip(handler.times, handler.times[1:], strict=False)]
    assert pauses[:3] == [0.1, 0.2, 0.2]
    assert pauses[-1] == 0
    assert gaps[0] >= 0.15
    assert gaps[1] >= 0.25
    assert gaps[2] >= 0.25


async def test_a_full_queue_drops_and_says_so(handler, monkeypatch):
    monkeypatch.setattr(queue_module, "MAX_QUEUED", 2)
    async with Sandbox(delay=0.05) as sandbox:
        await bind(sandbox, handler.url)
        assert [sandbox.raise_event("ONCRMDEALADD") for _ in range(3)] == [1, 1, 0]
        assert sandbox.deliveries[-1].error.startswith("dropped")
        await sandbox.idle(DEADLINE)
        assert len(handler.requests) == 2
        assert sandbox.raise_event("ONCRMDEALADD") == 1


async def test_the_log_of_deliveries_is_bounded(handler):
    async with Sandbox(delay=0, log_length=3) as sandbox:
        await bind(sandbox, handler.url)
        for _ in range(5):
            sandbox.raise_event("ONCRMDEALADD")
        await sandbox.idle(DEADLINE)
        assert len(sandbox.deliveries) == 3
        assert len(handler.requests) == 5


async def test_a_thousand_events_arrive_once_each(handler):
    async with Sandbox(delay=0.01) as sandbox:
        await bind(sandbox, handler.url)
        for number in range(1000):
            sandbox.raise_event("ONCRMDEALADD", {"FIELDS": {"ID": number}})
        await sandbox.idle(60)
    assert sorted(int(event["data"]["FIELDS"]["ID"]) for event in handler.bodies()) == list(range(1000))


async def test_stop_gives_up_what_is_under_way_at_once(handler):
    before = asyncio.all_tasks()
    handler.hold = asyncio.Event()
    sandbox = Sandbox(delay=0)
    await sandbox.start()
    await bind(sandbox, handler.url)
    for _ in range(20):
        sandbox.raise_event("ONCRMDEALADD")
    await handler.wait_for(8)
    started = time.monotonic()
    await sandbox.stop()
    assert time.monotonic() - started < 5
    assert len(sandbox.deliveries) == 20
    assert all("stopped" in delivery.error for delivery in sandbox.deliveries)
    handler.hold.set()
    await sandbox.idle(0.1)
    mine = {task for task in asyncio.all_tasks() - before if "_serve" not in repr(task)}
    assert mine == set()

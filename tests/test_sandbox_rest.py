"""The sandbox as a REST and OAuth server."""

import asyncio
import io
import socket
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest

from b24tunnel.errors import OutsideFailure, WrongUsage
from b24tunnel.sandbox import Sandbox, entities, methods_events, offline, tokens
from b24tunnel.sandbox.answers import Refusal

HANDLER = "http://127.0.0.1:9/handler"


@pytest.fixture
async def http():
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def sandbox():
    async with Sandbox(delay=0) as portal:
        yield portal


async def call(http, sandbox, method, params=None, token=None):
    """One call with a JSON body; gives status and answer."""
    body = {**(params or {}), "auth": sandbox.credentials.access_token if token is None else token}
    async with http.post(f"{sandbox.url}/rest/{method}", json=body) as answer:
        return answer.status, await answer.json()


async def token_endpoint(http, sandbox, **params):
    async with http.get(f"{sandbox.url}/oauth/token/", params=params) as answer:
        return answer.status, await answer.json()


def client(sandbox):
    credentials = sandbox.credentials
    return {"client_id": credentials.client_id, "client_secret": credentials.client_secret}


# ---- calls


async def test_credentials_have_exactly_what_an_application_holds(sandbox):
    credentials = sandbox.credentials.as_dict()
    assert set(credentials) == {
        "client_endpoint",
        "server_endpoint",
        "access_token",
        "refresh_token",
        "client_id",
        "client_secret",
        "application_token",
        "domain",
        "member_id",
        "expires_in",
        "user_id",
        "scope",
    }
    assert credentials["client_id"].startswith("local.")
    assert len(bytes.fromhex(credentials["application_token"])) == 16
    assert credentials["domain"] == sandbox.url.removeprefix("http://")
    assert credentials["server_endpoint"] == f"{sandbox.url}/rest/"
    assert credentials["access_token"] not in repr(sandbox.credentials)


@pytest.mark.parametrize("name", ["profile", "profile.json", "PROFILE", "Profile.JSON"])
async def test_a_method_answers_under_each_spelling_of_its_name(http, sandbox, name):
    status, answer = await call(http, sandbox, name)
    assert status == 200
    assert answer["result"]["ID"] == "1"
    assert answer["result"]["ADMIN"] is True
    assert set(answer["time"]) == {
        "start",
        "finish",
        "duration",
        "processing",
        "date_start",
        "date_finish",
        "operating",
        "operating_reset_at",
    }


async def test_the_token_travels_in_query_form_json_or_header(http, sandbox):
    token = sandbox.credentials.access_token
    url = f"{sandbox.url}/rest/profile"
    requests = [
        http.get(url, params={"auth": token}),
        http.get(url, params={"access_token": token}),
        http.get(url, headers={"Authorization": f"Bearer {token}"}),
        http.post(url, data={"auth": token}),
        http.post(url, json={"AUTH": token}),
    ]
    for request in requests:
        async with request as answer:
            assert answer.status == 200, await answer.text()


async def test_parameters_are_read_from_query_form_and_json_whatever_their_case(http, sandbox):
    token = sandbox.credentials.access_token
    base = f"{sandbox.url}/rest/crm.deal.add"
    for request in (
        http.get(f"{base}?auth={token}&fields[TITLE]=Gel%C3%A4nder"),
        http.post(f"{base}?auth={token}", data={"FIELDS[TITLE]": "Geländer"}),
        http.post(base, json={"auth": token, "Fields": {"TITLE": "Geländer"}}),
    ):
        async with request as answer:
            number = (await answer.json())["result"]
        _, got = await call(http, sandbox, "crm.deal.get", {"id": number})
        assert got["result"]["TITLE"] == "Geländer"


@pytest.mark.parametrize(
    ("method", "token", "status", "code"),
    [
        ("profile", "", 401, "NO_AUTH_FOUND"),
        ("profile", "unknown", 401, "NO_AUTH_FOUND"),
        ("crm.deal.fly", None, 404, "ERROR_METHOD_NOT_FOUND"),
        ("", None, 404, "ERROR_METHOD_NOT_FOUND"),
        ("a/b", None, 404, "ERROR_METHOD_NOT_FOUND"),
    ],
)
async def test_a_call_that_cannot_be_made_is_refused(http, sandbox, method, token, status, code):
    got, answer = await call(http, sandbox, method, token=token)
    assert (got, answer["error"]) == (status, code)
    assert answer["error_description"]


async def test_a_broken_json_body_counts_as_absent(http, sandbox):
    headers = {"Content-Type": "application/json"}
    for body in (b"{", b'"text"', b"[1]", b"[" * 100_000, b'{"a":"\\ud800"}'):
        async with http.post(f"{sandbox.url}/rest/profile", data=body, headers=headers) as answer:
            assert answer.status == 401, body[:20]


async def test_a_body_that_is_too_big_or_too_deep_is_refused(http, sandbox):
    async with http.post(f"{sandbox.url}/rest/profile", data=io.BytesIO(b"a=" + b"x" * 1024 * 1024)) as answer:
        assert answer.status == 413
    deep = {"auth": sandbox.credentials.access_token}
    for _ in range(70):
        deep = {"auth": sandbox.credentials.access_token, "a": deep}
    async with http.post(f"{sandbox.url}/rest/profile", json=deep) as answer:
        assert (answer.status, (await answer.json())["error"]) == (400, "INVALID_REQUEST")


async def test_a_missing_scope_is_refused_and_named(http):
    async with Sandbox(scopes=("task",)) as sandbox:
        status, answer = await call(http, sandbox, "crm.deal.list")
        assert (status, answer["error"]) == (403, "insufficient_scope")
        assert (await call(http, sandbox, "scope"))[1]["result"] == ["task"]
        _, answer = await call(http, sandbox, "method.get", {"name": "crm.deal.list"})
        assert answer["result"] == {"isExisting": True, "isAvailable": False}
        _, answer = await call(http, sandbox, "method.get", {"name": ""})
        assert answer["result"] == {"isExisting": False, "isAvailable": False}


async def test_a_webhook_may_read_deals_but_not_bind_events(http, sandbox):
    async with http.get(sandbox.webhook_url + "crm.deal.list") as answer:
        assert answer.status == 200
    async with http.get(sandbox.webhook_url + "event.get.json") as answer:
        assert (answer.status, (await answer.json())["error"]) == (403, "WRONG_AUTH_TYPE")
    async with http.get(sandbox.webhook_url + "app.info") as answer:
        assert (answer.status, (await answer.json())["error"]) == (403, "ACCESS_DENIED")
    async with http.get(f"{sandbox.url}/rest/1/wrong/profile") as answer:
        assert (answer.status, (await answer.json())["error"]) == (403, "INVALID_CREDENTIALS")


async def test_app_info_tells_whether_the_installation_is_finished(http, sandbox):
    _, answer = await call(http, sandbox, "app.info")
    assert answer["result"]["INSTALLED"] is True
    assert answer["result"]["CODE"] == sandbox.credentials.client_id
    sandbox.installed = False
    _, answer = await call(http, sandbox, "app.info")
    assert answer["result"]["INSTALLED"] is False


async def test_feature_get_knows_the_features_of_offline_events(http, sandbox):
    _, answer = await call(http, sandbox, "feature.get", {"code": "rest_offline_extended"})
    assert answer["result"] == {"value": "Y"}
    status, answer = await call(http, sandbox, "feature.get")
    assert (status, answer["error"]) == (400, "CODE_EMPTY")


async def test_calls_are_logged_without_tokens(http, sandbox):
    await call(http, sandbox, "crm.deal.get", {"id": 404})
    logged = sandbox.calls[-1]
    assert (logged.method, logged.status, logged.error) == ("crm.deal.get", 400, "")
    assert logged.params == {"id": 404}
    await call(http, sandbox, "profile", {"long": "x" * 20_000})
    assert sandbox.calls[-1].params_left_out


async def test_the_log_of_calls_is_bounded(http):
    async with Sandbox(log_length=3) as sandbox:
        for number in range(5):
            await call(http, sandbox, "crm.deal.get", {"id": number + 1})
        assert [entry.params["id"] for entry in sandbox.calls] == [3, 4, 5]


# ---- tokens


async def test_an_expired_token_is_refused_until_it_is_refreshed(http, sandbox):
    sandbox.expire_access_token()
    status, answer = await call(http, sandbox, "profile")
    assert (status, answer["error"]) == (401, "expired_token")

    refresh = sandbox.credentials.refresh_token
    status, answer = await token_endpoint(
        http, sandbox, grant_type="refresh_token", refresh_token=refresh, **client(sandbox)
    )
    assert status == 200
    assert answer["expires_in"] == 3600
    assert answer["client_endpoint"] == f"{sandbox.url}/rest/"
    assert answer["member_id"] == sandbox.credentials.member_id
    assert answer["refresh_token"] != refresh
    assert sandbox.credentials.access_token == answer["access_token"]
    assert (await call(http, sandbox, "profile"))[0] == 200


async def test_a_refresh_token_works_once(http, sandbox):
    first = {"grant_type": "refresh_token", "refresh_token": sandbox.credentials.refresh_token, **client(sandbox)}
    assert (await token_endpoint(http, sandbox, **first))[0] == 200
    status, answer = await token_endpoint(http, sandbox, **first)
    assert (status, answer["error"]) == (400, "invalid_grant")


async def test_the_token_endpoint_takes_a_form_too(http, sandbox):
    body = {"grant_type": "refresh_token", "refresh_token": sandbox.credentials.refresh_token, **client(sandbox)}
    async with http.post(f"{sandbox.url}/oauth/token/", data=body) as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"client_secret": "wrong"}, 401, "invalid_client"),
        ({"client_id": "local.nobody"}, 401, "invalid_client"),
        ({"client_id": ""}, 400, "invalid_request"),
        ({"refresh_token": "wrong"}, 400, "invalid_grant"),
        ({"refresh_token": ""}, 400, "invalid_request"),
        ({"grant_type": "password"}, 400, "invalid_request"),
        ({"grant_type": "authorization_code", "code": "wrong"}, 400, "invalid_grant"),
    ],
)
async def test_the_token_endpoint_refuses(http, sandbox, change, status, code):
    right = {"grant_type": "refresh_token", "refresh_token": sandbox.credentials.refresh_token, **client(sandbox)}
    got, answer = await token_endpoint(http, sandbox, **{**right, **change})
    assert (got, answer["error"]) == (status, code)


async def test_a_browser_comes_back_with_a_code_that_works_once(http, sandbox):
    url = f"{sandbox.url}/oauth/authorize/"
    asked = {"client_id": sandbox.credentials.client_id, "state": "a b&c"}
    async with http.get(url, params=asked, allow_redirects=False) as answer:
        assert answer.status == 400
    sandbox.redirect_uri = "http://127.0.0.1:9/back?x=1"
    async with http.get(url, params=asked, allow_redirects=False) as answer:
        assert answer.status == 302
        location = answer.headers["Location"]
    assert location.startswith("http://127.0.0.1:9/back?x=1&code=")
    back = parse_qs(urlsplit(location).query)
    assert back["state"] == ["a b&c"]
    assert back["domain"] == [sandbox.credentials.domain]

    grant = {"grant_type": "authorization_code", "code": back["code"][0], **client(sandbox)}
    status, answer = await token_endpoint(http, sandbox, **grant)
    assert status == 200
    assert (await call(http, sandbox, "profile", token=answer["access_token"]))[0] == 200
    assert (await token_endpoint(http, sandbox, **grant))[1]["error"] == "invalid_grant"


async def test_a_code_can_be_had_from_python(http, sandbox):
    grant = {"grant_type": "authorization_code", "code": sandbox.authorization_code(), **client(sandbox)}
    assert (await token_endpoint(http, sandbox, **grant))[0] == 200


# ---- bindings


async def test_binding_and_unbinding_one_handler(http, sandbox):
    status, answer = await call(http, sandbox, "event.bind", {"EVENT": "onCrmDealAdd", "HANDLER": HANDLER})
    assert (status, answer["result"]) == (200, True)
    _, answer = await call(http, sandbox, "event.get")
    assert answer["result"] == [{"event": "ONCRMDEALADD", "handler": HANDLER, "auth_type": "0", "offline": 0}]
    assert [binding.event for binding in sandbox.bindings] == ["ONCRMDEALADD"]

    other = {"event": "ONCRMDEALADD", "handler": HANDLER + "x"}
    assert (await call(http, sandbox, "event.unbind", other))[1]["result"] == {"count": 0}
    same = {"event": "ONCRMDEALADD", "handler": HANDLER}
    assert (await call(http, sandbox, "event.unbind", same))[1]["result"] == {"count": 1}
    assert (await call(http, sandbox, "event.unbind", same))[1]["result"] == {"count": 0}


@pytest.mark.parametrize(
    ("params", "status", "code", "text"),
    [
        ({"handler": HANDLER}, 400, "ERROR_ARGUMENT", "EVENT"),
        ({"event": "ONCRMDEALADD"}, 400, "ERROR_ARGUMENT", "HANDLER"),
        ({"event": "ONNOTHING", "handler": HANDLER}, 400, "ERROR_EVENT_NOT_FOUND", "Event not found"),
        ({"event": "ONIMV2MESSAGEADD", "handler": HANDLER}, 400, "ERROR_EVENT_NOT_FOUND", "Event not found"),
        ({"event": "ONTASKADD", "handler": HANDLER}, 400, "ERROR_EVENT_NOT_FOUND", "Event not found"),
        (
            {"event": "ONCRMDEALADD", "handler": "http://localhost:8000/h"},
            400,
            "ERROR_WRONG_HANDLER_URL",
            "Wrong handler URL",
        ),
        ({"event": "ONCRMDEALADD", "handler": "/path"}, 400, "ERROR_WRONG_HANDLER_URL", "Wrong handler URL"),
        ({"event": "ONCRMDEALADD", "handler": "http://.x/"}, 400, "ERROR_WRONG_HANDLER_URL", "Wrong handler"),
        (
            {"event": "ONCRMDEALADD", "handler": "http://a.b:99999/"},
            400,
            "ERROR_WRONG_HANDLER_URL",
            "Wrong handler",
        ),
        (
            {"event": "ONCRMDEALADD", "handler": "ftp://a.example/h"},
            400,
            "ERROR_UNSUPPORTED_PROTOCOL",
            "Unsupported handler protocol",
        ),
        ({"event": "ONCRMDEALADD", "handler": "http://a.b/" + "x" * 245}, 400, "ERROR_CORE", "255"),
        ({"event": "ONCRMDEALADD", "handler": HANDLER, "event_type": "never"}, 400, "ERROR_ARGUMENT", "Value"),
        ({"event": "ONOFFLINEEVENT", "event_type": "offline"}, 400, "ERROR_ARGUMENT", "Offline event"),
    ],
)
async def test_event_bind_refuses(http, params, status, code, text):
    async with Sandbox(scopes=("crm", "im")) as sandbox:
        got, answer = await call(http, sandbox, "event.bind", params)
        assert (got, answer["error"]) == (status, code)
        assert text in answer["error_description"]
        assert sandbox.bindings == []


async def test_a_second_bind_of_the_same_says_already_binded(http, sandbox):
    params = {"event": "ONCRMDEALADD", "handler": HANDLER}
    await call(http, sandbox, "event.bind", params)
    status, answer = await call(http, sandbox, "event.bind", params)
    assert (status, answer["error"]) == (400, "ERROR_CORE")
    assert answer["error_description"] == "Unable to set event handler: Handler already binded"
    assert (await call(http, sandbox, "event.bind", {**params, "auth_type": 1}))[0] == 200
    assert (await call(http, sandbox, "event.bind", {**params, "event": "ONCRMDEALUPDATE"}))[0] == 200


async def test_handlers_must_differ_in_their_first_180_characters(http, sandbox):
    long = "https://a.example/" + "x" * (180 - len("https://a.example/"))
    assert len(long) == 180
    assert (await call(http, sandbox, "event.bind", {"event": "ONCRMDEALADD", "handler": long + "1"}))[0] == 200
    status, answer = await call(http, sandbox, "event.bind", {"event": "ONCRMDEALADD", "handler": long + "2"})
    assert (status, answer["error"]) == (400, "ERROR_CORE")
    assert "already binded" not in answer["error_description"]


async def test_a_user_who_is_no_administrator_binds_for_itself_only(http):
    async with Sandbox(admin=False, user_id=7) as sandbox:
        params = {"event": "ONCRMDEALADD", "handler": HANDLER}
        status, answer = await call(http, sandbox, "event.bind", {**params, "auth_type": 1})
        assert (status, answer["error"]) == (403, "ACCESS_DENIED")
        status, answer = await call(http, sandbox, "event.bind", {**params, "event_type": "offline"})
        assert (status, answer["error"]) == (403, "ACCESS_DENIED")
        assert (await call(http, sandbox, "event.bind", params))[0] == 200
        _, answer = await call(http, sandbox, "event.get")
        assert answer["result"][0]["auth_type"] == "7"
        status, answer = await call(http, sandbox, "event.unbind", {**params, "auth_type": 1})
        assert (status, answer["error"]) == (403, "ACCESS_DENIED")


async def test_unbind_with_auth_type_zero_spares_handlers_of_users(http, sandbox):
    params = {"event": "ONCRMDEALADD", "handler": HANDLER}
    await call(http, sandbox, "event.bind", params)
    await call(http, sandbox, "event.bind", {**params, "auth_type": 5})
    _, answer = await call(http, sandbox, "event.unbind", {**params, "auth_type": ""})
    assert answer["result"] == {"count": 1}
    assert [binding.user_id for binding in sandbox.bindings] == [5]


async def test_foreign_handlers_are_hidden_and_survive_an_exact_unbind_only(http, sandbox):
    foreign = sandbox.bind_foreign("oncrmdealadd", HANDLER)
    assert foreign.foreign
    assert (await call(http, sandbox, "event.get"))[1]["result"] == []
    assert (await call(http, sandbox, "event.bind", {"event": "ONCRMDEALADD", "handler": HANDLER}))[0] == 200
    _, answer = await call(http, sandbox, "event.unbind", {"event": "ONCRMDEALADD", "handler": HANDLER})
    assert answer["result"] == {"count": 1}
    assert sandbox.bindings == [foreign]
    _, answer = await call(http, sandbox, "event.unbind", {"event": "ONCRMDEALADD"})
    assert answer["result"] == {"count": 1}
    assert sandbox.bindings == []


async def test_unknown_names_in_python_are_told_with_a_hint(sandbox):
    with pytest.raises(WrongUsage, match="ONCRMDEALADD"):
        sandbox.raise_event("ONCRMDEELADD")
    with pytest.raises(WrongUsage, match="Wrong handler URL"):
        sandbox.bind_foreign("ONCRMDEALADD", "http://localhost/")


async def test_events_lists_what_can_be_bound(http):
    async with Sandbox(scopes=("task",)) as sandbox:
        mine = (await call(http, sandbox, "events"))[1]["result"]
        assert "ONTASKADD" in mine
        assert "ONAPPTEST" in mine
        assert "ONCRMDEALADD" not in mine
        assert "ONCRMDEALADD" in (await call(http, sandbox, "events", {"full": True}))[1]["result"]
        user = (await call(http, sandbox, "events", {"SCOPE": "user"}))[1]["result"]
        assert user == ["ONUSERADD"]


async def test_an_event_of_one_smart_process_can_be_bound(http, sandbox):
    params = {"event": "ONCRMDYNAMICITEMADD_128", "handler": HANDLER}
    assert (await call(http, sandbox, "event.bind", params))[0] == 200
    params["event"] = "ONCRMDYNAMICITEMADD_{entityTypeId}"
    assert (await call(http, sandbox, "event.bind", params))[1]["error"] == "ERROR_EVENT_NOT_FOUND"


# ---- CRM


@pytest.mark.parametrize("kind", ["deal", "lead", "contact"])
async def test_an_entity_is_added_changed_read_and_deleted(http, sandbox, kind):
    _, answer = await call(http, sandbox, f"crm.{kind}.add", {"fields": {"COMMENTS": "one", "UF_CRM_1": 5}})
    number = answer["result"]
    assert number == 1
    await call(http, sandbox, f"crm.{kind}.update", {"ID": number, "FIELDS": {"COMMENTS": "two", "ID": 99}})
    _, answer = await call(http, sandbox, f"crm.{kind}.get", {"id": number})
    assert answer["result"]["ID"] == "1"
    assert answer["result"]["COMMENTS"] == "two"
    assert answer["result"]["UF_CRM_1"] == "5"
    _, answer = await call(http, sandbox, f"crm.{kind}.fields")
    assert answer["result"]["ID"]["isReadOnly"] is True
    assert (await call(http, sandbox, f"crm.{kind}.delete", {"id": number}))[1]["result"] is True
    for verb in ("get", "delete", "update"):
        status, answer = await call(http, sandbox, f"crm.{kind}.{verb}", {"id": number})
        assert (status, answer["error"], answer["error_description"]) == (400, "", "Not found")
    assert (await call(http, sandbox, f"crm.{kind}.add"))[1]["result"] == 2


async def test_a_list_comes_in_pages_of_fifty(http, sandbox):
    for number in range(120):
        await call(http, sandbox, "crm.deal.add", {"fields": {"TITLE": f"Deal {number}"}})
    seen, start = [], 0
    while start is not None:
        _, answer = await call(http, sandbox, "crm.deal.list", {"start": start, "select": ["ID"]})
        assert answer["total"] == 120
        seen += [row["ID"] for row in answer["result"]]
        start = answer.get("next")
    assert seen == [str(number + 1) for number in range(120)]


@pytest.mark.parametrize(
    ("conditions", "found"),
    [
        ({"TITLE": "b"}, ["2"]),
        ({"=TITLE": ["a", "b"]}, ["1", "2"]),
        ({"@ID": [1, 3]}, ["1", "3"]),
        ({"!TITLE": "b"}, ["1", "3"]),
        ({">ID": 1, "<ID": 3}, ["2"]),
        ({">=OPPORTUNITY": 10}, ["2", "3"]),
        ({"<=OPPORTUNITY": 9}, ["1"]),
        ({"%TITLE": "A"}, ["1", "3"]),
        ({"!%TITLE": "a"}, ["2"]),
        ({"title": "b", "unheard_of": 1}, ["2"]),
    ],
)
async def test_a_list_is_filtered(http, sandbox, conditions, found):
    for title, money in (("a", 9), ("b", 10), ("ca", 100)):
        await call(http, sandbox, "crm.deal.add", {"fields": {"TITLE": title, "OPPORTUNITY": money}})
    _, answer = await call(http, sandbox, "crm.deal.list", {"filter": conditions})
    assert [row["ID"] for row in answer["result"]] == found


async def test_a_list_is_ordered_and_shows_what_was_selected(http, sandbox):
    for money in (9, 100, 10):
        await call(http, sandbox, "crm.deal.add", {"fields": {"OPPORTUNITY": money}})
    params = {"order": {"OPPORTUNITY": "desc"}, "select": ["OPPORTUNITY"]}
    _, answer = await call(http, sandbox, "crm.deal.list", params)
    assert answer["result"] == [
        {"ID": "2", "OPPORTUNITY": "100"},
        {"ID": "3", "OPPORTUNITY": "10"},
        {"ID": "1", "OPPORTUNITY": "9"},
    ]


async def test_a_batch_runs_commands_in_order(http, sandbox):
    commands = {
        "add": "crm.deal.add?fields[TITLE]=x",
        "list": "crm.deal.list?filter[TITLE]=x",
        "bad": "crm.deal.get?id=9",
        "batch": "batch?cmd[]=profile",
    }
    _, answer = await call(http, sandbox, "batch", {"cmd": commands})
    result = answer["result"]
    assert result["result"]["add"] == 1
    assert result["result"]["list"][0]["ID"] == "1"
    assert result["result_total"] == {"list": 1}
    assert result["result_next"] == []
    assert result["result_error"]["bad"]["error_description"] == "Not found"
    assert result["result_error"]["batch"]["error"] == "ERROR_BATCH_METHOD_NOT_ALLOWED"
    _, answer = await call(http, sandbox, "batch", {"cmd": ["crm.deal.get", "profile"], "halt": 1})
    assert answer["result"]["result"] == []
    status, answer = await call(http, sandbox, "batch", {"cmd": ["profile"] * 51})
    assert (status, answer["error"]) == (400, "ERROR_BATCH_LENGTH_EXCEEDED")


# ---- offline events


async def test_offline_events_are_fetched_once(http, sandbox):
    bound = await call(http, sandbox, "event.bind", {"event": "ONCRMDEALADD", "event_type": "offline"})
    assert bound[1]["result"] is True
    assert (await call(http, sandbox, "event.get"))[1]["result"] == [
        {"event": "ONCRMDEALADD", "connector_id": "", "offline": 1}
    ]
    await call(http, sandbox, "crm.deal.add")
    await call(http, sandbox, "crm.deal.add")
    _, answer = await call(http, sandbox, "event.offline.get")
    events = answer["result"]["events"]
    assert [event["EVENT_DATA"] for event in events] == [{"FIELDS": {"ID": "1"}}, {"FIELDS": {"ID": "2"}}]
    assert events[0]["EVENT_NAME"] == "ONCRMDEALADD"
    assert len(events[0]["MESSAGE_ID"]) == 32
    assert (await call(http, sandbox, "event.offline.get"))[1]["result"]["events"] == []


async def test_a_reserved_batch_of_offline_events_is_cleared_by_its_process_id(http, sandbox):
    await call(http, sandbox, "event.bind", {"event": "ONCRMDEALUPDATE", "event_type": "offline"})
    for number in (1, 1, 2, 3):
        sandbox.raise_event("ONCRMDEALUPDATE", {"FIELDS": {"ID": number}})
    _, answer = await call(http, sandbox, "event.offline.get", {"clear": 0, "limit": 2})
    process_id, events = answer["result"]["process_id"], answer["result"]["events"]
    assert [event["EVENT_DATA"]["FIELDS"]["ID"] for event in events] == [1, 2]
    _, answer = await call(http, sandbox, "event.offline.list", {"filter": {"PROCESS_ID": process_id}})
    assert answer["total"] == 2
    first = {"process_id": process_id, "message_id": [events[0]["MESSAGE_ID"]]}
    assert (await call(http, sandbox, "event.offline.clear", first))[1]["result"] is True
    rest = {"process_id": process_id, "message_id": [events[1]["MESSAGE_ID"]]}
    assert (await call(http, sandbox, "event.offline.error", rest))[1]["result"] is True
    _, answer = await call(http, sandbox, "event.offline.get", {"error": 1})
    assert [event["EVENT_DATA"]["FIELDS"]["ID"] for event in answer["result"]["events"]] == [2]
    _, answer = await call(http, sandbox, "event.offline.get")
    assert [event["EVENT_DATA"]["FIELDS"]["ID"] for event in answer["result"]["events"]] == [3]
    wrong = {"process_id": process_id, "message_id": ["short"]}
    assert (await call(http, sandbox, "event.offline.clear", wrong))[1]["error"] == "ERROR_ARGUMENT"


async def test_a_call_with_an_auth_connector_is_not_told_of_its_own_change(http, sandbox):
    bind = {"event": "ONCRMDEALADD", "event_type": "offline", "auth_connector": "sync"}
    await call(http, sandbox, "event.bind", bind)
    await call(http, sandbox, "crm.deal.add", {"auth_connector": "sync"})
    await call(http, sandbox, "crm.deal.add")
    _, answer = await call(http, sandbox, "event.offline.get", {"auth_connector": "sync"})
    assert [event["EVENT_DATA"]["FIELDS"]["ID"] for event in answer["result"]["events"]] == ["2"]


# ---- bounds


async def test_entities_are_bounded_in_number(http, sandbox, monkeypatch):
    monkeypatch.setattr(entities, "MAX_ENTITIES", 2)
    assert [(await call(http, sandbox, "crm.deal.add"))[0] for _ in range(3)] == [200, 200, 400]
    await call(http, sandbox, "crm.deal.delete", {"id": 1})
    assert (await call(http, sandbox, "crm.deal.add"))[1]["result"] == 3


async def test_entities_are_bounded_in_bytes(http, sandbox, monkeypatch):
    monkeypatch.setattr(entities, "MAX_BYTES", 10_000)
    big = {"fields": {"COMMENTS": "x" * 6_000}}
    assert (await call(http, sandbox, "crm.deal.add", big))[0] == 200
    assert (await call(http, sandbox, "crm.deal.add", big))[1]["error"] == "ERROR_CORE"
    grown = {"id": 1, "fields": {"COMMENTS": "x" * 12_000}}
    assert (await call(http, sandbox, "crm.deal.update", grown))[1]["error"] == "ERROR_CORE"
    await call(http, sandbox, "crm.deal.delete", {"id": 1})
    assert (await call(http, sandbox, "crm.deal.add", big))[0] == 200


async def test_handlers_are_bounded(http, sandbox, monkeypatch):
    monkeypatch.setattr(methods_events, "MAX_BINDINGS", 1)
    params = {"event": "ONCRMDEALADD", "handler": HANDLER}
    assert (await call(http, sandbox, "event.bind", params))[0] == 200
    params["event"] = "ONCRMDEALUPDATE"
    assert (await call(http, sandbox, "event.bind", params))[1]["error"] == "ERROR_CORE"


async def test_offline_events_are_bounded_and_the_oldest_goes(http, sandbox, monkeypatch):
    monkeypatch.setattr(offline, "MAX_EVENTS", 2)
    await call(http, sandbox, "event.bind", {"event": "ONCRMDEALADD", "event_type": "offline"})
    for number in range(4):
        sandbox.raise_event("ONCRMDEALADD", {"FIELDS": {"ID": number}})
    _, answer = await call(http, sandbox, "event.offline.get")
    assert [event["EVENT_DATA"]["FIELDS"]["ID"] for event in answer["result"]["events"]] == [2, 3]


def test_tokens_that_travel_do_not_push_out_the_applications_own(monkeypatch):
    monkeypatch.setattr(tokens, "MAX_KEPT", 2)
    app = tokens.App(1, "local.x", "secret", "0" * 32)
    table = tokens.Tokens(3600)
    own = table.issue_pair(app, 1)
    sent = [table.travelling(app, 1, 1, True) for _ in range(5)]
    assert table.check(own.access.value) == own.access
    assert table.check(sent[-1].access.value) == sent[-1].access
    with pytest.raises(Refusal, match="NO_AUTH_FOUND"):
        table.check(sent[0].access.value)
    assert table.rotate(sent[-1].refresh, app).refresh != sent[-1].refresh
    assert table.rotate(own.refresh, app).refresh != own.refresh


# ---- life


async def test_a_port_in_use_is_a_plain_error():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OutsideFailure, match=str(port)):
            await Sandbox(port=port).start()


async def test_stop_closes_the_socket_and_leaves_no_task():
    before = asyncio.all_tasks()
    sandbox = Sandbox()
    await sandbox.start()
    with pytest.raises(WrongUsage):
        await sandbox.start()
    port = int(sandbox.url.rpartition(":")[2])
    await sandbox.stop()
    await sandbox.stop()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    assert asyncio.all_tasks() == before
    with pytest.raises(WrongUsage):
        sandbox.raise_event("ONCRMDEALADD")


async def test_paths_outside_the_portal_are_not_found(http, sandbox):
    async with http.get(f"{sandbox.url}/") as answer:
        assert answer.status == 404
    async with http.delete(f"{sandbox.url}/rest/profile") as answer:
        assert answer.status == 405

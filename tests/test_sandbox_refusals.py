"""Every refusal that is documented for event methods, tokens and limits comes over the wire as documented.

Those that only Bitrix24's cloud can raise are switched on as faults.
"""

from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from b24tunnel.sandbox import Fault, Limits, Sandbox

HANDLER = "https://a.example/handler"
BIND = {"event": "ONCRMDEALADD", "handler": HANDLER}
OFFLINE = {"event": "ONCRMDEALADD", "event_type": "offline"}
PROCESS = "1" * 32


@dataclass
class Row:
    """A call and the refusal that it gets. ``before``: calls made first. ``portal``: the sandbox's options."""

    code: str
    status: int
    text: str
    method: str
    params: dict[str, Any] = field(default_factory=dict)
    portal: dict[str, Any] = field(default_factory=dict)
    before: tuple[tuple[str, dict[str, Any]], ...] = ()
    token: str | None = None
    webhook: str | None = None
    expired: bool = False


NULL = "is null or empty"
NOT_ADMIN = {"admin": False, "user_id": 7}
ROWS = [
    # event methods
    Row("WRONG_AUTH_TYPE", 403, "Current authorization type is denied", "event.bind", BIND, webhook="right"),
    Row("WRONG_AUTH_TYPE", 403, "Current authorization type is denied", "events", webhook="right"),
    Row("WRONG_AUTH_TYPE", 403, "Current authorization type is denied", "event.test", webhook="right"),
    Row("ERROR_EVENT_NOT_FOUND", 400, "Event not found", "event.bind", {**BIND, "event": "ONNOTHING"}),
    Row("ERROR_EVENT_NOT_FOUND", 400, "Event not found", "event.bind", BIND, {"scopes": ("task",)}),
    Row("ERROR_CORE", 400, "Handler already binded", "event.bind", BIND, before=(("event.bind", BIND),)),
    Row(
        "ERROR_WRONG_HANDLER_URL", 400, "Wrong handler URL", "event.bind", {**BIND, "handler": "http://localhost"}
    ),
    Row("ERROR_UNSUPPORTED_PROTOCOL", 400, "Unsupported", "event.bind", {**BIND, "handler": "ftp://a.example/"}),
    Row("ACCESS_DENIED", 403, "binding with AUTH_TYPE", "event.bind", {**BIND, "auth_type": 1}, NOT_ADMIN),
    Row("ACCESS_DENIED", 403, "Offline events binding requires", "event.bind", OFFLINE, NOT_ADMIN),
    Row("ACCESS_DENIED", 403, "Offline events unbinding requires", "event.unbind", OFFLINE, NOT_ADMIN),
    Row("ACCESS_DENIED", 403, "unbinding with AUTH_TYPE", "event.unbind", {**BIND, "auth_type": 1}, NOT_ADMIN),
    Row("ERROR_ARGUMENT", 400, f"'EVENT' {NULL}", "event.bind", {"handler": HANDLER}),
    Row("ERROR_ARGUMENT", 400, f"'HANDLER' {NULL}", "event.bind", {"event": "ONCRMDEALADD"}),
    Row("ERROR_ARGUMENT", 400, f"'EVENT' {NULL}", "event.unbind"),
    Row(
        "ERROR_ARGUMENT", 400, "Offline event", "event.bind", {"event": "ONOFFLINEEVENT", "event_type": "offline"}
    ),
    Row("ACCESS_DENIED", 403, "Access denied!", "event.offline.get", portal=NOT_ADMIN),
    Row("WRONG_LICENSE", 403, "extended offline", "event.offline.get", {"clear": 0}, {"offline_extended": False}),
    Row("WRONG_LICENSE", 403, "auth_connector", "profile", {"auth_connector": "x"}, {"auth_connectors": False}),
    Row("ERROR_ARGUMENT", 400, "positive", "event.offline.get", {"limit": 0}),
    Row("ERROR_ARGUMENT", 400, f"'PROCESS_ID' {NULL}", "event.offline.clear"),
    Row("ERROR_ARGUMENT", 400, "32", "event.offline.clear", {"process_id": PROCESS, "message_id": ["short"]}),
    Row("ERROR_ARGUMENT", 400, f"'MESSAGE_ID' {NULL}", "event.offline.error", {"process_id": PROCESS}),
    Row("ACCESS_DENIED", 403, "Application context required", "app.info", webhook="right"),
    Row("CODE_EMPTY", 400, "CODE can't be empty", "feature.get"),
    # any call
    Row("expired_token", 401, "expired", "profile", expired=True),
    Row("NO_AUTH_FOUND", 401, "Wrong authorization data", "profile", token="wrong"),
    Row("insufficient_scope", 403, "higher privileges", "crm.deal.list", portal={"scopes": ("task",)}),
    Row("INVALID_CREDENTIALS", 403, "credentials", "profile", webhook="wrong"),
    Row("ERROR_METHOD_NOT_FOUND", 404, "Method not found", "crm.deal.fly"),
    Row(
        *("QUERY_LIMIT_EXCEEDED", 503, "Too many requests", "profile"),
        portal={"limits": Limits(drain=0.001, block=2)},
        before=(("profile", {}), ("scope", {})),
    ),
    Row(
        *("OPERATION_TIME_LIMIT", 429, "operation time limit", "crm.deal.add"),
        portal={"limits": Limits(block=1000, operating=0)},
        before=(("crm.deal.add", {}),),
    ),
    # the token endpoint
    Row("invalid_request", 400, "refresh_token", "oauth/token", {"refresh_token": ""}),
    Row("invalid_request", 400, "grant_type", "oauth/token", {"grant_type": "password"}),
    Row("invalid_client", 401, "client", "oauth/token", {"client_secret": "wrong"}),
    Row("invalid_grant", 400, "grant", "oauth/token", {"refresh_token": "wrong"}),
    Row("invalid_grant", 400, "grant", "oauth/token", {"grant_type": "authorization_code", "code": "wrong"}),
]

CLOUD = [
    ("event.bind", "ERROR_CORE", "Process of binding the handler has already started", 400),
    ("event.bind", "ERROR_EVENT_BINDING_EXISTS", "Handler exists", 400),
    ("profile", "user_access_error", "The user does not have access to the application", 403),
    ("profile", "ACCESS_DENIED", "REST is available only on commercial plans", 403),
    ("profile", "INVALID_REQUEST", "Https required", 400),
    ("profile", "OVERLOAD_LIMIT", "REST API is blocked due to overload", 503),
    ("batch", "ERROR_BATCH_METHOD_NOT_ALLOWED", "Method is not allowed for batch usage", 405),
    ("profile", "APPLICATION_NOT_FOUND", "Application not found", 401),
    ("profile", "authorization_error", "Unable to authorize user", 401),
    ("profile", "CONNECTION_ERROR", "Error connecting to authorization server", 500),
    ("profile", "invalid_token", "Unable to get application by token", 401),
    ("profile", "PAYMENT_REQUIRED", "Payment required", 402),
    ("oauth/token", "PAYMENT_REQUIRED", "Payment required", 402),
    ("oauth/token", "insufficient_scope", "The scope is not enough", 403),
    ("oauth/token", "invalid_scope", "The scope is wrong", 400),
]


async def ask(http, sandbox, row, method, params):
    credentials = sandbox.credentials
    if method == "oauth/token":
        right = {
            "grant_type": "refresh_token",
            "client_id": credentials.client_id,
            "client_secret": credentials.client_secret,
            "refresh_token": credentials.refresh_token,
        }
        request = http.post(f"{sandbox.url}/oauth/token/", data={**right, **params})
    elif row is not None and row.webhook:
        url = sandbox.webhook_url if row.webhook == "right" else f"{sandbox.url}/rest/1/wrong/"
        request = http.post(url + method, json=params)
    else:
        token = credentials.access_token if row is None or row.token is None else row.token
        request = http.post(f"{sandbox.url}/rest/{method}", json={**params, "auth": token})
    async with request as answer:
        assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
        return answer.status, await answer.json()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.code}-{row.method}")
async def test_a_refusal_comes_with_its_status_and_text(row):
    async with Sandbox(delay=0, **row.portal) as sandbox, aiohttp.ClientSession() as http:
        for method, params in row.before:
            status, answer = await ask(http, sandbox, row, method, params)
            assert (status, "result" in answer) == (200, True), answer
        if row.expired:
            sandbox.expire_access_token()
        status, answer = await ask(http, sandbox, row, row.method, row.params)
        assert (status, answer["error"]) == (row.status, row.code)
        assert row.text in answer["error_description"]
        assert "result" not in answer
        assert (sandbox.calls[-1].status, sandbox.calls[-1].error) == (row.status, row.code)


@pytest.mark.parametrize(("method", "code", "text", "status"), CLOUD)
async def test_a_refusal_of_the_cloud_can_be_switched_on(method, code, text, status):
    async with Sandbox(delay=0) as sandbox, aiohttp.ClientSession() as http:
        sandbox.fail(method, Fault.error(code, text, status))
        assert await ask(http, sandbox, None, method, {}) == (status, {"error": code, "error_description": text})
        assert (sandbox.calls[-1].status, sandbox.calls[-1].error) == (status, code)


async def test_a_batch_within_a_batch_is_refused_in_its_place():
    async with Sandbox(delay=0) as sandbox, aiohttp.ClientSession() as http:
        _, answer = await ask(http, sandbox, None, "batch", {"cmd": {"inner": "batch?cmd[a]=profile"}})
        assert answer["result"]["result_error"]["inner"]["error"] == "ERROR_BATCH_METHOD_NOT_ALLOWED"

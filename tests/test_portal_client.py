"""The REST client: calls as Bitrix24 documents them, tokens renewed once and only when the portal says so."""

import asyncio
import contextlib
import gzip
import json
import logging
import socket
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from b24tunnel import form
from b24tunnel.errors import UserError, WrongUsage
from b24tunnel.portal.client import Binding, RestClient
from b24tunnel.portal.errors import PortalError, PortalUnreachable
from b24tunnel.portal.state import Portal, State

SECRETS = {
    "client_secret": "SECRET-client-4f1d",
    "access_token": "SECRET-access-0",
    "refresh_token": "SECRET-refresh-0",
    "application_token": "SECRET-application-0e5d",
}

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def answer(document: object, status: int = 200) -> Answer:
    async def respond(request: web.Request) -> web.StreamResponse:
        return web.json_response(document, status=status)

    return respond


def refusal(code: str, status: int = 400, description: str = "") -> Answer:
    return answer({"error": code, "error_description": description}, status)


def raw(body: bytes, status: int = 200, **headers: str) -> Answer:
    async def respond(request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, status=status, headers={k.replace("_", "-"): v for k, v in headers.items()})

    return respond


async def dropped(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


class FakePortal:
    """A portal and its authorisation server that answer what the test says, and remember what they got.

    ``answers`` are given in turn, the last one for ever. Without any, the current access token gets
    ``{"result": true}`` and every other one ``expired_token``; ``/oauth/token/`` rotates the pair.
    """

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.oauth_answers: list[Answer] = []
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.raw_paths: list[str] = []
        self.generation = 0
        self.spent: list[str] = []
        self.oauth_gate = asyncio.Event()
        self.oauth_gate.set()
        self.oauth_entered = asyncio.Event()
        self.fifteen_calls = asyncio.Event()
        self.origin = ""

    def portal(self, **changes: str) -> Portal:
        values = {
            "client_endpoint": f"{self.origin}/rest/",
            "server_endpoint": f"{self.origin}/rest/",
            "domain": "example.bitrix24.com",
            "client_id": "local.5f",
            "scope": "crm",
            **SECRETS,
            **changes,
        }
        return Portal(name="work", **values)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        # REST by POST with a body, the token endpoint by GET with a query, as documented.
        sent = await request.read() if request.method == "POST" else request.rel_url.raw_query_string.encode()
        params = form.parse(sent)
        assert isinstance(params, dict)
        self.requests.append((request.path, params))
        self.raw_paths.append(request.path_qs)
        if len(self.calls()) == 15:
            self.fifteen_calls.set()
        if request.path == "/oauth/token/":
            return await self.oauth(request, params)
        if self.answers:
            return await (self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])(request)
        if params["auth"] != f"SECRET-access-{self.generation}":
            return await refusal("expired_token", 401, "The access token provided has expired.")(request)
        return await answer({"result": True, "time": {}})(request)

    async def oauth(self, request: web.Request, params: dict[str, Any]) -> web.StreamResponse:
        self.oauth_entered.set()
        await self.oauth_gate.wait()
        if self.oauth_answers:
            return await self.oauth_answers.pop(0)(request)
        if params["refresh_token"] != f"SECRET-refresh-{self.generation}":
            return await refusal("invalid_grant", 400)(request)
        self.spent.append(params["refresh_token"])
        self.generation += 1
        return await answer(
            {
                "access_token": f"SECRET-access-{self.generation}",
                "refresh_token": f"SECRET-refresh-{self.generation}",
                "domain": "oauth.bitrix.info",
                "expires_in": 3600,
                "scope": "crm,task",
                "user_id": 7,
            }
        )(request)

    def calls(self, path: str = "/rest/app.info") -> list[dict[str, Any]]:
        return [params for asked, params in self.requests if asked == path]


@pytest.fixture
async def fake() -> AsyncIterator[FakePortal]:
    portal = FakePortal()
    server = web.Server(portal.handle)
    runner = web.ServerRunner(server, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    portal.origin = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield portal
    portal.oauth_gate.set()
    await runner.cleanup()


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State.open(tmp_path / "home")


@pytest.fixture
async def client(fake: FakePortal, state: State) -> AsyncIterator[RestClient]:
    state.save_portal(fake.portal())
    async with RestClient(fake.portal(), state, timeout=10, retry_delays=(0.01, 0.01)) as opened:
        yield opened


@pytest.fixture(autouse=True)
def nothing_secret_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    assert "SECRET" not in caplog.text


def assert_tells_no_secret(error: BaseException) -> None:
    told = "".join(traceback.format_exception(error)) + repr(error) + repr(error.args) + repr(vars(error))
    told += "".join(repr(vars(cause)) for cause in (error.__cause__,) if cause is not None and vars(cause))
    assert "SECRET" not in told


async def test_a_call_sends_its_parameters_and_the_token_in_the_body(fake: FakePortal, client: RestClient) -> None:
    fake.answers = [answer({"result": [1, {"a": None}], "total": 2, "time": {}})]
    params = {"filter": {">ID": 5, "@X": ["a", "b"]}, "select": ["ID"], "flag": True}
    assert await client.call("crm.deal.list", params) == [1, {"a": None}]
    assert (await client.call_full("crm.deal.list", params))["total"] == 2
    assert fake.requests[0] == (
        "/rest/crm.deal.list",
        {
            "filter": {">ID": "5", "@X": ["a", "b"]},
            "select": ["ID"],
            "flag": "1",
            "auth": SECRETS["access_token"],
        },
    )
    assert fake.raw_paths == ["/rest/crm.deal.list"] * 2


async def test_an_endpoint_without_a_last_slash_is_the_same_endpoint(fake: FakePortal, state: State) -> None:
    portal = fake.portal(client_endpoint=f"{fake.origin}/rest")
    async with RestClient(portal, state) as client:
        assert await client.call("app.info") is True


async def test_a_result_of_null_is_a_result(fake: FakePortal, client: RestClient) -> None:
    fake.answers = [answer({"result": None})]
    assert await client.call("app.info") is None


@pytest.mark.parametrize("method", ["", "../x", "a/b", "event.bind?auth=1", "a b", ".a", "a."])
async def test_a_method_that_is_none_is_refused_before_the_call(
    fake: FakePortal, client: RestClient, method: str
) -> None:
    with pytest.raises(WrongUsage, match="no REST method"):
        await client.call(method)
    assert fake.requests == []


@pytest.mark.parametrize("params", [{"auth": "x"}, {"AUTH": "x"}, {"access_token": "x"}, {"a": object()}])
async def test_parameters_that_cannot_be_sent_are_refused_before_the_call(
    fake: FakePortal, client: RestClient, params: dict[str, Any]
) -> None:
    with pytest.raises(WrongUsage):
        await client.call("app.info", params)
    assert fake.requests == []


async def test_an_error_of_the_portal_carries_code_description_and_status(
    fake: FakePortal, client: RestClient
) -> None:
    fake.answers = [refusal("ACCESS_DENIED", 403, f"no rights for {SECRETS['access_token']}")]
    with pytest.raises(PortalError) as caught:
        await client.call("app.info")
    error = caught.value
    assert (error.code, error.status, error.method, error.portal) == ("ACCESS_DENIED", 403, "app.info", "work")
    assert error.description == "no rights for [secret]"
    assert not error.outcome_unknown
    assert_tells_no_secret(error)
    assert len(fake.requests) == 1


@pytest.mark.parametrize(
    ("given", "code", "unknown"),
    [
        (raw(b"<html>Log in</html>", Content_Type="text/html"), "NOT_JSON", True),
        (raw(b"<html>Bad gateway</html>", 502), "HTTP_502", True),
        (raw(b"<html>Not found</html>", 404), "NOT_JSON", False),
        (raw(b""), "NOT_JSON", True),
        (raw(b"[" * 200_000), "NOT_JSON", True),
        (raw(b"\xff\xfe"), "NOT_JSON", True),
        (answer([1]), "NOT_JSON", True),
        (answer({"time": {}}), "UNEXPECTED_ANSWER", True),
        (answer({"result": 1}, 500), "HTTP_500", True),
        (answer({}, 404), "HTTP_404", False),
        (answer({"error": ""}), "", False),
        (answer({"error": 0, "error_description": "x"}), "0", False),
        (answer({"error": {"a": ["b"]}}, 400), "{'a': ['b']}", False),
        (refusal("INTERNAL_SERVER_ERROR", 500), "INTERNAL_SERVER_ERROR", True),
        (refusal("OVERLOAD_LIMIT", 503), "OVERLOAD_LIMIT", False),
        (raw(b"", 302, Location="http://127.0.0.1:1/SECRET"), "REDIRECTED", True),
    ],
)
async def test_an_odd_answer_is_an_error_that_says_so(
    fake: FakePortal, client: RestClient, given: Answer, code: str, unknown: bool
) -> None:
    fake.answers = [given]
    with pytest.raises(PortalError) as caught:
        await client.call("app.info")
    assert caught.value.code == code
    assert caught.value.outcome_unknown is unknown
    assert str(caught.value).startswith("app.info on the portal work was answered with ")
    assert_tells_no_secret(caught.value)
    assert len(fake.requests) == 1


async def test_an_empty_error_beside_a_result_is_no_error(fake: FakePortal, client: RestClient) -> None:
    fake.answers = [answer({"result": 5, "error": ""})]
    assert await client.call("app.info") == 5


@pytest.mark.parametrize("compressed", [False, True])
async def test_an_answer_is_read_up_to_its_bound_only(fake: FakePortal, state: State, compressed: bool) -> None:
    body = json.dumps({"result": "x" * 5_000_000}).encode()
    headers = {"Content-Encoding": "gzip"} if compressed else {}
    fake.answers = [raw(gzip.compress(body) if compressed else body, **headers), answer({"result": 1})]
    async with RestClient(fake.portal(), state, max_answer=1_000_000) as client:
        with pytest.raises(PortalError) as caught:
            await client.call("app.info")
        assert caught.value.code == "ANSWER_TOO_LARGE"
        assert await client.call("app.info") == 1


async def test_an_endless_answer_is_cut_off(fake: FakePortal, state: State) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(b" " * 65536)
        return response

    fake.answers = [endless]
    async with RestClient(fake.portal(), state, max_answer=500_000, timeout=20) as client:
        with pytest.raises(PortalError) as caught:
            await client.call("app.info")
    assert caught.value.code == "ANSWER_TOO_LARGE"


async def test_a_refused_connection_has_certainly_done_nothing(fake: FakePortal, state: State) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        portal = fake.portal(client_endpoint=f"http://127.0.0.1:{port}/rest/")
        async with RestClient(portal, state) as client:
            with pytest.raises(PortalUnreachable) as caught:
                await client.call("app.info")
    assert caught.value.address == f"127.0.0.1:{port}"
    assert not caught.value.outcome_unknown
    assert "refused" in str(caught.value)
    assert_tells_no_secret(caught.value)


async def test_a_host_that_does_not_exist_is_named(fake: FakePortal, state: State) -> None:
    portal = fake.portal(client_endpoint="http://portal.invalid/rest/")
    async with RestClient(portal, state) as client:
        with pytest.raises(PortalUnreachable, match=r"portal\.invalid:80") as caught:
            await client.call("app.info")
    assert not caught.value.outcome_unknown


async def test_a_dropped_connection_may_have_done_something(fake: FakePortal, client: RestClient) -> None:
    fake.answers = [dropped]
    with pytest.raises(PortalUnreachable) as caught:
        await client.call("app.info")
    assert caught.value.outcome_unknown
    assert len(fake.requests) == 1
    assert_tells_no_secret(caught.value)


async def test_an_answer_that_breaks_off_may_have_done_something(fake: FakePortal, client: RestClient) -> None:
    async def breaks_off(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b'{"result":')
        assert request.transport is not None
        request.transport.close()
        return response

    fake.answers = [breaks_off]
    with pytest.raises(PortalUnreachable) as caught:
        await client.call("app.info")
    assert caught.value.outcome_unknown


async def test_a_portal_that_does_not_answer_in_time_may_have_done_something(
    fake: FakePortal, state: State
) -> None:
    over = asyncio.Event()

    async def silent(request: web.Request) -> web.StreamResponse:
        await over.wait()
        return web.Response()

    fake.answers = [silent]
    async with RestClient(fake.portal(), state, timeout=0.2) as client:
        with pytest.raises(PortalUnreachable, match=r"no answer within 0\.2 s") as caught:
            await client.call("app.info")
    over.set()
    assert caught.value.outcome_unknown


@pytest.mark.parametrize("endpoint", ["ftp://x.example/", "x.example/rest/", "http://", "http://[::/"])
async def test_an_endpoint_that_is_no_address_is_wrong_usage(
    fake: FakePortal, state: State, endpoint: str
) -> None:
    async with RestClient(fake.portal(client_endpoint=endpoint), state) as client:
        with pytest.raises(WrongUsage, match="client_endpoint"):
            await client.call("app.info")


async def test_a_busy_portal_is_asked_again_until_it_answers(fake: FakePortal, client: RestClient) -> None:
    busy = refusal("QUERY_LIMIT_EXCEEDED", 503, "Too many requests")
    fake.answers = [busy, busy, answer({"result": 1})]
    assert await client.call("app.info") == 1
    assert len(fake.requests) == 3


async def test_a_portal_that_stays_busy_is_asked_a_bounded_number_of_times(
    fake: FakePortal, client: RestClient
) -> None:
    fake.answers = [refusal("QUERY_LIMIT_EXCEEDED", 503)]
    with pytest.raises(PortalError, match="QUERY_LIMIT_EXCEEDED"):
        await client.call("app.info")
    assert len(fake.requests) == 3


@pytest.mark.parametrize(
    ("code", "status"), [("OVERLOAD_LIMIT", 503), ("OPERATION_TIME_LIMIT", 429), ("QUERY_LIMIT_EXCEEDED", 400)]
)
async def test_no_other_code_is_tried_again(fake: FakePortal, client: RestClient, code: str, status: int) -> None:
    fake.answers = [refusal(code, status)]
    with pytest.raises(PortalError, match=code):
        await client.call("app.info")
    assert len(fake.requests) == 1


async def test_an_expired_token_is_renewed_and_the_call_repeated(
    fake: FakePortal, client: RestClient, state: State
) -> None:
    fake.generation, expired = 1, fake.portal(refresh_token="SECRET-refresh-1")
    state.save_portal(expired)
    assert await client.call("app.info", {"x": "1"}) is True
    assert [params["auth"] for params in fake.calls()] == ["SECRET-access-0", "SECRET-access-2"]
    assert [params["x"] for params in fake.calls()] == ["1", "1"]
    assert fake.calls("/oauth/token/") == [
        {
            "grant_type": "refresh_token",
            "client_id": "local.5f",
            "client_secret": SECRETS["client_secret"],
            "refresh_token": "SECRET-refresh-1",
        }
    ]
    stored = state.portal("work")
    assert stored == client.portal
    assert stored == replace(
        expired,
        access_token="SECRET-access-2",
        refresh_token="SECRET-refresh-2",
        scope="crm,task",
        user_id="7",
    )
    # Documented: the token endpoint takes its values in the address; no other address holds a secret.
    assert not any("SECRET" in path for path in fake.raw_paths if not path.startswith("/oauth/token/?"))


async def test_the_new_pair_is_on_disk_before_it_is_used(
    fake: FakePortal, client: RestClient, state: State
) -> None:
    on_disk: list[str] = []

    async def look(request: web.Request) -> web.StreamResponse:
        on_disk.append(State.open(state.home).portal("work").refresh_token)
        return await answer({"result": 1})(request)

    fake.answers = [refusal("expired_token", 401), look]
    await client.call("app.info")
    assert on_disk == ["SECRET-refresh-1"]


async def test_a_token_that_expires_again_at_once_is_not_renewed_twice(
    fake: FakePortal, client: RestClient
) -> None:
    fake.answers = [refusal("expired_token", 401)]
    with pytest.raises(PortalError, match="expired_token"):
        await client.call("app.info")
    assert fake.spent == ["SECRET-refresh-0"]
    assert len(fake.calls()) == 2


@pytest.mark.parametrize(
    "code", ["NO_AUTH_FOUND", "invalid_token", "EXPIRED_TOKEN", "insufficient_scope", "ACCESS_DENIED"]
)
async def test_no_other_code_renews_the_tokens(fake: FakePortal, client: RestClient, code: str) -> None:
    fake.answers = [refusal(code, 401)]
    with pytest.raises(PortalError, match=code):
        await client.call("app.info")
    assert fake.calls("/oauth/token/") == []


async def test_tokens_that_somebody_else_has_renewed_are_taken_from_disk(
    fake: FakePortal, client: RestClient, state: State
) -> None:
    fake.generation = 5
    state.save_portal(fake.portal(access_token="SECRET-access-5", refresh_token="SECRET-refresh-5"))
    assert await client.call("app.info") is True
    assert fake.calls("/oauth/token/") == []
    assert client.portal.refresh_token == "SECRET-refresh-5"


async def test_many_calls_at_once_renew_the_tokens_once(
    fake: FakePortal, client: RestClient, state: State
) -> None:
    fake.generation = 0
    fake.oauth_answers = []
    expired = fake.portal(access_token="SECRET-access-old")
    state.save_portal(expired)
    async with (
        RestClient(expired, state) as first,
        RestClient(expired, State.open(state.home)) as second,
    ):
        calls = [each.call("app.info") for each in (first, second) for _ in range(10)]
        assert await asyncio.gather(*calls) == [True] * 20
    assert fake.spent == ["SECRET-refresh-0"]
    assert state.portal("work").refresh_token == "SECRET-refresh-1"


async def test_two_processes_spend_a_refresh_token_once(fake: FakePortal, state: State) -> None:
    state.save_portal(fake.portal(access_token="SECRET-access-old"))
    code = """
import asyncio, sys
from pathlib import Path
from b24tunnel.portal import RestClient, State
async def main():
    state = State.open(Path(sys.argv[1]))
    async with RestClient(state.portal("work"), state) as client:
        print("ready", flush=True)
        sys.stdin.readline()
        print(await asyncio.gather(*(client.call("app.info") for _ in range(5))), client.portal.refresh_token)
asyncio.run(main())
"""
    racers = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            code,
            str(state.home),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        for _ in range(3)
    ]
    fake.oauth_gate.clear()
    for racer in racers:
        assert racer.stdout is not None
        assert await asyncio.wait_for(racer.stdout.readline(), 30) == b"ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write(b"go\n")
        racer.stdin.close()
    # Nobody gets a new token before all of them have found theirs expired.
    await asyncio.wait_for(fake.fifteen_calls.wait(), 30)
    fake.oauth_gate.set()
    for racer in racers:
        out, err = await asyncio.wait_for(racer.communicate(), 30)
        assert racer.returncode == 0, err.decode()
        assert out.decode() == f"{[True] * 5} SECRET-refresh-1\n"
    assert fake.spent == ["SECRET-refresh-0"]
    assert len(fake.calls("/oauth/token/")) == 1


async def test_a_cancelled_caller_does_not_lose_the_new_pair(fake: FakePortal, state: State) -> None:
    expired = fake.portal(access_token="SECRET-access-old")
    state.save_portal(expired)
    fake.oauth_gate.clear()
    async with RestClient(expired, state) as client:
        call = asyncio.create_task(client.call("app.info"))
        await asyncio.wait_for(fake.oauth_entered.wait(), 10)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        fake.oauth_gate.set()
    assert state.portal("work").refresh_token == "SECRET-refresh-1"
    assert fake.spent == ["SECRET-refresh-0"]


async def test_a_refresh_token_that_is_worthless_leads_to_a_new_login(
    fake: FakePortal, client: RestClient, state: State
) -> None:
    fake.generation = 9
    with pytest.raises(PortalError) as caught:
        await client.call("app.info")
    assert (caught.value.code, caught.value.method) == ("invalid_grant", "oauth/token")
    assert "store fresh tokens for the portal work" in str(caught.value)
    assert state.portal("work") == fake.portal()
    assert_tells_no_secret(caught.value)


@pytest.mark.parametrize("missing", ["refresh_token", "client_id", "client_secret", "server_endpoint"])
async def test_a_portal_that_cannot_be_renewed_says_what_to_do(
    fake: FakePortal, state: State, missing: str
) -> None:
    portal = fake.portal(access_token="SECRET-access-old", **{missing: ""})
    state.save_portal(portal)
    async with RestClient(portal, state) as client:
        with pytest.raises(PortalError, match="store fresh tokens for the portal work") as caught:
            await client.call("app.info")
    assert caught.value.code == "NO_REFRESH"
    assert fake.calls("/oauth/token/") == []


@pytest.mark.parametrize(
    "given",
    [
        {"access_token": "SECRET-new"},
        {"access_token": "", "refresh_token": "SECRET-x"},
        {"access_token": 5, "refresh_token": 6},
    ],
)
async def test_an_answer_without_a_pair_is_not_stored(
    fake: FakePortal, client: RestClient, state: State, given: dict[str, Any]
) -> None:
    fake.generation = 1
    fake.oauth_answers = [answer(given)]
    with pytest.raises(PortalError) as caught:
        await client.call("app.info")
    assert caught.value.code == "UNEXPECTED_ANSWER"
    assert state.portal("work") == fake.portal()
    assert_tells_no_secret(caught.value)


async def test_an_authorisation_server_that_drops_the_connection_is_named(
    fake: FakePortal, client: RestClient
) -> None:
    fake.generation = 1
    fake.oauth_answers = [dropped]
    with pytest.raises(PortalUnreachable, match="oauth/token on the portal work") as caught:
        await client.call("app.info")
    assert_tells_no_secret(caught.value)


async def test_a_refresh_token_is_not_spent_when_the_new_one_could_not_be_stored(
    fake: FakePortal, client: RestClient, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.generation = 0
    fake.answers = [refusal("expired_token", 401)]

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        await client.call("app.info")
    monkeypatch.undo()
    assert fake.spent == []
    assert state.portal("work") == fake.portal()


async def test_a_portal_that_is_stored_no_longer_is_not_renewed(
    fake: FakePortal, client: RestClient, state: State
) -> None:
    fake.generation = 1
    state.remove_portal("work")
    with pytest.raises(WrongUsage, match="no portal 'work'"):
        await client.call("app.info")
    assert fake.calls("/oauth/token/") == []


async def test_a_session_that_was_handed_in_stays_open(fake: FakePortal, state: State) -> None:
    async with aiohttp.ClientSession() as session:
        async with RestClient(fake.portal(), state, session) as client:
            await client.call("app.info")
        assert not session.closed


async def test_the_helpers_send_what_the_documentation_says(fake: FakePortal, client: RestClient) -> None:
    fake.answers = [
        answer({"result": True}),
        answer({"result": {"count": "2"}}),
        answer(
            {
                "result": [
                    {"event": "ONCRMDEALADD", "handler": "https://a.b/", "auth_type": "0", "offline": 0},
                    {"event": "ONCRMDEALADD", "connector_id": "c", "offline": 1},
                ]
            }
        ),
        answer({"result": ["ONAPPTEST"]}),
        answer({"result": 1}),
        answer({"result": {"INSTALLED": False}}),
        answer({"result": []}),
    ]
    await client.event_bind("ONCRMDEALADD", "https://a.b/")
    assert await client.event_unbind("ONCRMDEALADD", "https://a.b/") == 2
    assert await client.event_get() == [
        Binding("ONCRMDEALADD", "https://a.b/"),
        Binding("ONCRMDEALADD", "", "0", True, "c"),
    ]
    assert await client.events() == ["ONAPPTEST"]
    await client.event_test({"any": "data"})
    assert await client.app_info() == {"INSTALLED": False}
    assert await client.profile() == {}
    token = {"auth": SECRETS["access_token"]}
    pair = {"event": "ONCRMDEALADD", "handler": "https://a.b/", **token}
    assert fake.requests == [
        ("/rest/event.bind", pair),
        ("/rest/event.unbind", pair),
        ("/rest/event.get", token),
        ("/rest/events", token),
        ("/rest/event.test", {"any": "data", **token}),
        ("/rest/app.info", token),
        ("/rest/profile", token),
    ]


@pytest.mark.parametrize("pair", [("", "https://a.b/"), ("X", ""), ("X", " "), (" ", "https://a.b/")])
async def test_unbinding_without_event_or_handler_is_refused_before_the_call(
    fake: FakePortal, client: RestClient, pair: tuple[str, str]
) -> None:
    with pytest.raises(WrongUsage, match="other people's"):
        await client.event_unbind(*pair)
    assert fake.requests == []


async def test_a_result_of_another_shape_is_an_error(fake: FakePortal, client: RestClient) -> None:
    fake.answers = [answer({"result": "x"})]
    for call in (
        client.event_bind("A", "https://a.b/"),
        client.event_unbind("A", "https://a.b/"),
        client.event_get(),
        client.events(),
        client.app_info(),
        client.profile(),
    ):
        with pytest.raises(PortalError) as caught:
            await call
        assert caught.value.code == "UNEXPECTED_ANSWER"

"""The full OAuth protocol: who may come back, what is sent where, and what every refusal leads to."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import aiohttp
import pytest
from raw_server import RawServer, Request, answer_with
from waiting import until

from b24tunnel.errors import OutsideFailure, UserError, WrongUsage
from b24tunnel.portal import Portal, State
from b24tunnel.portal.errors import PortalError, PortalUnreachable
from b24tunnel.portal.sign_in import STATE_SECONDS, SignIn
from b24tunnel.sandbox import Fault, Sandbox


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(delay=0) as running:
        running.redirect_uri = "https://t.example/b24/x/oauth"
        yield running


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State.open(tmp_path / "home")


@pytest.fixture
def portal(sandbox: Sandbox, state: State) -> Portal:
    """The application as it is stored before anybody has signed in."""
    known = sandbox.credentials
    stored = Portal(
        name="work",
        kind="oauth",
        client_endpoint=known.client_endpoint,
        server_endpoint=known.server_endpoint,
        domain=known.domain,
        client_id=known.client_id,
        client_secret=known.client_secret,
        application_token="SECRET-application",
    )
    state.save_portal(stored)
    return stored


@pytest.fixture(autouse=True)
def nothing_secret_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(0)
    yield
    assert "client_secret=" not in caplog.text
    assert "code=" not in caplog.text


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def returned(address: str) -> str:
    """The query that the browser comes back with from the portal's page."""
    async with aiohttp.ClientSession() as http, http.get(address, allow_redirects=False) as answer:
        return urlsplit(answer.headers["Location"]).query


def changed(query: str, **changes: str | None) -> str:
    """The query with other values; without those that are None."""
    values = {name: value[0] for name, value in parse_qs(query).items()} | changes
    return urlencode({name: value for name, value in values.items() if value is not None})


def exchanges(sandbox: Sandbox) -> int:
    return sum(call.method == "oauth/token" for call in sandbox.calls)


async def test_a_return_is_exchanged_confirmed_and_stored(portal: Portal, state: State, sandbox: Sandbox) -> None:
    signing = SignIn(portal, state)
    query = await returned(signing.address())
    status, page = await signing.take(query)
    assert (status, "Signed in" in page) == (200, True)
    signed_in = await signing.wait(0)
    new = sandbox.credentials
    assert signed_in == dataclasses.replace(
        portal,
        access_token=new.access_token,
        refresh_token=new.refresh_token,
        member_id=new.member_id,
        user_id="1",
        scope=new.scope,
    )
    assert state.portal("work") == signed_in
    assert [call.method for call in sandbox.calls] == ["oauth/token", "app.info"]
    for value in parse_qs(query).values():
        assert value[0] not in page


async def test_the_address_is_the_portals_own_and_its_state_is_another_one_each_time(
    portal: Portal, state: State, sandbox: Sandbox
) -> None:
    signing = SignIn(portal, state)
    seen = set()
    for _ in range(50):
        address = urlsplit(signing.address())
        assert f"{address.scheme}://{address.netloc}{address.path}" == f"{sandbox.url}/oauth/authorize/"
        query = parse_qs(address.query)
        assert set(query) == {"client_id", "state"}
        assert query["client_id"] == [portal.client_id]
        assert len(query["state"][0]) >= 40
        seen.add(query["state"][0])
    assert len(seen) == 50


async def test_without_the_right_state_nothing_is_taken_and_the_right_one_is_waited_for(
    portal: Portal, state: State, sandbox: Sandbox
) -> None:
    signing = SignIn(portal, state, clock=lambda: 0.0)
    for unasked in ("", "&state=", "&state=x"):
        assert (await signing.take(f"code={sandbox.authorization_code()}{unasked}"))[0] == 403
    former = await returned(signing.address())
    query = await returned(signing.address())
    right = parse_qs(query)["state"][0]
    for wrong in (
        former,
        changed(query, state="x"),
        changed(query, state=""),
        changed(query, state=None),
        changed(query, state=right[:-1]),
        changed(query, state=right + "\0"),
        changed(query, state="\udcff<script>".encode("utf-8", "surrogateescape").decode("latin-1")),
        f"{query}&state={right}",
        f"{query}&code=another",
        f"{query}&{'x=1&' * 100}",
        f"{query}&x={'x' * 9000}",
        "%ff=%fe&state=%ff",
        "",
    ):
        status, page = await signing.take(wrong)
        assert status == 403, wrong
        assert "script" not in page
    assert exchanges(sandbox) == 0
    assert state.portal("work") == portal
    with pytest.raises(OutsideFailure, match="nobody came back"):
        await signing.wait(0)
    assert (await signing.take(query))[0] == 200


async def test_a_return_counts_once(portal: Portal, state: State, sandbox: Sandbox) -> None:
    signing = SignIn(portal, state)
    query = await returned(signing.address())
    assert (await signing.take(query))[0] == 200
    stored = state.portal("work")
    assert (await signing.take(query))[0] == 403
    assert (await signing.take(changed(query, code=sandbox.authorization_code())))[0] == 403
    assert state.portal("work") == stored == await signing.wait(0)
    assert exchanges(sandbox) == 1


async def test_of_two_returns_at_once_one_counts(portal: Portal, state: State, sandbox: Sandbox) -> None:
    signing = SignIn(portal, state)
    query = await returned(signing.address())
    answers = await asyncio.gather(*(signing.take(query) for _ in range(10)))
    assert sorted(status for status, _ in answers) == [200] + [403] * 9
    assert exchanges(sandbox) == 1


async def test_a_return_after_ten_minutes_is_too_old(portal: Portal, state: State, sandbox: Sandbox) -> None:
    clock, told = Clock(), list[str]()
    signing = SignIn(portal, state, clock=clock, say=told.append)
    query = await returned(signing.address())
    clock.now += STATE_SECONDS + 1
    assert (await signing.take(query))[0] == 403
    assert exchanges(sandbox) == 0
    assert "ten minutes" in told[0]
    query = await returned(signing.address())
    clock.now += STATE_SECONDS - 1
    assert (await signing.take(query))[0] == 200


@pytest.mark.parametrize("missing", ["", None])
async def test_a_return_without_a_code_is_incomplete(portal: Portal, state: State, missing: str | None) -> None:
    signing = SignIn(portal, state)
    query = await returned(signing.address())
    assert (await signing.take(changed(query, code=missing)))[0] == 400
    assert (await signing.take(query))[0] == 200


async def test_the_return_of_another_portal_is_not_taken(portal: Portal, state: State, sandbox: Sandbox) -> None:
    told = list[str]()
    signing = SignIn(portal, state, say=told.append)
    query = await returned(signing.address())
    assert (await signing.take(changed(query, domain="other.bitrix24.com")))[0] == 400
    assert exchanges(sandbox) == 0
    assert "another portal" in told[0]
    assert (await signing.take(query))[0] == 200


@pytest.mark.parametrize(
    "named",
    ["{host}", "http://{host}/", "http://{own}@{host}/", "{own}@{host}", "{host}#{own}", "{host}\\{own}", "evil"],
)
async def test_a_forged_authorisation_server_gets_nothing(
    portal: Portal, state: State, sandbox: Sandbox, named: str
) -> None:
    told = list[str]()
    with RawServer(answer_with(body=b'{"access_token":"a","refresh_token":"b"}')) as evil:
        signing = SignIn(portal, state, say=told.append)
        query = await returned(signing.address())
        forged = changed(
            query, server_domain=named.format(host=f"127.0.0.1:{evil.port}", own=sandbox.credentials.domain)
        )
        assert (await signing.take(forged))[0] == 400
        assert "authorisation server" in told[0]
        assert evil.requests == []
        assert state.portal("work") == portal
        assert (await signing.take(query))[0] == 200
        assert evil.requests == []


async def test_without_a_named_server_the_stored_one_is_asked(portal: Portal, state: State) -> None:
    signing = SignIn(portal, state)
    query = await returned(signing.address())
    assert (await signing.take(changed(query, server_domain=None)))[0] == 200


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        ("invalid_request", 400, "misses something"),
        ("invalid_client", 401, "client_id or client_secret is wrong"),
        ("insufficient_scope", 403, "more than it may"),
        ("invalid_scope", 400, "scope"),
        ("invalid_grant", 400, "older than 30 seconds"),
        ("PAYMENT_REQUIRED", 402, "subscription"),
    ],
)
async def test_a_refusal_of_the_token_endpoint_is_one_plain_sentence(
    portal: Portal, state: State, sandbox: Sandbox, code: str, status: int, words: str
) -> None:
    signing = SignIn(portal, state)
    query = await returned(signing.address())
    grant = parse_qs(query)["code"][0]
    sandbox.fail("oauth/token", Fault.error(code, f"Echo {grant} {portal.client_secret}", status))
    answer, page = await signing.take(query)
    assert (answer, "Not signed in" in page) == (502, True)
    with pytest.raises(PortalError) as caught:
        await signing.wait(0)
    assert caught.value.code == code
    text = str(caught.value)
    assert words in text
    assert "\n" not in text
    assert "{" not in text
    for secret in (grant, portal.client_secret):
        assert secret not in text + page + repr(caught.value)
    assert state.portal("work") == portal


async def test_a_wrong_client_secret_is_said(portal: Portal, state: State) -> None:
    signing = SignIn(dataclasses.replace(portal, client_secret="SECRET-wrong"), state)
    assert (await signing.take(await returned(signing.address())))[0] == 502
    with pytest.raises(PortalError, match="client_secret is wrong") as caught:
        await signing.wait(0)
    assert "SECRET" not in str(caught.value)


async def test_a_code_older_than_30_seconds_is_said(portal: Portal, state: State, sandbox: Sandbox) -> None:
    signing = SignIn(portal, state)
    query = await returned(signing.address())
    sandbox.age(31)
    assert (await signing.take(query))[0] == 502
    with pytest.raises(PortalError, match="older than 30 seconds"):
        await signing.wait(0)


@pytest.mark.parametrize(
    ("what", "fault", "words"),
    [
        ("oauth/token", Fault.hang(), "got no answer"),
        ("oauth/token", Fault.drop(), "got no answer"),
        ("oauth/token", Fault.http(502), "HTTP 502"),
        ("oauth/token", Fault.http(200, b"<h1>Login</h1>"), "not the REST interface's"),
        ("oauth/token", Fault.http(200, b'{"access_token":"a"}', "application/json"), "documented shape"),
        ("oauth/token", Fault.http(302), "leads elsewhere"),
        ("app.info", Fault.hang(), "got no answer"),
        ("app.info", Fault.error("expired_token", status=401), "expired_token"),
        ("app.info", Fault.error("ACCESS_DENIED", status=403), "ACCESS_DENIED"),
    ],
)
async def test_what_goes_wrong_on_the_way_ends_the_sign_in_and_stores_nothing(
    portal: Portal, state: State, sandbox: Sandbox, what: str, fault: Fault, words: str
) -> None:
    signing = SignIn(portal, state, timeout=1 if fault.kind == "hang" else 20)
    query = await returned(signing.address())
    sandbox.fail(what, fault, times=3)
    assert (await signing.take(query))[0] == 502
    with pytest.raises((PortalError, PortalUnreachable), match=words) as caught:
        await signing.wait(0)
    assert portal.client_secret not in str(caught.value)
    assert state.portal("work") == portal
    assert exchanges(sandbox) == 1


class FakePortal(RawServer):
    """Answers what it is told to."""

    def __init__(self, pair: dict[str, Any], info: dict[str, Any]) -> None:
        self._pair = {"access_token": "SECRET-a", "refresh_token": "SECRET-r", "member_id": "m"} | pair
        self._info = info
        super().__init__(self._reply)

    def _reply(self, request: Request) -> bytes:
        body = self._pair if b"/oauth/token/" in request.line else {"result": self._info}
        return answer_with("200 OK", json.dumps(body).encode(), "Content-Type: application/json")

    def portal(self, state: State, **changes: Any) -> Portal:
        origin = f"http://127.0.0.1:{self.port}"
        stored = Portal(
            name="work",
            client_endpoint=f"{origin}/rest/",
            server_endpoint=f"{origin}/rest/",
            client_id="local.5f",
            client_secret="SECRET-c",
            **changes,
        )
        state.save_portal(stored)
        return stored


async def signed_in(portal: Portal, state: State) -> Portal:
    signing = SignIn(portal, state)
    nonce = parse_qs(urlsplit(signing.address()).query)["state"][0]
    await signing.take(urlencode({"code": "c", "state": nonce}))
    return await signing.wait(0)


async def test_tokens_of_another_application_are_not_stored(state: State) -> None:
    with FakePortal({}, {"CODE": "local.other"}) as fake:
        portal = fake.portal(state)
        with pytest.raises(PortalError, match="another application's"):
            await signed_in(portal, state)
        assert state.portal("work") == portal


async def test_an_application_of_the_market_has_a_code_of_its_own(state: State) -> None:
    with FakePortal({}, {"CODE": "vendor.application"}) as fake:
        portal = dataclasses.replace(fake.portal(state), client_id="app.5f")
        state.save_portal(portal)
        assert (await signed_in(portal, state)).access_token == "SECRET-a"


async def test_tokens_of_another_account_are_not_stored(state: State) -> None:
    with FakePortal({"member_id": "other"}, {"CODE": "local.5f"}) as fake:
        portal = fake.portal(state, member_id="known")
        with pytest.raises(OutsideFailure, match="another account"):
            await signed_in(portal, state)
        assert state.portal("work") == portal


@pytest.mark.parametrize(
    ("told", "stored"),
    [
        ("https://oauth.bitrix24.tech/rest/", "https://oauth.bitrix24.tech/rest/"),
        ("https://oauth.bitrix.info/rest/", "https://oauth.bitrix.info/rest/"),
        ("https://oauth.evil.example/rest/", None),
        ("http://oauth.bitrix.info/rest/", None),
        ("https://oauth.bitrix.info:444/rest/", None),
        ("https://oauth.bitrix.info@evil.example/rest/", None),
        ("https://oauth.bitrix.info.evil.example/rest/", None),
        (7, None),
        ("https://[", None),
    ],
)
async def test_the_answers_server_endpoint_is_followed_if_it_can_be_believed(
    state: State, told: object, stored: str | None
) -> None:
    with FakePortal({"server_endpoint": told}, {"CODE": "local.5f"}) as fake:
        portal = fake.portal(state)
        assert (await signed_in(portal, state)).server_endpoint == (stored or portal.server_endpoint)


async def test_a_portal_that_was_stored_anew_meanwhile_does_not_get_these_tokens(
    portal: Portal, state: State
) -> None:
    signing = SignIn(portal, state)
    query = await returned(signing.address())
    other = dataclasses.replace(portal, client_id="local.other")
    state.save_portal(other)
    assert (await signing.take(query))[0] == 502
    with pytest.raises(WrongUsage, match="stored anew meanwhile"):
        await signing.wait(0)
    assert state.portal("work") == other


async def test_what_others_have_changed_meanwhile_stays(portal: Portal, state: State) -> None:
    signing = SignIn(portal, state)
    query = await returned(signing.address())
    state.save_portal(dataclasses.replace(portal, application_token="SECRET-newer"))
    await signing.take(query)
    assert (await signing.wait(0)).application_token == "SECRET-newer"


async def test_a_full_disk_is_noticed_before_the_code_is_spent(
    portal: Portal, state: State, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    signing = SignIn(portal, state)
    query = await returned(signing.address())
    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        assert (await signing.take(query))[0] == 502
    with pytest.raises(UserError, match="No space left on device"):
        await signing.wait(0)
    assert exchanges(sandbox) == 0
    assert state.portal("work") == portal


async def test_a_browser_that_goes_away_loses_nothing(portal: Portal, state: State, sandbox: Sandbox) -> None:
    sandbox.fail("oauth/token", Fault.slow(0.2))
    signing = SignIn(portal, state)
    taking = asyncio.create_task(signing.take(await returned(signing.address())))
    await until(lambda: exchanges(sandbox))
    taking.cancel()
    assert (await signing.wait(20)).access_token == sandbox.credentials.access_token
    assert taking.cancelled()


@pytest.mark.parametrize("missing", ["client_id", "client_secret"])
async def test_what_signing_in_needs_is_said_before_anything_else(
    portal: Portal, state: State, missing: str
) -> None:
    with pytest.raises(WrongUsage, match=f"no {missing}"):
        SignIn(dataclasses.replace(portal, **{missing: ""}), state)


async def test_a_secret_of_the_environment_is_used_and_not_stored(
    portal: Portal, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("B24_SECRET", portal.client_secret)
    state.save_portal(dataclasses.replace(portal, client_secret_from="env:B24_SECRET"))
    signing = SignIn(state.portal("work"), state)
    assert (await signing.take(await returned(signing.address())))[0] == 200
    assert (await signing.wait(0)).client_secret == portal.client_secret
    assert portal.client_secret not in state.path.read_text()

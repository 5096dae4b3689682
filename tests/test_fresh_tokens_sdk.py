"""The official SDK, as a handler that nobody here wrote, takes what is filled in and calls with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
import requests
from b24pysdk.credentials import BitrixApp, BitrixToken, OAuthEventData, OAuthPlacementData, OAuthWorkflowData
from b24pysdk.errors import BitrixAPIError
from raw_cases import RAW_CASES
from sandboxed import DEADLINE, Handler, bind, rest

from b24tunnel.fresh_tokens import TokenFilling
from b24tunnel.portal import Portal, State
from b24tunnel.recording import Recording
from b24tunnel.registered import registered
from b24tunnel.sandbox import Sandbox


@pytest.fixture
async def sandbox(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sandbox]:
    async with Sandbox(delay=0) as portal:
        post = requests.post

        def post_there(url: str, **options: Any) -> requests.Response:
            # The SDK knows portals by https and the usual port alone.
            return post(url.replace("https://127.0.0.1/", f"{portal.url}/"), **options)

        monkeypatch.setattr(requests, "post", post_there)
        yield portal


@pytest.fixture
def state(home: Path, sandbox: Sandbox) -> State:
    state = State.open(home)
    state.save_portal(Portal.from_mapping("work", sandbox.credentials.as_dict()))
    return state


def recorded(request: tuple[bytes, bytes]) -> Recording:
    head, body = request
    headers = (("Content-Type", "application/x-www-form-urlencoded"),)
    return Recording("1-1", datetime.now(UTC), "POST", head.split()[1].decode(), headers, body)


def fields(recording: Recording) -> dict[str, str]:
    query = recording.target.partition("?")[2]
    return dict(parse_qsl(f"{query}&{recording.body.decode()}", keep_blank_values=True))


def app(sandbox: Sandbox) -> BitrixApp:
    held = sandbox.credentials
    return BitrixApp(client_id=held.client_id, client_secret=held.client_secret)


async def profile(token: BitrixToken) -> Any:
    return (await asyncio.to_thread(token.call_method, "profile"))["result"]


async def test_it_calls_the_portal_with_a_filled_event(sandbox: Sandbox, state: State) -> None:
    async with Handler() as handler:
        await bind(sandbox, handler.url)
        sandbox.raise_event("ONCRMDEALADD")
        await sandbox.idle(DEADLINE)
    recording = recorded(handler.requests[0])
    sandbox.expire_access_token()
    old = OAuthEventData.from_dict(fields(recording))
    with pytest.raises(BitrixAPIError):
        await profile(BitrixToken.from_oauth_event_data(old, app(sandbox)))
    async with TokenFilling("fresh", state=state) as filling:
        filled = await filling.filled(recording)
    event = OAuthEventData.from_dict(fields(filled))
    assert event.auth.oauth_token.has_expired is False
    assert event.auth.application_token == sandbox.credentials.application_token
    assert (await profile(BitrixToken.from_oauth_event_data(event, app(sandbox))))["ID"]
    assert (event.event, event.data, event.ts) == (old.event, old.data, old.ts)
    assert event.auth.user_id == old.auth.user_id


async def test_it_calls_the_portal_with_a_filled_robot(sandbox: Sandbox, state: State) -> None:
    async with Handler() as handler:
        await rest(sandbox, "bizproc.robot.add", code="mine", handler=handler.url, name="Mine", auth_user_id=1)
        sandbox.run_robot("mine", {"comment": "ü"})
        await sandbox.idle(DEADLINE)
    sandbox.expire_access_token()
    async with TokenFilling("fresh", state=state) as filling:
        filled = await filling.filled(recorded(handler.requests[0]))
    run = OAuthWorkflowData.from_dict(fields(filled))
    assert run.properties == {"comment": "ü"}
    assert (await profile(BitrixToken.from_oauth(run.auth, app(sandbox))))["ID"]


async def test_it_calls_the_portal_from_a_filled_page(sandbox: Sandbox, state: State) -> None:
    async with Handler() as handler:
        await sandbox.open_page(handler.url, options={"ID": "7"})
    sandbox.expire_access_token()
    async with TokenFilling("fresh", state=state) as filling:
        filled = await filling.filled(recorded(handler.requests[0]))
    page = OAuthPlacementData.from_dict(fields(filled))
    assert page.placement_options == {"ID": "7"}
    assert page.domain == sandbox.credentials.domain
    token = BitrixToken(
        domain="127.0.0.1",
        auth_token=page.oauth_token.access_token,
        refresh_token=page.oauth_token.refresh_token,
        bitrix_app=app(sandbox),
    )
    assert (await profile(token))["ID"]


async def test_it_calls_the_sandbox_with_a_delivery_of_a_real_portal(sandbox: Sandbox, state: State) -> None:
    [case] = [case for case in RAW_CASES if case.name.startswith("17-")]
    recording = recorded((b"POST /handler HTTP/1.1", case.body))
    with registered(sandbox, "sandbox", state):
        async with TokenFilling("sandbox", state=state) as filling:
            filled = await filling.filled(recording)
    event = OAuthEventData.from_dict(fields(filled))
    assert event.auth.member_id == sandbox.credentials.member_id
    assert event.auth.client_endpoint == sandbox.credentials.client_endpoint
    assert (await profile(BitrixToken.from_oauth_event_data(event, app(sandbox))))["ID"]
    bot = event.data["BOT"]["567"]
    for auth in (bot, bot["AUTH"]):
        assert auth["access_token"] == event.auth.oauth_token.access_token
    assert event.data["PARAMS"] == OAuthEventData.from_dict(fields(recording)).data["PARAMS"]

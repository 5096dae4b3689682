"""Signing in from Python: a guide in the person's place, and a listener that is gone afterwards."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from running_session import DEADLINE, tried
from waiting import until

from b24tunnel import Journal, form
from b24tunnel.errors import OutsideFailure, WrongUsage
from b24tunnel.portal import Portal, State
from b24tunnel.portal.state import UnknownPortal
from b24tunnel.sandbox import Sandbox
from b24tunnel.signing_in import Listening, sign_in, way_in
from b24tunnel.tunnel.local import LocalTunnel


class Guide:
    """Does at once what it is led to, unless it is told to do nothing."""

    def __init__(self, *, idle: bool = False, token: str = "") -> None:
        self.addresses: list[str] = []
        self.pages: list[str] = []
        self.said: list[str] = []
        self._idle = idle
        self._token = token

    def paste(self, address: str) -> None:
        self.addresses.append(address)

    async def pasted(self) -> None:
        if self._idle:
            await asyncio.Event().wait()

    def browse(self, address: str) -> None:
        self.pages.append(address)

    async def token(self) -> str:
        await self.pasted()
        return self._token

    def say(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(delay=0) as running:
        yield running


@pytest.fixture
def state() -> State:
    return State.open()


@pytest.fixture
def listening(tmp_path: Path) -> Listening:
    return Listening(tmp_path / "recordings", tried(LocalTunnel()))


def stored(sandbox: Sandbox, state: State, **changes: Any) -> Portal:
    """The sandbox with all of its credentials, as after an earlier sign-in."""
    known = Portal.from_mapping("work", sandbox.credentials.as_dict())
    portal = dataclasses.replace(known, **changes)
    state.save_portal(portal)
    return portal


def begin(state: State, listening: Listening, guide: Guide, **more: float) -> asyncio.Task[Portal]:
    return asyncio.create_task(sign_in("work", state, listening, guide, **more))


async def ended(signing: asyncio.Task[Portal]) -> Portal:
    return await asyncio.wait_for(signing, DEADLINE)


async def post(address: str, fields: dict[str, Any]) -> int:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    async with (
        aiohttp.ClientSession() as http,
        http.post(address, data=form.encode(fields), headers=headers) as answer,
    ):
        return answer.status


async def is_gone(address: str) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", urlsplit(address).port)
    except OSError:
        return True
    writer.close()
    return False


async def test_the_browsers_way(sandbox: Sandbox, state: State, listening: Listening) -> None:
    stored(sandbox, state, kind="oauth", access_token="", refresh_token="")
    guide = Guide()
    signing = begin(state, listening, guide)
    [page] = await until(lambda: guide.pages)
    sandbox.save_application(handler=guide.addresses[0])
    async with aiohttp.ClientSession() as http, http.get(page) as answer:
        assert answer.status == 200
        assert "Signed in" in await answer.text()
    portal = await ended(signing)
    assert portal == state.portal("work")
    assert portal.access_token == sandbox.credentials.access_token
    assert await is_gone(guide.addresses[0])


async def test_an_installation_that_brings_what_is_known_already_is_one(
    sandbox: Sandbox, state: State, listening: Listening
) -> None:
    portal = stored(sandbox, state, kind="install")
    guide = Guide()
    signing = begin(state, listening, guide)
    [address] = await until(lambda: guide.addresses)
    auth = {name: str(value) for name, value in sandbox.credentials.as_dict().items() if name != "client_secret"}
    assert await post(address, {"event": "ONAPPINSTALL", "auth": auth}) == 200
    assert await ended(signing) == portal
    assert [recording.code for recording in Journal.open(listening.recordings).recordings()] == ["ONAPPINSTALL"]


async def test_an_installation_that_the_portal_does_not_confirm_is_said_and_not_one(
    sandbox: Sandbox, state: State, listening: Listening
) -> None:
    portal = stored(sandbox, state, kind="install", application_token="", access_token="")
    guide = Guide()
    signing = begin(state, listening, guide)
    [address] = await until(lambda: guide.addresses)
    auth = {"access_token": "SECRET-forged", "application_token": "SECRET-mine"}
    assert await post(address, {"event": "ONAPPINSTALL", "auth": auth}) == 200
    await until(lambda: any("NO_AUTH_FOUND" in said for said in guide.said))
    assert "SECRET" not in "".join(guide.said)
    assert not signing.done()
    assert state.portal("work") == portal
    sandbox.save_application(handler=address, install=address)
    assert (await ended(signing)).application_token == sandbox.credentials.application_token


async def test_an_installation_that_another_listener_has_taken_counts(
    sandbox: Sandbox, state: State, listening: Listening
) -> None:
    stored(sandbox, state, kind="install", access_token="")
    guide = Guide()
    signing = begin(state, listening, guide)
    await until(lambda: guide.addresses)
    state.change_portal("work", lambda known: dataclasses.replace(known, access_token="SECRET-of-another"))
    assert (await ended(signing)).access_token == "SECRET-of-another"


async def test_a_webhooks_token_is_stored(sandbox: Sandbox, state: State, listening: Listening) -> None:
    stored(sandbox, state, kind="webhook", application_token_from="env:NOBODY_HAS_SET_IT")
    with pytest.raises(WrongUsage, match="NOBODY_HAS_SET_IT"):
        await ended(begin(state, listening, Guide()))
    portal = stored(sandbox, state, kind="webhook")
    assert await ended(begin(state, listening, Guide(token=""))) == portal
    assert (await ended(begin(state, listening, Guide(token=" SECRET-new\n")))).application_token == "SECRET-new"
    assert state.portal("work").application_token == "SECRET-new"


async def test_a_token_that_is_typed_takes_the_place_of_one_that_lies_elsewhere(
    sandbox: Sandbox, state: State, listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("B24_TOKEN", "SECRET-elsewhere")
    stored(sandbox, state, kind="webhook", application_token_from="env:B24_TOKEN")
    await ended(begin(state, listening, Guide(token="SECRET-typed")))
    monkeypatch.delenv("B24_TOKEN")
    assert state.portal("work").application_token == "SECRET-typed"


@pytest.mark.parametrize("way", ["oauth", "install", "webhook"])
async def test_an_address_that_the_portal_cannot_reach_is_not_shown(
    state: State, listening: Listening, way: Any
) -> None:
    endpoint = "https://example.bitrix24.com/rest/"
    state.save_portal(Portal("work", endpoint, kind=way, client_id="local.5f", client_secret="SECRET"))
    guide = Guide()
    with pytest.raises(WrongUsage, match="cannot reach this machine"):
        await ended(begin(state, listening, guide))
    assert guide.addresses == []


@pytest.mark.parametrize(
    ("way", "words"),
    [("oauth", "was not pasted"), ("install", "no installation"), ("webhook", "no token was given")],
)
async def test_nothing_is_waited_for_longer_than_was_said(
    sandbox: Sandbox, state: State, listening: Listening, way: str, words: str
) -> None:
    portal = stored(sandbox, state, kind=way)
    guide = Guide(idle=True)
    with pytest.raises(OutsideFailure, match=words):
        await ended(begin(state, listening, guide, timeout=0.1))
    assert state.portal("work") == portal
    assert await is_gone(guide.addresses[0])


async def test_a_login_that_is_given_up_leaves_no_listener(
    sandbox: Sandbox, state: State, listening: Listening
) -> None:
    stored(sandbox, state, kind="install")
    guide = Guide()
    signing = begin(state, listening, guide)
    [address] = await until(lambda: guide.addresses)
    signing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ended(signing)
    assert await is_gone(address)


async def test_an_unknown_portal_is_said_before_anything_is_opened(state: State, listening: Listening) -> None:
    with pytest.raises(UnknownPortal):
        await ended(begin(state, listening, Guide()))
    assert not listening.recordings.exists()


def test_the_way_in_follows_from_what_is_stored() -> None:
    endpoint = "https://example.bitrix24.com/rest/"
    assert way_in(Portal("work", endpoint, kind="webhook", client_id="local.5f")) == "webhook"
    assert way_in(Portal("work", endpoint, client_id="local.5f")) == "oauth"
    with pytest.raises(WrongUsage, match="portal add work --replace"):
        way_in(Portal("work", endpoint))

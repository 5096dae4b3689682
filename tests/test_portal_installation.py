"""An installation that an event tells of: the portal has the last word, and nobody else is asked."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from raw_server import RawServer, answer_with

from b24tunnel.errors import UserError
from b24tunnel.portal import Portal, State
from b24tunnel.portal.installation import NotConfirmed, confirm_installation
from b24tunnel.sandbox import Fault, Sandbox


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(delay=0) as running:
        yield running


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State.open(tmp_path / "home")


@pytest.fixture
def portal(sandbox: Sandbox, state: State) -> Portal:
    """What is known before the installation: hardly anything."""
    known = sandbox.credentials
    stored = Portal(
        name="work",
        kind="install",
        client_endpoint=known.client_endpoint,
        server_endpoint=known.server_endpoint,
        domain=known.domain,
    )
    state.save_portal(stored)
    return stored


@pytest.fixture
def auth(sandbox: Sandbox) -> dict[str, Any]:
    """``auth`` of the delivery, in which every value is a text."""
    known = sandbox.credentials
    return {
        "access_token": known.access_token,
        "refresh_token": known.refresh_token,
        "application_token": known.application_token,
        "expires_in": "3600",
        "domain": known.domain,
        "client_endpoint": known.client_endpoint,
        "server_endpoint": known.server_endpoint,
        "member_id": known.member_id,
        "user_id": "1",
        "scope": known.scope,
        "status": "L",
    }


async def test_a_confirmed_installation_is_stored(
    portal: Portal, state: State, auth: dict[str, Any], sandbox: Sandbox
) -> None:
    stored = await confirm_installation(portal, state, auth)
    assert stored == dataclasses.replace(
        portal,
        access_token=auth["access_token"],
        refresh_token=auth["refresh_token"],
        application_token=auth["application_token"],
        member_id=auth["member_id"],
        client_id=sandbox.credentials.client_id,
        user_id="1",
        scope=auth["scope"],
    )
    assert state.portal("work") == stored
    assert [call.method for call in sandbox.calls] == ["app.info"]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("access_token", None, "no access_token"),
        ("access_token", "", "no access_token"),
        ("access_token", ["a"], "no access_token"),
        ("access_token", {"a": "b"}, "no access_token"),
        ("access_token", "x" * 5000, "no access_token"),
        ("access_token", "a\r\nb", "no access_token"),
        ("domain", "other.bitrix24.com", "another portal"),
        ("client_endpoint", "https://other.bitrix24.com/rest/", "another portal"),
        ("member_id", "another", "another account"),
    ],
)
async def test_what_cannot_be_right_is_refused_without_a_call(
    portal: Portal, state: State, auth: dict[str, Any], sandbox: Sandbox, key: str, value: Any, words: str
) -> None:
    known = dataclasses.replace(portal, member_id=auth["member_id"])
    state.save_portal(known)
    changed = {name: text for name, text in (auth | {key: value}).items() if text is not None}
    with pytest.raises(NotConfirmed, match=words):
        await confirm_installation(known, state, changed)
    assert sandbox.calls == []
    assert state.portal("work") == known


@pytest.mark.parametrize("key", ["domain", "client_endpoint", "server_endpoint"])
async def test_an_address_that_only_the_delivery_names_is_never_called(
    portal: Portal, state: State, auth: dict[str, Any], key: str
) -> None:
    with RawServer(answer_with(body=b'{"result":{"CODE":"x"}}')) as evil:
        forged = auth | {
            key: f"127.0.0.1:{evil.port}" if key == "domain" else f"http://127.0.0.1:{evil.port}/rest/"
        }
        if key == "server_endpoint":
            stored = await confirm_installation(portal, state, forged)
            assert stored.server_endpoint == portal.server_endpoint
        else:
            with pytest.raises(NotConfirmed, match="another portal"):
                await confirm_installation(portal, state, forged)
            assert state.portal("work") == portal
        assert evil.requests == []


async def test_an_access_token_that_the_portal_does_not_know_is_not_believed(
    portal: Portal, state: State, auth: dict[str, Any]
) -> None:
    known = dataclasses.replace(portal, application_token="SECRET-of-before")
    state.save_portal(known)
    with pytest.raises(NotConfirmed, match="NO_AUTH_FOUND") as caught:
        await confirm_installation(known, state, auth | {"access_token": "SECRET-invented"})
    assert "SECRET" not in str(caught.value)
    assert state.portal("work") == known


async def test_an_expired_access_token_is_neither_believed_nor_renewed(
    portal: Portal, state: State, auth: dict[str, Any], sandbox: Sandbox
) -> None:
    # With tokens of its own that could be renewed, a client would go on with those and succeed.
    known = dataclasses.replace(
        portal,
        client_id=sandbox.credentials.client_id,
        client_secret=sandbox.credentials.client_secret,
        access_token=sandbox.credentials.access_token,
        refresh_token=sandbox.credentials.refresh_token,
    )
    state.save_portal(known)
    sandbox.expire_access_token()
    with pytest.raises(NotConfirmed, match="expired_token"):
        await confirm_installation(known, state, auth | {"application_token": "SECRET-forged"})
    assert [call.method for call in sandbox.calls] == ["app.info"]
    assert state.portal("work") == known


async def test_the_installation_of_another_application_is_not_taken_over(
    portal: Portal, state: State, auth: dict[str, Any]
) -> None:
    known = dataclasses.replace(portal, client_id="local.another")
    state.save_portal(known)
    with pytest.raises(NotConfirmed, match="another application"):
        await confirm_installation(known, state, auth)
    assert state.portal("work") == known


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault.hang(), "did not confirm it"),
        (Fault.drop(), "got no answer"),
        (Fault.http(502), "HTTP 502"),
        (Fault.error("QUERY_LIMIT_EXCEEDED", status=503), r"within 0\.3 s"),
    ],
)
async def test_a_portal_that_does_not_answer_is_not_waited_for_long(
    portal: Portal, state: State, auth: dict[str, Any], sandbox: Sandbox, fault: Fault, words: str
) -> None:
    sandbox.fail("app.info", fault, times=100)
    with pytest.raises(NotConfirmed, match=words):
        await confirm_installation(portal, state, auth, seconds=0.3)
    assert state.portal("work") == portal


async def test_a_new_token_takes_the_place_of_the_old_one(
    portal: Portal, state: State, auth: dict[str, Any]
) -> None:
    known = dataclasses.replace(portal, application_token="SECRET-of-before")
    state.save_portal(known)
    assert (await confirm_installation(known, state, auth)).application_token == auth["application_token"]


async def test_a_delivery_without_an_application_token_takes_none_away(
    portal: Portal, state: State, auth: dict[str, Any]
) -> None:
    known = dataclasses.replace(portal, application_token="SECRET-of-before", refresh_token="SECRET-refresh")
    state.save_portal(known)
    del auth["application_token"]
    del auth["refresh_token"]
    stored = await confirm_installation(known, state, auth)
    assert (stored.application_token, stored.refresh_token) == ("SECRET-of-before", "SECRET-refresh")


async def test_a_token_of_the_environment_stays_there_while_it_is_the_same(
    portal: Portal, state: State, auth: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("B24_TOKEN", auth["application_token"])
    state.save_portal(dataclasses.replace(portal, application_token_from="env:B24_TOKEN"))
    stored = await confirm_installation(state.portal("work"), state, auth)
    assert stored.application_token == auth["application_token"]
    assert stored.application_token_from == "env:B24_TOKEN"
    assert auth["application_token"] not in state.path.read_text()


async def test_a_token_of_the_environment_that_holds_no_more_is_given_up(
    portal: Portal, state: State, auth: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("B24_TOKEN", "SECRET-of-before")
    state.save_portal(dataclasses.replace(portal, application_token_from="env:B24_TOKEN"))
    await confirm_installation(state.portal("work"), state, auth)
    assert state.portal("work").application_token == auth["application_token"]
    assert state.portal("work").application_token_from == ""


async def test_a_portal_that_was_stored_anew_meanwhile_does_not_get_these_tokens(
    portal: Portal, state: State, auth: dict[str, Any]
) -> None:
    other = dataclasses.replace(portal, client_endpoint="https://other.bitrix24.com/rest/")
    state.save_portal(other)
    with pytest.raises(NotConfirmed, match="stored anew"):
        await confirm_installation(portal, state, auth)
    assert state.portal("work") == other
    state.remove_portal("work")
    with pytest.raises(UserError, match="no portal"):
        await confirm_installation(portal, state, auth)

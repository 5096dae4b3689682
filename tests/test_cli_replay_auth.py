"""`b24tunnel replay --auth`: whose tokens a handler gets, on the command line, beside a real sandbox."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from journal_files import write
from programs import Program, Programs
from raw_server import RawServer
from rest_call import rest

from b24tunnel import Recording, form

OLD = "an-access-token-of-an-hour-ago"


@pytest.fixture
def handler() -> Iterator[RawServer]:
    with RawServer() as server:
        yield server


@pytest.fixture
def credentials(programs: Programs) -> dict[str, Any]:
    """A sandbox that runs, and is known as the portal ``sandbox``."""
    return programs.b24tunnel("sandbox", "--port", "0", "--json").next_json()


def record(programs: Programs, auth: dict[str, str], **changes: Any) -> bytes:
    """One recording, 1-1, with these values in ``auth``; its body."""
    body = form.encode({"event": "ONCRMDEALADD", "data": {"FIELDS": {"ID": "7"}}, "auth": auth})
    headers = (("Content-Type", "application/x-www-form-urlencoded"),)
    one = Recording("1-1", datetime.now(UTC), "POST", "/b24/x", headers, body, code="ONCRMDEALADD", **changes)
    write(programs.directory / "recordings", 1, one)
    return body


def expired(domain: str, member_id: str) -> dict[str, str]:
    ends = str(int(time.time()) - 60)
    return {"access_token": OLD, "expires": ends, "domain": domain, "member_id": member_id}


def auth_that_came(handler: RawServer) -> dict[str, Any]:
    parsed: Any = form.parse(handler.bodies()[-1])
    found: dict[str, Any] = parsed["auth"]
    return found


def replay(programs: Programs, handler: RawServer, *options: str) -> Program:
    return programs.run("replay", "1-1", "--to", handler.url, *options)


def test_an_expired_token_is_a_fresh_one_of_the_portal_and_it_is_said(
    programs: Programs, handler: RawServer, credentials: dict[str, Any]
) -> None:
    body = record(programs, expired(credentials["domain"], credentials["member_id"]), portal="sandbox")
    program = replay(programs, handler)
    assert program.process.returncode == 0, str(program)
    token = auth_that_came(handler)["access_token"]
    assert token != OLD
    # The handler can call the portal with it.
    assert rest({**credentials, "access_token": token}, "app.info")["ID"]
    said = [line for line in program.errors if "--auth recorded" in line]
    assert len(said) == 1
    assert token not in str(program)
    assert replay(programs, handler, "--auth", "recorded").process.returncode == 0
    assert handler.bodies()[-1] == body


def test_what_is_set_by_hand_goes_over_what_is_filled_in(
    programs: Programs, handler: RawServer, credentials: dict[str, Any]
) -> None:
    record(programs, expired(credentials["domain"], credentials["member_id"]), portal="sandbox")
    replay(programs, handler, "--set", "auth.access_token=mine")
    assert auth_that_came(handler)["access_token"] == "mine"


def test_the_sandbox_takes_the_place_of_any_portal(
    programs: Programs, handler: RawServer, credentials: dict[str, Any]
) -> None:
    record(programs, {**expired("far.bitrix24.com", "m"), "client_endpoint": "https://far.bitrix24.com/rest/"})
    program = replay(programs, handler, "--auth", "sandbox")
    assert program.process.returncode == 0, str(program)
    auth = auth_that_came(handler)
    assert (auth["client_endpoint"], auth["domain"]) == (credentials["client_endpoint"], credentials["domain"])


def test_without_a_known_portal_auto_sends_as_recorded_and_fresh_says_what_to_do(
    programs: Programs, handler: RawServer
) -> None:
    body = record(programs, expired("far.bitrix24.com", "m"))
    assert replay(programs, handler).process.returncode == 0
    assert handler.bodies() == [body]
    for auth in ("fresh", "sandbox"):
        program = replay(programs, handler, "--auth", auth)
        assert program.process.returncode == 2, str(program)
        assert len(program.errors) == 1
    assert handler.bodies() == [body]


def test_a_dry_run_says_that_tokens_are_filled_in(
    programs: Programs, handler: RawServer, credentials: dict[str, Any]
) -> None:
    record(programs, expired(credentials["domain"], credentials["member_id"]), portal="sandbox")
    assert "--auth sandbox" in "".join(replay(programs, handler, "--dry-run", "--auth", "sandbox").lines)
    assert "Tokens that have expired" in "".join(replay(programs, handler, "--dry-run").lines)
    assert not handler.requests

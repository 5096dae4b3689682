"""Where recordings carry tokens, when these expire, and which recordings nobody fills anything into."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies
from raw_cases import CASES, RAW_CASES

from b24tunnel import form
from b24tunnel.errors import WrongUsage
from b24tunnel.fresh_tokens import TokenFilling
from b24tunnel.fresh_tokens.carried import carried, may_carry_tokens
from b24tunnel.portal import Portal, State
from b24tunnel.recording import Recording

AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
FORM = (("Content-Type", "application/x-www-form-urlencoded"),)


def recorded(body: bytes, target: str = "/b24/x", **parts: Any) -> Recording:
    return Recording(
        **{
            "id": "1-1",
            "received_at": AT,
            "method": "POST",
            "target": target,
            "headers": FORM,
            "body": body,
            **parts,
        }
    )


def event(**auth: Any) -> Recording:
    fields = {
        "event": "ONCRMDEALADD",
        "data": {"FIELDS": {"ID": "7"}},
        "ts": str(int(AT.timestamp())),
        "auth": auth,
    }
    return recorded(form.encode(fields), code="ONCRMDEALADD")


@pytest.fixture
def state(home: Path) -> State:
    return State.open(home)


# ---- where tokens lie


def test_an_event_of_a_user_carries_them_in_auth() -> None:
    found = carried(event(access_token="a", refresh_token="r", user_id="5", scope="crm", domain="d.example"))
    assert {path[-1]: held for path, (held, _) in found.places.items()} == {
        "access_token": "access_token",
        "refresh_token": "refresh_token",
        "domain": "domain",
    }


@pytest.mark.parametrize(
    "array",
    [
        ("data", "BOT", "39"),
        ("data", "BOT", "39", "AUTH"),
        ("data", "COMMAND", "103"),
        ("data", "COMMAND", "103", "AUTH"),
        ("data", "bot", "auth"),
    ],
)
def test_bots_carry_them_in_arrays_of_their_own(array: tuple[str, ...]) -> None:
    fields: Any = {"access_token": "a", "expires": "5", "member_id": "m", "BOT_CODE": "b"}
    for key in reversed(array):
        fields = {key: fields}
    found = carried(recorded(form.encode(fields)))
    assert set(found.places) == {(*array, name) for name in ("access_token", "expires", "member_id")}


@pytest.mark.parametrize(
    "fields",
    [
        {"data": {"access_token": "theirs"}},
        {"data": {"QUERY": {"a": {"access_token": "theirs"}}}},
        {"data": {"bot": {"access_token": "theirs"}}},
        {"properties": {"access_token": "theirs"}},
        {"properties": {"bot": {"auth": {"access_token": "theirs"}}}},
        {"access_token": "theirs"},
        {"auth": {"own": {"access_token": "theirs"}}},
        {"domain": "theirs", "DOMAIN": "theirs"},
    ],
)
def test_values_of_the_application_that_only_have_such_a_name_are_none(fields: Any) -> None:
    found = carried(recorded(form.encode(fields)))
    assert not found.places
    assert found.ends is None


def test_a_page_carries_them_in_its_body_and_its_query() -> None:
    [case] = [case for case in RAW_CASES if case.name.startswith("09-")]
    target = CASES.joinpath(case.name).with_suffix(".txt").read_text().split()[1]
    found = carried(recorded(case.body, target))
    assert {path[0]: held for path, (held, _) in found.places.items()} == {
        "AUTH_ID": "access_token",
        "AUTH_EXPIRES": "expires_in",
        "REFRESH_ID": "refresh_token",
        "member_id": "member_id",
        "DOMAIN": "domain",
        "PROTOCOL": "protocol",
    }
    assert found.ends == int(AT.timestamp()) + 3600


def test_what_a_page_has_in_arrays_is_not_the_portals() -> None:
    found = carried(recorded(form.encode({"AUTH_ID": "a", "own": {"AUTH_ID": "b", "DOMAIN": "c"}})))
    assert set(found.places) == {("AUTH_ID",)}


def test_what_goes_with_a_token_is_nothing_without_one() -> None:
    found = carried(
        event(expires="5", expires_in="3600", refresh_token="r", application_token="t", access_token="")
    )
    assert {held for held, _ in found.places.values()} == {"application_token"}
    assert found.ends is None


@pytest.mark.parametrize("case", RAW_CASES, ids=lambda case: case.name)
def test_every_access_token_of_a_real_delivery_is_found(case: Any) -> None:
    content_type = "multipart/form-data; boundary=x" if "multipart" in case.name else FORM[0][1]
    if "multipart" in case.name:
        head = CASES.joinpath(case.name).with_suffix(".txt").read_bytes().partition(b"\r\n\r\n")[0].decode()
        content_type = next(
            line.partition(": ")[2] for line in head.splitlines() if line.startswith("Content-Type")
        )
    recording = recorded(case.body, headers=(("Content-Type", content_type),))
    wanted = set()

    def walk(value: Any, path: tuple[str, ...]) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, (*path, key))
        elif path[-1] in ("access_token", "AUTH_ID") and value:
            wanted.add(path)

    walk(case.expect if isinstance(case.expect, dict) else {}, ())
    found = carried(recording)
    assert {path for path, (held, _) in found.places.items() if held == "access_token"} == wanted
    assert may_carry_tokens(recording) or not wanted


async def test_null_of_json_is_no_token() -> None:
    body = b'{"auth": {"access_token": null, "application_token": "t"}}'
    found = carried(recorded(body, headers=(("Content-Type", "application/json"),)))
    assert found.ends is None
    assert {held for held, _ in found.places.values()} == {"application_token"}


async def test_more_values_than_anybody_looks_through_are_no_matter_in_auto(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(state)
    monkeypatch.setattr(import_module("b24tunnel.changing.leaves"), "MAX_KEYS", 3)
    recording = event(access_token="a", member_id="m-work")
    async with TokenFilling("auto", state=state, on_note=pytest.fail) as filling:
        assert await filling.filled(recording) is recording
    async with TokenFilling("fresh", state=state) as filling:
        with pytest.raises(WrongUsage, match="1-1 has too many values"):
            await filling.filled(recording)


# ---- when they expire


@pytest.mark.parametrize(
    ("auth", "after"),
    [
        ({"expires": str(int(AT.timestamp()) + 100), "expires_in": "3600"}, 100),
        ({"expires_in": "1800"}, 1800),
        ({}, 3600),
        ({"expires": "soon", "expires_in": "long"}, 3600),
        ({"expires": "9" * 5000}, 3600),
        ({"expires": "٣"}, 3600),
    ],
)
def test_a_token_expires_when_auth_says_so_else_an_hour_after_the_event(auth: dict[str, str], after: int) -> None:
    assert carried(event(access_token="a", **auth)).ends == int(AT.timestamp()) + after


def test_without_ts_the_hour_begins_with_its_arrival() -> None:
    recording = recorded(b"auth%5Baccess_token%5D=a&ts=never", received_at=AT + timedelta(days=1))
    assert carried(recording).ends == int(AT.timestamp()) + 24 * 3600 + 3600


def test_the_first_token_that_expires_counts() -> None:
    fields = {
        "auth": {"access_token": "a", "expires": "900"},
        "data": {"bot": {"auth": {"access_token": "b", "expires": "800"}}},
    }
    assert carried(recorded(form.encode(fields))).ends == 800


# ---- what is left alone


async def test_recorded_touches_nothing_and_reads_nothing(home: Path) -> None:
    (home / "state.json").write_text("damaged")
    recording = event(access_token="a", expires="5")
    async with TokenFilling("recorded", on_note=pytest.fail) as filling:
        assert await filling.filled(recording) is recording


async def test_auto_without_a_stored_portal_looks_into_no_recording(home: Path) -> None:
    class Unread(Recording):
        def __getattribute__(self, name: str) -> Any:
            if name in ("body", "target", "headers"):
                raise AssertionError(f"{name} was looked at")
            return super().__getattribute__(name)

    recording = Unread("1-1", AT, "POST", "/", FORM, b"auth%5Baccess_token%5D=a&auth%5Bexpires%5D=5")
    async with TokenFilling("auto", on_note=pytest.fail) as filling:
        assert await filling.filled(recording) is recording


async def test_auto_goes_on_with_a_state_that_cannot_be_read_and_says_so(home: Path) -> None:
    (home / "state.json").write_text("damaged")
    notes: list[str] = []
    recording = event(access_token="a", expires="5")
    async with TokenFilling("auto", on_note=notes.append) as filling:
        assert await filling.filled(recording) is recording
    [note] = notes
    assert "state.json" in note


async def test_an_unknown_word_is_refused() -> None:
    with pytest.raises(WrongUsage, match="give auto, fresh, recorded or sandbox"):
        TokenFilling("none")  # type: ignore[arg-type]


def stored(state: State, name: str = "work", **parts: str) -> Portal:
    values = {
        "client_endpoint": f"https://{name}.example/rest/",
        "domain": f"{name}.example",
        "member_id": f"m-{name}",
        "application_token": f"fresh-application-{name}",
        **parts,
    }
    portal = Portal(name=name, **values)  # type: ignore[arg-type]
    state.save_portal(portal)
    return portal


async def test_fresh_refuses_a_recording_of_a_portal_that_is_not_stored(state: State) -> None:
    stored(state)
    async with TokenFilling("fresh", state=state) as filling:
        with pytest.raises(WrongUsage) as refusal:
            await filling.filled(replace(event(access_token="SECRET-a", member_id="other"), id="12-345"))
    assert "12-345" in str(refusal.value)
    assert "b24tunnel portal login NAME" in str(refusal.value)
    assert "--auth recorded" in str(refusal.value)
    assert "SECRET" not in str(refusal.value)


async def test_fresh_refuses_a_recording_that_fits_two_portals(state: State) -> None:
    for name in ("one", "two"):
        stored(state, name, member_id="m")
    async with TokenFilling("fresh", state=state) as filling:
        with pytest.raises(WrongUsage, match="any of the portals one, two"):
            await filling.filled(event(access_token="a", member_id="m"))
    async with TokenFilling("auto", state=state, on_note=pytest.fail) as filling:
        recording = event(access_token="a", member_id="m")
        assert await filling.filled(recording) is recording


async def test_fresh_says_when_a_portal_has_no_tokens(state: State) -> None:
    stored(state)
    async with TokenFilling("fresh", state=state) as filling:
        for _ in range(2):
            with pytest.raises(WrongUsage, match=r"1-1 gets no fresh tokens: .*`b24tunnel portal login work`"):
                await filling.filled(event(access_token="a", member_id="m-work"))


async def test_a_name_that_another_account_has_now_is_no_match(state: State) -> None:
    stored(state)
    async with TokenFilling("fresh", state=state) as filling:
        with pytest.raises(WrongUsage, match="not stored"):
            await filling.filled(replace(event(access_token="a", member_id="m-former"), portal="work"))


@pytest.mark.parametrize("by", ["portal", "member_id", "domain"])
async def test_a_webhook_gets_the_application_token_in_fresh_without_a_call(state: State, by: str) -> None:
    stored(state)
    said = {"portal": {}, "member_id": {"member_id": "m-work"}, "domain": {"domain": "work.example"}}[by]
    recording = replace(event(application_token="old", **said), portal="work" if by == "portal" else None)
    async with TokenFilling("fresh", state=state) as filling:
        filled = await filling.filled(recording)
    assert filled.event.application_token == "fresh-application-work"
    assert filled.body == recording.body.replace(b"=old", b"=fresh-application-work")
    async with TokenFilling("auto", state=state, on_note=pytest.fail) as filling:
        assert await filling.filled(recording) is recording


async def test_a_webhook_of_a_portal_that_is_not_stored_stays_as_it_is(state: State) -> None:
    recording = event(application_token="old", member_id="other")
    async with TokenFilling("fresh", state=state) as filling:
        assert await filling.filled(recording) is recording


async def test_a_forged_delivery_gets_nothing(state: State) -> None:
    stored(state)
    recording = replace(event(application_token="forged", member_id="m-work"), verdict="mismatched", portal="work")
    async with TokenFilling("fresh", state=state) as filling:
        assert await filling.filled(recording) is recording


async def test_an_address_that_somebody_else_wrote_does_not_stay_beside_what_is_filled_in(state: State) -> None:
    portal = stored(state)
    evil = {key: "https://evil.example/rest/" for key in ("client_endpoint", "server_endpoint")}
    recording = event(application_token="old", member_id="m-work", domain="evil.example", **evil)
    async with TokenFilling("fresh", state=state) as filling:
        filled = await filling.filled(recording)
    assert b"evil" not in filled.body
    auth = filled.event.auth or {}
    assert auth["client_endpoint"] == portal.client_endpoint
    assert auth["server_endpoint"] == "https://oauth.bitrix.info/rest/"


async def test_the_secret_of_a_portal_can_lie_elsewhere(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_TOKEN", "from-the-environment")
    stored(state, application_token_from="env:THE_TOKEN")
    async with TokenFilling("fresh", state=state) as filling:
        filled = await filling.filled(event(application_token="old", member_id="m-work"))
    assert filled.event.application_token == "from-the-environment"


async def test_sandbox_says_to_start_one(state: State) -> None:
    with pytest.raises(WrongUsage, match="`b24tunnel sandbox`"):
        await TokenFilling("sandbox", state=state).__aenter__()
    stored(state, "sandbox")
    with pytest.raises(WrongUsage, match=r"real one.*`b24tunnel sandbox`"):
        await TokenFilling("sandbox", state=state).__aenter__()


# ---- every other byte

_TEXT = strategies.text(strategies.characters(codec="utf-8"), max_size=12)
_LEAVES = strategies.recursive(
    _TEXT, lambda inner: strategies.dictionaries(_TEXT, inner, max_size=3), max_leaves=8
)
_AUTH = strategies.dictionaries(
    strategies.sampled_from(["application_token", "domain", "member_id", "client_endpoint", "scope", "user_id"]),
    _TEXT,
)


@hypothesis.given(data=_LEAVES, auth=_AUTH, after=_LEAVES, form_of=strategies.sampled_from(["form", "json"]))
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture], max_examples=150)
async def test_what_is_no_value_of_the_portals_stays_byte_for_byte(
    state: State, data: Any, auth: dict[str, str], after: Any, form_of: str
) -> None:
    portal = stored(state)
    fields = {"event": "ONAPPTEST", "data": {"QUERY": data}, "auth": auth | {"member_id": "m-work"}, "z": after}
    if form_of == "json":
        recording = recorded(json.dumps(fields).encode(), headers=(("Content-Type", "application/json"),))
    else:
        recording = recorded(form.encode(fields))
    async with TokenFilling("fresh", state=state) as filling:
        filled = await filling.filled(recording)
    wanted = dict(fields["auth"])
    for name in ("application_token", "domain", "client_endpoint"):
        if wanted.get(name):
            wanted[name] = getattr(portal, name)
    if form_of == "json":
        assert filled.body == json.dumps(fields | {"auth": wanted}).encode()
    else:
        assert filled.body == form.encode(fields | {"auth": wanted})
    assert replace(filled, body=b"", headers=()) == replace(recording, body=b"", headers=())

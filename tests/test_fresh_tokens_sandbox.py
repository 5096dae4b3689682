"""Fresh tokens from a real REST interface: looked at once, renewed where they have expired, and accepted."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from raw_cases import CASES, RAW_CASES
from raw_server import RawServer, Request, answer_with
from sandboxed import DEADLINE, Handler, bind, rest
from waiting import until

from b24tunnel import form
from b24tunnel.errors import OutsideFailure
from b24tunnel.fresh_tokens import TokenFilling
from b24tunnel.portal import Portal, State
from b24tunnel.recording import Recording
from b24tunnel.registered import registered
from b24tunnel.sandbox import Fault, Sandbox

HOUR = timedelta(hours=1, seconds=1)


class Clock:
    """A time that only moves when it is told to."""

    def __init__(self) -> None:
        self.time = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.time


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(delay=0) as portal:
        yield portal


@pytest.fixture
def state(home: Path) -> State:
    return State.open(home)


@pytest.fixture
def work(sandbox: Sandbox, state: State) -> Portal:
    """The sandbox's portal as one that somebody has stored."""
    portal = Portal.from_mapping("work", sandbox.credentials.as_dict())
    state.save_portal(portal)
    return portal


@pytest.fixture
def as_sandbox(sandbox: Sandbox, state: State) -> Iterator[Portal]:
    with registered(sandbox, "sandbox", state) as portal:
        yield portal


@pytest.fixture
def clock() -> Clock:
    return Clock()


def recorded(request: tuple[bytes, bytes], **parts: Any) -> Recording:
    head, body = request
    target = head.split()[1].decode()
    code = form.parse(body).get("event")  # type: ignore[union-attr]
    headers = (("Content-Type", "application/x-www-form-urlencoded"),)
    parts = {"received_at": datetime.now(UTC), "code": code, "id": "1-1"} | parts
    return Recording(method="POST", target=target, headers=headers, body=body, **parts)


async def delivered(sandbox: Sandbox, code: str = "ONCRMDEALADD", *, user: bool = True) -> Recording:
    """What the sandbox sends when this happens."""
    async with Handler() as handler:
        await bind(sandbox, handler.url, code)
        sandbox.raise_event(code, user=user)
        await sandbox.idle(DEADLINE)
        await rest(sandbox, "event.unbind", event=code, handler=handler.url)
    return recorded(handler.requests[0])


def auth(recording: Recording) -> dict[str, Any]:
    found = recording.event.auth
    assert found is not None
    return found


def calls(sandbox: Sandbox) -> Counter[str]:
    """Looks and renewals so far."""
    return Counter(call.method for call in sandbox.calls if call.method in ("app.info", "oauth/token"))


def secrets(sandbox: Sandbox) -> list[str]:
    held = sandbox.credentials
    return [held.access_token, held.refresh_token, held.client_secret, held.application_token]


def an_hour_later(sandbox: Sandbox, clock: Clock) -> None:
    sandbox.age(HOUR.total_seconds())
    clock.time += HOUR


async def test_auto_fills_in_a_token_that_is_accepted_and_changes_nothing_else(
    sandbox: Sandbox, state: State, work: Portal, clock: Clock
) -> None:
    recording = await delivered(sandbox)
    an_hour_later(sandbox, clock)
    old = auth(recording)
    assert (await rest(sandbox, "profile", token=old["access_token"]))["error"] == "expired_token"
    notes: list[str] = []
    async with TokenFilling("auto", state=state, on_note=notes.append, now=clock) as filling:
        filled = await filling.filled(recording)
    new = auth(filled)
    assert (await rest(sandbox, "profile", token=new["access_token"]))["result"]
    assert new["expires"] == str(int(clock.time.timestamp()) + 3600)
    assert {key for key in new if new[key] != old[key]} == {"access_token", "expires"}
    spelled = {old[key].encode(): new[key].encode() for key in ("access_token", "expires")}
    body = recording.body
    for before, after in spelled.items():
        assert body.count(before) == 1
        body = body.replace(before, after)
    assert filled == replace(recording, body=body, headers=filled.headers)
    assert notes == [
        "The tokens of portal work's recordings have expired: fresh ones from the stored portal are filled in; "
        "--auth recorded sends the recorded ones."
    ]
    # The renewed pair is the stored one.
    assert state.portal("work").access_token == new["access_token"]


async def test_a_delivery_by_get_carries_them_in_its_query(
    sandbox: Sandbox, state: State, work: Portal, clock: Clock
) -> None:
    posted = await delivered(sandbox)
    recording = replace(posted, method="GET", target="/handler?" + posted.body.decode(), body=b"")
    an_hour_later(sandbox, clock)
    async with TokenFilling("auto", state=state, now=clock) as filling:
        filled = await filling.filled(recording)
    old, new = auth(recording), auth(filled)
    assert new["access_token"] == state.portal("work").access_token
    for key in ("access_token", "expires"):
        recording = replace(recording, target=recording.target.replace(old[key], new[key]))
    assert filled == recording


async def test_auto_leaves_a_token_that_is_still_good(sandbox: Sandbox, state: State, work: Portal) -> None:
    recording = await delivered(sandbox)
    async with TokenFilling("auto", state=state, on_note=pytest.fail) as filling:
        assert await filling.filled(recording) is recording
    assert not calls(sandbox)


async def test_auto_counts_a_token_that_ends_within_a_minute_as_expired(
    sandbox: Sandbox, state: State, work: Portal, clock: Clock
) -> None:
    recording = await delivered(sandbox)
    ends = datetime.fromtimestamp(int(auth(recording)["expires"]), UTC)
    async with TokenFilling("auto", state=state, now=clock) as filling:
        clock.time = ends - timedelta(seconds=61)
        assert await filling.filled(recording) is recording
        clock.time = ends - timedelta(seconds=60)
        assert await filling.filled(recording) is not recording


async def test_the_portal_is_known_by_its_name_its_member_id_or_its_domain(
    sandbox: Sandbox, state: State, work: Portal, clock: Clock
) -> None:
    recording = await delivered(sandbox)
    an_hour_later(sandbox, clock)
    body = recording.body
    no_member = body.replace(work.member_id.encode(), b"")
    no_domain = body.replace(b"domain%5D=", b"other%5D=")
    strange = no_member.replace(b"domain%5D=", b"other%5D=")
    async with TokenFilling("auto", state=state, now=clock) as filling:
        for known in (replace(recording, body=no_member), replace(recording, body=no_domain)):
            assert auth(await filling.filled(known))["access_token"] == state.portal("work").access_token
        unknown = replace(recording, body=strange)
        assert await filling.filled(unknown) is unknown
        named = await filling.filled(replace(unknown, portal="work"))
    assert auth(named)["access_token"] == state.portal("work").access_token


async def test_many_recordings_at_the_same_time_share_one_look_and_one_renewal(
    sandbox: Sandbox, state: State, work: Portal, clock: Clock
) -> None:
    recording = await delivered(sandbox)
    an_hour_later(sandbox, clock)
    notes: list[str] = []
    async with TokenFilling("auto", state=state, on_note=notes.append, now=clock) as filling:
        filled = await asyncio.gather(*(filling.filled(recording) for _ in range(50)))
    assert len({auth(each)["access_token"] for each in filled}) == 1
    assert calls(sandbox) == {"app.info": 2, "oauth/token": 1}  # refused, renewed, asked again
    assert len(notes) == 1


async def test_a_token_whose_age_is_not_known_is_looked_at_again_after_a_minute(
    sandbox: Sandbox, state: State, work: Portal, clock: Clock
) -> None:
    recording = await delivered(sandbox)
    start = clock.time
    async with TokenFilling("fresh", state=state, now=clock) as filling:
        first = await filling.filled(recording)
        clock.time = start + timedelta(seconds=59)
        assert await filling.filled(recording) == first
        assert calls(sandbox) == {"app.info": 1}
        clock.time = start + timedelta(seconds=60)
        sandbox.expire_access_token()
        second = await filling.filled(recording)
    assert calls(sandbox) == {"app.info": 3, "oauth/token": 1}
    # The same token is not said to be good for longer each time that it is looked at.
    assert auth(first)["expires"] == str(int(start.timestamp()) + 3600)
    assert auth(second)["access_token"] != auth(first)["access_token"]
    assert auth(second)["expires"] == str(int(clock.time.timestamp()) + 3600)


async def test_the_end_of_a_token_does_not_move_while_it_is_looked_at(
    sandbox: Sandbox, state: State, work: Portal, clock: Clock
) -> None:
    recording = await delivered(sandbox)
    async with TokenFilling("fresh", state=state, now=clock) as filling:
        first = await filling.filled(recording)
        clock.time += timedelta(minutes=30)
        assert await filling.filled(recording) == first
    assert calls(sandbox) == {"app.info": 2}


async def test_a_token_that_is_accepted_is_never_said_to_have_ended(
    sandbox: Sandbox, state: State, work: Portal, clock: Clock
) -> None:
    recording = await delivered(sandbox)
    async with TokenFilling("fresh", state=state, now=clock) as filling:
        await filling.filled(recording)
        clock.time += 2 * HOUR
        filled = await filling.filled(recording)
    assert auth(filled)["access_token"] == work.access_token
    assert int(auth(filled)["expires"]) > clock.time.timestamp()


async def test_a_clock_that_was_set_back_makes_no_token_younger(
    sandbox: Sandbox, state: State, work: Portal, clock: Clock
) -> None:
    recording = await delivered(sandbox)
    async with TokenFilling("fresh", state=state, now=clock) as filling:
        await filling.filled(recording)
        clock.time -= timedelta(seconds=1)
        await filling.filled(recording)
    assert calls(sandbox) == {"app.info": 2}


async def test_a_renewed_token_is_looked_at_again_before_its_hour_is_over(
    sandbox: Sandbox, state: State, work: Portal, clock: Clock
) -> None:
    recording = await delivered(sandbox)
    sandbox.expire_access_token()
    renewed_at = clock.time
    async with TokenFilling("fresh", state=state, now=clock) as filling:
        first = await filling.filled(recording)
        before = calls(sandbox)
        clock.time = renewed_at + timedelta(minutes=54)
        assert await filling.filled(recording) == first
        assert calls(sandbox) == before
        clock.time = renewed_at + timedelta(minutes=56)
        sandbox.expire_access_token()
        second = await filling.filled(recording)
    assert (await rest(sandbox, "profile", token=auth(second)["access_token"]))["result"]


async def test_whoever_signed_in_anew_meanwhile_is_heeded(
    sandbox: Sandbox, state: State, work: Portal, clock: Clock
) -> None:
    recording = await delivered(sandbox)
    async with TokenFilling("fresh", state=state, now=clock) as filling:
        await filling.filled(recording)
        state.save_portal(replace(work, access_token="revoked-by-hand"))
        clock.time += timedelta(minutes=2)
        with pytest.raises(OutsideFailure, match="NO_AUTH_FOUND"):
            await filling.filled(recording)


async def test_one_who_looks_and_is_cancelled_leaves_the_look_to_the_next(
    sandbox: Sandbox, state: State, work: Portal
) -> None:
    recording = await delivered(sandbox)
    looks: list[Request] = []
    forever = threading.Event()

    def answer(request: Request) -> bytes:
        looks.append(request)
        if len(looks) == 1:
            forever.wait(DEADLINE)
        return answer_with("200 OK", b'{"result": {}}')

    with RawServer(answer) as server:
        state.save_portal(replace(work, client_endpoint=server.url + "/rest/"))
        async with TokenFilling("fresh", state=state) as filling:
            first = asyncio.create_task(filling.filled(recording))
            await until(lambda: looks)
            second = asyncio.create_task(filling.filled(recording))
            first.cancel()
            filled = await second
            with pytest.raises(asyncio.CancelledError):
                await first
        forever.set()
    assert len(looks) == 2
    assert auth(filled)["access_token"] == work.access_token


@pytest.mark.parametrize(
    ("fault", "what"), [(Fault.http(502), "app.info"), (Fault.drop(), "app.info"), (Fault.drop(), "oauth/token")]
)
async def test_auto_sends_the_recorded_ones_when_no_fresh_ones_can_be_had_and_says_so_once(
    sandbox: Sandbox, state: State, work: Portal, clock: Clock, fault: Fault, what: str
) -> None:
    recording = await delivered(sandbox)
    an_hour_later(sandbox, clock)
    sandbox.fail(what, fault, times=1000)
    notes: list[str] = []
    async with TokenFilling("auto", state=state, on_note=notes.append, now=clock) as filling:
        at_once = await asyncio.gather(*(filling.filled(recording) for _ in range(5)))
        assert all(each is recording for each in at_once)
        before = calls(sandbox)
        clock.time += HOUR
        assert await filling.filled(recording) is recording
    assert calls(sandbox) == before
    [note] = notes
    assert "portal work's recordings" in note
    assert "sent as recorded" in note
    assert not any(secret in note for secret in secrets(sandbox))


async def test_auto_says_that_a_later_look_failed_too(
    sandbox: Sandbox, state: State, work: Portal, clock: Clock
) -> None:
    recording = await delivered(sandbox)
    an_hour_later(sandbox, clock)
    notes: list[str] = []
    async with TokenFilling("auto", state=state, on_note=notes.append, now=clock) as filling:
        assert await filling.filled(recording) is not recording
        await sandbox.stop()
        clock.time += HOUR
        assert await filling.filled(recording) is recording
    assert len(notes) == 2
    assert "sent as recorded" in notes[1]


async def test_fresh_fails_where_the_refresh_token_is_spent(
    sandbox: Sandbox, state: State, work: Portal, clock: Clock
) -> None:
    recording = replace(await delivered(sandbox), id="12-345")
    state.save_portal(replace(work, refresh_token="spent-long-ago"))
    sandbox.expire_access_token()
    async with TokenFilling("fresh", state=state) as filling:
        for _ in range(2):
            with pytest.raises(OutsideFailure) as failure:
                await filling.filled(recording)
    sentence = str(failure.value)
    assert sentence.startswith("12-345 ")
    assert "`b24tunnel portal login work`" in sentence
    assert "--auth recorded" in sentence
    assert not any(secret in sentence for secret in (*secrets(sandbox), "spent-long-ago"))
    assert calls(sandbox) == {"app.info": 1, "oauth/token": 1}


async def test_only_fresh_hands_out_the_refresh_token(
    sandbox: Sandbox, state: State, work: Portal, clock: Clock
) -> None:
    recording = await delivered(sandbox, "ONAPPTEST")
    an_hour_later(sandbox, clock)
    assert auth(recording)["refresh_token"]
    async with TokenFilling("auto", state=state, now=clock) as filling:
        unasked = await filling.filled(recording)
    async with TokenFilling("fresh", state=state, now=clock) as filling:
        asked = await filling.filled(recording)
    assert auth(unasked)["refresh_token"] == auth(recording)["refresh_token"]
    assert auth(asked)["refresh_token"] == state.portal("work").refresh_token
    assert auth(asked)["access_token"] == auth(unasked)["access_token"]


async def test_a_renewal_keeps_an_application_token_that_lies_elsewhere(
    sandbox: Sandbox, state: State, work: Portal, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_TOKEN", "from-the-environment")
    state.save_portal(replace(work, application_token_from="env:THE_TOKEN"))
    recording = await delivered(sandbox)
    an_hour_later(sandbox, clock)
    async with TokenFilling("auto", state=state, now=clock) as filling:
        filled = await filling.filled(recording)
    assert auth(filled)["application_token"] == "from-the-environment"


async def test_a_robot_gets_a_token_and_keeps_its_event_token(
    sandbox: Sandbox, state: State, work: Portal, clock: Clock
) -> None:
    async with Handler() as handler:
        await rest(sandbox, "bizproc.robot.add", code="mine", handler=handler.url, name="Mine", auth_user_id=5)
        sandbox.run_robot("mine", {"access_token": "theirs"})
        await sandbox.idle(DEADLINE)
    recording = recorded(handler.requests[0])
    an_hour_later(sandbox, clock)
    async with TokenFilling("auto", state=state, now=clock) as filling:
        filled = await filling.filled(recording)
    assert (await rest(sandbox, "profile", token=auth(filled)["access_token"]))["result"]
    for key in ("event_token", "properties", "ts"):
        assert filled.event.fields[key] == recording.event.fields[key]
    assert auth(filled)["user_id"] == "5"


async def test_an_event_of_a_robot_gets_none(sandbox: Sandbox, state: State, work: Portal, clock: Clock) -> None:
    recording = await delivered(sandbox, user=False)
    an_hour_later(sandbox, clock)
    for mode in ("auto", "fresh"):
        async with TokenFilling(mode, state=state, now=clock) as filling:  # type: ignore[arg-type]
            assert await filling.filled(recording) is recording
    assert not calls(sandbox)


async def test_a_page_gets_them_in_its_body(sandbox: Sandbox, state: State, work: Portal, clock: Clock) -> None:
    async with Handler() as handler:
        await sandbox.open_page(handler.url)
    recording = recorded(handler.requests[0])
    an_hour_later(sandbox, clock)
    async with TokenFilling("auto", state=state, now=clock) as filling:
        filled = await filling.filled(recording)
    fields, old = filled.event.fields, recording.event.fields
    assert (await rest(sandbox, "profile", token=fields["AUTH_ID"]))["result"]
    assert {key for key in fields if fields[key] != old[key]} == {"AUTH_ID"}
    assert filled.target == recording.target


async def test_a_forged_delivery_gets_nothing_in_any_mode(
    sandbox: Sandbox, state: State, work: Portal, as_sandbox: Portal, clock: Clock
) -> None:
    recording = replace(await delivered(sandbox), verdict="mismatched")
    an_hour_later(sandbox, clock)
    for mode in ("auto", "fresh", "sandbox"):
        async with TokenFilling(mode, state=state, now=clock) as filling:  # type: ignore[arg-type]
            assert await filling.filled(recording) is recording


# ---- sandbox

WITH_TOKENS = [case for case in RAW_CASES if b"access_token" in case.body or b"AUTH_ID" in case.body]


@pytest.mark.parametrize("case", WITH_TOKENS, ids=lambda case: case.name)
async def test_sandbox_points_a_real_delivery_at_the_sandbox(
    sandbox: Sandbox, state: State, as_sandbox: Portal, case: Any
) -> None:
    target = "/handler"
    if "-http-" in case.name:
        target = CASES.joinpath(case.name).with_suffix(".txt").read_text().split()[1]
    recording = recorded((f"POST {target} HTTP/1.1".encode(), case.body))
    async with TokenFilling("sandbox", state=state) as filling:
        filled = await filling.filled(recording)
    held = sandbox.credentials.as_dict() | {"protocol": "0"}
    names = {
        **{name: name for name in ("access_token", "refresh_token", "application_token", "domain", "member_id")},
        **{"client_endpoint": "client_endpoint", "server_endpoint": "server_endpoint", "DOMAIN": "domain"},
        **{"AUTH_ID": "access_token", "REFRESH_ID": "refresh_token", "PROTOCOL": "protocol"},
    }
    changed = 0

    def compare(new: Any, old: Any) -> None:
        nonlocal changed
        if isinstance(old, dict):
            assert list(new) == list(old)
            for key in old:
                if isinstance(old[key], str) and key in names and old[key]:
                    assert new[key] == held[names[key]], key
                    changed += 1
                elif key not in ("expires", "expires_in", "AUTH_EXPIRES"):
                    compare(new[key], old[key])
        elif isinstance(old, list):
            assert len(new) == len(old)
            for one, other in zip(new, old, strict=True):
                compare(one, other)
        else:
            assert new == old

    compare(filled.event.fields, recording.event.fields)
    assert changed
    assert (await rest(sandbox, "profile", token=held["access_token"]))["result"]


async def test_auto_takes_a_sandbox_that_was_started_anew_for_the_one_of_its_name(
    sandbox: Sandbox, state: State, as_sandbox: Portal, clock: Clock
) -> None:
    async with Sandbox(delay=0) as former:
        recording = replace(await delivered(former), portal="sandbox")
    clock.time += HOUR
    async with TokenFilling("auto", state=state, now=clock) as filling:
        filled = await filling.filled(recording)
    held = sandbox.credentials.as_dict()
    for key in ("access_token", "domain", "member_id", "client_endpoint", "server_endpoint"):
        assert auth(filled)[key] == held[key]


async def test_sandbox_takes_the_place_of_a_webhooks_portal_too(
    sandbox: Sandbox, state: State, as_sandbox: Portal
) -> None:
    case = next(case for case in RAW_CASES if case.name.startswith("01-"))
    async with TokenFilling("sandbox", state=state) as filling:
        filled = await filling.filled(recorded((b"POST / HTTP/1.1", case.body)))
    held = sandbox.credentials.as_dict()
    assert auth(filled) == {key: held[key] for key in auth(filled)}


async def test_a_sandbox_that_was_killed_is_told_of(sandbox: Sandbox, state: State, as_sandbox: Portal) -> None:
    await sandbox.stop()
    with pytest.raises(OutsideFailure, match="does not answer; start one with `b24tunnel sandbox`"):
        await TokenFilling("sandbox", state=state).__aenter__()


async def test_a_sandbox_that_refuses_is_told_of(sandbox: Sandbox, state: State, as_sandbox: Portal) -> None:
    sandbox.fail("app.info", Fault.error("ACCESS_DENIED", "Access denied!", 403))
    with pytest.raises(OutsideFailure, match=r"ACCESS_DENIED.*start one") as failure:
        await TokenFilling("sandbox", state=state).__aenter__()
    assert not any(secret in str(failure.value) for secret in secrets(sandbox))


async def test_the_state_is_found_where_every_command_finds_it(sandbox: Sandbox, as_sandbox: Portal) -> None:
    recording = await delivered(sandbox)
    async with TokenFilling("sandbox") as filling:
        filled = await filling.filled(recording)
    assert auth(filled)["access_token"] == sandbox.credentials.access_token

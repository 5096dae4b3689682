"""Who may deliver to a session: verdicts, installations that change the token, senders' addresses."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from raw_server import RawServer
from running_session import DEADLINE, Running, tried

from b24tunnel import form
from b24tunnel.happenings import Attempted, Installed, Recorded, Trouble
from b24tunnel.journal import Journal
from b24tunnel.portal import Portal, State
from b24tunnel.sandbox import Fault, Sandbox
from b24tunnel.session import Settings
from b24tunnel.tunnel.local import LocalTunnel

NEW_TOKEN = "a-token-that-an-installation-brought"


class Stage:
    """A sandbox, a handler, and sessions of a portal stored in a state."""

    def __init__(self, directory: Path, sandbox: Sandbox, handler: RawServer) -> None:
        self.recordings = directory / "recordings"
        self.sandbox = sandbox
        self.handler = handler
        self.state = State.open(directory / "home")
        self.known = sandbox.credentials.as_dict()
        self.portal = Portal.from_mapping("mine", self.known)
        self._all: list[Running] = []

    def start(self, **changes: Any) -> Running:
        portal = changes.pop("portal", self.portal)
        self.state.save_portal(portal)
        running = Running(
            replace(
                Settings(
                    recordings=self.recordings,
                    tunnels=tried(LocalTunnel()),
                    portal=portal,
                    state=self.state,
                    bind=False,
                    forward=self.handler.url,
                ),
                **changes,
            )
        )
        self._all.append(running)
        return running

    def installation(self, application_token: str, **auth: str) -> bytes:
        """What ONAPPINSTALL brings, as the portal would send it with this token."""
        fresh = self.sandbox.credentials
        carried = {
            "access_token": fresh.access_token,
            "refresh_token": fresh.refresh_token,
            "domain": fresh.domain,
            "client_endpoint": fresh.client_endpoint,
            "server_endpoint": fresh.server_endpoint,
            "member_id": fresh.member_id,
            "application_token": application_token,
            **auth,
        }
        return form.encode({"event": "ONAPPINSTALL", "data": {"VERSION": "1"}, "ts": "1", "auth": carried})

    async def deliver(self, running: Running, body: bytes, **headers: str) -> int:
        url = (await running.ready()).handler_url
        async with aiohttp.ClientSession() as client, client.post(url, data=body, headers=headers) as answer:
            return answer.status

    def verdicts(self) -> list[str]:
        return [recording.verdict for recording in Journal.open(self.recordings).recordings()]

    async def end_all(self) -> None:
        for running in self._all:
            running.task.cancel()
        await asyncio.gather(*(running.task for running in self._all), return_exceptions=True)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with Sandbox(delay=0) as sandbox:
        with RawServer() as handler:
            stage = Stage(tmp_path, sandbox, handler)
            yield stage
            await stage.end_all()


def event(token: str, code: str = "ONCRMDEALADD") -> bytes:
    return form.encode({"event": code, "data": {"FIELDS": {"ID": "1"}}, "auth": {"application_token": token}})


async def test_what_is_not_from_the_portal_is_recorded_refused_and_not_forwarded(stage: Stage) -> None:
    running = stage.start()
    wrong = [event("x" * 32), event(""), b"event=ONCRMDEALADD", b"anything", b"auth[application_token][]=x"]
    statuses = [await stage.deliver(running, body) for body in wrong for _ in range(20)]
    assert set(statuses) == {403}
    assert await stage.deliver(running, event(stage.known["application_token"])) == 200
    await running.until(lambda: running.of(Attempted))
    stopped = await running.stopped()
    assert stage.verdicts() == ["mismatched"] * 100 + ["verified"]
    assert stage.handler.bodies() == [event(stage.known["application_token"])]
    assert (stopped.recorded, stopped.pending) == (101, 0)
    told = [happening.message for happening in running.of(Trouble)]
    assert len(told) == 2  # once at first, and how many there were since
    assert "99 more" in told[1]


async def test_what_was_refused_is_not_handed_over_later_either(stage: Stage) -> None:
    stage.handler.close()
    running = stage.start()
    await stage.deliver(running, event("wrong"))
    await stage.deliver(running, event(stage.known["application_token"]))
    await running.until(lambda: len(running.of(Recorded)) == 2)
    await running.stopped()
    assert Journal.open(stage.recordings).pending() == ["1-2"]


async def test_as_long_as_no_token_is_known_everything_is_unverified_and_forwarded(stage: Stage) -> None:
    running = stage.start(portal=replace(stage.portal, application_token=""))
    assert await stage.deliver(running, event("whatever")) == 200
    await running.until(lambda: running.of(Attempted))
    assert stage.verdicts() == ["unverified"]


class TestInstallations:
    async def test_a_first_one_is_recorded_confirmed_and_its_token_holds_from_then_on(self, stage: Stage) -> None:
        bare = Portal("mine", stage.known["client_endpoint"], domain=stage.known["domain"])
        running = stage.start(portal=bare)
        assert await stage.deliver(running, stage.installation(NEW_TOKEN)) == 200
        [installed] = await running.until(lambda: running.of(Installed))
        assert installed == Installed("mine", "ONAPPINSTALL")
        stored = stage.state.portal("mine")
        assert (stored.application_token, stored.access_token) == (NEW_TOKEN, stage.known["access_token"])
        assert stored.refresh_token == stage.known["refresh_token"]
        assert await stage.deliver(running, event("another")) == 403
        assert await stage.deliver(running, event(NEW_TOKEN)) == 200
        await running.stopped()
        assert stage.verdicts() == ["unverified", "mismatched", "verified"]

    async def test_another_token_replaces_the_known_one_once_the_portal_has_confirmed_it(
        self, stage: Stage
    ) -> None:
        running = stage.start()
        assert await stage.deliver(running, stage.installation(NEW_TOKEN)) == 200
        await running.until(lambda: running.of(Attempted))
        assert stage.verdicts() == ["verified"]
        assert stage.state.portal("mine").application_token == NEW_TOKEN
        assert await stage.deliver(running, event(stage.known["application_token"])) == 403

    @pytest.mark.parametrize(
        "auth",
        [
            {"access_token": "f" * 70},
            {"access_token": ""},
            {"client_endpoint": "https://evil.example/rest/", "domain": "evil.example"},
            {"member_id": "0" * 32},
        ],
    )
    async def test_one_that_the_portal_does_not_confirm_changes_nothing(
        self, stage: Stage, auth: dict[str, str]
    ) -> None:
        running = stage.start()
        assert await stage.deliver(running, stage.installation(NEW_TOKEN, **auth)) == 403
        assert stage.state.portal("mine") == stage.portal
        assert await stage.deliver(running, event(NEW_TOKEN)) == 403
        assert await stage.deliver(running, event(stage.known["application_token"])) == 200
        await running.until(lambda: running.of(Attempted))
        await running.stopped()
        assert stage.handler.bodies() == [event(stage.known["application_token"])]
        assert stage.verdicts() == ["mismatched", "mismatched", "verified"]

    async def test_a_portal_that_fails_confirms_nothing(self, stage: Stage) -> None:
        running = stage.start()
        stage.sandbox.fail("app.info", Fault.http(502), times=5)
        assert await stage.deliver(running, stage.installation(NEW_TOKEN)) == 403
        assert stage.state.portal("mine") == stage.portal

    async def test_a_flood_of_claims_costs_the_portal_only_a_few_calls(self, stage: Stage) -> None:
        running = stage.start()
        await running.ready()
        claim = stage.installation(NEW_TOKEN, access_token="f" * 70)
        statuses = await asyncio.gather(*(stage.deliver(running, claim) for _ in range(30)))
        statuses += [await stage.deliver(running, claim) for _ in range(30)]
        assert set(statuses) == {403}
        assert len([call for call in stage.sandbox.calls if call.method == "app.info"]) <= 8
        assert stage.state.portal("mine") == stage.portal
        assert len(running.of(Trouble)) <= 12

    async def test_the_token_is_in_no_message(self, stage: Stage) -> None:
        running = stage.start()
        await stage.deliver(running, stage.installation(NEW_TOKEN, access_token="secret-" * 10))
        await running.stopped()
        said = " ".join(str(happening) for happening in running.of(Trouble))
        assert "ONAPPINSTALL was not believed" in said
        assert not {NEW_TOKEN, "secret-" * 10, stage.known["access_token"]} & set(said.split())

    async def test_one_is_confirmed_once(self, stage: Stage) -> None:
        running = stage.start()
        assert await stage.deliver(running, stage.installation(NEW_TOKEN)) == 200
        await running.until(lambda: running.of(Attempted))
        await running.stopped()
        assert len(running.of(Installed)) == 1
        assert [call.method for call in stage.sandbox.calls].count("app.info") == 1

    async def test_strangers_who_do_not_know_the_path_cannot_keep_a_real_one_out(self, stage: Stage) -> None:
        with RawServer() as application:
            running = stage.start(pass_through=f"http://127.0.0.1:{application.port}")
            elsewhere = (await running.ready()).handler_url.partition("/b24/")[0] + "/anywhere"
            claims = [
                stage.installation(NEW_TOKEN, access_token="f" * 70),
                stage.installation(
                    NEW_TOKEN, domain="other.example", client_endpoint="https://other.example/rest/"
                ),
            ]
            async with aiohttp.ClientSession() as client:
                for claim in claims * 10:
                    headers = {"Content-Type": "application/x-www-form-urlencoded"}
                    async with client.post(elsewhere, data=claim, headers=headers) as answer:
                        assert answer.status == 403
            assert application.requests == []
            assert await stage.deliver(running, stage.installation(NEW_TOKEN)) == 200
            assert stage.state.portal("mine").application_token == NEW_TOKEN
            await running.stopped()

    async def test_claims_that_name_another_portal_cost_nothing(self, stage: Stage) -> None:
        running = stage.start()
        for _ in range(20):
            assert await stage.deliver(running, stage.installation(NEW_TOKEN, member_id="0" * 32)) == 403
        assert [call for call in stage.sandbox.calls if call.method == "app.info"] == []
        assert await stage.deliver(running, stage.installation(NEW_TOKEN)) == 200


class TestTokens:
    async def test_one_that_another_process_has_stored_holds(self, stage: Stage) -> None:
        running = stage.start()
        await running.ready()
        stage.state.save_portal(replace(stage.portal, application_token=NEW_TOKEN))
        assert await stage.deliver(running, event(NEW_TOKEN)) == 200
        assert await stage.deliver(running, event(stage.known["application_token"])) == 403

    async def test_while_none_is_known_it_is_learned_from_an_event_that_the_portal_confirms(
        self, stage: Stage
    ) -> None:
        signed_in = replace(stage.portal, application_token="")
        running = stage.start(portal=signed_in)
        carried = {"application_token": stage.known["application_token"], "access_token": "f" * 70}
        forged = form.encode({"event": "ONCRMDEALADD", "auth": carried})
        assert await stage.deliver(running, forged) == 200
        await running.until(lambda: running.of(Trouble))
        assert stage.state.portal("mine") == signed_in
        url = (await running.ready()).handler_url
        stage.sandbox._portal.bind(stage.sandbox._portal.own, "ONCRMDEALADD", url)
        stage.sandbox.raise_event("ONCRMDEALADD", {"FIELDS": {"ID": 1}})
        await running.until(lambda: stage.state.portal("mine").application_token)
        # The acting user's tokens stay those of who signed in.
        assert stage.state.portal("mine") == stage.portal
        # It is stored a moment before the session asks for it.
        async with asyncio.timeout(DEADLINE):
            while (status := await stage.deliver(running, event("another"))) == 200:
                pass
        assert status == 403

    @pytest.mark.parametrize(
        "body",
        [
            b"event=OnAppSettingsEvil&auth[application_token]=wrong",
            b"saveform=1&auth[domain]=x&auth[application_token]=wrong",
            b"AUTH_ID=x&DOMAIN=y&APPLICATION_TOKEN=wrong",
        ],
    )
    async def test_pages_with_a_wrong_one_are_refused_too(self, stage: Stage, body: bytes) -> None:
        running = stage.start()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        assert await stage.deliver(running, body, **headers) == 403
        await running.stopped()
        assert stage.handler.requests == []

    async def test_a_page_at_the_handlers_path_has_to_prove_itself(self, stage: Stage) -> None:
        running = stage.start()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        assert await stage.deliver(running, b"AUTH_ID=x&DOMAIN=y", **headers) == 403
        proof = f"&APPLICATION_TOKEN={stage.known['application_token']}".encode()
        assert await stage.deliver(running, b"AUTH_ID=x&DOMAIN=y" + proof, **headers) == 200
        await running.until(lambda: running.of(Attempted))
        assert stage.verdicts() == ["mismatched", "verified"]

    async def test_what_is_large_and_not_from_the_portal_is_not_kept(self, stage: Stage) -> None:
        running = stage.start()
        assert await stage.deliver(running, event("wrong") + b"&x=" + b"x" * 100_000) == 403
        await running.stopped()
        assert stage.verdicts() == []

    async def test_the_action_webhook_of_a_workflow_cannot_prove_itself(self, stage: Stage) -> None:
        running = stage.start()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        body = b"document_id[]=crm&document_id[]=CCrmDocumentDeal&document_id[]=DEAL_1"
        assert await stage.deliver(running, body, **headers) == 200
        await running.until(lambda: running.of(Attempted))
        assert stage.verdicts() == ["unverified"]


class _Only:
    """Stands for the published node lists, which are on the internet."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self.asked: list[str] = []

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def admits(self, address: str) -> bool:
        self.asked.append(address)
        return address in self.addresses


class TestSenders:
    async def test_only_what_comes_from_an_admitted_address_is_taken(self, stage: Stage) -> None:
        right = event(stage.known["application_token"])
        refused = stage.start(senders=_Only("203.0.113.7"))
        assert await stage.deliver(refused, right) == 403
        # On the local address nobody stands between, who could set it truly.
        assert await stage.deliver(refused, right, **{"X-Forwarded-For": "203.0.113.7"}) == 403
        await refused.stopped()
        assert stage.verdicts() == ["mismatched", "mismatched"]
        assert stage.handler.requests == []
        taken = stage.start(senders=_Only("127.0.0.1"))
        assert await stage.deliver(taken, right) == 200
        assert await stage.deliver(taken, event("wrong")) == 403

"""A session with an application behind it: what is passed through, recorded, refused, what is not forwarded."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from raw_server import RawServer, answer_with
from running_session import Running, tried

from b24tunnel import form
from b24tunnel.errors import WrongUsage
from b24tunnel.happenings import Attempted, Installed, Recorded, Trouble
from b24tunnel.journal import Journal
from b24tunnel.portal import Portal, State
from b24tunnel.sandbox import Sandbox
from b24tunnel.session import Settings, check_no_loops
from b24tunnel.tunnel.local import LocalTunnel

PAGE = answer_with("200 OK", b"<h1>the application</h1>", "Content-Type: text/html", "X-Of-The-Application: yes")


class Stage:
    """A sandbox, an application, a handler, and a session between them."""

    def __init__(self, directory: Path, sandbox: Sandbox, application: RawServer, handler: RawServer) -> None:
        self.recordings = directory / "recordings"
        self.sandbox = sandbox
        self.application = application
        self.handler = handler
        self.state = State.open(directory / "home")
        self.portal = Portal.from_mapping("mine", sandbox.credentials.as_dict())
        self.state.save_portal(self.portal)
        self.settings = Settings(
            recordings=self.recordings,
            tunnels=tried(LocalTunnel()),
            portal=self.portal,
            state=self.state,
            bind=False,
            forward=handler.url,
            pass_through=f"http://127.0.0.1:{application.port}",
        )
        self._all: list[Running] = []

    def start(self, **changes: Any) -> Running:
        running = Running(replace(self.settings, **changes))
        self._all.append(running)
        return running

    async def url(self, running: Running, path: str) -> str:
        parts = urlsplit((await running.ready()).handler_url)
        return f"{parts.scheme}://{parts.netloc}{path}"

    def recorded(self) -> list[tuple[str, str, bool]]:
        found = Journal.open(self.recordings).recordings()
        return [(recording.type, recording.verdict, recording.passed_through) for recording in found]

    async def end_all(self) -> None:
        for running in self._all:
            running.task.cancel()
        await asyncio.gather(*(running.task for running in self._all), return_exceptions=True)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with Sandbox(delay=0) as sandbox:
        with RawServer(PAGE) as application, RawServer() as handler:
            stage = Stage(tmp_path, sandbox, application, handler)
            yield stage
            await stage.end_all()


async def post(url: str, **fields: Any) -> tuple[int, bytes]:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    async with (
        aiohttp.ClientSession() as client,
        client.post(url, data=form.encode(fields), headers=headers) as answer,
    ):
        return answer.status, await answer.read()


async def test_a_placement_is_answered_by_the_application_and_recorded_with_its_answer(stage: Stage) -> None:
    running = stage.start()
    page = await stage.sandbox.open_page(
        await stage.url(running, "/place?own=1"), placement="CRM_DEAL_DETAIL_TAB", options={"ID": 7}
    )
    assert (page.status, page.body) == (200, b"<h1>the application</h1>")
    assert dict(page.headers)["X-Of-The-Application"] == "yes"
    [attempted] = await running.until(lambda: running.of(Attempted))
    assert (attempted.attempt.status, attempted.attempt.body) == (200, b"<h1>the application</h1>")
    await running.stopped()
    assert stage.recorded() == [("placement", "verified", True)]
    assert stage.handler.requests == []
    # It was answered already, so nobody is offered it.
    assert Journal.open(stage.recordings).pending() == []


async def test_the_settings_wizard_gets_the_applications_answer(stage: Stage) -> None:
    running = stage.start()
    answer = await stage.sandbox.run_settings_wizard(await stage.url(running, "/wizard"))
    assert answer.body == b"<h1>the application</h1>"
    await running.until(lambda: running.of(Attempted))
    await running.stopped()
    assert [found[0] for found in stage.recorded()] == ["settings"]


async def test_what_is_not_bitrix24s_is_passed_through_and_not_recorded(stage: Stage) -> None:
    running = stage.start()
    assert await post(await stage.url(running, "/api"), a="1") == (200, b"<h1>the application</h1>")
    await running.stopped()
    assert stage.recorded() == []
    assert [request.body for request in stage.application.requests] == [b"a=1"]


async def test_an_event_without_the_portals_token_never_reaches_the_application(stage: Stage) -> None:
    running = stage.start()
    url = await stage.url(running, "/somewhere")
    refused = [
        await post(url, event="ONCRMDEALADD", data={"a": "1"}, auth={"application_token": "x", "domain": "d"}),
        await post(url, event="ONCRMDEALADD", data={"a": "1"}),
        await post(url, workflow_id="1", event_token="x", document_id=["crm", "a", "b"], auth={"domain": "d"}),
        await post(url, AUTH_ID="a", member_id="m", PLACEMENT="DEFAULT", APPLICATION_TOKEN="wrong"),
    ]
    assert [status for status, _ in refused] == [403] * 4
    await running.stopped()
    assert {verdict for _, verdict, _ in stage.recorded()} == {"mismatched"}
    assert stage.application.requests == []
    assert stage.handler.requests == []


async def test_an_installation_at_the_applications_own_path_is_learned_too(stage: Stage) -> None:
    bare = replace(stage.portal, access_token="", refresh_token="", application_token="")
    stage.state.save_portal(bare)
    running = stage.start(portal=bare)
    stage.sandbox.save_application(install=await stage.url(running, "/install"))
    await running.until(lambda: running.of(Installed))
    await running.until(lambda: running.of(Attempted))
    stored = stage.state.portal("mine")
    assert stored.application_token == stage.sandbox.credentials.application_token
    assert stored.access_token
    assert len(stage.application.requests) == 1


async def test_a_robot_at_the_handlers_path_is_acknowledged_and_forwarded(stage: Stage) -> None:
    running = stage.start()
    ready = await running.ready()
    auth = {"application_token": stage.portal.application_token, "domain": "d"}
    status, body = await post(
        ready.handler_url, workflow_id="1", code="r", event_token="x", document_id=["a", "b", "c"], auth=auth
    )
    assert (status, body) == (200, b"")
    await running.until(lambda: running.of(Attempted))
    assert [happening.recording.type for happening in running.of(Recorded)] == ["robot"]
    assert len(stage.handler.requests) == 1


async def test_a_page_that_is_asked_of_the_handlers_path_is_told(stage: Stage) -> None:
    running = stage.start(pass_through=None)
    page = await stage.sandbox.open_page((await running.ready()).handler_url)
    assert (page.status, page.body) == (200, b"")
    [told] = await running.until(lambda: running.of(Trouble))
    assert "start with --pass-through" in told.message


async def test_the_probe_and_the_return_are_not_the_applications(stage: Stage) -> None:
    running = stage.start()
    path = urlsplit((await running.ready()).handler_url).path
    async with aiohttp.ClientSession() as client:
        for below in ("probe/guess", "oauth?code=1&state=2", "other"):
            async with client.get(await stage.url(running, f"{path}/{below}")) as answer:
                assert answer.status == 404
    assert stage.application.requests == []


async def test_an_application_that_is_the_receiver_itself_is_refused(stage: Stage) -> None:
    running = stage.start(pass_through="http://localhost:{port}")
    with pytest.raises(WrongUsage):
        await running.task
    first = stage.start()
    port = (await first.ready()).port
    await first.stopped()
    again = stage.start(port=port, pass_through=f"http://127.0.0.1:{port}")
    with pytest.raises(WrongUsage, match="--pass-through leads to the receiver's own port"):
        await again.task


@pytest.mark.parametrize(
    "host", ["127.0.0.2", "0.0.0.0", "[::ffff:127.0.0.1]", "localhost.", "127.1", "LOCALHOST"]
)
def test_every_spelling_of_this_machine_is_seen(stage: Stage, host: str) -> None:
    settings = replace(stage.settings, forward=None, pass_through=f"http://{host}:8123/")
    check_no_loops(settings, 8124)
    with pytest.raises(WrongUsage, match="own port 8123"):
        check_no_loops(settings, 8123)


def test_the_public_address_is_no_application(stage: Stage) -> None:
    settings = replace(stage.settings, forward="https://Hooks.example.org/x")
    check_no_loops(settings, 8123, "https://other.example.org")
    with pytest.raises(WrongUsage, match="public address itself"):
        check_no_loops(settings, 8123, "https://hooks.example.org")

"""The walk over the path: each fault is produced for real, and the step that it belongs to has to be named."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from altering_way import AlteringWay, Deed, Passing, altering_way, answer, unchanged
from held_disk import Disk
from programs import free_port
from raw_server import RESET, RawServer, Request, answer_with, deliver
from receiving import receiving
from self_signed import self_signed
from tunnel_program import TunnelProgram, children
from waiting import until

from b24tunnel import form
from b24tunnel.doctor import STEPS, Plan, Result, Step, examine
from b24tunnel.errors import UserError
from b24tunnel.journal import Journal
from b24tunnel.portal import LedgerRow, Portal, RestClient, State
from b24tunnel.routes import Route
from b24tunnel.sandbox import Fault, Sandbox
from b24tunnel.tunnel.supervisor import Pace

EVENT = "ONCRMDEALADD"
PRODUCTION = "https://app.example.org/handler?key=a-secret-in-a-query"
GONE = 2**22 + 1  # above every process id


def handled(
    to_post: bytes | None = answer_with(), to_options: bytes | None = answer_with("204 No Content")
) -> Any:
    """What a handler answers."""
    return lambda request: to_options if request.line.startswith(b"OPTIONS") else to_post


class Stage:
    """All that is needed for a walk which finds nothing wrong, to be spoilt by the tests."""

    def __init__(self, directory: Path, home: Path, sandbox: Sandbox, handler: RawServer) -> None:
        self.directory = directory
        self.home = home
        self.sandbox = sandbox
        self.handler = handler
        self.state = State.open(home)
        self.portal = Portal.from_mapping("sandbox", sandbox.credentials.as_dict())
        self.state.save_portal(self.portal)
        self.plan = Plan(
            directory,
            directory / "recordings",
            events=(EVENT,),
            forward=handler.url,
            pace=Pace(settle=0.2, settle_given=0.1),
        )
        self.stack = AsyncExitStack()
        self.told: list[Step] = []

    def change(self, **changes: Any) -> None:
        self.plan = replace(self.plan, **changes)

    def change_portal(self, **changes: Any) -> None:
        self.portal = replace(self.portal, **changes)
        self.state.save_portal(self.portal)

    async def way(self, deed: Deed = unchanged, host: str = "127.0.0.1") -> AlteringWay:
        """A public address that leads to the receiver, and what is done on the way."""
        port = free_port()
        way = await self.stack.enter_async_context(altering_way(port, deed))
        self.change(tunnel="url", public_url=way.url.replace("127.0.0.1", host), port=port)
        return way

    async def server(self, handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> str:
        """A server of one's own; its address."""
        runner = web.ServerRunner(web.Server(handle), shutdown_timeout=0.1)
        await runner.setup()
        self.stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    async def bind_elsewhere(self, event: str = EVENT) -> None:
        """The application's own handler in production."""
        async with RestClient(self.portal, self.state) as client:
            await client.event_bind(event, PRODUCTION)

    async def examine(self) -> Result:
        result = await examine(self.plan, self.told.append)
        assert list(result.steps) == self.told
        return result

    async def examine_again(self) -> Result:
        self.told.clear()
        return await self.examine()

    def state_is_sound(self) -> bool:
        try:
            self.state.ledger()
        except UserError:
            return False
        return True

    def bound(self) -> list[tuple[str, str]]:
        return [(row.event, row.handler) for row in self.sandbox.bindings]

    def shown(self) -> str:
        return json.dumps([vars(step) for step in self.told])


@pytest.fixture
async def stage(tmp_path: Path, home: Path) -> AsyncIterator[Stage]:
    tasks, processes = asyncio.all_tasks(), children()
    with RawServer(handled()) as handler:
        async with Sandbox(delay=0.02) as sandbox:
            stage = Stage(tmp_path, home, sandbox, handler)
            async with stage.stack:
                yield stage
    secrets = stage.portal.secrets() + Portal.from_mapping("now", sandbox.credentials.as_dict()).secrets()
    assert not [secret for secret in secrets if secret in stage.shown()], "secrets are shown"
    assert "a-secret-in-a-query" not in stage.shown()
    assert children() <= processes
    here = asyncio.current_task()
    await until(lambda: not [task for task in asyncio.all_tasks() - tasks if task is not here and not task.done()])


Arrange = Callable[[Stage, "Around"], Awaitable[None]]


@dataclass
class Around:
    """What some faults need from pytest."""

    disk: Disk
    monkeypatch: pytest.MonkeyPatch
    program: TunnelProgram


@dataclass(frozen=True)
class Case:
    """A fault: which step has to be named, what it has to say, what to do, and the exit code."""

    arrange: Arrange
    step: str
    says: str
    advice: str
    exit_code: int
    warned: tuple[str, ...] = field(default=())


CASES: list[Case] = []


def fault(
    step: str, says: str, advice: str, exit_code: int, warned: tuple[str, ...] = ()
) -> Callable[[Arrange], Arrange]:
    """The function produces it."""

    def add(arrange: Arrange) -> Arrange:
        CASES.append(Case(arrange, step, says, advice, exit_code, warned))
        return arrange

    return add


# ---- settings


@fault("settings", r"b24tunnel.toml knows no 'tunel'", "Correct", 2)
async def an_unknown_key(stage: Stage, around: Around) -> None:
    (stage.directory / "b24tunnel.toml").write_text('tunel = "ngrok"\n')


@fault("settings", r"b24tunnel.toml is no TOML", "Correct", 2)
async def settings_that_are_no_toml(stage: Stage, around: Around) -> None:
    (stage.directory / "b24tunnel.toml").write_text("tunnel = \n")


@fault("settings", "no 'froward'", "Correct", 2)
async def what_listen_does_not_know(stage: Stage, around: Around) -> None:
    def of_listen(settings: Any) -> dict[str, Any]:
        from b24tunnel.errors import WrongUsage

        assert settings.listen["froward"].value == "http://127.0.0.1:8000"
        raise WrongUsage("[listen] knows no 'froward'.")

    (stage.directory / "b24tunnel.toml").write_text('[listen]\nfroward = "http://127.0.0.1:8000"\n')
    stage.change(of_listen=of_listen)


@fault("settings", "state.json is damaged", "repair it, or move it away", 3)
async def a_damaged_state_file(stage: Stage, around: Around) -> None:
    stage.state.path.write_text('{"version": 1, "tab')


@fault("settings", r"2 portals are stored \(sandbox, second\)", "--portal NAME", 2)
async def two_portals_and_none_named(stage: Stage, around: Around) -> None:
    stage.state.save_portal(replace(stage.portal, name="second"))


@fault("settings", "no portal 'sandbux'", "did you mean sandbox", 2)
async def an_unknown_portal(stage: Stage, around: Around) -> None:
    stage.change(portal="sandbux")


@fault("settings", "Bitrix24 has no event ONCRMDEALAD: did you mean ONCRMDEALADD", "Correct", 2)
async def an_unknown_event(stage: Stage, around: Around) -> None:
    stage.change(events=("ONCRMDEALAD",))


@fault("settings", "no tunnel provider 'ngrock'", "Correct", 2)
async def an_unknown_tunnel(stage: Stage, around: Around) -> None:
    stage.change(tunnel="ngrock")


@fault("settings", "Recordings cannot be written", "--recordings", 3)
async def a_file_in_place_of_the_recordings(stage: Stage, around: Around) -> None:
    (stage.directory / "recordings").write_text("")


@fault("settings", "Recordings cannot be written.*(No space left|full)|is full", "Make room", 3)
async def a_full_disk(stage: Stage, around: Around) -> None:
    place = stage.directory / "recordings"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(place)]
    if (
        not shutil.which("mount")
        or (await asyncio.to_thread(subprocess.run, mount, capture_output=True)).returncode
    ):
        pytest.skip("only root can mount a file system of its own")
    stage.stack.callback(subprocess.run, ["umount", "-l", str(place)], check=True, timeout=30)


# ---- handler


@fault("handler", "does not answer: Connection refused", "Start the handler", 1)
async def a_closed_port(stage: Stage, around: Around) -> None:
    stage.change(forward=f"http://127.0.0.1:{free_port()}/handler?key=a-secret-in-a-query")


@fault("handler", "no answer within 0.3 s", "busy with", 1)
async def a_handler_that_hangs(stage: Stage, around: Around) -> None:
    held = asyncio.Event()

    async def hang(request: web.BaseRequest) -> web.StreamResponse:
        await held.wait()
        return web.Response()

    stage.change(forward=await stage.server(hang), handler_seconds=0.3)
    stage.stack.callback(held.set)


@fault("handler", "TLS certificate is not trusted", "certificate that this machine trusts", 1)
async def a_handler_whose_certificate_nobody_trusts(stage: Stage, around: Around) -> None:
    context = self_signed(stage.directory)
    way = await stage.stack.enter_async_context(altering_way(free_port(), ssl_context=context))
    stage.change(forward=way.url)


@fault("handler", "what it answers is no HTTP", "does not speak HTTP", 1)
async def what_is_no_http(stage: Stage, around: Around) -> None:
    stage.handler.answer = b"SSH-2.0-OpenSSH_9.2\r\n"


@fault("handler", "connection was reset|closed before the answer", "Start the handler", 1)
async def a_handler_that_cuts_the_connection(stage: Stage, around: Around) -> None:
    stage.handler.answer = RESET


@fault("handler", "/crm does not answer: Connection refused", "Start", 1)
async def a_second_handler_that_is_away(stage: Stage, around: Around) -> None:
    stage.change(routes=(Route(("ONCRM*",), f"http://127.0.0.1:{free_port()}/crm"),))


@fault("handler", "does not answer: Connection refused", "Start", 1)
async def an_application_for_the_other_paths_that_is_away(stage: Stage, around: Around) -> None:
    stage.change(pass_through=f"http://127.0.0.1:{free_port()}")


# ---- tunnel


@fault("tunnel", "does not lead here", "Let it lead to the --port", 3)
async def an_address_that_leads_to_another_b24tunnel(stage: Stage, around: Around) -> None:
    place = await stage.stack.enter_async_context(receiving(stage.directory / "other"))
    way = await stage.way()
    way.port = place.receiver.port


@fault("tunnel", "'Visit the site\\?'", "without a page or a login", 3)
async def a_page_before_the_address(stage: Stage, around: Around) -> None:
    await stage.way(answer(200, "<title>Visit the site?</title>"))


@fault("tunnel", "redirects requests to .*a login, it seems", "without a page or a login", 3)
async def a_login_before_the_address(stage: Stage, around: Around) -> None:
    await stage.way(answer(302, Location="https://login.example.org/sign-in"))


def _program(stage: Stage, around: Around, *deeds: str) -> None:
    """A tunnel of the user's own, from the settings, whose program does this."""
    around.monkeypatch.setenv("TUNNEL_STANDIN", "\n".join(deeds))
    command = json.dumps(f"{shlex.quote(str(around.program.binary))} --port {{port}}")
    (stage.home / "settings.toml").write_text(
        f"""tunnel = "mine"\n[tunnels.mine]\ncommand = {command}\nurl = 'Forwarding (https?://\\S+)'\n"""
    )


@fault("tunnel", "exit code 3", "b24tunnel tunnels", 3)
async def a_tunnel_program_that_dies(stage: Stage, around: Around) -> None:
    _program(stage, around, "error:error: no such account", "exit:3")


@fault("tunnel", r"\(mine\) is not up within the 2 s", "b24tunnel tunnels", 3)
async def a_tunnel_program_that_says_nothing(stage: Stage, around: Around) -> None:
    _program(stage, around, "child:")
    stage.change(timeout=2.0)


@fault("tunnel", "(?i)address already in use.*choose another --port", "tunnel", 3)
async def a_port_that_is_taken(stage: Stage, around: Around) -> None:
    stage.change(port=stage.handler.port)


@fault("tunnel", "cannot reach this machine", "tunnel", 2)
async def a_portal_on_the_internet_and_no_tunnel(stage: Stage, around: Around) -> None:
    stage.change_portal(client_endpoint="https://example.bitrix24.com/rest/", domain="example.bitrix24.com")
    stage.change(tunnel="local")


# ---- portal


@fault("portal", "No portal is stored", "b24tunnel portal add", 2)
async def no_portal(stage: Stage, around: Around) -> None:
    stage.state.remove_portal("sandbox")


@fault("portal", "cannot be reached at 127.0.0.1:.*Connection refused", "b24tunnel sandbox", 3)
async def a_portal_that_is_away(stage: Stage, around: Around) -> None:
    await stage.sandbox.stop()


@fault("portal", "not the REST interface's", "check client_endpoint", 3)
async def a_portal_that_answers_a_web_page(stage: Stage, around: Around) -> None:
    async def page(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text="<title>Portal is closed</title>", content_type="text/html")

    stage.change_portal(client_endpoint=f"{await stage.server(page)}/rest/")


@fault("portal", "leads elsewhere", "new address", 3)
async def a_portal_that_redirects(stage: Stage, around: Around) -> None:
    async def redirect(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": "https://new.example.org/"})

    stage.change_portal(client_endpoint=f"{await stage.server(redirect)}/rest/")


@fault("portal", "TLS certificate is not trusted", "SSL_CERT_FILE", 3)
async def a_portal_whose_certificate_nobody_trusts(stage: Stage, around: Around) -> None:
    context = self_signed(stage.directory)
    way = await stage.stack.enter_async_context(altering_way(free_port(), ssl_context=context))
    stage.change_portal(client_endpoint=f"{way.url}/rest/")


@fault("portal", "HTTP 502", "try again in a minute", 3)
async def a_portal_that_is_being_maintained(stage: Stage, around: Around) -> None:
    stage.sandbox.fail("*", Fault.http(502))


@fault("portal", "no answer within 0.3 s", "Check the network", 3)
async def a_portal_that_hangs(stage: Stage, around: Around) -> None:
    stage.sandbox.fail("*", Fault.hang())
    stage.change(portal_seconds=0.3)


# ---- token


@fault("token", "invalid_grant", "b24tunnel portal login sandbox", 1)
async def an_expired_token_whose_refresh_is_refused(stage: Stage, around: Around) -> None:
    stage.sandbox.expire_access_token()
    stage.change_portal(refresh_token="spent-a-long-time-ago")


@fault("token", "NO_AUTH_FOUND", "b24tunnel portal login sandbox", 1)
async def a_token_that_the_portal_does_not_know(stage: Stage, around: Around) -> None:
    stage.change_portal(access_token="of-another-portal")


@fault("token", "invalid_client", "application's page", 1)
async def a_wrong_client_secret(stage: Stage, around: Around) -> None:
    stage.sandbox.expire_access_token()
    stage.change_portal(client_secret="of-another-application")


@fault("token", "PAYMENT_REQUIRED", "renew it on the portal", 1)
async def a_subscription_that_has_ended(stage: Stage, around: Around) -> None:
    stage.sandbox.expire_access_token()
    stage.sandbox.fail("oauth/token", Fault.error("PAYMENT_REQUIRED", status=402))


@fault("token", "refresh_token, client_id, client_secret or server_endpoint is not stored", "portal login", 1)
async def an_expired_token_that_cannot_be_renewed(stage: Stage, around: Around) -> None:
    stage.sandbox.expire_access_token()
    stage.change_portal(refresh_token="")


@fault("token", "Nobody has signed in", "b24tunnel portal login sandbox", 1)
async def an_application_that_nobody_has_signed_in_to(stage: Stage, around: Around) -> None:
    stage.change_portal(access_token="", refresh_token="")


@fault("token", "user_access_error", "give the user access", 1)
async def a_user_without_access_to_the_application(stage: Stage, around: Around) -> None:
    stage.sandbox.fail("app.info", Fault.error("user_access_error", status=403))


@fault("token", "HTTP 502", "try again in a minute", 3)
async def a_portal_that_fails_after_its_first_answer(stage: Stage, around: Around) -> None:
    stage.sandbox.fail("profile", Fault.http(502))


# ---- installation


@fault("installation", "installation is not finished.*delivers nothing", "BX24.installFinish.*save it again", 1)
async def an_installation_that_is_not_finished(stage: Stage, around: Around) -> None:
    stage.sandbox.installed = False


def _result(value: Any) -> Fault:
    return Fault.http(200, json.dumps({"result": value}).encode(), "application/json")


@fault("installation", "PAYMENT_EXPIRED", "Renew it", 1)
async def an_application_that_is_not_paid_for(stage: Stage, around: Around) -> None:
    stage.sandbox.fail("app.info", _result({"INSTALLED": True, "STATUS": "P", "PAYMENT_EXPIRED": "Y"}))


# ---- scopes


@fault("scopes", f"lacks the scope crm for {EVENT}", "application's settings on the portal", 1)
async def a_scope_that_is_missing(stage: Stage, around: Around) -> None:
    stage.sandbox.fail("scope", _result(["task", "user"]))
    stage.sandbox.fail("events", _result(["ONAPPTEST"]))


@fault("scopes", f"does not know {EVENT}", "bring the portal up to date", 1)
async def an_event_that_an_older_portal_does_not_have(stage: Stage, around: Around) -> None:
    stage.sandbox.fail("events", _result(["ONAPPTEST"]))


# ---- administrator


@fault("administrator", "no administrator", "do without --catch-up", 1)
async def no_administrator_where_offline_events_are_wanted(stage: Stage, around: Around) -> None:
    stage.sandbox.fail("profile", _result({"ID": "7", "ADMIN": False}))
    stage.change(catch_up=True)


# ---- bindings


@fault("bindings", "has no dot", "the tunnel's public address", 2)
async def an_address_without_a_dot(stage: Stage, around: Around) -> None:
    await stage.way(host="localhost")


@fault("bindings", "Bitrix24 stores 255", "shorter path or another tunnel", 2, warned=("tunnel",))
async def an_address_that_is_too_long(stage: Stage, around: Around) -> None:
    stage.change(tunnel="url", public_url=f"http://hooks.example.org/{'x' * 240}", probe=False)


@fault("bindings", "ACCESS_DENIED", "administrator", 1)
async def a_list_of_handlers_that_is_refused(stage: Stage, around: Around) -> None:
    stage.sandbox.fail("event.get", Fault.error("ACCESS_DENIED", status=403))


# ---- delivery


@fault("delivery", "ERROR_CORE", "its own words", 1)
async def a_binding_that_is_refused(stage: Stage, around: Around) -> None:
    stage.sandbox.fail("event.bind", Fault.error("ERROR_CORE", "Process of binding has already started"))


@fault("delivery", "WRONG_AUTH_TYPE", "local application", 1)
async def a_test_that_is_refused(stage: Stage, around: Around) -> None:
    stage.sandbox.fail("event.test", Fault.error("WRONG_AUTH_TYPE", status=403))


def swallowing(passing: Passing) -> Passing | web.Response:
    """Probes pass, deliveries do not."""
    return passing if b"probe.invalid" in passing.body else web.Response()


@fault("delivery", "has not arrived within 0.3 s", "firewall", 3)
async def a_delivery_that_never_arrives(stage: Stage, around: Around) -> None:
    await stage.way(swallowing)
    stage.change(delivery_seconds=0.3)


@fault("delivery", "has not arrived within 0.3 s", "firewall", 3)
async def only_what_another_walk_has_asked_for(stage: Stage, around: Around) -> None:
    def another_nonce(passing: Passing) -> Passing:
        if b"probe.invalid" in passing.body:
            return passing
        fields = form.parse(passing.body)
        assert isinstance(fields, dict)
        fields["data"]["QUERY"]["nonce"] = "0" * 32  # type: ignore[index,call-overload]
        return replace(passing, body=form.encode(fields))

    await stage.way(another_nonce)
    stage.change(delivery_seconds=0.3)


@fault("delivery", "was not recorded. Meanwhile: .*No space left on device", "Make room", 3)
async def a_disk_that_is_full_when_it_arrives(stage: Stage, around: Around) -> None:
    event_test = RestClient.event_test

    async def full_by_then(self: RestClient, *arguments: Any) -> None:
        around.disk.failures = [OSError(28, "No space left on device")]
        await event_test(self, *arguments)

    around.monkeypatch.setattr(RestClient, "event_test", full_by_then)


@fault("delivery", "the handler http://127.0.0.1:[0-9]+/handler answered 500", "b24tunnel replay 1-1 --to", 1)
async def a_handler_that_fails(stage: Stage, around: Around) -> None:
    stage.handler.answer = handled(answer_with("500 Internal Server Error"))


@fault("delivery", "answered 500", "own log", 1, warned=("handler",))
async def a_handler_that_fails_at_everything(stage: Stage, around: Around) -> None:
    stage.handler.answer = answer_with("500 Internal Server Error")


@fault("delivery", r"did not answer \(timed out: no whole answer within 1 s\)", "own log", 1)
async def a_handler_that_is_too_slow(stage: Stage, around: Around) -> None:
    held = asyncio.Event()

    async def slow(request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "POST":
            await held.wait()
        return web.Response()

    stage.change(forward=await stage.server(slow), handler_seconds=1.0)
    stage.stack.callback(held.set)


@fault("delivery", r"did not answer \(connection reset", "own log", 1)
async def a_handler_that_crashes(stage: Stage, around: Around) -> None:
    stage.handler.answer = handled(RESET)


@fault("delivery", r"did not answer \(cannot connect", "own log", 1)
async def a_handler_that_has_gone_away_meanwhile(stage: Stage, around: Around) -> None:
    def last_answer(request: Request) -> bytes:
        stage.handler._socket.shutdown(socket.SHUT_RDWR)
        return answer_with()

    stage.handler.answer = last_answer


@fault("delivery", "/second answered 500", "/second", 1)
async def a_second_handler_that_fails(stage: Stage, around: Around) -> None:
    second = stage.stack.enter_context(RawServer(handled(answer_with("500 Internal Server Error"))))
    stage.change(routes=(Route(("ONAPP*",), second.url.replace("/handler", "/second")),))


@fault("delivery", "another application_token", "application's page", 1)
async def another_application_token_than_the_stored_one(stage: Stage, around: Around) -> None:
    stage.change_portal(application_token="of-another-application")


def test_there_is_a_fault_for_every_step() -> None:
    assert {case.step for case in CASES} == set(STEPS)


@pytest.fixture
def around(disk: Disk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    program = TunnelProgram(tmp_path / "program", "standin", "tunnel_standin.py", "TUNNEL_STANDIN_NOTES")
    for name, value in program.environment.items():
        monkeypatch.setenv(name, value)
    yield Around(disk, monkeypatch, program)
    program.assert_nothing_is_left()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.step}-{case.arrange.__name__}")
async def test_the_step_that_is_wrong_is_named_and_none_is_walked_after_it(
    stage: Stage, around: Around, case: Case
) -> None:
    await case.arrange(stage, around)
    result = await stage.examine()
    assert result.failed is not None, stage.told
    assert (result.failed.name, result.exit_code) == (case.step, case.exit_code), stage.told
    assert [step.name for step in result.steps] == list(STEPS[: STEPS.index(case.step) + 1])
    expected = ["warning" if step.name in case.warned else "ok" for step in result.steps[:-1]]
    assert [step.state for step in result.steps[:-1]] == expected, stage.told
    assert re.search(case.says, result.failed.message), result.failed
    assert re.search(case.advice, result.failed.advice), result.failed
    assert stage.bound() == []
    assert not stage.state_is_sound() or stage.state.ledger() == []
    for text in (result.failed.message, result.failed.advice):
        assert re.fullmatch(r"[^\n]+", text)


# ---- what is no failure


async def test_where_all_is_well_each_leg_is_told(stage: Stage) -> None:
    result = await stage.examine()
    assert [(step.name, step.state) for step in result.steps] == [(name, "ok") for name in STEPS]
    assert (result.ok, result.exit_code) == (True, 0)
    [recording] = Journal.open(stage.directory / "recordings").recordings()
    assert recording.code == "ONAPPTEST"
    legs = (
        r"came \d+ ms after event.test was called, was on disk \d+ ms later as 1-1, and the handler \S+ answered"
    )
    assert re.search(legs, result.steps[-1].message)
    assert [request.line.split()[0] for request in stage.handler.requests] == [b"OPTIONS", b"POST"]
    assert stage.handler.requests[1].body == recording.body
    assert (stage.bound(), stage.state.ledger()) == ([], [])


async def warned(stage: Stage, step: str) -> Step:
    """The one step that warns, in a walk that ends well."""
    result = await stage.examine()
    assert result.ok, stage.told
    assert [found.name for found in result.steps if found.state == "warning"] == [step], stage.told
    return next(found for found in result.steps if found.name == step)


async def test_another_handler_of_the_same_event_is_told_without_its_query_and_stays(stage: Stage) -> None:
    await stage.bind_elsewhere()
    found = await warned(stage, "bindings")
    assert f"{EVENT} also goes to https://app.example.org/handler:" in found.message
    assert stage.bound() == [(EVENT, PRODUCTION)]


async def test_a_handler_of_another_event_is_none_in_the_way(stage: Stage) -> None:
    await stage.bind_elsewhere("ONCRMLEADADD")
    result = await stage.examine()
    assert {step.state for step in result.steps} == {"ok"}


async def test_what_a_crashed_run_has_left_is_told_with_the_command_and_left_alone(stage: Stage) -> None:
    left = "http://127.0.0.1:9/b24/left"
    async with RestClient(stage.portal, stage.state) as client:
        await client.event_bind(EVENT, left)
    row = LedgerRow("sandbox", EVENT, left, "listen-1", GONE, "gone", "2026-11-25T00:00:00Z", "bound")
    stage.state.put_row(row)
    found = await warned(stage, "bindings")
    assert "1 binding left behind" in found.message
    assert "b24tunnel bindings clean" in found.advice
    assert stage.bound() == [(EVENT, left)]
    assert stage.state.ledger() == [row]


async def test_who_is_no_administrator_is_told_what_follows_and_goes_on(stage: Stage) -> None:
    stage.sandbox.fail("profile", _result({"ID": "7", "ADMIN": False}))
    found = await warned(stage, "administrator")
    assert "offline events (--catch-up) are refused" in found.message


async def test_a_portal_with_a_user_who_is_no_administrator_goes_through(stage: Stage) -> None:
    async with Sandbox(delay=0.02, admin=False) as sandbox:
        stage.state.save_portal(Portal.from_mapping("sandbox", sandbox.credentials.as_dict()))
        assert (await warned(stage, "administrator")).advice
        assert sandbox.bindings == []


async def test_a_missing_scope_of_a_real_application(stage: Stage) -> None:
    async with Sandbox(delay=0.02, scopes=("task",)) as sandbox:
        stage.state.save_portal(Portal.from_mapping("sandbox", sandbox.credentials.as_dict()))
        stage.change(events=("ONTASKADD", EVENT, "ONCRMDYNAMICITEMADD_128", "ONAPPTEST"))
        result = await stage.examine()
    assert result.failed is not None
    assert result.failed.name == "scopes"
    assert f"lacks the scope crm for {EVENT}, ONCRMDYNAMICITEMADD_128." in result.failed.message


async def test_no_token_is_sent_before_it_is_seen_that_a_portal_answers(stage: Stage) -> None:
    page = answer_with("200 OK", b"<title>A router</title>", "Content-Type: text/html")
    with RawServer(page) as router:
        stage.change_portal(client_endpoint=router.url.replace("/handler", "/rest/"))
        result = await stage.examine()
    assert result.failed is not None
    assert result.failed.name == "portal"
    [request] = router.requests
    sent = request.head + request.body
    assert not [secret for secret in stage.portal.secrets() if secret.encode() in sent]


async def test_a_member_of_a_family_is_covered_by_its_scope(stage: Stage) -> None:
    stage.change(events=("ONCRMDYNAMICITEMADD_128",))
    assert (await stage.examine()).ok


async def test_a_token_that_had_to_be_renewed_is_told_and_stored(stage: Stage) -> None:
    stage.sandbox.expire_access_token()
    result = await stage.examine()
    assert result.ok
    assert "had expired and was renewed" in result.steps[STEPS.index("token")].message
    assert stage.state.portal("sandbox").access_token == stage.sandbox.credentials.access_token


@pytest.mark.parametrize(
    ("status", "hint"),
    [("404 Not Found", "path is another"), ("302 Found", "redirect"), ("401 Unauthorized", "signed in")],
)
async def test_what_a_handler_answers_to_options_is_a_hint_only(stage: Stage, status: str, hint: str) -> None:
    stage.handler.answer = handled(to_options=answer_with(status))
    assert hint in (await warned(stage, "handler")).advice


async def test_a_handler_that_knows_no_options_is_a_good_one(stage: Stage) -> None:
    stage.handler.answer = handled(to_options=answer_with("405 Method Not Allowed"))
    result = await stage.examine()
    assert {step.state for step in result.steps} == {"ok"}
    assert "answers 405 to OPTIONS" in result.steps[1].message


async def test_without_a_handler_it_is_only_recorded(stage: Stage) -> None:
    stage.change(forward=None)
    result = await stage.examine()
    assert result.ok
    assert result.steps[1].state == "skipped"
    assert "was on disk" in result.steps[-1].message
    assert stage.handler.requests == []


async def test_every_route_that_takes_the_test_event_has_to_answer(stage: Stage) -> None:
    with RawServer(handled()) as second, RawServer(handled()) as other:
        stage.change(forward=None, routes=(Route(("ONAPP*",), second.url), Route(("ONCRM*",), other.url)))
        result = await stage.examine()
        assert result.ok, stage.told
        assert second.url in result.steps[-1].message
        assert [len(server.requests) for server in (second, other)] == [2, 1]
        stage.change(routes=(Route(("ONCRM*",), other.url),))
        result = await stage.examine_again()
        assert "no route takes ONAPPTEST" in result.steps[-1].message


async def test_what_strangers_send_meanwhile_does_not_matter(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    forged = b"event=ONAPPTEST&auth%5Bapplication_token%5D=guessed"
    event_test = RestClient.event_test

    async def with_strangers(self: RestClient, *arguments: Any) -> None:
        [(_, handler)] = stage.bound()
        assert (await asyncio.to_thread(deliver, handler, forged)).status == 403
        await event_test(self, *arguments)

    monkeypatch.setattr(RestClient, "event_test", with_strangers)
    assert (await stage.examine()).ok, stage.told


async def test_without_a_known_application_token_the_origin_is_not_proved(stage: Stage) -> None:
    stage.change_portal(application_token="")
    assert "application_token" in (await warned(stage, "delivery")).advice


@pytest.mark.parametrize("kind", ["", "webhook"])
async def test_an_outgoing_webhook_ends_well_with_how_to_try_it(stage: Stage, kind: Any) -> None:
    stage.state.save_portal(
        Portal("sandbox", client_endpoint=stage.portal.client_endpoint, application_token="t" * 32, kind=kind)
    )
    result = await stage.examine()
    assert result.ok
    assert [step.state for step in result.steps] == ["ok"] * 4 + ["skipped"] * 6
    assert "change an object" in result.steps[-1].advice
    assert "b24tunnel listen --no-bind" in result.steps[-1].advice


async def test_an_address_that_is_not_to_be_probed_is_warned_of_and_proved_by_the_test_event(stage: Stage) -> None:
    await stage.way()
    stage.change(probe=False)
    assert "--no-probe" in (await warned(stage, "tunnel")).advice


async def test_what_the_settings_say_of_listen_stands_in_for_what_is_not_given(stage: Stage) -> None:
    way = await stage.way()
    settled = {
        "events": ("ONCRMLEADADD",),
        "portal": "sandbox",
        "forward": stage.handler.url,
        "recordings": str(stage.directory / "elsewhere"),
        "public_url": way.url,
        "port": way.port,
    }
    stage.state.save_portal(replace(stage.portal, name="second"))
    stage.change(
        recordings=None,
        events=(),
        forward=None,
        tunnel=None,
        public_url=None,
        port=None,
        of_listen=lambda settings: settled,
    )
    (stage.home / "settings.toml").write_text("")
    result = await stage.examine()
    assert result.ok, stage.told
    assert "scopes cover ONCRMLEADADD" in result.steps[STEPS.index("scopes")].message
    assert way.url in result.steps[STEPS.index("tunnel")].message
    assert len(list(Journal.open(stage.directory / "elsewhere").recordings())) == 1
    stage.change(tunnel="local")  # the files' address belongs to another one
    result = await stage.examine_again()
    assert "local gives http://127.0.0.1" in result.steps[STEPS.index("tunnel")].message


# ---- however it ends


async def test_what_cannot_be_unbound_is_said_with_the_command(stage: Stage) -> None:
    stage.sandbox.fail("event.unbind", Fault.http(502))
    result = await stage.examine()
    assert result.failed is not None
    assert (result.failed.name, result.exit_code) == ("delivery", 3)
    assert "may still be bound" in result.failed.message
    assert "answered 200" in result.failed.message
    assert "b24tunnel bindings clean" in result.failed.advice
    [(event, handler)] = stage.bound()
    assert [(row.event, row.handler) for row in stage.state.ledger()] == [(event, handler)]


async def _walking(stage: Stage) -> asyncio.Task[Result]:
    """A walk that waits for its delivery in vain, with the binding made."""
    await stage.way(swallowing)
    walking = asyncio.create_task(examine(stage.plan, stage.told.append))
    await until(lambda: any(call.method == "event.test" for call in stage.sandbox.calls))
    assert [event for event, _ in stage.bound()] == ["ONAPPTEST"]
    return walking


@pytest.mark.parametrize("times", [1, 3])
async def test_cancelled_while_it_waits_it_unbinds_and_closes_all(stage: Stage, times: int) -> None:
    walking = await _walking(stage)
    for _ in range(times):
        walking.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await walking
    assert (stage.bound(), stage.state.ledger()) == ([], [])
    assert [step.name for step in stage.told] == list(STEPS[:-1])


async def test_cancelled_where_it_cannot_unbind_it_says_so(stage: Stage) -> None:
    walking = await _walking(stage)
    stage.sandbox.fail("event.unbind", Fault.http(502))
    walking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await walking
    assert "may still be bound" in stage.told[-1].message
    assert "b24tunnel bindings clean" in stage.told[-1].advice


async def test_the_time_for_the_whole_ends_it_with_what_it_waited_for_and_nothing_bound(stage: Stage) -> None:
    await stage.way(swallowing)
    stage.change(timeout=3.0)
    result = await stage.examine()
    assert result.failed is not None
    assert (result.failed.name, result.exit_code) == ("delivery", 3)
    assert "has not arrived" in result.failed.message
    assert (stage.bound(), stage.state.ledger()) == ([], [])


@pytest.mark.parametrize("name", STEPS)
async def test_who_cannot_be_told_a_step_leaves_nothing_behind(stage: Stage, name: str) -> None:
    def tell(step: Step) -> None:
        if step.name == name:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        await examine(stage.plan, tell)
    assert (stage.bound(), stage.state.ledger()) == ([], [])


def test_importing_the_walk_is_not_needed_for_the_commands_help() -> None:
    command = "import sys, b24tunnel.cli.doctor; print({'aiohttp', 'tinydb'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "set()\n"

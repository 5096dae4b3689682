"""Bad input and a bad world: one plain sentence, the right exit code, nothing half-bound, no secret shown."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click
import pytest
from click.testing import CliRunner
from programs import DEADLINE, Program, Programs, wait_until
from raw_cases import RAW_CASES
from raw_server import RawServer, answer_with, deliver, delivery, exchange
from rest_call import rest

from b24tunnel import Journal
from b24tunnel.cli import cli
from b24tunnel.portal import Portal, State
from b24tunnel.sandbox import Sandbox

_T = TypeVar("_T")

NO_BIND = ("listen", "--no-bind", "--tunnel", "local", "--output", "json")
# The real delivery among those in tests/cases/ that has an access, a refresh and an application token.
WITH_ALL = "ONOFFLINEEVENT"
SECRETS = ("access_token", "refresh_token", "client_secret", "application_token")


def output(program: Program) -> str:
    return "".join(program.lines) + "".join(program.errors)


def assert_refused(program: Program, code: int, *words: str) -> None:
    """It ended with this exit code and a sentence that holds these words, and no traceback."""
    assert program.wait() == code, str(program)
    said = "".join(program.errors)
    assert said.splitlines()[-1].startswith("Error: "), str(program)
    for word in words:
        assert word in said
    assert "Traceback" not in output(program)


class SandboxThread:
    """A sandbox in a loop of its own thread."""

    def __init__(self, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._options = options

    def __enter__(self) -> SandboxThread:
        async def start() -> Sandbox:
            sandbox = Sandbox(delay=0, **self._options)
            await sandbox.start()
            return sandbox

        self._sandbox = asyncio.run_coroutine_threadsafe(start(), self._loop).result(DEADLINE)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._sandbox.stop(), self._loop).result(DEADLINE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE)
        self._loop.close()

    def ask(self, question: Callable[[Sandbox], _T]) -> _T:
        """What ``question`` answers when it is called in the sandbox's own loop."""

        async def answer() -> _T:
            return question(self._sandbox)

        return asyncio.run_coroutine_threadsafe(answer(), self._loop).result(DEADLINE)

    def portal(self, name: str = "sandbox", **changed: str) -> Portal:
        """Its credentials as they are stored, some of them changed."""
        credentials = self.ask(lambda sandbox: sandbox.credentials.as_dict())
        return Portal.from_mapping(name, {**credentials, **changed})


@pytest.fixture
def sandbox() -> Iterator[SandboxThread]:
    with SandboxThread() as running:
        yield running


# ---- wrong usage


def test_an_unknown_event_is_answered_with_a_suggestion(programs: Programs) -> None:
    ran = programs.b24tunnel("listen", "ONCRMDEALUPDAT", "--portal", "sandbox")
    assert_refused(ran, 2, "ONCRMDEALUPDAT", "ONCRMDEALUPDATE")


def test_an_unknown_portal_is_answered_with_the_known_ones(programs: Programs, sandbox: SandboxThread) -> None:
    State.open().save_portal(sandbox.portal("customer"))
    ran = programs.b24tunnel("listen", "ONCRMDEALUPDATE", "--portal", "custmer")
    assert_refused(ran, 2, "custmer", "customer")
    assert sandbox.ask(lambda portal: portal.calls) == []


def test_no_portal_at_all_is_answered_with_what_to_do(programs: Programs) -> None:
    assert_refused(programs.b24tunnel("listen", "ONCRMDEALUPDATE"), 2, "b24tunnel sandbox", "--no-bind")


@pytest.mark.parametrize("url", ["nonsense", "ftp://127.0.0.1/handler", "http://", "http://127.0.0.1:99999/"])
def test_an_address_that_is_no_handlers_is_refused_and_nothing_is_bound(
    programs: Programs, sandbox: SandboxThread, url: str
) -> None:
    State.open().save_portal(sandbox.portal())
    ran = programs.b24tunnel("listen", "ONCRMDEALUPDATE", "--portal", "sandbox", "--forward", url)
    assert_refused(ran, 2, url)
    assert sandbox.ask(lambda portal: portal.calls) == []
    assert not (programs.directory / "recordings").exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("show", "1-1"), "1-1"),
        (("show", "last"), "last"),
        (("list", "nothing-like-it"), "nothing-like-it"),
        (("replay", "last", "--to", "http://127.0.0.1:9/"), "last"),
        (("events", "ONCRMDEELADD"), "ONCRMDEALADD"),
        (("sandbox", "call", "profile", "no-equals-sign"), "no-equals-sign"),
        (("sandbox", "call", "profile", "--name", "absent"), "absent"),
        ((*NO_BIND, "--tunnel", "ngrokk"), "ngrokk"),
        ((*NO_BIND, "--tunnel", "url"), "--public-url"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_cannot_be_found_or_understood_is_wrong_usage(
    programs: Programs, arguments: tuple[str, ...], word: str
) -> None:
    assert_refused(programs.b24tunnel(*arguments), 2, word)


# ---- the outside world


def test_a_portal_that_is_gone_is_named_with_its_address(programs: Programs) -> None:
    with SandboxThread() as stopped:
        portal = stopped.portal()
    State.open().save_portal(portal)
    ran = programs.b24tunnel("listen", "ONCRMDEALUPDATE", "--portal", "sandbox")
    assert_refused(ran, 3, portal.domain, "check the network")
    assert State.open().ledger() == []


@pytest.mark.parametrize(
    ("wrong", "expired", "code"),
    [
        ({"access_token": "wrong-access", "refresh_token": "wrong-refresh"}, False, "NO_AUTH_FOUND"),
        ({"refresh_token": "wrong-refresh"}, True, "invalid_grant"),
        ({"client_secret": "wrong-secret"}, True, "invalid_client"),
    ],
    ids=["unknown-token", "spent-refresh-token", "wrong-client-secret"],
)
def test_a_wrong_token_is_answered_with_the_portals_code_and_what_it_means(
    programs: Programs, sandbox: SandboxThread, wrong: dict[str, str], expired: bool, code: str
) -> None:
    State.open().save_portal(sandbox.portal(**wrong))
    if expired:
        sandbox.ask(lambda portal: portal.expire_access_token())
    ran = programs.b24tunnel("listen", "ONCRMDEALUPDATE", "--portal", "sandbox")
    assert_refused(ran, 3, code)
    assert not any(value in output(ran) for value in wrong.values())
    assert sandbox.ask(lambda portal: portal.bindings) == []
    assert State.open().ledger() == []


def test_a_missing_scope_is_explained_and_leaves_nothing_half_bound(programs: Programs) -> None:
    with SandboxThread(scopes=("task",)) as sandbox:
        State.open().save_portal(sandbox.portal())
        ran = programs.b24tunnel("listen", "ONTASKADD", "ONCRMDEALUPDATE", "--portal", "sandbox")
        assert_refused(ran, 3, "ONCRMDEALUPDATE", "ERROR_EVENT_NOT_FOUND", "scope")
        calls = [(call.method, call.params.get("event"), call.error) for call in sandbox.ask(lambda p: p.calls)]
        assert ("event.bind", "ONTASKADD", None) in calls, "the first was bound"
        assert sandbox.ask(lambda portal: portal.bindings) == []
    assert State.open().ledger() == []


def test_a_taken_port_is_named(programs: Programs) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert_refused(programs.b24tunnel(*NO_BIND, "--port", port), 3, port, "--port")
        assert_refused(programs.b24tunnel("sandbox", "--port", port), 3, port)
    assert State.open().portals() == []


@pytest.mark.parametrize(
    "arguments", [NO_BIND, ("list",), ("show", "last"), ("follow",)], ids=lambda value: value[0]
)
def test_a_recordings_directory_that_cannot_be_one_is_named(
    programs: Programs, arguments: tuple[str, ...]
) -> None:
    (programs.directory / "file").write_text("")
    below = Path("file") / "recordings"
    assert_refused(programs.b24tunnel(*arguments, "--recordings", str(below)), 3, str(below))


@pytest.mark.parametrize(
    "noise",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n",
        b"GET /b24/x?auth%5Baccess_token%5D=s3cr3t-token&name=\xd0\xaf HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /b24/x HTTP/1.1\r\nContent-Length: -1\r\nX-Auth-Token: s3cr3t-token\r\n\r\n",
    ],
    ids=["tls", "bytes-in-the-query", "impossible-length"],
)
def test_noise_on_the_public_port_makes_no_traceback_and_shows_no_token(programs: Programs, noise: bytes) -> None:
    listen = programs.b24tunnel(*NO_BIND)
    address = listen.next_json("ready")["handler_url"]
    assert exchange(address, noise).status == 400
    assert deliver(address, b"event=ONCRMDEALADD").status == 200
    assert listen.stop() == 0
    assert "Traceback" not in output(listen)
    assert "s3cr3t-token" not in output(listen)


# ---- secrets


def tokens(value: Any, name: str = "") -> set[str]:
    """Every value in a parsed body whose name is that of a secret."""
    if isinstance(value, dict):
        return set().union(*(tokens(item, key) for key, item in value.items()))
    if isinstance(value, list):
        return set().union(*(tokens(item, name) for item in value))
    return {value} if name.lower() in (*SECRETS, "auth_id", "refresh_id") and value else set()


def secrets_of(credentials: dict[str, Any], programs: Programs) -> set[str]:
    """What the application holds, and what came with each delivery."""
    found = {credentials[name] for name in SECRETS}
    for recording in Journal.open(programs.directory / "recordings").recordings():
        found |= tokens(recording.event.fields)
    assert len(found) > len(SECRETS)
    return found


def assert_none_of(secrets: set[str], *told: Program) -> None:
    for program in told:
        assert not [secret for secret in secrets if secret in output(program)], str(program)
        assert "Traceback" not in output(program)


@pytest.fixture
def echo() -> Iterator[RawServer]:
    """A handler that answers with everything that it was sent, as debug pages do."""
    with RawServer(lambda request: answer_with("500 Oops", request.head + b"\n\n" + request.body)) as server:
        yield server


def bound() -> bool:
    return [row.state for row in State.open().ledger()] == ["bound"]


@pytest.mark.parametrize("way", ["rich", "plain", "json", "quiet"])
def test_listen_shows_no_secret_in_whatever_way_it_shows(programs: Programs, echo: RawServer, way: str) -> None:
    credentials = programs.b24tunnel("sandbox", "--port", "0", "--delay", "0", "--json").next_json()
    listen = programs.b24tunnel(
        *("listen", "ONCRMDEALADD", "--portal", "sandbox", "--forward", echo.url, "--output", way)
    )
    wait_until(bound, "the event is bound")
    rest(credentials, "crm.deal.add", fields={"TITLE": "First"})
    echo.wait_for(1)
    assert listen.stop() == 0
    assert len(listen.lines) == 0 if way == "quiet" else "ONCRMDEALADD" in output(listen)
    assert_none_of(secrets_of(credentials, programs), listen)


def test_no_command_shows_a_secret_and_show_reveals_it_when_asked(programs: Programs, echo: RawServer) -> None:
    credentials = programs.b24tunnel("sandbox", "--port", "0", "--delay", "0", "--json").next_json()
    # As long as none is known, nothing can be held against the deliveries of other portals that come first.
    State.open().save_portal(replace(State.open().portal("sandbox"), application_token=""))
    listen = programs.b24tunnel(
        *("listen", "ONCRMDEALADD", "--portal", "sandbox", "--forward", echo.url, "--output", "json")
    )
    listen.next_json("ready")
    followers = [programs.b24tunnel("follow"), programs.b24tunnel("follow", "--json")]

    address = State.open().ledger()[0].handler

    def all_follow() -> bool:
        assert deliver(address, RAW_CASES[0].body).status == 200
        listen.next_json("attempt")
        return all(len(follower.lines) >= 2 for follower in followers)

    wait_until(all_follow, "both follow")
    last = [deliver(address, case.body) for case in RAW_CASES][-1]
    assert last.status == 200
    echo.wait_for(len(list(Journal.open(programs.directory / "recordings").recordings())))
    before = len(echo.requests)
    rest(credentials, "crm.deal.add", fields={"TITLE": "One more"})
    wait_until(lambda: len(echo.requests) > before, "the deal's event is forwarded")
    count = len(list(Journal.open(programs.directory / "recordings").recordings()))
    echo.wait_for(count)
    for follower in followers:
        wait_until(lambda told=follower.lines: f"1-{count}" in told[-1], "the last attempt is followed")
    told = [programs.run("bindings"), programs.run("bindings", "--json"), programs.run("events", "ONCRMDEAL*")]
    assert "ONCRMDEALADD" in output(told[0])
    assert listen.stop() == 0
    for follower in followers:
        assert follower.stop() == 0
    for arguments in (
        *(
            ("list",),
            ("list", "--failed", "--json"),
            ("show", "last"),
            ("show", WITH_ALL),
            ("show", WITH_ALL, "--json"),
        ),
        *(("replay", "last", "--to", echo.url), ("replay", "1", "--to", echo.url, "--json")),
    ):
        told.append(programs.run(*arguments))
        assert told[-1].process.returncode == (1 if arguments[0] == "replay" else 0), str(told[-1])
        assert told[-1].lines, "it has told something"
    assert_none_of(secrets_of(credentials, programs), listen, *followers, *told)

    [held] = [tokens(case.expect) for case in RAW_CASES if case.event == WITH_ALL]
    assert len(held) == 3
    for arguments in (("show", WITH_ALL), ("show", WITH_ALL, "--json"), ("list", WITH_ALL, "--json")):
        revealed = output(programs.run(*arguments, "--reveal"))
        assert not [secret for secret in held if secret not in revealed], arguments


@pytest.mark.parametrize("way", ["plain", "json"])
def test_a_token_in_the_query_is_not_shown_when_the_handler_answers_nonsense(programs: Programs, way: str) -> None:
    token = "70ken" * 8
    with RawServer(lambda request: b"no status line, but " + request.line + b"\r\n\r\n") as handler:
        listen = programs.b24tunnel("listen", "--no-bind", "--forward", handler.url, "--output", way)
        follow = programs.b24tunnel("follow", *(["--json"] if way == "json" else []))
        wait_until(lambda: listen.lines, "it is ready")
        ready = re.search(r"http://[^/]+/b24/[\w-]+", listen.lines[0])
        assert ready is not None

        def followed() -> list[str]:
            request = delivery(f"{ready[0]}?event=ONCRMDEALADD&auth[access_token]={token}", b"", method="GET")
            assert exchange(ready[0], request).status == 200
            return follow.lines[1:]

        wait_until(followed, "it is followed")
        recordings = list(Journal.open(programs.directory / "recordings").recordings())
        handler.wait_for(len(recordings))
        assert listen.stop() == 0
        assert follow.stop() == 0
        as_json = ["--json"] if way == "json" else []
        told = [
            programs.run(*arguments, *as_json)
            for arguments in (("list",), ("show", "last"), ("replay", "last", "--to", handler.url))
        ]
    for program in (listen, follow, *told):
        assert program.lines, "it has told something"
        assert token not in output(program), str(program)


# ---- the command itself


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_imports_nothing_that_it_does_not_need(programs: Programs, option: str) -> None:
    ran = programs.start(sys.executable, "-X", "importtime", "-m", "b24tunnel", option)
    assert ran.wait() == 0
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in ran.errors}
    assert {"click", "b24tunnel"} <= imported
    assert not imported & {"aiohttp", "pyngrok", "tinydb", "rich", "asyncssh", "platformdirs"}


def commands(command: click.Command, *path: str) -> Iterator[tuple[str, ...]]:
    """The words of each command below ``command``."""
    if path:
        yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from commands(below, *path, name)


@pytest.mark.parametrize("words", list(commands(cli)), ids=" ".join)
def test_every_commands_help_has_an_example_of_itself(words: tuple[str, ...]) -> None:
    ran = CliRunner().invoke(cli, [*words, "--help"], prog_name="b24tunnel")
    assert ran.exit_code == 0
    example = ran.output.partition("Example:\n")[2]
    assert f"  b24tunnel {' '.join(words)}" in example


CLOSED_PIPE = (("events",), ("events", "--json"), ("list",), ("list", "--json"), ("show", "last"), ("--help",))


@pytest.mark.parametrize("arguments", CLOSED_PIPE, ids=" ".join)
def test_output_that_nobody_reads_makes_no_traceback(programs: Programs, arguments: tuple[str, ...]) -> None:
    listen = programs.b24tunnel(*NO_BIND)
    address = listen.next_json("ready")["handler_url"]
    for number in range(5):
        deliver(address, b"event=ONCRMDEALADD&data[FIELDS][ID]=%d" % number)
    assert listen.stop() == 0
    _, errors = into_a_closed_pipe(programs, *arguments)
    assert errors == ""
    command = f"'{sys.executable}' -m b24tunnel {' '.join(arguments)} | head -n 1"
    piped = programs.start("sh", "-c", command)
    assert piped.wait() == 0
    assert len(piped.lines) == 1
    assert piped.errors == []


def test_listen_into_a_closed_pipe_ends_in_order(programs: Programs, sandbox: SandboxThread) -> None:
    State.open().save_portal(sandbox.portal())
    _, errors = into_a_closed_pipe(programs, "listen", "ONCRMDEALADD", "--portal", "sandbox", "--output", "plain")
    assert errors == ""
    assert sandbox.ask(lambda portal: portal.bindings) == []
    assert State.open().ledger() == []
    [recordings] = (programs.directory / "recordings" / "journal").glob("session-*.jsonl")
    assert b'"kind":"end"' in recordings.read_bytes()


def into_a_closed_pipe(programs: Programs, *arguments: str) -> tuple[int, str]:
    """Exit code and standard error of the command when nobody reads its standard output."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "b24tunnel", *arguments],
            cwd=programs.directory,
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
    finally:
        os.close(writing)
    return ran.returncode, ran.stderr

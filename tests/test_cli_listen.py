"""`b24tunnel listen` where a person sits in front of it, and what it says before anything can go wrong."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from programs import DEADLINE, Program, Programs, free_port, wait_until
from raw_server import RawServer, Request, answer_with, deliver, exchange
from terminal_program import Terminal

from b24tunnel import Journal
from b24tunnel.portal import Portal, State
from b24tunnel.sandbox import Sandbox

REQUEST = b"POST %s HTTP/1.1\r\nHost: h\r\nContent-Length: 20\r\n\r\nevent=ONCRMDEALADD&a"


def _leave_one_pending(programs: Programs) -> str:
    """A session whose handler was down, and the handler's address."""
    handler = f"http://127.0.0.1:{free_port()}/handler"
    listen = programs.b24tunnel("listen", "--no-bind", "--forward", handler, "--output", "json")
    url = listen.next_json("ready")["handler_url"]
    path = "/b24" + url.partition("/b24")[2]
    assert exchange(url, REQUEST % path.encode()).status == 200
    listen.next_json("attempt")
    assert listen.stop() == 0
    return handler


def test_on_a_terminal_it_asks_whether_to_hand_over_what_was_left(programs: Programs) -> None:
    _leave_one_pending(programs)
    with RawServer() as handler:
        terminal = Terminal(programs.directory, "listen", "--no-bind", "--forward", handler.url)
        terminal.wait_for("listens at")
        terminal.wait_for("1 recording of earlier sessions never reached your handler. Hand over now?")
        terminal.type("y\n")
        handler.wait_for(1)
        terminal.wait_for("→ 200")
        terminal.type("\x03")
        assert terminal.exit_code() == 0
        assert "0 still to be forwarded" in terminal.shown


def test_on_a_terminal_a_no_leaves_them_for_the_next_time(programs: Programs) -> None:
    _leave_one_pending(programs)
    with RawServer() as handler:
        terminal = Terminal(programs.directory, "listen", "--no-bind", "--forward", handler.url)
        terminal.wait_for("Hand over now?")
        terminal.type("n\n")
        terminal.type("\x03")
        assert terminal.exit_code() == 0
        assert handler.requests == []
    assert Journal.open(programs.directory / "recordings").pending() == ["1-1"]


def test_enter_shows_how_the_tunnel_is_and_typing_never_keeps_it_from_ending(programs: Programs) -> None:
    terminal = Terminal(programs.directory, "listen", "--no-bind")
    terminal.wait_for("tunnel   local, up since")
    terminal.type("\n")
    wait_until(lambda: terminal.read().count("local, up since") == 2, "the tunnel's state is shown again")
    assert "there and back" in terminal.shown
    terminal.type("something\x03")  # Ctrl-C throws away what was typed before it
    assert terminal.exit_code() == 0


def test_in_the_background_it_is_not_stopped_by_what_is_typed_for_others(programs: Programs) -> None:
    """The shell's `listen &`, then a program in the foreground that does not read."""
    script = (
        f"set -m; {sys.executable} -m b24tunnel listen --no-bind --output plain & echo pid=$!; "
        f"{sys.executable} -c 'import time; time.sleep(60)'; true"
    )
    terminal = Terminal(programs.directory, "-c", script, program=("bash",))
    terminal.wait_for("local, up since")
    pid = int(terminal.shown.partition("pid=")[2].split()[0])
    url = next(word for word in terminal.shown.split() if "/b24/" in word)
    terminal.type("typed for somebody else\n")
    terminal.wait_for("typed for somebody else")
    assert deliver(url, b"event=ONCRMDEALADD").status == 200
    assert terminal.read().count("local, up since") == 1
    os.kill(pid, signal.SIGTERM)
    terminal.wait_for("Session 1 ended: 1 recorded")
    terminal.type("\x03")
    terminal.exit_code()


def test_closing_the_terminal_unbinds(programs: Programs, home: Path) -> None:
    programs.b24tunnel("sandbox", "--json").next_json()
    terminal = Terminal(programs.directory, "listen", "ONCRMDEALADD", "--portal", "sandbox")
    terminal.wait_for("listens at")
    assert len(State.open(home).ledger()) == 1
    assert terminal.close() == 0
    assert State.open(home).ledger() == []


def test_a_second_ctrl_c_leaves_at_once_and_prints_the_command_that_cleans_up(programs: Programs) -> None:
    sandbox = programs.b24tunnel("sandbox", "--json")
    sandbox.next_json()
    listen = programs.b24tunnel("listen", "ONCRMDEALADD", "--portal", "sandbox", "--output", "json")
    listen.next_json("ready")
    sandbox.send_signal(signal.SIGSTOP)  # the portal hangs, so unbinding does
    try:
        listen.send_signal(signal.SIGINT)
        _wait_until_stopping(listen)
        listen.send_signal(signal.SIGINT)
        assert listen.wait() == 130
        assert "b24tunnel bindings clean" in "".join(listen.errors)
    finally:
        sandbox.send_signal(signal.SIGCONT)


def test_a_portal_that_hangs_at_the_end_is_given_up_with_the_command_that_cleans_up(programs: Programs) -> None:
    sandbox = programs.b24tunnel("sandbox", "--json")
    sandbox.next_json()
    listen = programs.b24tunnel("listen", "ONCRMDEALADD", "--portal", "sandbox", "--output", "json")
    listen.next_json("ready")
    sandbox.send_signal(signal.SIGSTOP)
    try:
        assert listen.stop() == 0
        assert "b24tunnel bindings clean" in listen.next_json("trouble")["message"]
        assert listen.next_json("stopped")["recorded"] == 0
    finally:
        sandbox.send_signal(signal.SIGCONT)


def test_ctrl_c_before_it_is_ready_takes_back_what_it_had_begun(programs: Programs, home: Path) -> None:
    with RawServer(hold=threading.Event()) as portal:  # it takes calls and never answers
        State.open(home).save_portal(
            Portal("slow", client_endpoint=portal.url.replace("/handler", "/rest/"), access_token="token")
        )
        listen = programs.b24tunnel("listen", "ONCRMDEALADD", "--portal", "slow", "--output", "json")
        portal.wait_for(1)
        assert listen.stop() == 0
        assert "before it was ready" in listen.next_json("note")["message"]
    assert "Traceback" not in str(listen)
    assert State.open(home).ledger() == []


def test_an_unfinished_installation_is_told_because_bitrix24_then_delivers_nothing(
    programs: Programs, home: Path
) -> None:
    async def listen() -> Program:
        async with Sandbox(installed=False) as sandbox:
            State.open(home).save_portal(Portal.from_mapping("fresh", sandbox.credentials.as_dict()))
            program = programs.b24tunnel("listen", "ONCRMDEALADD", "--portal", "fresh", "--output", "json")
            await asyncio.to_thread(program.next_json, "ready")
            await asyncio.to_thread(program.stop)
        return program

    program = asyncio.run(listen())
    assert "installation is not finished" in "".join(program.lines)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("ONCRMDEALADD", "--portal", "far"), "--public-url"),
        (("--portal", "far"), "Name the events"),
        (("--no-bind", "--tunnel", "ngrk"), "did you mean 'ngrok'"),
        (("--no-bind", "--tunnel", "url"), "--public-url"),
        (("--no-bind", "--keep-bound"), "leave one of them out"),
        (("--no-bind", "--tunnel", "local", "--public-url", "https://x.example.org"), "leave one of them out"),
        (("--no-bind", "--public-url", "hooks.example.org"), "no public address"),
        (("--no-bind", "--public-url", "https://u:p@hooks.example.org"), "no public address"),
        (("ONIMV2MESSAGEADD", "--portal", "far"), "polled"),
        (("ONCRMDYNAMICITEMADD_{entityTypeId}", "--portal", "far"), "ONCRMDYNAMICITEMADD_128"),
    ],
)
def test_a_wrong_call_is_one_sentence_with_the_way_out(
    programs: Programs, home: Path, arguments: tuple[str, ...], says: str
) -> None:
    State.open(home).save_portal(Portal("far", client_endpoint="https://example.bitrix24.com/rest/"))
    listen = programs.run("listen", *arguments)
    assert listen.process.returncode == 2
    assert says in "".join(listen.errors)
    assert "Traceback" not in str(listen)
    assert not (programs.directory / "recordings").exists(), "nothing was begun"


def test_the_address_stays_the_same_across_restarts(programs: Programs) -> None:
    urls = set()
    for _ in range(2):
        listen = programs.b24tunnel(
            "listen", "--no-bind", "--public-url", "https://hooks.example.org/sub", "--output", "json"
        )
        urls.add(listen.next_json("ready")["handler_url"])
        assert listen.stop() == 0
    assert len(urls) == 1
    assert urls.pop().startswith("https://hooks.example.org/sub/b24/")


def _wait_until_stopping(listen: Program) -> None:
    """Wait until the first signal was taken: two that wait together would be one."""
    wait_until(lambda: _signals_taken(listen.process.pid), "the first signal is taken")


def _signals_taken(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    pending = [line.split()[1] for line in status.splitlines() if line.startswith(("SigPnd", "ShdPnd"))]
    return all(int(mask, 16) == 0 for mask in pending)


def test_ctrl_c_while_a_failed_start_is_taken_back_keeps_the_error_and_names_what_is_left(
    programs: Programs, home: Path
) -> None:
    """The second event cannot be bound, and the portal hangs when the first is to be unbound again."""
    unbinding = threading.Event()
    over = threading.Event()

    def portal_answer(request: Request) -> bytes:
        method = request.line.split(b" ")[1].rpartition(b"/")[2]
        if method == b"event.bind" and b"ONCRMLEADADD" in request.body:
            error = b'{"error":"ERROR_EVENT_NOT_FOUND","error_description":"Event not found"}'
            return answer_with("400 Bad Request", error, "Content-Type: application/json")
        if method == b"event.unbind":
            unbinding.set()
            over.wait(60)
        results = {b"event.get": b"[]", b"event.bind": b"true", b"app.info": b'{"INSTALLED":true}'}
        result = b'{"result":%s}' % results.get(method, b'{"count":1}')
        return answer_with("200 OK", result, "Content-Type: application/json")

    with RawServer(portal_answer) as portal:
        State.open(home).save_portal(
            Portal("odd", client_endpoint=portal.url.replace("/handler", "/rest/"), access_token="token")
        )
        listen = programs.b24tunnel(
            "listen", "ONCRMDEALADD", "ONCRMLEADADD", "--portal", "odd", "--output", "json"
        )
        wait_until(unbinding.is_set, "it takes back what it had bound")
        listen.send_signal(signal.SIGINT)
        code = listen.wait(60)
        over.set()
    told = "".join(listen.lines + listen.errors)
    assert code == 3, str(listen)
    assert "ERROR_EVENT_NOT_FOUND" in told
    assert "bindings clean" in told
    assert "taken back" not in told
    assert len(State.open(home).ledger()) == 1


def test_a_full_output_is_one_sentence(programs: Programs) -> None:
    for arguments in (("events",), ("events", "--json"), ("listen", "--no-bind", "--output", "json")):
        full = programs.start(
            "sh", "-c", 'exec "$@" > /dev/full', "sh", sys.executable, "-m", "b24tunnel", *arguments
        )
        assert full.wait() == 3, str(full)
        assert "Traceback" not in str(full)
        assert "No space left on device" in "".join(full.errors)


@pytest.mark.parametrize("option", ["--timeout", "--port", "--concurrency", "--max-body"])
def test_a_number_that_is_none_is_refused(programs: Programs, option: str) -> None:
    assert programs.run("listen", "--no-bind", option, "nan").process.returncode == 2


def test_a_reader_that_stops_reading_holds_up_neither_acknowledgements_nor_the_end(programs: Programs) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "b24tunnel", "listen", "--no-bind", "--output", "json"],
        cwd=programs.directory,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as listen:
        try:
            assert listen.stdout is not None
            url = json.loads(listen.stdout.readline())["handler_url"]
            # Many times what a pipe holds, and nobody reads it.
            body = b"event=ONCRMDEALADD&data[TITLE]=" + b"x" * 2000
            for _ in range(1500):
                assert deliver(url, body).status == 200
            listen.send_signal(signal.SIGINT)
            assert listen.wait(DEADLINE) == 0
        finally:
            listen.kill()
    assert len(Journal.open(programs.directory / "recordings").last(2000)) == 1500


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_under_a_supervisor_that_closes_its_streams_it_runs_and_ends(programs: Programs, closed: str) -> None:
    command = f'exec "$0" -m b24tunnel listen --no-bind {closed}'
    listen = programs.start("sh", "-c", command, sys.executable)
    wait_until(lambda: list(programs.directory.glob("recordings/journal/session-*")), "the session has begun")
    wait_until(lambda: _listens(listen.process.pid), "it listens")
    assert listen.stop() == 0, str(listen)
    assert "Traceback" not in str(listen)


def _listens(pid: int) -> bool:
    """Whether the process has a listening socket of its own."""
    own = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            own.add(str(entry.readlink()))
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[3] == "0A" and f"socket:[{row[9]}]" in own for row in rows)


def test_a_session_that_only_tells_of_what_was_left_leaves_it_to_the_one_that_hands_it_over(
    programs: Programs,
) -> None:
    _leave_one_pending(programs)
    with RawServer() as handler:
        tells = programs.b24tunnel("listen", "--no-bind", "--forward", handler.url, "--output", "json")
        assert tells.next_json("pending")["resumed"] is False
        tells.next_json("ready")
        resumes = programs.b24tunnel(
            "listen", "--no-bind", "--forward", handler.url, "--resume", "--output", "json"
        )
        assert resumes.next_json("pending")["resumed"] is True
        handler.wait_for(1)
        assert resumes.stop() == 0
        assert tells.stop() == 0
    assert len(handler.requests) == 1


def test_idle_connections_neither_end_it_nor_make_tracebacks(programs: Programs) -> None:
    command = 'ulimit -n 200; exec "$0" -m b24tunnel listen --no-bind --output json --forward http://127.0.0.1:9/x'
    listen = programs.start("sh", "-c", command, sys.executable)
    url = listen.next_json("ready")["handler_url"]
    address = urlsplit(url)
    with contextlib.ExitStack() as idle:
        early = idle.enter_context(socket.create_connection((address.hostname, address.port), 10))
        early.sendall(REQUEST % address.path.encode())
        assert early.recv(100).startswith(b"HTTP/1.1 200")
        listen.next_json("recorded")
        for _ in range(300):
            with contextlib.suppress(OSError):
                idle.enter_context(socket.create_connection((address.hostname, address.port), 10))
        # One that has delivered before still does.
        early.sendall(REQUEST % address.path.encode())
        assert early.recv(100).startswith(b"HTTP/1.1 200")
        listen.next_json("recorded")
    assert deliver(url, b"event=ONCRMDEALADD").status == 200
    assert listen.stop() == 0
    assert "Traceback" not in str(listen)

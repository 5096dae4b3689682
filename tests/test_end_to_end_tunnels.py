"""`listen` with tunnels that are processes and servers of their own: they die, move, hang, and leave nothing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from programs import Program, Programs, free_port, wait_until
from raw_server import RawServer, deliver
from rest_call import rest
from sshd import PROGRAM, Sshd
from tunnel_program import TunnelProgram, exists

from b24tunnel import Journal
from b24tunnel.portal import State

needs_sshd = pytest.mark.skipif(
    PROGRAM is None and "CI" not in os.environ, reason="OpenSSH's server is not installed"
)

# A tunnel program: prints its address, forwards, and has a child, as programs that start others have.
FORWARDING = f"""
import asyncio, os, subprocess, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from tcp_relay import port_of, relay_to

async def main():
    server = await relay_to(int(sys.argv[1]))
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with open(sys.argv[2], "a") as notes:
        notes.write(f"{{os.getpid()}} {{child.pid}}\\n")
    print("see https://docs.example.org/help", flush=True)
    print(f"forwarding from http://127.0.0.1:{{port_of(server)}} to here", flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


class Standin:
    """A tunnel program named in the user's settings, and every process that it ever was."""

    def __init__(self, directory: Path, home: Path) -> None:
        self._notes = directory / "tunnel-processes"
        program = directory / "forwarding.py"
        program.write_text(FORWARDING)
        command = f"{sys.executable} {program} {{port}} {self._notes}"
        settle(
            home,
            f"""tunnel = "mine"
[tunnels.mine]
command = '{command}'
url = 'forwarding from (http://\\S+) to'
probe_seconds = 5
""",
        )

    @property
    def processes(self) -> list[int]:
        return [int(pid) for pid in self._notes.read_text().split()] if self._notes.exists() else []

    @property
    def running(self) -> list[int]:
        return [pid for pid in self.processes if exists(pid)]


def settle(home: Path, text: str) -> None:
    (home / "settings.toml").write_text(text)


@pytest.fixture
def standin(programs: Programs, home: Path) -> Iterator[Standin]:
    standin = Standin(programs.directory, home)
    yield standin
    for pid in standin.running:
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def sshd(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Sshd]:
    server = Sshd(tmp_path_factory.mktemp("sshd"))
    server.start()
    yield server
    server.kill()


def settle_ssh(home: Path, sshd: Sshd, listen: str = "localhost:0") -> None:
    settle(
        home,
        f"""tunnel = "ssh"
[tunnels.ssh]
host = "{sshd.host}"
port = {sshd.port}
user = "{sshd.user}"
key = "{sshd.key}"
known_hosts = "{sshd.known_hosts}"
listen = "{listen}"
""",
    )


@pytest.fixture
def credentials(programs: Programs) -> dict[str, Any]:
    """Of a running sandbox on which a production handler and a handler of another event are bound, too."""
    credentials = programs.b24tunnel("sandbox", "--delay", "0", "--json").next_json()
    for event in ("ONCRMDEALADD", "ONTASKADD"):
        rest(credentials, "event.bind", event=event, handler="https://production.example.org/hook")
    return credentials


OTHERS = {
    ("ONCRMDEALADD", "https://production.example.org/hook"),
    ("ONTASKADD", "https://production.example.org/hook"),
}


def bound(credentials: dict[str, Any]) -> set[tuple[str, str]]:
    return {(row["event"].upper(), row["handler"]) for row in rest(credentials, "event.get")} - OTHERS


def listening(programs: Programs, *options: str) -> tuple[Program, str]:
    listen = programs.b24tunnel("listen", "ONCRMDEALADD", "--portal", "sandbox", "--output", "json", *options)
    return listen, listen.next_json("ready")["handler_url"]


def event(credentials: dict[str, Any]) -> bytes:
    """An event that has the portal's own token."""
    return f"event=ONCRMDEALADD&auth[application_token]={credentials['application_token']}".encode()


def recorded(programs: Programs) -> list[bytes]:
    return [recording.body for recording in Journal.open(programs.directory / "recordings").recordings()]


@needs_sshd
def test_through_an_ssh_server_a_delivery_arrives_is_recorded_answered_and_forwarded(
    programs: Programs, home: Path, sshd: Sshd, credentials: dict[str, Any]
) -> None:
    settle_ssh(home, sshd)
    with RawServer() as handler:
        listen, url = listening(programs, "--forward", handler.url)
        assert bound(credentials) == {("ONCRMDEALADD", url)}
        assert deliver(url, event(credentials)).status == 200
        rest(credentials, "crm.deal.add", fields={"TITLE": "First"})
        handler.wait_for(2)
        assert listen.stop() == 0
    assert recorded(programs)[0] == event(credentials)
    assert len(recorded(programs)) == 2
    assert bound(credentials) == set()


@needs_sshd
def test_an_ssh_server_that_dies_and_comes_back_is_recovered_and_the_new_port_is_bound(
    programs: Programs, home: Path, sshd: Sshd, credentials: dict[str, Any]
) -> None:
    settle_ssh(home, sshd)
    listen, before = listening(programs)
    sshd.kill()
    told = listen.next_json("tunnel")
    while told["state"] == "up":
        told = listen.next_json("tunnel")
    assert (told["state"], told["losses"]) == ("down", 1)
    assert told["reason"]
    sshd.restart()
    after = listen.next_json("bound")["handler_url"]
    assert after != before
    wait_until(lambda: bound(credentials) == {("ONCRMDEALADD", after)}, "only the new port is bound")
    rest(credentials, "crm.deal.add", fields={"TITLE": "First"})
    listen.next_json("recorded")
    assert listen.stop() == 0
    assert bound(credentials) == set()
    assert State.open(home).ledger() == []


@needs_sshd
def test_a_port_of_the_ssh_server_that_stays_needs_no_other_binding(
    programs: Programs, home: Path, sshd: Sshd, credentials: dict[str, Any]
) -> None:
    settle_ssh(home, sshd, f"localhost:{free_port()}")
    listen, url = listening(programs)
    sshd.kill()
    sshd.restart()
    message = ""
    while "is up again" not in message:
        message = listen.next_json("note")["message"]
    assert deliver(url, event(credentials)).status == 200
    assert listen.stop() == 0
    assert not [line for line in listen.lines if json.loads(line)["type"] == "bound"]


def test_after_kill_9_nothing_of_the_tunnel_survives_and_the_next_start_has_exactly_its_own_bindings(
    programs: Programs, standin: Standin, credentials: dict[str, Any]
) -> None:
    killed, left = listening(programs)
    first = standin.running
    assert len(first) == 2
    os.kill(killed.process.pid, signal.SIGKILL)
    wait_until(lambda: not standin.running, "the tunnel's processes have ended, too")
    assert bound(credentials) == {("ONCRMDEALADD", left)}
    listen, url = listening(programs)
    assert url != left
    assert bound(credentials) == {("ONCRMDEALADD", url)}
    assert len(standin.running) == 2
    assert listen.stop() == 0
    assert standin.running == []
    assert {(row["event"].upper(), row["handler"]) for row in rest(credentials, "event.get")} == OTHERS


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_way_of_ending_it_unbinds_and_ends_the_tunnel(
    programs: Programs, standin: Standin, credentials: dict[str, Any], number: signal.Signals
) -> None:
    listen, _ = listening(programs)
    assert len(standin.running) == 2
    listen.send_signal(number)
    assert listen.wait() == 0
    assert standin.running == []
    assert bound(credentials) == set()


def test_an_output_that_nobody_reads_any_more_ends_it_unbound_and_without_its_tunnel(
    programs: Programs, standin: Standin, credentials: dict[str, Any]
) -> None:
    arguments = ("listen", "ONCRMDEALADD", "--portal", "sandbox", "--output", "json")
    with subprocess.Popen(
        [sys.executable, "-m", "b24tunnel", *arguments], cwd=programs.directory, stdout=subprocess.PIPE
    ) as listen:
        assert listen.stdout is not None
        while (told := json.loads(listen.stdout.readline()))["type"] != "ready":
            pass
        listen.stdout.close()
        with contextlib.suppress(OSError, AssertionError):  # it may end before it answers
            deliver(told["handler_url"], event(credentials))
        assert listen.wait(30) == 0
    assert standin.running == []
    assert bound(credentials) == set()


def test_a_tunnel_program_that_is_killed_is_started_again_and_its_new_address_bound(
    programs: Programs, standin: Standin, credentials: dict[str, Any]
) -> None:
    listen, before = listening(programs)
    os.kill(standin.running[0], signal.SIGKILL)
    after = listen.next_json("bound")["handler_url"]
    assert after != before
    wait_until(lambda: bound(credentials) == {("ONCRMDEALADD", after)}, "only the new address is bound")
    wait_until(lambda: len(standin.running) == 2, "the child of the killed program is gone")
    assert deliver(after, event(credentials)).status == 200
    assert listen.stop() == 0


def test_a_tunnel_that_hangs_while_its_process_lives_is_found_by_a_probe(
    programs: Programs, standin: Standin, credentials: dict[str, Any]
) -> None:
    listen, before = listening(programs)
    os.kill(standin.running[0], signal.SIGSTOP)
    after = listen.next_json("bound", seconds=90)["handler_url"]
    assert after != before
    assert len(standin.running) == 2, "the one that hung is gone"
    assert listen.stop() == 0
    assert "no answer within" in "".join(listen.lines)


@pytest.fixture
def agents(programs: Programs, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, TunnelProgram]]:
    """Stand-ins for ngrok's agent and for cloudflared with a named tunnel, in the user's settings."""
    found = {
        name: TunnelProgram(programs.directory / name, name, f"{name}_standin.py", f"{name.upper()}_STANDIN_NOTES")
        for name in ("ngrok", "cloudflared")
    }
    port = free_port()
    for variables in (
        *(program.environment for program in found.values()),
        {
            "NGROK_AUTHTOKEN": "token-well-and-secret",
            "TUNNEL_TOKEN": "secret",
            "CLOUDFLARED_STANDIN_PORT": str(port),
        },
    ):
        for variable, value in variables.items():
            monkeypatch.setenv(variable, value)
    settle(
        home,
        f"""[tunnels.ngrok]
binary = "{found["ngrok"].binary}"
[tunnels.cloudflared]
binary = "{found["cloudflared"].binary}"
hostname = "http://127.0.0.1:{port}"
""",
    )
    yield found
    programs.end_all()
    for program in found.values():
        program.assert_nothing_is_left()


@pytest.mark.parametrize("name", ["ngrok", "cloudflared"])
def test_through_an_agent_deliveries_arrive_it_is_recovered_and_gone_after_kill_9(
    programs: Programs, agents: dict[str, TunnelProgram], credentials: dict[str, Any], name: str
) -> None:
    listen, url = listening(programs, "--tunnel", name)
    assert deliver(url, event(credentials)).status == 200
    rest(credentials, "crm.deal.add", fields={"TITLE": "First"})
    for _ in range(2):
        listen.next_json("recorded")
    os.kill(agents[name].run()["pid"], signal.SIGKILL)
    message = ""
    while "is up again" not in message:
        message = listen.next_json("note")["message"]
    wait_until(lambda: [handler for _, handler in bound(credentials)] != [], "it is bound")
    agent = agents[name].runs()[-1]["pid"]
    assert exists(agent)
    os.kill(listen.process.pid, signal.SIGKILL)
    wait_until(lambda: not exists(agent), "the agent has ended, too")
    again, url = listening(programs, "--tunnel", name)
    assert bound(credentials) == {("ONCRMDEALADD", url)}
    assert again.stop() == 0
    assert bound(credentials) == set()
    assert "secret" not in "".join(listen.lines + listen.errors + again.lines + again.errors)


def test_an_agent_that_is_refused_is_told_with_the_way_out(
    programs: Programs, agents: dict[str, TunnelProgram], credentials: dict[str, Any]
) -> None:
    listen = programs.b24tunnel(
        *("listen", "ONCRMDEALADD", "--portal", "sandbox", "--tunnel", "ngrok"),
        env={"NGROK_AUTHTOKEN": "token-9040-and-secret"},
    )
    assert listen.wait() == 3
    assert "ERR_NGROK_9040" in "".join(listen.errors)
    assert "Traceback" not in str(listen)
    assert bound(credentials) == set()


def test_without_anything_usable_each_reason_is_told_and_nothing_is_bound(
    programs: Programs, home: Path, credentials: dict[str, Any]
) -> None:
    settle(
        home,
        """[tunnels.one]
command = "no-such-program {port}"
url = '(https://\\S+)'
""",
    )
    listen = programs.run("listen", "ONCRMDEALADD", "--portal", "sandbox", "--tunnel", "one")
    assert listen.process.returncode == 3
    assert "no-such-program" in "".join(listen.errors)
    assert "Traceback" not in str(listen)
    assert bound(credentials) == set()


def test_what_is_asked_of_a_person_is_printed_when_nothing_is_bound(programs: Programs, standin: Standin) -> None:
    listen = programs.b24tunnel("listen", "--no-bind", "--output", "plain")
    wait_until(lambda: "tunnel   mine, up" in "".join(listen.lines), "it is ready")
    assert listen.stop() == 0
    shown = "".join(listen.lines)
    assert "paste the address above as its handler" in shown
    assert "/b24/" in shown


def test_the_automatic_choice_takes_what_works_says_why_and_what_would_be_better(
    programs: Programs, standin: Standin, home: Path
) -> None:
    programs_directory = programs.directory / "bin"
    programs_directory.mkdir()
    broken = programs_directory / "tuna"
    broken.write_text("#!/bin/sh\\necho 'FATA[00:00:00] Unknown token'\\nexit 1\\n")
    broken.chmod(broken.stat().st_mode | stat.S_IXUSR)
    environment = {"PATH": f"{programs_directory}:{os.environ['PATH']}", "HOME": str(programs.directory)}
    listen = programs.b24tunnel("listen", "--no-bind", "--tunnel", "auto", "--output", "json", env=environment)
    ready = listen.next_json("ready")
    assert ready["tunnel"] == "mine"
    assert listen.stop() == 0
    notes = [json.loads(line).get("message", "") for line in listen.lines]
    assert "Tunnel mine: it is in the settings." in notes
    assert any("the same" in note or "stays" in note for note in notes)

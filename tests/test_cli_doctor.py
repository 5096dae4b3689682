"""`b24tunnel doctor` as a person and as CI run it: a process of its own, beside a sandbox of its own."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from programs import Program, Programs, free_port, wait_until
from raw_server import RawServer, Request, answer_with
from terminal_program import Terminal
from tunnel_program import TunnelProgram

from b24tunnel.portal import Portal, State

COMMAND = (sys.executable, "-m", "b24tunnel")
NAMES = [
    *("settings", "handler", "tunnel", "portal", "token"),
    *("installation", "scopes", "administrator", "bindings", "delivery"),
]


@pytest.fixture
def sandbox(programs: Programs, home: Path) -> Program:
    """A simulated portal that is known as 'sandbox'."""
    sandbox = programs.b24tunnel("sandbox", "--json", "--delay", "0.02")
    sandbox.credentials = sandbox.next_json()  # type: ignore[attr-defined]
    return sandbox


def steps_of(doctor: Program) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The steps that it printed, and the result."""
    *steps, result = map(json.loads, doctor.lines)
    assert {step["type"] for step in steps} == {"step"}
    assert result["type"] == "result"
    return steps, result


def bound(programs: Programs) -> Any:
    """What the portal lists for the application."""
    called = programs.run("sandbox", "call", "event.get")
    return json.loads("".join(called.lines))


def test_where_all_is_well_ci_gets_an_object_a_step_and_nothing_stays_bound(
    programs: Programs, sandbox: Program, home: Path
) -> None:
    with RawServer() as handler:
        doctor = programs.run("doctor", "ONCRMDEALADD", "--forward", handler.url, "--json")
    assert doctor.process.returncode == 0, str(doctor)
    steps, result = steps_of(doctor)
    assert [(step["name"], step["state"]) for step in steps] == [(name, "ok") for name in NAMES]
    assert all(list(step) == ["type", "name", "state", "message", "advice", "ms"] for step in steps)
    assert all(step["ms"] >= 0 and step["advice"] == "" for step in steps)
    assert {**result, "ms": 0} == {
        "type": "result",
        "ok": True,
        "failed": None,
        "warnings": 0,
        "skipped": [],
        "exit_code": 0,
        "ms": 0,
    }
    assert doctor.errors == []
    credentials: dict[str, Any] = sandbox.credentials  # type: ignore[attr-defined]
    for secret in ("access_token", "refresh_token", "client_secret", "application_token"):
        assert credentials[secret] not in str(doctor)
    assert bound(programs) == []
    assert State.open(home).ledger() == []


def test_on_a_terminal_it_shows_a_line_a_step_with_a_mark_and_the_advice_below(
    programs: Programs, sandbox: Program
) -> None:
    terminal = Terminal(programs.directory, "doctor", "--tunnel", "local")
    assert terminal.exit_code() == 0, terminal.shown
    shown = terminal.shown.replace("\r\n", "\n")
    assert "\x1b[32m✓\x1b[0m settings" in shown
    assert "\x1b[36m-\x1b[0m handler" in shown
    assert "\n                \x1b[36m→\x1b[0m Name it with --forward URL.\n" in shown
    assert "\x1b[32m✓\x1b[0m delivery" in shown
    assert "All that was looked at held. 1 step was not looked at: handler." in shown


def test_in_a_pipe_it_is_plain_and_stops_at_what_is_wrong(programs: Programs, sandbox: Program) -> None:
    url = f"http://127.0.0.1:{free_port()}/handler"
    doctor = programs.run("doctor", "--forward", url)
    assert doctor.process.returncode == 1
    assert "\x1b" not in "".join(doctor.lines)
    assert [line[:2] for line in doctor.lines] == ["✓ ", "✗ ", "  ", "St"]
    assert doctor.lines[1] == f"✗ handler       The handler {url} does not answer: Connection refused.\n"
    assert doctor.lines[3] == "Stopped at the handler: what comes after it was not looked at.\n"


@pytest.mark.parametrize(
    ("arguments", "step", "exit_code"),
    [
        (("--portal", "nobody"), "settings", 2),
        (("NO_EVENT",), "settings", 2),
        (("--recordings", "a-file"), "settings", 3),
        (("--public-url", "http://127.0.0.1:9"), "tunnel", 3),
        (("--portal", "away"), "portal", 3),
        (("--portal", "stranger"), "token", 1),
    ],
)
def test_the_exit_code_says_whose_fault_it_is(
    programs: Programs, sandbox: Program, home: Path, arguments: tuple[str, ...], step: str, exit_code: int
) -> None:
    (programs.directory / "a-file").write_text("")
    state = State.open(home)
    for name, endpoint in (("away", f"http://127.0.0.1:{free_port()}/rest/"), ("stranger", None)):
        credentials: dict[str, Any] = sandbox.credentials  # type: ignore[attr-defined]
        endpoint = endpoint or credentials["client_endpoint"]
        state.save_portal(Portal(name, client_endpoint=endpoint, access_token="a-token-nobody-may-see"))
    named = () if "--portal" in arguments else ("--portal", "sandbox")
    doctor = programs.run("doctor", *arguments, *named, "--json")
    steps, result = steps_of(doctor)
    assert (result["failed"], result["exit_code"]) == (step, exit_code), str(doctor)
    assert doctor.process.returncode == exit_code
    assert steps[-1]["name"] == step
    assert steps[-1]["advice"]
    assert "a-token-nobody-may-see" not in str(doctor)
    assert "Traceback" not in str(doctor)


def test_wrong_options_are_a_wrong_call(programs: Programs) -> None:
    for arguments in (("--timeout", "nan"), ("--port", "70000"), ("--nonsense",)):
        assert programs.run("doctor", *arguments).process.returncode == 2


def test_it_examines_what_the_files_and_the_environment_settle_for_listen(
    programs: Programs, sandbox: Program
) -> None:
    (programs.directory / "b24tunnel.toml").write_text(
        '[listen]\nevents = ["ONCRMLEADADD"]\nforward = "http://127.0.0.1:9/file"\nmax-body = 2048\n'
    )
    with RawServer() as handler:
        doctor = programs.run("doctor", "--json", env={"B24TUNNEL_LISTEN_FORWARD": handler.url})
        steps, result = steps_of(doctor)
        assert result["ok"], str(doctor)
        assert handler.url in steps[1]["message"]
        assert "ONCRMLEADADD" in steps[6]["message"]
    doctor = programs.run("doctor", "--json")
    assert "http://127.0.0.1:9/file does not answer" in steps_of(doctor)[0][-1]["message"]


def test_a_key_that_listen_does_not_know_is_named(programs: Programs, sandbox: Program) -> None:
    (programs.directory / "b24tunnel.toml").write_text('[listen]\nfroward = "http://127.0.0.1:9"\n')
    doctor = programs.run("doctor", "--json")
    assert doctor.process.returncode == 2
    [step] = steps_of(doctor)[0]
    assert "'froward'" in step["message"]
    assert "forward" in step["message"] + step["advice"]


def odd_portal(home: Path, unbound: list[bytes], asked: list[bytes]) -> RawServer:
    """A portal that takes everything and delivers nothing."""

    def portal_answer(request: Request) -> bytes:
        method = request.line.split(b" ")[1].rpartition(b"/")[2].decode()
        results: dict[str, Any] = {
            "app.info": {"INSTALLED": True, "STATUS": "L"},
            "profile": {"ID": "1", "ADMIN": True},
            "event.bind": True,
            "event.unbind": {"count": 1},
            "event.test": 1,
        }
        if method == "event.unbind":
            unbound.append(request.body)
        if method == "event.test":
            asked.append(request.body)
        body = json.dumps({"result": results.get(method, [])}).encode()
        return answer_with("200 OK", body, "Content-Type: application/json")

    server = RawServer(portal_answer)
    endpoint = server.url.replace("/handler", "/rest/")
    State.open(home).save_portal(Portal("odd", client_endpoint=endpoint, access_token="t"))
    return server


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_in_the_middle_it_unbinds_and_says_that_it_was_interrupted(
    programs: Programs, home: Path, number: int, tmp_path: Path
) -> None:
    unbound: list[bytes] = []
    asked: list[bytes] = []
    program = TunnelProgram(tmp_path / "program", "standin", "tunnel_standin.py", "TUNNEL_STANDIN_NOTES")
    (home / "settings.toml").write_text(
        f"""tunnel = 'mine'
        [tunnels.mine]
        command = '{program.binary} --port {{port}}'
        url = 'Forwarding (\\S+)'
        """
    )
    with odd_portal(home, unbound, asked):
        env = {**program.environment, "TUNNEL_STANDIN": "print:Forwarding {url}"}
        doctor = programs.b24tunnel("doctor", "--json", env=env)
        wait_until(lambda: asked or doctor.process.poll() is not None, "the test event is asked for")
        assert doctor.process.poll() is None, str(doctor)
        [row] = State.open(home).ledger()
        doctor.send_signal(number)
        assert doctor.wait() == 130, str(doctor)
    steps, result = steps_of(doctor)
    assert (result["ok"], result["exit_code"]) == (False, 130)
    assert [step["name"] for step in steps] == NAMES[:-1]
    assert len(unbound) == 1
    assert row.handler.rpartition("/")[2].encode() in unbound[0]
    assert State.open(home).ledger() == []
    program.assert_nothing_is_left()


def test_ctrl_c_on_a_terminal(programs: Programs, home: Path) -> None:
    unbound: list[bytes] = []
    asked: list[bytes] = []
    with odd_portal(home, unbound, asked):
        terminal = Terminal(programs.directory, "doctor")
        wait_until(lambda: terminal.read() and asked, "the test event is asked for")
        terminal.type("\x03")
        assert terminal.exit_code() == 130
    assert "Interrupted; what had begun was taken back." in terminal.shown
    assert len(unbound) == 1


def test_a_full_output_is_one_sentence_and_leaves_nothing_bound(programs: Programs, sandbox: Program) -> None:
    full = programs.start("sh", "-c", 'exec "$@" > /dev/full', "sh", *COMMAND, "doctor")
    assert full.wait() == 3, str(full)
    assert "No space left on device" in "".join(full.errors)
    assert "Traceback" not in str(full)
    assert bound(programs) == []


def test_a_reader_that_goes_away_ends_it_quietly(programs: Programs, sandbox: Program) -> None:
    gone = programs.start("bash", "-c", 'set -o pipefail; "$@" | true', "bash", *COMMAND, "doctor")
    gone.wait()
    assert gone.errors == []
    assert bound(programs) == []

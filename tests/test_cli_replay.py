"""`b24tunnel replay` as a user runs it: what is sent, what is printed, the exit code in each combination."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from journal_files import write
from junitparser import JUnitXml
from programs import DEADLINE, Program, Programs, free_port, wait_until
from raw_server import RESET, RawServer, Request, answer_with
from terminal_program import Terminal

from b24tunnel import Journal, Recording
from b24tunnel.recording import Attempt, SessionEnd

MOMENT = datetime(2026, 1, 5, 9, 30, 1, tzinfo=UTC)
TOKEN = "0f4bd8656a4f4a5b9f1c4c1d7b8a0000"


def recording(number: int, code: str = "ONCRMDEALADD", **changes: Any) -> Recording:
    """Recording 1-N of a deal N, recorded N × 10 ms after the session began."""
    body = f"event={code}&data%5BFIELDS%5D%5BID%5D={number}&auth%5Bapplication_token%5D={TOKEN}"
    given = {
        "id": f"1-{number}",
        "received_at": MOMENT + timedelta(milliseconds=10 * number),
        "method": "POST",
        "target": "/b24/x",
        "headers": (("Content-Type", "application/x-www-form-urlencoded"), ("Content-Length", str(len(body)))),
        "body": body.encode(),
        "code": code,
    }
    return Recording(**{**given, **changes})


def answered(number: int, status: int = 200, body: bytes = b"", **changes: Any) -> Attempt:
    """What the handler answered when recording 1-N was forwarded."""
    return Attempt(
        **{
            "recording": f"1-{number}",
            "cause": "forward",
            "target": "http://127.0.0.1:1/",
            "started_at": MOMENT + timedelta(milliseconds=10 * number + 5),
            "duration_ms": 12.5,
            "status": status,
            "body": body,
            **changes,
        }
    )


def deals(directory: Path, count: int, *attempts: Attempt) -> None:
    """A journal of ``count`` recordings."""
    write(directory / "recordings", 1, *(recording(n) for n in range(1, count + 1)), *attempts)


def number_of(request: Request) -> int:
    """Which deal a request is about."""
    return int(request.body.partition(b"%5BID%5D=")[2].partition(b"&")[0])


@pytest.fixture
def handler() -> Iterator[RawServer]:
    with RawServer() as server:
        yield server


def output(program: Program) -> str:
    return "".join(program.lines)


def errors(program: Program) -> str:
    return "".join(program.errors)


def json_lines(program: Program) -> list[dict[str, Any]]:
    return [json.loads(line) for line in program.lines]


def replay(programs: Programs, handler: RawServer, *arguments: str) -> Program:
    """One whole run of the command."""
    return programs.run("replay", *arguments, "--to", handler.url)


def code_of(program: Program) -> int:
    assert "Traceback" not in errors(program), str(program)
    return int(program.process.returncode)


class TestExitCodes:
    """0 when all is as expected, 1 when not, 2 for wrong usage, 3 for the outside world, 130 when interrupted."""

    @pytest.mark.parametrize(
        ("arguments", "answer", "expected"),
        [
            ((), answer_with("200 OK"), 0),
            ((), answer_with("204 No Content"), 0),
            ((), answer_with("302 Found"), 1),
            ((), answer_with("500 Internal Server Error"), 1),
            ((), b"no HTTP at all\r\n\r\n", 1),
            ((), RESET, 1),
            (("--expect", "500"), answer_with("500 Internal Server Error"), 0),
            (("--expect", "500"), answer_with("200 OK"), 1),
            (("--expect", "4xx"), answer_with("404 Not Found"), 0),
            (("--expect", "body~ok"), answer_with(body=b"it is ok"), 0),
            (("--expect", "body~ok"), answer_with(body=b"it is not"), 1),
            (("--expect", "body~ok"), answer_with("500 Oh", b"it is ok"), 1),
            (("--expect", "500", "--expect", "body~ok"), answer_with("500 Oh", b"it is ok"), 0),
            (("--on-error", "stop"), answer_with("500 Oh"), 1),
            (("--on-error", "stop"), answer_with("200 OK"), 0),
            (
                ("--compare",),
                answer_with(
                    body=b'{"a": 1, "time": 2}',
                ),
                1,
            ),
            (("--compare", "--ignore", "$.time"), answer_with("200 OK", b'{ "time": 2, "a": 1}'), 0),
            (("--compare", "--ignore", "$.time"), answer_with("200 OK", b'{"a": 2}'), 1),
            (("--compare", "--ignore", "$.time"), answer_with("201 Created", b'{"a": 1}'), 1),
            (("--compare", "--ignore", "$.time", "--expect", "201"), answer_with("200 OK", b'{"a": 1}'), 1),
            (("--times", "3"), answer_with("200 OK"), 0),
            (("--rate", "1000"), answer_with("500 Oh"), 1),
            (("--speed", "100"), answer_with("200 OK"), 0),
            (("--dry-run",), answer_with("500 Oh"), 0),
            (("--json",), answer_with("500 Oh"), 1),
            (("--json",), answer_with("200 OK"), 0),
        ],
    )
    def test_of_what_a_handler_answers(
        self,
        programs: Programs,
        handler: RawServer,
        arguments: tuple[str, ...],
        answer: bytes | None,
        expected: int,
    ) -> None:
        deals(programs.directory, 2, *(answered(n, body=b'{"a":1,"time":1}') for n in (1, 2)))
        handler.answer = answer
        junit = programs.directory / "junit.xml"
        program = replay(programs, handler, "1", *arguments, "--junit", str(junit))
        assert code_of(program) == expected, str(program)
        if "--dry-run" not in arguments:
            assert JUnitXml.fromfile(str(junit)).failures + JUnitXml.fromfile(str(junit)).errors == (
                0 if expected == 0 else 1 if "stop" in arguments else 2
            )

    @pytest.mark.parametrize(
        "arguments",
        [
            (),
            ("1",),
            ("1", "--to", "nowhere"),
            ("9-9", "--to", "URL"),
            ("1", "--to", "URL", "--speed", "1", "--rate", "2"),
            ("1", "--to", "URL", "--speed", "1", "--like-bitrix24"),
            ("1", "--to", "URL", "--speed", "0"),
            ("1", "--to", "URL", "--speed", "nan"),
            ("1", "--to", "URL", "--rate", "inf"),
            ("1", "--to", "URL", "--max-gap", "5"),
            ("1", "--to", "URL", "--shuffle", "--speed", "1"),
            ("1", "--to", "URL", "--seed", "5"),
            ("1", "--to", "URL", "--drop", "half"),
            ("1", "--to", "URL", "--drop", "100%"),
            ("1", "--to", "URL", "--times", "0"),
            ("1", "--to", "URL", "--compare", "--against", "URL"),
            ("1", "--to", "URL", "--ignore", "$.a"),
            ("1", "--to", "URL", "--compare", "--ignore", "$["),
            ("1", "--to", "URL", "--expect", "20"),
            ("1", "--to", "URL", "--expect", "body~("),
            ("1", "--to", "URL", "--set", "data.FIELDS.ID"),
            ("1", "--to", "URL", "--set", "data.fields.ID=5"),
            ("1", "--to", "URL", "--unset", "data.FIELDS.TITLE"),
            ("1", "--to", "URL", "--header", "no colon"),
            ("1", "--to", "URL", "--ts", "yesterday"),
            ("1", "--to", "URL", "--ts", "now"),
            ("1", "--to", "URL", "--path", "relative"),
            ("1", "--to", "URL", "--where", "nonsense=1"),
            ("1", "--to", "URL", "--since", "never"),
            ("1", "--to", "URL", "--failed"),
            ("1", "--to", "URL", "--auth", "sandbox"),
            ("--resume",),
            ("--resume", "--times", "2"),
            ("1", "--resume"),
        ],
    )
    def test_wrong_usage_is_one_sentence_and_nothing_is_sent(
        self, programs: Programs, handler: RawServer, arguments: tuple[str, ...]
    ) -> None:
        deals(programs.directory, 2, answered(1), answered(2))
        given = [handler.url if argument == "URL" else argument for argument in arguments]
        program = programs.run("replay", *given)
        assert code_of(program) == 2, str(program)
        said = [line for line in errors(program).splitlines() if line and not line.startswith(("Usage:", "Try "))]
        assert len(said) == 1, str(program)
        assert said[0].startswith("Error: ")
        assert not handler.requests

    def test_the_outside_world(self, programs: Programs, handler: RawServer) -> None:
        deals(programs.directory, 1)
        program = replay(programs, handler, "1", "--junit", "/dev/full/junit.xml")
        assert code_of(program) == 3, str(program)
        assert not handler.requests

    def test_nobody_listens(self, programs: Programs) -> None:
        deals(programs.directory, 2)
        program = programs.run("replay", "1", "--to", f"http://127.0.0.1:{free_port()}/")
        assert code_of(program) == 1, str(program)
        assert "2 sent, 2 failed, 2 never reached the handler." in output(program)


class TestOutput:
    def test_each_result_and_the_sum(self, programs: Programs, handler: RawServer) -> None:
        deals(programs.directory, 3)
        handler.answer = lambda request: answer_with("500 Oh") if number_of(request) == 2 else answer_with()
        program = replay(programs, handler, "1")
        lines = output(program).splitlines()
        assert [line.split()[:3] for line in lines[:3]] == [
            ["1-1", "ONCRMDEALADD", "200"],
            ["1-2", "ONCRMDEALADD", "500"],
            ["1-3", "ONCRMDEALADD", "200"],
        ]
        assert lines[3] == "3 sent, 1 failed."
        assert lines[4].startswith("Answered after ")

    def test_differences_are_shown_below_their_recording(self, programs: Programs, handler: RawServer) -> None:
        deals(programs.directory, 1, answered(1, body=b'{"result": {"id": 5}, "same": 1}'))
        handler.answer = answer_with("200 OK", b'{"same": 1, "result": {"id": 7}}')
        program = replay(programs, handler, "1", "--compare")
        assert code_of(program) == 1
        shown = output(program)
        assert "$.result.id" in shown
        assert "5" in shown
        assert "7" in shown
        assert "same" not in shown
        assert "1 answered otherwise than before" in shown

    def test_against_a_second_handler_both_get_the_same_bytes(
        self, programs: Programs, handler: RawServer
    ) -> None:
        deals(programs.directory, 2)
        with RawServer(answer_with("200 OK", b"old")) as former:
            handler.answer = lambda request: answer_with("200 OK", b"new" if number_of(request) == 2 else b"old")
            program = replay(programs, handler, "1", "--against", former.url, "--json")
            assert code_of(program) == 1
            assert handler.bodies() == former.bodies()
        first, second, last = json_lines(program)
        assert (first["ok"], first["differences"]) == (True, [])
        assert not second["ok"]
        assert (second["differences"][0]["before"], second["differences"][0]["after"]) == ("old", "new")
        assert last["total"]["differing"] == 1

    def test_json_has_every_result_and_the_total(self, programs: Programs, handler: RawServer) -> None:
        deals(programs.directory, 150)
        program = replay(programs, handler, "1", "--json")
        *results, last = json_lines(program)
        assert [result["number"] for result in results] == list(range(1, 151))
        assert {result["status"] for result in results} == {200}
        assert (last["total"]["sent"], last["total"]["ok"]) == (150, True)
        assert 0 < last["total"]["latency_ms"]["p50"] <= last["total"]["latency_ms"]["highest"]

    def test_a_long_run_shows_only_what_is_wrong(self, programs: Programs, handler: RawServer) -> None:
        deals(programs.directory, 150)
        handler.answer = lambda request: answer_with("500 Oh") if number_of(request) == 77 else answer_with()
        program = replay(programs, handler, "1")
        lines = output(program).splitlines()
        assert lines[0].split()[:3] == ["1-77", "ONCRMDEALADD", "500"]
        assert lines[1] == "150 sent, 1 failed."

    def test_a_token_is_on_no_screen(self, programs: Programs, handler: RawServer) -> None:
        deals(programs.directory, 1, answered(1, body=b"nothing"))
        handler.answer = answer_with("500 Oh", f"wrong token {TOKEN}".encode())
        junit = programs.directory / "junit.xml"
        for arguments in (("--json",), ("--compare",), ("--junit", str(junit)), ("--dry-run", "--set", "event=A")):
            program = replay(programs, handler, "1", *arguments)
            assert TOKEN not in str(program)
        assert TOKEN not in junit.read_text("utf-8")

    def test_a_pipe_that_is_closed_early_is_no_traceback(self, programs: Programs, handler: RawServer) -> None:
        deals(programs.directory, 3000)
        command = [sys.executable, "-m", "b24tunnel", "replay", "1", "--to", handler.url, "--json"]
        process = subprocess.Popen(
            command, cwd=programs.directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        assert process.stdout is not None
        assert process.stderr is not None
        with process:
            first = process.stdout.readline()
            process.stdout.close()
            said = process.stderr.read()
            process.wait(DEADLINE)
        assert json.loads(first)["number"] == 1
        assert said == b""
        assert len(handler.requests) < 3000
        run = Journal.open(programs.directory / "recordings").last_run()
        assert run is not None
        assert not run.finished

    def test_a_slow_reader_gets_every_line(self, programs: Programs, handler: RawServer) -> None:
        deals(programs.directory, 400)
        command = f"{sys.executable} -m b24tunnel replay 1 --to {handler.url} --json"
        slowly = f'{command} | while read -r line; do echo "$line"; sleep 0.01; done'
        program = programs.start("bash", "-c", slowly)
        program.wait()
        assert len(program.lines) == 401
        assert json_lines(program)[-1]["total"]["sent"] == 400

    def test_a_bar_shows_how_far_a_long_run_is_and_goes_away(self, programs: Programs, handler: RawServer) -> None:
        deals(programs.directory, 120)
        handler.hold = threading.Event()
        terminal = Terminal(programs.directory, "replay", "1", "--to", handler.url, "--concurrency", "1")
        terminal.wait_for("/120")
        handler.hold.set()
        assert terminal.exit_code() == 0
        assert "120 sent, all answered 2xx." in terminal.shown


def test_what_was_refused_as_forged_is_left_out_unless_it_is_named(programs: Programs, handler: RawServer) -> None:
    forged = [recording(n, verdict="mismatched") for n in (2, 3)]
    write(programs.directory / "recordings", 1, recording(1), *forged)
    program = replay(programs, handler, "1")
    assert [number_of(request) for request in handler.requests] == [1]
    assert "2 recordings were refused when they came, and left out now" in errors(program)
    assert code_of(replay(programs, handler, "1-3")) == 0
    assert [number_of(request) for request in handler.requests] == [1, 3]


class TestDryRun:
    def test_says_what_would_go_where_and_how_long_it_takes(self, programs: Programs, handler: RawServer) -> None:
        deals(programs.directory, 3)
        program = replay(programs, handler, "1", "--dry-run", "--speed", "0.01", "--set", "data.FIELDS.ID=77")
        assert code_of(program) == 0
        shown = output(program)
        assert not handler.requests
        assert not Journal.open(programs.directory / "recordings").attempts("1-1")
        for text in ("1-1", "1-3", "+2.0 s", "data.FIELDS.ID=77", f"3 recordings would go to {handler.url}"):
            assert text in shown, shown

    def test_estimates_by_what_was_answered_before(self, programs: Programs, handler: RawServer) -> None:
        deals(programs.directory, 2, answered(1, duration_ms=2000.0), answered(2, duration_ms=4000.0))
        program = replay(programs, handler, "1", "--dry-run", "--json")
        assert json_lines(program)[-1]["total"]["seconds"] == 6.0

    def test_a_gap_that_is_cut_is_said(self, programs: Programs, handler: RawServer) -> None:
        later = recording(2, received_at=MOMENT + timedelta(hours=3))
        back = recording(3, received_at=MOMENT + timedelta(hours=1))
        write(programs.directory / "recordings", 1, recording(1), later, back)
        shown = output(replay(programs, handler, "1", "--dry-run", "--speed", "1"))
        assert "over 1 min" in shown
        assert "1 longer gap cut to 1 min" in shown
        assert "clock" in shown


class TestVariations:
    def test_a_seed_is_printed_and_makes_the_same_again(self, programs: Programs, handler: RawServer) -> None:
        deals(programs.directory, 20)
        program = replay(programs, handler, "1", "--shuffle", "--drop", "25%", "--times", "2")
        seed = errors(program).partition("the seed is ")[2].partition(":")[0]
        first = [number_of(request) for request in handler.requests]
        replay(programs, handler, "1", "--shuffle", "--drop", "25%", "--times", "2", "--seed", seed)
        assert [number_of(request) for request in handler.requests[len(first) :]] == first
        assert sorted(first) != first
        assert all(first.count(number) == 2 for number in first)


class TestInterruption:
    def test_ctrl_c_leaves_a_true_report_and_resume_sends_the_rest(
        self, programs: Programs, handler: RawServer
    ) -> None:
        deals(programs.directory, 30)
        release = threading.Event()
        handler.answer = lambda request: (
            (number_of(request) >= 10 and release.wait(DEADLINE) and None) or answer_with()
        )
        program = programs.b24tunnel("replay", "1", "--to", handler.url)
        handler.wait_for(10)
        assert program.stop() == 130, str(program)
        release.set()
        assert "10 sent, 1 failed, 1 cut off before the answer." in output(program)
        assert "Interrupted.\n'b24tunnel replay --resume' sends what was not delivered." in output(program)
        sent = sum(line.startswith("1-") for line in program.lines)
        assert sent == 10
        again = programs.run("replay", "--resume")
        assert code_of(again) == 0, str(again)
        numbers = [number_of(request) for request in handler.requests]
        # The tenth was under way: nobody knows what the handler made of it, so it goes again.
        assert numbers == [*range(1, 11), *range(10, 31)]
        whole = programs.run("replay", "--resume")
        assert code_of(whole) == 0
        assert "nothing is left to send" in output(whole)
        assert len(handler.requests) == 31

    def test_a_killed_run_is_resumed_with_its_options(self, programs: Programs, handler: RawServer) -> None:
        deals(programs.directory, 40)
        release = threading.Event()
        handler.answer = lambda request: (
            (len(handler.requests) > 15 and release.wait(DEADLINE) and None) or answer_with()
        )
        options = ("--shuffle", "--times", "2", "--set", "data.FIELDS.ID=1000", "--header", "X-Own: 7")
        program = programs.b24tunnel("replay", "1", "--to", handler.url, *options)
        handler.wait_for(16)
        journal = Journal.open(programs.directory / "recordings")
        wait_until(
            lambda: sum(len(journal.attempts(f"1-{n}")) for n in range(1, 41)) >= 15, "the attempts are noted"
        )
        program.kill()
        release.set()
        seed = errors(program).partition("the seed is ")[2].partition(":")[0]
        before = len(handler.requests)
        assert before == 16
        again = programs.run("replay", "--resume")
        assert code_of(again) == 0, str(again)
        assert f"the seed is {seed}" in errors(again)
        after = handler.requests[before:]
        assert len(after) == 80 - 15
        assert {request.header(b"X-Own")[0] for request in after} == {b"7"}
        assert {number_of(request) for request in after} == {1000}
        ids = [request.header(b"X-B24tunnel-Recording")[0] for request in handler.requests]
        assert all(ids.count(one) >= 2 for one in ids)

    def test_a_handler_that_dies_in_the_middle(self, programs: Programs, handler: RawServer) -> None:
        deals(programs.directory, 6)
        handler.answer = lambda request: RESET if number_of(request) == 3 else answer_with()
        stopped = replay(programs, handler, "1", "--on-error", "stop")
        assert code_of(stopped) == 1
        assert [number_of(request) for request in handler.requests] == [1, 2, 3]
        assert "Stopped at the first that failed" in output(stopped)
        handler.answer = answer_with()
        # The third reached the handler, whatever that made of it.
        assert code_of(programs.run("replay", "--resume")) == 0
        assert [number_of(request) for request in handler.requests] == [1, 2, 3, 4, 5, 6]
        handler.answer = lambda request: RESET if number_of(request) == 3 else answer_with()
        went_on = replay(programs, handler, "1", "--on-error", "continue")
        assert code_of(went_on) == 1
        assert len(handler.requests) == 12

    def test_what_never_reached_a_handler_goes_out_with_resume(self, programs: Programs) -> None:
        deals(programs.directory, 3)
        with RawServer(listening=False) as handler:
            assert code_of(replay(programs, handler, "1")) == 1
            handler.listen()
            again = programs.run("replay", "--resume")
            assert code_of(again) == 0, str(again)
            assert [number_of(request) for request in handler.requests] == [1, 2, 3]

    def test_a_resumed_run_may_be_sent_elsewhere(self, programs: Programs, handler: RawServer) -> None:
        deals(programs.directory, 2)
        assert code_of(programs.run("replay", "1", "--to", f"http://127.0.0.1:{free_port()}/")) == 1
        assert code_of(replay(programs, handler, "--resume")) == 0
        assert len(handler.requests) == 2

    def test_what_was_recorded_meanwhile_is_no_part_of_it(self, programs: Programs, handler: RawServer) -> None:
        deals(programs.directory, 2)
        assert code_of(programs.run("replay", "*", "--to", f"http://127.0.0.1:{free_port()}/")) == 1
        later = recording(1, id="7-1", received_at=datetime.now(UTC) + timedelta(seconds=1))
        write(programs.directory / "recordings", 7, later, SessionEnd(0))
        assert code_of(replay(programs, handler, "--resume")) == 0
        assert [request.header(b"X-B24tunnel-Recording")[0] for request in handler.requests] == [b"1-1", b"1-2"]

    def test_the_second_ctrl_c_leaves_at_once(self, programs: Programs, handler: RawServer) -> None:
        deals(programs.directory, 2)
        handler.hold = threading.Event()
        program = programs.b24tunnel("replay", "1", "--to", handler.url)
        handler.wait_for(1)
        os.kill(program.process.pid, signal.SIGINT)
        os.kill(program.process.pid, signal.SIGINT)
        assert program.wait() == 130
        assert "Traceback" not in errors(program)


class TestJUnit:
    def test_it_is_there_whoever_reads_the_screen(self, programs: Programs, handler: RawServer) -> None:
        deals(programs.directory, 1)
        path = programs.directory / "results.xml"
        for redirected in ("| head -c 0", ">/dev/full", "2>&-"):
            command = f"{sys.executable} -m b24tunnel replay 1 --to {handler.url} --junit {path} {redirected}"
            programs.start("bash", "-c", command).wait()
            (suite,) = JUnitXml.fromfile(str(path))
            assert suite.tests == 1
            path.unlink()
            assert not list(programs.directory.glob(".junit*"))

    def test_a_run_with_nothing_left_has_an_empty_one(self, programs: Programs, handler: RawServer) -> None:
        deals(programs.directory, 1)
        path = programs.directory / "results.xml"
        assert code_of(replay(programs, handler, "1")) == 0
        program = programs.run("replay", "--resume", "--json", "--junit", str(path))
        assert code_of(program) == 0
        assert json_lines(program)[0]["total"]["ok"] is True
        (suite,) = JUnitXml.fromfile(str(path))
        assert suite.tests == 0

    def test_opens_in_a_parser(self, programs: Programs, handler: RawServer) -> None:
        deals(programs.directory, 3, answered(3, body=b"before"))
        handler.answer = lambda request: (
            RESET if number_of(request) == 2 else answer_with("200 OK", b"\x01 now <&>")
        )
        path = programs.directory / "results.xml"
        assert code_of(replay(programs, handler, "1", "--compare", "--junit", str(path))) == 1
        suites = JUnitXml.fromfile(str(path))
        (suite,) = suites
        assert (suite.tests, suite.failures, suite.errors) == (3, 2, 1)
        assert [case.classname for case in suite] == ["ONCRMDEALADD"] * 3
        if shutil.which("xmllint"):
            subprocess.run(["xmllint", "--noout", str(path)], check=True)


def test_each_to_the_path_that_it_came_to(programs: Programs, handler: RawServer) -> None:
    targets = ("/install?lang=ru", "/a b/Сделка", "http://elsewhere.example/tab?x=1")
    write(programs.directory / "recordings", 1, *(recording(n, target=t) for n, t in enumerate(targets, 1)))
    program = programs.run("replay", "1", "--path", "recorded", "--to", handler.url + "?own=1")
    assert code_of(program) == 0, str(program)
    assert [request.line.split()[1] for request in handler.requests] == [
        b"/install?own=1&lang=ru",
        b"/a%20b/%D0%A1%D0%B4%D0%B5%D0%BB%D0%BA%D0%B0?own=1",
        b"/tab?own=1&x=1",
    ]


def test_every_option_has_its_part(programs: Programs, handler: RawServer) -> None:
    deals(programs.directory, 4)
    program = replay(
        programs,
        handler,
        "1",
        *("--where", "data.FIELDS.ID>=3", "--unset", "auth.application_token", "--path", "/other?x=1"),
        *("--header", "User-Agent: mine", "--rate", "500", "--concurrency", "2"),
    )
    assert code_of(program) == 0, str(program)
    assert sorted(number_of(request) for request in handler.requests) == [3, 4]
    for request in handler.requests:
        assert request.line == b"POST /other?x=1 HTTP/1.1"
        assert request.body == f"event=ONCRMDEALADD&data%5BFIELDS%5D%5BID%5D={number_of(request)}".encode()
        assert request.header(b"User-Agent") == [b"mine"]
    assert " ms late (median)" in output(program)


class TestResuming:
    def test_the_handler_that_it_was_resumed_with_is_kept(self, programs: Programs, handler: RawServer) -> None:
        deals(programs.directory, 4)
        dead = f"http://127.0.0.1:{free_port()}/"
        assert code_of(programs.run("replay", "1", "--to", dead, "--on-error", "stop")) == 1
        handler.answer = lambda request: answer_with("500 Oh") if number_of(request) == 2 else answer_with()
        assert code_of(replay(programs, handler, "--resume")) == 1
        assert [number_of(request) for request in handler.requests] == [1, 2]
        handler.answer = answer_with()
        # Without a --to it is the one of the last time, and not the dead one of the first.
        assert code_of(programs.run("replay", "--resume")) == 0
        assert [number_of(request) for request in handler.requests] == [1, 2, 3, 4]

    def test_options_behind_a_double_dash_stay_selectors(self, programs: Programs, handler: RawServer) -> None:
        deals(programs.directory, 3)
        dead = f"http://127.0.0.1:{free_port()}/"
        assert code_of(programs.run("replay", "--shuffle", "--to", dead, "--", "1")) == 1
        again = replay(programs, handler, "--resume")
        assert code_of(again) == 0, str(again)
        assert len(handler.requests) == 3
        assert code_of(programs.run("replay", "--resume")) == 0

    def test_what_was_selected_relative_to_then_is_still_meant(
        self, programs: Programs, handler: RawServer
    ) -> None:
        now = datetime.now(UTC)
        write(
            programs.directory / "recordings",
            1,
            *(recording(n, received_at=now - timedelta(seconds=3 if n > 1 else 3600)) for n in (1, 2, 3)),
        )
        dead = f"http://127.0.0.1:{free_port()}/"
        assert code_of(programs.run("replay", "last:2", "--since", "10m", "--to", dead)) == 1
        later = [recording(n, id=f"7-{n}", received_at=datetime.now(UTC)) for n in (1, 2, 3)]
        write(programs.directory / "recordings", 7, *later, SessionEnd(0))
        assert code_of(replay(programs, handler, "--resume")) == 0
        assert [request.header(b"X-B24tunnel-Recording")[0] for request in handler.requests] == [b"1-2", b"1-3"]

    def test_nothing_is_offered_where_the_last_one_ended_it(self, programs: Programs, handler: RawServer) -> None:
        deals(programs.directory, 2)
        handler.answer = lambda request: answer_with("500 Oh") if number_of(request) == 2 else answer_with()
        stopped = replay(programs, handler, "1", "--on-error", "stop")
        assert code_of(stopped) == 1
        assert "--resume" not in output(stopped)
        again = programs.run("replay", "--resume")
        assert (code_of(again), len(handler.requests)) == (0, 2)

    def test_the_second_handlers_answers_are_no_deliveries(self, programs: Programs, handler: RawServer) -> None:
        deals(programs.directory, 2)
        dead = f"http://127.0.0.1:{free_port()}/"
        assert code_of(programs.run("replay", "1", "--to", dead, "--against", handler.url)) == 1
        assert len(handler.requests) == 2
        with RawServer() as other:
            again = programs.run("replay", "--resume", "--to", other.url)
            assert [number_of(request) for request in other.requests] == [1, 2], str(again)
            compared = programs.run("replay", "1", "--compare", "--to", other.url)
        assert code_of(compared) == 0, str(compared)

    def test_of_two_at_the_same_time_one_sends(self, programs: Programs, handler: RawServer) -> None:
        deals(programs.directory, 30)
        dead = f"http://127.0.0.1:{free_port()}/"
        assert code_of(programs.run("replay", "1", "--to", dead)) == 1
        both = [programs.b24tunnel("replay", "--resume", "--to", handler.url) for _ in range(2)]
        codes = sorted(program.wait() for program in both)
        assert [number_of(request) for request in handler.requests] == list(range(1, 31)), [
            str(one) for one in both
        ]
        # The later one has either met the other, or come when nothing was left.
        assert codes in ([0, 2], [0, 0]), [str(one) for one in both]
        assert code_of(programs.run("replay", "--resume")) == 0
        assert len(handler.requests) == 30

    def test_the_first_runs_junit_file_stays(self, programs: Programs, handler: RawServer) -> None:
        deals(programs.directory, 3)
        path = programs.directory / "first.xml"
        handler.answer = lambda request: answer_with("500 Oh") if number_of(request) == 2 else answer_with()
        assert code_of(replay(programs, handler, "1", "--on-error", "stop", "--junit", str(path))) == 1
        first = path.read_bytes()
        (suite,) = JUnitXml.fromfile(str(path))
        assert (suite.failures, suite.skipped) == (1, 1)
        handler.answer = answer_with()
        other = programs.directory / "second.xml"
        assert code_of(programs.run("replay", "--resume", "--junit", str(other))) == 0
        assert path.read_bytes() == first
        (suite,) = JUnitXml.fromfile(str(other))
        assert (suite.tests, suite.failures) == (1, 0)


def test_a_token_that_was_changed_is_on_no_screen_either(programs: Programs, handler: RawServer) -> None:
    deals(programs.directory, 1, answered(1, body=f"the token was {TOKEN}".encode(), headers=()))
    handler.answer = answer_with("200 OK", b"the token was another-secret-token", "Set-Cookie: id=a-secret-cookie")
    junit = programs.directory / "junit.xml"
    options = (
        "--compare",
        "--compare-header",
        "Set-Cookie",
        "--set",
        "auth.application_token=another-secret-token",
    )
    for more in ((), ("--json",), ("--junit", str(junit))):
        program = replay(programs, handler, "1", *options, *more)
        assert code_of(program) == 1
        seen = output(program) + errors(program) + (junit.read_text("utf-8") if junit.exists() else "")
        for secret in (TOKEN, "another-secret-token", "a-secret-cookie"):
            assert secret not in seen


def test_what_was_pruned_meanwhile_is_no_success(programs: Programs, handler: RawServer) -> None:
    for session in (1, 2):
        # More than a run has read ahead when it sends the first.
        some = (recording(number, id=f"{session}-{number}") for number in range(1, 601))
        write(programs.directory / "recordings", session, *some, SessionEnd(0))
    handler.hold = threading.Event()
    program = programs.b24tunnel("replay", "*", "--to", handler.url)
    handler.wait_for(1)
    (programs.directory / "recordings" / "journal" / "session-000002-001.jsonl").unlink()
    handler.hold.set()
    program.wait()
    assert code_of(program) == 3, str(program)
    assert len(handler.requests) == 600
    assert "600 sent, all answered 2xx.\n" in output(program)
    assert "\nInterrupted.\n'b24tunnel replay --resume'" in output(program)
    assert "session-000002-001.jsonl" in errors(program)

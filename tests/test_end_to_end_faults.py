"""What goes wrong on the developer's side never reaches Bitrix24, is told plainly, and loses nothing."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from programs import Program, Programs, wait_until
from raw_server import RESET, RawServer, answer_with, deliver
from rest_call import rest

from b24tunnel import Journal
from b24tunnel.portal import State
from b24tunnel.session import handler_segment


def listening(programs: Programs, *options: str) -> tuple[Program, str]:
    """A `listen` that binds nothing and is ready, and its handler URL."""
    listen = programs.b24tunnel("listen", "--no-bind", "--tunnel", "local", "--output", "json", *options)
    return listen, listen.next_json("ready")["handler_url"]


def body(number: int | str) -> bytes:
    return f"event=ONCRMDEALUPDATE&data%5BFIELDS%5D%5BID%5D={number}".encode()


def send(address: str, *bodies: bytes) -> None:
    """Deliver each and insist that it is acknowledged."""
    for each in bodies:
        answer = deliver(address, each)
        assert (answer.status, answer.body) == (200, b"")


def happenings(program: Program, kind: str) -> list[dict[str, Any]]:
    return [happening for line in program.lines if (happening := json.loads(line))["type"] == kind]


def journal_of(programs: Programs) -> Journal:
    return Journal.open(programs.directory / "recordings")


def recorded_bodies(programs: Programs) -> list[bytes]:
    return [recording.body for recording in journal_of(programs).recordings()]


@pytest.fixture
def handler() -> Iterator[RawServer]:
    with RawServer() as server:
        yield server


@pytest.fixture
def absent_handler() -> Iterator[RawServer]:
    """A handler that is not up yet: connections to it are refused until it is told to `listen`."""
    with RawServer(listening=False) as server:
        yield server


BODIES = [body(number) for number in range(1, 6)]


def test_events_wait_for_a_handler_that_is_down_and_go_on_in_order_when_it_is_up(
    programs: Programs, absent_handler: RawServer
) -> None:
    handler = absent_handler
    listen, address = listening(programs, "--forward", handler.url, "--concurrency", "1")
    send(address, *BODIES)
    assert "cannot be reached" in listen.next_json("trouble")["message"]
    handler.listen()
    handler.wait_for(len(BODIES))
    assert listen.stop() == 0
    assert handler.bodies() == BODIES
    [end] = happenings(listen, "stopped")
    assert (end["recorded"], end["answered"], end["failed"], end["pending"]) == (5, 5, 0, 0)
    [back] = happenings(listen, "note")
    assert "takes events again" in back["message"]


def test_a_handler_that_comes_up_under_load_gets_each_event_once(programs: Programs) -> None:
    with RawServer(listening=False) as handler:
        listen, address = listening(programs, "--forward", handler.url)
        send(address, *(body(number) for number in range(50)))
        listen.next_json("trouble")
        handler.listen()
        send(address, *(body(number) for number in range(50, 100)))
        handler.wait_for(100)
        assert listen.stop() == 0
        assert sorted(handler.bodies()) == sorted(body(number) for number in range(100))


def test_acknowledgements_do_not_wait_for_a_slow_handler(programs: Programs) -> None:
    with RawServer(hold=threading.Event()) as handler:
        listen, address = listening(programs, "--forward", handler.url, "--concurrency", "2")
        send(address, *(body(number) for number in range(20)))
        handler.wait_for(2)
        # All are acknowledged and on disk, and the handler has not answered one.
        assert len(recorded_bodies(programs)) == 20
        assert handler.answered == 0
        assert handler.hold is not None
        handler.hold.set()
        handler.wait_for(20)
        wait_until(lambda: len(happenings(listen, "attempt")) == 20, "20 attempts told")
        assert listen.stop() == 0
    assert [attempt["status"] for attempt in happenings(listen, "attempt")] == [200] * 20


def test_a_handler_that_is_slow_when_the_tool_stops_is_told_as_interrupted_and_tried_again(
    programs: Programs,
) -> None:
    with RawServer(hold=threading.Event()) as handler:
        listen, address = listening(programs, "--forward", handler.url)
        send(address, body(1))
        handler.wait_for(1)
        assert listen.stop() == 0
        [attempt] = happenings(listen, "attempt")
        assert attempt["error"].startswith("interrupted")
        assert handler.hold is not None
        handler.hold.set()
        again, _ = listening(programs, "--forward", handler.url, "--resume")
        handler.wait_for(2)
        assert again.stop() == 0
        assert handler.bodies() == [body(1)] * 2


@pytest.mark.parametrize(
    ("answer", "options", "words", "status"),
    [
        pytest.param(answer_with("204 No Content"), (), "204 in", 204, id="no-content"),
        pytest.param(
            answer_with("500 Internal Server Error", b"division by zero\nin handler.php"),
            (),
            "500 in",
            500,
            id="500",
        ),
        pytest.param(answer_with("302 Found", b"", "Location: /login"), (), "302 in", 302, id="redirect"),
        pytest.param(RESET, (), "connection reset: ", None, id="reset"),
        pytest.param(b"", (), "connection closed: ", None, id="hang-up"),
        pytest.param(b"what?\r\n\r\n", (), "", None, id="no-http"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", (), "", None, id="half-an-answer"),
        pytest.param(
            *(None, ("--timeout", "0.3"), "timed out: no whole answer within 0.3 s", None), id="time-out"
        ),
        pytest.param(None, (), "cannot connect: connection refused", None, id="refused"),
    ],
)
def test_what_the_handler_makes_of_an_event_is_told_plainly(
    programs: Programs,
    request: pytest.FixtureRequest,
    answer: bytes | None,
    options: tuple[str, ...],
    words: str,
    status: int | None,
) -> None:
    kind = request.node.callspec.id
    hold = threading.Event() if kind == "time-out" else None
    with RawServer(answer, listening=kind != "refused", hold=hold) as handler:
        listen, address = listening(programs, "--forward", handler.url, *options)
        send(address, body(7))
        told = listen.next_json("attempt")
        assert listen.stop() == 0
        assert len(handler.requests) == (0 if kind == "refused" else 1), "a delivery is handed over once"
    assert told["status"] == status
    if status is None:
        assert told["error"].startswith(words)
        assert "\n" not in told["error"], "one line, for a table has one line a recording"
        assert "Error" not in told["error"], "words, not the name of a class"
    failed = status is None or not 200 <= status < 300

    listed = programs.run("list")
    assert words in listed.lines[-1], str(listed)
    [row] = [json.loads(line) for line in programs.run("list", "--json").lines]
    [attempt] = row["attempts"]
    assert (attempt["status"], attempt["error"]) == (told["status"], told["error"])
    assert (attempt["cause"], attempt["recording"], attempt["target"]) == ("forward", "1-1", handler.url)
    only_failed = programs.run("list", "--failed", "--json")
    assert len(only_failed.lines) == failed

    shown = "".join(programs.run("show", "1-1").lines)
    assert "Attempt 1 (forward, " in shown
    assert words in shown
    whole = json.loads(programs.run("show", "1-1", "--json").lines[0])
    assert whole["attempts"] == row["attempts"]
    if kind == "500":
        assert "division by zero\n  in handler.php" in shown
        assert attempt["body"] == "division by zero\nin handler.php"


@pytest.mark.parametrize("end", ["ctrl-c", "kill"])
def test_what_was_not_handed_over_is_offered_at_the_next_start_and_handed_over_once(
    programs: Programs, absent_handler: RawServer, end: str
) -> None:
    handler = absent_handler
    to_handler = ("--forward", handler.url, "--concurrency", "1")
    first, address = listening(programs, *to_handler)
    send(address, *BODIES)
    first.next_json("trouble")
    if end == "kill":
        first.kill()
    else:
        assert first.stop() == 0
        assert happenings(first, "stopped")[0]["pending"] == len(BODIES)
    handler.listen()
    ids = [f"1-{number}" for number in range(1, 6)]

    second, _ = listening(programs, *to_handler)
    assert second.stop() == 0
    [offer] = happenings(second, "pending")
    assert (offer["recordings"], offer["resumed"]) == (ids, False)
    assert handler.requests == []

    third, address = listening(programs, *to_handler, "--resume")
    send(address, body("new"))
    handler.wait_for(6)
    assert third.stop() == 0
    [offer] = happenings(third, "pending")
    assert (offer["recordings"], offer["resumed"]) == (ids, True)
    assert handler.bodies() == [*BODIES, body("new")]

    fourth, _ = listening(programs, *to_handler, "--resume")
    assert fourth.stop() == 0
    assert happenings(fourth, "pending") == []
    assert len(handler.requests) == 6


@pytest.mark.parametrize("opener", ["listen", "list", "show", "replay"])
def test_a_torn_last_line_is_reported_once_and_cut_off(
    programs: Programs, handler: RawServer, opener: str
) -> None:
    listen, address = listening(programs)
    send(address, body(1), body(2))
    listen.kill()
    [segment] = (programs.directory / "recordings" / "journal").glob("session-*.jsonl")
    whole = segment.read_bytes()
    torn = whole.split(b"\n")[-2][:100]
    segment.write_bytes(whole + torn)

    def open_with_it() -> str:
        if opener == "listen":
            again, _ = listening(programs)
            assert again.stop() == 0
            return "".join(happening["message"] for happening in happenings(again, "trouble"))
        arguments = {"list": ("list",), "show": ("show", "last"), "replay": ("replay", "1", "--to", handler.url)}
        ran = programs.run(*arguments[opener])
        assert ran.process.returncode == 0, str(ran)
        return "".join(ran.errors)

    first, second = open_with_it(), open_with_it()
    assert first.count("ession 1 ended in the middle of a write") == 1
    assert f"({len(torn)} bytes, never acknowledged)" in first
    assert second == ""
    assert segment.read_bytes() == whole
    [aside] = segment.parent.glob("*.torn")
    assert aside.read_bytes() == torn
    assert recorded_bodies(programs) == [body(1), body(2)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_unbinds_prints_the_sum_and_exits_with_0(
    programs: Programs, handler: RawServer, number: signal.Signals
) -> None:
    credentials = programs.b24tunnel("sandbox", "--port", "0", "--delay", "0", "--json").next_json()
    listen = programs.b24tunnel(
        *("listen", "ONCRMDEALADD", "oncrmdealupdate", "--portal", "sandbox", "--forward", handler.url),
        *("--output", "plain"),
    )
    wait_until(lambda: [row.state for row in State.open().ledger()] == ["bound"] * 2, "two rows in the ledger")
    assert {row["event"] for row in rest(credentials, "event.get")} == {"ONCRMDEALADD", "ONCRMDEALUPDATE"}
    rest(credentials, "crm.deal.add", fields={"TITLE": "First"})
    handler.wait_for(1)
    wait_until(lambda: any("→ 200" in line for line in listen.lines), "the attempt is told")
    listen.send_signal(number)
    assert listen.wait() == 0, str(listen)
    assert listen.lines[-1] == "Session 1 ended: 1 recorded, 1 answered 2xx, 0 failed, 0 still to be forwarded.\n"
    assert listen.errors == []
    assert rest(credentials, "event.get") == []
    assert State.open().ledger() == []


def test_what_a_killed_run_left_bound_is_unbound_at_the_next_start(programs: Programs) -> None:
    credentials = programs.b24tunnel("sandbox", "--port", "0", "--json").next_json()
    arguments = ("listen", "ONCRMDEALADD", "--portal", "sandbox", "--output", "json")
    killed = programs.b24tunnel(*arguments)
    left = killed.next_json("ready")["handler_url"]
    killed.kill()
    assert [row["handler"] for row in rest(credentials, "event.get")] == [left]
    listen = programs.b24tunnel(*arguments)
    ready = listen.next_json("ready")
    assert [row["handler"] for row in rest(credentials, "event.get")] == [ready["handler_url"]]
    assert listen.stop() == 0
    assert any("crashed run" in happening["message"] for happening in happenings(listen, "note"))
    assert rest(credentials, "event.get") == []
    assert State.open().ledger() == []


def test_two_at_the_same_time_in_one_directory_have_sessions_of_their_own(
    programs: Programs, handler: RawServer
) -> None:
    both = [
        programs.b24tunnel("listen", "--no-bind", "--forward", handler.url, "--output", "json") for _ in range(2)
    ]
    ready = [listen.next_json("ready") for listen in both]
    assert {each["session"] for each in ready} == {1, 2}
    for each in ready:
        send(each["handler_url"], body(f"for.{each['session']}"), body(f"also.{each['session']}"))
    handler.wait_for(4)
    assert [listen.stop() for listen in both] == [0, 0]
    journal = journal_of(programs)
    for session in (1, 2):
        mine = {recording.id: recording.body for recording in journal.recordings(session)}
        assert mine == {f"{session}-1": body(f"for.{session}"), f"{session}-2": body(f"also.{session}")}
    assert len(handler.requests) == 4, "neither hands over what the other has recorded"


def test_those_that_start_at_the_same_moment_agree_on_the_handlers_path(tmp_path: Path) -> None:
    starters = 8
    with ThreadPoolExecutor(starters) as pool:
        for turn in range(30):
            together = threading.Barrier(starters)

            def start(directory: Path = tmp_path / str(turn), together: threading.Barrier = together) -> str:
                together.wait()
                return handler_segment(directory)

            segments = {started.result() for started in [pool.submit(start) for _ in range(starters)]}
            assert len(segments) == 1

"""Replay: what a selector names, what is sent, and what the report says of it."""

import asyncio
import contextlib
import json
import socket
import threading
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from raw_cases import RAW_CASES

import b24tunnel
from b24tunnel.errors import WrongUsage
from b24tunnel.formats.fixture import FixtureUnreadable
from b24tunnel.journal import Journal, files
from b24tunnel.recording import Attempt, Recording, SessionStart, to_line
from b24tunnel.replaying import Report, Result, areplay, replay
from b24tunnel.selecting import select, select_one

DEADLINE = 20.0
NOW = datetime(2026, 11, 25, 14, 15, 3, tzinfo=UTC)


def recording(id: str, code: str | None = "ONCRMDEALADD", body: bytes = b"event=x") -> Recording:
    return Recording(id, NOW, "POST", "/b24/x", (("X-Own", "1"),), body, code=code)


def an_attempt(**changes: Any) -> Attempt:
    return Attempt(**{"recording": "1-1", "cause": "replay", "target": "http://h/", "started_at": NOW, **changes})


def write(directory: Path, session: int, *recordings: Recording) -> None:
    files.prepare_directory(directory / "journal")
    records = [SessionStart(session, NOW), *recordings]
    files.segment_path(directory / "journal", session, 1).write_bytes(b"".join(map(to_line, records)))


def names_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def save(path: Path, one: Recording) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(one.to_json(), indent=2, ensure_ascii=False), "utf-8")
    return path


class Handler:
    """A handler in a thread of its own: ``answer`` makes a status of a request's body."""

    def __init__(self) -> None:
        self.answer: Callable[[bytes], int] = lambda body: 200
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.under_way = 0
        self.most_under_way = 0
        self.arrived = threading.Condition()
        handler = self

        class Http(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                with handler.arrived:
                    handler.requests.append((self.path, dict(self.headers.items()), body))
                    handler.under_way += 1
                    handler.most_under_way = max(handler.most_under_way, handler.under_way)
                    handler.arrived.notify_all()
                status = handler.answer(body)
                with handler.arrived:
                    handler.under_way -= 1
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Http)
        self.url = f"http://127.0.0.1:{self._server.server_port}/handler"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join(DEADLINE)
        self._server.server_close()

    def bodies(self) -> list[bytes]:
        return [body for _, _, body in self.requests]


@pytest.fixture
def handler() -> Iterator[Handler]:
    handler = Handler()
    yield handler
    handler.stop()


class TestSelectors:
    @pytest.fixture
    def chosen(self, tmp_path: Path) -> Callable[..., list[str]]:
        """The ids that selectors name, in a journal of three sessions with two fixtures beside it."""
        write(tmp_path, 1, recording("1-1"), recording("1-2", "ONCRMDEALUPDATE"))
        write(tmp_path, 3, recording("3-1", "onappuninstall"), recording("3-2", None))
        write(tmp_path, 12, recording("12-1"), recording("12-2", "ONIMBOTMESSAGEADD"))
        save(tmp_path / "saved-deal.json", recording("9-9"))
        save(tmp_path / "elsewhere" / "other.json", recording("9-8"))
        journal = Journal.open(tmp_path)
        return lambda *selectors: [one.id for one in select(journal, selectors, tmp_path)]

    @pytest.mark.parametrize(
        ("selector", "expected"),
        [
            ("1-2", ["1-2"]),
            ("12-1", ["12-1"]),
            ("last", ["12-2"]),
            ("last:1", ["12-2"]),
            ("last:3", ["3-2", "12-1", "12-2"]),
            ("last:999999999", ["1-1", "1-2", "3-1", "3-2", "12-1", "12-2"]),
            ("12", ["12-1", "12-2"]),
            ("3", ["3-1", "3-2"]),
            ("ONCRMDEALADD", ["1-1", "12-1"]),
            ("oncrmdealadd", ["1-1", "12-1"]),
            ("OnAppUninstall", ["3-1"]),
            ("ONCRM*", ["1-1", "1-2", "12-1"]),
            ("oncrmdeal[!a]*", ["1-2"]),
            ("*", ["1-1", "1-2", "3-1", "3-2", "12-1", "12-2"]),
            ("*MESSAGE*", ["12-2"]),
            ("saved-deal", ["saved-deal"]),
            ("saved-deal.json", ["saved-deal"]),
        ],
    )
    def test_a_selector_names_recordings_oldest_first(
        self, chosen: Callable[..., list[str]], selector: str, expected: list[str]
    ) -> None:
        assert chosen(selector) == expected

    def test_a_path_names_a_fixture_anywhere(self, chosen: Callable[..., list[str]], tmp_path: Path) -> None:
        assert chosen(str(tmp_path / "elsewhere" / "other.json")) == ["other"]

    def test_several_are_taken_in_their_own_order(self, chosen: Callable[..., list[str]]) -> None:
        assert chosen("12", "1-1", "saved-deal", "12-1") == ["12-1", "12-2", "1-1", "saved-deal", "12-1"]

    @pytest.mark.parametrize(
        "selector",
        [
            *(
                "1-3",
                "4-1",
                "4",
                "last:0",
                "ONTASKADD",
                "ONTASK*",
                "nothing",
                "nothing.json",
                "elsewhere/none.json",
            ),
            *(
                "",
                ".",
                "..",
                "/",
                "0",
                "01",
                "last:",
                "last:-1",
                "1-",
                "A" * 300,
                "a\0b",
                "A" * 5000 + ".json",
                "[",
                "*/",
            ),
        ],
        ids=lambda selector: selector[:10].replace("\0", "NUL") or "empty",
    )
    def test_one_that_names_nothing_is_wrong_usage(self, chosen: Callable[..., list[str]], selector: str) -> None:
        with pytest.raises(WrongUsage):
            chosen(selector)

    def test_it_is_refused_before_anything_is_given_out(self, chosen: Any, tmp_path: Path) -> None:
        with pytest.raises(WrongUsage, match=r"'nothing' selects no recording: .*b24tunnel list"):
            select(Journal.open(tmp_path), ["1-1", "nothing"], tmp_path)

    def test_a_fixture_that_cannot_be_read_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "spoiled.json").write_text("{")
        with pytest.raises(FixtureUnreadable, match=r"spoiled\.json"):
            select(Journal.open(tmp_path), ["spoiled"], tmp_path)

    def test_an_empty_journal_has_no_last(self, tmp_path: Path) -> None:
        with pytest.raises(WrongUsage):
            select(Journal.open(tmp_path), ["last"], tmp_path)

    @pytest.mark.parametrize(("selector", "expected"), [("1-1", "1-1"), ("last", "12-2")])
    def test_one_is_the_one_that_it_names(self, chosen: Any, tmp_path: Path, selector: str, expected: str) -> None:
        assert select_one(Journal.open(tmp_path), selector, tmp_path).id == expected

    @pytest.mark.parametrize("selector", ["last:2", "ONCRM*", "1"])
    def test_one_is_not_chosen_out_of_several(self, chosen: Any, tmp_path: Path, selector: str) -> None:
        with pytest.raises(WrongUsage, match="several"):
            select_one(Journal.open(tmp_path), selector, tmp_path)

    def test_a_code_in_capitals_is_never_a_fixture_of_that_name(self, chosen: Any, tmp_path: Path) -> None:
        (tmp_path / "oncrmdealadd.json").write_text("{}")
        assert all(one.session for one in select(Journal.open(tmp_path), ["ONCRMDEALADD"], tmp_path))


class TestSending:
    async def test_every_real_delivery_arrives_byte_for_byte_and_in_order(self, handler: Handler) -> None:
        recordings = [recording(f"1-{n}", case.event, case.body) for n, case in enumerate(RAW_CASES, 1)]
        report = await areplay(recordings, handler.url, concurrency=1)
        assert report.ok
        assert handler.bodies() == [case.body for case in RAW_CASES]
        assert [headers["X-B24tunnel-Recording"] for _, headers, _ in handler.requests] == [
            one.id for one in recordings
        ]

    async def test_the_report_is_in_the_order_given_whoever_answers_first(self, handler: Handler) -> None:
        gate = threading.Event()

        def last_first(body: bytes) -> int:
            if body == b"0":
                assert gate.wait(DEADLINE)
            return 200 + int(body)

        handler.answer = last_first
        order: list[str] = []

        def answered(result: Result) -> None:
            order.append(result.recording.id)
            if order[-1] == "1-5":
                gate.set()

        recordings = [recording(f"1-{n + 1}", body=b"%d" % n) for n in range(5)]
        report = await areplay(recordings, handler.url, concurrency=2, on_result=answered)
        assert [attempt.recording for attempt in report.attempts] == [one.id for one in recordings]
        assert [attempt.status for attempt in report.attempts] == [200, 201, 202, 203, 204]
        assert order[-1] == "1-1"
        assert sorted(order) == [one.id for one in recordings]

    async def test_no_more_are_under_way_than_allowed(self, handler: Handler) -> None:
        gate = threading.Event()

        def wait(body: bytes) -> int:
            assert gate.wait(DEADLINE)
            return 200

        handler.answer = wait
        recordings = [recording(f"1-{n}") for n in range(1, 21)]
        replaying = asyncio.create_task(areplay(recordings, handler.url, concurrency=3))

        def three_arrived() -> bool:
            with handler.arrived:
                return handler.arrived.wait_for(lambda: handler.under_way == 3, DEADLINE)

        assert await asyncio.to_thread(three_arrived)
        gate.set()
        assert (await replaying).ok
        assert handler.most_under_way == 3
        assert len(handler.requests) == 20

    async def test_recordings_are_taken_one_by_one_as_they_are_sent(self, handler: Handler) -> None:
        taken: list[int] = []

        def endless() -> Iterator[Recording]:
            for number in range(1, 6):
                taken.append(number)
                assert len(taken) <= len(handler.requests) + 1
                yield recording(f"1-{number}")

        assert (await areplay(endless(), handler.url, concurrency=1)).ok

    async def test_a_handler_that_fails_is_in_the_report_and_the_others_go_on(self, handler: Handler) -> None:
        handler.answer = lambda body: 500 if body == b"2" else 204
        recordings = [recording(f"1-{n}", body=b"%d" % n) for n in range(1, 4)]
        report = await areplay(recordings, handler.url)
        assert not report.ok
        assert [(attempt.recording, attempt.status) for attempt in report.failed] == [("1-2", 500)]
        assert [attempt.cause for attempt in report.attempts] == ["replay"] * 3

    async def test_a_handler_that_is_away_is_in_the_report(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            report = await areplay(
                [recording("1-1"), recording("1-2")], f"http://127.0.0.1:{taken.getsockname()[1]}/"
            )
        assert not report.ok
        assert [attempt.error for attempt in report.failed] == ["cannot connect: connection refused"] * 2

    async def test_a_handler_that_is_too_slow_is_in_the_report(self, handler: Handler) -> None:
        gate = threading.Event()
        handler.answer = lambda body: 200 if gate.wait(DEADLINE) else 500
        try:
            report = await areplay([recording("1-1")], handler.url, timeout=0.1)
        finally:
            gate.set()
        assert report.failed[0].error == "timed out: no whole answer within 0.1 s"

    @pytest.mark.parametrize("url", ["", "handler", "ftp://h/", "http://", "http://h:99999/"])
    async def test_a_bad_address_is_wrong_usage_before_anything_is_taken(self, url: str) -> None:
        def never() -> Iterator[Recording]:
            pytest.fail("a recording was taken")
            yield

        with pytest.raises(WrongUsage):
            await areplay(never(), url)

    @pytest.mark.parametrize("concurrency", [0, -1, 1001])
    async def test_a_bad_number_is_wrong_usage(self, handler: Handler, concurrency: int) -> None:
        with pytest.raises(WrongUsage, match="1 to 1000"):
            await areplay([recording("1-1")], handler.url, concurrency=concurrency)
        assert handler.requests == []

    async def test_recordings_that_cannot_be_read_stop_it_and_leave_nothing_running(
        self, handler: Handler
    ) -> None:
        def breaking() -> Iterator[Recording]:
            yield recording("1-1")
            raise WrongUsage("broken")

        before = asyncio.all_tasks()
        with pytest.raises(WrongUsage, match="broken"):
            await areplay(breaking(), handler.url)
        assert asyncio.all_tasks() == before

    async def test_cancelled_it_leaves_nothing_running(self, handler: Handler) -> None:
        gate = threading.Event()
        handler.answer = lambda body: 200 if gate.wait(DEADLINE) else 500
        before = asyncio.all_tasks()
        replaying = asyncio.create_task(areplay([recording("1-1")], handler.url))

        def arrived() -> bool:
            with handler.arrived:
                return handler.arrived.wait_for(lambda: handler.requests, DEADLINE) != []

        assert await asyncio.to_thread(arrived)
        replaying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await replaying
        gate.set()
        assert asyncio.all_tasks() == before

    async def test_nothing_sent_is_not_ok(self, handler: Handler) -> None:
        report = await areplay([], handler.url)
        assert report.attempts == []
        assert not report.ok

    def test_a_report_is_ok_when_every_answer_is_2xx(self) -> None:
        good, bad = an_attempt(duration_ms=1.0, status=200), an_attempt(duration_ms=1.0, status=404)
        report = Report()
        report.add(Result(1, recording("1-1"), good))
        assert report.ok
        report.add(Result(2, recording("1-1"), bad, ("answered 404, expected 2xx",)))
        assert not report.ok
        assert report.failed == [bad]


class TestItsNotes:
    async def test_each_attempt_is_in_the_journal_as_a_session_of_its_own(
        self, handler: Handler, tmp_path: Path
    ) -> None:
        write(tmp_path, 4, recording("4-1"), recording("4-2"))
        journal = Journal.open(tmp_path)
        report = await areplay(journal.recordings(), handler.url, journal=journal)
        assert report.ok
        for id in ("4-1", "4-2"):
            [attempt] = journal.attempts(id)
            assert (attempt.cause, attempt.target, attempt.status) == ("replay", handler.url, 200)
        start, *_, end = files.segment_path(journal.directory, 5, 1).read_bytes().splitlines()
        assert json.loads(start)["purpose"] == "replay"
        assert json.loads(end)["kind"] == "end"
        assert journal.pending() == []

    async def test_a_bad_address_makes_no_session(self, tmp_path: Path) -> None:
        with pytest.raises(WrongUsage):
            await areplay([recording("1-1")], "nowhere", journal=Journal.open(tmp_path))
        assert names_in(tmp_path) == []

    async def test_the_session_ends_though_the_replay_failed(self, handler: Handler, tmp_path: Path) -> None:
        def breaking() -> Iterator[Recording]:
            yield recording("1-1")
            raise WrongUsage("broken")

        with pytest.raises(WrongUsage, match="broken"):
            await areplay(breaking(), handler.url, journal=Journal.open(tmp_path))
        [file] = (tmp_path / "journal").glob("session-*")
        assert not files.is_being_written(file)


class TestTheTwin:
    def test_it_needs_no_event_loop(self, handler: Handler) -> None:
        report = replay([recording("1-1", body=b"a=1")], to=handler.url)
        assert report.ok
        assert handler.bodies() == [b"a=1"]

    def test_the_package_offers_it(self, handler: Handler) -> None:
        assert b24tunnel.replay is replay
        assert b24tunnel.areplay is areplay
        assert b24tunnel.replay([recording("1-1")], handler.url, concurrency=1, timeout=DEADLINE).ok

    async def test_inside_a_loop_it_says_so(self, handler: Handler) -> None:
        with contextlib.suppress(ImportError), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            with pytest.raises(RuntimeError, match="event loop"):
                replay([recording("1-1")], to=handler.url)
        assert handler.requests == []

"""A run of replay from Python: what is sent, judged, compared, noted, and how it ends."""

from __future__ import annotations

import asyncio
import errno
import inspect
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from held_disk import Disk
from journal_files import write
from programs import DEADLINE
from raw_server import RESET, RawServer, Request, answer_with

from b24tunnel.errors import OutsideFailure, WrongUsage
from b24tunnel.journal import Journal
from b24tunnel.recording import Attempt, Recording
from b24tunnel.replaying import (
    Comparison,
    LikeBitrix24,
    OriginalPace,
    Rate,
    Report,
    Result,
    SetPath,
    SetValue,
    Variation,
    areplay,
    replay,
)
from b24tunnel.selecting import Narrowing, Selection

MOMENT = datetime(2026, 1, 5, 9, 30, 1, tzinfo=UTC)


def recording(number: int, **changes: Any) -> Recording:
    body = f"event=ONCRMDEALADD&data[FIELDS][ID]={number}"
    given = {
        "id": f"1-{number}",
        "received_at": MOMENT + timedelta(milliseconds=number),
        "method": "POST",
        "target": "/b24/x",
        "headers": (),
        "body": body.encode(),
        "code": "ONCRMDEALADD",
    }
    return Recording(**{**given, **changes})


def recordings(count: int) -> list[Recording]:
    return [recording(number) for number in range(1, count + 1)]


def number_of(request: Request) -> int:
    return int(request.body.rpartition(b"=")[2])


def answered(number: int, body: bytes, cause: Any = "forward", **changes: Any) -> Attempt:
    given = {"status": 200, "body": body, "duration_ms": 1.0, "started_at": MOMENT + timedelta(seconds=1)}
    return Attempt(**{"recording": f"1-{number}", "cause": cause, "target": "http://h/", **given, **changes})


@pytest.fixture
def handler() -> Iterator[RawServer]:
    with RawServer() as server:
        yield server


class TestWhatIsRight:
    async def test_a_result_has_the_recording_as_sent_and_what_is_wrong(self, handler: RawServer) -> None:
        handler.answer = lambda request: answer_with("404 No") if number_of(request) == 7 else answer_with()
        report = await areplay(recordings(2), handler.url, changes=[SetValue("data.FIELDS.ID", "7")])
        assert [(result.number, result.recording.id) for result in report.results] == [(1, "1-1"), (2, "1-2")]
        assert {result.recording.body for result in report.results} == {b"event=ONCRMDEALADD&data[FIELDS][ID]=7"}
        assert report.results[0].problems == ("answered 404, expected 2xx",)
        assert (report.sent, report.wrong, report.ok) == (2, 2, False)

    async def test_every_expectation_has_to_hold(self, handler: RawServer) -> None:
        handler.answer = answer_with("201 Made", b"it is ok")
        assert (await areplay(recordings(1), handler.url, expect=["201", "body~ok"])).ok
        report = await areplay(recordings(1), handler.url, expect=["body~not", "202"])
        assert len(report.results[0].problems) == 2

    async def test_another_path_is_where_it_goes(self, handler: RawServer) -> None:
        report = await areplay(recording(1, target="/b24/x?a=1"), handler.url, changes=[SetPath("/other")])
        assert report.ok
        assert [request.line for request in handler.requests] == [b"POST /other?a=1 HTTP/1.1"]

    async def test_a_change_has_to_give_a_recording(self, handler: RawServer) -> None:
        with pytest.raises(WrongUsage, match="gave no recording"):
            await areplay(recordings(1), handler.url, changes=[lambda recording: None])  # type: ignore[list-item]
        assert not handler.requests

    async def test_one_change_refused_ends_the_run_with_a_report(self, handler: RawServer) -> None:
        report = Report()
        given = [recording(1), recording(2, body=b"event=X"), recording(3)]
        with pytest.raises(WrongUsage, match="1-2"):
            await areplay(given, handler.url, changes=[SetValue("data.FIELDS.ID", "7")], report=report)
        assert (report.sent, report.interrupted, report.ok) == (1, True, False)


class TestComparison:
    async def test_with_the_recorded_answers_of_the_journal(self, handler: RawServer, tmp_path: Path) -> None:
        write(tmp_path, 1, *recordings(3), answered(1, b'{"a": 1}'), answered(2, b'{"a": 2}'))
        journal = Journal.open(tmp_path)
        handler.answer = answer_with("200 OK", b'{"a":1}')
        report = await areplay(Selection(journal), handler.url, journal=journal, compare=Comparison())
        first, second, third = report.results
        assert first.ok
        assert [(one.where, one.before, one.after) for one in second.differences] == [("body $.a", "2", "1")]
        assert third.differences[0].where == "answer"
        assert (report.wrong, report.differing) == (2, 2)
        # What this run was answered is not the recorded answer of the next one.
        again = await areplay(Selection(journal), handler.url, journal=journal, compare=Comparison())
        assert [result.ok for result in again.results] == [True, False, True]

    async def test_an_answer_that_is_no_2xx_is_right_where_it_was_so(
        self, handler: RawServer, tmp_path: Path
    ) -> None:
        write(tmp_path, 1, *recordings(1), answered(1, b"", status=500))
        journal = Journal.open(tmp_path)
        handler.answer = answer_with("500 Oh")
        report = await areplay(Selection(journal), handler.url, journal=journal, compare=Comparison())
        assert report.ok
        handler.answer = RESET
        report = await areplay(Selection(journal), handler.url, journal=journal, compare=Comparison())
        assert not report.ok

    async def test_against_another_handler(self, handler: RawServer, tmp_path: Path) -> None:
        write(tmp_path, 1, *recordings(2))
        journal = Journal.open(tmp_path)
        with RawServer(answer_with("200 OK", b"same")) as other:
            handler.answer = lambda request: answer_with("200 OK", b"same" if number_of(request) == 1 else b"new")
            report = await areplay(Selection(journal), handler.url, against=other.url, journal=journal)
            assert other.bodies() == handler.bodies()
        assert [result.ok for result in report.results] == [True, False]
        assert sorted(attempt.target for attempt in journal.attempts("1-1")) == sorted([handler.url, other.url])

    async def test_two_handlers_that_are_both_away_are_not_alike(self) -> None:
        with RawServer(listening=False) as one, RawServer(listening=False) as other:
            report = await areplay(recordings(1), one.url, against=other.url)
        assert report.results[0].problems == ("no answer: cannot connect: connection refused",)

    async def test_there_has_to_be_something_to_compare_with(self, handler: RawServer) -> None:
        with pytest.raises(WrongUsage, match="journal"):
            await areplay(recordings(1), handler.url, compare=Comparison())
        assert not handler.requests

    async def test_what_was_not_compared_is_said_once(self, handler: RawServer, tmp_path: Path) -> None:
        cut = {"truncated": True, "body": b"x" * 65536}
        write(tmp_path, 1, *recordings(2), answered(1, **cut), answered(2, **cut))
        handler.answer = answer_with("200 OK", b"x" * 70_000)
        journal, notes = Journal.open(tmp_path), list[str]()
        report = await areplay(
            Selection(journal), handler.url, journal=journal, compare=Comparison(), on_note=notes.append
        )
        assert report.ok
        assert len(notes) == 1
        assert "65,536 bytes" in notes[0]


class TestItsEnd:
    async def test_the_first_wrong_answer_ends_it_where_that_is_wanted(self, handler: RawServer) -> None:
        handler.answer = lambda request: answer_with("500 Oh") if number_of(request) == 3 else answer_with()
        report = await areplay(recordings(9), handler.url, on_error="stop")
        assert [number_of(request) for request in handler.requests] == [1, 2, 3]
        assert (report.sent, report.stopped, report.interrupted) == (3, True, False)

    async def test_nobody_waits_for_the_next_moment_then(self, handler: RawServer) -> None:
        handler.answer = answer_with("500 Oh")
        an_hour_later = recording(2, received_at=MOMENT + timedelta(hours=1))
        pace = OriginalPace(max_gap=86_400)
        report = await areplay([recording(1), an_hour_later], handler.url, on_error="stop", pace=pace)
        assert (report.sent, report.stopped, report.unsent) == (1, True, True)

    async def test_looking_for_the_next_one_holds_nothing_up(self, handler: RawServer, tmp_path: Path) -> None:
        write(tmp_path, 1, *recordings(4))
        found, sent = threading.Event(), threading.Event()

        def slowly(document: Any) -> bool:
            gate = {"1-2": found, "1-4": sent}.get(document["id"])
            return (gate is None or gate.wait(DEADLINE)) and document["id"] in ("1-1", "1-3")

        chosen = Selection(Journal.open(tmp_path), narrowing=Narrowing(where=(slowly,)))
        run = asyncio.create_task(areplay(chosen, handler.url, timeout=1))
        # The first has come and was answered while the second is being looked for.
        await asyncio.to_thread(handler.wait_for, 1)
        while handler.answered < 1:
            await asyncio.to_thread(found.wait, 0.01)
        assert not run.done()
        found.set()
        await asyncio.to_thread(handler.wait_for, 2)
        # And its end is told when it is found.
        sent.set()
        assert (await run).ok
        assert [number_of(request) for request in handler.requests] == [1, 3]

    async def test_what_is_under_way_then_is_still_answered(self, handler: RawServer) -> None:
        three = threading.Barrier(3)

        def answer(request: Request) -> bytes:
            three.wait(DEADLINE)
            return answer_with("500 Oh")

        handler.answer = answer
        report = await areplay(recordings(9), handler.url, on_error="stop", concurrency=3)
        assert (report.sent, report.wrong, report.cut_off, report.unsent) == (3, 3, 0, True)

    async def test_one_that_was_being_made_ready_is_not_sent_then(self, handler: RawServer) -> None:
        handler.answer = answer_with("500 Oh")
        ended = asyncio.Event()

        class Waits(OriginalPace):
            async def turn(self, recording: Recording) -> float:
                if recording.id == "1-2":
                    await ended.wait()
                return 0.0

        def tell(result: Result) -> None:
            ended.set()

        report = await areplay(recordings(2), handler.url, on_error="stop", pace=Waits(), on_result=tell)
        assert (report.sent, report.unsent) == (1, True)

    async def test_stop_that_is_set_already_sends_nothing(self, handler: RawServer) -> None:
        stop = asyncio.Event()
        stop.set()
        report = await areplay(recordings(2), handler.url, stop=stop)
        assert (report.sent, report.interrupted, report.unsent) == (0, True, True)
        assert not handler.requests

    async def test_where_the_other_handler_was_cut_off_nothing_was_compared(
        self, handler: RawServer, tmp_path: Path
    ) -> None:
        write(tmp_path, 1, *recordings(2))
        journal, stop = Journal.open(tmp_path), asyncio.Event()
        with RawServer(hold=threading.Event()) as other:
            options: dict[str, Any] = {"journal": journal, "against": other.url, "arguments": ["x"]}
            run = asyncio.create_task(areplay(Selection(journal), handler.url, stop=stop, **options))
            await asyncio.to_thread(other.wait_for, 1)
            while handler.answered < 1 or not [a for a in journal.attempts("1-1") if a.cause == "replay"]:
                await asyncio.to_thread(handler.wait_for, 1)
            stop.set()
            report = await run
            assert (report.sent, report.cut_off, report.differing, report.wrong) == (1, 1, 0, 1)
            assert other.hold is not None
            other.hold.set()
            again = await areplay(Selection(journal), handler.url, resumes=journal.last_run(), **options)
        # The pair is sent again: it was not compared.
        assert (again.sent, again.ok) == (2, True)

    async def test_stop_ends_the_look_for_what_is_left(self, handler: RawServer, tmp_path: Path) -> None:
        write(tmp_path, 1, *recordings(3))
        found, looking, stop = threading.Event(), threading.Event(), asyncio.Event()

        def slowly(document: Any) -> bool:
            if document["id"] != "1-1":
                looking.set()
                found.wait(DEADLINE)
            return True

        handler.answer = answer_with("500 Oh")
        chosen = Selection(Journal.open(tmp_path), narrowing=Narrowing(where=(slowly,)))
        run = asyncio.create_task(areplay(chosen, handler.url, on_error="stop", stop=stop))
        await asyncio.to_thread(looking.wait, DEADLINE)
        await asyncio.to_thread(handler.wait_for, 1)
        stop.set()
        report = await run
        assert report.unsent
        found.set()

    async def test_setting_stop_cuts_off_what_is_under_way(self, handler: RawServer, tmp_path: Path) -> None:
        write(tmp_path, 1, *recordings(9))
        journal, stop = Journal.open(tmp_path), asyncio.Event()
        handler.hold = threading.Event()
        run = asyncio.create_task(
            areplay(
                Selection(journal), handler.url, journal=journal, stop=stop, concurrency=2, arguments=["a", "b"]
            )
        )
        await asyncio.to_thread(handler.wait_for, 2)
        stop.set()
        report = await run
        assert (report.sent, report.cut_off, report.interrupted, report.ok) == (2, 2, True, False)
        handler.hold.set()
        last = journal.last_run()
        assert last is not None
        assert (last.arguments, last.finished) == (("a", "b"), False)
        again = await areplay(Selection(journal), handler.url, journal=journal, resumes=last)
        assert again.sent == 9
        last = journal.last_run()
        assert last is not None
        assert last.finished
        assert last.arguments == ("a", "b")

    async def test_a_run_that_is_resumed_sends_each_as_often_as_it_was_to_be(
        self, handler: RawServer, tmp_path: Path
    ) -> None:
        write(tmp_path, 1, *recordings(4))
        journal = Journal.open(tmp_path)
        twice = Variation(times=2, shuffle=True, seed=3)
        handler.answer = lambda request: RESET if len(handler.requests) == 3 else answer_with()
        options: dict[str, Any] = {"journal": journal, "variation": twice, "arguments": ["x"]}
        first = await areplay(Selection(journal), handler.url, on_error="stop", **options)
        assert first.sent == 3
        second = await areplay(Selection(journal), handler.url, resumes=journal.last_run(), **options)
        assert second.sent == 5
        sent = [number_of(request) for request in handler.requests]
        assert sorted(sent) == [1, 1, 2, 2, 3, 3, 4, 4]

    async def test_a_result_may_hold_the_run_up(self, handler: RawServer) -> None:
        gate, first, told = asyncio.Event(), asyncio.Event(), list[int]()

        async def wait() -> None:
            await gate.wait()

        def slowly(result: Result) -> Any:
            told.append(result.number)
            first.set()
            return wait()

        run = asyncio.create_task(areplay(recordings(3), handler.url, on_result=slowly))
        await first.wait()
        with RawServer() as other:  # what another run does meanwhile, this one could have done too
            assert (await areplay(recordings(20), other.url)).ok
        assert (told, len(handler.requests)) == ([1], 1)
        gate.set()
        assert (await run).sent == 3

    async def test_an_attempt_that_cannot_be_noted_is_no_success(
        self, handler: RawServer, tmp_path: Path, disk: Disk
    ) -> None:
        write(tmp_path, 1, *recordings(2))
        journal, report = Journal.open(tmp_path), Report()
        handler.hold = threading.Event()
        run = asyncio.create_task(areplay(Selection(journal), handler.url, journal=journal, report=report))
        await asyncio.to_thread(handler.wait_for, 1)  # the session's own first line is on disk
        disk.failures.append(OSError(errno.ENOSPC, "No space left on device"))
        handler.hold.set()
        with pytest.raises(OutsideFailure):
            await run
        assert report.unsent
        last = journal.last_run(with_arguments=False)
        assert last is None or not last.finished

    async def test_a_run_that_is_resumed_does_not_compare_with_itself(
        self, handler: RawServer, tmp_path: Path
    ) -> None:
        write(tmp_path, 1, recording(1))
        journal = Journal.open(tmp_path)
        options: dict[str, Any] = {"variation": Variation(times=2), "compare": Comparison(), "arguments": ["x"]}
        first = await areplay(Selection(journal), handler.url, journal=journal, on_error="stop", **options)
        assert (first.sent, first.differing) == (1, 1)
        second = await areplay(
            Selection(journal), handler.url, journal=journal, resumes=journal.last_run(), **options
        )
        assert (second.sent, second.differing) == (1, 1)

    async def test_a_journal_that_cannot_be_written_is_no_success(
        self, handler: RawServer, tmp_path: Path
    ) -> None:
        (tmp_path / "journal").write_text("a file where a directory should be")
        with pytest.raises(OutsideFailure):
            await areplay(recordings(1), handler.url, journal=Journal(tmp_path))
        assert not handler.requests


class TestPace:
    async def test_with_a_pace_nobody_waits_for_a_slow_answer(self, handler: RawServer) -> None:
        handler.hold = threading.Event()
        run = asyncio.create_task(areplay(recordings(5), handler.url, pace=OriginalPace()))
        await asyncio.to_thread(handler.wait_for, 5)
        handler.hold.set()
        report = await run
        assert report.ok
        assert report.late.count == 5

    async def test_like_bitrix24_has_eight_under_way_and_pauses_for_a_slow_handler(self) -> None:
        slept: list[float] = []
        now = 0.0

        async def sleep(seconds: float) -> None:
            nonlocal now
            slept.append(seconds)
            now += seconds
            await asyncio.sleep(0)

        with RawServer(hold=threading.Event()) as handler:
            pace = LikeBitrix24(delay=2.5, clock=lambda: now, sleep=sleep)
            run = asyncio.create_task(areplay(recordings(9), handler.url, pace=pace))
            await asyncio.to_thread(handler.wait_for, 8)
            assert handler.hold is not None
            handler.hold.set()
            assert (await run).sent == 9
        assert slept == [2.5]

    async def test_numbers_out_of_bounds(self) -> None:
        for make in (lambda: OriginalPace(0), lambda: Rate(float("nan")), lambda: LikeBitrix24(-1)):
            with pytest.raises(WrongUsage):
                make()


class TestReport:
    async def test_it_holds_no_more_than_it_is_to_keep(self, handler: RawServer) -> None:
        report = await areplay(recordings(20), handler.url, report=Report(keep=3), concurrency=4)
        assert (report.sent, len(report.results), report.latency.count) == (20, 3, 20)

    async def test_the_seed_is_in_it(self, handler: RawServer) -> None:
        report = await areplay(recordings(3), handler.url, variation=Variation(shuffle=True))
        again = await areplay(recordings(3), handler.url, variation=Variation(shuffle=True, seed=report.seed))
        assert [one.recording.id for one in again.results] == [one.recording.id for one in report.results]


def test_the_twin_takes_the_same() -> None:
    def taken(function: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
        parameters = inspect.signature(function).parameters.values()
        # Each lambda is a default of its own.
        return [(one.name, one.annotation, callable(one.default) or one.default) for one in parameters]

    assert taken(replay) == [one for one in taken(areplay) if one[0] != "stop"]

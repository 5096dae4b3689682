"""Runs of replay: which was the last one, whether it was whole, and what it has delivered, also after kill -9."""

import json
import os
import sys
import threading
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journal_files import BEGAN, write_lines
from journal_files import write as write_listening
from programs import Programs, wait_until

from b24tunnel.errors import WrongUsage
from b24tunnel.journal import Journal, JournalWriter, Run, files
from b24tunnel.journal import scan as scan_module
from b24tunnel.journal.numbers import Numbers
from b24tunnel.journal.prune import prune
from b24tunnel.journal.scan import Scan
from b24tunnel.journal.writing_mark import mark_as_written
from b24tunnel.recording import (
    LONGEST_COMMAND_LINE,
    Attempt,
    Cause,
    Record,
    Recording,
    SessionEnd,
    SessionStart,
    from_line,
    to_line,
)
from b24tunnel.through import Through

ARGUMENTS = ("replay", "last:3", "--to", "http://h/")


def recording(id: str) -> Recording:
    return Recording(id, BEGAN, "POST", "/b24/x", (), b"event=ONCRMDEALADD", code="ONCRMDEALADD")


def attempt(id: str, status: int | None = 200, cause: Cause = "replay", error: str | None = None) -> Attempt:
    return Attempt(id, cause, "http://h/", BEGAN, 1.0, status, error=error)


def write(
    directory: Path,
    session: int,
    *records: Record | bytes,
    arguments: tuple[str, ...] = ARGUMENTS,
    resumes: int | None = None,
    through: Through | None = None,
    segment: int = 1,
) -> Path:
    """A file of a replay's session."""
    began = BEGAN + timedelta(minutes=session)
    start = SessionStart(session, began, purpose="replay", arguments=arguments, resumes=resumes, through=through)
    return write_lines(directory, session, (start, *records), segment)


def last_run(directory: Path) -> Run | None:
    return Journal.open(directory).last_run()


class TestTheLastRun:
    def test_there_is_none(self, tmp_path: Path) -> None:
        assert last_run(tmp_path) is None
        write_listening(tmp_path, 1, recording("1-1"), SessionEnd(0))
        assert Journal.open(tmp_path).last_run(with_arguments=False) is None
        write(tmp_path, 2, attempt("1-1"), SessionEnd(0), arguments=())  # from Python
        assert last_run(tmp_path) is None

    def test_one_from_python_counts_where_that_is_asked_for(self, tmp_path: Path) -> None:
        write(tmp_path, 1, attempt("9-1"), SessionEnd(0))
        write(tmp_path, 2, attempt("9-1"), SessionEnd(3), arguments=())
        write(tmp_path, 3, attempt("9-2"), SessionEnd(1), arguments=(), resumes=2)
        began = BEGAN + timedelta(minutes=2)
        run = Journal.open(tmp_path).last_run(with_arguments=False)
        assert run == Run(3, (2, 3), began, (), finished=False, running=False)
        found = last_run(tmp_path)
        assert found is not None
        assert found.session == 1

    def test_it_is_the_newest_and_was_whole(self, tmp_path: Path) -> None:
        write(tmp_path, 1, SessionEnd(4), arguments=("replay", "earlier"))
        write(tmp_path, 2, attempt("9-1"), SessionEnd(0))
        write_listening(tmp_path, 3, recording("3-1"), SessionEnd(0))
        write(tmp_path, 4, attempt("3-1"), SessionEnd(1), arguments=())
        began = BEGAN + timedelta(minutes=2)
        assert last_run(tmp_path) == Run(2, (2,), began, ARGUMENTS, finished=True, running=False)

    def test_one_with_something_left_is_not_finished(self, tmp_path: Path) -> None:
        write(tmp_path, 1, attempt("9-1"), SessionEnd(2))
        run = last_run(tmp_path)
        assert run is not None
        assert (run.finished, run.running) == (False, False)

    def test_one_that_lost_its_end_is_not_finished(self, tmp_path: Path) -> None:
        write(tmp_path, 1, attempt("9-1"), to_line(SessionEnd(0))[:-5])
        run = last_run(tmp_path)
        assert run is not None
        assert (run.finished, run.running) == (False, False)

    def test_the_end_is_in_its_last_file(self, tmp_path: Path) -> None:
        write(tmp_path, 1, attempt("9-1"))
        write(tmp_path, 1, attempt("9-2"), SessionEnd(0), segment=2)
        run = last_run(tmp_path)
        assert run is not None
        assert run.finished

    def test_those_that_resumed_it_belong_to_it(self, tmp_path: Path) -> None:
        write(tmp_path, 1, SessionEnd(0), arguments=("replay", "another"))
        write(tmp_path, 2, attempt("9-1"), SessionEnd(2))
        write_listening(tmp_path, 3)
        write(tmp_path, 4, attempt("9-2"), resumes=2)
        write(tmp_path, 7, attempt("9-3"), SessionEnd(0), arguments=(), resumes=4)
        began = BEGAN + timedelta(minutes=2)
        assert last_run(tmp_path) == Run(7, (2, 4, 7), began, ARGUMENTS, finished=True, running=False)

    def test_the_newest_command_line_holds(self, tmp_path: Path) -> None:
        write(tmp_path, 2, SessionEnd(2))
        write(tmp_path, 4, SessionEnd(1), arguments=("replay", "--to", "http://elsewhere/"), resumes=2)
        write(tmp_path, 7, SessionEnd(1), arguments=(), resumes=4)
        run = last_run(tmp_path)
        assert run is not None
        assert (run.sessions, run.arguments) == ((2, 4, 7), ("replay", "--to", "http://elsewhere/"))

    def test_what_it_selects_from_is_the_firsts_and_so_is_when_it_began(self, tmp_path: Path) -> None:
        through = Through(BEGAN - timedelta(days=1), 1, {1: 5})
        write(tmp_path, 2, SessionEnd(2), through=through)
        path = write(tmp_path, 4, SessionEnd(1), resumes=2, through=through)
        for _ in range(2):
            run = last_run(tmp_path)
            assert run is not None
            assert (run.session, run.through, run.started_at) == (4, through, through.at)
            files.segment_path(path.parent, 2, 1).unlink(missing_ok=True)  # as a prune may

    def test_two_that_resumed_it_at_once_both_belong_to_it(self, tmp_path: Path) -> None:
        write(tmp_path, 2, attempt("9-1"), SessionEnd(2))
        write(tmp_path, 3, attempt("9-9"), SessionEnd(2))
        write(tmp_path, 4, attempt("9-2"), resumes=2)
        write(tmp_path, 5, SessionEnd(1), resumes=2)  # it gave up
        for _ in range(2):
            run = last_run(tmp_path)
            assert run is not None
            assert (run.session, run.finished, run.running) == (5, False, False)
            assert run.sessions[-2:] == (4, 5)
            files.segment_path(tmp_path / "journal", 2, 1).unlink(missing_ok=True)  # as a prune may
        write(tmp_path, 4, attempt("9-2"), SessionEnd(0), resumes=2)
        run = last_run(tmp_path)
        assert run is not None
        assert (run.sessions, run.finished) == ((4, 5), True)
        write(tmp_path, 6, SessionEnd(2), resumes=3)
        run = last_run(tmp_path)
        assert run is not None
        assert (run.sessions, run.finished) == ((3, 6), False)

    def test_a_prune_may_have_removed_the_first_of_them(self, tmp_path: Path) -> None:
        write(tmp_path, 4, attempt("9-2"), resumes=2)
        write(tmp_path, 7, resumes=4)
        began = BEGAN + timedelta(minutes=4)
        assert last_run(tmp_path) == Run(7, (4, 7), began, ARGUMENTS, finished=False, running=False)

    def test_a_prune_may_have_removed_its_first_file(self, tmp_path: Path) -> None:
        write(tmp_path, 2, attempt("9-2"), SessionEnd(1), segment=3)
        run = last_run(tmp_path)
        assert run is not None
        assert run.sessions == (2,)

    @pytest.mark.parametrize("resumes", [5, 6, 3])
    def test_a_number_that_is_no_earlier_run_ends_the_chain(self, tmp_path: Path, resumes: int) -> None:
        write_listening(tmp_path, 3)
        write(tmp_path, 5, resumes=resumes)
        write(tmp_path, 6, arguments=(), resumes=6)
        run = last_run(tmp_path)
        assert run is not None
        assert run.sessions == (5,)

    def test_one_whose_beginning_is_spoiled_is_passed_over(self, tmp_path: Path) -> None:
        write(tmp_path, 1, SessionEnd(0))
        path = write(tmp_path, 2, SessionEnd(0))
        path.write_bytes(path.read_bytes().replace(b'"arguments":[', b'"arguments":5,"a":['))
        journal = Journal.open(tmp_path)
        run = journal.last_run()
        assert run is not None
        assert run.session == 1
        assert path in journal.unreadable

    def test_what_is_in_between_is_not_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(tmp_path, 1, SessionEnd(0))
        write(tmp_path, 2, *(attempt(f"9-{n}") for n in range(500)), SessionEnd(0))
        write_listening(tmp_path, 3, *(recording(f"3-{n}") for n in range(500)), SessionEnd(0))
        parsed: list[bytes] = []

        def noted(line: bytes) -> Record:
            parsed.append(line)
            return from_line(line)

        monkeypatch.setattr(scan_module, "from_line", noted)
        run = last_run(tmp_path)
        assert run is not None
        assert run.session == 2
        assert len(parsed) == 3

    def test_the_journals_debts_are_not_a_runs(self, tmp_path: Path) -> None:
        write_listening(tmp_path, 1, recording("1-1"), recording("1-2"), SessionEnd(2), forward="http://h/")
        path = write(tmp_path, 2, attempt("1-1"), attempt("saved"), SessionEnd(3))
        journal = Journal.open(tmp_path)
        assert journal.pending() == ["1-2"]
        assert [debt.id for debt in journal.debts()] == ["1-2"]
        assert [one.problems for one in journal.check()] == [[], []]
        assert prune(tmp_path / "journal", keep=0).not_forwarded == 1
        left = [one for line in path.read_bytes().splitlines() if isinstance(one := from_line(line), Attempt)]
        assert [one.recording for one in left] == ["saved"]
        run = journal.last_run()
        assert run is not None
        assert (run.session, run.finished) == (2, False)


class TestWhileItRuns:
    async def test_it_is_running_until_it_has_ended(self, tmp_path: Path) -> None:
        first = JournalWriter(tmp_path, purpose="replay", arguments=ARGUMENTS)
        await first.append(attempt("9-1"))
        run = last_run(tmp_path)
        assert run is not None
        assert (run.running, run.finished) == (True, False)
        await first.close(pending=1)
        second = JournalWriter(tmp_path, purpose="replay", arguments=ARGUMENTS, resumes=1, segment_bytes=300)
        for _ in range(5):
            await second.append(attempt("9-2"))
        run = last_run(tmp_path)
        assert run is not None
        assert (run.sessions, run.running, run.finished) == ((1, 2), True, False)
        await second.close()
        run = last_run(tmp_path)
        assert run is not None
        assert (run.sessions, run.running, run.finished) == ((1, 2), False, True)
        assert run.arguments == ARGUMENTS

    def test_one_that_has_written_its_end_is_over(self, tmp_path: Path) -> None:
        with write(tmp_path, 1, SessionEnd(0)).open("r+b") as file:
            mark_as_written(file.fileno())
            run = last_run(tmp_path)
            assert run is not None
            assert (run.running, run.finished) == (False, True)

    def test_a_killed_one_can_be_gone_on_with(self, tmp_path: Path, programs: Programs) -> None:
        program = programs.start(sys.executable, "-c", _REPLAYS_FOR_EVER, str(tmp_path))
        wait_until(lambda: len(program.lines) > 20, "a few attempts noted")
        run = last_run(tmp_path)
        assert run is not None
        assert (run.arguments, run.running, run.finished) == (("replay", "ю\udcff"), True, False)
        program.kill()
        journal = Journal.open(tmp_path)
        run = journal.last_run()
        assert run is not None
        assert (run.sessions, run.running, run.finished) == ((1,), False, False)
        delivered = journal.delivered_in(run.sessions)
        noted = [line.strip() for line in program.lines]
        assert len(delivered) >= len(noted)
        assert [id for id in noted if not delivered.take(id)] == []
        assert len(delivered) <= 1  # the one that it was killed over

    def test_a_command_line_beyond_all_bounds_is_wrong_usage(self, tmp_path: Path) -> None:
        with pytest.raises(WrongUsage, match="name fewer recordings"):
            JournalWriter(tmp_path, purpose="replay", arguments=("x" * LONGEST_COMMAND_LINE,))
        assert not (tmp_path / "journal").exists()


class TestTwoThatResumeOne:
    def test_the_later_one_finds_the_earlier_one(self, tmp_path: Path) -> None:
        journal = Journal.open(tmp_path)
        write(tmp_path, 2, SessionEnd(1))
        write(tmp_path, 3, SessionEnd(1))
        write_listening(tmp_path, 4, recording("4-1"))
        write(tmp_path, 5, resumes=3)
        write(tmp_path, 6, SessionEnd(1), resumes=2)
        write(tmp_path, 7, SessionEnd(1), resumes=2)
        found = {own: journal.resumed_elsewhere(2, own) for own in (5, 6, 7, 8)}
        assert found == {5: None, 6: None, 7: 6, 8: 6}
        assert [journal.resumed_elsewhere(session, 8) for session in (1, 3, 6, 7)] == [None, 5, None, None]

    def test_one_that_is_just_about_to_begin_is_waited_for(self, tmp_path: Path) -> None:
        write(tmp_path, 1, SessionEnd(1))
        path = write_lines(tmp_path, 2, ())
        timer = threading.Timer(0.05, lambda: write(tmp_path, 2, resumes=1))
        timer.start()
        assert Journal.open(tmp_path).resumed_elsewhere(1, 3) == 2
        timer.join()
        path.write_bytes(b"")
        long_ago = BEGAN.timestamp()
        os.utime(path, (long_ago, long_ago))  # its writer was killed
        assert Journal.open(tmp_path).resumed_elsewhere(1, 3) is None

    @pytest.mark.parametrize("count", [2, 6])
    def test_of_processes_that_resume_one_at_once_one_goes_on(
        self, tmp_path: Path, programs: Programs, count: int
    ) -> None:
        write(tmp_path, 1, attempt("9-1"), SessionEnd(1))
        for round_ in range(3):
            go = tmp_path / f"go-{round_}"
            before = last_run(tmp_path)
            assert before is not None
            program = (sys.executable, "-c", _RESUMES, str(tmp_path), str(go), str(before.session))
            resuming = [programs.start(*program) for _ in range(count)]
            wait_until(lambda: all(one.lines for one in resuming), "processes that are ready")  # noqa: B023
            go.touch()
            said = [json.loads(one.lines[-1]) for one in resuming if one.wait() == 0]
            assert len(said) == count
            assert sorted(own for own, _ in said) == [before.session + number + 1 for number in range(count)]
            assert [own for own, other in said if other is None] == [before.session + 1]
            after = last_run(tmp_path)
            assert after is not None
            assert after.sessions == tuple(range(1, before.session + count + 1))


class TestWhatWasDelivered:
    def test_it_is_taken_as_often_as_it_was_delivered(self, tmp_path: Path) -> None:
        write(tmp_path, 1, attempt("9-1"), attempt("9-1", 500), attempt("saved"), attempt("9-2"), attempt("9-1"))
        delivered = Journal.open(tmp_path).delivered_in([1])
        assert len(delivered) == 5
        assert [delivered.take("9-1") for _ in range(5)] == [True, True, True, False, False]
        assert [delivered.take("saved") for _ in range(2)] == [True, False]
        assert delivered.take("another") is delivered.take("9-3") is False
        assert len(delivered) == 1
        assert delivered.take("9-2")
        assert len(delivered) == 0

    @pytest.mark.parametrize(
        ("one", "counts"),
        [
            (attempt("9-1", 500), True),
            (attempt("9-1", None, error="connection reset: no answer"), True),
            (attempt("9-1", None, error="timed out: no answer"), True),
            (attempt("9-1", None, error="cannot connect: connection refused"), False),
            (attempt("9-1", None, error="interrupted: b24tunnel stopped"), False),
            (attempt("9-1", 200, cause="forward"), False),
            (attempt("9-1", 200, cause="against"), False),
            (attempt("saved", 200, cause="against"), False),
            (attempt("9-1", None, cause="against", error="timed out: no answer"), False),
            (attempt("9-1", None, cause="forward", error="timed out: no answer"), False),
        ],
    )
    def test_what_reached_the_handler_in_a_replay_counts(self, tmp_path: Path, one: Attempt, counts: bool) -> None:
        write(tmp_path, 1, one, to_line(one).replace(b'"v":1,', b'"v": 1,'))
        delivered = Journal.open(tmp_path).delivered_in({1})
        assert len(delivered) == (2 if counts else 0)
        assert delivered.take("9-1") is counts

    def test_other_runs_do_not_count(self, tmp_path: Path) -> None:
        for session in (1, 2, 3, 4):
            write(tmp_path, session, attempt(f"9-{session}"))
            write(tmp_path, session, attempt("9-9"), segment=2)
        delivered = Journal.open(tmp_path).delivered_in((2, 4, 77))
        assert [delivered.take(f"9-{number}") for number in (1, 2, 3, 4)] == [False, True, False, True]
        assert [delivered.take("9-9") for _ in range(3)] == [True, True, False]

    @settings(max_examples=100)
    @given(
        st.lists(st.sampled_from(["1-1", "1-2", "2-1", "999999999-999999999999", "saved", "1-01"]), max_size=12),
        st.lists(st.sampled_from(["1-1", "1-2", "2-1", "999999999-999999999999", "saved", "1-01"]), max_size=12),
    )
    def test_it_is_a_multiset(
        self, tmp_path_factory: pytest.TempPathFactory, sent: list[str], wanted: list[str]
    ) -> None:
        directory = tmp_path_factory.mktemp("recordings")
        write(directory, 1, *map(attempt, sent))
        delivered = Journal.open(directory).delivered_in((1,))
        left = Counter(sent)
        for id in wanted:
            assert delivered.take(id) == (left[id] > 0)
            left[id] -= left[id] > 0
            assert len(delivered) == left.total()


def test_numbers_take_room_only_where_they_are_given() -> None:
    numbers = Numbers("Q")
    far = [(1, 1), (1, 999_999_999_999), (999_999_999, 1), (2, 1), (1, 1024)]
    for value, place in enumerate(far, 1):
        numbers[place] = value
        numbers[place] += 1 << 62
    assert [numbers[place] - (1 << 62) for place in far] == [1, 2, 3, 4, 5]
    assert numbers[1, 2] == numbers[3, 1] == numbers[999_999_999, 999_999_999_999] == 0
    assert len(numbers._pages) <= len(far)


def test_opening_a_journal_reads_none_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 1, attempt("9-1"))

    def fail(*_: Any) -> None:
        raise AssertionError("lines were read")

    monkeypatch.setattr(Scan, "lines", fail)
    Journal.open(tmp_path)


_RESUMES = """
import asyncio, json, sys, time
from pathlib import Path
from b24tunnel.journal import Journal, JournalWriter

async def main(directory, go, session):
    print("0", flush=True)
    while not go.exists():
        time.sleep(0.001)
    writer = JournalWriter(directory, purpose="replay", arguments=("replay", "x"), resumes=session)
    other = Journal.open(directory).resumed_elsewhere(session, writer.session)
    await writer.close(pending=1)
    print(json.dumps([writer.session, other]), flush=True)

asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
"""

_REPLAYS_FOR_EVER = """
import asyncio, sys
from datetime import UTC, datetime
from pathlib import Path
from b24tunnel.journal import JournalWriter
from b24tunnel.recording import Attempt

async def main():
    writer = JournalWriter(Path(sys.argv[1]), purpose="replay", arguments=("replay", "ю\\udcff"))
    number = 0
    while True:
        number += 1
        await writer.append(Attempt(f"9-{number // 2}", "replay", "http://h/", datetime.now(UTC), 1.0, 200))
        print(f"9-{number // 2}", flush=True)

asyncio.run(main())
"""

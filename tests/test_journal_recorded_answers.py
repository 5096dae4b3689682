"""Recorded answers: which one it is, and that it is found whatever else happens to the journal's files."""

import os
import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from journal_files import write, write_lines

from b24tunnel.journal import Journal, JournalUnreadable, JournalWriter, RecordedAnswers, files, recorded_answer
from b24tunnel.journal import attempts as gathering
from b24tunnel.journal.prune import prune
from b24tunnel.journal.scan import Scan
from b24tunnel.recording import Attempt, Cause, Record, Recording, SessionEnd, to_line

NOW = datetime(2026, 11, 25, 14, 15, 3, tzinfo=UTC)


def recording(id: str, received_at: datetime = NOW) -> Recording:
    return Recording(id, received_at, "POST", "/b24/x", (), b"event=ONCRMDEALADD", code="ONCRMDEALADD")


def attempt(
    id: str, at: float = 0, status: int | None = 200, cause: Cause = "forward", body: bytes = b"ok"
) -> Attempt:
    error = "cannot connect: connection refused" if status is None else None
    return Attempt(id, cause, "http://h/", NOW + timedelta(seconds=at), 1.0, status, (), body, error=error)


def replayed(id: str, at: float = 0, status: int | None = 200, body: bytes = b"ok") -> Attempt:
    return attempt(id, at, status, "replay", body)


def answer(
    directory: Path, id: str = "1-1", before: datetime | None = None, without: Collection[int] = ()
) -> Attempt | None:
    with Journal.open(directory).recorded_answers(before, without) as answers:
        return answers.to(recording(id))


@pytest.fixture
def read_again(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was looked up by going through the whole journal."""
    looked_up: list[str] = []
    scanning = gathering.attempts_with

    def noted(scan: Scan, recording_id: str, counts: Callable[[int], bool]) -> list[Attempt]:
        looked_up.append(recording_id)
        return scanning(scan, recording_id, counts)

    monkeypatch.setattr(gathering, "attempts_with", noted)
    return looked_up


class TestWhichOneItIs:
    def test_the_last_forward_that_was_answered(self, tmp_path: Path) -> None:
        last = attempt("1-1", 2, 500)
        write(tmp_path, 1, recording("1-1"), attempt("1-1", 1), last, attempt("1-1", 3, None), SessionEnd(0))
        assert answer(tmp_path) == last

    def test_a_forward_rather_than_any_replay(self, tmp_path: Path) -> None:
        forwarded = attempt("1-1", 2)
        write(tmp_path, 1, replayed("1-1", 1), recording("1-1"), forwarded)
        write(tmp_path, 2, replayed("1-1", 3), replayed("1-1", 4))
        assert answer(tmp_path) == forwarded

    def test_without_one_the_first_replay_that_was_answered(self, tmp_path: Path) -> None:
        write(tmp_path, 1, recording("1-1"), attempt("1-1", 1, None))
        first = replayed("1-1", 3, 404)
        write(tmp_path, 2, replayed("1-1", 2, None), first, replayed("1-1", 4))
        write(tmp_path, 3, replayed("1-1", 5))
        assert answer(tmp_path) == first

    def test_none_where_nothing_was_answered(self, tmp_path: Path) -> None:
        write(tmp_path, 1, recording("1-1"), attempt("1-1", 1, None), recording("1-2"))
        assert answer(tmp_path) is answer(tmp_path, "1-2") is answer(tmp_path, "7-1") is None
        assert answer(tmp_path / "elsewhere") is None

    def test_a_fixture_has_none(self, tmp_path: Path) -> None:
        write(tmp_path, 1, replayed("oncrmdealadd"))
        assert answer(tmp_path, "oncrmdealadd") is None

    def test_only_what_began_before_counts(self, tmp_path: Path) -> None:
        first, second = attempt("1-1", 1), attempt("1-1", 2)
        write(tmp_path, 1, recording("1-1"), first, second)
        assert answer(tmp_path, before=NOW + timedelta(seconds=2, microseconds=1)) == second
        assert answer(tmp_path, before=NOW + timedelta(seconds=2)) == first
        assert answer(tmp_path, before=NOW + timedelta(seconds=1)) is None

    def test_none_of_a_second_handler(self, tmp_path: Path) -> None:
        first = replayed("1-1", 3)
        beside = [attempt(id, at, cause="against") for id in ("1-1", "1-2") for at in (1, 9)]
        write(tmp_path, 1, recording("1-1"), *beside, first, *beside)
        assert answer(tmp_path) == first
        assert answer(tmp_path, "1-2") is None
        assert recorded_answer(beside) is None
        odd = [to_line(one).replace(b'"v":1,', b'"v": 1,') for one in beside]
        write(tmp_path, 1, recording("1-1"), *odd, first, *odd)
        assert answer(tmp_path) == first
        assert answer(tmp_path, "1-2") is None

    def test_none_of_the_sessions_that_are_left_out(self, tmp_path: Path) -> None:
        first, second = replayed("1-1", 3), replayed("1-1", 2)
        write(tmp_path, 1, recording("1-1"))
        write(tmp_path, 2, replayed("1-1", 1), attempt("1-1", 9))
        write(tmp_path, 3, first)
        write(tmp_path, 4, second)
        assert answer(tmp_path, without=[2]) == second
        assert answer(tmp_path, without={2, 4}) == first
        assert answer(tmp_path, without=(2, 3, 4)) is None

    def test_of_sessions_that_ran_at_the_same_time_the_clock_decides(self, tmp_path: Path) -> None:
        late = attempt("1-1", 9)
        write(tmp_path, 1, recording("1-1"), attempt("1-1", 1), late)
        write(tmp_path, 2, attempt("1-1", 5))
        write(tmp_path, 3, replayed("1-2", 7))
        early = replayed("1-2", 6)
        write(tmp_path, 4, early)
        assert answer(tmp_path) == late
        assert answer(tmp_path, "1-2") == early

    def test_an_answer_whose_line_is_written_otherwise_counts(self, tmp_path: Path) -> None:
        quoted = Attempt("1-1", "forward", "http://h/?q=é", NOW, 1.0, 200, (("A", 'b"'),), b"\xff")
        line = to_line(quoted).replace(b'{"v":1,', b'{ "v":1, ')
        write(tmp_path, 1, recording("1-1"), line, to_line(replayed("1-2")).replace(b"1-2", b"\\u0031-2"))
        assert answer(tmp_path) == quoted
        assert answer(tmp_path, "1-2") == replayed("1-2")


def _ids() -> st.SearchStrategy[str]:
    return st.sampled_from(["1-1", "1-2", "2-1", "saved"])


@st.composite
def _lines(draw: st.DrawFn) -> Record | bytes:
    """A line with an attempt: mostly as we write it, sometimes otherwise, sometimes spoiled."""
    made = attempt(
        draw(_ids()),
        # Few moments, so that there are the same ones, and none in order: the clock is set back all the time.
        draw(st.sampled_from([0, 1, 1, 2, 3, 4.000001])),
        draw(st.sampled_from([None, 200, 200, 500])),
        draw(st.sampled_from(["forward", "replay", "replay", "replay", "against"])),
        draw(st.binary(max_size=2)),
    )
    line = to_line(made)
    plain: list[Record | bytes] = [made] * 6
    return draw(
        st.sampled_from(
            [
                *plain,
                line.replace(b'"v":1,', b'"v": 1,'),
                line.replace(b'"cause":"replay"', b'"cause":"dream"'),
                line.replace(b'"status":200', b'"status":"200"'),
                line.replace(b"2026-11-25", b"2026-13-25"),
                # Its head is good, and so is the order that it says; the earliest moment says nothing of that.
                to_line(replace(made, started_at=NOW)).replace(b'"headers":', b'"headers":5,"h":'),
            ]
        )
    )


_journals = st.lists(st.lists(st.lists(_lines(), max_size=5), min_size=1, max_size=3), min_size=1, max_size=5)


class TestAgainstGoingThroughAllAttempts:
    @settings(max_examples=200)
    @given(_journals, st.sampled_from([None, 1, 2, 4.000001, 9]))
    @example([[[attempt("1-1", 9)]], [[attempt("1-1", 5), attempt("1-1", 3)]]], None)
    @example([[[attempt("1-1", 5)]], [[attempt("1-1", 9, None), attempt("1-1", 3)]], [[attempt("1-1", 7)]]], None)
    @example([[[attempt("1-1", 5, None), attempt("1-1", 3)]], [[attempt("1-1", 9)]], [[attempt("1-1", 7)]]], None)
    def test_it_is_the_same(
        self, sessions: list[list[list[Record | bytes]]], before_seconds: float | None
    ) -> None:
        before = None if before_seconds is None else NOW + timedelta(seconds=before_seconds)
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            for session, segments in enumerate(sessions, 1):
                for segment, records in enumerate(segments, 1):
                    write(directory, session, *records, segment=segment)
            journal = Journal.open(directory)
            with journal.recorded_answers(before) as answers:
                for id in ("1-1", "1-2", "2-1"):
                    attempts = [
                        one
                        for one in journal.attempts(id)
                        if one.status is not None and (before is None or one.started_at < before)
                    ]
                    forwarded = [one for one in attempts if one.cause == "forward"]
                    others = [one for one in attempts if one.cause == "replay"]
                    naive = forwarded[-1] if forwarded else others[0] if others else None
                    assert answers.to(recording(id)) == naive == recorded_answer(journal.attempts(id), before)


class TestWhileTheFilesChange:
    async def test_a_session_goes_on_writing(self, tmp_path: Path) -> None:
        writer = JournalWriter(tmp_path, forward="http://h/", segment_bytes=2000)
        ids = []
        for number in range(50):
            ids.append(writer.next_id())
            await writer.append(recording(ids[-1]))
            await writer.append(attempt(ids[-1], number, body=b"%d" % number))
        journal = Journal.open(tmp_path)
        assert len(files.segments(journal.directory)) > 8
        with journal.recorded_answers() as answers:
            for number, id in enumerate(ids):
                await writer.append(attempt(id, 100, 500))
                await writer.append(recording(writer.next_id()))
                found = answers.to(recording(id))
                assert found is not None
                assert found.body == b"%d" % number
        await writer.close()

    def test_a_line_that_is_being_written_is_none(self, tmp_path: Path) -> None:
        first = replayed("1-1", 1)
        path = write(tmp_path, 1, first)
        journal = Journal.open(tmp_path)
        with path.open("ab") as file:
            file.write(to_line(attempt("1-1", 2))[:-1])
        assert journal.recorded_answers().to(recording("1-1")) == first

    def test_a_prune_moves_what_is_left(self, tmp_path: Path, read_again: list[str]) -> None:
        for session in (1, 2, 3):
            old = [one for n in range(1, 9) for one in (recording(f"{session}-{n}", NOW - timedelta(9)),)]
            old_attempts = [attempt(f"{session}-{n}", body=b"old") for n in range(1, 9)]
            kept = recording(f"{session}-9", datetime.now(UTC))
            write(tmp_path, session, *old, *old_attempts, kept, attempt(kept.id, body=b"kept %d" % session))
        with Journal.open(tmp_path).recorded_answers() as answers:
            held = answers.to(recording("1-8"))  # so that its file is open
            assert prune(tmp_path / "journal", older_than=timedelta(1)).recordings == 24
            assert [_body(answers, f"{session}-9") for session in (1, 2, 3)] == [b"kept 1", b"kept 2", b"kept 3"]
            assert held is not None
            assert answers.to(recording("2-8")) is None
        assert read_again == []

    def test_a_prune_removes_a_file(self, tmp_path: Path) -> None:
        write(tmp_path, 1, recording("1-1", NOW - timedelta(9)), attempt("1-1"))
        write(tmp_path, 2, recording("2-1"), attempt("2-1"))
        with Journal.open(tmp_path).recorded_answers() as answers:
            prune(tmp_path / "journal", keep=1)
            assert answers.to(recording("1-1")) is None
            assert answers.to(recording("2-1")) == attempt("2-1")

    def test_what_was_written_since_is_not_the_recorded_answer_after_a_prune(self, tmp_path: Path) -> None:
        began = datetime.now(UTC)
        write(tmp_path, 1, recording("1-1", NOW - timedelta(9)), attempt("1-1"), recording("1-2"))
        first = replayed("1-2", (began - NOW).total_seconds() - 60, body=b"before")
        write(tmp_path, 2, first)
        with Journal.open(tmp_path).recorded_answers() as answers:
            later = (datetime.now(UTC) - NOW).total_seconds() + 1
            write(tmp_path, 3, attempt("1-2", later, body=b"since"), attempt("1-1", later))
            prune(tmp_path / "journal", keep=1)
            assert answers.to(recording("1-1")) is None
            assert answers.to(recording("1-2")) == first

    @pytest.mark.parametrize("spoiled", [False, True])
    def test_nor_is_what_a_later_session_wrote_with_a_clock_that_was_set_back(
        self, tmp_path: Path, spoiled: bool
    ) -> None:
        first = attempt("1-2", 5, body=b"before")
        after = [to_line(attempt("1-2", 6)).replace(b'"headers":[]', b'"headers":[')] if spoiled else []
        write(tmp_path, 1, recording("1-1", NOW - timedelta(9)), attempt("1-1"), recording("1-2"), first, *after)
        with Journal.open(tmp_path).recorded_answers() as answers:
            write(tmp_path, 2, attempt("1-2", 7), attempt("1-1", 7))
            if not spoiled:
                prune(tmp_path / "journal", keep=1)
                assert answers.to(recording("1-1")) is None
            assert answers.to(recording("1-2")) == first

    @pytest.mark.parametrize("what", ["the same size", "the same number"])
    def test_another_attempt_with_that_recording_may_stand_there_now(self, tmp_path: Path, what: str) -> None:
        first, second = replayed("1-1", 1, body=b"1"), replayed("1-1", 2, body=b"2")
        path = write(tmp_path, 1, replayed("9-9", body=b"9"), first, second)  # lines of one length
        with Journal.open(tmp_path).recorded_answers() as answers:
            start, other, one, two = path.read_bytes().splitlines(keepends=True)
            if what == "the same size":
                beside = path.with_suffix(".pruning")
                beside.write_bytes(start + one + two + other)
                beside.replace(path)
            else:
                path.write_bytes(start + one + two)
            assert answers.to(recording("1-1")) == first

    def test_a_write_that_failed_was_cut_off(self, tmp_path: Path, read_again: list[str]) -> None:
        path = write(tmp_path, 1, attempt("1-1", 1, body=b"kept"))
        whole = path.stat().st_size
        cut_off = b"cut off" * 50_000
        with path.open("ab") as file:
            file.write(to_line(attempt("1-1", 2, body=cut_off)))
        with Journal.open(tmp_path).recorded_answers() as answers:
            assert _body(answers, "1-1") == cut_off
            os.truncate(path, whole)
            assert _body(answers, "1-1") == b"kept"
        assert read_again == []

    def test_what_was_cut_off_may_have_other_lines_in_its_place(self, tmp_path: Path) -> None:
        path = write(tmp_path, 1, attempt("1-1", 1, body=b"kept"))
        whole = path.stat().st_size
        with path.open("ab") as file:
            file.write(to_line(attempt("1-1", 2, body=b"cut off")))
        with Journal.open(tmp_path).recorded_answers() as answers:
            os.truncate(path, whole)
            with path.open("ab") as file:
                file.write(to_line(attempt("1-2", 3, body=b"much longer")))
            assert _body(answers, "1-1") == b"kept"

    def test_a_line_that_is_spoiled_behind_its_head_is_passed_over(
        self, tmp_path: Path, read_again: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        good = attempt("1-1", 1)
        spoiled = to_line(attempt("1-1", 2)).replace(b'"headers":[]', b'"headers":[')
        path = write(tmp_path, 1, good, spoiled, attempt("1-2", 3))
        journal = Journal.open(tmp_path)
        with journal.recorded_answers() as answers:
            monkeypatch.setattr(answers, "_read_all", _refuse)
            assert answers.to(recording("1-1")) == good
            assert answers.to(recording("1-2")) == attempt("1-2", 3)
        assert read_again == ["1-1"]
        assert len(journal.unreadable[path]) == 1

    def test_a_file_of_a_later_format_is_left_alone(self, tmp_path: Path) -> None:
        path = write_lines(tmp_path, 1, (b'{"v":2,"kind":"session"}\n', attempt("1-1")))
        journal = Journal.open(tmp_path)
        assert journal.recorded_answers().to(recording("1-1")) is None
        assert path in journal.unreadable

    def test_files_are_not_looked_into_twice_where_sessions_followed_each_other(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(tmp_path, 1, *(attempt(f"1-{n}", n, 200 if n % 2 else None) for n in range(50)))
        for session in (2, 3):
            write(tmp_path, session, *(replayed(f"1-{n}", 100 * session + n) for n in range(50)))
        monkeypatch.setattr(Path, "open", _once(Path.open))
        Journal(tmp_path).recorded_answers().close()

    def test_a_file_that_may_not_be_read_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(tmp_path, 1, attempt("1-1"))
        with Journal.open(tmp_path).recorded_answers() as answers:
            monkeypatch.setattr(Path, "open", _refuse)
            with pytest.raises(JournalUnreadable, match="check its permissions"):
                answers.to(recording("1-1"))

    def test_few_files_are_open(self, tmp_path: Path) -> None:
        for session in range(1, 41):
            write(tmp_path, session, attempt(f"{session}-1", body=b"%d" % session))
        before = _open_files()
        with Journal.open(tmp_path).recorded_answers() as answers:
            for _ in range(2):
                for session in range(1, 41):
                    assert _body(answers, f"{session}-1") == b"%d" % session
            assert _open_files() - before <= 8
        assert _open_files() == before


def _body(answers: RecordedAnswers, id: str) -> bytes | None:
    found = answers.to(recording(id))
    return None if found is None else found.body


def _refuse(*_: Any, **__: Any) -> Iterator[bytes]:
    raise PermissionError(13, "Permission denied")


def _once(original: Any) -> Any:
    """`Path.open` for reading with a buffer that opens no file a second time."""
    opened: set[Path] = set()

    def opening(path: Path, mode: str, buffering: int = -1) -> Any:
        assert buffering == 0 or path not in opened, "a second time"
        if buffering != 0:
            opened.add(path)
        return original(path, mode, buffering)

    return opening


def _open_files() -> int:
    return sum(1 for _ in Path("/dev/fd").iterdir())

"""Reading the journal: from the front, from the end, by id and by query, while it grows and after a crash."""

import itertools
import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from journal_files import write as write_file
from journal_files import write_lines
from programs import Programs, wait_until
from tinydb import where

from b24tunnel import form
from b24tunnel.event import Event
from b24tunnel.journal import Journal, JournalUnreadable, JournalWriter, files
from b24tunnel.recording import Attempt, Recording, SessionEnd, SessionStart, to_line

NOW = datetime(2026, 11, 25, 14, 15, 3, tzinfo=UTC)
HANDLER = "http://127.0.0.1:8000/handler"


def recording(id: str, body: bytes = b"event=ONCRMDEALADD", **changes: Any) -> Recording:
    return Recording(id, NOW, "POST", "/b24/x", (), body, code=Event.from_body(body).code, **changes)


def attempt(id: str, number: int = 0, **changes: Any) -> Attempt:
    outcome = {"status": 200} if "error" not in changes else {}
    started = NOW + timedelta(seconds=number)
    return Attempt(id, "forward", HANDLER, started, float(number), **{**outcome, **changes})


def refused(id: str) -> Attempt:
    return attempt(id, error="cannot connect: connection refused")


def interrupted(id: str) -> Attempt:
    return attempt(id, error="interrupted: b24tunnel stopped before the handler had answered")


write = partial(write_file, forward=HANDLER)


def ids(recordings: Any) -> list[str]:
    return [found.id for found in recordings]


def newest_first(journal: Journal) -> list[Recording]:
    return [found for document in journal.newest_first() if (found := document.recording) is not None]


class TestAnEmptyJournal:
    def test_a_directory_without_one_has_nothing_in_it(self, tmp_path: Path) -> None:
        journal = Journal.open(tmp_path / "nowhere")
        assert list(journal.recordings()) == []
        assert list(journal.newest_first()) == []
        assert journal.last(5) == []
        assert journal.get("1-1") is None
        assert journal.attempts("1-1") == []
        assert journal.pending() == []
        assert journal.torn == []
        assert not (tmp_path / "nowhere").exists()

    def test_other_files_are_passed_over(self, tmp_path: Path) -> None:
        write(tmp_path, 1, recording("1-1"))
        for name in ["notes.jsonl", "session-1-1.jsonl", "session-000002-001.torn", "session-000003-001.jsonl~"]:
            (tmp_path / "journal" / name).write_text("nonsense")
        journal = Journal.open(tmp_path)
        assert ids(journal.recordings()) == ["1-1"]
        assert journal.unreadable == {}

    def test_a_directory_that_is_a_file_is_told_plainly(self, tmp_path: Path) -> None:
        (tmp_path / "journal").write_text("")
        with pytest.raises(JournalUnreadable, match="check its permissions"):
            Journal.open(tmp_path)


class TestReading:
    @pytest.fixture
    def journal(self, tmp_path: Path) -> Journal:
        write(tmp_path, 2, recording("2-1"), attempt("2-1", 1), recording("2-2"))
        write(tmp_path, 2, recording("2-3"), attempt("2-2", 2), segment=2)
        write(tmp_path, 10, attempt("2-1", 3), recording("10-1", "event=ONCRMLEADADD&data[x]=лид".encode()))
        write(tmp_path, 9, recording("9-1"), attempt("9-1", 4), attempt("9-1", 5))
        return Journal.open(tmp_path)

    def test_recordings_come_in_the_order_of_sessions_and_segments(self, journal: Journal) -> None:
        assert ids(journal.recordings()) == ["2-1", "2-2", "2-3", "9-1", "10-1"]
        assert ids(journal.recordings(2)) == ["2-1", "2-2", "2-3"]
        assert ids(journal.recordings(3)) == []

    def test_one_is_found_by_its_id(self, journal: Journal) -> None:
        found = journal.get("10-1")
        assert found is not None
        assert found.event.data == {"x": "лид"}

    @pytest.mark.parametrize("absent", ["10-2", "3-1", "2-10", "", "2", "2-1 ", "../2-1"])
    def test_an_id_that_is_not_there_is_none(self, journal: Journal, absent: str) -> None:
        assert journal.get(absent) is None
        assert journal.attempts(absent) == []

    def test_attempts_are_gathered_over_all_sessions(self, journal: Journal) -> None:
        assert [one.duration_ms for one in journal.attempts("2-1")] == [1.0, 3.0]
        assert [one.duration_ms for one in journal.attempts("9-1")] == [4.0, 5.0]
        assert journal.attempts("2-3") == []

    def test_these_come_in_the_order_in_which_they_came(self, journal: Journal) -> None:
        assert ids(journal.these(["10-1", "2-3", "2-1", "7-7", "nonsense"])) == ["2-1", "2-3", "10-1"]

    def test_newest_first_pairs_each_with_its_attempts(self, journal: Journal) -> None:
        found = journal.with_attempts(newest_first(journal))
        paired = [(one.recording.id, [a.duration_ms for a in one.attempts]) for one in found]
        assert paired == [("10-1", []), ("9-1", [4.0, 5.0]), ("2-3", []), ("2-2", [2.0]), ("2-1", [1.0, 3.0])]

    def test_the_body_of_a_record_that_quotes_a_journal_is_no_record(self, tmp_path: Path) -> None:
        quoted = to_line(recording("1-9")).strip()
        write(tmp_path, 1, recording("1-1", quoted), attempt("1-1", body=quoted))
        journal = Journal.open(tmp_path)
        assert ids(journal.recordings()) == ["1-1"]
        assert journal.get("1-9") is None
        assert journal.attempts("1-9") == []

    def test_lines_that_others_wrote_with_spaces_are_read_as_well(self, tmp_path: Path) -> None:
        spaced = json.dumps(recording("1-1").to_json()).encode() + b"\n"
        also = json.dumps(attempt("1-1", 7).to_json()).encode() + b"\n"
        write(tmp_path, 1, spaced, also)
        journal = Journal.open(tmp_path)
        assert ids(journal.recordings()) == ids(journal.last(5)) == ["1-1"]
        assert journal.get("1-1") is not None
        assert [one.duration_ms for one in journal.attempts("1-1")] == [7.0]

    def test_a_file_removed_while_reading_has_nothing_in_it(self, journal: Journal) -> None:
        reading = journal.recordings()
        assert next(reading).id == "2-1"
        for path in journal.directory.glob("session-000009-*"):
            path.unlink()
        assert ids(reading) == ["2-2", "2-3", "10-1"]


class TestSearch:
    @pytest.fixture
    def journal(self, tmp_path: Path) -> Journal:
        write(
            tmp_path,
            3,
            recording("3-1", b"event=ONCRMDEALADD&data[FIELDS][ID]=7&ts=1545851621"),
            recording("3-2", b"event=ONCRMDEALUPDATE&data[FIELDS][ID]=7", portal="p", verdict="verified"),
            recording("3-3", b"event=ONCRMDEALADD&data[FIELDS][ID]=8"),
            recording("3-4", b"document_id[]=crm", remote="203.0.113.7"),
        )
        return Journal.open(tmp_path)

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            (where("code") == "ONCRMDEALADD", ["3-1", "3-3"]),
            (where("data").FIELDS.ID == "7", ["3-1", "3-2"]),
            (~(where("code") == "ONCRMDEALADD"), ["3-2", "3-4"]),
            ((where("code") == "ONCRMDEALADD") & (where("data").FIELDS.ID == "8"), ["3-3"]),
            (where("fields").document_id.any(["crm"]), ["3-4"]),
            (where("ts").test(lambda ts: ts is not None and ts.year == 2018), ["3-1"]),
            (where("portal") == "p", ["3-2"]),
            (where("verdict") == "verified", ["3-2"]),
            (where("remote") == "203.0.113.7", ["3-4"]),
            (where("session") == 3, ["3-1", "3-2", "3-3", "3-4"]),
            (where("id") == "3-2", ["3-2"]),
            (where("received_at") >= NOW, ["3-1", "3-2", "3-3", "3-4"]),
            (where("code").search("UPDATE"), ["3-2"]),
            (where("auth").exists(), ["3-1", "3-2", "3-3", "3-4"]),
            (where("nonsense") == 1, []),
            (where("nonsense").exists(), []),
        ],
        ids=itertools.count(),
    )
    def test_a_tinydb_query_filters_recordings(self, journal: Journal, query: Any, expected: list[str]) -> None:
        assert ids(journal.search(query)) == expected

    def test_one_recording_beyond_the_codecs_bound_does_not_stop_a_search(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(tmp_path, 1, recording("1-1", b"a=1&b=2&c=3&d=4"), recording("1-2", b"data=found"))
        monkeypatch.setattr(form, "MAX_PARAMETERS", 3)
        assert ids(Journal.open(tmp_path).search(where("data") == "found")) == ["1-2"]


class TestTheEnd:
    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(
            st.lists(st.sampled_from([0, 10, 65_300, 65_400, 65_536, 70_000, 131_072, 200_000]), max_size=4),
            min_size=1,
            max_size=4,
        ),
        st.integers(0, 18),
        st.integers(0, 300),
    )
    @example([[65_536 * 3], [], [0]], 2, 0)
    def test_last_is_the_tail_of_all(self, sizes: list[list[int]], count: int, shift: int) -> None:
        with tempfile.TemporaryDirectory() as directory:
            for session, lengths in enumerate(sizes, 1):
                write(
                    Path(directory),
                    session,
                    *(
                        record
                        for number, length in enumerate(lengths, 1)
                        for record in (
                            recording(f"{session}-{number}", b"x" * (length + shift)),
                            attempt(f"{session}-{number}"),
                        )
                    ),
                )
            journal = Journal.open(directory)
            everything = list(journal.recordings())
            assert journal.last(count) == everything[max(0, len(everything) - count) :]
            assert newest_first(journal) == everything[::-1]
            assert list(journal.latest(count)) == journal.last(count)
            assert all(len(one.attempts) == 1 for one in journal.with_attempts(journal.last(count)))

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.integers(0, 12), max_size=12), st.booleans(), st.integers(1, 9))
    def test_lines_from_the_end_are_the_lines_reversed(self, lengths: list[int], torn: bool, block: int) -> None:
        lines = [bytes([97 + length % 3]) * (length + 1) + b"\n" for length in lengths]
        with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
            patch.setattr(files, "_BLOCK", block)
            path = Path(directory, "lines")
            path.write_bytes(b"".join(lines) + b"torn" * torn)
            assert list(files.lines_from_end(path)) == lines[::-1]
            for letter in b"a", b"b", b"ab", b"aa":
                others = list(files.lines_from_end(path, (letter,)))
                assert others == [line for line in lines[::-1] if not line.startswith(letter)]

    @pytest.mark.parametrize("count", [0, -1])
    def test_no_recordings_are_no_recordings(self, tmp_path: Path, count: int) -> None:
        write(tmp_path, 1, recording("1-1"))
        assert Journal.open(tmp_path).last(count) == []

    def test_it_is_read_without_the_front(self, tmp_path: Path) -> None:
        path = write(tmp_path, 1, b"\0" * 5_000_000 + b"\n", *(recording(f"1-{n}") for n in range(1, 100)))
        journal = Journal.open(tmp_path)
        assert ids(journal.last(50)) == [f"1-{n}" for n in range(50, 100)]
        assert path not in journal.unreadable


class TestWhileItIsWritten:
    async def test_everything_that_was_acknowledged_is_there(self, tmp_path: Path) -> None:
        writer = JournalWriter(tmp_path, segment_bytes=1500)
        journal = Journal.open(tmp_path)
        for number in range(1, 30):
            await writer.append(recording(writer.next_id()))
            expected = [f"1-{n}" for n in range(1, number + 1)]
            assert ids(journal.recordings()) == ids(journal.last(100)) == expected
        await writer.close()

    async def test_a_line_that_is_only_half_there_is_passed_over(self, tmp_path: Path) -> None:
        writer = JournalWriter(tmp_path)
        await writer.append(recording(writer.next_id()))
        [path] = (tmp_path / "journal").glob("session-*")
        size = path.stat().st_size
        with path.open("ab") as file:
            file.write(to_line(recording("1-2"))[:-10])
        journal = Journal.open(tmp_path)
        assert ids(journal.recordings()) == ids(journal.last(5)) == ["1-1"]
        assert journal.get("1-2") is None
        assert journal.torn == []
        assert journal.unreadable == {}
        assert path.stat().st_size > size
        os.truncate(path, size)
        await writer.close()

    def test_another_process_may_write_it(self, tmp_path: Path, programs: Programs) -> None:
        other = programs.start(*_python(_WRITES_FOR_EVER), str(tmp_path))
        try:
            wait_until(lambda: len(other.lines) > 5, "a few records acknowledged")
            journal = Journal.open(tmp_path)
            for _ in range(20):
                acknowledged = [line.strip() for line in list(other.lines)]
                read = ids(journal.recordings())
                assert read[: len(acknowledged)] == acknowledged
                assert ids(newest_first(journal))[-len(read) :] == read[::-1]
            assert journal.torn == []
            assert journal.unreadable == {}
        finally:
            other.kill()


class TestAfterACrash:
    def test_a_torn_last_line_is_cut_off_kept_aside_and_told_once(self, tmp_path: Path) -> None:
        half = to_line(recording("1-2"))[:-20]
        path = write(tmp_path, 1, recording("1-1"), half)
        journal = Journal.open(tmp_path)
        [torn] = journal.torn
        assert (torn.session, torn.path, torn.size) == (1, path, len(half))
        assert torn.kept_in is not None
        assert torn.kept_in.read_bytes() == half
        assert torn.kept_in.stat().st_mode & 0o777 == 0o600
        assert str(torn.kept_in) in str(torn)
        assert path.read_bytes().endswith(b"\n")
        assert ids(journal.recordings()) == ["1-1"]
        assert Journal.open(tmp_path).torn == []
        assert torn.kept_in.read_bytes() == half

    def test_a_torn_line_longer_than_a_block_is_cut_off_whole(self, tmp_path: Path) -> None:
        half = to_line(recording("1-2", b"x" * 300_000))[:-20]
        write(tmp_path, 1, recording("1-1"), half)
        journal = Journal.open(tmp_path)
        assert [torn.size for torn in journal.torn] == [len(half)]
        assert ids(journal.recordings()) == ids(journal.last(3)) == ["1-1"]

    def test_a_file_that_holds_nothing_but_a_torn_line_is_empty(self, tmp_path: Path) -> None:
        path = write(tmp_path, 1)
        path.write_bytes(b'{"v":1,"ki')
        journal = Journal.open(tmp_path)
        assert [torn.size for torn in journal.torn] == [10]
        assert list(journal.recordings()) == []
        assert journal.pending() == []

    def test_each_torn_session_is_told(self, tmp_path: Path) -> None:
        for session in (1, 2, 3):
            write(tmp_path, session, recording(f"{session}-1"), b"half")
        assert [torn.session for torn in Journal.open(tmp_path).torn] == [1, 2, 3]

    def test_a_line_is_not_cut_off_while_its_writer_lives(self, tmp_path: Path, programs: Programs) -> None:
        writer = programs.start(*_python(_LEAVES_HALF_A_LINE), str(tmp_path))
        wait_until(lambda: writer.lines, "half a line written")
        [path] = (tmp_path / "journal").glob("session-*")
        before = path.read_bytes()
        assert not before.endswith(b"\n")
        assert Journal.open(tmp_path).torn == []
        assert path.read_bytes() == before
        writer.kill()
        assert [torn.session for torn in Journal.open(tmp_path).torn] == [1]
        assert ids(Journal.open(tmp_path).recordings()) == ["1-1"]

    def test_a_file_that_may_not_be_written_is_read_as_it_is(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = write(tmp_path, 1, recording("1-1"), b"half")
        original = Path.open

        def not_for_writing(self: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            if "+" in mode or "w" in mode:
                raise PermissionError(13, "Permission denied")
            return original(self, mode, *arguments, **options)

        monkeypatch.setattr(Path, "open", not_for_writing)
        journal = Journal.open(tmp_path)
        assert journal.torn == []
        assert ids(journal.recordings()) == ids(journal.last(3)) == ["1-1"]
        assert path.read_bytes().endswith(b"half")

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            (b"not json\n", "no JSON"),
            (b'{"v":1,"kind":"recording","id":"1-2"}\n', "wrong or missing part"),
            (b'{"v":2,"kind":"recording"}\n', "use a newer b24tunnel"),
            (b"\xff\xfe\n", "no JSON"),
            (b"[1]\n", "no JSON object"),
        ],
    )
    def test_a_spoiled_line_in_the_middle_is_skipped_and_noted(
        self, tmp_path: Path, line: bytes, words: str
    ) -> None:
        path = write(tmp_path, 1, recording("1-1"), line, recording("1-3"))
        read: list[Callable[[Journal], list[str]]] = [
            lambda journal: ids(journal.recordings()),
            lambda journal: ids(journal.last(5)),
            lambda journal: ids(newest_first(journal))[::-1],
        ]
        for way in read:
            journal = Journal.open(tmp_path)
            assert way(journal) == ["1-1", "1-3"]
            [problem] = journal.unreadable[path]
            assert words in problem
        assert path.read_bytes().count(b"\n") == 4

    def test_a_spoiled_attempt_does_not_hide_what_is_pending(self, tmp_path: Path) -> None:
        spoiled = to_line(refused("1-1")).replace(b'"error":"cannot connect: connection refused"', b'"error":5')
        write(tmp_path, 1, recording("1-1"), spoiled)
        assert Journal.open(tmp_path).pending() == ["1-1"]


class TestPending:
    @pytest.mark.parametrize(
        ("attempts", "expected"),
        [
            ([], ["1-1"]),
            ([refused("1-1")], ["1-1"]),
            ([interrupted("1-1")], ["1-1"]),
            ([attempt("1-1")], []),
            ([attempt("1-1", status=500)], []),
            ([attempt("1-1", error="connection reset: …")], []),
            ([attempt("1-1", error="timed out: …")], []),
            ([refused("1-1"), attempt("1-1")], []),
            ([attempt("1-1"), refused("1-1")], []),
            ([replace(attempt("1-1"), cause="replay")], []),
            ([replace(attempt("1-1"), cause="against")], ["1-1"]),
            ([replace(attempt("1-1", error="timed out: …"), cause="against")], ["1-1"]),
        ],
        ids=itertools.count(),
    )
    def test_a_recording_waits_until_a_handler_was_reached(
        self, tmp_path: Path, attempts: list[Attempt], expected: list[str]
    ) -> None:
        write(tmp_path, 1, recording("1-1"), *attempts)
        assert Journal.open(tmp_path).pending() == expected
        # As another program may write them.
        odd = [to_line(one).replace(b'"v":1,', b'"v": 1,') for one in attempts]
        write(tmp_path, 1, recording("1-1"), *odd)
        assert Journal.open(tmp_path).pending() == expected

    @pytest.mark.parametrize("cause", ["against", "forward"])
    def test_of_several_handlers_one_waits_though_a_replay_compared_its_answers(
        self, tmp_path: Path, cause: Any
    ) -> None:
        start = SessionStart(1, NOW, HANDLER, routes=((HANDLER, ("*",)), ("http://other/", ("*",))))
        other = "http://other/"
        beside = replace(attempt("1-1"), target=other, cause=cause)
        write_lines(tmp_path, 1, (start, recording("1-1"), attempt("1-1"), beside))
        debts = Journal.open(tmp_path).debts()
        assert [(debt.id, debt.is_open_at(HANDLER), debt.is_open_at(other)) for debt in debts] == (
            [("1-1", False, True)] if cause == "against" else []
        )

    def test_they_are_named_in_order(self, tmp_path: Path) -> None:
        write(tmp_path, 1, *(recording(f"1-{n}") for n in (1, 2, 3)), attempt("1-2"))
        write(tmp_path, 2, recording("2-1"))
        assert Journal.open(tmp_path).pending() == ["1-1", "1-3", "2-1"]

    def test_a_session_that_only_recorded_has_none(self, tmp_path: Path) -> None:
        write(tmp_path, 1, recording("1-1"), forward=None)
        assert Journal.open(tmp_path).pending() == []

    def test_a_session_that_ended_with_nothing_pending_is_passed_over(self, tmp_path: Path) -> None:
        write(tmp_path, 1, recording("1-1"), SessionEnd(0))
        assert Journal.open(tmp_path).pending() == []

    def test_a_session_that_ended_with_something_pending_is_looked_at(self, tmp_path: Path) -> None:
        write(tmp_path, 1, recording("1-1"), attempt("1-1"), recording("1-2"), SessionEnd(1))
        assert Journal.open(tmp_path).pending() == ["1-2"]

    def test_a_later_session_or_a_replay_may_have_handed_them_over(self, tmp_path: Path) -> None:
        write(tmp_path, 1, recording("1-1"), recording("1-2"), recording("1-3"))
        write(tmp_path, 2, attempt("1-1"), SessionEnd(0))
        write(tmp_path, 3, attempt("1-3"), forward=None)
        assert Journal.open(tmp_path).pending() == ["1-2"]

    def test_all_segments_of_a_session_count(self, tmp_path: Path) -> None:
        write(tmp_path, 1, recording("1-1"), recording("1-2"))
        write(tmp_path, 1, attempt("1-1"), recording("1-3"), segment=2)
        assert Journal.open(tmp_path).pending() == ["1-2", "1-3"]

    async def test_a_session_that_still_runs_is_passed_over(self, tmp_path: Path) -> None:
        writer = JournalWriter(tmp_path, forward=HANDLER)
        await writer.append(recording(writer.next_id()))
        assert Journal.open(tmp_path).pending() == []
        await writer.close(pending=1)
        assert Journal.open(tmp_path).pending() == ["1-1"]

    async def test_a_session_that_runs_in_its_second_file_is_passed_over(self, tmp_path: Path) -> None:
        writer = JournalWriter(tmp_path, forward=HANDLER, segment_bytes=300)
        for _ in range(3):
            await writer.append(recording(writer.next_id()))
        assert Journal.open(tmp_path).pending() == []
        await writer.close(pending=3)
        assert Journal.open(tmp_path).pending() == ["1-1", "1-2", "1-3"]

    async def test_what_a_running_session_has_handed_over_is_not_offered_again(self, tmp_path: Path) -> None:
        write(tmp_path, 1, recording("1-1"), recording("1-2"))
        running = JournalWriter(tmp_path, forward=HANDLER)
        await running.append(attempt("1-1"))
        try:
            assert Journal.open(tmp_path).pending() == ["1-2"]
        finally:
            await running.close()

    def test_a_killed_process_leaves_its_own(self, tmp_path: Path, programs: Programs) -> None:
        other = programs.start(*_python(_WRITES_FOR_EVER), str(tmp_path))
        wait_until(lambda: len(other.lines) > 3, "a few records acknowledged")
        assert Journal.open(tmp_path).pending() == []
        other.kill()
        acknowledged = [line.strip() for line in other.lines]
        pending = Journal.open(tmp_path).pending()
        assert pending[: len(acknowledged)] == acknowledged


def _python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


_PREAMBLE = """
import asyncio, signal, sys
from functools import partial
from datetime import UTC, datetime
from pathlib import Path
from b24tunnel.journal import JournalWriter
from b24tunnel.recording import Recording

def recording(writer):
    return Recording(writer.next_id(), datetime.now(UTC), "POST", "/", (), b"x" * 200)
"""
_WRITES_FOR_EVER = (
    _PREAMBLE
    + """
async def main():
    writer = JournalWriter(Path(sys.argv[1]), forward="http://127.0.0.1:1/")
    while True:
        written = recording(writer)
        await writer.append(written)
        print(written.id, flush=True)

asyncio.run(main())
"""
)
_LEAVES_HALF_A_LINE = (
    _PREAMBLE
    + """
async def main():
    writer = JournalWriter(Path(sys.argv[1]))
    await writer.append(recording(writer))
    [path] = Path(sys.argv[1], "journal").glob("session-*")
    with path.open("ab") as file:
        file.write(b'{"v":1,"kind":"recording","id":"1-2",')
    print("done", flush=True)
    signal.pause()

asyncio.run(main())
"""
)

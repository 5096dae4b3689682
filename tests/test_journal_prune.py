"""Pruning: what goes, what never goes, and that a crash, a reader or a writer beside it does no harm."""

import asyncio
import json
import os
import random
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journal_files import write
from programs import Programs, wait_until

from b24tunnel.errors import OutsideFailure, WrongUsage
from b24tunnel.journal import Journal, JournalWriter, Tail, files, follow_directory
from b24tunnel.journal import prune as prune_module
from b24tunnel.journal.prune import Report, prune
from b24tunnel.recording import Attempt, Record, Recording, SessionEnd, to_line

NOW = datetime.now(UTC)
HANDLER = "http://127.0.0.1:8000/"


def recording(id: str, days: float = 10) -> Recording:
    return Recording(id, NOW - timedelta(days=days), "POST", "/b24/x", (), b"event=ONX", code="ONX")


def attempt(id: str, **changes: Any) -> Attempt:
    return Attempt(id, "forward", HANDLER, NOW, 1.0, **{"status": 200, **changes})


def refused(id: str) -> Attempt:
    return attempt(id, status=None, error="cannot connect: refused")


def left(directory: Path) -> list[str]:
    """The recordings that are left, and ``a`` before the id of each attempt's."""
    found = []
    for segment in files.segments(directory / "journal"):
        for line in segment.path.read_bytes().splitlines():
            record = json.loads(line)
            found += [record["id"]] if record["kind"] == "recording" else []
            found += ["a" + record["recording"]] if record["kind"] == "attempt" else []
    return found


def sessions(directory: Path) -> list[int]:
    return sorted({segment.session for segment in files.segments(directory / "journal")})


def pruned(
    directory: Path, *, days: float | None = None, keep: int | None = None, dry_run: bool = False
) -> Report:
    older_than = None if days is None else timedelta(days=days)
    return prune(directory / "journal", older_than=older_than, keep=keep, dry_run=dry_run)


class TestWhatGoes:
    @pytest.fixture(autouse=True)
    def _journal(self, tmp_path: Path) -> None:
        write(tmp_path, 1, recording("1-1", 30), attempt("1-1"), recording("1-2", 20))
        write(tmp_path, 1, attempt("1-2"), recording("1-3", 15), SessionEnd(0), segment=2)
        write(tmp_path, 2, attempt("1-1"), attempt("1-3"), attempt("oncrmdealadd"))
        write(tmp_path, 3, recording("3-1", 5), attempt("3-1"))

    @pytest.mark.parametrize(
        ("days", "keep", "expected", "numbers"),
        [
            (
                40,
                None,
                ["1-1", "a1-1", "1-2", "a1-2", "1-3", "a1-1", "a1-3", "aoncrmdealadd", "3-1", "a3-1"],
                (0, 0),
            ),
            (25, None, ["1-2", "a1-2", "1-3", "a1-3", "aoncrmdealadd", "3-1", "a3-1"], (1, 2)),
            (17, None, ["1-3", "a1-3", "aoncrmdealadd", "3-1", "a3-1"], (2, 3)),
            (10, None, ["aoncrmdealadd", "3-1", "a3-1"], (3, 4)),
            (0, None, ["aoncrmdealadd"], (4, 5)),
            (
                None,
                4,
                ["1-1", "a1-1", "1-2", "a1-2", "1-3", "a1-1", "a1-3", "aoncrmdealadd", "3-1", "a3-1"],
                (0, 0),
            ),
            (None, 2, ["1-3", "a1-3", "aoncrmdealadd", "3-1", "a3-1"], (2, 3)),
            (None, 0, ["aoncrmdealadd"], (4, 5)),
            (17, 3, ["1-2", "a1-2", "1-3", "a1-3", "aoncrmdealadd", "3-1", "a3-1"], (1, 2)),
            (25, 1, ["1-2", "a1-2", "1-3", "a1-3", "aoncrmdealadd", "3-1", "a3-1"], (1, 2)),
        ],
    )
    def test_old_ones_go_with_their_attempts_but_never_the_newest(
        self, tmp_path: Path, days: float | None, keep: int | None, expected: list[str], numbers: tuple[int, int]
    ) -> None:
        before = left(tmp_path)
        size = sum(segment.path.stat().st_size for segment in files.segments(tmp_path / "journal"))
        announced = pruned(tmp_path, days=days, keep=keep, dry_run=True)
        assert left(tmp_path) == before
        report = pruned(tmp_path, days=days, keep=keep)
        assert left(tmp_path) == expected
        assert report == announced
        assert (report.recordings, report.attempts) == numbers
        assert report.size == size - sum(s.path.stat().st_size for s in files.segments(tmp_path / "journal"))
        assert pruned(tmp_path, days=days, keep=keep) == Report()
        assert Journal.open(tmp_path).unreadable == {}

    def test_files_without_anything_go_and_the_highest_number_stays_taken(self, tmp_path: Path) -> None:
        write(tmp_path, 4, recording("4-1"))
        pruned(tmp_path, keep=0)
        assert sessions(tmp_path) == [2, 4]
        assert [path.name for path in sorted((tmp_path / "journal").glob("session-*"))] == [
            "session-000002-001.jsonl",
            "session-000004-001.jsonl",
        ]
        assert files.segment_path(tmp_path / "journal", 4, 1).stat().st_mode & 0o777 == 0o600

    async def test_a_number_is_never_given_out_again(self, tmp_path: Path) -> None:
        for expected in (4, 5, 6):
            writer = JournalWriter(tmp_path)
            assert writer.session == expected
            await writer.close()
            pruned(tmp_path, keep=0)
        assert sessions(tmp_path) == [2, 6]

    def test_a_sessions_end_stays_as_long_as_anything_of_it(self, tmp_path: Path) -> None:
        write(tmp_path, 3, recording("3-1", 1), forward=HANDLER)
        write(tmp_path, 3, recording("3-2", 9), SessionEnd(0), segment=2, forward=HANDLER)
        write(tmp_path, 4)
        pruned(tmp_path, days=5)
        assert left(tmp_path)[-1] == "3-1"
        assert Journal.open(tmp_path).pending() == []

    def test_the_time_of_a_file_stays(self, tmp_path: Path) -> None:
        path = files.segment_path(tmp_path / "journal", 1, 2)
        os.utime(path, (1_000_000_000, 1_000_000_000))
        pruned(tmp_path, days=25)
        pruned(tmp_path, days=17)
        assert path.stat().st_mtime == 1_000_000_000

    def test_attempts_with_recordings_that_went_before_go(self, tmp_path: Path) -> None:
        for path in (tmp_path / "journal").glob("session-000001-*"):
            path.unlink()
        assert pruned(tmp_path, days=1000).attempts == 2
        assert left(tmp_path) == ["aoncrmdealadd", "3-1", "a3-1"]

    def test_lines_in_other_shapes_go_as_well(self, tmp_path: Path) -> None:
        old, also = recording("5-1"), attempt("5-1")
        spaced = [json.dumps(one.to_json()).encode() + b"\n" for one in (old, also, recording("5-2", 1))]
        write(tmp_path, 5, *spaced)
        report = pruned(tmp_path, days=5)
        assert left(tmp_path)[-1] == "5-2"
        assert report.left_whole == {}


class TestWhatStays:
    def test_what_was_not_forwarded_yet(self, tmp_path: Path) -> None:
        write(
            tmp_path,
            1,
            *(recording(f"1-{n}") for n in range(1, 6)),
            *(attempt("1-1"), refused("1-2"), attempt("1-3", status=500)),
            forward=HANDLER,
        )
        write(tmp_path, 2, attempt("1-4"), forward=HANDLER)
        pending = Journal.open(tmp_path).pending()
        report = pruned(tmp_path, keep=0)
        assert (report.recordings, report.attempts, report.not_forwarded) == (3, 3, 2)
        assert left(tmp_path) == ["1-2", "1-5", "a1-2"]
        assert Journal.open(tmp_path).pending() == pending == ["1-2", "1-5"]

    def test_what_only_the_newest_keep_is_not_counted_as_not_forwarded(self, tmp_path: Path) -> None:
        write(tmp_path, 1, recording("1-1"), recording("1-2"), forward=HANDLER)
        assert pruned(tmp_path, keep=1).not_forwarded == 1
        assert pruned(tmp_path, keep=2).not_forwarded == 0

    async def test_a_session_that_is_being_written(self, tmp_path: Path) -> None:
        write(tmp_path, 1, recording("1-1"))
        writer = JournalWriter(tmp_path, segment_bytes=300)
        for _ in range(3):
            await writer.append(recording(writer.next_id()))
            await writer.append(attempt("1-1"))
        before = left(tmp_path)
        report = pruned(tmp_path, keep=0)
        assert left(tmp_path) == before[1:]
        assert (report.recordings, report.attempts, report.being_written) == (1, 0, 1)
        await writer.append(recording(writer.next_id()))
        await writer.close()
        assert pruned(tmp_path, keep=1).attempts == 3
        assert left(tmp_path) == ["2-4"]

    @pytest.mark.parametrize(
        "line",
        [b"nonsense\n", to_line(recording("1-2"))[:-30] + b"\n", to_line(attempt("1-2"))[:-9] + b"\n"],
        ids=["nonsense", "half a recording", "half an attempt"],
    )
    def test_files_with_unreadable_lines(self, tmp_path: Path, line: bytes) -> None:
        path = write(tmp_path, 1, recording("1-1"), line, attempt("1-1"))
        other = write(tmp_path, 2, recording("2-1"), attempt("1-1"), attempt("1-2"))
        before = path.read_bytes()
        report = pruned(tmp_path, keep=0)
        assert path.read_bytes() == before
        assert "list --check" in report.left_whole[path]
        assert (report.recordings, report.attempts) == (1, 0)
        assert b'"recording":"1-1"' in other.read_bytes()
        assert b'"recording":"1-2"' in other.read_bytes()

    def test_a_replay_with_an_unreadable_line(self, tmp_path: Path) -> None:
        write(tmp_path, 1, recording("1-1"))
        path = write(tmp_path, 2, attempt("1-1"), b'{"v":1,"kind":"attempt","recording":"1-1",\n')
        before = path.read_bytes()
        report = pruned(tmp_path, keep=0)
        assert path.read_bytes() == before
        assert (report.recordings, list(report.left_whole)) == (1, [path])

    def test_a_file_that_another_process_repairs(self, tmp_path: Path) -> None:
        path = write(tmp_path, 1, recording("1-1"))
        write(tmp_path, 2, attempt("1-1"))

        def repaired_meanwhile(original: Callable[..., bool]) -> Callable[..., bool]:
            def nobody_writes(file: Any, *, shared: bool = False) -> bool:
                return file.name != str(path) and original(file, shared=shared)

            return nobody_writes

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(prune_module, "nobody_writes", repaired_meanwhile(prune_module.nobody_writes))
            report = pruned(tmp_path, keep=0)
        assert report.left_whole[path] == "another process uses it"
        assert left(tmp_path) == ["1-1", "a1-1"]
        assert (report.recordings, report.attempts) == (0, 0)

    def test_a_file_whose_writer_has_not_marked_it_yet(self, tmp_path: Path) -> None:
        path = write(tmp_path, 1)
        path.write_bytes(b"")
        write(tmp_path, 2)
        pruned(tmp_path, keep=0)
        assert path.exists()

    def test_fixtures_and_other_files(self, tmp_path: Path) -> None:
        write(tmp_path, 1, recording("1-1"))
        others = [tmp_path / "saved.json", tmp_path / "journal" / "session-000001-001.torn"]
        for path in others:
            path.write_bytes(b"mine")
        pruned(tmp_path, keep=0)
        assert all(path.read_bytes() == b"mine" for path in others)

    def test_an_absent_journal_stays_absent(self, tmp_path: Path) -> None:
        assert pruned(tmp_path / "nowhere", keep=0) == Report()
        assert not (tmp_path / "nowhere").exists()


class TestBesideOthers:
    def test_one_prune_at_a_time(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(tmp_path, 1, recording("1-1"), recording("1-2"))
        inside, may_go_on = threading.Event(), threading.Event()
        original = prune_module.Owed

        def held(*given: Any) -> Any:
            inside.set()
            assert may_go_on.wait(20)
            return original(*given)

        with monkeypatch.context() as patch:
            patch.setattr(prune_module, "Owed", held)
            first = threading.Thread(target=pruned, args=(tmp_path,), kwargs={"keep": 1})
            first.start()
            assert inside.wait(20)
        try:
            with pytest.raises(OutsideFailure, match="under way"):
                pruned(tmp_path, keep=1)
        finally:
            may_go_on.set()
            first.join()
        assert left(tmp_path) == ["1-2"]

    def test_files_that_vanish_meanwhile(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for session in range(1, 6):
            write(tmp_path, session, recording(f"{session}-1"), attempt("1-1"))
        original = prune_module._concerns

        def vanishing(line: bytes) -> Any:
            files.segment_path(tmp_path / "journal", 3, 1).unlink(missing_ok=True)
            return original(line)

        monkeypatch.setattr(prune_module, "_concerns", vanishing)
        pruned(tmp_path, keep=1)
        assert left(tmp_path) == ["5-1"]

    def test_the_disk_refuses(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write(tmp_path, 1, recording("1-1"), recording("1-2"))
        before = path.read_bytes()

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(OutsideFailure, match="make room"):
                pruned(tmp_path, keep=1)
        assert path.read_bytes() == before
        assert not list((tmp_path / "journal").glob("*.pruning"))

    def test_what_a_killed_one_left_goes_with_the_next(self, tmp_path: Path) -> None:
        write(tmp_path, 1, recording("1-1"))
        beside = tmp_path / "journal" / "session-000001-001.pruning"
        beside.write_bytes(b"half")
        pruned(tmp_path, keep=5, dry_run=True)
        assert beside.exists()
        pruned(tmp_path, keep=5)
        assert not beside.exists()
        assert left(tmp_path) == ["1-1"]

    async def test_a_follower_behind_reads_the_old_files_to_their_end(self, tmp_path: Path) -> None:
        write(tmp_path, 1)
        tail = Tail(tmp_path / "journal", 1)
        big = [Recording(f"1-{n}", NOW, "POST", "/", (), b"x" * 400_000) for n in range(1, 11)]
        write(tmp_path, 1, *big)
        seen = [tail.next(), tail.next()]
        pruned(tmp_path, keep=1)
        while (line := tail.next()) is not None:
            seen.append(line)
        assert seen[1:] == [to_line(one) for one in big]
        tail.close()

    async def test_a_follower_goes_on_after_it(self, tmp_path: Path) -> None:
        write(tmp_path, 1, *(recording(f"1-{n}") for n in range(1, 9)))
        writer = JournalWriter(tmp_path)
        seen = []
        async with aclosing(follow_directory(tmp_path / "journal")) as records, asyncio.timeout(20):
            for keep in (6, 3, 0):
                waiting = asyncio.ensure_future(anext(records))
                await asyncio.sleep(0)
                await asyncio.to_thread(pruned, tmp_path, keep=keep)
                await writer.append(recording(writer.next_id()))
                record = await waiting
                assert isinstance(record, Recording)
                seen.append(record.id)
        assert seen == ["2-1", "2-2", "2-3"]
        await writer.close()

    def test_what_is_being_handed_over_is_read_to_its_end(self, tmp_path: Path) -> None:
        write(tmp_path, 1, *(recording(f"1-{n}") for n in range(1, 2001)), forward=HANDLER)
        write(tmp_path, 2, recording("2-1"), forward=HANDLER)
        journal = Journal.open(tmp_path)
        pending = journal.pending()
        handing_over = journal.these(pending)
        seen = [next(handing_over).id]
        write(tmp_path, 3, *(attempt(id) for id in pending))
        assert pruned(tmp_path, keep=0).recordings == 2001
        # What is left of the open file is there; what was in another file had been handed over by somebody else.
        assert [*seen, *(one.id for one in handing_over)] == pending[:-1]


@pytest.mark.parametrize(("older_than", "keep"), [(None, None), (timedelta(-1), None), (None, -1)])
def test_nonsense_is_wrong_usage(tmp_path: Path, older_than: Any, keep: Any) -> None:
    with pytest.raises(WrongUsage):
        prune(tmp_path, older_than=older_than, keep=keep)


@st.composite
def _journals(draw: Any) -> list[tuple[bool, list[list[Record]]]]:
    """Sessions of one to three files; whether each was forwarding, and what is in each file."""
    ids = st.sampled_from([f"{session}-{number}" for session in (1, 2, 3, 4) for number in (1, 2, 3)] + ["saved"])
    found = []
    for session in range(1, draw(st.integers(1, 4)) + 1):
        number = 0
        parts: list[list[Record]] = []
        for _ in range(draw(st.integers(1, 3))):
            part: list[Record] = []
            for _ in range(draw(st.integers(0, 4))):
                if draw(st.booleans()):
                    number += 1
                    part.append(recording(f"{session}-{number}", draw(st.integers(1, 9))))
                else:
                    part.append(draw(st.sampled_from([attempt, refused]))(draw(ids)))
            parts.append(part)
        parts[-1] += draw(st.sampled_from([[], [SessionEnd(0)], [SessionEnd(1)]]))
        found.append((draw(st.booleans()), parts))
    return found


@settings(max_examples=200, deadline=None)
@given(_journals(), st.one_of(st.none(), st.integers(0, 10)), st.one_of(st.none(), st.integers(0, 8)))
def test_it_is_what_going_through_all_by_hand_gives(
    journal: list[tuple[bool, list[list[Record]]]], days: int | None, keep: int | None
) -> None:
    if days is None and keep is None:
        days = 5
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for session, (forwarding, parts) in enumerate(journal, 1):
            for segment, part in enumerate(parts, 1):
                write(directory, session, *part, segment=segment, forward=HANDLER if forwarding else None)
        everything = [record for _, parts in journal for part in parts for record in part]
        recordings = [one for one in everything if isinstance(one, Recording)]
        pending = set(Journal.open(directory).pending())
        newest = recordings[max(0, len(recordings) - keep) :] if keep else []
        limit = NOW if days is None else datetime.now(UTC) - timedelta(days=days)
        stay = {one.id for one in recordings if one in newest or one.received_at >= limit or one.id in pending}
        expected = [
            one.id if isinstance(one, Recording) else "a" + one.recording
            for one in everything
            if isinstance(one, Recording | Attempt)
            and (one.id if isinstance(one, Recording) else one.recording) in {*stay, "saved"}
        ]
        pruned(directory, days=days, keep=keep)
        assert left(directory) == expected
        assert set(Journal.open(directory).pending()) == pending
        assert max(sessions(directory)) == len(journal)
        assert Journal.open(directory).unreadable == {}
        assert [one for checked in Journal.open(directory).check() for one in checked.problems] == []


@pytest.mark.parametrize("seed", range(8))
def test_killed_in_the_middle_each_file_is_old_or_new(tmp_path: Path, programs: Programs, seed: int) -> None:
    for session in range(1, 41):
        records = [one for n in range(1, 30) for one in (recording(f"{session}-{n}"), attempt(f"{session}-{n}"))]
        write(tmp_path, session, *records, recording(f"{session}-30", 1), forward=HANDLER)
    write(tmp_path, 41, *(attempt(f"{session}-1") for session in range(1, 41)))
    pending = Journal.open(tmp_path).pending()
    old = {path: path.read_bytes() for path in (tmp_path / "journal").glob("session-*")}
    program = programs.start(sys.executable, "-c", _PRUNES, str(tmp_path))
    wait_until(lambda: program.lines, "it has begun")
    stopped_after = random.Random(seed).randrange(1, 40)
    wait_until(lambda: len(program.lines) >= stopped_after, "some files done")
    program.kill()
    for path, before in old.items():
        now = path.read_bytes()
        assert now == before or now.count(b"\n") == (1 if "000041" in path.name else 2)
    journal = Journal.open(tmp_path)
    assert journal.torn == []
    assert journal.pending() == pending
    assert pruned(tmp_path, days=5).recordings <= 29 * 40
    assert not list((tmp_path / "journal").glob("*.pruning"))
    assert left(tmp_path) == [f"{session}-30" for session in range(1, 41)]


class TestTheCommand:
    @pytest.fixture(autouse=True)
    def _journal(self, programs: Programs) -> None:
        directory = programs.directory / "recordings"
        write(directory, 1, *(recording(f"1-{n}") for n in range(1, 1501)))
        write(directory, 2, recording("2-1"), recording("2-2", 1), forward=HANDLER)

    def test_it_says_what_was_removed(self, programs: Programs) -> None:
        result = programs.run("prune", "--older-than", "3d", "--keep", "1")
        assert result.process.returncode == 0, str(result)
        [line] = result.lines
        assert line.startswith("Removed 1,500 recordings and 0 attempts (")
        assert line.endswith(" kB); 1 kept because it was not forwarded yet.\n")
        assert left(programs.directory / "recordings") == ["2-1", "2-2"]

    def test_a_dry_run_removes_nothing(self, programs: Programs) -> None:
        result = programs.run("prune", "--keep", "2", "--dry-run")
        assert result.lines[0].startswith("Would remove 1,500 recordings")
        assert len(left(programs.directory / "recordings")) == 1502

    def test_as_json(self, programs: Programs) -> None:
        result = programs.run("prune", "--keep", "0", "--json")
        printed = json.loads(result.lines[0])
        assert (printed["recordings"], printed["attempts"], printed["not_forwarded"]) == (1500, 0, 2)
        assert printed["left_whole"] == []

    @pytest.mark.parametrize(
        "arguments",
        [[], ["--older-than", "3"], ["--older-than", "-3d"], ["--older-than", "9" * 9 + "w"], ["--keep", "-1"]],
    )
    def test_nonsense_is_wrong_usage(self, programs: Programs, arguments: list[str]) -> None:
        result = programs.run("prune", *arguments)
        assert result.process.returncode == 2
        assert "Traceback" not in str(result)
        assert len(left(programs.directory / "recordings")) == 1502

    @pytest.mark.parametrize("age", ["99999w", "0m", "45m", "12h"])
    def test_ages(self, programs: Programs, age: str) -> None:
        assert programs.run("prune", "--older-than", age, "--dry-run").process.returncode == 0


_PRUNES = """
import sys
from datetime import timedelta
from pathlib import Path
from b24tunnel.journal import prune as module

original = module._Prune._remove_from

def told(self, segment, again):
    original(self, segment, again)
    print(segment.session, flush=True)

module._Prune._remove_from = told
module.prune(Path(sys.argv[1], "journal"), older_than=timedelta(days=5))
"""

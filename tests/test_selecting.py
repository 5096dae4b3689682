"""What users select: what their selectors name, narrowed, as if all was looked at."""

import fnmatch
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journal_files import write as write_file
from tinydb import where

from b24tunnel.conditions import Condition
from b24tunnel.errors import WrongUsage
from b24tunnel.journal import Journal, JournalWriter, files, scan
from b24tunnel.journal.attempts import in_order
from b24tunnel.recording import Attempt, Record, Recording, from_line, to_line
from b24tunnel.selecting import Narrowing, Selection, histories, select
from b24tunnel.through import Through

NOW = datetime(2026, 11, 25, 14, 15, 3, tzinfo=UTC)
HANDLER = "http://127.0.0.1:8000/"


def recording(id: str, code: str | None = "ONX", at: float = 0.0, body: bytes = b"a=1", **more: Any) -> Recording:
    return Recording(id, NOW + timedelta(seconds=at), "POST", "/b24/x", (), body, code=code, **more)


def attempt(id: str, status: int | None, at: float = 0.0) -> Attempt:
    error = None if status is not None else "cannot connect: refused"
    return Attempt(id, "forward", HANDLER, NOW + timedelta(seconds=at), 1.0, status, error=error)


def write(directory: Path, session: int, *records: Record | bytes, segment: int = 1) -> Path:
    """A file of a session that was written to after all that is recorded here."""
    path = write_file(directory, session, *records, segment=segment, forward=HANDLER)
    os.utime(path, (NOW.timestamp() + 86_400, NOW.timestamp() + 86_400))
    return path


@pytest.fixture
def listed(tmp_path: Path) -> Callable[..., list[str]]:
    def listed(*selectors: str, limit: int = 50, failed: bool = False) -> list[str]:
        narrowing = Narrowing(failed=failed)
        found = histories(Journal.open(tmp_path), selectors, tmp_path, limit=limit, narrowing=narrowing)
        return [one.recording.id for one in found]

    return listed


class TestChoosing:
    @pytest.fixture(autouse=True)
    def _journal(self, tmp_path: Path) -> None:
        (tmp_path / "saved.json").write_bytes(to_line(recording("9-9")))
        write(tmp_path, 1, *(recording(f"1-{n}", "ONCRMDEALADD") for n in range(1, 4)))
        write(tmp_path, 12, recording("12-1", "ONCRMLEADADD"), recording("12-2", None), segment=1)
        write(tmp_path, 12, recording("12-3", "ONTASKADD"), segment=2)

    @pytest.mark.parametrize(
        ("selectors", "limit", "expected"),
        [
            ((), 2, ["12-3", "12-2"]),
            (("last",), 50, ["12-3"]),
            (("last:4",), 50, ["12-3", "12-2", "12-1", "1-3"]),
            (("last:4",), 2, ["12-3", "12-2"]),
            (("1-2",), 50, ["1-2"]),
            (("1",), 2, ["1-3", "1-2"]),
            (("ONCRM*",), 50, ["12-1", "1-3", "1-2", "1-1"]),
            (("ONCRM*", "12-1", "1"), 50, ["12-1", "1-3", "1-2", "1-1"]),
            (("1-1", "last"), 50, ["12-3", "1-1"]),
            (("1-1", "saved", "last"), 50, ["saved", "12-3", "1-1"]),
            (("1-1", "saved", "last"), 1, ["saved"]),
            (("*",), 3, ["12-3", "12-2", "12-1"]),
        ],
    )
    def test_the_newest_come_first_once_and_fixtures_before_them(
        self, listed: Callable[..., list[str]], selectors: tuple[str, ...], limit: int, expected: list[str]
    ) -> None:
        assert listed(*selectors, limit=limit) == expected

    @pytest.mark.parametrize("selector", ["1-4", "2", "2-1", "ONIMADD", "nothing", "last:0"])
    def test_one_that_selects_nothing_is_named_also_where_others_fill_the_limit(
        self, listed: Callable[..., list[str]], selector: str
    ) -> None:
        with pytest.raises(WrongUsage, match=f"{selector!r} selects no recording"):
            listed("last", selector, "ONCRM*", limit=1)

    def test_it_stops_reading_where_nothing_more_is_selected(
        self, listed: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read = files.lines_from_end

        def not_the_oldest(path: Path, without: bytes) -> Iterator[bytes]:
            assert "000001" not in path.name
            return read(path, without)

        monkeypatch.setattr(files, "lines_from_end", not_the_oldest)
        assert listed("last:2", "12", limit=3) == ["12-3", "12-2", "12-1"]

    def test_many_are_replayed_in_their_order_without_being_held(self, tmp_path: Path) -> None:
        chosen = select(Journal.open(tmp_path), ["last:5"], tmp_path)
        assert [one.id for one in chosen] == ["1-2", "1-3", "12-1", "12-2", "12-3"]


class TestFailed:
    def test_the_last_attempt_decides(self, listed: Callable[..., list[str]], tmp_path: Path) -> None:
        write(
            tmp_path,
            1,
            *(recording(f"1-{n}") for n in range(1, 6)),
            *(attempt("1-1", 500, 1), attempt("1-1", 200, 2)),
            *(attempt("1-2", 200, 3), attempt("1-2", 404, 4)),
            attempt("1-3", None, 5),
            attempt("1-4", 204, 6),
        )
        assert listed(failed=True) == ["1-3", "1-2"]
        assert listed(failed=True, limit=1) == ["1-3"]
        assert listed("1-4", failed=True) == []

    def test_a_replay_decides_though_the_session_went_on_after_it(
        self, listed: Callable[..., list[str]], tmp_path: Path
    ) -> None:
        write(
            tmp_path, 1, recording("1-1"), attempt("1-1", 500, 1), recording("1-2", at=50), attempt("1-2", 500, 60)
        )
        write(tmp_path, 2, attempt("1-1", 200, 30), attempt("1-2", 200, 59))
        assert listed(failed=True) == ["1-2"]

    def test_within_a_session_the_order_stands_where_the_clock_was_set_back(
        self, listed: Callable[..., list[str]], tmp_path: Path
    ) -> None:
        write(tmp_path, 1, recording("1-1"), attempt("1-1", 500, 3600), attempt("1-1", 200, 1), recording("1-2"))
        write(tmp_path, 2, attempt("1-2", 200, 9000), attempt("1-2", 500, 2))
        assert listed(failed=True) == ["1-2"]
        assert [one.status for one in Journal.open(tmp_path).attempts("1-1")] == [500, 200]

    def test_ids_far_out_cost_nothing(self, listed: Callable[..., list[str]], tmp_path: Path) -> None:
        write(
            tmp_path, 1, recording("1-1"), attempt("1-999999999999", 500), attempt("999999999-999999999999", 500)
        )
        write(tmp_path, 999_999_999, recording("999999999-999999999999"), attempt("1-1", 500))
        assert listed(failed=True) == ["999999999-999999999999", "1-1"]


class TestSelection:
    """What `replay` goes through."""

    @pytest.fixture(autouse=True)
    def _journal(self, tmp_path: Path) -> None:
        (tmp_path / "saved.json").write_bytes(to_line(recording("9-9", "ONA", at=500)))
        write(
            tmp_path,
            1,
            recording("1-1", "ONA", at=10, portal="mine"),
            recording("1-2", "ONB", at=20, body=b"data[ID]=7"),
            recording("1-3", "ONA", at=30, verdict="mismatched"),
            attempt("1-1", 200, 11),
            attempt("1-2", 500, 21),
        )
        write(tmp_path, 2, recording("2-1", "ONA", at=40), recording("2-2", None, at=50, type="robot"))

    @pytest.fixture
    def selected(self, tmp_path: Path) -> Callable[..., list[str]]:
        def selected(*selectors: str, mismatched: bool = False, **narrowing: Any) -> list[str]:
            selection = Selection(
                Journal.open(tmp_path), selectors, tmp_path, Narrowing(**narrowing), mismatched=mismatched
            )
            chosen = [one.id for one in selection]
            left_out = selection.left_out
            assert [one.id for one in selection] == chosen
            assert selection.count() == len(chosen)
            assert selection.left_out == left_out
            return [*chosen, *["left out"] * left_out]

        return selected

    @pytest.mark.parametrize(
        ("selectors", "expected"),
        [
            ((), ["1-1", "1-2", "2-1", "2-2", "left out"]),
            (("ONA",), ["1-1", "2-1", "left out"]),
            (("1",), ["1-1", "1-2", "left out"]),
            (("1-3",), ["1-3"]),
            (("ONA", "1-3"), ["1-1", "2-1", "1-3", "left out"]),
            (("2", "saved", "ONA", "2-1"), ["2-1", "2-2", "saved", "1-1", "2-1", "2-1", "left out"]),
            (("last", "last:2"), ["2-2", "2-1", "2-2"]),
            (("last:3",), ["2-1", "2-2", "left out"]),
            (("last:100000",), ["1-1", "1-2", "2-1", "2-2", "left out"]),
        ],
    )
    def test_the_order_is_that_of_the_selectors_and_forged_ones_need_to_be_named(
        self, selected: Callable[..., list[str]], selectors: tuple[str, ...], expected: list[str]
    ) -> None:
        assert selected(*selectors) == expected

    def test_forged_ones_too_where_that_is_asked_for(self, selected: Callable[..., list[str]]) -> None:
        assert selected("ONA", mismatched=True) == ["1-1", "1-3", "2-1"]

    @pytest.mark.parametrize(
        ("narrowing", "expected"),
        [
            ({"since": NOW + timedelta(seconds=20)}, ["1-2", "2-1", "2-2", "saved", "left out"]),
            ({"until": NOW + timedelta(seconds=20)}, ["1-1"]),
            ({"through": Through(NOW, 1)}, ["1-1", "1-2", "saved", "left out"]),
            ({"through": Through(NOW, 2, {1: 1, 2: 0})}, ["1-1", "saved"]),
            ({"through": Through(NOW, 2, {2: 1}), "since": NOW + timedelta(seconds=35)}, ["2-1", "saved"]),
            ({"portal": "mine"}, ["1-1"]),
            ({"failed": True}, ["1-2"]),
            ({"not_forwarded": True}, ["2-1", "2-2", "saved", "left out"]),
            (
                {"not_forwarded": True, "to": "http://127.0.0.1:9000/"},
                ["1-1", "1-2", "2-1", "2-2", "saved", "left out"],
            ),
            ({"failed": True, "to": "http://127.0.0.1:8000?x=1"}, ["1-2"]),
            (
                {"not_forwarded": True, "attempts_before": NOW + timedelta(seconds=21)},
                ["1-2", "2-1", "2-2", "saved", "left out"],
            ),
            ({"where": [where("code") == "ONA"]}, ["1-1", "2-1", "saved", "left out"]),
            ({"where": [Condition.parse("type=robot"), where("session") == 2]}, ["2-2"]),
            ({"where": [Condition.parse("data.ID=7")], "failed": True}, ["1-2"]),
        ],
    )  # fmt: skip
    def test_what_narrows_it(
        self, selected: Callable[..., list[str]], narrowing: dict[str, Any], expected: list[str]
    ) -> None:
        assert selected("*", "saved", **narrowing) == expected
        in_the_journal = [one for one in expected if one != "saved"]
        assert selected(**narrowing) == in_the_journal

    @pytest.mark.parametrize(
        ("selectors", "narrowing", "said"),
        [
            (("2",), {"failed": True}, "--failed leaves no recording: see what there is with: b24tunnel list 2"),
            (("saved",), {"failed": True}, "--failed leaves no recording"),
            (("ON*",), {"portal": "x", "failed": True}, "--portal 'x' and --failed together leave no"),
            ((), {"where": [Condition.parse("auth.token=secret")]}, "--where auth.token leaves no recording"),
            ((), {"where": [Condition.parse("auth.\x1b[2J=1")]}, r"--where 'auth\.\\x1b\[2J' leaves no recording"),
            (("ON*", "a b\x07"), {}, r"'a b\\x07' selects no recording"),
            ((), {"where": [where("code") == 1], "since": NOW, "portal": "x"}, "--since .*, --where and --portal"),
            ((), {"since": datetime.max.replace(tzinfo=UTC) - timedelta(days=400)}, "--since 9998-"),
            (("2",), {"through": Through(NOW, 1)}, "Of 2 nothing is left that had been recorded when the run"),
            (("2-2",), {"through": Through(NOW, 2, {2: 1})}, "Of 2-2 nothing is left that had been recorded when"),
            (("last:2",), {"through": Through(NOW, 0)}, "Of last:2 nothing is left that had been recorded when"),
            (("7",), {"through": Through(NOW, 1)}, "'7' selects no recording"),
            ((), {"through": Through(NOW, 0)}, "Of the journal nothing is left that had been recorded when"),
            ((), {"through": Through(NOW, 0), "portal": "x"}, "--portal 'x' leaves no recording"),
            (("1-3",), {"through": Through(NOW, 1), "portal": "x"}, "--portal 'x' leaves no recording"),
            (("1",), {"where": [where("verdict") == "mismatched"]}, "The one recording that is left was refused"),
            (("ONC",), {"failed": True}, "'ONC' selects no recording"),
        ],
    )  # fmt: skip
    def test_nothing_left_is_told_at_once_with_the_option(
        self, tmp_path: Path, selectors: tuple[str, ...], narrowing: dict[str, Any], said: str
    ) -> None:
        selection = Selection(Journal.open(tmp_path), selectors, tmp_path, Narrowing(**narrowing))
        for gone_through in (selection.__iter__, selection.count):
            with pytest.raises(WrongUsage, match=said) as raised:
                gone_through()
            assert "secret" not in str(raised.value)

    def test_all_of_an_empty_journal_is_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(WrongUsage, match="Nothing is recorded in "):
            iter(Selection(Journal.open(tmp_path / "none"), (), tmp_path))

    def test_every_selector_selects_something_before_anything_is_given_out(self, tmp_path: Path) -> None:
        with pytest.raises(WrongUsage, match="'1-9' selects no recording"):
            iter(Selection(Journal.open(tmp_path), ["ONA", "1-9"], tmp_path, Narrowing(portal="mine")))

    @pytest.mark.parametrize("name", ["since", "until", "attempts_before"])
    def test_a_time_without_a_zone_is_refused(self, name: str) -> None:
        with pytest.raises(WrongUsage, match=f"{name} has no time zone"):
            Narrowing(**{name: datetime(2026, 11, 25)})  # type: ignore[arg-type]

    def test_an_empty_span_is_refused(self) -> None:
        with pytest.raises(WrongUsage, match="swap them"):
            Narrowing(since=NOW, until=NOW)

    def test_what_was_passed_through_has_reached_the_application(
        self, selected: Callable[..., list[str]], tmp_path: Path
    ) -> None:
        write(tmp_path, 3, recording("3-1", None, passed_through=True), recording("3-2"), attempt("3-2", None))
        assert selected("3", not_forwarded=True) == ["3-2"]

    def test_a_fixture_that_is_named_like_a_recording_is_refused(
        self, selected: Callable[..., list[str]], tmp_path: Path
    ) -> None:
        (tmp_path / "1-2.json").write_bytes(to_line(recording("9-9", "ONA")))
        with pytest.raises(WrongUsage, match="has the name of a recording's id"):
            selected(str(tmp_path / "1-2.json"))

    def test_two_fixtures_of_one_name_are_refused_unless_they_are_the_same(
        self, selected: Callable[..., list[str]], tmp_path: Path
    ) -> None:
        paths = [tmp_path / directory / "deal.json" for directory in ("one", "other")]
        for path, body in zip(paths, (b"a=1", b"a=2"), strict=True):
            path.parent.mkdir()
            path.write_bytes(to_line(recording("9-9", "ONA", body=body)))
        assert selected(str(paths[0]), str(paths[0])) == ["deal", "deal"]
        with pytest.raises(WrongUsage, match="Two fixtures are called 'deal'"):
            selected(*map(str, paths))

    def test_a_selector_by_code_parses_no_other_lines(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        parsed: list[bytes] = []
        monkeypatch.setattr(scan, "from_line", lambda line: parsed.append(line) or from_line(line))
        assert Selection(Journal.open(tmp_path), ["ONB"], tmp_path, Narrowing(failed=True)).count() == 1
        assert [one.id for one in select(Journal.open(tmp_path), ["ONB"], tmp_path)] == ["1-2"]
        assert len(parsed) == 2

    def test_a_querys_own_failure_is_not_hidden(self, tmp_path: Path) -> None:
        narrowing = Narrowing(where=(lambda document: document["session"] / 0,))
        with pytest.raises(ZeroDivisionError):
            iter(Selection(Journal.open(tmp_path), (), tmp_path, narrowing))

    def test_spoiled_lines_are_passed_over(self, selected: Callable[..., list[str]], tmp_path: Path) -> None:
        line = to_line(recording("3-1", "ONS")).replace(b'"request":{', b'"request":1,"x":{', 1)
        write(tmp_path, 3, line, recording("3-2", "ONS"))
        assert selected("ONS", portal=None, where=[lambda document: document["portal"] is None]) == ["3-2"]
        assert selected("ONS", not_forwarded=True) == selected("last") == selected("last:1") == ["3-2"]

    @pytest.mark.parametrize(
        ("selectors", "expected"),
        [
            (("ONLIVE",), ["3-1", "3-2", "3-3"]),
            (("3",), ["3-1", "3-2", "3-3"]),
            (("3", "ONLIVE"), ["3-1", "3-2", "3-3"] * 2),
            ((), ["1-1", "1-2", "2-1", "2-2", "3-1", "3-2", "3-3"]),
            (("last:200",), ["1-1", "1-2", "2-1", "2-2", "3-1", "3-2", "3-3"]),
        ],
    )
    async def test_what_is_recorded_meanwhile_is_not_picked_up(
        self, tmp_path: Path, selectors: tuple[str, ...], expected: list[str]
    ) -> None:
        busy, idle = JournalWriter(tmp_path), JournalWriter(tmp_path)

        async def record(writer: JournalWriter) -> None:
            await writer.append(recording(writer.next_id(), "ONLIVE"))

        try:
            for _ in range(3):
                await record(busy)
            selection = Selection(Journal.open(tmp_path), selectors, tmp_path)
            chosen = []
            for one in selection:
                chosen.append(one.id)
                assert len(chosen) <= len(expected)
                await record(busy)
                await record(idle)
            assert chosen == expected
            assert selection.count() > len(expected)
        finally:
            await busy.close()
            await idle.close()

    def test_a_list_has_what_there_was_too(self, tmp_path: Path) -> None:
        narrowing = Narrowing(through=Through(NOW, 2, {2: 1}))
        newest = histories(Journal.open(tmp_path), ("saved", "*"), tmp_path, limit=9, narrowing=narrowing)
        assert [one.recording.id for one in newest] == ["saved", "2-1", "1-3", "1-2", "1-1"]

    @pytest.mark.parametrize(
        ("selectors", "expected"),
        [
            (("last:2",), ["3-1", "4-1"]),
            (("last:200",), ["1-1", "1-2", "2-1", "2-2", "3-1", "4-1", "left out"]),
            (("3",), ["3-1"]),
            (("ONLIVE", "4-1"), ["3-1", "4-1", "4-1"]),
            ((), ["1-1", "1-2", "2-1", "2-2", "3-1", "4-1", "left out"]),
        ],
    )
    async def test_what_there_was_is_selected_again_whatever_the_clock_says(
        self, tmp_path: Path, selected: Callable[..., list[str]], selectors: tuple[str, ...], expected: list[str]
    ) -> None:
        early, late = NOW - timedelta(days=9), NOW + timedelta(days=9000)
        ended, busy = JournalWriter(tmp_path), JournalWriter(tmp_path, segment_bytes=300)

        async def record(writer: JournalWriter, at: datetime) -> None:
            await writer.append(replace(recording(writer.next_id(), "ONLIVE"), received_at=at))

        await record(ended, late)
        await ended.close()
        await record(busy, late)
        through = Journal.open(tmp_path).through()
        for _ in range(3):
            await record(busy, early)
        later = JournalWriter(tmp_path)
        await record(later, early)
        assert selected(*selectors, through=through) == expected
        for writer in (busy, later):
            await writer.close()
        assert selected(*selectors, through=through) == expected
        assert selected("last:5") == ["4-1", "4-2", "4-3", "4-4", "5-1"]

    @pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="only Linux tells which files are open")
    def test_very_many_ids_leave_no_files_open(self, tmp_path: Path) -> None:
        chosen = iter(Selection(Journal.open(tmp_path), ["2-1", "last"] * 30, tmp_path))
        descriptors = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        assert not [link for link in descriptors if link.readlink().suffix == ".jsonl"]
        assert len(list(chosen)) == 60

    @pytest.mark.parametrize("way", ["selected", "listed"])
    def test_files_that_nobody_has_written_to_since_are_not_read(
        self, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = NOW.timestamp() + 35
        os.utime(files.segment_path(tmp_path / "journal", 1, 1), (before, before))

        def not_the_oldest(read: Callable[..., Iterator[bytes]], file: Any, without: Any) -> Iterator[bytes]:
            assert "000001" not in Path(file.name).name
            return read(file, without)

        for name in ("lines_in", "lines_in_from_end"):
            monkeypatch.setattr(files, name, partial(not_the_oldest, getattr(files, name)))
        journal, narrowing = Journal.open(tmp_path), Narrowing(since=NOW + timedelta(seconds=40))
        if way == "selected":
            found = [one.id for one in Selection(journal, (), tmp_path, narrowing)]
        else:
            newest = histories(journal, (), tmp_path, limit=9, narrowing=narrowing)
            found = [one.recording.id for one in newest[::-1]]
        assert found == ["2-1", "2-2"]


_TIMES = st.integers(0, 6)
_IDS = st.sampled_from([f"{session}-{number}" for session in (1, 2, 3) for number in (1, 2, 3)])
_SELECTORS = st.sampled_from(["last", "last:3", "1", "2", "3-1", "1-2", "ONA*", "ONB", "*"])


@st.composite
def _journals(draw: Any) -> list[list[Record]]:
    """Three sessions that overlapped, with clocks that were set back, and each attempt after its recording."""
    sessions: list[list[Record]] = [
        [
            recording(f"{session}-{number}", draw(st.sampled_from(["ONA", "ONAB", "ONB", None])), draw(_TIMES))
            for number in range(1, draw(st.integers(0, 3)) + 1)
        ]
        for session in (1, 2, 3)
    ]
    received = {one.id: one.received_at for records in sessions for one in records if isinstance(one, Recording)}
    for records in sessions:
        for _ in range(draw(st.integers(0, 5))):
            id = draw(_IDS)
            earliest = 0
            for place, record in enumerate(records, 1):
                if isinstance(record, Recording) and (
                    record.id == id or (id in received and record.received_at <= received[id])
                ):
                    earliest = place
            place = draw(st.integers(earliest, len(records)))
            records.insert(place, attempt(id, draw(st.sampled_from([200, 299, 300, 500, None])), draw(_TIMES)))
    return sessions


@settings(max_examples=300, deadline=None)
@given(_journals(), st.lists(_SELECTORS, max_size=3), st.integers(1, 10), st.booleans())
def test_it_is_what_looking_at_everything_gives(
    sessions: list[list[Record]], selectors: list[str], limit: int, failed: bool
) -> None:
    everything = [record for records in sessions for record in records if isinstance(record, Recording)][::-1]

    def selected(one: Recording, selector: str) -> bool:
        if selector.startswith("last"):
            return one in everything[: int(selector.partition(":")[2] or 1)]
        return selector in (one.id, str(one.session)) or fnmatch.fnmatchcase(one.code or "", selector)

    def attempts(one: Recording) -> list[Attempt]:
        mine = [[a for a in own if isinstance(a, Attempt) and a.recording == one.id] for own in sessions]
        return in_order(mine)

    chosen = [one for one in everything if not selectors or any(selected(one, s) for s in selectors)]
    expected = [(one, tuple(attempts(one))) for one in chosen]
    if failed:
        expected = [(one, tries) for one, tries in expected if tries and not tries[-1].ok]
    empty = next((s for s in selectors if not any(selected(one, s) for one in everything)), None)
    narrowing = Narrowing(failed=failed)
    with tempfile.TemporaryDirectory() as directory:
        for session, records in enumerate(sessions, 1):
            path = write(Path(directory), session, *records)
            os.utime(path, (NOW.timestamp() + 60, NOW.timestamp() + 60))
        journal = Journal.open(directory)
        if empty is not None:
            with pytest.raises(WrongUsage, match=f"{empty!r}".replace("*", r"\*")):
                histories(journal, selectors, Path(directory), limit=limit, narrowing=narrowing)
            return
        assert histories(journal, selectors, Path(directory), limit=limit, narrowing=narrowing) == expected[:limit]
        assert all(journal.attempts(one.id) == attempts(one) for one in everything)


_OTHER = "http://127.0.0.1:9000/other?key=1"
_ANSWERS = st.sampled_from(
    [(200, None), (299, None), (300, None), (500, None)]
    + [(None, error) for error in ("cannot connect: refused", "interrupted: stopped", "no answer within 60 s")]
)


def _odd(line: bytes) -> bytes:
    """The same attempt as another program may write it."""
    return json.dumps(dict(reversed(json.loads(line).items()))).encode() + b"\n"


@st.composite
def _attempts(draw: Any) -> list[list[Attempt]]:
    """Attempts of four sessions that ran at the same time, with clocks that were set back, at two handlers."""

    def one() -> Attempt:
        status, error = draw(_ANSWERS)
        target = draw(st.sampled_from([HANDLER, "http://127.0.0.1:8000/?a=b", _OTHER, f"{_OTHER}&a=b"]))
        cause = draw(st.sampled_from(["forward", "replay", "forward", "replay", "against", "dream"]))
        return Attempt(draw(_IDS), cause, target, NOW + timedelta(seconds=draw(_TIMES)), 1.0, status, error=error)

    return [[one() for _ in range(draw(st.integers(0, 6)))] for _ in range(4)]


@settings(max_examples=250, deadline=None)
@given(
    _attempts(),
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, None, HANDLER, "http://127.0.0.1:8000", "http://127.0.0.1:9000/other", "http://no/"]),
    st.one_of(st.none(), _TIMES),
    st.sets(st.sampled_from([2, 3, 4]), max_size=2),
    st.lists(st.booleans(), min_size=24, max_size=24),
)
def test_what_became_of_each_is_what_its_attempts_say(
    sessions: list[list[Attempt]],
    failed: bool,
    not_forwarded: bool,
    to: str | None,
    before: int | None,
    without: set[int],
    odd: list[bool],
) -> None:
    end = None if before is None else NOW + timedelta(seconds=before)
    handler = None if to is None else {"http://127.0.0.1:8000": HANDLER}.get(to, to)

    def counts(one: Attempt) -> bool:
        if one.cause not in ("forward", "replay"):
            return False
        if handler is not None and one.target.partition("?")[0] != handler:
            return False
        return end is None or one.started_at < end

    everything = [recording(f"{session}-{number}") for session in (1, 2, 3) for number in (1, 2, 3)]
    looks = iter(odd)
    with tempfile.TemporaryDirectory() as directory:
        for session, attempts in enumerate(sessions, 1):
            own = [one for one in everything if one.session == session]
            lines = [_odd(to_line(one)) if next(looks, False) else to_line(one) for one in attempts]
            write(Path(directory), session, *own, *lines)
        journal = Journal.open(directory)
        expected = []
        for one in everything:
            mine = [[a for a in own if a.recording == one.id] for own in sessions]
            assert journal.attempts(one.id) == in_order(mine)
            looked_at = [own for session, own in enumerate(mine, 1) if session not in without]
            tries = in_order([[a for a in own if counts(a)] for own in looked_at])
            if failed and not (tries and not tries[-1].ok):
                continue
            if not_forwarded and any(a.delivered for a in tries):
                continue
            expected.append(one)
        narrowing = Narrowing(
            failed=failed, not_forwarded=not_forwarded, to=to, attempts_before=end, attempts_without=without
        )
        selection = Selection(journal, ["*"], Path(directory), narrowing)
        if expected:
            assert list(selection) == expected
        else:
            with pytest.raises(WrongUsage, match="no recording"):
                iter(selection)
        found = histories(journal, (), Path(directory), limit=50, narrowing=narrowing)
        assert [one.recording for one in found] == expected[::-1]


def test_many_ids_are_found_in_one_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 1, *(recording(f"1-{number}") for number in range(1, 101)))
    read: list[Any] = []
    journal = Journal.open(tmp_path)
    documents = journal.documents
    monkeypatch.setattr(journal, "documents", lambda *given: read.append(given) or documents(*given))
    ids = [f"1-{number}" for number in (50, 3, 99, 3)]
    assert [one.id for one in Selection(journal, ids)] == ids
    assert len(read) == 1
    with pytest.raises(WrongUsage, match="'1-101' selects no recording"):
        iter(Selection(journal, ["1-1", "1-101"]))

"""What `list` selects: the newest of what its selectors name, with attempts, as if all was looked at."""

import os
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journal_files import write as write_file

from b24tunnel import selecting
from b24tunnel.errors import WrongUsage
from b24tunnel.journal import Journal, files
from b24tunnel.journal.attempts import in_order
from b24tunnel.recording import Attempt, Record, Recording, to_line
from b24tunnel.selecting import histories, matches_code, select

NOW = datetime(2026, 11, 25, 14, 15, 3, tzinfo=UTC)
HANDLER = "http://127.0.0.1:8000/"


def recording(id: str, code: str | None = "ONX", at: float = 0.0) -> Recording:
    return Recording(id, NOW + timedelta(seconds=at), "POST", "/b24/x", (), b"a=1", code=code)


def attempt(id: str, status: int | None, at: float = 0.0) -> Attempt:
    error = None if status is not None else "cannot connect: refused"
    return Attempt(id, "forward", HANDLER, NOW + timedelta(seconds=at), 1.0, status, error=error)


write = partial(write_file, forward=HANDLER)


@pytest.fixture
def listed(tmp_path: Path) -> Callable[..., list[str]]:
    def listed(*selectors: str, limit: int = 50, failed: bool = False) -> list[str]:
        found = histories(Journal.open(tmp_path), selectors, tmp_path, limit=limit, failed=failed)
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
@given(_journals(), st.lists(_SELECTORS, max_size=3), st.integers(1, 10), st.booleans(), st.booleans())
def test_it_is_what_looking_at_everything_gives(
    sessions: list[list[Record]], selectors: list[str], limit: int, failed: bool, one_at_a_time: bool
) -> None:
    everything = [record for records in sessions for record in records if isinstance(record, Recording)][::-1]

    def selected(one: Recording, selector: str) -> bool:
        if selector.startswith("last"):
            return one in everything[: int(selector.partition(":")[2] or 1)]
        return selector in (one.id, str(one.session)) or matches_code(one, selector)

    def attempts(one: Recording) -> list[Attempt]:
        mine = [[a for a in own if isinstance(a, Attempt) and a.recording == one.id] for own in sessions]
        return in_order(mine)

    chosen = [one for one in everything if not selectors or any(selected(one, s) for s in selectors)]
    expected = [(one, tuple(attempts(one))) for one in chosen]
    if failed:
        expected = [(one, tries) for one, tries in expected if tries and not tries[-1].ok]
    empty = next((s for s in selectors if not any(selected(one, s) for one in everything)), None)
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        if one_at_a_time:
            patch.setattr(selecting, "_AT_A_TIME", 1)
        for session, records in enumerate(sessions, 1):
            path = write(Path(directory), session, *records)
            os.utime(path, (NOW.timestamp() + 60, NOW.timestamp() + 60))
        journal = Journal.open(directory)
        if empty is not None:
            with pytest.raises(WrongUsage, match=f"{empty!r}".replace("*", r"\*")):
                histories(journal, selectors, Path(directory), limit=limit, failed=failed)
            return
        assert histories(journal, selectors, Path(directory), limit=limit, failed=failed) == expected[:limit]
        assert all(journal.attempts(one.id) == attempts(one) for one in everything)

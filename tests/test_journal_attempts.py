"""The attempts with chosen recordings: where they are looked for, also in earlier sessions."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from journal_files import write as write_file

from b24tunnel.journal import Journal, files, scan
from b24tunnel.journal.marks import Marks
from b24tunnel.recording import Attempt, Record, Recording, SessionEnd, from_line

NOW = datetime(2026, 11, 25, 14, 15, 3, tzinfo=UTC)


def recording(id: str, at: float = 0.0) -> Recording:
    return Recording(id, NOW + timedelta(seconds=at), "POST", "/b24/x", (), b"")


def attempt(id: str, at: float = 0.0) -> Attempt:
    return Attempt(id, "forward", "http://h/", NOW + timedelta(seconds=at), 1.0, 200)


def write(directory: Path, session: int, *records: Record, changed: float, segment: int = 1) -> Path:
    path = write_file(directory, session, *records, segment=segment, forward="http://h/")
    os.utime(path, (NOW.timestamp() + changed, NOW.timestamp() + changed))
    return path


def test_an_earlier_session_that_handed_over_later_is_looked_at(tmp_path: Path) -> None:
    write(tmp_path, 1, recording("1-1"), attempt("2-1", 99), recording("1-2", 200), changed=200)
    write(tmp_path, 2, recording("2-1", 50), changed=50)
    journal = Journal.open(tmp_path)
    assert [len(one.attempts) for one in journal.with_attempts(journal.last(1))] == [1]
    # 1-2 is the oldest by its id, and 2-1 came before it
    both = [one for one in journal.recordings() if one.id != "1-1"]
    assert [len(one.attempts) for one in journal.with_attempts(both)] == [0, 1]


def test_what_was_written_before_the_oldest_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = write(tmp_path, 1, recording("1-1"), attempt("2-1"), changed=10)
    first = write(tmp_path, 2, recording("2-1", 40), changed=40)
    write(tmp_path, 2, recording("2-2", 50), attempt("2-2"), attempt("2-1"), changed=60, segment=2)
    parsed: list[bytes] = []
    opened: list[Path] = []

    def noted(line: bytes) -> Record:
        parsed.append(line)
        return from_line(line)

    read_from_end = files.lines_from_end

    def reading(path: Path, without: bytes = b"") -> Iterator[bytes]:
        opened.append(path)
        return read_from_end(path, without)

    journal = Journal.open(tmp_path)
    newest = journal.last(1)
    monkeypatch.setattr(scan, "from_line", noted)
    monkeypatch.setattr(files, "lines_from_end", reading)
    monkeypatch.setattr(files, "lines_of", reading)
    [found] = journal.with_attempts(newest)
    assert len(found.attempts) == len(parsed) == 1
    assert old not in opened
    assert first not in opened


def test_a_recording_of_a_session_that_still_waits_may_be_handed_over_by_an_earlier_one(tmp_path: Path) -> None:
    write(tmp_path, 1, recording("1-1"), attempt("1-1"), attempt("2-1"), SessionEnd(0), changed=99)
    write(tmp_path, 2, recording("2-1", 50), recording("2-2", 51), changed=51)
    assert Journal.open(tmp_path).pending() == ["2-2"]


def test_no_recordings_have_no_attempts(tmp_path: Path) -> None:
    assert Journal.open(tmp_path).with_attempts([]) == []


def test_the_attempts_on_a_fixture_are_not_those_of_a_recording(tmp_path: Path) -> None:
    write(tmp_path, 1, attempt("saved"), recording("1-1"), changed=0)
    journal = Journal.open(tmp_path)
    assert [len(one.attempts) for one in journal.with_attempts(journal.last(1))] == [0]


def test_marks_take_room_only_where_they_are_made() -> None:
    marks = Marks()
    far = [(1, 1), (1, 999_999_999_999), (999_999_999, 1), (2, 1), (1, 1024)]
    for value, place in enumerate(far, 1):
        marks[place] = value
        marks[place] |= 128
    assert [marks[place] for place in far] == [129, 130, 131, 132, 133]
    assert marks[1, 2] == marks[3, 1] == marks[999_999_999, 999_999_999_999] == 0
    assert len(marks._pages) <= len(far)

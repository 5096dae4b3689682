"""`list --check`: what each file of the journal holds, and what is wrong with it, by line and without contents."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from journal_files import write
from programs import Programs

from b24tunnel.journal import Journal, JournalWriter, files
from b24tunnel.recording import Attempt, Recording, SessionEnd, to_line

NOW = datetime(2026, 11, 25, 14, 15, 3, tzinfo=UTC)
SECRET = "s3cr3t"


def recording(id: str) -> Recording:
    return Recording(id, NOW, "POST", "/b24/x", (), b"event=ONX", code="ONX")


def attempt(id: str) -> Attempt:
    return Attempt(id, "forward", "http://h/", NOW, 1.0, 200)


def checked(directory: Path) -> list[tuple[int, int, list[str]]]:
    found = Journal.open(directory).check()
    return [(one.recordings, one.attempts, [str(problem) for problem in one.problems]) for one in found]


def test_a_whole_journal_has_no_problems(tmp_path: Path) -> None:
    write(tmp_path, 1, recording("1-1"), attempt("1-1"), recording("1-2"), attempt("9-9"), SessionEnd(1))
    write(tmp_path, 2)
    assert checked(tmp_path) == [(2, 2, []), (0, 0, [])]


def test_no_journal_has_none_either(tmp_path: Path) -> None:
    assert checked(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (SECRET.encode() + b"\n", "no JSON"),
        (b"\n", "no JSON"),
        (b"\0" * 5000 + b"\n", "no JSON"),
        (json.dumps([SECRET]).encode() + b"\n", "no JSON object"),
        (json.dumps({"v": 1, "kind": SECRET}).encode() + b"\n", "unknown kind"),
        (json.dumps({"v": SECRET, "kind": "recording"}).encode() + b"\n", "unknown format"),
        (b'{"v":2,"kind":"recording"}\n', "later format"),
        (json.dumps({"v": 1, "kind": "recording", "id": "1-2", "x": SECRET}).encode() + b"\n", "(request)"),
        (to_line(recording("1-2")).replace(b"2026-11", SECRET.encode()), "wrong or missing part"),
        (to_line(recording("1-2")).replace(b"event=ONX", b"\\ud800" + SECRET.encode()), "wrong or missing part"),
        (to_line(attempt("1-1")).replace(b"200", json.dumps(SECRET).encode()), "kind attempt"),
    ],
)
def test_a_spoiled_line_is_named_by_its_number_and_never_shown(tmp_path: Path, line: bytes, words: str) -> None:
    path = write(tmp_path, 1, recording("1-1"), line, recording("1-3"))
    [(recordings, attempts, [problem])] = checked(tmp_path)
    assert (recordings, attempts) == (2, 0)
    assert problem.startswith("line 3: ")
    assert words in problem
    journal = Journal.open(tmp_path)
    list(journal.recordings())
    journal.attempts("1-1")
    assert SECRET not in problem + str(journal.unreadable)
    assert list(journal.unreadable) == [path]


def test_an_id_that_came_before_is_a_problem_wherever_it_was(tmp_path: Path) -> None:
    write(tmp_path, 1, recording("1-1"), recording("1-3"), recording("1-2"), recording("1-1"))
    write(tmp_path, 1, recording("1-2"), segment=2)
    write(tmp_path, 2, recording("1-4"), recording("2-1"), recording("2-999999999999"), recording("x"))
    assert checked(tmp_path) == [
        (4, 0, ["line 5: a second recording with the id 1-1"]),
        (1, 0, ["line 2: a second recording with the id 1-2"]),
        (4, 0, ["line 5: a recording whose id is none"]),
    ]


def test_a_file_that_does_not_begin_with_its_session_is_a_problem(tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    path.write_bytes(to_line(recording("1-1")))
    assert checked(tmp_path) == [(1, 0, ["line 1: the file does not begin with its session"])]


def test_a_torn_end_that_could_not_be_repaired_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 1, recording("1-1"), to_line(recording("1-2"))[:-9])
    monkeypatch.setattr(files, "repair", lambda segment: None)
    assert checked(tmp_path) == [(1, 0, ["line 3: its end is missing"])]


async def test_a_line_that_is_being_written_is_none(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path)
    await writer.append(recording(writer.next_id()))
    [path] = (tmp_path / "journal").glob("session-*")
    with path.open("ab") as file:
        file.write(b'{"v":1,"kind":"rec')
    [found] = Journal.open(tmp_path).check()
    assert (found.recordings, found.problems, found.being_written) == (1, [], True)
    await writer.close()


def test_many_problems_are_counted_and_the_first_are_named(tmp_path: Path) -> None:
    write(tmp_path, 1, *[b"x\n"] * 500)
    [found] = Journal.open(tmp_path).check()
    assert (len(found.problems), found.problem_count) == (20, 500)


class TestTheCommand:
    @pytest.fixture
    def directory(self, programs: Programs) -> Path:
        directory = programs.directory / "recordings"
        write(directory, 1, recording("1-1"), attempt("1-1"))
        write(directory, 2)
        return directory

    def test_a_whole_journal_ends_with_0(self, programs: Programs, directory: Path) -> None:
        result = programs.run("list", "--check")
        assert result.process.returncode == 0
        assert result.lines == [
            "session-000001-001.jsonl: 1 recording, 1 attempt\n",
            "1 recording, 1 attempt, 2 files, 0 problems.\n",
        ]

    def test_problems_are_printed_and_end_with_1(self, programs: Programs, directory: Path) -> None:
        write(directory, 2, *[SECRET.encode() + b"\n"] * 22)
        result = programs.run("list", "--check")
        assert result.process.returncode == 1
        assert result.lines[1:3] == [
            "session-000002-001.jsonl: 0 recordings, 0 attempts\n",
            "  line 2: a line that is no JSON\n",
        ]
        assert result.lines[-2:] == ["  and 2 problems more\n", "1 recording, 1 attempt, 2 files, 22 problems.\n"]
        assert len(result.errors) == 1
        assert SECRET not in str(result)

    def test_what_was_repaired_is_told_and_is_no_problem_any_more(
        self, programs: Programs, directory: Path
    ) -> None:
        write(directory, 2, b"torn")
        result = programs.run("list", "--check")
        assert result.process.returncode == 0
        assert "was cut off" in result.errors[0]

    def test_as_json(self, programs: Programs, directory: Path) -> None:
        write(directory, 2, b"x\n")
        result = programs.run("list", "--check", "--json")
        assert result.process.returncode == 1
        first, second, total = (json.loads(line) for line in result.lines)
        assert (first["session"], first["recordings"], first["attempts"]) == (1, 1, 1)
        assert Path(second["file"]).name == "session-000002-001.jsonl"
        assert second["problems"] == [{"line": 2, "what": "a line that is no JSON"}]
        assert total["total"]["problems"] == 1
        assert total["total"]["files"] == 2

    @pytest.mark.parametrize("option", [["last"], ["--failed"], ["-n", "50"], ["--reveal"]])
    def test_it_takes_nothing_that_chooses(self, programs: Programs, directory: Path, option: list[Any]) -> None:
        result = programs.run("list", "--check", *option)
        assert result.process.returncode == 2
        assert len(result.errors) == 1
        assert not result.lines

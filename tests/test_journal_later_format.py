"""Files that a later b24tunnel wrote: named with what to do, never read line by line, never changed."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from journal_files import write_lines
from programs import Programs, wait_until
from raw_server import RawServer

from b24tunnel.journal import Journal, JournalWriter, LaterFormat, files, follow_directory
from b24tunnel.journal.prune import prune
from b24tunnel.recording import Attempt, Record, Recording, SessionStart, to_line

NOW = datetime(2026, 11, 25, 14, 15, 3, tzinfo=UTC)
LATER = b'{"v":2,"kind":"session","session":5,"words":"other ones"}\n{"v":2,"kind":"recording","id":"5-1"}\n'


def write(directory: Path, session: int, *records: Record | bytes, segment: int = 1) -> Path:
    return write_lines(directory, session, records, segment)


def ours(directory: Path, session: int) -> Path:
    start = SessionStart(session, NOW, "http://127.0.0.1:8000/")
    return write(directory, session, start, Recording(f"{session}-1", NOW, "POST", "/", (), b"", code="ONX"))


@pytest.fixture
def later(tmp_path: Path) -> Path:
    ours(tmp_path, 4)
    return write(tmp_path, 5, LATER)


WAYS: list[Callable[[Journal], Any]] = [
    lambda journal: [one.id for one in journal.recordings()],
    lambda journal: [one.id for one in journal.search(lambda document: True)],
    lambda journal: [one.id for one in journal.last(5)],
    lambda journal: [journal.get("4-1").id, *filter(None, [journal.get("5-1")])],
    lambda journal: journal.pending(),
    lambda journal: [one.recording.id for one in journal.with_attempts(journal.last(9))],
]


@pytest.mark.parametrize("way", WAYS)
def test_the_others_are_read(later: Path, tmp_path: Path, way: Callable[[Journal], Any]) -> None:
    assert way(Journal.open(tmp_path)) == ["4-1"]


@pytest.mark.parametrize(
    "first",
    [
        b'{"v":2,"kind":"session","session":5}\n',
        b' { "v" : 17 , "kind":"session"}\n',
        b'{"kind":"session","v":2}\n',
        b'{"v":2}\n',
        b'{"v":2,"kind":"sess',
        b'{"v":2,"kind":"session","x":"' + b"x" * 5000 + b'"}\n',
        b'{"kind":"session","x":"' + b"x" * 5000 + b'","v":3}\n',
    ],
)
def test_it_is_told_by_its_first_line_once_and_left_as_it_is(tmp_path: Path, first: bytes) -> None:
    path = write(tmp_path, 5, first, b"torn")
    journal = Journal.open(tmp_path)
    assert journal.torn == []
    assert list(journal.recordings()) == []
    assert journal.last(3) == []
    [problem] = journal.unreadable[path]
    assert "journal format" in problem
    assert "update b24tunnel" in problem
    assert path.read_bytes() == first + b"torn"


@pytest.mark.parametrize(
    "first", [b'{"v":1}\n', b'{"v":0}\n', b'{"v":"2"}\n', b"[2]\n", b"\n", b"{\n", b"", b'{"v":true}\n']
)
def test_what_is_no_later_format_is_read_line_by_line(tmp_path: Path, first: bytes) -> None:
    path = write(tmp_path, 5, first, Recording("5-1", NOW, "POST", "/", (), b""))
    journal = Journal.open(tmp_path)
    assert [one.id for one in journal.recordings()] == ["5-1"]
    assert not any("journal format" in problem for problem in journal.unreadable.get(path, []))


async def test_its_sessions_number_is_not_given_out_again(later: Path, tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path)
    assert writer.session == 6
    await writer.close()


def test_pruning_leaves_it_and_the_attempts_with_its_recordings(later: Path, tmp_path: Path) -> None:
    start = SessionStart(6, NOW, purpose="replay")
    attempt = Attempt("5-1", "replay", "http://h/", NOW, 1.0, 200)
    replay = write(tmp_path, 6, start, attempt, Attempt("3-1", "replay", "http://h/", NOW, 1.0, 200))
    report = prune(tmp_path / "journal", older_than=timedelta(0))
    assert "update b24tunnel" in report.left_whole[later]
    assert later.read_bytes() == LATER
    assert replay.read_bytes() == to_line(start) + to_line(attempt)


def test_checking_names_it(later: Path, tmp_path: Path) -> None:
    [first, second] = Journal.open(tmp_path).check()
    assert (first.recordings, first.problems) == (1, [])
    assert (second.path, second.recordings, second.size) == (later, 0, len(LATER))
    [problem] = second.problems
    assert "journal format 2" in str(problem)


async def test_a_follower_is_told_once_and_goes_on_with_the_others(later: Path, tmp_path: Path) -> None:
    told: list[LaterFormat] = []
    both = asyncio.Event()

    def skipped(later: LaterFormat) -> None:
        told.append(later)
        if len(told) == 2:
            both.set()

    async with aclosing(follow_directory(tmp_path / "journal", skipped)) as records, asyncio.timeout(20):
        waiting = asyncio.ensure_future(anext(records))
        await asyncio.sleep(0)
        with later.open("ab") as file:
            file.write(LATER.splitlines(keepends=True)[1])
        another = write(tmp_path, 6, b"")
        another.write_bytes(LATER)
        writer = JournalWriter(tmp_path)
        await both.wait()
        await writer.append(Recording(writer.next_id(), NOW, "POST", "/", (), b""))
        record = await waiting
        assert isinstance(record, Recording)
        assert record.id == "7-1"
        await writer.close()
    assert [one.path for one in told] == [later, another]
    assert str(told[0]).startswith(f"{later} is skipped: all of it is in journal format 2")


@pytest.mark.parametrize("command", [["list"], ["show", "4-1"], ["prune", "--keep", "0", "--dry-run"]])
def test_the_commands_say_it(programs: Programs, tmp_path: Path, command: list[str]) -> None:
    ours(tmp_path / "recordings", 4)
    later = write(tmp_path / "recordings", 5, LATER)
    result = programs.run(*command)
    assert result.process.returncode == 0
    told = [line for line in result.errors if "update b24tunnel" in line]
    assert len(told) == 1
    assert later.name in told[0]


def test_replay_says_it(programs: Programs, tmp_path: Path) -> None:
    ours(tmp_path / "recordings", 4)
    later = write(tmp_path / "recordings", 5, LATER)
    with RawServer() as handler:
        result = programs.run("replay", "4", "--to", handler.url)
        assert result.process.returncode == 0, str(result)
        assert len(handler.requests) == 1
        result = programs.run("replay", "ON*", "--to", handler.url)
    assert [later.name in line for line in result.errors if "update b24tunnel" in line] == [True]


def test_follow_says_it(programs: Programs, tmp_path: Path) -> None:
    write(tmp_path / "recordings", 5, LATER)
    follow = programs.b24tunnel("follow")
    with files.segment_path(tmp_path / "recordings" / "journal", 5, 1).open("ab") as file:
        wait_until(
            lambda: (
                file.write(LATER.splitlines(keepends=True)[1])
                and file.flush() is None
                and any("update b24tunnel" in line for line in follow.errors)
            ),
            "the note",
        )

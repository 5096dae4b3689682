"""What a journal held at one moment: told in few numbers, and the same however the journal goes on."""

import asyncio
import random
from datetime import UTC, datetime
from pathlib import Path

import pytest
from journal_files import BEGAN, write, write_lines
from waiting import until

from b24tunnel.journal import Journal, JournalWriter, files
from b24tunnel.journal.writing_mark import mark_as_written
from b24tunnel.recording import Attempt, Recording, SessionEnd, from_line
from b24tunnel.through import Through


def recording(id: str) -> Recording:
    return Recording(id, BEGAN, "POST", "/b24/x", (), b"event=ONCRMDEALADD", code="ONCRMDEALADD")


def attempt(id: str) -> Attempt:
    return Attempt(id, "replay", "http://h/", BEGAN, 1.0, 200)


def included(directory: Path, through: Through) -> list[str]:
    journal = Journal.open(directory)
    found = [document["id"] for document in journal.documents(extent=journal.extent(through))]
    places = [one.id for one in journal.recordings() if through.includes(*map(int, one.id.split("-")))]
    assert found == places
    return found


def test_an_empty_journal_includes_nothing(tmp_path: Path) -> None:
    before = datetime.now(UTC)
    through = Journal.open(tmp_path).through()
    assert before <= through.at <= datetime.now(UTC)
    assert (through.session, through.numbers) == (0, {})
    write(tmp_path, 1, recording("1-1"))
    assert included(tmp_path, through) == []


def test_of_sessions_that_have_ended_it_includes_all(tmp_path: Path) -> None:
    write(tmp_path, 2, recording("2-1"), recording("2-7"))
    write(tmp_path, 5, attempt("2-1"), SessionEnd(0))
    through = Journal.open(tmp_path).through()
    assert (through.session, through.numbers) == (5, {})
    write(tmp_path, 6, recording("6-1"))
    assert included(tmp_path, through) == ["2-1", "2-7"]


async def test_of_those_being_written_it_includes_what_there_was(tmp_path: Path) -> None:
    write(tmp_path, 1, recording("1-1"))
    writers = [JournalWriter(tmp_path, segment_bytes=250) for _ in range(3)]
    for writer in writers[:2]:
        for _ in range(3):
            await writer.append(recording(writer.next_id()))
    for _ in range(4):  # its newest file has no recording
        await writers[0].append(attempt("1-1"))
    through = Journal.open(tmp_path).through()
    assert (through.session, through.numbers) == (4, {2: 3, 3: 3, 4: 0})
    expected = ["1-1", "2-1", "2-2", "2-3", "3-1", "3-2", "3-3"]
    for writer in [*writers, JournalWriter(tmp_path)]:
        await writer.append(recording(writer.next_id()))
        assert included(tmp_path, through) == expected
        await writer.close()
    assert included(tmp_path, through) == expected


@pytest.mark.parametrize("locked", [False, True])
def test_a_session_that_is_just_about_to_begin_has_nothing_yet(tmp_path: Path, locked: bool) -> None:
    write(tmp_path, 1, recording("1-1"))
    path = write_lines(tmp_path, 2, ())
    with path.open("r+b") as file:
        if locked:
            mark_as_written(file.fileno())
        journal = Journal.open(tmp_path)
        through, extent = journal.through(), journal.extent()
    write(tmp_path, 2, recording("2-1"))
    assert (through.session, through.numbers) == (2, {2: 0})
    assert included(tmp_path, through) == ["1-1"]
    assert [document["id"] for document in journal.documents(extent=extent)] == ["1-1"]


async def test_it_stands_in_the_beginning_of_each_of_a_replays_files(tmp_path: Path) -> None:
    through = Through(datetime.now(UTC), 3, {2: 7, 3: 0})
    writer = JournalWriter(tmp_path, purpose="replay", through=through, segment_bytes=200)
    for _ in range(3):
        await writer.append(attempt("1-1"))
    await writer.close()
    starts = [segment.path.read_bytes().splitlines()[0] for segment in files.segments(writer.directory)]
    assert len(starts) > 2
    assert {getattr(from_line(start), "through") == through for start in starts} == {True}  # noqa: B009


async def test_it_is_exact_at_any_moment_under_load(tmp_path: Path) -> None:
    """What was acknowledged before is in it, what is handed in after is not."""
    chance = random.Random(7)
    writers = [JournalWriter(tmp_path, segment_bytes=4000) for _ in range(3)]
    acknowledged: list[str] = []
    going_on = True

    async def record(writer: JournalWriter) -> None:
        while going_on:
            one = writer.next_id()
            await writer.append(recording(one))
            acknowledged.append(one)

    tasks = [asyncio.create_task(record(writer)) for writer in writers for _ in range(4)]
    journal = Journal.open(tmp_path)
    taken: list[tuple[set[str], Through, set[str]]] = []
    for _ in range(12):
        goal = len(acknowledged) + chance.randint(1, 60)
        await until(lambda: len(acknowledged) >= goal)  # noqa: B023  it is awaited here
        before = set(acknowledged)
        through = await asyncio.to_thread(journal.through)
        taken.append((before, through, {document["id"] for document in journal.documents()}))
    going_on = False
    await asyncio.gather(*tasks)
    for writer in writers:
        await writer.close()
    for before, through, after in taken:
        assert before <= set(included(tmp_path, through)) <= after

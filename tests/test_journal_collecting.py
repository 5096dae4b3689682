"""Records that nobody waits for go to disk together, in order with the others, and none stays behind."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from b24tunnel.journal import Journal, JournalWriter, writer
from b24tunnel.recording import Attempt, Recording

DEADLINE = 20.0
NOW = datetime(2026, 11, 25, 14, 15, 3, tzinfo=UTC)


def attempt(number: int) -> Attempt:
    return Attempt("1-1", "replay", "http://127.0.0.1/handler", NOW, float(number), status=200)


def recording(journal: JournalWriter) -> Recording:
    return Recording(journal.next_id(), NOW, "POST", "/b24/x", (), b"event=ONCRMDEALADD")


def durations(directory: Path) -> list[float]:
    """Of all attempts with the first recording, as they stand in the journal."""
    return [one.duration_ms for one in Journal.open(directory).attempts("1-1")]


async def test_they_share_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, write = JournalWriter(tmp_path), writer._write_all
    writes: list[bytes] = []

    def counting(descriptor: int, data: bytes) -> None:
        writes.append(data)
        write(descriptor, data)

    monkeypatch.setattr(writer, "_write_all", counting)
    async with asyncio.timeout(DEADLINE):
        handed_in = [journal.hand_in(attempt(number), urgent=False) for number in range(100)]
        assert not any(done.done() for done in handed_in)
        await asyncio.gather(*handed_in)
    assert len(writes) == 1
    assert durations(tmp_path) == list(range(100))
    await journal.close()


async def test_one_alone_is_written_without_another(tmp_path: Path) -> None:
    journal = JournalWriter(tmp_path)
    async with asyncio.timeout(DEADLINE):
        for number in range(3):  # the second and third are collected anew
            await journal.hand_in(attempt(number), urgent=False)
            assert durations(tmp_path) == list(range(number + 1))
    await journal.close()


async def test_one_that_is_waited_for_takes_those_before_it_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_COLLECT_SECONDS", 1000.0)
    journal = JournalWriter(tmp_path)
    async with asyncio.timeout(DEADLINE):
        before = journal.hand_in(attempt(1), urgent=False)
        one = recording(journal)
        await journal.append(one)
        assert before.done()
    [segment] = (tmp_path / "journal").glob("*.jsonl")
    kinds = [line.split(b'"')[5] for line in segment.read_bytes().splitlines()]
    assert kinds == [b"session", b"attempt", b"recording"]
    await journal.close()


async def test_very_many_are_not_collected_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_COLLECT_SECONDS", 1000.0)
    journal = JournalWriter(tmp_path)
    many = 2 * writer._MOST_COLLECTED
    async with asyncio.timeout(DEADLINE):
        await asyncio.gather(*(journal.hand_in(attempt(number), urgent=False) for number in range(many)))
    assert durations(tmp_path) == list(range(many))
    await journal.close()


async def test_closing_leaves_none_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_COLLECT_SECONDS", 1000.0)
    journal = JournalWriter(tmp_path)
    async with asyncio.timeout(DEADLINE):
        handed_in = [journal.hand_in(attempt(0), urgent=False)]
        closing = asyncio.create_task(journal.close())
        await asyncio.sleep(0)  # its last line is on its way
        handed_in.append(journal.hand_in(attempt(1), urgent=False))
        await closing
        await asyncio.gather(*handed_in)
    assert durations(tmp_path) == [0, 1]

"""Following the journal: in the process that writes it, and from another one."""

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from b24tunnel.journal import JournalUnwritable, JournalWriter, Tail, files, follow, follow_directory, rest, writer
from b24tunnel.journal import tail as tail_module
from b24tunnel.journal.writer import Position
from b24tunnel.recording import Attempt, Record, Recording, SessionEnd, SessionStart, from_line, to_line

DEADLINE = 20.0
NOW = datetime(2026, 11, 25, 14, 15, 3, tzinfo=UTC)


def recording(journal: JournalWriter, body: bytes = b"event=ONCRMDEALADD") -> Recording:
    return Recording(journal.next_id(), NOW, "POST", "/b24/x", (), body)


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[JournalWriter]:
    journal = JournalWriter(tmp_path)
    yield journal
    await journal.close()


async def taken(records: AsyncIterator[Any], count: int) -> list[str]:
    """The ids of the next recordings."""
    found: list[str] = []
    async with asyncio.timeout(DEADLINE):
        while len(found) < count:
            record = await anext(records)
            if isinstance(record, Recording):
                found.append(record.id)
    return found


def numbered(first: int, last: int, session: int = 1) -> list[str]:
    return [f"{session}-{number}" for number in range(first, last + 1)]


def test_what_its_writer_cut_off_again_is_never_read(tmp_path: Path) -> None:
    """Part of a batch reached the disk, the rest did not fit, and the senders of both were refused."""
    start, taken_one, refused, next_one = (
        to_line(record)
        for record in (
            SessionStart(1, NOW),
            *(Recording(f"1-{number}", NOW, "POST", "/", (), b"event=A") for number in (1, 2, 3)),
        )
    )
    first, second = (files.segment_path(tmp_path, 1, number) for number in (1, 2))
    first.write_bytes(start + taken_one + refused)
    tail = Tail(tmp_path, 1, keep_open=True)
    assert tail.next(Position(1, len(start))) == start
    synced = Position(1, len(start + taken_one))
    assert [tail.next(synced) for _ in range(2)] == [taken_one, None]
    os.truncate(first, synced.offset)
    second.write_bytes(start + next_one)
    synced = Position(2, len(start + next_one))
    assert [tail.next(synced) for _ in range(3)] == [start, next_one, None]
    tail.close()


def test_a_line_that_is_longer_than_what_is_read_at_once_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail_module, "_CHUNK", 100)
    lines = [to_line(Recording(f"1-{n}", NOW, "POST", "/", (), b"x" * 300 * n)) for n in range(1, 5)]
    files.segment_path(tmp_path, 1, 1).write_bytes(b"".join(lines) + lines[0][:250])
    tail = Tail(tmp_path, 1)
    assert [tail.next() for _ in range(5)] == [*lines, None]


class TestInTheWritingProcess:
    async def test_records_of_all_kinds_come_in_order_from_the_beginning(self, journal: JournalWriter) -> None:
        mine = recording(journal)
        attempt = Attempt(mine.id, "forward", "http://h/", NOW, 1.0, status=200)
        await journal.append(mine)
        await journal.append(attempt)
        async with aclosing(follow(journal)) as records, asyncio.timeout(DEADLINE):
            seen = [await anext(records) for _ in range(3)]
        assert isinstance(seen[0], SessionStart)
        assert seen[1:] == [mine, attempt]

    async def test_a_record_comes_only_after_its_sync(
        self, journal: JournalWriter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gate, entered = threading.Event(), threading.Event()

        def sync(descriptor: int) -> None:
            entered.set()
            assert gate.wait(DEADLINE)

        await journal.append(recording(journal))
        monkeypatch.setattr(writer, "_sync", sync)
        seen: list[Record] = []
        following = asyncio.create_task(_collect(journal, seen))
        try:
            appending = asyncio.create_task(journal.append(recording(journal)))
            assert await asyncio.to_thread(entered.wait, DEADLINE)
            for _ in range(20):
                await asyncio.sleep(0)
            # The line is in the file, but a crash of the machine could still take it away.
            assert _ids(seen) == ["1-1"]
            assert _ids(list(rest(journal, Tail(journal.directory, journal.session)))) == ["1-1"]
        finally:
            gate.set()
        await appending
        await _until(lambda: _ids(seen) == ["1-1", "1-2"])
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    async def test_it_goes_on_over_the_files_of_a_session(self, tmp_path: Path) -> None:
        journal = JournalWriter(tmp_path, segment_bytes=600)
        seen: list[Record] = []
        following = asyncio.create_task(_collect(journal, seen))
        for _ in range(30):
            await journal.append(recording(journal))
        await _until(lambda: len(_ids(seen)) == 30)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await journal.close()
        assert _ids(seen) == numbered(1, 30)
        assert len(list((tmp_path / "journal").glob("session-*"))) > 3

    async def test_it_goes_on_over_a_file_that_failed(
        self, journal: JournalWriter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[Record] = []
        following = asyncio.create_task(_collect(journal, seen))
        await journal.append(recording(journal))
        original = writer._sync

        def fails_once(descriptor: int) -> None:
            monkeypatch.setattr(writer, "_sync", original)
            raise OSError(errno.EIO, "I/O error")

        monkeypatch.setattr(writer, "_sync", fails_once)
        with pytest.raises(JournalUnwritable):
            await journal.append(recording(journal))
        await journal.append(recording(journal))
        await _until(lambda: len(_ids(seen)) == 2)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        assert _ids(seen) == ["1-1", "1-3"]

    async def test_a_record_larger_than_a_chunk_comes_whole(self, journal: JournalWriter) -> None:
        large = recording(journal, b"x" * 3_000_000)
        await asyncio.gather(*(journal.append(one) for one in (recording(journal), large, recording(journal))))
        found = [record for record in rest(journal, Tail(journal.directory, 1)) if isinstance(record, Recording)]
        assert [len(one.body) for one in found] == [18, 3_000_000, 18]

    async def test_cancelled_while_it_waits_it_has_lost_nothing(self, journal: JournalWriter) -> None:
        tail = Tail(journal.directory, journal.session)
        seen: list[Record] = []
        await journal.append(recording(journal))
        for number in range(2, 12):
            following = asyncio.create_task(_collect(journal, seen, tail))
            await _until(lambda number=number: len(_ids(seen)) == number - 1)
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await journal.append(recording(journal))
        seen.extend(rest(journal, tail))
        assert _ids(seen) == numbered(1, 11)

    async def test_left_in_the_middle_it_goes_on_behind_the_last_record_given_out(
        self, journal: JournalWriter
    ) -> None:
        for _ in range(5):
            await journal.append(recording(journal))
        tail = Tail(journal.directory, journal.session)
        async with aclosing(follow(journal, tail)) as records:
            assert await taken(records, 2) == numbered(1, 2)
        assert _ids(list(rest(journal, tail))) == numbered(3, 5)

    async def test_two_followers_each_get_everything(self, journal: JournalWriter) -> None:
        seen: tuple[list[Record], list[Record]] = ([], [])
        following = [asyncio.create_task(_collect(journal, each)) for each in seen]
        for _ in range(10):
            await journal.append(recording(journal))
        await _until(lambda: all(len(_ids(each)) == 10 for each in seen))
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
        assert _ids(seen[0]) == _ids(seen[1]) == numbered(1, 10)

    async def test_the_rest_has_the_last_line_too(self, tmp_path: Path) -> None:
        journal = JournalWriter(tmp_path)
        await journal.append(recording(journal))
        await journal.close(pending=1)
        records = list(rest(journal, Tail(journal.directory, journal.session)))
        assert [type(record) for record in records] == [SessionStart, Recording, SessionEnd]


class TestFromAnotherProcess:
    async def test_only_what_comes_from_now_on_is_given(self, journal: JournalWriter, tmp_path: Path) -> None:
        await journal.append(recording(journal))
        async with aclosing(follow_directory(tmp_path / "journal")) as records:
            first = asyncio.create_task(taken(records, 1))
            await asyncio.sleep(0)
            await journal.append(recording(journal))
            assert await first == ["1-2"]

    async def test_sessions_that_begin_later_are_followed_from_their_first_record(
        self, journal: JournalWriter, tmp_path: Path
    ) -> None:
        async with aclosing(follow_directory(tmp_path / "journal")) as records:
            waiting = asyncio.create_task(taken(records, 4))
            await asyncio.sleep(0)
            other = JournalWriter(tmp_path, segment_bytes=300)
            for _ in range(3):
                await other.append(recording(other))
            await journal.append(recording(journal))
            assert sorted(await waiting) == ["1-1", *numbered(1, 3, session=2)]
            await other.close()

    async def test_a_directory_that_is_made_later_is_followed(self, tmp_path: Path) -> None:
        async with aclosing(follow_directory(tmp_path / "later" / "journal")) as records:
            waiting = asyncio.create_task(taken(records, 1))
            await asyncio.sleep(0)
            journal = JournalWriter(tmp_path / "later")
            await journal.append(recording(journal))
            assert await waiting == ["1-1"]
            await journal.close()

    async def test_attempts_are_given_and_a_sessions_marks_are_not(
        self, journal: JournalWriter, tmp_path: Path
    ) -> None:
        async with aclosing(follow_directory(tmp_path / "journal")) as records, asyncio.timeout(DEADLINE):
            waiting = asyncio.ensure_future(anext(records))
            await asyncio.sleep(0)
            other = JournalWriter(tmp_path)
            attempt = Attempt("1-1", "replay", "http://h/", NOW, 1.0, status=200)
            await other.append(attempt)
            assert await waiting == attempt
            waiting = asyncio.ensure_future(anext(records))
            await other.close()
            await journal.append(recording(journal))
            assert isinstance(await waiting, Recording)

    async def test_a_spoiled_line_is_passed_over(self, tmp_path: Path) -> None:
        path = _file(tmp_path)
        async with aclosing(follow_directory(tmp_path / "journal")) as records:
            waiting = asyncio.create_task(taken(records, 1))
            await asyncio.sleep(0)
            with path.open("ab") as file:
                file.write(b"nonsense\n" + to_line(Recording("1-2", NOW, "POST", "/", (), b"")))
            assert await waiting == ["1-2"]

    @pytest.mark.parametrize("cut", [1, 20, 100])
    async def test_a_line_comes_when_it_is_whole(self, tmp_path: Path, cut: int) -> None:
        path = _file(tmp_path)
        before = path.stat().st_size
        line = to_line(Recording("1-1", NOW, "POST", "/", (), b"x" * 100))
        async with aclosing(follow_directory(tmp_path / "journal")) as records:
            waiting = asyncio.create_task(taken(records, 1))
            await asyncio.sleep(0)
            with path.open("ab", buffering=0) as file:
                file.write(line[:-cut])
                assert Tail(tmp_path / "journal", 1, Position(1, before)).next() is None
                file.write(line[-cut:])
            assert await waiting == ["1-1"]

    async def test_a_line_that_is_half_written_when_it_begins_is_not_lost(self, tmp_path: Path) -> None:
        path = _file(tmp_path)
        line = to_line(Recording("1-1", NOW, "POST", "/", (), b"x"))
        with path.open("ab", buffering=0) as file:
            file.write(line[:40])
            async with aclosing(follow_directory(tmp_path / "journal")) as records:
                waiting = asyncio.create_task(taken(records, 1))
                await asyncio.sleep(0)
                file.write(line[40:] + to_line(Recording("1-2", NOW, "POST", "/", (), b"x")))
                assert await waiting == ["1-1"]


def _file(directory: Path) -> Path:
    """A session's file that this test writes by hand."""
    files.prepare_directory(directory / "journal")
    path = files.segment_path(directory / "journal", 1, 1)
    path.write_bytes(to_line(SessionStart(1, NOW)))
    return path


def _ids(records: list[Record]) -> list[str]:
    return [record.id for record in records if isinstance(record, Recording)]


async def _collect(journal: JournalWriter, into: list[Record], tail: Tail | None = None) -> None:
    async for record in follow(journal, tail):
        into.append(record)


async def _until(condition: Any) -> None:
    async with asyncio.timeout(DEADLINE):
        while True:
            if condition():
                return
            await asyncio.sleep(0.005)


class TestBehindAWriterThatMovesOn:
    async def test_a_line_written_just_before_the_next_file_is_not_passed_over(
        self, journal: JournalWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tail = Tail(journal.directory, journal.session)
        while tail.next() is not None:
            pass
        read = Tail._read_segment
        line = to_line(recording(journal))
        first, second = (files.segment_path(journal.directory, 1, number) for number in (1, 2))

        def and_then_the_writer_moves_on(self: Tail, limit: Position | None) -> list[bytes]:
            lines = read(self, limit)
            if not second.exists():
                with first.open("ab") as file:
                    file.write(line)
                second.write_bytes(to_line(recording(journal)))
            return lines

        monkeypatch.setattr(Tail, "_read_segment", and_then_the_writer_moves_on)
        seen = [found for _ in range(6) if (found := tail.next()) is not None]
        assert seen[0] == line
        assert len(seen) == 2

    async def test_what_was_refused_and_cut_back_does_not_hide_what_comes_after(
        self, journal: JournalWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def cut_short(descriptor: int, data: bytes) -> None:
            os.write(descriptor, data[:-3])
            raise OSError(errno.ENOSPC, "No space left on device")

        tail = Tail(journal.directory, journal.session)
        with monkeypatch.context() as patch:
            patch.setattr(writer, "_write_all", cut_short)
            # Another process reads what is written, though not acknowledged, before it is cut back.
            patch.setattr(JournalWriter, "_cut_back", lambda self, descriptor: drain(tail))
            with pytest.raises(JournalUnwritable):
                await journal.append(recording(journal, b"refused " * 100))
        kept = recording(journal)
        await journal.append(kept)
        assert kept.id in drain(tail)


def drain(tail: Tail) -> list[str]:
    found = []
    while (line := tail.next()) is not None:
        record = from_line(line)
        if isinstance(record, Recording):
            found.append(record.id)
    return found

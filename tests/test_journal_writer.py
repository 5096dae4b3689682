"""Appending to the journal: durable before it returns, one sync for all that wait, and whole after failures."""

import asyncio
import errno
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from held_disk import Disk

from b24tunnel.journal import Journal, JournalUnwritable, JournalWriter, Tail, rest, writer
from b24tunnel.recording import Attempt, Recording, SessionEnd, SessionStart, from_line

DEADLINE = 20.0


def recording(journal: JournalWriter, body: bytes = b"event=ONCRMDEALADD") -> Recording:
    return Recording(
        id=journal.next_id(),
        received_at=datetime.now(UTC),
        method="POST",
        target="/b24/x",
        headers=(("Host", "example.org"),),
        body=body,
    )


def ids(directory: Path) -> list[str]:
    return [found.id for found in Journal.open(directory).recordings()]


def session_files(directory: Path) -> list[Path]:
    return sorted((directory / "journal").glob("session-*.jsonl"))


def seen_by_git(directory: Path) -> list[str]:
    """The files that a `git add .` would take."""
    subprocess.run(["git", "init", "-q", str(directory)], check=True, timeout=30)
    status = subprocess.run(
        ["git", "-C", str(directory), "status", "--porcelain", "--untracked-files=all"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return status.stdout.split()[1::2]


def write_counter(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all writes from now on."""
    sizes: list[int] = []
    original = writer._write_all

    def counting(descriptor: int, data: bytes) -> None:
        sizes.append(len(data))
        original(descriptor, data)

    monkeypatch.setattr(writer, "_write_all", counting)
    return sizes


@pytest.fixture
async def journal(tmp_path: Path, disk: Disk) -> AsyncIterator[JournalWriter]:
    journal = JournalWriter(tmp_path)
    disk.syncs = 0
    yield journal
    disk.gate.set()
    disk.failures.clear()
    await journal.close()


async def spun() -> None:
    """Let everything that is ready in the loop run."""
    for _ in range(20):
        await asyncio.sleep(0)


class TestDurability:
    async def test_an_append_returns_only_after_the_sync(self, journal: JournalWriter, disk: Disk) -> None:
        disk.shut()
        appending = asyncio.create_task(journal.append(recording(journal)))
        await disk.reached()
        await spun()
        before = journal.synced
        assert not appending.done()
        disk.gate.set()
        async with asyncio.timeout(DEADLINE):
            await appending
        assert journal.synced > before

    async def test_the_line_is_in_the_file_before_the_sync(self, journal: JournalWriter, disk: Disk) -> None:
        disk.shut()
        mine = recording(journal)
        appending = asyncio.create_task(journal.append(mine))
        await disk.reached()
        [file] = session_files(journal.directory.parent)
        assert from_line(file.read_bytes().splitlines(keepends=True)[-1]) == mine
        disk.gate.set()
        await appending

    async def test_all_that_wait_share_one_write_and_one_sync(
        self, journal: JournalWriter, disk: Disk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        writes = write_counter(monkeypatch)
        disk.shut()
        first = asyncio.create_task(journal.append(recording(journal)))
        await disk.reached()
        others = [asyncio.create_task(journal.append(recording(journal))) for _ in range(200)]
        await spun()
        disk.gate.set()
        async with asyncio.timeout(DEADLINE):
            await asyncio.gather(first, *others)
        assert disk.syncs == 2
        assert len(writes) == 2
        assert ids(journal.directory.parent) == [f"{journal.session}-{n}" for n in range(1, 202)]

    async def test_one_after_the_other_is_a_sync_each(self, journal: JournalWriter, disk: Disk) -> None:
        for _ in range(3):
            await journal.append(recording(journal))
        assert disk.syncs == 3

    async def test_a_cancelled_append_is_still_written(
        self, journal: JournalWriter, disk: Disk, tmp_path: Path
    ) -> None:
        disk.shut()
        blocked = asyncio.create_task(journal.append(recording(journal)))
        await disk.reached()
        cancelled = asyncio.create_task(journal.append(recording(journal)))
        await spun()
        cancelled.cancel()
        disk.gate.set()
        async with asyncio.timeout(DEADLINE):
            await blocked
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            await journal.append(recording(journal))
        assert ids(tmp_path) == ["1-1", "1-2", "1-3"]

    async def test_who_waits_for_a_change_is_woken_after_the_sync(
        self, journal: JournalWriter, disk: Disk
    ) -> None:
        changed = journal.changed()
        disk.shut()
        appending = asyncio.create_task(journal.append(recording(journal)))
        await disk.reached()
        await spun()
        assert not changed.is_set()
        disk.gate.set()
        await appending
        assert changed.is_set()
        assert not journal.changed().is_set()

    async def test_records_of_both_kinds_lie_in_the_order_of_their_appends(
        self, journal: JournalWriter, tmp_path: Path
    ) -> None:
        mine = recording(journal)
        attempt = Attempt(mine.id, "forward", "http://h/", datetime.now(UTC), 1.0, status=200)
        await journal.append(mine)
        await journal.append(attempt)
        [file] = session_files(tmp_path)
        lines = [from_line(line) for line in file.read_bytes().splitlines(keepends=True)]
        assert isinstance(lines[0], SessionStart)
        assert lines[1:] == [mine, attempt]


class TestFiles:
    @pytest.fixture(autouse=True)
    def _loose_umask(self) -> Any:
        before = os.umask(0o022)
        yield
        os.umask(before)

    async def test_nobody_else_may_read_them(self, journal: JournalWriter, tmp_path: Path) -> None:
        await journal.append(recording(journal))
        assert stat.S_IMODE((tmp_path / "journal").stat().st_mode) == 0o700
        for file in (tmp_path / "journal").iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file.name

    async def test_git_does_not_see_them(self, journal: JournalWriter, tmp_path: Path) -> None:
        await journal.append(recording(journal))
        (tmp_path / "a-fixture.json").write_text("{}")
        assert await asyncio.to_thread(seen_by_git, tmp_path) == ["a-fixture.json"]

    async def test_a_gitignore_that_the_user_changed_stays(self, tmp_path: Path) -> None:
        (tmp_path / "journal").mkdir()
        (tmp_path / "journal" / ".gitignore").write_text("mine\n")
        await JournalWriter(tmp_path).close()
        assert (tmp_path / "journal" / ".gitignore").read_text() == "mine\n"

    async def test_its_first_line_says_where_it_forwards_to(self, tmp_path: Path) -> None:
        await JournalWriter(tmp_path, forward="http://127.0.0.1:8000/h").close()
        [file] = session_files(tmp_path)
        start = from_line(file.read_bytes().splitlines(keepends=True)[0])
        assert isinstance(start, SessionStart)
        assert (start.session, start.forward, start.purpose) == (1, "http://127.0.0.1:8000/h", "listen")

    async def test_two_writers_have_two_sessions(self, tmp_path: Path) -> None:
        writers = [JournalWriter(tmp_path) for _ in range(5)]
        assert [one.session for one in writers] == [1, 2, 3, 4, 5]
        for one in writers:
            await one.append(recording(one))
            await one.close()
        assert ids(tmp_path) == [f"{n}-1" for n in range(1, 6)]

    async def test_a_number_taken_at_the_last_moment_is_passed_over(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await JournalWriter(tmp_path).close()
        monkeypatch.setattr(writer.files, "segments", lambda *arguments: [])
        late = JournalWriter(tmp_path)
        monkeypatch.undo()
        assert late.session == 2
        await late.close()

    def test_processes_that_start_together_have_sessions_of_their_own(self, tmp_path: Path) -> None:
        program = (
            "import asyncio, sys\n"
            "from pathlib import Path\n"
            "from b24tunnel.journal import JournalWriter\n"
            "async def main():\n"
            "    print('up', flush=True)\n"
            "    sys.stdin.readline()\n"
            "    writers = [JournalWriter(Path(sys.argv[1])) for _ in range(10)]\n"
            "    print(*(w.session for w in writers), flush=True)\n"
            "    for w in writers: await w.close()\n"
            "asyncio.run(main())\n"
        )
        running = [
            subprocess.Popen(
                [sys.executable, "-c", program, str(tmp_path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        try:
            for one in running:
                assert one.stdout is not None
                assert one.stdout.readline() == "up\n"
            for one in running:
                assert one.stdin is not None
                one.stdin.write("\n")
                one.stdin.flush()
            answers = [one.communicate(timeout=30)[0].split() for one in running]
        finally:
            for one in running:
                one.kill()
                one.communicate()
        assert sorted(int(number) for answer in answers for number in answer) == list(range(1, 21))

    async def test_a_directory_that_cannot_be_made_is_told_plainly(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(JournalUnwritable, match=r"Cannot write to .*--recordings"):
            JournalWriter(tmp_path / "file")


class TestRotation:
    async def test_a_segment_over_its_size_is_followed_by_another(self, tmp_path: Path) -> None:
        journal = JournalWriter(tmp_path, segment_bytes=1000)
        for _ in range(20):
            await journal.append(recording(journal))
        await journal.close()
        files = session_files(tmp_path)
        assert len(files) > 3
        for file in files:
            lines = [from_line(line) for line in file.read_bytes().splitlines(keepends=True)]
            assert isinstance(lines[0], SessionStart)
            assert len(lines) > 1
        assert all(file.stat().st_size < 1500 for file in files)
        assert ids(tmp_path) == [f"1-{n}" for n in range(1, 21)]

    async def test_a_record_larger_than_a_segment_is_one_line(self, tmp_path: Path) -> None:
        journal = JournalWriter(tmp_path, segment_bytes=100)
        await journal.append(recording(journal, b"x" * 10_000))
        await journal.append(recording(journal))
        await journal.close()
        assert [len(found.body) for found in Journal.open(tmp_path).recordings()] == [10_000, 18]


class TestClosing:
    async def test_the_last_line_says_what_is_pending(self, tmp_path: Path) -> None:
        journal = JournalWriter(tmp_path)
        await journal.append(recording(journal))
        await journal.close(pending=3)
        [file] = session_files(tmp_path)
        end = from_line(file.read_bytes().splitlines(keepends=True)[-1])
        assert isinstance(end, SessionEnd)
        assert end.pending == 3

    async def test_it_ends_the_thread(self, tmp_path: Path) -> None:
        journal = JournalWriter(tmp_path)
        name = f"journal-{journal.session}"
        mine = [thread for thread in threading.enumerate() if thread.name == name]
        await journal.close()
        assert not any(thread.is_alive() for thread in mine)

    async def test_twice_is_once(self, tmp_path: Path) -> None:
        journal = JournalWriter(tmp_path)
        await journal.close()
        await journal.close()
        [file] = session_files(tmp_path)
        assert len(file.read_bytes().splitlines()) == 2

    async def test_an_append_afterwards_is_refused(self, tmp_path: Path) -> None:
        journal = JournalWriter(tmp_path)
        await journal.close()
        with pytest.raises(JournalUnwritable, match="closed"):
            await journal.append(recording(journal))

    async def test_it_waits_for_what_was_appended_before(
        self, journal: JournalWriter, disk: Disk, tmp_path: Path
    ) -> None:
        disk.shut()
        blocked = asyncio.create_task(journal.append(recording(journal)))
        await disk.reached()
        waiting = asyncio.create_task(journal.append(recording(journal)))
        await spun()
        closing = asyncio.create_task(journal.close())
        await spun()
        assert not closing.done()
        disk.gate.set()
        async with asyncio.timeout(DEADLINE):
            await asyncio.gather(blocked, waiting, closing)
        assert ids(tmp_path) == ["1-1", "1-2"]

    async def test_a_failing_last_line_is_told_and_the_thread_ends_all_the_same(
        self, tmp_path: Path, disk: Disk
    ) -> None:
        journal = JournalWriter(tmp_path)
        disk.failures = [OSError(errno.EIO, "I/O error")]
        with pytest.raises(JournalUnwritable):
            await journal.close()
        with pytest.raises(JournalUnwritable, match="closed"):
            await journal.append(recording(journal))


class TestFailures:
    async def test_a_failed_sync_fails_all_that_shared_it_and_the_next_is_a_new_file(
        self, journal: JournalWriter, disk: Disk, tmp_path: Path
    ) -> None:
        good = recording(journal)
        await journal.append(good)
        disk.shut()
        blocker = asyncio.create_task(journal.append(recording(journal)))
        await disk.reached()
        batch = [asyncio.create_task(journal.append(recording(journal))) for _ in range(5)]
        await spun()
        # The first sync goes well, the one of the batch does not.
        outcomes: list[OSError | None] = [None, OSError(errno.EIO, "Input/output error")]
        disk.failures = _Scripted(outcomes)
        disk.gate.set()
        async with asyncio.timeout(DEADLINE):
            await blocker
            results = await asyncio.gather(*batch, return_exceptions=True)
        assert all(isinstance(result, JournalUnwritable) for result in results)
        assert all("Input/output error" in str(result) for result in results)
        after = recording(journal)
        await journal.append(after)
        assert len(session_files(tmp_path)) == 2
        assert ids(tmp_path) == ["1-1", "1-2", after.id]
        assert Journal.open(tmp_path).torn == []

    async def test_who_follows_in_the_process_never_sees_a_record_that_failed(
        self, journal: JournalWriter, disk: Disk
    ) -> None:
        tail = Tail(journal.directory, journal.session)
        await journal.append(recording(journal))
        disk.failures = [OSError(errno.EIO, "Input/output error")]
        with pytest.raises(JournalUnwritable):
            await journal.append(recording(journal))
        await journal.append(recording(journal))
        seen = [record.id for record in rest(journal, tail) if isinstance(record, Recording)]
        assert seen == ["1-1", "1-3"]

    async def test_a_write_that_stops_half_way_leaves_nothing_of_it(
        self, journal: JournalWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await journal.append(recording(journal))
        _writes_only(monkeypatch, 20, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(JournalUnwritable, match="No space left"):
            await journal.append(recording(journal))
        monkeypatch.undo()
        await journal.append(recording(journal))
        assert ids(tmp_path) == ["1-1", "1-3"]
        assert all(file.read_bytes().endswith(b"\n") for file in session_files(tmp_path))
        # Whoever followed the first file may have read beyond the cut, so it goes on in a second one.
        assert len(session_files(tmp_path)) == 2

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO])
    async def test_whole_lines_of_a_failed_batch_are_not_left_behind_either(
        self, journal: JournalWriter, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
    ) -> None:
        disk.shut()
        blocker = asyncio.create_task(journal.append(recording(journal)))
        await disk.reached()
        batch = [asyncio.create_task(journal.append(recording(journal))) for _ in range(4)]
        await spun()
        # More than two of the four lines, less than all.
        _writes_only(monkeypatch, 800, OSError(code, os.strerror(code)))
        disk.gate.set()
        async with asyncio.timeout(DEADLINE):
            await blocker
            results = await asyncio.gather(*batch, return_exceptions=True)
        assert all(isinstance(result, JournalUnwritable) for result in results)
        monkeypatch.undo()
        after = recording(journal)
        await journal.append(after)
        assert ids(tmp_path) == ["1-1", after.id]
        assert all(file.read_bytes().endswith(b"\n") for file in session_files(tmp_path))

    async def test_a_file_that_was_removed_is_replaced(self, journal: JournalWriter, tmp_path: Path) -> None:
        await journal.append(recording(journal))
        session_files(tmp_path)[0].unlink()
        await journal.append(recording(journal))
        assert ids(tmp_path) == ["1-2"]

    async def test_a_directory_that_was_removed_is_made_again(
        self, journal: JournalWriter, tmp_path: Path
    ) -> None:
        for file in (tmp_path / "journal").iterdir():
            file.unlink()
        (tmp_path / "journal").rmdir()
        await journal.append(recording(journal))
        assert ids(tmp_path) == ["1-1"]
        assert (tmp_path / "journal" / ".gitignore").exists()

    async def test_an_id_whose_write_failed_is_not_used_again(self, journal: JournalWriter, disk: Disk) -> None:
        disk.failures = [OSError(errno.EIO, "I/O error")]
        failed = recording(journal)
        with pytest.raises(JournalUnwritable):
            await journal.append(failed)
        assert recording(journal).id != failed.id

    async def test_a_session_that_failed_once_still_counts_as_alive(
        self, journal: JournalWriter, disk: Disk, tmp_path: Path
    ) -> None:
        disk.failures = [OSError(errno.EIO, "I/O error")]
        with pytest.raises(JournalUnwritable):
            await journal.append(recording(journal))
        assert writer.files.is_being_written(session_files(tmp_path)[-1])

    def test_a_full_file_system_loses_only_what_it_refused(self, tmp_path: Path) -> None:
        answer = subprocess.run(
            [sys.executable, "-c", _UNDER_A_LIMIT, str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert answer.returncode == 0, answer.stderr
        told = json.loads(answer.stdout)
        assert told["refused"]
        assert len(told["acknowledged"]) > 3
        journal = Journal.open(tmp_path)
        assert journal.torn == []
        assert [found.id for found in journal.recordings()] == told["acknowledged"]
        assert journal.unreadable == {}


# A limit on the size of a file is the nearest that a test gets to a full disk without being root.
_UNDER_A_LIMIT = """
import asyncio, json, resource, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from b24tunnel.journal import JournalUnwritable, JournalWriter
from b24tunnel.recording import Recording

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
told = {"acknowledged": [], "refused": []}

async def append(journal, size):
    recording = Recording(journal.next_id(), datetime.now(UTC), "POST", "/", (), b"x" * size)
    try:
        await journal.append(recording)
    except JournalUnwritable:
        told["refused"].append(recording.id)
    else:
        told["acknowledged"].append(recording.id)

async def main():
    journal = JournalWriter(Path(sys.argv[1]))
    await append(journal, 500)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
    for _ in range(3):
        await append(journal, 1500)
    # Several in one batch: whole lines of it fit, the last does not.
    await asyncio.gather(*(append(journal, 1500) for _ in range(6)))
    await append(journal, 6000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    for _ in range(3):
        await append(journal, 1500)
    await journal.close()

asyncio.run(main())
print(json.dumps(told))
"""


class _Scripted(list[OSError]):
    """Failures in turn, where None is a success."""

    def __init__(self, outcomes: list[OSError | None]) -> None:
        super().__init__([OSError()])
        self._outcomes = outcomes

    def __bool__(self) -> bool:
        if self._outcomes and self._outcomes[0] is None:
            self._outcomes.pop(0)
            return False
        return bool(self._outcomes)

    def pop(self, index: Any = 0) -> OSError:
        failure = self._outcomes.pop(0)
        assert failure is not None
        return failure


def _writes_only(monkeypatch: pytest.MonkeyPatch, size: int, failure: OSError) -> None:
    """The next write to a journal's file takes so many bytes, the one after it fails."""
    original: Callable[[int, Any], int] = os.write
    left = [size]

    def short(descriptor: int, data: Any) -> int:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return original(descriptor, data)
        if not left:
            raise failure
        return original(descriptor, data[: left.pop()])

    monkeypatch.setattr(writer.os, "write", short)


class TestOddFailures:
    async def test_whatever_fails_in_the_writers_thread_is_told_and_the_next_record_is_kept(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        journal = JournalWriter(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(writer, "_write_all", lambda descriptor, data: (_ for _ in ()).throw(MemoryError()))
            async with asyncio.timeout(DEADLINE):
                with pytest.raises(JournalUnwritable, match="MemoryError"):
                    await journal.append(recording(journal))
        kept = recording(journal)
        async with asyncio.timeout(DEADLINE):
            await journal.append(kept)
            await journal.close()
        assert ids(tmp_path) == [kept.id]

    async def test_a_file_whose_closing_fails_holds_nothing_up(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        journal = JournalWriter(tmp_path, segment_bytes=1)  # each batch begins a new file and closes the old one
        original = os.close

        def failing(descriptor: int) -> None:
            regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
            original(descriptor)
            if regular:
                raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(writer.os, "close", failing)
            for _ in range(3):
                await journal.append(recording(journal))
        await journal.close()
        assert ids(tmp_path) == ["1-1", "1-2", "1-3"]


_COUNTS_SYNCS = """
import asyncio, os, sys
from pathlib import Path

synced = []
system_sync = os.fdatasync

def counting(descriptor):
    system_sync(descriptor)
    synced.append(os.fstat(descriptor).st_size)

os.fdatasync = counting  # before the package is imported, which takes the system's call then
from datetime import UTC, datetime
from b24tunnel.journal import JournalWriter
from b24tunnel.recording import Recording

async def main():
    journal = JournalWriter(Path(sys.argv[1]))
    for number in range(3):
        before = len(synced)
        await journal.append(Recording(journal.next_id(), datetime.now(UTC), "POST", "/b24/x", (), b"event=A"))
        [file] = Path(sys.argv[1]).glob("journal/session-*")
        assert len(synced) == before + 1, "one sync before it returns"
        assert synced[-1] == file.stat().st_size, "of all that was written"
    await journal.close()

asyncio.run(main())
"""


@pytest.mark.skipif(not hasattr(os, "fdatasync"), reason="this system has no fdatasync")
def test_an_append_returns_after_the_systems_own_sync_of_all_that_was_written(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _COUNTS_SYNCS, str(tmp_path)], capture_output=True, text=True, timeout=DEADLINE
    )
    assert done.returncode == 0, done.stderr

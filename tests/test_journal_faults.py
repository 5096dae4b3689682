"""Faults of the disk and of the clock under a running `listen`: refused while it must be, nothing else lost."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

import pytest
from held_disk import Disk
from listening import listening, recorded_bodies
from programs import Program, Programs, wait_until
from raw_server import RawServer, deliver
from receiving import post, receiving

from b24tunnel import receiver
from b24tunnel.journal import Journal, JournalWriter, writer
from b24tunnel.recording import Attempt, Recording


def body(number: int, size: int = 0) -> bytes:
    return b"event=ONCRMDEALADD&n=%d&x=" % number + b"x" * size


class Bitrix24:
    """Delivers to one address and remembers what was acknowledged and what was refused."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.acknowledged: list[bytes] = []
        self.refused: list[bytes] = []

    def deliver(self, count: int = 1, size: int = 0) -> list[int]:
        """The statuses of so many deliveries, one after the other; no other status than 200 and 503 is right."""
        statuses = []
        for _ in range(count):
            sent = body(len(self.acknowledged) + len(self.refused), size)
            statuses.append(deliver(self.url, sent).status)
            assert statuses[-1] in (200, 503)
            (self.acknowledged if statuses[-1] == 200 else self.refused).append(sent)
        return statuses


def in_plain_words(programs: Programs, *options: str) -> tuple[Program, str]:
    """A `listen` that prints for a person, and its handler URL."""
    listen = programs.b24tunnel("listen", "--no-bind", "--tunnel", "local", "--output", "plain", *options)
    wait_until(lambda: any("/b24/" in line for line in listen.lines), f"it is ready: {listen}")
    [url] = {word for line in listen.lines for word in line.split() if "/b24/" in word}
    return listen, url


def journal_files(programs: Programs) -> list[Path]:
    return sorted((programs.directory / "recordings" / "journal").glob("session-*.jsonl"))


def limit_file_size(program: Program, size: int) -> None:
    """No file of the program may grow beyond ``size`` bytes, as on a disk that is full."""
    resource.prlimit(program.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def assert_nothing_is_missing(programs: Programs, sender: Bitrix24) -> None:
    journal = Journal.open(programs.directory / "recordings")
    found = list(journal.recordings())
    assert [one.body for one in found] == sender.acknowledged
    numbers = [int(one.id.partition("-")[2]) for one in found]
    assert numbers == sorted(set(numbers))
    assert journal.torn == []
    assert journal.unreadable == {}


class TestAFullDisk:
    @pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="this system cannot limit another process")
    def test_while_it_lasts_deliveries_are_refused_and_then_recorded_by_themselves(
        self, programs: Programs
    ) -> None:
        listen, url = in_plain_words(programs)
        sender = Bitrix24(url)
        assert sender.deliver(3) == [200] * 3
        limit_file_size(listen, 1)
        assert sender.deliver(20) == [503] * 20
        assert len(journal_files(programs)) <= 2
        limit_file_size(listen, resource.RLIM_INFINITY)
        assert sender.deliver(3) == [200] * 3
        limit_file_size(listen, 1)
        assert sender.deliver(5) == [503] * 5
        limit_file_size(listen, resource.RLIM_INFINITY)
        assert sender.deliver(1) == [200]
        assert listen.stop() == 0
        assert_nothing_is_missing(programs, sender)
        # It was said, in one sentence with what to do, and not twenty-five times.
        assert "503" in listen.errors[0]
        assert "make room on that disk" in listen.errors[0]
        assert 1 <= len(listen.errors) <= 3
        assert "25 LOST" in "".join(listen.lines)
        assert "Traceback" not in str(listen)

    @pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="this system cannot limit another process")
    def test_what_fits_is_recorded_and_only_what_does_not_is_refused(self, programs: Programs) -> None:
        listen, url = listening(programs)
        sender = Bitrix24(url)
        sender.deliver(2)
        limit_file_size(listen, 5000)
        for size in (0, 6000, 0, 1500, 1500, 1500, 1500, 9000, 0):
            sender.deliver(1, size)
        limit_file_size(listen, resource.RLIM_INFINITY)
        sender.deliver(2, 9000)
        assert listen.stop() == 0
        assert {len(one) > 5000 for one in sender.refused} == {True, False}
        assert len(sender.acknowledged) >= 8
        assert_nothing_is_missing(programs, sender)

    def test_a_real_one_is_left_behind_as_soon_as_there_is_room(
        self, programs: Programs, small_disk: Path
    ) -> None:
        filler = small_disk / "filler"
        filler.write_bytes(b"x" * 600_000)
        listen, url = in_plain_words(programs)
        sender = Bitrix24(url)
        wait_until(lambda: 503 in sender.deliver(1, 20_000), "the disk is full")
        assert len(sender.acknowledged) > 5
        sender.deliver(5, 20_000)
        filler.unlink()
        assert sender.deliver(5, 20_000) == [200] * 5
        assert listen.stop() == 0
        assert_nothing_is_missing(programs, sender)
        assert "make room on that disk" in listen.errors[0]
        assert len(listen.errors) <= 3
        assert "Traceback" not in str(listen)

    def test_it_ends_in_order_and_starts_with_a_clear_word_on_a_full_one(
        self, programs: Programs, small_disk: Path
    ) -> None:
        listen, url = listening(programs)
        sender = Bitrix24(url)
        sender.deliver(3)
        _fill(small_disk / "filler")
        wait_until(lambda: 503 in sender.deliver(1, 4000), "the disk is full")
        assert listen.stop() == 0
        again = programs.run("listen", "--no-bind", "--output", "plain")
        assert again.process.returncode == 3
        assert "make room on that disk" in "".join(again.errors)
        assert len(again.errors) == 1
        assert recorded_bodies(programs) == sender.acknowledged
        (small_disk / "filler").unlink()
        listen, url = listening(programs)
        assert deliver(url, b"event=AFTER").status == 200
        assert recorded_bodies(programs) == [*sender.acknowledged, b"event=AFTER"]


@pytest.fixture
def small_disk(programs: Programs) -> Iterator[Path]:
    """A file system of 1 MiB where the recordings lie; needs root."""
    place = programs.directory / "recordings"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, timeout=30).returncode:
        pytest.skip("only root can mount a file system of its own")
    try:
        yield place
    finally:
        programs.end_all()
        subprocess.run(["umount", "-l", str(place)], check=True, timeout=30)


def _fill(filler: Path) -> None:
    with filler.open("wb", buffering=0) as out:
        for size in (65536, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    out.write(b"x" * size)


class TestADirectory:
    def test_that_may_not_be_written_for_a_while_refuses_only_what_needs_a_new_file(
        self, programs: Programs
    ) -> None:
        bound = _bound_by_permissions()
        if os.geteuid() == 0 and not bound:
            pytest.skip("root may write everywhere")
        listen = programs.start(
            *bound,
            *(sys.executable, "-m", "b24tunnel", "listen", "--no-bind", "--output", "json"),
        )
        sender = Bitrix24(listen.next_json("ready")["handler_url"])
        sender.deliver(2)
        directory = programs.directory / "recordings" / "journal"
        directory.chmod(0o500)
        assert sender.deliver(2) == [200, 200]  # the file that is open is still good
        assert recorded_bodies(programs) == sender.acknowledged
        directory.chmod(0o700)
        journal_files(programs)[0].unlink()
        directory.chmod(0o500)
        try:
            assert sender.deliver(3) == [503] * 3
            assert "Permission denied" in listen.next_json("trouble")["message"]
        finally:
            directory.chmod(0o700)
        assert sender.deliver(2) == [200, 200]
        assert listen.stop() == 0
        assert recorded_bodies(programs) == sender.acknowledged[4:]

    def test_or_a_file_of_it_that_is_removed_under_a_session_holds_up_neither_it_nor_its_handler(
        self, programs: Programs
    ) -> None:
        with RawServer() as handler:
            listen, url = listening(programs, "--forward", handler.url, "--concurrency", "1")
            sender = Bitrix24(url)

            def all_told() -> bool:
                told = [listen.next_json("attempt") for _ in range(2)]
                return [one["status"] for one in told] == [200, 200]

            sender.deliver(2)
            assert all_told()
            journal_files(programs)[0].unlink()
            sender.deliver(2)
            assert all_told()
            assert recorded_bodies(programs) == sender.acknowledged[2:]
            shutil.rmtree(programs.directory / "recordings")
            sender.deliver(2)
            assert all_told()
            assert handler.bodies() == sender.acknowledged
            assert recorded_bodies(programs) == sender.acknowledged[4:]
            assert listen.stop() == 0
        assert "Traceback" not in str(listen)


def _bound_by_permissions() -> list[str]:
    """What to start a program with so that permissions hold for it, though the tests may run as root."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        return []
    command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    return command if subprocess.run([*command, "true"], timeout=30).returncode == 0 else []


class TestAFailingSync:
    async def test_again_and_again_refuses_each_and_leaves_no_litter(self, disk: Disk, tmp_path: Path) -> None:
        async with receiving(tmp_path) as place:
            assert (await place.exchange(post(b"n=1"))).status == 200
            [first] = (tmp_path / "journal").glob("session-*")
            trusted = first.read_bytes()
            disk.failures = [OSError(errno.EIO, "Input/output error") for _ in range(10)]
            for _ in range(10):
                assert (await place.exchange(post(b"n=2"))).status == 503
            assert disk.failures == []
            assert (await place.exchange(post(b"n=3"))).status == 200
            assert place.receiver.refused == 10
            assert first.read_bytes() == trusted
            assert len(list((tmp_path / "journal").glob("session-*"))) == 2
            assert place.bodies() == [b"n=1", b"n=3"]


class Clock(datetime):
    """Takes the place of `datetime` in a module; it can be set."""

    offset = timedelta()

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return datetime.now(tz) + cls.offset


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> type[Clock]:
    monkeypatch.setattr(Clock, "offset", timedelta())
    for module in (receiver, writer):
        monkeypatch.setattr(module, "datetime", Clock)
    return Clock


class TestAClockThatIsSetBack:
    async def test_ids_ascend_and_the_order_is_theirs(self, clock: type[Clock], tmp_path: Path) -> None:
        sent = [b"n=%d" % number for number in range(6)]
        for session in range(2):
            async with receiving(tmp_path) as place:
                for number in range(3):
                    clock.offset -= timedelta(days=365)
                    assert (await place.exchange(post(sent[3 * session + number]))).status == 200
        journal = Journal.open(tmp_path)
        ids = ["1-1", "1-2", "1-3", "2-1", "2-2", "2-3"]
        recordings = list(journal.recordings())
        assert [one.id for one in recordings] == ids
        assert [one.body for one in recordings] == sent
        assert [one.received_at for one in recordings] == sorted((r.received_at for r in recordings), reverse=True)
        assert [one.id for one in journal.last(2)] == ids[-2:]

    async def test_the_commands_keep_to_that_order(
        self, clock: type[Clock], tmp_path: Path, programs: Programs
    ) -> None:
        async with receiving(tmp_path / "recordings") as place:
            for number in range(3):
                clock.offset -= timedelta(days=365)
                assert (await place.exchange(post(b"n=%d" % number))).status == 200
        listed = programs.run("list", "--json")
        assert [listed.next_json()["id"] for _ in range(3)] in (["1-1", "1-2", "1-3"], ["1-3", "1-2", "1-1"])
        assert programs.run("show", "last", "--json").next_json()["id"] == "1-3"
        newest = programs.run("list", "last:2", "--json")
        assert {newest.next_json()["id"] for _ in range(2)} == {"1-2", "1-3"}

    @pytest.mark.parametrize("statuses", [(500, 200), (200, 500)])
    async def test_the_last_attempt_is_the_one_that_was_made_last(
        self, tmp_path: Path, programs: Programs, statuses: tuple[int, int]
    ) -> None:
        journal = JournalWriter(tmp_path / "recordings", forward="http://h/")
        now = datetime.now(UTC)
        await journal.append(Recording(journal.next_id(), now, "POST", "/", (), b"event=A"))
        for years, status in enumerate(statuses):
            started_at = now - timedelta(days=365 * years)
            await journal.append(Attempt("1-1", "forward", "http://h/", started_at, 1.0, status=status))
        await journal.close()
        made = Journal.open(tmp_path / "recordings").attempts("1-1")
        failed = programs.run("list", "--failed", "--json")
        assert [attempt.status for attempt in made] == list(statuses)
        assert bool(failed.lines) == (statuses[-1] == 500)


class TestFilesThatAreNotAsWeWroteThem:
    def test_one_of_a_later_version_beside_ours_is_left_alone_and_ours_are_read(self, programs: Programs) -> None:
        _deliver_some(programs, 2)
        directory = programs.directory / "recordings" / "journal"
        later = directory / "session-000002-001.jsonl"
        lines = b'{"v":2,"kind":"session","session":2}\n{"v":2,"kind":"recording","id":"2-1","new":[1]}\n'
        later.write_bytes(lines + b'{"v":2,"kind":"novelty"}\n')
        before = later.read_bytes()
        _deliver_some(programs, 2)
        assert [path.name for path in journal_files(programs)] == [
            f"session-00000{n}-001.jsonl" for n in (1, 2, 3)
        ]
        journal = Journal.open(programs.directory / "recordings")
        assert [one.id for one in journal.recordings()] == ["1-1", "1-2", "3-1", "3-2"]
        assert [one.id for one in journal.last(3)] == ["1-2", "3-1", "3-2"]
        listed = programs.run("list", "--json")
        assert listed.process.returncode == 0
        assert {listed.next_json()["id"] for _ in range(4)} == {"1-1", "1-2", "3-1", "3-2"}
        assert later.read_bytes() == before

    @pytest.mark.parametrize("how", ["zeros", "garbage", "joined", "cut", "long"])
    def test_what_is_damaged_in_the_middle_costs_no_more_than_itself(self, programs: Programs, how: str) -> None:
        with RawServer(listening=False) as handler:
            listen, url = listening(programs, "--forward", handler.url)
            sender = Bitrix24(url)
            sender.deliver(5)
            listen.next_json("trouble")
            assert listen.stop() == 0
            [file] = journal_files(programs)
            lines = file.read_bytes().splitlines(keepends=True)
            place = next(n for n, line in enumerate(lines) if b"n=2&" in line)
            damaged = {
                "zeros": lambda line: line[:50] + b"\0" * 40 + line[90:],
                "garbage": lambda line: line[:50] + bytes(range(128, 168)) + line[90:],
                "joined": lambda line: line[:-1],
                "cut": lambda line: line[:100] + b"\n",
                "long": lambda line: b"x" * 3_000_000 + b"\n",
            }[how](lines[place])
            lines[place] = damaged
            file.write_bytes(b"".join(lines))
            # Joined with the line behind it, that one goes too; it may be an attempt.
            follower = lines[place + 1]
            lost = {2, 3} if how == "joined" and b"n=3&" in follower else {2}
            left = [one for number, one in enumerate(sender.acknowledged) if number not in lost]
            assert recorded_bodies(programs) == left
            handler.listen()
            again, url = listening(programs, "--forward", handler.url, "--resume", "--concurrency", "1")
            assert deliver(url, b"event=AFTER").status == 200
            assert handler.wait_for(len(left) + 1)
            assert again.stop() == 0
            assert sorted(handler.bodies()) == sorted([*left, b"event=AFTER"])
            assert recorded_bodies(programs) == [*left, b"event=AFTER"]
        assert file.read_bytes().startswith(b"".join(lines))


def _deliver_some(programs: Programs, count: int) -> None:
    listen, url = listening(programs)
    assert Bitrix24(url).deliver(count) == [200] * count
    assert listen.stop() == 0

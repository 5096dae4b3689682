"""Minutes of mixed load while faults come and go: handler, disk, senders. Then everything has to add up.

Run it with: python tests/benchmarks/faults.py --minutes 10
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import resource
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import telling
from senders import (
    Address,
    Book,
    Connection,
    Handler,
    Listening,
    Noted,
    Receipt,
    Sender,
    end,
    held_port,
    noted_attempts,
    wait_until,
)

from b24tunnel import Journal, Recording
from b24tunnel.handler_path import handler_segment

SENDERS = 8
DELIVERIES_A_SECOND = 900
_DELIVERIES_A_BURST = 1.8
SEGMENT_BYTES = 16 * 1024 * 1024
# Senders wait while so many recordings are not settled: a handler is slower than the recorder.
MOST_BEHIND = 20_000
GROWTH_BYTES = 30 * 1024 * 1024
MORE_DESCRIPTORS = 4
_WARM_UP_SECONDS = 30.0
_QUIET_SECONDS = 1.0
# An answer that came so long before or after a full disk may have failed to be noted because of it.
_BEFORE, _AFTER = 0.5, 3.0
_UNNOTED = re.compile(r"An attempt with ([0-9-]+) could not be noted")
_RECORDED = re.compile(rb'{"v":1,"kind":"recording","id":"([0-9-]+)"')
_ATTEMPTED = re.compile(rb'{"v":1,"kind":"attempt","recording":"([0-9-]+)"')
_MIB = 1024 * 1024


@dataclass
class Summary:
    """What it all came to."""

    seconds: float = 0.0
    sent: int = 0
    acknowledged: int = 0
    refused: int = 0
    recorded: int = 0
    recorded_unacknowledged: int = 0
    missing: int = 0
    handed_over: int = 0
    attempts_not_noted: int = 0
    not_forwarded_because_removed: int = 0
    segments: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    memory_first_quarter_mib: float = 0.0
    memory_last_quarter_mib: float = 0.0
    memory_most_mib: float = 0.0
    descriptors_before: int = 0
    descriptors_after: int = 0
    wrong: list[str] = field(default_factory=list)
    directory: str | None = None


# -- senders that are no good --------------------------------------------------------------------------------


class HangsUp(Sender):
    """Leaves in the middle of a body, or before the answer: its delivery may be recorded or not."""

    def converse(self) -> None:
        """One delivery, not to its end."""
        delivery = self.book.new(self.chance)
        data = self.address.request(delivery, self.chance)
        with Connection(self.address.port) as connection:
            whole = self.chance.random() < 0.5
            connection.socket.sendall(data if whole else data[: self.chance.randrange(1, len(data))])
            if self.chance.random() < 0.5:
                connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rest()


class Drips(Sender):
    """Sends in pieces with pauses."""

    def converse(self) -> None:
        """One delivery, slowly."""
        delivery = self.book.new(self.chance)
        data = self.address.request(delivery, self.chance, close=True)
        with Connection(self.address.port) as connection:
            size = max(1, len(data) // self.chance.randrange(2, 12))
            for start in range(0, len(data), size):
                connection.socket.sendall(data[start : start + size])
                self.over.wait(self.chance.uniform(0, 0.1))
            self.book.settle(delivery.number, connection.status())
        self.rest()


class Junk(Sender):
    """Sends what is no delivery."""

    def converse(self) -> None:
        """One connection with something that is refused."""
        kinds: tuple[bytes, ...] = (
            self.chance.randbytes(self.chance.randrange(1, 2000)),
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"POST /b24/wrong HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\na=1",
            b"POST /../../etc/passwd HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
            b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
            b"\r\n" * 50,
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        )
        with Connection(self.address.port) as connection:
            connection.socket.settimeout(0.5)
            connection.socket.sendall(self.chance.choice(kinds))
            while connection.socket.recv(65536):
                pass
        self.rest()


class Idles(Sender):
    """Opens many connections, says little or nothing on them, and leaves."""

    def converse(self) -> None:
        """A hundred connections for a while."""
        idle: list[Connection] = []
        try:
            for _ in range(100):
                idle.append(Connection(self.address.port))
                if self.chance.random() < 0.5:
                    idle[-1].socket.sendall(b"POST /b24/" + b"a" * self.chance.randrange(0, 200))
            self.over.wait(self.chance.uniform(0.2, 5))
        finally:
            for connection in idle:
                connection.socket.close()
        self.rest()


# -- what is known while it runs -------------------------------------------------------------------------------


class Progress:
    """What `listen` prints: which recordings are not settled yet, and which attempts it could not note."""

    def __init__(self) -> None:
        self.recorded = 0
        self.attempts = 0
        self.unsettled: set[str] = set()
        self.unnoted: set[str] = set()

    def told(self, happening: dict[str, Any]) -> None:
        """One happening."""
        kind = happening["type"]
        if kind == "recorded":
            self.recorded += 1
            if happening["id"] not in self.unnoted:
                self.unsettled.add(happening["id"])
        elif kind == "attempt":
            self.attempts += 1
            if not (happening["error"] or "").startswith(("cannot connect", "interrupted")):
                self.unsettled.discard(happening["recording"])
        elif kind == "trouble" and (match := _UNNOTED.match(happening["message"])):
            self.unnoted.add(match[1])
            self.unsettled.discard(match[1])


class Memory:
    """Samples of a process's resident memory."""

    def __init__(self, pid: int, start: float, seconds: float) -> None:
        """``start`` and ``seconds``: when the load began, and for how long it goes on."""
        self._statm = Path(f"/proc/{pid}/statm")
        self._page = resource.getpagesize()
        self._warm = start + min(_WARM_UP_SECONDS, seconds / 4)
        self._every = min(2.0, seconds / 40)
        self._next = 0.0
        self.samples: list[int] = []

    def sample(self) -> None:
        """Take one when it is time."""
        now = time.monotonic()
        if now >= max(self._next, self._warm):
            self._next = now + self._every
            self.samples.append(int(self._statm.read_text().split()[1]) * self._page)

    def quarters(self) -> tuple[float, float]:
        """The median of the first quarter and that of the last one, in bytes."""
        quarter = max(1, len(self.samples) // 4)
        return statistics.median(self.samples[:quarter]), statistics.median(self.samples[-quarter:])


# -- faults ----------------------------------------------------------------------------------------------------


class Track:
    """Faults of which at most one is on: for a while nothing, for a while one of them, and so on."""

    def __init__(
        self, chance: random.Random, faults: dict[str, Callable[[], None]], off: Callable[[], None]
    ) -> None:
        """Each fault is switched on by its function, and whichever it was is switched off by ``off``."""
        self.counts: Counter[str] = Counter()
        self.on: str | None = None
        self._chance = chance
        self._faults = faults
        self._off = off
        self._change = time.monotonic() + chance.uniform(0.3, 1.5)

    def go_on(self) -> None:
        """Change when it is time."""
        if time.monotonic() < self._change:
            return
        if self.on is not None:
            self.end()
            self._change = time.monotonic() + self._chance.uniform(0.5, 5)
        else:
            self.on = self._chance.choice(list(self._faults))
            self.counts[self.on] += 1
            self._faults[self.on]()
            self._change = time.monotonic() + self._chance.uniform(0.1, 2)

    def end(self) -> None:
        """Nothing is wrong any more."""
        if self.on is not None:
            self._off()
            self.on = None


class DiskFaults:
    """What can happen to the journal below a process, from outside of it."""

    def __init__(self, journal: Path, pid: int, chance: random.Random, ballast: Path | None) -> None:
        """``ballast`` is a file on the journal's own small disk, which it can fill."""
        self.windows: list[list[float]] = []
        self._journal = journal
        self._pid = pid
        self._chance = chance
        self._ballast = ballast
        self._removed: list[tuple[Path, BinaryIO]] = []
        self._hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]

    def faults(self) -> dict[str, Callable[[], None]]:
        """Those that are possible here."""
        possible = {"file size limit": self._limit}
        if self._ballast is not None:
            possible["disk full"] = self._fill
        else:  # a small disk has no room for what is removed and put back
            possible["file removed"] = self._remove
        if os.geteuid() != 0:  # root writes everywhere
            possible["directory read-only"] = self._forbid
        return possible

    def off(self) -> None:
        """The disk is fine again."""
        resource.prlimit(self._pid, resource.RLIMIT_FSIZE, (self._hard, self._hard))
        if self._ballast is not None:
            self._ballast.unlink(missing_ok=True)
        self._journal.chmod(0o700)
        if self.windows and self.windows[-1][1] == float("inf"):
            self.windows[-1][1] = time.monotonic()

    def may_have_spoiled(self, moment: float) -> bool:
        """Whether what was to be written at this moment may have met a fault."""
        return any(start - _BEFORE <= moment <= over + _AFTER for start, over in self.windows)

    def removed_ids(self) -> tuple[set[str], set[str]]:
        """Recordings in removed files (those not handed over by then never are), and those settled in them."""
        recorded, settled = set(), set()
        for _, file in self._removed:
            file.seek(0)
            for line in file:
                if match := _RECORDED.match(line):
                    recorded.add(match[1].decode())
                elif match := _ATTEMPTED.match(line):
                    settled.add(match[1].decode())
        return recorded, settled

    def put_back(self) -> None:
        """Every removed file is there again, whole."""
        for path, file in self._removed:
            file.seek(0)
            while path.exists():  # its number was given again, for it was removed while it was made
                session, _, number = path.stem.rpartition("-")
                path = path.with_name(f"{session}-{int(number) + 500:03d}.jsonl")
            with path.open("wb") as back:
                shutil.copyfileobj(file, back)
            file.close()
        self._removed.clear()

    def _current(self) -> Path:
        return max(self._journal.glob("session-*.jsonl"), key=lambda path: int(path.stem.rpartition("-")[2]))

    def _limit(self) -> None:
        """No file may grow beyond some size: none at all, a few lines, or a little more than now."""
        self._spoil()
        limit = self._chance.choice((0, 100, 3000, self._current().stat().st_size + 5000))
        resource.prlimit(self._pid, resource.RLIMIT_FSIZE, (limit, self._hard))

    def _fill(self) -> None:
        self._spoil()
        assert self._ballast is not None
        with self._ballast.open("wb") as file:
            disk = os.statvfs(self._ballast)
            with contextlib.suppress(OSError):  # others write meanwhile
                os.posix_fallocate(file.fileno(), 0, max(1, disk.f_bavail * disk.f_frsize - _MIB))
            file.seek(0, os.SEEK_END)
            with contextlib.suppress(OSError):
                while True:
                    os.write(file.fileno(), bytes(4096))
            file.truncate(max(0, os.fstat(file.fileno()).st_size - self._chance.choice((0, 4096, 100_000))))

    def _remove(self) -> None:
        path = self._current()
        with path.open("rb") as file:
            self._removed.append((path, os.fdopen(os.dup(file.fileno()), "rb")))
        path.unlink()

    def _forbid(self) -> None:
        self._spoil()
        self._journal.chmod(0o500)

    def _spoil(self) -> None:
        self.windows.append([time.monotonic(), float("inf")])


def handler_faults(handler: Handler) -> dict[str, Callable[[], None]]:
    """What a handler can do wrong."""

    def answering(mode: str) -> Callable[[], None]:
        return lambda: setattr(handler, "mode", mode)

    return {"handler down": handler.down, **{f"handler {mode}": answering(mode) for mode in Handler.MODES[1:]}}


# -- the soak --------------------------------------------------------------------------------------------------


class Soak:
    """One run in one directory."""

    def __init__(self, directory: Path, seconds: float, seed: int, small_disk: bool) -> None:
        self.summary = Summary()
        self._wrong = self.summary.wrong
        self._directory = directory
        self._recordings = directory / "recordings"
        self._seconds = seconds
        self._chance = random.Random(seed)
        self._small_disk = small_disk
        self._book = Book(large=0.0005)
        self._progress = Progress()

    def run(self) -> None:
        """Load and faults, then peace, then the sum."""
        path = f"/b24/{handler_segment(self._recordings)}"
        with held_port() as port, Handler(self._book, self._chance.getrandbits(32)) as handler:
            handler.up()
            address = Address(port.getsockname()[1], path)
            listening = Listening(
                self._directory,
                address.port,
                *("--no-resume", "--forward", f"{handler.url}/a"),
                segment_bytes=SEGMENT_BYTES,
                told=self._progress.told,
            )
            with listening as listen:
                listen.wait_ready()
                self.summary.descriptors_before = descriptors(listen.process.pid)
                ballast = self._recordings / "ballast" if self._small_disk else None
                disk = DiskFaults(self._recordings / "journal", listen.process.pid, self._chance, ballast)
                try:
                    self._torment(listen, handler, disk, address)
                    self._settle(listen, handler, disk)
                    if (code := listen.stop()) != 0:
                        self._wrong.append(f"Ctrl-C ended listen with {code}")
                except (TimeoutError, RuntimeError, subprocess.TimeoutExpired) as failure:
                    self._wrong.append(str(failure))
            if listen.stopped is None or listen.stopped["pending"] > len(disk.removed_ids()[0]):
                self._wrong.append(f"listen ended with {listen.stopped}")
            if listen.errors:
                self._wrong.append(f"listen wrote to standard error: {''.join(listen.errors)[:3000]}")
        self._wrong += handler.wrong + self._book.wrong
        self._add_up(handler.receipts, disk)

    def _torment(self, listen: Listening, handler: Handler, disk: DiskFaults, address: Address) -> None:
        over, brake = threading.Event(), threading.Event()
        gap = SENDERS * _DELIVERIES_A_BURST / DELIVERIES_A_SECOND
        kinds: list[tuple[type[Sender], float]] = [(Sender, gap)] * SENDERS
        kinds += [(HangsUp, 0.05), (HangsUp, 0.5), (Drips, 0.05), (Drips, 0.5), (Junk, 0.1), (Idles, 0.5)]
        senders = [
            kind(address, self._book, over, self._chance.getrandbits(32), pause, brake) for kind, pause in kinds
        ]

        def handler_is_fine() -> None:
            handler.mode = "ok"
            handler.up()

        tracks = (
            Track(self._chance, handler_faults(handler), handler_is_fine),
            Track(self._chance, disk.faults(), disk.off),
        )
        start = time.monotonic()
        memory = Memory(listen.process.pid, start, self._seconds)
        told = 0.0
        for sender in senders:
            sender.start()
        try:
            while (now := time.monotonic()) < start + self._seconds:
                if listen.process.poll() is not None:
                    raise RuntimeError(f"listen ended by itself with {listen.process.returncode}")
                for track in tracks:
                    track.go_on()
                memory.sample()
                (brake.set if self._behind(handler) > MOST_BEHIND else brake.clear)()
                if now - told > min(10.0, self._seconds / 5):
                    told = now
                    self._say(now - start, handler, tracks, memory)
                time.sleep(0.02)
        finally:
            for track in tracks:
                track.end()
                self.summary.faults.update(track.counts)
            over.set()
            self._wrong += end(senders)
        self._judge_memory(memory)

    def _settle(self, listen: Listening, handler: Handler, disk: DiskFaults) -> None:
        """Wait until the handler has had everything and all is quiet."""
        removed, settled = disk.removed_ids()  # what was in removed files need not have been told
        still: tuple[tuple[int, ...], float] = (), 0.0  # what there was last, and since when

        def is_settled() -> bool:
            nonlocal still
            now = self._progress.recorded, self._progress.attempts, len(handler.receipts)
            if now != still[0]:
                still = now, time.monotonic()
            told = self._progress.recorded >= len(self._book.acknowledged) - len(removed)
            quiet = time.monotonic() - still[1] > _QUIET_SECONDS
            return told and quiet and not (self._progress.unsettled - removed - settled)

        # What hung up is recorded without being acknowledged, so this may be less than nothing.
        behind = max(0, len(self._book.acknowledged) - self._progress.recorded) + len(self._progress.unsettled)
        print(f"the load is over; {behind} are not told to be handed over yet", file=sys.stderr, flush=True)
        try:
            wait_until(is_settled, f"{behind} recordings are handed over", 30 + behind / 100)
        except TimeoutError as failure:
            left = sorted(self._progress.unsettled - removed - settled)
            told = f"{self._progress.recorded} told of {len(self._book.acknowledged)} acknowledged"
            raise TimeoutError(f"{failure}; {len(left)} are not: {left[:20]}; {told}") from None
        pid = listen.process.pid
        most = self.summary.descriptors_before + MORE_DESCRIPTORS
        try:
            wait_until(lambda: descriptors(pid) <= most, f"no more than {most} descriptors are open", 40)
        finally:
            self.summary.descriptors_after = descriptors(pid)

    def _judge_memory(self, memory: Memory) -> None:
        first, last = memory.quarters()
        self.summary.memory_first_quarter_mib = round(first / _MIB, 1)
        self.summary.memory_last_quarter_mib = round(last / _MIB, 1)
        self.summary.memory_most_mib = round(max(memory.samples) / _MIB, 1)
        if last - first > GROWTH_BYTES:
            self._wrong.append(f"memory grew from {first / _MIB:.1f} to {last / _MIB:.1f} MiB")

    def _behind(self, handler: Handler) -> int:
        """How many recordings are not handed over yet, about. (What is told comes later than what is done.)"""
        return max(0, len(self._book.acknowledged) - len(handler.receipts))

    def _say(self, seconds: float, handler: Handler, tracks: tuple[Track, ...], memory: Memory) -> None:
        now = ", ".join(track.on or "fine" for track in tracks)
        size = memory.samples[-1] / _MIB if memory.samples else 0
        print(
            f"{seconds:.0f} s: {len(self._book.acknowledged)} acknowledged, {len(self._book.refused)} refused, "
            f"{self._behind(handler)} to be handed over, {size:.0f} MiB; {now}",
            file=sys.stderr,
            flush=True,
        )

    def _add_up(self, receipts: list[Receipt], disk: DiskFaults) -> None:
        """The senders' book, the journal and the handler's list have to agree."""
        removed, _ = disk.removed_ids()
        disk.put_back()
        journal = Journal.open(self._recordings)
        accounts = Accounts(receipts, noted_attempts(self._recordings), disk)
        accounts.may_be_unnoted, accounts.may_be_unforwarded = self._progress.unnoted, removed
        found = self._book.compare(accounts.passing_by(journal.recordings()))
        self._wrong += found.wrong + accounts.wrong + accounts.left_over()
        self._wrong += [f"{path} has unreadable lines: {lines}" for path, lines in journal.unreadable.items()]
        self._wrong += [str(torn) for torn in journal.torn]
        summary = self.summary
        summary.sent, summary.acknowledged = len(self._book.sent), len(self._book.acknowledged)
        summary.refused, summary.missing = len(self._book.refused), len(found.missing)
        summary.recorded, summary.recorded_unacknowledged = found.recordings, found.unacknowledged
        summary.handed_over = len(receipts)
        summary.attempts_not_noted, summary.not_forwarded_because_removed = accounts.unnoted, accounts.removed
        summary.segments = len(list((self._recordings / "journal").glob("session-*.jsonl")))
        if disk.windows and not summary.refused:
            self._wrong.append("no delivery was refused: the disk's faults did nothing")


class Accounts:
    """Holds the attempts in the journal against the calls that the handler had."""

    def __init__(self, receipts: list[Receipt], attempts: Iterable[Noted], disk: DiskFaults) -> None:
        """``disk`` knows when an attempt could not be noted."""
        self.may_be_unnoted: set[str] = set()
        self.may_be_unforwarded: set[str] = set()
        self.wrong: list[str] = []
        self.unnoted = 0
        self.removed = 0
        self._calls: dict[str, Receipt] = {}
        for receipt in receipts:
            if receipt.recording in self._calls:
                self.wrong.append(f"recording {receipt.recording} was handed over twice")
            self._calls[receipt.recording] = receipt
        self._noted: dict[str, list[Noted]] = {}
        for attempt in attempts:
            self._noted.setdefault(attempt.recording, []).append(attempt)
        self._disk = disk

    def passing_by(self, recordings: Iterator[Recording]) -> Iterator[Recording]:
        """The recordings, each looked at with its attempts and the handler's call."""
        for recording in recordings:
            call = self._calls.pop(recording.id, None)
            attempts = self._noted.pop(recording.id, [])
            noted = [attempt for attempt in attempts if attempt.settles]
            others = [attempt.error for attempt in attempts if not attempt.settles]
            if len(noted) > 1:
                self.wrong.append(f"recording {recording.id} has {len(noted)} answers noted")
            elif noted:
                self._compare(recording.id, noted[0].status, call)
            else:
                self._excuse(recording.id, call)
            if len(others) > 1 or any(not (error or "").startswith("cannot connect") for error in others):
                self.wrong.append(f"recording {recording.id} has more noted than one refused try: {others}")
            yield recording

    def left_over(self) -> list[str]:
        """Calls of the handler, and attempts, with what is not recorded."""
        calls = [f"the handler got {recording}, which is not recorded" for recording in self._calls]
        return calls + [
            f"an attempt is noted with {recording}, which is not recorded" for recording in self._noted
        ]

    def _compare(self, recording: str, status: int | None, call: Receipt | None) -> None:
        if call is None:
            # One that waits for a handler which goes down is cut off; the handler never sees it.
            if status is not None:
                self.wrong.append(f"recording {recording} has {status} noted, and the handler never got it")
            return
        expected = {"500": 500, "reset": None, "hang-up": None}.get(call.mode, 200)
        if status != expected:
            self.wrong.append(f"recording {recording} has {status} noted, and the handler answered {expected}")

    def _excuse(self, recording: str, call: Receipt | None) -> None:
        """No answer is noted: because the disk was full, or because the file was removed before it was read."""
        spoiled = call is not None and self._disk.may_have_spoiled(call.answered)
        if recording in self.may_be_unnoted or spoiled:
            self.unnoted += 1
        elif call is None and recording in self.may_be_unforwarded:
            self.removed += 1
        else:
            handed = "was handed over" if call else "was not handed over"
            self.wrong.append(f"recording {recording} {handed}, and no attempt accounts for it")


def descriptors(pid: int) -> int:
    """How many files and sockets a process has open."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def soak(minutes: float, seed: int, small_disk: bool = False) -> Summary:
    """One run in a directory of its own, which is kept when something was wrong."""
    directory = Path(tempfile.mkdtemp(prefix="b24tunnel-faults-"))
    start = time.monotonic()
    recordings = directory / "recordings"
    if small_disk:
        recordings.mkdir()
        size = f"size={128 + int(300 * minutes)}m,mode=700"
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(recordings)], check=True)
    running = Soak(directory, minutes * 60, seed, small_disk)
    running.run()
    summary = running.summary
    summary.seconds = round(time.monotonic() - start, 1)
    if summary.wrong:
        summary.directory = str(directory)
    else:
        if small_disk:
            subprocess.run(["umount", str(recordings)], check=True)
        shutil.rmtree(directory)
    return summary


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--tmpfs", action="store_true", help="record on a small disk that is filled (needs root)")
    chosen = telling.options(parser)
    return telling.tell(soak(chosen.minutes, chosen.seed, chosen.tmpfs), chosen)


if __name__ == "__main__":
    sys.exit(main())

"""What both soaks stand on: senders with a book of what they sent, a failing handler, a `listen` to torment."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from b24tunnel import Recording

DEADLINE = 60.0
LARGE = 1024 * 1024
_NUMBER = re.compile(rb"soak=([0-9]+)&")
_RECORDING_ID = re.compile(rb"\r\nx-b24tunnel-recording: *([0-9-]+)", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_TARGET = re.compile(rb"[A-Z]+ ([^ ]+) ")

# `listen` has no option for the size of a segment; this is the command with another one.
_WITH_SEGMENT_BYTES = """
import sys
from b24tunnel.journal import JournalWriter
JournalWriter.__init__.__kwdefaults__["segment_bytes"] = int(sys.argv.pop(1))
from b24tunnel.__main__ import main
main()
"""


def wait_until(condition: Callable[[], Any], what: str, seconds: float = DEADLINE) -> None:
    """Return once the condition holds; raises ``TimeoutError`` with what was waited for."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.01)


def held_port() -> socket.socket:
    """A port that nobody else gets while the socket is open, though one server may listen on it."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held


# -- what is sent, and the book about it -----------------------------------------------------------------------


class Delivery(NamedTuple):
    """One delivery, told from all others by a number in its body."""

    number: int
    body: bytes


class Book:
    """Every delivery that was begun, and what its sender heard of it."""

    def __init__(self, large: float) -> None:
        """``large``, which may be changed, is the share of bodies with a mebibyte."""
        self.large = large
        self.sent: dict[int, bytes] = {}
        self.acknowledged: set[int] = set()
        self.refused: set[int] = set()
        self.wrong: list[str] = []
        self._lock = threading.Lock()

    def new(self, chance: random.Random) -> Delivery:
        """The next delivery; it is in the book before a byte of it is sent."""
        with self._lock:
            number = len(self.sent) + 1
            self.sent[number] = b""
        body = _body(number, chance, self.large)
        self.sent[number] = digest(body)
        return Delivery(number, body)

    def settle(self, number: int, status: int) -> None:
        """Note the whole answer to a delivery: 200 is an acknowledgement, 503 a refusal, all else is wrong."""
        if status == 200:
            self.acknowledged.add(number)
        elif status == 503:
            self.refused.add(number)
        else:
            self.wrong.append(f"delivery {number} was answered {status}")

    def compare(self, recordings: Iterable[Recording]) -> Comparison:
        """Hold what is in the journal against the book."""
        found = Comparison()
        seen: set[int] = set()
        ids: set[str] = set()
        for recording in recordings:
            found.recordings += 1
            if recording.id in ids:
                found.wrong.append(f"two recordings have the id {recording.id}")
            ids.add(recording.id)
            number = number_of(recording.body)
            if number is None or number not in self.sent:
                found.wrong.append(f"recording {recording.id} is of no delivery that was sent")
                continue
            if self.sent[number] != digest(recording.body):
                found.wrong.append(f"recording {recording.id} is not delivery {number} byte for byte")
            if number in seen:
                found.wrong.append(f"delivery {number} was recorded twice, the second time as {recording.id}")
            seen.add(number)
        found.missing = sorted(self.acknowledged - seen)
        found.unacknowledged = len(seen - self.acknowledged)
        found.wrong += [f"delivery {number} was acknowledged and is missing" for number in found.missing]
        found.wrong += [
            f"delivery {number} was refused (503) and is recorded" for number in sorted(self.refused & seen)
        ]
        return found


@dataclass
class Comparison:
    """A journal held against the book; ``unacknowledged`` are recorded ones whose answer was not read."""

    recordings: int = 0
    unacknowledged: int = 0
    missing: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def digest(body: bytes) -> bytes:
    """Stands for a body in the book."""
    return hashlib.blake2b(body, digest_size=8).digest()


def number_of(body: bytes) -> int | None:
    """The number of the delivery that has this body."""
    match = _NUMBER.search(body[:64])
    return int(match[1]) if match else None


def _body(number: int, chance: random.Random, large: float) -> bytes:
    """A body of its own kind and size: events, long texts, bytes that are no text."""
    start = b"event=ONCRMDEALUPDATE&soak=%d&" % number
    kind = chance.random()
    if kind < large:
        return start + (chance.randbytes(LARGE) if chance.random() < 0.5 else b"data=" + b"x" * LARGE)
    if kind < 0.6:
        fields = b"".join(b"&data%%5BFIELDS%%5D%%5B%d%%5D=%d" % (n, n) for n in range(chance.randrange(5, 40)))
        return start + b"event_handler_id=7&ts=1727018926&auth%5Bapplication_token%5D=51856fefc120afa4b6" + fields
    if kind < 0.8:
        return start + "data[TITLE]=Сделка\r\n".encode() * chance.randrange(15, 150)
    return start + chance.randbytes(chance.randrange(250, 4000))


class Noted(NamedTuple):
    """One attempt in the journal."""

    recording: str
    status: int | None
    error: str | None

    @property
    def settles(self) -> bool:
        """Whether a handler was reached, so that the recording is not handed over again."""
        return not (self.error or "").startswith(("cannot connect", "interrupted"))


def noted_attempts(recordings: Path) -> Iterator[Noted]:
    """Every attempt in the journal, read as the format says and without the package's own reader."""
    for path in sorted((recordings / "journal").glob("session-*.jsonl")):
        with path.open("rb") as file:
            for line in file:
                if b'"kind":"attempt"' in line[:40] and line.endswith(b"\n"):
                    attempt = json.loads(line)
                    yield Noted(attempt["recording"], attempt["status"], attempt["error"])


# -- senders ---------------------------------------------------------------------------------------------------


class Address(NamedTuple):
    """Where deliveries go."""

    port: int
    path: str

    def request(self, delivery: Delivery, chance: random.Random, *, close: bool = False) -> bytes:
        """The bytes of a delivery, one in ten in chunks."""
        head = [f"POST {self.path} HTTP/1.1", "Host: hooks.example.org", "User-Agent: Bitrix24 Webhook Engine"]
        if close:
            head.append("Connection: close")
        body = delivery.body
        if chance.random() < 0.1:
            head.append("Transfer-Encoding: chunked")
            size = max(1, len(body) // chance.randrange(1, 5))
            pieces = [body[start : start + size] for start in range(0, len(body), size)]
            body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        else:
            head.append(f"Content-Length: {len(body)}")
        return "\r\n".join(head).encode() + b"\r\n\r\n" + body


class Connection:
    """One connection of a sender."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def status(self) -> int:
        """The status of the next answer, once all of it has come; raises ``OSError`` when it does not."""
        while (end := self._received.find(b"\r\n\r\n")) < 0:
            self._receive()
        head, self._received = self._received[: end + 4], self._received[end + 4 :]
        length = _LENGTH.search(head)
        left = int(length[1]) if length else 0
        while len(self._received) < left:
            self._receive()
        self._received = self._received[left:]
        return int(head.split(b" ", 2)[1])

    def _receive(self) -> None:
        piece = self.socket.recv(65536)
        if not piece:
            raise ConnectionResetError("the connection ended before the answer")
        self._received += piece


class Sender(threading.Thread):
    """Delivers until ``over``: on connections that are kept and on ones for a single delivery, some in bursts.

    ``gap`` is the mean of seconds between two bursts. While ``brake`` is set nothing is sent.
    """

    def __init__(
        self,
        address: Address,
        book: Book,
        over: threading.Event,
        seed: int,
        gap: float = 0.0,
        brake: threading.Event | None = None,
    ) -> None:
        super().__init__(daemon=True)
        self.address = address
        self.book = book
        self.over = over
        self.chance = random.Random(seed)
        self.failure: BaseException | None = None
        self._gap = gap
        self._brake = brake

    def run(self) -> None:
        """Deliver; a connection that is refused or lost is followed by another one."""
        try:
            while not self.over.is_set():
                try:
                    self.converse()
                except OSError:
                    self.over.wait(0.01)
        except BaseException as failure:
            self.failure = failure

    def converse(self) -> None:
        """One connection and what is sent on it."""
        bursts = self.chance.choice((1, 1, 5, 100))
        with Connection(self.address.port) as connection:
            for left in reversed(range(bursts)):
                if self.over.is_set():
                    return
                self._burst(connection, close=left == 0)
                self.rest()

    def rest(self) -> None:
        """The pause between two bursts."""
        if self._gap:
            self.over.wait(self.chance.expovariate(1 / self._gap))
        while self._brake is not None and self._brake.is_set() and not self.over.is_set():
            self.over.wait(0.05)

    def _burst(self, connection: Connection, close: bool) -> None:
        """Several deliveries at once, most often one, and then their answers."""
        deliveries = [self.book.new(self.chance) for _ in range(self.chance.choice((1, 1, 1, 2, 4)))]
        requests = [
            self.address.request(delivery, self.chance, close=close and delivery is deliveries[-1])
            for delivery in deliveries
        ]
        connection.socket.sendall(b"".join(requests))
        for delivery in deliveries:
            self.book.settle(delivery.number, connection.status())


def end(senders: Sequence[Sender]) -> list[str]:
    """Wait for senders whose ``over`` is set; gives what went wrong within them."""
    wrong = []
    for sender in senders:
        sender.join(DEADLINE)
        if sender.is_alive():
            wrong.append(f"a sender hangs: {type(sender).__name__}")
        if sender.failure is not None:
            wrong.append(f"a sender failed: {sender.failure!r}")
    return wrong


# -- the handler -----------------------------------------------------------------------------------------------


class Receipt(NamedTuple):
    """One call of the handler: by whom (the end of its path), with which recording, what came of it, when."""

    caller: str
    recording: str
    mode: str
    answered: float


class Handler:
    """A handler in a thread of its own that goes up and down and answers as ``mode`` says."""

    MODES = ("ok", "slow", "500", "reset", "hang-up")

    def __init__(self, book: Book, seed: int) -> None:
        """It is down until `up`. What it gets is held against the book."""
        self.mode = "ok"
        self.receipts: list[Receipt] = []
        self.wrong: list[str] = []
        self._book = book
        self._chance = random.Random(seed)
        self._held = held_port()
        self.port = int(self._held.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}/handler"
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.down()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE)
        self._held.close()

    @property
    def is_up(self) -> bool:
        """Whether connections are taken."""
        return self._server is not None

    def up(self) -> None:
        """Take connections."""
        if self._server is None:
            starting = asyncio.start_server(self._serve, "127.0.0.1", self.port, reuse_address=True, backlog=256)
            self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result(DEADLINE)

    def down(self) -> None:
        """Refuse connections."""
        if self._server is not None:
            closed = threading.Event()
            server, self._server = self._server, None
            self._loop.call_soon_threadsafe(lambda: (server.close(), closed.set()))
            closed.wait(DEADLINE)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            body = await reader.readexactly(int(length[1]) if length else 0)
            await self._answer(writer, self._noted(head, body))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # somebody looked whether we listen, or was killed
        except Exception as failure:
            self.wrong.append(f"the handler itself failed: {failure!r}")
        finally:
            writer.close()

    def _noted(self, head: bytes, body: bytes) -> Receipt:
        target, recording = _TARGET.match(head), _RECORDING_ID.search(head)
        receipt = Receipt(
            target[1].decode().rpartition("/")[2] if target else "",
            recording[1].decode() if recording else "",
            self.mode,
            time.monotonic(),
        )
        if self._book.sent.get(number_of(body) or 0) != digest(body):
            self.wrong.append(f"the handler got recording {receipt.recording} with another body than was sent")
        return receipt

    async def _answer(self, writer: asyncio.StreamWriter, receipt: Receipt) -> None:
        mode = receipt.mode
        if mode == "slow":
            await asyncio.sleep(self._chance.uniform(0.02, 0.2))
        self.receipts.append(receipt._replace(answered=time.monotonic()))
        if mode == "reset":
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif mode != "hang-up":
            status = b"500 Internal Server Error" if mode == "500" else b"200 OK"
            writer.write(b"HTTP/1.1 %b\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % status)
            await writer.drain()


# -- the program that is tormented -----------------------------------------------------------------------------


class Listening:
    """A `b24tunnel listen` as a process of its own; what it prints is read as it comes and not kept.

    ``told`` gets each happening in a thread, beside the few that are counted and kept here.
    """

    def __init__(
        self,
        directory: Path,
        port: int,
        *options: str,
        segment_bytes: int | None = None,
        told: Callable[[dict[str, Any]], None] = lambda happening: None,
    ) -> None:
        """Works in ``directory`` and records in `recordings` below it."""
        self.ready: dict[str, Any] | None = None
        self.stopped: dict[str, Any] | None = None
        self.troubles: list[str] = []
        self.errors: list[str] = []
        self._told = told
        program = ["-m", "b24tunnel"] if segment_bytes is None else ["-c", _WITH_SEGMENT_BYTES, str(segment_bytes)]
        fixed = ("--no-bind", "--tunnel", "local", "--output", "json", "--port", str(port))
        recordings = ("--recordings", str(directory / "recordings"))
        self.process = subprocess.Popen(
            [sys.executable, *program, "listen", *fixed, *recordings, *options],
            cwd=directory,
            env={**os.environ, "B24TUNNEL_HOME": str(directory / "home")},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._readers = [
            threading.Thread(target=self._read_happenings, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def wait_ready(self) -> None:
        """Return once deliveries are taken."""
        wait_until(lambda: self.ready or self.process.poll() is not None, "listen is ready")
        if self.ready is None:
            self.join()
            raise RuntimeError(f"listen ended with {self.process.returncode}: {''.join(self.errors)}")

    def kill(self) -> None:
        """``kill -9``."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)
        self.join()

    def stop(self) -> int:
        """Ctrl-C, and the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.join()

    def join(self) -> int:
        """The exit code, once it has ended and all that it said is read."""
        code = self.process.wait(DEADLINE)
        for reader in self._readers:
            reader.join(DEADLINE)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        return code

    def _read_happenings(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                happening = json.loads(line)
            except ValueError:
                if line.endswith(b"\n"):  # else it was killed in the middle of it
                    self.errors.append(f"no JSON on standard output: {line[:200]!r}")
                continue
            kind = happening["type"]
            if kind == "ready":
                self.ready = happening
            elif kind == "stopped":
                self.stopped = happening
            elif kind == "trouble":
                self.troubles.append(happening["message"])
            self._told(happening)

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.errors.append(line.decode(errors="replace"))

"""A receiver with its journal in this process, and senders that say exactly what they are told, in pieces too."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from b24tunnel.journal import Journal, JournalWriter
from b24tunnel.receiver import Receiver
from b24tunnel.recording import Recording

DEADLINE = 20.0
SEGMENT = "an-unguessable-segment"
PATH = f"/b24/{SEGMENT}"


class Answer(NamedTuple):
    """One answer, its head with the empty line that ends it."""

    status: int
    head: bytes
    body: bytes

    def header(self, name: str) -> list[str]:
        """Every value of one header."""
        lines = (line.partition(b":") for line in self.head.split(b"\r\n")[1:])
        return [value.strip().decode("latin-1") for known, _, value in lines if known.lower() == name.encode()]


class Sender:
    """One connection to the receiver."""

    def __init__(self, reader: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.out = out

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.out.transport.abort()

    async def send(self, data: bytes) -> None:
        """Send it, and wait until nothing of it is left in this process but a buffer's worth."""
        async with asyncio.timeout(DEADLINE):
            self.out.write(data)
            with contextlib.suppress(ConnectionError):  # refused early: the answer tells
                await self.out.drain()

    async def drip(self, data: bytes) -> None:
        """Send it byte by byte, and let the receiver see each."""
        for octet in data:
            self.out.write(bytes([octet]))
            await self.out.drain()
            await asyncio.sleep(0)

    async def answer(self, *, head_only: bool = False) -> Answer:
        """The next answer, which has no body when it is one to HEAD."""
        async with asyncio.timeout(DEADLINE):
            head = await self.reader.readuntil(b"\r\n\r\n")
            found = Answer(int(head.split(b" ")[1]), head, b"")
            if head_only or found.status < 200:
                return found
            length = int((found.header("content-length") or ["0"])[0])
            return found._replace(body=await self.reader.readexactly(length))

    async def first_line(self) -> bytes:
        """The first line of the next answer; nothing when the connection is ended without one."""
        async with asyncio.timeout(DEADLINE):
            try:
                return await self.reader.readline()
            except ConnectionError:
                return b""

    async def rest(self, seconds: float = DEADLINE) -> bytes:
        """Everything up to the end of the connection, which has to come within ``seconds``."""
        async with asyncio.timeout(seconds):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""


class Place:
    """A receiver that listens, its journal, and what it complained of."""

    def __init__(self, directory: Path, journal: JournalWriter, **options: Any) -> None:
        self.directory = directory
        self.journal = journal
        self.troubles: list[str] = []
        self.receiver = Receiver(journal, SEGMENT, on_trouble=self.troubles.append, **options)

    def recordings(self) -> list[Recording]:
        """What is on disk, in order."""
        return list(Journal.open(self.directory).recordings())

    def bodies(self) -> list[bytes]:
        """The bodies on disk, in order."""
        return [recording.body for recording in self.recordings()]

    async def connect(self) -> Sender:
        """A new connection."""
        async with asyncio.timeout(DEADLINE):
            return Sender(*await asyncio.open_connection("127.0.0.1", self.receiver.port))

    async def exchange(self, request: bytes, *, head_only: bool = False) -> Answer:
        """One request on a connection of its own, and its answer."""
        async with await self.connect() as sender:
            await sender.send(request)
            return await sender.answer(head_only=head_only)

    async def conversation(self, data: bytes) -> bytes:
        """Everything that the receiver answers to these bytes before it hangs up."""
        async with await self.connect() as sender:
            await sender.send(data)
            return await sender.rest()

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Return once it holds."""
        end = time.monotonic() + DEADLINE
        while True:
            if condition():
                return
            assert time.monotonic() < end, f"not within {DEADLINE:.0f} s: {what}"
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def receiving(directory: Path, **options: Any) -> AsyncIterator[Place]:
    """A receiver with these options, over a journal in ``directory``."""
    journal = JournalWriter(directory)
    place = Place(directory, journal, **options)
    try:
        await place.receiver.start()
        yield place
    finally:
        await place.receiver.stop(0.1)
        await journal.close()


def post(body: bytes, target: str | bytes = PATH, *headers: str | bytes, version: str = "1.1") -> bytes:
    """A delivery with its length."""
    return request(target, f"Content-Length: {len(body)}", *headers, version=version) + body


def request(
    target: str | bytes = PATH, *headers: str | bytes, method: str = "POST", version: str = "1.1"
) -> bytes:
    """The head of a request, up to and with the empty line."""
    lines = [b"%b %b HTTP/%b" % (method.encode(), _octets(target), version.encode()), b"Host: hooks.example.org"]
    return b"\r\n".join([*lines, *map(_octets, headers), b"", b""])


def _octets(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


@contextlib.contextmanager
def many_files(wanted: int) -> Iterator[int]:
    """As many open files as are allowed up to ``wanted``; gives how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))
    try:
        yield max(soft, allowed)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

"""A pass-through in this process under a bounded server, what it recorded, and applications of any behaviour."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from aiohttp import web
from receiving import DEADLINE, Answer, Sender
from waiting import until

from b24tunnel.connections import BoundedServer
from b24tunnel.event import Event
from b24tunnel.pass_through import PassThrough
from b24tunnel.recording import Attempt, Recording, RequestType, decoded_headers

MAX_BODY = 1024 * 1024
PUBLIC = "hooks.example.org"

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Passing:
    """What stands between clients and the application; it records as it is told."""

    def __init__(self, application: str, **options: Any) -> None:
        self.recordings: list[Recording] = []
        self.attempts: list[Attempt] = []
        self.refuse: web.Response | None = None
        self.recording = asyncio.Event()  # nothing is recorded before it is set
        self.recording.set()
        self.troubles: list[str] = []
        self.failures: list[BaseException | None] = []
        self.pass_through = PassThrough(
            application, **{"max_body": MAX_BODY, "recorder": self, "on_trouble": self.troubles.append, **options}
        )

    async def record(self, request: web.BaseRequest, body: bytes, type: RequestType) -> Recording | web.Response:
        await self.recording.wait()
        if self.refuse is not None:
            return self.refuse
        recording = Recording(
            id=f"1-{len(self.recordings) + 1}",
            code=Event.from_request(request.raw_path, body).code,
            received_at=datetime.now(UTC),
            method=request.method,
            target=request.raw_path,
            headers=decoded_headers(request.raw_headers),
            body=body,
            type=type,
            passed_through=True,
        )
        self.recordings.append(recording)
        return recording

    async def attempt(self) -> Attempt:
        """The only one, which is noted once the answer is out."""
        await until(lambda: self.attempts)
        [attempt] = self.attempts
        return attempt

    async def attempted(self, attempt: Attempt) -> None:
        self.attempts.append(attempt)

    def failed(self, failure: BaseException | None) -> web.Response:
        self.failures.append(failure)
        return web.Response(status=400)

    async def start(self) -> None:
        self.protocols = BoundedServer(
            self.pass_through.answer,
            lambda: None,
            self.failed,
            auto_decompress=False,
            access_log=None,
            lingering_time=1.0,
            max_line_size=65536,
            max_field_size=65536,
        )
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(self.protocols.new_connection, "127.0.0.1", 0)
        self.port = int(self.server.sockets[0].getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"

    async def stop(self) -> None:
        self.server.close()
        await self.pass_through.stop(0.1)
        await self.protocols.shutdown(0.1)

    async def connect(self) -> Sender:
        """A new connection of a client."""
        async with asyncio.timeout(DEADLINE):
            return Sender(*await asyncio.open_connection("127.0.0.1", self.port))

    async def conversation(self, data: bytes) -> bytes:
        """Everything that is answered to these bytes before the connection ends."""
        async with await self.connect() as sender:
            await sender.send(data)
            return await sender.rest()

    async def exchange(self, data: bytes, *, head_only: bool = False) -> Answer:
        """One request on a connection of its own, and its answer, whose body has a length."""
        async with await self.connect() as sender:
            await sender.send(data)
            return await sender.answer(head_only=head_only)


@contextlib.asynccontextmanager
async def passing(application: str, **options: Any) -> AsyncIterator[Passing]:
    """A pass-through with these options to the application at a URL."""
    place = Passing(application, **options)
    await place.start()
    try:
        yield place
    finally:
        await place.stop()
    assert place.failures == []
    assert place.pass_through.under_way == 0


class Talking:
    """An application that talks as a function does, which has one connection each time."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self.connections = 0
        self.ended = 0
        self.writers: list[asyncio.StreamWriter] = []

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = int(self.server.sockets[0].getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._talk(reader, writer)
        finally:
            self.ended += 1
            writer.close()


@contextlib.asynccontextmanager
async def talking(talk: Talk) -> AsyncIterator[Talking]:
    """An application at work."""
    application = Talking(talk)
    await application.start()
    try:
        yield application
    finally:
        application.server.close()
        for writer in application.writers:
            if not writer.is_closing():
                writer.transport.abort()


async def head_of(reader: asyncio.StreamReader) -> bytes:
    """The head of the next request."""
    async with asyncio.timeout(DEADLINE):
        return await reader.readuntil(b"\r\n\r\n")


async def gone(reader: asyncio.StreamReader) -> None:
    """Return when the other side has ended the connection."""
    async with asyncio.timeout(DEADLINE):
        with contextlib.suppress(ConnectionError):
            while await reader.read(65536):
                pass


def get(target: str | bytes = "/", *headers: str | bytes, method: str = "GET", version: str = "1.1") -> bytes:
    """The head of a request as a browser sends it through a tunnel."""
    octets = [line if isinstance(line, bytes) else line.encode() for line in (target, *headers)]
    first = b"%b %b HTTP/%b" % (method.encode(), octets[0], version.encode())
    return b"\r\n".join([first, b"Host: " + PUBLIC.encode(), *octets[1:], b"", b""])


def post(body: bytes, target: str = "/", *headers: str | bytes, version: str = "1.1") -> bytes:
    """A form of a browser with its length."""
    kind = "Content-Type: application/x-www-form-urlencoded"
    length = f"Content-Length: {len(body)}"
    return get(target, kind, length, *headers, method="POST", version=version) + body

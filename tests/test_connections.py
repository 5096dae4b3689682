"""The bound on connections: none of them all, and no crowd of idle ones, keeps a sender out."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from programs import DEADLINE
from waiting import until

from b24tunnel import connections
from b24tunnel.connections import BoundedServer

REQUEST = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


class Place:
    """A bounded server of four connections, whose answers wait while the gate is shut."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.under_way = 0
        self.crowded = 0
        self.broken = False
        self.failures: list[BaseException | None] = []
        self.open: list[asyncio.StreamWriter] = []

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if self.broken:
            raise RuntimeError
        self.under_way += 1
        await self.gate.wait()
        self.under_way -= 1
        return web.Response()

    def failed(self, failure: BaseException | None) -> web.Response:
        self.failures.append(failure)
        return web.Response(status=500)

    def crowd(self) -> None:
        self.crowded += 1

    async def connect(self, send: bytes = b"") -> asyncio.StreamReader:
        reader, out = await asyncio.open_connection("127.0.0.1", self.port)
        self.open.append(out)
        out.write(send)
        return reader

    async def start(self) -> None:
        self.protocols = BoundedServer(self.answer, self.crowd, self.failed, access_log=None)
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(self.protocols.new_connection, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self.gate.set()
        self.server.close()
        await self.protocols.shutdown(0.1)
        for out in self.open:
            out.close()


@pytest.fixture
async def place(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    monkeypatch.setattr(connections, "_most_connections", lambda: 4)
    place = Place()
    await place.start()
    yield place
    await place.stop()


async def status(reader: asyncio.StreamReader) -> int:
    async with asyncio.timeout(DEADLINE):
        return int((await reader.readuntil(b"\r\n\r\n")).split()[1])


async def ended(reader: asyncio.StreamReader) -> None:
    """Return when the server has closed or reset the connection."""
    async with asyncio.timeout(DEADLINE):
        with contextlib.suppress(ConnectionError):
            assert await reader.read(1) == b""


async def test_the_one_that_is_idle_for_longest_makes_room(place: Place) -> None:
    idle = [await place.connect(REQUEST) for _ in range(4)]
    assert [await status(reader) for reader in idle] == [200] * 4
    assert await status(await place.connect(REQUEST)) == 200
    await ended(idle[0])
    assert not any(reader.at_eof() for reader in idle[1:])
    assert place.crowded == 0


async def test_a_crowd_that_says_nothing_or_half_a_head_keeps_nobody_out(place: Place) -> None:
    crowd = [await place.connect(REQUEST[: number % 20]) for number in range(40)]
    for _ in range(10):
        assert await status(await place.connect(REQUEST)) == 200
    for reader in crowd[:30]:
        await ended(reader)
    assert place.crowded == 0


async def test_those_with_a_request_under_way_are_left_alone(place: Place) -> None:
    place.gate.clear()
    busy = [await place.connect(REQUEST) for _ in range(4)]
    await until(lambda: place.under_way == 4)
    await ended(await place.connect(REQUEST))
    assert place.crowded == 1
    place.gate.set()
    assert [await status(reader) for reader in busy] == [200] * 4
    assert await status(await place.connect(REQUEST)) == 200, "they are idle now"


async def test_those_that_have_ended_do_not_count(place: Place) -> None:
    for _ in range(20):
        assert await status(await place.connect(REQUEST)) == 200
        place.open.pop().transport.abort()
    place.gate.clear()
    for _ in range(3):
        await place.connect(REQUEST)
    await until(lambda: place.under_way == 3)
    place.gate.set()
    assert await status(await place.connect(REQUEST)) == 200
    assert place.crowded == 0


async def test_one_without_a_request_is_ended_in_time(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.05)
    silent, half = await place.connect(), await place.connect(REQUEST[:9])
    await ended(silent)
    await ended(half)


async def test_one_that_has_had_an_answer_may_stay(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.05)
    kept = await place.connect(REQUEST)
    assert await status(kept) == 200
    await ended(await place.connect())  # so long have we waited
    place.open[0].write(REQUEST)
    assert await status(kept) == 200


async def test_what_goes_wrong_is_answered_by_its_owner_and_ends_the_connection(place: Place) -> None:
    place.broken = True
    for broken in (b"nonsense\r\n\r\n", REQUEST):
        reader = await place.connect(broken)
        assert await status(reader) == 500
        await ended(reader)
    assert [type(failure).__name__ for failure in place.failures] == ["BadHttpMethod", "RuntimeError"]


def test_the_bound_is_half_of_the_files_that_may_be_open() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(300, before[0]), before[1]))
        most = connections._most_connections()
        assert 2 * most <= resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        assert most >= 16
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)

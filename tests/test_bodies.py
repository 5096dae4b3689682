"""Bodies under way together: bounded, given back, and never in the way of an event's small one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from programs import DEADLINE
from waiting import until

from b24tunnel import bodies
from b24tunnel.bodies import Bodies, BodyRefused

LARGE = 200_000


class Place:
    """A server that reads each body and keeps hold of it while the gate is shut."""

    def __init__(self) -> None:
        self.bodies = Bodies(max_body=LARGE)
        self.gate = asyncio.Event()
        self.held = 0

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if (body := self.bodies.at_once(request)) is not None:
            return web.Response(text=str(len(body)))
        try:
            async with self.bodies.reading(request) as body:
                self.held += 1
                await self.gate.wait()
                return web.Response(text=str(len(body)))
        except BodyRefused as refusal:
            return web.Response(status=refusal.status, text=refusal.text)

    async def post(self, size: int) -> int:
        reader, out = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            out.write(f"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {size}\r\n\r\n".encode() + b"x" * size)
            async with asyncio.timeout(DEADLINE):
                return int((await reader.readuntil(b"\r\n\r\n")).split()[1])
        finally:
            out.close()


@pytest.fixture
async def place(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    monkeypatch.setattr(bodies, "UNDER_WAY_BYTES", 0)  # so that twice the largest body counts
    place = Place()
    protocols = web.Server(place.answer, access_log=None)
    server = await asyncio.get_running_loop().create_server(protocols, "127.0.0.1", 0)
    place.port = server.sockets[0].getsockname()[1]
    yield place
    place.gate.set()
    server.close()
    await protocols.shutdown(0.1)


async def test_what_is_too_much_together_is_refused_and_the_room_comes_back(place: Place) -> None:
    first = [asyncio.create_task(place.post(LARGE)) for _ in range(2)]
    await until(lambda: place.held == 2)
    assert await place.post(LARGE) == 503
    assert await place.post(1000) == 200, "an event is not kept out"
    place.gate.set()
    assert await asyncio.gather(*first) == [200, 200]
    assert await asyncio.gather(place.post(LARGE), place.post(LARGE)) == [200, 200]


async def test_what_was_refused_or_broke_off_gives_its_room_back(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.gate.set()
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.05)
    for _ in range(5):
        _, out = await asyncio.open_connection("127.0.0.1", place.port)
        head = f"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {LARGE}\r\n\r\n".encode()
        out.write(head + b"x" * (LARGE - 1))
        await out.drain()
        out.transport.abort()
        assert await place.post(LARGE + 1) == 413
    monkeypatch.setattr(bodies, "BODY_SECONDS", DEADLINE)
    assert await asyncio.gather(place.post(LARGE), place.post(LARGE)) == [200, 200]

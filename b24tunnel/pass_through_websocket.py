"""A WebSocket carried through as the bytes that it is: frames, subprotocols, extensions and all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, cast

from aiohttp import web

# Bytes that wait in each direction for a side that reads slowly; then the other side is not read either.
_BUFFER = 64 * 1024
# A side that is told the end has so long to take what is still on its way.
_CLOSING_SECONDS = 2.0


async def relay(
    request: web.BaseRequest, application: asyncio.StreamReader, to_application: asyncio.StreamWriter, idle: float
) -> None:
    """Carry bytes both ways until either side ends its connection, or both were silent for ``idle`` seconds.

    The answer with status 101 is on its way to the client already. What one side has sent before its end still
    goes to the other; the caller closes the client's connection.
    """
    transport = request.transport
    if transport is None:
        return
    client = asyncio.StreamReader(limit=_BUFFER)
    client.set_transport(transport)
    # What has come behind the request's head is handed over here.
    request.protocol.set_parser(cast("Any", _FromClient(client)))

    moved = 0

    async def pump(source: asyncio.StreamReader, put: Callable[[bytes], Awaitable[None]]) -> None:
        nonlocal moved
        with contextlib.suppress(ConnectionError):  # either side's end is an end
            while piece := await source.read(_BUFFER):
                await put(piece)
                moved += 1

    async def put_application(piece: bytes) -> None:
        to_application.write(piece)
        await to_application.drain()

    async def put_client(piece: bytes) -> None:
        await request.writer.write(piece)
        await request.writer.drain()

    ways = (
        asyncio.create_task(pump(client, put_application)),
        asyncio.create_task(pump(application, put_client)),
    )
    try:
        before = -1
        while before != moved:
            before = moved
            done, _ = await asyncio.wait(ways, timeout=idle, return_when=asyncio.FIRST_COMPLETED)
            if done:
                break
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
    to_application.close()
    with contextlib.suppress(OSError):  # a time-out is one too
        async with asyncio.timeout(_CLOSING_SECONDS):
            await to_application.wait_closed()
    # Its end is not waited for any longer than that: it may be one that does not read.
    asyncio.get_running_loop().call_later(_CLOSING_SECONDS, transport.abort)


class _FromClient:
    """Takes what the client sends from aiohttp, which hands it to a parser of frames."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self._reader.feed_data(data)
        return False, b""

    def feed_eof(self) -> None:
        self._reader.feed_eof()

"""A public port of this machine that leads to another: what stand-ins for tunnel services forward with."""

from __future__ import annotations

import asyncio
import contextlib


async def relay_to(port: int) -> asyncio.Server:
    """Forwards connections, byte for byte, to ``port`` of 127.0.0.1; the server's own port is a free one."""

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            there, back = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(_pump(reader, back), _pump(there, writer))
            back.close()
        writer.close()

    return await asyncio.start_server(forward, "127.0.0.1", 0)


def port_of(server: asyncio.Server) -> int:
    """The port that a server listens at."""
    return int(server.sockets[0].getsockname()[1])


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
        writer.write_eof()

"""A tunnel provider whose public server is one of this machine, and which fails on demand."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from altering_way import AlteringWay, Deed, altering_way, unchanged

from b24tunnel.tunnel.provider import Lost, Say, TunnelFailed


class WayTunnel:
    """Each opening gives another address of this machine; what goes wrong is said beforehand."""

    def __init__(self, name: str = "way", deed: Deed = unchanged) -> None:
        self.name = name
        self.probe_seconds = 0.02
        self.failures: list[TunnelFailed] = []  # one for each opening that is to fail
        self.hangs_once_open = False
        self.deed = deed
        self.opened: list[str] = []
        self.way: AlteringWay | None = None
        self.port = 0
        self._stack = AsyncExitStack()
        self._losing: asyncio.Queue[Lost] = asyncio.Queue()

    async def open(self, port: int, say: Say) -> str:
        assert self.way is None, "opened twice"
        self.port = port
        if self.failures:
            raise self.failures.pop(0)
        self.way = await self._stack.enter_async_context(altering_way(port, self.deed))
        self.opened.append(self.way.url)
        if self.hangs_once_open:
            await asyncio.Event().wait()
        return self.way.url

    async def lost(self) -> Lost:
        return await self._losing.get()

    async def close(self) -> None:
        await self._stack.aclose()
        self.way = None

    def lose(self, reason: str = "The connection is gone.", url: str | None = None) -> None:
        """The provider notices that its address is gone, or has become another one."""
        self._losing.put_nowait(Lost(reason, url))

    async def announce_another(self) -> str:
        """Another address beside the one that it gave, announced by the provider."""
        way = await self._stack.enter_async_context(altering_way(self.port, self.deed))
        self.lose("It has another address now.", way.url)
        return way.url

"""No tunnel: the address of this machine itself, for a sandbox that runs on it."""

from __future__ import annotations

from b24tunnel.tunnel.provider import Lost, Say, never


class LocalTunnel:
    """The loopback address. A real portal cannot reach it, though `event.bind` accepts it."""

    name = "local"
    probe_seconds = 30.0

    async def open(self, port: int, say: Say) -> str:
        """The loopback address with ``port``. It has dots, as the host check of `event.bind` demands."""
        return f"http://127.0.0.1:{port}"

    async def lost(self) -> Lost:
        """Never."""
        return await never()

    async def close(self) -> None:
        """There is nothing to give back."""

"""No tunnel: the address of this machine itself, for a sandbox that runs on it."""

from __future__ import annotations


class LocalTunnel:
    """The loopback address. A real portal cannot reach it, though `event.bind` accepts it."""

    name = "local"

    async def open(self, port: int) -> str:
        """The loopback address with ``port``. It has dots, as the host check of `event.bind` demands."""
        return f"http://127.0.0.1:{port}"

    async def alive(self) -> bool:
        """Always."""
        return True

    async def close(self) -> None:
        """There is nothing to give back."""

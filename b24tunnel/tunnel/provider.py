"""What a tunnel provider is, and what it says when there is no address to be had."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from b24tunnel.errors import OutsideFailure

Say = Callable[[str], None]


class TunnelFailed(OutsideFailure):
    """A provider gives no address: one sentence with what it said and what to do.

    ``permanent``: trying again changes nothing before the user has (a wrong token, a blocked country).
    ``pause``: seconds before it makes sense to try again (a rate limit).
    """

    def __init__(self, message: str, *, permanent: bool = False, pause: float = 0.0) -> None:
        super().__init__(message)
        self.permanent = permanent
        self.pause = pause


@dataclass(frozen=True)
class Lost:
    """What `Tunnel.open` gave holds no longer: why, in one sentence, and the new ``url`` if there is one."""

    reason: str
    url: str | None = None


class Tunnel(Protocol):
    """A way from a public address to a port of this machine.

    ``name`` is what ``--tunnel`` calls it. ``probe_seconds``: how far apart probes through it are at least,
    with regard to the provider's limits.
    """

    name: str
    probe_seconds: float

    async def open(self, port: int, say: Say) -> str:
        """Lead a public address to ``port`` of 127.0.0.1 and return it, without a slash at its end.

        ``say`` gets what the user has to know, now and later, one sentence each. May be called again after
        `close`. Ends within a bounded time in any case; raises `TunnelFailed` when there is no address to be
        had, and has nothing left running then. A cancelled call is followed by `close`.
        """
        ...

    async def lost(self) -> Lost:
        """Wait until the provider itself knows that the address holds no longer; only a probe knows that it works.

        May be awaited again after it gave a new ``url``, which takes the place of the first. Cancelling it
        changes nothing.
        """
        ...

    async def close(self) -> None:
        """Give the address back and end whatever runs for it, within 3 seconds. Closing twice is fine."""
        ...


async def never() -> Lost:
    """For `Tunnel.lost` where nobody here would know; ends only when it is cancelled."""
    future: asyncio.Future[Lost] = asyncio.get_running_loop().create_future()
    return await future

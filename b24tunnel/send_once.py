"""Requests that are sent once.

aiohttp repeats a GET, PUT or DELETE by itself when the connection is lost before the answer. Here that would
deliver an event twice, or spend a refresh token twice.
"""

from __future__ import annotations

import aiohttp


class ConnectionLost(aiohttp.ClientConnectionError):
    """The connection was cut after the request had begun. ``reset``: by a reset, not by an orderly end."""

    def __init__(self, message: str, reset: bool) -> None:
        super().__init__(message)
        self.reset = reset


async def send_once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """A client middleware: a lost connection is a `ConnectionLost`, which aiohttp does not answer by repeating."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as lost:
        raise ConnectionLost(str(lost), reset=isinstance(lost, aiohttp.ClientOSError)) from lost

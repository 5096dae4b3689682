"""An address that the user already has: a reverse proxy, a tunnel started by hand, a port forwarding."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from b24tunnel.errors import WrongUsage
from b24tunnel.tunnel.provider import Lost, Say, never

# No user, query, fragment or white space: the handler's path is put behind it.
_ADDRESS = re.compile(r"(?i:https?)://[^\s/?#@\\]+(/[^\s?#\\]*)?")


class UrlTunnel:
    """Takes the address as given; that it leads to the receiver's port is the user's part."""

    name = "url"
    probe_seconds = 30.0

    def __init__(self, url: str) -> None:
        """``url`` is absolute, http or https, without query; raises `WrongUsage` for anything else."""
        try:
            valid = _ADDRESS.fullmatch(url) is not None and urlsplit(url).hostname and urlsplit(url).port != 0
        except ValueError:
            valid = False
        if not valid:
            raise WrongUsage(
                f"{url!r} is no public address: give one like https://hooks.example.org, without query or user."
            )
        self._url = url.rstrip("/")

    async def open(self, port: int, say: Say) -> str:
        """The address as the user gave it."""
        return self._url

    async def lost(self) -> Lost:
        """Never: nobody here knows, only a probe does."""
        return await never()

    async def close(self) -> None:
        """The address stays the user's."""

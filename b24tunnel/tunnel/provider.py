"""What a tunnel provider is, and which one a name means."""

from __future__ import annotations

from typing import Protocol

from b24tunnel.errors import WrongUsage
from b24tunnel.tunnel.local import LocalTunnel
from b24tunnel.tunnel.url import UrlTunnel

PROVIDERS = ("local", "url")


class Tunnel(Protocol):
    """A way from a public address to a port of this machine."""

    name: str

    async def open(self, port: int) -> str:
        """Lead a public address to ``port`` and return it, without a slash at its end.

        Raises `OutsideFailure` when there is none to be had.
        """
        ...

    async def alive(self) -> bool:
        """Whether the provider itself still holds the address; only a probe shows that it works."""
        ...

    async def close(self) -> None:
        """Give the address back. Closing twice is fine."""
        ...


def choose(name: str | None, public_url: str | None) -> Tunnel:
    """The provider with this name; an address given alone means ``url``. Raises `WrongUsage`."""
    if name is None:
        name = "url" if public_url else "local"
    if name == "url":
        if public_url is None:
            raise WrongUsage("The tunnel 'url' needs the address that you have: --public-url https://….")
        return UrlTunnel(public_url)
    if public_url is not None:
        raise WrongUsage(f"--public-url belongs to the tunnel 'url', not to {name!r}: leave one of them out.")
    if name == "local":
        return LocalTunnel()
    raise WrongUsage(f"There is no tunnel provider {name!r}: choose one of {', '.join(PROVIDERS)}.")

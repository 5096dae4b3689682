"""The address that a delivery was sent from, where the tunnel in front of the receiver is known to tell it.

Only what the tunnel itself has put there counts: everything else in a request its sender may have made up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache

from b24tunnel.addresses import parse_address


def tells_sender(provider: str) -> bool:
    """Whether deliveries that come through this provider's tunnel have their sender's address with them."""
    return provider in _TELLING


def telling_providers() -> tuple[str, ...]:
    """Every provider that `tells_sender`."""
    return tuple(_TELLING)


def sender_address(headers: Iterable[tuple[str, str]], peer: str | None, provider: str) -> str | None:
    """Where a request comes from, an IPv4 or IPv6 address; None where that cannot be told.

    ``headers`` are as they came, ``peer`` is the address at the other end of the socket, and ``provider`` the
    name of the tunnel that leads there.
    """
    tell = _TELLING.get(provider)
    found = tell(headers, peer) if tell is not None else None
    return None if found is None else _as_address(found)


@lru_cache(maxsize=1000)  # deliveries come from a few servers, and each waits for this
def _as_address(text: str) -> str | None:
    address = parse_address(text)
    return None if address is None else str(address)


def _peer(headers: Iterable[tuple[str, str]], peer: str | None) -> str | None:
    return peer


def _last_forwarded(headers: Iterable[tuple[str, str]], peer: str | None) -> str | None:
    """What stands before the last entry is what the sender has sent."""
    value = _only(headers, "x-forwarded-for")
    return value.rpartition(",")[2] if value is not None else None


def _connecting_ip(headers: Iterable[tuple[str, str]], peer: str | None) -> str | None:
    return _only(headers, "cf-connecting-ip")


def _only(headers: Iterable[tuple[str, str]], name: str) -> str | None:
    """The value of a header that came once. Of several nobody knows which the tunnel has put there."""
    values = [value for known, value in headers if known.lower() == name]
    return values[0] if len(values) == 1 else None


_TELLING: dict[str, Callable[[Iterable[tuple[str, str]], str | None], str | None]] = {
    # No tunnel: the sender itself is at the other end of the socket.
    "local": _peer,
    # It adds the address to X-Forwarded-For, at the end of what came ("HTTP/S endpoints", ngrok's documentation).
    "ngrok": _last_forwarded,
    # Cloudflare's edge sets it on the way to the origin ("Cloudflare HTTP headers").
    "cloudflared": _connecting_ip,
    # tailscaled removes what came and sets it to the connection's source (ipn/ipnlocal/serve.go).
    "tailscale": _last_forwarded,
}

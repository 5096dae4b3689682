"""Headers that speak of one connection and not of the message (RFC 9110 §7.6.1 and RFC 9112). Lower case."""

from __future__ import annotations

from typing import Final

HOP_BY_HOP: Final = frozenset(
    {
        *("connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization"),
        *("te", "trailer", "transfer-encoding", "upgrade"),
    }
)
"""What no proxy passes on."""

SENDERS_OWN: Final = HOP_BY_HOP | {"expect", "host", "content-length", "x-b24tunnel-recording"}
"""What is made anew whenever a recording is sent; Expect is settled with its first sender."""

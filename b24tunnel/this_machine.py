"""Which addresses are those of this machine itself, where neither a proxy nor a tunnel has a part."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit


def leads_to_this_machine(url: str) -> bool:
    """Whether the host of ``url`` is ``localhost`` or a loopback address, in whatever spelling."""
    try:
        host = (urlsplit(url).hostname or "").removesuffix(".")
    except ValueError:
        return False
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        try:
            address = ipaddress.ip_address(socket.inet_aton(host))  # 127.1
        except (OSError, UnicodeError):
            return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return mapped.is_loopback or mapped.is_unspecified

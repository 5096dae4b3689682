"""Which addresses are those of this machine itself, where neither a proxy nor a tunnel has a part."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def leads_to_this_machine(url: str) -> bool:
    """Whether the host of ``url`` is ``localhost`` or a loopback address."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

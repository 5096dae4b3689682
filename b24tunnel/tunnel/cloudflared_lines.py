"""What cloudflared prints (text or JSON lines on standard error), read line by line.

The wording is that of cloudflared's source: the table is printed before there is any connection to Cloudflare.
"""

from __future__ import annotations

import json
import re

from b24tunnel.tunnel.provider import TunnelFailed

# A whole host name between the table's bars: other addresses are printed, too (api.trycloudflare.com, terms).
_IN_TABLE = re.compile(r"\|\s*(https://(?!api\.)[a-z0-9-]+\.trycloudflare\.com)/?\s*\|")
_QUICK_HOST = re.compile(r"(?!api\.)[a-z0-9-]+\.trycloudflare\.com")
_METRICS = re.compile(r"Starting metrics server on (127\.0\.0\.1:\d+)/metrics")
_EDGE_TROUBLE = re.compile(
    r"[Ff]ailed to dial (?:a )?(?:quic|to edge)|TLS handshake with edge error"
    r"|Unable to establish connection with Cloudflare edge|port 7844"
)
_NO_QUICK = re.compile(r"(?i)error unmarshaling QuickTunnel|failed to (?:request|unmarshal|parse) quick Tunnel")
_RATE_LIMIT_SECONDS = 300.0
_FAULT_SECONDS = 60.0

EDGE = (
    "cloudflared does not get through to Cloudflare: it needs outgoing UDP or TCP to port 7844, which firewalls "
    'and networks in Russia block; try protocol = "http2", or another tunnel.'
)


class CloudflaredReader:
    """Takes cloudflared's lines, and knows from them what has been reached and what has failed.

    ``url``: the quick tunnel's address, from the table. ``metrics``: HOST:PORT of the local status server.
    ``registered``: there is a connection to Cloudflare. ``failure``: it cannot come to anything any more.
    ``edge_trouble``: attempts to connect fail, and go on.
    """

    def __init__(self) -> None:
        self.url: str | None = None
        self.metrics: str | None = None
        self.registered = False
        self.edge_trouble = False
        self.failure: TunnelFailed | None = None

    def feed(self, line: str) -> None:
        """Read one clean line."""
        text = _text_of(line)
        if self.url is None and (table := _IN_TABLE.search(text)):
            self.url = table[1]
        elif metrics := _METRICS.search(text):
            self.metrics = metrics[1]
        elif "Registered tunnel connection" in text:
            self.registered = True
        elif _EDGE_TROUBLE.search(text):
            self.edge_trouble = True
        elif self.failure is None:
            self.failure = _failure_in(text)


def quick_host(name: object) -> str | None:
    """The address for a host name that cloudflared's status server gave, if it is a quick tunnel's."""
    return f"https://{name}" if isinstance(name, str) and _QUICK_HOST.fullmatch(name) else None


def _text_of(line: str) -> str:
    if not line.startswith("{"):
        return line
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return line
    message = fields.pop("message", "")
    return " ".join([str(message), *(f'{name}="{value}"' for name, value in fields.items())])


def _failure_in(text: str) -> TunnelFailed | None:
    if "Provided Tunnel token is not valid" in text:
        return TunnelFailed(
            "Cloudflare's tunnel token is not valid: copy it again, whole, from the tunnel's page in the "
            "dashboard.",
            permanent=True,
        )
    if "use `cloudflared tunnel run`" in text:
        return TunnelFailed(
            "cloudflared took a tunnel out of a configuration of its own instead of a quick one: remove the "
            "TUNNEL_ variables from the environment.",
            permanent=True,
        )
    if not _NO_QUICK.search(text):
        return None
    if "error code: 1015" in text or "429 Too Many Requests" in text:
        return TunnelFailed(
            "Cloudflare's rate limit for new quick tunnels from your network address is reached: wait some "
            "minutes, or take another tunnel.",
            pause=_RATE_LIMIT_SECONDS,
        )
    if "failed to request" in text.lower():
        return TunnelFailed(
            "cloudflared cannot reach api.trycloudflare.com to ask for a tunnel: check the network, DNS and "
            "proxy, or take another tunnel."
        )
    return TunnelFailed(
        "Cloudflare gave no quick tunnel, for a fault on its side: try again in a minute, or take another tunnel.",
        pause=_FAULT_SECONDS,
    )

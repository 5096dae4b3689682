"""What tunnel services over SSH print, and where in it the address is.

The lines were collected from the services' own sources and documentation and from real sessions. An address is
taken only from the line that assigns it, as other lines hold addresses of the service's own pages.
"""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import urlsplit

from b24tunnel.tunnel.provider import TunnelFailed

_LABELS = r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+"
_LOCALHOST_RUN_HOST = rf"{_LABELS}(?:lhr\.(?:life|pro|rocks)|lhrtunnel\.link|localhost\.run)"
_LOCALHOST_RUN_TEXT = re.compile(rf"(?<![\w./:@-])({_LOCALHOST_RUN_HOST}) tunneled with tls termination")
_LOCALHOST_RUN_PAGES = {"admin.localhost.run", "ssh.localhost.run", "www.localhost.run"}
_SRV_US = re.compile(r"[0-9]+: (https://[a-z2-7]+\.srv\.us)/(?:,.*)?")
_SERVEO = re.compile(rf"Forwarding HTTP traffic from (https://{_LABELS}[a-z]+)/?")
_SERVEO_PAGES = {"console.serveo.net", "www.serveo.net"}
_PINGGY = re.compile(
    rf"(?:- )?(https://{_LABELS}(?:run\.pinggy-free\.link|free\.pinggy\.net|a\.(?:free\.)?pinggy\.link))/?"
)


def srv_us_address(line: str) -> str | None:
    """The address in "1: https://….srv.us/"; a second one behind it belongs to a GitHub or GitLab login."""
    match = _SRV_US.fullmatch(line)
    return match[1] if match else None


def localhost_run_address(line: str) -> str | None:
    """The address in a successful "tcpip-forward" event, or in the line that says the same as text."""
    event = _event(line)
    if event is None:
        match = _LOCALHOST_RUN_TEXT.search(line)
        host = match[1] if match else ""
    elif event.get("event") == "tcpip-forward" and event.get("status") == "success":
        host = re.sub(r"\Ahttps?://|/\Z", "", str(event.get("address")).lower())
        host = host if re.fullmatch(_LOCALHOST_RUN_HOST, host) else ""
    else:
        host = ""
    return f"https://{host}" if host and host not in _LOCALHOST_RUN_PAGES else None


def serveo_address(line: str) -> str | None:
    """The address in "Forwarding HTTP traffic from https://…"; with an account it may be of any domain."""
    match = _SERVEO.fullmatch(line)
    try:
        return match[1] if match and urlsplit(match[1]).hostname not in _SERVEO_PAGES else None
    except ValueError:  # brackets around what is no address of IPv6
        return None


def pinggy_address(line: str) -> str | None:
    """The address in a line of its own; several lines name the same tunnel."""
    match = _PINGGY.fullmatch(line)
    return match[1] if match else None


def localhost_run_failure(line: str) -> TunnelFailed | None:
    """A "tcpip-forward" event that did not succeed."""
    event = _event(line)
    if event is None or event.get("event") != "tcpip-forward" or event.get("status") in (None, "success"):
        return None
    return TunnelFailed(f"localhost.run gives no address: {event.get('message') or 'it does not say why'}.")


def pinggy_failure(line: str) -> TunnelFailed | None:
    """The token is in use already."""
    if "Login is not allowed" not in line:
        return None
    return TunnelFailed(
        f"pinggy says: {line.strip().rstrip('.')}; end the other tunnel, or put '+force' behind the token to take"
        " its place."
    )


def pinggy_remark(line: str, token_sent: bool) -> str | None:
    """That a token was not recognised, which does not fail, and that a tunnel without one ends."""
    if token_sent and "You are not authenticated" in line:
        return "pinggy does not know the token and gives a tunnel without an account: check the token."
    if "will expire in 60 minutes" in line:
        return "pinggy ends a tunnel without an account after 60 minutes; the next one has another address."
    return None


def never_fails(line: str) -> TunnelFailed | None:
    """For services whose failures show otherwise."""
    return None


def no_remark(line: str, token_sent: bool) -> str | None:
    """For services that say nothing worth passing on."""
    return None


def _event(line: str) -> dict[str, Any] | None:
    """The JSON object that a line is, if it is one."""
    if not line.startswith("{"):
        return None
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None

"""Addresses of portals and of their authorisation servers, and which of these a client_secret may be sent to."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from b24tunnel.errors import WrongUsage
from b24tunnel.this_machine import leads_to_this_machine

if TYPE_CHECKING:
    from b24tunnel.portal.state import Portal

WORLD_SERVER = "https://oauth.bitrix.info/rest/"
REGION_SERVER = "https://oauth.bitrix24.tech/rest/"
# The regions whose portals have the second one: AuthorizationServerUrlResolver of the portal's own "rest" module.
_REGIONS = frozenset({"ru", "by", "kz", "uz", "am", "az", "ge", "kg"})
_USUAL_PORTS = {"http": 80, "https": 443}
_LONGEST = 255


def portal_endpoint(given: str) -> str:
    """The ``client_endpoint`` of a portal that somebody names: ``example.bitrix24.com``, ``https://box.example/``.

    Raises `WrongUsage` for what is no portal's address, and for http where another machine than this one would
    be called. What was given is not repeated where it may hold a secret.
    """
    parts = _split(given, "the portal's address")
    if parts.path.rstrip("/") not in ("", "/rest") or parts.query or parts.fragment:
        raise WrongUsage(
            "the portal's address has a path or a query; give its host alone, such as example.bitrix24.com, "
            "and no webhook's address, which ends in a secret"
        )
    host = parts.hostname or ""
    if "." not in host[1:] and not leads_to_this_machine(parts.geturl()):
        raise WrongUsage(
            f"the portal's host {host[:_LONGEST]!r} has no dot; give the whole one, such as example.bitrix24.com"
        )
    return _origin(parts) + "/rest/"


def server_endpoint(given: str) -> str:
    """The ``server_endpoint`` of an authorisation server that somebody names; raises `WrongUsage`."""
    parts = _split(given, "the authorisation server's address")
    if parts.path.rstrip("/") not in ("", "/rest") or parts.query or parts.fragment:
        raise WrongUsage(
            "the authorisation server's address has a path or a query; give it as https://oauth.example/rest/"
        )
    return _origin(parts) + "/rest/"


def usual_server(client_endpoint: str) -> str:
    """The ``server_endpoint`` of a portal of which nothing else is known, by the region in its host.

    A sandbox on this machine is its own. A box is not: its authorisation lies in the cloud too.
    """
    if leads_to_this_machine(client_endpoint):
        return _origin(urlsplit(client_endpoint)) + "/rest/"
    labels = (urlsplit(client_endpoint).hostname or "").split(".")
    region = labels[-1] in _REGIONS and len(labels) > 2 and labels[-2] == "bitrix24"
    return REGION_SERVER if region else WORLD_SERVER


def trusted_server(portal: Portal, named: str) -> str | None:
    """The ``server_endpoint`` that ``named`` (a host, or an address) means, or None if it is not to be believed.

    Believed are Bitrix24's own two, the one that is stored for ``portal``, and for a portal on this machine that
    portal itself. Whoever forges a return or a delivery can name any other, to get at the ``client_secret``.
    """
    known = {_place(urlsplit(endpoint)): endpoint for endpoint in (WORLD_SERVER, REGION_SERVER)}
    if portal.on_this_machine:
        own = urlsplit(portal.client_endpoint)
        known[_place(own)] = _origin(own) + "/rest/"
    try:
        if portal.server_endpoint:
            stored = urlsplit(portal.server_endpoint)
            known[_place(stored)] = _origin(stored) + "/rest/"
        if "://" in named:
            parts = urlsplit(named)
            found = known.get(_place(parts))
            return found if found is not None and urlsplit(found).scheme == parts.scheme else None
        # A host alone says nothing of the scheme, which is that of the known one then.
        return next(
            (
                url
                for url in known.values()
                if _place(urlsplit(f"{urlsplit(url).scheme}://{named}")) == _place(urlsplit(url))
            ),
            None,
        )
    except ValueError:
        return None


def is_portals(portal: Portal, named: str) -> bool:
    """Whether ``named`` (a host, or an address) is the host of ``portal``, as the portal itself writes it."""
    own = urlsplit(portal.client_endpoint)
    try:
        parts = urlsplit(named if "://" in named else f"{own.scheme}://{named}")
        if leads_to_this_machine(parts.geturl()) and portal.on_this_machine:
            return _place(parts)[1] == _place(own)[1]
        return _place(parts) == _place(own)
    except ValueError:
        return False


def _split(given: str, called: str) -> SplitResult:
    text = given.strip()
    if "://" not in text:
        text = f"{'http' if leads_to_this_machine(f'http://{text}') else 'https'}://{text}"
    try:
        parts = urlsplit(text)
        port = parts.port
        host = (parts.hostname or "").encode("idna").decode("ascii")
    except ValueError:
        raise WrongUsage(f"{called} is no address; one looks like https://example.bitrix24.com") from None
    if not host or port == 0 or parts.username is not None or parts.password is not None or not _is_host(host):
        raise WrongUsage(f"{called} is no address; one looks like https://example.bitrix24.com")
    if parts.scheme not in _USUAL_PORTS:
        raise WrongUsage(f"{called} starts with neither https:// nor http://; write https:// and the host")
    if parts.scheme == "http" and not leads_to_this_machine(text):
        raise WrongUsage(
            f"{called} is http://, where tokens would travel for all to read; use https:// (http is for a portal "
            "on this machine only)"
        )
    shown = f"[{host}]" if ":" in host else host
    return parts._replace(netloc=shown if port in (None, _USUAL_PORTS[parts.scheme]) else f"{shown}:{port}")


def _is_host(host: str) -> bool:
    return len(host) <= _LONGEST and all(character.isalnum() or character in ".-_:" for character in host)


def _origin(parts: SplitResult) -> str:
    return f"{parts.scheme}://{parts.netloc.lower()}"


def _place(parts: SplitResult) -> tuple[str, int | None]:
    """Host and port; raises ValueError for a port that is none, and for names of users, which only deceive."""
    if "@" in parts.netloc or "\\" in parts.netloc or parts.path.count("\\"):
        raise ValueError("a user's name in an address")
    return (parts.hostname or "").rstrip("."), parts.port or _USUAL_PORTS.get(parts.scheme)

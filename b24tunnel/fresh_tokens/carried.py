"""Where a recording carries tokens, and when they expire."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from b24tunnel import changing
from b24tunnel.recording import Recording

Path = tuple[str, ...]
Held = Literal[
    "access_token",
    "refresh_token",
    "expires",
    "expires_in",
    "application_token",
    "client_endpoint",
    "server_endpoint",
    "domain",
    "member_id",
    "protocol",
]
"""What a value of a recording is, by the name that it has in ``auth``. ``protocol``: 0 for http, 1 for https."""

LIFE_SECONDS = 3600
"""How long an access token is good (page "Complete OAuth 2.0 Authorization Protocol")."""

# "Authorization parameters in events". `user_id` is left out: it says who caused the event.
_IN_AUTH: dict[str, Held] = {
    "access_token": "access_token",
    "refresh_token": "refresh_token",
    "expires": "expires",
    "expires_in": "expires_in",
    "application_token": "application_token",
    "client_endpoint": "client_endpoint",
    "server_endpoint": "server_endpoint",
    "domain": "domain",
    "member_id": "member_id",
}
# "Widgets": what a page of the application is opened with.
_IN_PAGES: dict[str, Held] = {
    "AUTH_ID": "access_token",
    "REFRESH_ID": "refresh_token",
    "AUTH_EXPIRES": "expires_in",
    "APPLICATION_TOKEN": "application_token",
    "SERVER_ENDPOINT": "server_endpoint",
    "DOMAIN": "domain",
    "PROTOCOL": "protocol",
    "member_id": "member_id",
}
_OF_TOKENS: frozenset[Held] = frozenset({"access_token", "refresh_token", "expires", "expires_in"})
# Bots ("Chat bot events"): data[BOT][39], data[COMMAND][103], each with an AUTH in it, and data[bot][auth].
_OF_BOTS = ("bot", "command")

# Of a time in unix seconds, up to the year 9999 and beyond.
_MOST_DIGITS = 12

_NAMED = re.compile(rb"access_token|AUTH_ID")


@dataclass(frozen=True)
class Carried:
    """What a recording carries of a portal's: each place with what it holds and the value there now.

    ``ends`` is when the first of its access tokens expires, in unix seconds; None where it carries no token.
    """

    places: Mapping[Path, tuple[Held, str]]
    ends: int | None

    def values(self, held: Held) -> set[str]:
        """The values of one kind, without empty ones."""
        return {value for kind, value in self.places.values() if kind == held and value}


def may_carry_tokens(recording: Recording) -> bool:
    """Whether a look at what it carries is worth while; False only where Bitrix24's names of tokens are not."""
    if _NAMED.search(recording.body):
        return True
    _, mark, query = recording.target.partition("?")
    return bool(mark) and ("AUTH_ID" in query or "access_token" in query)


def carried(recording: Recording) -> Carried:
    """Where ``recording`` carries what belongs to a portal, in its query and its body.

    Raises `WrongUsage` for one with too many values to be looked through.
    """
    # Null is no value: a form has it as nothing, JSON by its name.
    found = {path: "" if value == "null" else value for path, value in changing.leaves(recording).items()}
    arrays: dict[Path, dict[Path, tuple[Held, str]]] = {}
    is_page = ("AUTH_ID",) in found
    for path, value in found.items():
        array, name = path[:-1], path[-1]
        held = _IN_AUTH.get(name) if _holds_auth(array) else _IN_PAGES.get(name) if is_page and not array else None
        if held is not None:
            arrays.setdefault(array, {})[path] = held, value
    places: dict[Path, tuple[Held, str]] = {}
    ends: list[int] = []
    for inner in arrays.values():
        known = {held: value for held, value in inner.values() if value}
        if "access_token" in known:
            ends.append(_end(known, recording, found.get(("ts",), "")))
            places |= inner
        else:
            # A robot's, an agent's or a webhook's: what would go with a token says nothing without one.
            places |= {path: there for path, there in inner.items() if there[0] not in _OF_TOKENS}
    return Carried(places, min(ends, default=None))


def _holds_auth(array: Path) -> bool:
    """Whether the array with these keys is one that Bitrix24 puts a portal's credentials into."""
    if array == ("auth",):
        return True
    if not 3 <= len(array) <= 4 or array[0] != "data" or array[1].lower() not in _OF_BOTS:
        return False
    return len(array) == 3 or array[3].lower() == "auth"


def _end(known: Mapping[Held, str], recording: Recording, ts: str) -> int:
    """When the access token of an array with these values expires, in unix seconds."""
    expires = _seconds(known.get("expires", ""))
    if expires is not None:
        return expires
    since = _seconds(ts)
    if since is None:
        since = int(recording.received_at.timestamp())
    life = _seconds(known.get("expires_in", ""))
    return since + (LIFE_SECONDS if life is None else life)


def _seconds(text: str) -> int | None:
    return int(text) if 0 < len(text) <= _MOST_DIGITS and text.isascii() and text.isdigit() else None

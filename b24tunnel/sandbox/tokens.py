"""Tokens of the simulated authorization server: access tokens, refresh tokens that rotate, codes.

Protocol: the pages "OAuth 2.0" and "Automatic renewal of authorization" of the Bitrix24 documentation.
"""

import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TypeVar

from .answers import Refusal

MAX_KEPT = 10_000
CODE_LIFE = 30  # seconds, page "OAuth 2.0"
REFRESH_LIFE = 180 * 24 * 3600  # seconds, page "Automatic renewal of authorization"

_Kept = TypeVar("_Kept")


@dataclass(frozen=True, slots=True)
class App:
    """An application on the portal: ours, or the stranger whose handlers must not be touched."""

    number: int
    client_id: str
    client_secret: str
    application_token: str


@dataclass(frozen=True, slots=True)
class Token:
    """An access token. ``expires`` is in unix seconds.

    ``depth``: 0 for one given out by the token endpoint; n for one that travelled in a delivery which a call
    with a token of depth n-1 caused. Bitrix24 stops such chains.
    """

    value: str
    app: App
    user_id: int
    expires: int
    depth: int = 0


@dataclass(frozen=True, slots=True)
class Pair:
    """An access token with the refresh token that renews it."""

    access: Token
    refresh: str


@dataclass(frozen=True, slots=True)
class _Grant:
    app: App
    user_id: int
    valid_until: float


class Tokens:
    """All tokens given out, each kind bounded: the oldest is forgotten first.

    Tokens that travelled in deliveries are kept apart, so that many deliveries do not push out the pair that the
    application works with.
    """

    def __init__(self, life: int) -> None:
        """``life``: seconds for which an access token is good."""
        self.life = life
        self._access: OrderedDict[str, Token] = OrderedDict()
        self._access_sent: OrderedDict[str, Token] = OrderedDict()
        self._refresh: OrderedDict[str, _Grant] = OrderedDict()
        self._refresh_sent: OrderedDict[str, _Grant] = OrderedDict()
        self._codes: OrderedDict[str, _Grant] = OrderedDict()
        self._travelling: dict[tuple[App, int, int], Token] = {}

    def issue(self, app: App, user_id: int, depth: int = 0) -> Token:
        """A new access token."""
        token = Token(secrets.token_hex(35), app, user_id, int(time.time()) + self.life, depth)
        _keep(self._access_sent if depth else self._access, token.value, token)
        return token

    def issue_pair(self, app: App, user_id: int, depth: int = 0) -> Pair:
        """A new access token and its refresh token."""
        refresh = secrets.token_hex(35)
        table = self._refresh_sent if depth else self._refresh
        _keep(table, refresh, _Grant(app, user_id, time.time() + REFRESH_LIFE))
        return Pair(self.issue(app, user_id, depth), refresh)

    def travelling(self, app: App, user_id: int, depth: int, with_refresh: bool) -> Pair:
        """Tokens to send in a delivery.

        An access token serves many deliveries until half its life is over; a refresh token is made for each
        delivery that carries one, ``""`` otherwise.
        """
        if with_refresh:
            return self.issue_pair(app, user_id, depth)
        key = (app, user_id, depth)
        token = self._travelling.get(key)
        if token is None or token.expires - time.time() < self.life / 2 or token.value not in self._access_sent:
            token = self.issue(app, user_id, depth)
            if len(self._travelling) >= MAX_KEPT:
                self._travelling.clear()
            self._travelling[key] = token
        return Pair(token, "")

    def check(self, value: str) -> Token:
        """The token of a call. Refuses with ``NO_AUTH_FOUND`` or ``expired_token``, both 401."""
        token = self._access.get(value) or self._access_sent.get(value)
        if token is None:
            raise Refusal("NO_AUTH_FOUND", "Wrong authorization data", 401)
        if token.expires <= time.time():
            raise Refusal("expired_token", "The access token provided has expired.", 401)
        return token

    def rotate(self, refresh: str, app: App) -> Pair:
        """A new pair for a refresh token, which is worthless from then on. Refuses with ``invalid_grant``."""
        table = self._refresh_sent if refresh in self._refresh_sent else self._refresh
        return self._spend(table, refresh, app)

    def code(self, app: App, user_id: int) -> str:
        """A new authorization code, good for 30 seconds and one use."""
        code = secrets.token_hex(35)
        _keep(self._codes, code, _Grant(app, user_id, time.time() + CODE_LIFE))
        return code

    def redeem(self, code: str, app: App) -> Pair:
        """A new pair for an authorization code. Refuses with ``invalid_grant``."""
        return self._spend(self._codes, code, app)

    def expire(self) -> None:
        """Lets every access token that was given out expire; refresh tokens stay good."""
        past = int(time.time()) - 1
        for table in (self._access, self._access_sent):
            for value, token in table.items():
                table[value] = replace(token, expires=min(token.expires, past))
        self._travelling.clear()

    def age(self, seconds: float) -> None:
        """Lets every token and code that was given out grow older by so much."""
        for tokens in (self._access, self._access_sent):
            for value, token in tokens.items():
                tokens[value] = replace(token, expires=int(token.expires - seconds))
        for grants in (self._refresh, self._refresh_sent, self._codes):
            for value, grant in grants.items():
                grants[value] = replace(grant, valid_until=grant.valid_until - seconds)
        self._travelling.clear()

    def _spend(self, grants: OrderedDict[str, _Grant], value: str, app: App) -> Pair:
        grant = grants.get(value)
        if grant is None or grant.app != app or grant.valid_until < time.time():
            raise Refusal("invalid_grant", "The grant is unknown, spent, expired or another application's")
        del grants[value]
        return self.issue_pair(app, grant.user_id)


def _keep(table: OrderedDict[str, _Kept], key: str, value: _Kept) -> None:
    table[key] = value
    if len(table) > MAX_KEPT:
        table.popitem(last=False)

"""Signing in to a portal with the full OAuth protocol: the address for the browser, and the return from it."""

from __future__ import annotations

import asyncio
import dataclasses
import hmac
import secrets
import time
from collections.abc import Callable
from urllib.parse import parse_qsl

from b24tunnel.errors import OutsideFailure, UserError, WrongUsage
from b24tunnel.portal.addresses import is_portals, trusted_server, usual_server
from b24tunnel.portal.client import RestClient
from b24tunnel.portal.errors import PortalError
from b24tunnel.portal.oauth import authorise_address
from b24tunnel.portal.state import Portal, State

STATE_SECONDS = 600.0
"""For how long after `SignIn.address` a return is taken."""

# The code is good for 30 seconds, and the browser waits meanwhile.
_EXCHANGE_SECONDS = 20.0
_LONGEST_QUERY = 8192
_MOST_FIELDS = 50

_PAGE = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="referrer" content="no-referrer">'
    "<title>b24tunnel</title><body><h1>{title}</h1><p>{text}</p></body></html>"
)
_WELCOME = "Signed in", "The tokens are stored. You can close this page and go back to the terminal."
_STRANGE = (
    "Not taken",
    "This is no return of the sign-in that is under way. Open the address that the terminal shows.",
)
_SPENT = (
    "Not taken",
    "This return was used already. If the terminal says nothing of it, start anew.",
)
_OLD = "Not taken", "This sign-in was begun more than ten minutes ago. Start it anew in the terminal."
_INCOMPLETE = "Not taken", "The portal's return lacks what is needed. Start the sign-in anew in the terminal."
_ELSEWHERE = "Not taken", "This is the return of another portal than the one in the terminal, which says more."
_FAILED = "Not signed in", "The terminal says why."


class SignIn:
    """One sign-in to ``portal``. Give `take` the query of each request for the return path, and `wait`.

    Nobody but who was sent to `address` can complete it: a return counts only with the state that the address
    carries, once, and within ten minutes. ``say`` gets a sentence for whoever waits when a return with the right
    state is not taken. Use it from one event loop.
    """

    def __init__(
        self,
        portal: Portal,
        state: State,
        *,
        clock: Callable[[], float] = time.monotonic,
        say: Callable[[str], None] = lambda message: None,
        timeout: float = _EXCHANGE_SECONDS,
    ) -> None:
        """``timeout``: seconds for one answer of the authorisation server or of the portal."""
        if not (portal.client_id and portal.client_secret):
            missing = "client_id" if not portal.client_id else "client_secret"
            raise WrongUsage(
                f"the portal {portal.name} has no {missing}, which signing in needs; store it with "
                f"`b24tunnel portal add {portal.name} --replace`"
            )
        self._portal = portal
        self._state = state
        self._clock = clock
        self._say = say
        self._timeout = timeout
        self._nonce = ""
        self._made = 0.0
        self._used = False
        self._exchange: asyncio.Task[tuple[int, str]] | None = None
        self._over = asyncio.Event()
        self._signed_in: Portal | None = None
        self._failure: UserError | None = None

    def address(self) -> str:
        """The page to open in a browser. Each call begins anew: returns of a former address count no more."""
        self._nonce = secrets.token_urlsafe(32)
        self._made = self._clock()
        self._used = False
        return authorise_address(self._portal, self._nonce)

    async def take(self, query: str) -> tuple[int, str]:
        """HTTP status and HTML page for the browser that came back with ``query``, without its question mark.

        200 when the person is signed in and all is stored; 403 for a return of nobody, used before, or old; 400
        for one that lacks something or names another portal or an authorisation server that is not this portal's;
        502 when the tokens were not to be had, which ends the sign-in. Nothing of the query is on the page.
        """
        values = _read(query)
        given = "" if values is None else values.get("state", "")
        if values is None or not self._nonce or not hmac.compare_digest(_octets(given), _octets(self._nonce)):
            return 403, _page(_STRANGE)
        if self._used:
            return 403, _page(_SPENT)
        if self._clock() - self._made > STATE_SECONDS:
            self._say("the browser came back after more than ten minutes: sign in anew")
            return 403, _page(_OLD)
        if not values.get("code"):
            self._say("the browser came back without a code: open the address again")
            return 400, _page(_INCOMPLETE)
        if (domain := values.get("domain")) and not is_portals(self._portal, domain):
            self._say(
                f"the browser came back from another portal than {self._named}: open the address there, or store "
                "the portal under the address that it has for itself"
            )
            return 400, _page(_ELSEWHERE)
        server = self._server(values.get("server_domain", ""))
        if server is None:
            self._say(
                "the return names an authorisation server that is neither Bitrix24's nor stored for this portal, "
                "so nothing was sent there: if it is right, store it with --server-endpoint"
            )
            return 400, _page(_ELSEWHERE)
        # From here on a second return with this state is refused, also while this one is being worked on.
        self._used = True
        self._exchange = asyncio.create_task(self._finish(values["code"], server))
        # Shielded: a browser that goes away must not lose the answer to a code that is spent.
        return await asyncio.shield(self._exchange)

    async def wait(self, seconds: float) -> Portal:
        """The portal as it is stored once the person is signed in.

        Raises `UserError`: the refusal of the authorisation server or the portal, a disk that is full, or that
        nobody came back within ``seconds``.
        """
        try:
            if not self._over.is_set():
                await asyncio.wait_for(self._over.wait(), seconds)
        except TimeoutError:
            raise OutsideFailure(
                f"nobody came back from {self._named} within {seconds:g} s; check that the application's handler "
                "path is the address shown, and sign in anew"
            ) from None
        if self._failure is not None:
            raise self._failure
        if self._signed_in is None:
            raise OutsideFailure("the sign-in was interrupted; sign in anew")
        return self._signed_in

    def _server(self, named: str) -> str | None:
        if named:
            return trusted_server(self._portal, named)
        return self._portal.server_endpoint or usual_server(self._portal.client_endpoint)

    async def _finish(self, code: str, server: str) -> tuple[int, str]:
        try:
            fresh = await self._redeemed(code, server)
            self._signed_in = await asyncio.to_thread(
                self._state.change_portal, fresh.name, lambda stored: _merged(stored, fresh)
            )
        except UserError as error:
            self._failure = error
            return 502, _page(_FAILED)
        finally:
            self._over.set()
        return 200, _page(_WELCOME)

    async def _redeemed(self, code: str, server: str) -> Portal:
        """The portal with the tokens of the code, which it has confirmed."""
        # A full disk should be noticed before the code is spent, not after.
        await asyncio.to_thread(self._state.ensure_writable)
        async with RestClient(self._portal, self._state, timeout=self._timeout, retry_delays=(1.0,)) as client:
            fresh = await client.redeem(code, server)
            if self._portal.member_id and fresh.member_id != self._portal.member_id:
                raise OutsideFailure(
                    f"the tokens are for another account than the one stored as {self._portal.name} (member_id); "
                    f"if it was set up anew, store it with `b24tunnel portal add {self._portal.name} --replace`"
                )
            check_application(self._portal, await client.app_info_once(fresh))
        return fresh

    @property
    def _named(self) -> str:
        return self._portal.domain or f"the portal {self._portal.name}"


def check_application(portal: Portal, info: dict[str, object]) -> None:
    """Raise `PortalError` where ``app.info`` speaks of another application than the portal's ``client_id``.

    Only a local application's code is its client_id; those of the market have a code of their own.
    """
    code = str(info.get("CODE") or "")
    if portal.client_id.startswith("local.") and code and code != portal.client_id:
        raise PortalError(portal=portal.name, method="app.info", code="OTHER_APPLICATION", status=200)


def _merged(stored: Portal, fresh: Portal) -> Portal:
    """What is stored now, which others may have changed, with what this sign-in has brought."""
    if (stored.client_endpoint, stored.client_id) != (fresh.client_endpoint, fresh.client_id):
        raise WrongUsage(f"the portal {stored.name} was stored anew meanwhile; sign in once more")
    return dataclasses.replace(
        stored,
        access_token=fresh.access_token,
        refresh_token=fresh.refresh_token,
        member_id=fresh.member_id,
        server_endpoint=fresh.server_endpoint,
        user_id=fresh.user_id,
        scope=fresh.scope,
    )


def _read(query: str) -> dict[str, str] | None:
    """The query's fields; None where one comes twice, or where it is too long to be a return."""
    if len(query) > _LONGEST_QUERY:
        return None
    try:
        pairs = parse_qsl(query.removeprefix("?"), max_num_fields=_MOST_FIELDS, errors="surrogateescape")
    except ValueError:
        return None
    values = dict(pairs)
    return values if len(values) == len(pairs) else None


def _page(words: tuple[str, str]) -> str:
    title, text = words
    return _PAGE.format(title=title, text=text)


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")

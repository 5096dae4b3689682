"""A simulated Bitrix24 portal: REST, OAuth and the event queue on one local socket.

It answers as Bitrix24 does, errors included, and delivers as Bitrix24 does: queued, delayed, once, slower for
slow handlers. It needs no account and no network.

    async with Sandbox() as sandbox:
        ...  # sandbox.credentials has what an application needs
        sandbox.raise_event("ONCRMDEALADD", {"FIELDS": {"ID": 7}})
        await sandbox.idle(5)
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any

from b24tunnel import catalogue
from b24tunnel.errors import WrongUsage

from .answers import Refusal
from .calls import LoggedCall
from .methods_events import check_handler, check_unique
from .queue import Delivery, Pacing, Queue
from .rest import Rest
from .server import Server
from .store import Binding, Portal, all_scopes
from .wire import TooBig

__all__ = ["Binding", "Credentials", "Delivery", "LoggedCall", "Pacing", "Sandbox"]

STOP_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Credentials:
    """What an application holds of a portal. ``expires_in`` is in seconds; ``scope`` is comma-separated."""

    client_endpoint: str
    server_endpoint: str
    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    client_id: str
    client_secret: str = field(repr=False)
    application_token: str = field(repr=False)
    domain: str
    member_id: str
    expires_in: int
    user_id: int
    scope: str

    def as_dict(self) -> dict[str, Any]:
        """The same as a dict with these names as keys."""
        return asdict(self)


class Sandbox:
    """One simulated portal on one socket.

    All methods belong to the event loop in which ``start`` ran; from another thread go through
    ``loop.call_soon_threadsafe``.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        delay: float = 0.2,
        scopes: Iterable[str] | None = None,
        admin: bool = True,
        installed: bool = True,
        user_id: int = 1,
        token_life: int = 3600,
        pacing: Pacing | None = None,
        log_length: int = 10_000,
        on_delivery: Callable[[Delivery], None] | None = None,
    ) -> None:
        """``port``: 0 takes a free one. ``delay``: seconds between an event and its delivery.

        ``scopes``: what the application may use, all that the catalogue knows by default. ``admin``: whether the
        user is an administrator. ``installed``: whether the installation is finished; until then bindings
        succeed and nothing is delivered (page "Completing the installation"). ``token_life``: seconds for which
        an access token is good. ``pacing``: time-out and treatment of slow handlers. ``log_length``: entries
        kept in ``deliveries`` and in ``calls``. ``on_delivery``: called with each delivery once it was tried.
        """
        self._host = host
        self._port = port
        self._queue = Queue(delay, pacing or Pacing(), log_length, on_delivery)
        self._portal = Portal(
            all_scopes() if scopes is None else tuple(scopes), admin, installed, user_id, token_life, self._queue
        )
        self._rest = Rest(self._portal, log_length)
        self._server = Server(self._portal, self._rest)

    async def start(self) -> None:
        """Begins to listen and to deliver. Raises ``OutsideFailure`` when the port cannot be had."""
        if self._queue.running:
            raise WrongUsage("The sandbox is running already; stop it before starting it again.")
        port = await self._server.start(self._host, self._port)
        self._queue.start()
        host = f"[{self._host}]" if ":" in self._host else self._host
        self._portal.origin = f"http://{host}:{port}"

    async def stop(self) -> None:
        """Stops listening, gives up deliveries that wait or are under way. Takes at most five seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await asyncio.gather(self._queue.stop(), self._server.stop())

    async def __aenter__(self) -> Sandbox:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        """``http://host:port``, without a slash at the end; ``""`` before the first start."""
        return self._portal.origin

    @property
    def webhook_url(self) -> str:
        """An incoming webhook's address, to be followed by a method's name."""
        return f"{self.url}/rest/{self._portal.user_id}/{self._portal.webhook_secret}/"

    @property
    def credentials(self) -> Credentials:
        """What our application holds: the pair of tokens that the token endpoint gave out last."""
        portal = self._portal
        return Credentials(
            client_endpoint=f"{portal.origin}/rest/",
            server_endpoint=f"{portal.origin}/rest/",
            access_token=portal.pair.access.value,
            refresh_token=portal.pair.refresh,
            client_id=portal.own.client_id,
            client_secret=portal.own.client_secret,
            application_token=portal.own.application_token,
            domain=portal.domain,
            member_id=portal.member_id,
            expires_in=portal.tokens.life,
            user_id=portal.user_id,
            scope=portal.scope,
        )

    @property
    def installed(self) -> bool:
        """Whether the application's installation is finished. Set it to finish the installation or undo it."""
        return self._portal.installed

    @installed.setter
    def installed(self, value: bool) -> None:
        self._portal.installed = value

    @property
    def redirect_uri(self) -> str:
        """Where ``/oauth/authorize/`` sends the browser: the return address in the application's settings."""
        return self._portal.redirect_uri

    @redirect_uri.setter
    def redirect_uri(self, value: str) -> None:
        self._portal.redirect_uri = value

    @property
    def bindings(self) -> list[Binding]:
        """All handler rows of the portal, in the order in which they were bound; a new list each time."""
        return list(self._portal.bindings)

    @property
    def deliveries(self) -> list[Delivery]:
        """The last deliveries, oldest first: queued, under way, done or dropped."""
        return self._queue.deliveries()

    @property
    def calls(self) -> list[LoggedCall]:
        """The last REST calls, oldest first."""
        return self._rest.calls()

    def expire_access_token(self) -> None:
        """Lets every access token that was given out so far expire; refresh tokens stay good."""
        self._portal.tokens.expire()

    def authorization_code(self) -> str:
        """A new code for the ``authorization_code`` grant, good for 30 seconds and one use."""
        return self._portal.tokens.code(self._portal.own, self._portal.user_id)

    def bind_foreign(self, event: str, handler: str) -> Binding:
        """Binds a handler of another application on the same portal.

        Raises ``WrongUsage`` for an unknown event or an address that Bitrix24 refuses.
        """
        code = _known(event)
        foreign = self._portal.foreign
        try:
            check_handler(handler)
            check_unique(self._portal, Binding(0, code, handler, 0, foreign.client_id, True))
        except Refusal as refusal:
            raise WrongUsage(f"{handler} cannot be bound to {code}: {refusal.description}.") from refusal
        return self._portal.bind(foreign, code, handler)

    def raise_event(self, code: str, data: Any = None, user: bool = True) -> int:
        """Lets an event happen on the portal and gives the number of deliveries that were queued.

        ``data``: JSON values; None takes the catalogue's sample. ``user``: False for an event of a robot or an
        agent, which carries no tokens. Raises ``WrongUsage`` for an unknown code, for data of more than
        4 MiB, or when the sandbox does not run.
        """
        known = _known(code)
        if not self._queue.running:
            raise WrongUsage("The sandbox does not run, so nothing can be delivered; start it first.")
        if data is None:
            entry = catalogue.lookup(known)
            data = [] if entry is None or entry.data is None else entry.data
        try:
            return self._portal.raise_event(known, data, self._portal.user_id if user else None)
        except TooBig as error:
            raise WrongUsage(f"{known} was not raised: {error}.") from error

    async def idle(self, timeout: float = 10.0) -> None:
        """Waits until every delivery is done. Raises TimeoutError after ``timeout`` seconds."""
        await self._queue.idle(timeout)

    def pause(self, url: str) -> float:
        """Seconds that the queue now leaves between two calls to the host of ``url``; 0 for a quick one."""
        return self._queue.pause(url)


def _known(event: str) -> str:
    """The code in upper case. Raises ``WrongUsage`` when Bitrix24 has no such event."""
    entry = catalogue.lookup(event)
    if entry is None:
        close = catalogue.suggest(event)
        hint = f" Did you mean {', '.join(close)}?" if close else ""
        raise WrongUsage(f"Bitrix24 has no event {event}.{hint}")
    return event.upper()

"""The simulated portal's state: applications, bindings, entities, and how an event becomes deliveries."""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from b24tunnel import catalogue

from . import wire
from .entities import KINDS, Shelf
from .offline import OfflineQueue
from .queue import Queue
from .robots import Robots
from .tokens import App, Tokens

MAX_BINDINGS = 1_000
MAX_DEPTH = 3


@dataclass(frozen=True, slots=True)
class Binding:
    """A handler row of the portal, as ``Sandbox.bindings`` shows it.

    ``handler_id``: travels as ``event_handler_id``. ``handler``: the URL, ``""`` for an offline binding.
    ``user_id``: whose tokens its deliveries carry, 0 for those of the user who caused the event.
    ``client_id``: the application that it belongs to. ``foreign``: it is another application's. ``webhook``: it
    is an outgoing webhook's.
    """

    handler_id: int
    event: str
    handler: str
    user_id: int
    client_id: str
    foreign: bool = False
    offline: bool = False
    connector: str = ""
    webhook: bool = False


class Portal:
    """One simulated Bitrix24 account with one application of ours and one of a stranger.

    ``offline_extended``, ``auth_connectors``: whether its plan has these features of offline events.
    """

    def __init__(
        self,
        scopes: Sequence[str],
        admin: bool,
        installed: bool,
        user_id: int,
        token_life: int,
        queue: Queue,
        offline_extended: bool = True,
        auth_connectors: bool = True,
    ) -> None:
        self.scopes = tuple(dict.fromkeys(scope for scope in scopes if scope != "basic"))
        self.admin = admin
        self.installed = installed
        self.user_id = user_id
        self.queue = queue
        self.offline_extended = offline_extended
        self.auth_connectors = auth_connectors
        self.member_id = secrets.token_hex(16)
        self.webhook_secret = secrets.token_hex(8)
        self.own = _new_app(1)
        self.foreign = _new_app(2)
        self.tokens = Tokens(token_life)
        self.pair = self.tokens.issue_pair(self.own, user_id)
        self.webhooks: dict[str, App] = {}
        self.bindings: list[Binding] = []
        self.shelves = {kind.name: Shelf(kind) for kind in KINDS}
        self.offline = OfflineQueue()
        self.robots = Robots()
        self.redirect_uri = ""
        self.install_url = ""
        self.install_handler_id = 0
        self.origin = ""
        self._last_handler_id = 0

    @property
    def domain(self) -> str:
        """Host and port, as Bitrix24 shows the portal's domain."""
        return self.origin.partition("://")[2]

    @property
    def scope(self) -> str:
        """The application's scopes as they stand in ``auth[scope]``."""
        return ",".join(self.scopes)

    def app(self, client_id: str) -> App | None:
        """The application with this client id."""
        return next((app for app in (self.own, self.foreign) if app.client_id == client_id), None)

    def has_scope(self, scope: str) -> bool:
        """Whether the application may use what belongs to a scope; ``basic`` is everybody's."""
        return scope == "basic" or scope in self.scopes

    def bind(
        self, app: App, event: str, handler: str, user_id: int = 0, offline: bool = False, connector: str = ""
    ) -> Binding:
        """Adds a handler row; what may be refused was refused before."""
        self._last_handler_id += 1
        binding = Binding(
            self._last_handler_id,
            event,
            handler,
            user_id,
            app.client_id,
            app is self.foreign,
            offline,
            connector,
            app.client_id in self.webhooks,
        )
        self.bindings.append(binding)
        return binding

    def unbind(self, which: Callable[[Binding], bool]) -> int:
        """Removes handler rows; gives how many there were."""
        before = len(self.bindings)
        self.bindings = [binding for binding in self.bindings if not which(binding)]
        return before - len(self.bindings)

    def raise_event(
        self,
        code: str,
        data: Any,
        user_id: int | None,
        depth: int = 0,
        connector: str = "",
        only: App | None = None,
    ) -> int:
        """Queues one delivery for each handler row of an event; gives how many.

        ``user_id``: who caused it, None for a robot or an agent. ``depth``: how many deliveries in a row led to
        it: the portal stops such a chain after three. ``connector``: the ``auth_connector`` of the call, whose
        own offline entries it leaves out. ``only``: the handlers of this application alone. Our application gets
        nothing while its installation is not finished. Raises ``wire.TooBig``.
        """
        if depth >= MAX_DEPTH:
            return 0
        wire.check_size(data)
        queued = 0
        offline_changed = False
        for binding in self.bindings:
            if binding.event != code or (only is not None and binding.client_id != only.client_id):
                continue
            if binding.client_id == self.own.client_id and not self.installed:
                continue
            if not binding.offline:
                queued += self._deliver(binding, data, user_id, depth)
            elif not connector or connector != binding.connector:
                self.offline.put(code, data, user_id or 0, binding.connector)
                offline_changed = True
        if offline_changed and code != "ONOFFLINEEVENT":
            queued += self.raise_event("ONOFFLINEEVENT", [], user_id, depth, only=self.own)
        return queued

    def _deliver(self, binding: Binding, data: Any, user_id: int | None, depth: int) -> bool:
        app = self.webhooks.get(binding.client_id) or (self.foreign if binding.foreign else self.own)
        acting = None if binding.webhook else binding.user_id or user_id
        head = wire.head(binding.event, binding.handler_id, data, int(time.time()))

        def tail() -> bytes:
            return wire.tail(self._auth(binding.event, app, acting, depth + 1))

        return self.queue.put(binding.event, binding.handler_id, binding.handler, head, tail)

    def _auth(self, code: str, app: App, user_id: int | None, depth: int) -> dict[str, str]:
        system = wire.auth_of_nobody(app, self.origin, self.domain, self.member_id)
        if user_id is None or code in wire.WITHOUT_TOKENS:
            return system
        with_refresh = code in wire.WITH_REFRESH_TOKEN
        pair = self.tokens.travelling(app, user_id, depth, with_refresh)
        return wire.auth_of_user(pair, with_refresh, self.tokens.life, self.scope, system)


def all_scopes() -> tuple[str, ...]:
    """Every scope that an event of the catalogue or a method of the sandbox needs."""
    return tuple(sorted({entry.scope for entry in catalogue.events().values()} - {"basic"} | {"bizproc"}))


def _new_app(number: int) -> App:
    digits = secrets.randbelow(90_000_000) + 10_000_000
    return App(
        number, f"local.{secrets.token_hex(7)}.{digits}", secrets.token_urlsafe(37)[:50], secrets.token_hex(16)
    )

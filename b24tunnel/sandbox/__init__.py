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
from types import TracebackType

from b24tunnel.errors import WrongUsage
from b24tunnel.queue_pacing import Pacing

from .calls import LoggedCall
from .credentials import Credentials
from .faults import Fault
from .limits import Limits
from .pages import Page
from .queue import Delivery, Queue
from .rest import Rest
from .robots import RobotAnswer
from .seen import Waiting
from .server import Server
from .steered import Steered
from .store import Binding, Portal, all_scopes

__all__ = [
    "Binding",
    "Credentials",
    "Delivery",
    "Fault",
    "Limits",
    "LoggedCall",
    "Pacing",
    "Page",
    "RobotAnswer",
    "Sandbox",
    "Waiting",
]

STOP_SECONDS = 5


class Sandbox(Steered):
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
        offline_extended: bool = True,
        auth_connectors: bool = True,
        limits: Limits | None = None,
        pacing: Pacing | None = None,
        log_length: int = 10_000,
        on_delivery: Callable[[Delivery], None] | None = None,
    ) -> None:
        """``port``: 0 takes a free one. ``delay``: seconds between an event and its delivery.

        ``scopes``: what the application may use, all that the sandbox knows by default. ``admin``: whether the
        user is an administrator. ``installed``: whether the installation is finished; until then bindings
        succeed and nothing is delivered (page "Completing the installation"). ``token_life``: seconds for which
        an access token is good. ``offline_extended``, ``auth_connectors``: whether the portal's plan has
        ``rest_offline_extended`` and ``rest_auth_connector``. ``limits``: of requests and working time; None for
        no bound. ``pacing``: time-out and treatment of slow handlers. ``log_length``: entries kept in
        ``deliveries`` and in ``calls``. ``on_delivery``: called with each delivery once it was tried.
        """
        self._host = host
        self._port = port
        queue = Queue(delay, pacing or Pacing(), log_length, on_delivery)
        portal = Portal(
            all_scopes() if scopes is None else tuple(scopes),
            admin,
            installed,
            user_id,
            token_life,
            queue,
            offline_extended,
            auth_connectors,
        )
        super().__init__(portal, queue, Rest(portal, log_length, limits))
        self._server = Server(portal, self._rest)

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

"""Signing in to a stored portal: a listener with a public address, what is to be done with it, the credentials.

Three ways in. With the full OAuth protocol the person's browser comes back to the listener. An application that
only calls the API tells its installation by an event, which arrives there. An outgoing webhook has nothing but a
token, which the person copies.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from b24tunnel.errors import OutsideFailure, WrongUsage
from b24tunnel.happenings import Happening, Installed, Note, Ready, Trouble
from b24tunnel.portal.credentials import checked
from b24tunnel.portal.sign_in import SignIn
from b24tunnel.portal.state import Portal, State
from b24tunnel.session import Session, Settings, check_reachable
from b24tunnel.tunnel.supervisor import Candidate

TIMEOUT = 600.0
"""Seconds from the moment that the address is up until the credentials have to be there."""

Way = Literal["oauth", "install", "webhook"]

# Another `listen` with the same address may be the one that an installation reaches.
_LOOK_SECONDS = 0.5

_T = TypeVar("_T")


@dataclass(frozen=True)
class Listening:
    """Where the listener is: as in `session.Settings`."""

    recordings: Path
    tunnels: tuple[Candidate, ...]
    port: int = 0
    probe: bool = True


class Guide(Protocol):
    """Leads the person. What is not asynchronous must not block."""

    def paste(self, address: str) -> None:
        """Say where on the portal this address is to be pasted."""

    async def pasted(self) -> None:
        """Return when the person has done so."""

    def browse(self, address: str) -> None:
        """Have this address opened in the person's browser."""

    async def token(self) -> str:
        """The token that the portal shows for the outgoing webhook; ``""`` to keep the one that is stored."""

    def say(self, message: str) -> None:
        """Show a sentence."""


def way_in(portal: Portal) -> Way:
    """The way in to ``portal``; raises `WrongUsage` where nothing says which."""
    if portal.kind in ("oauth", "install", "webhook"):
        return portal.kind
    if portal.client_id:
        return "oauth"
    raise WrongUsage(
        f"nothing is known of how to sign in to {portal.name}; store it with `b24tunnel portal add {portal.name} "
        "--replace`"
    )


async def sign_in(
    name: str, state: State, listening: Listening, guide: Guide, *, timeout: float = TIMEOUT
) -> Portal:
    """Sign in to the portal ``name`` and answer it as it is stored then.

    Listens until it is done, ``timeout`` seconds from when the address is up. Raises `UserError`: an unknown
    portal, no tunnel, a refusal, or that nobody came. Whatever comes to the handler's path meanwhile is recorded.
    """
    portal = await asyncio.to_thread(state.portal, name)
    way = way_in(portal)
    signing = SignIn(portal, state, say=guide.say) if way == "oauth" else None
    settings = Settings(
        recordings=listening.recordings,
        tunnels=listening.tunnels,
        portal=portal,
        state=state,
        bind=False,
        probe=listening.probe,
        port=listening.port,
        sign_in=signing,
    )
    check_reachable(dataclasses.replace(settings, bind=True))  # also where nothing is bound, it has to come here
    async with _session(settings, guide) as session:
        address = await session.beside(session.address())
        guide.paste(f"{address}/oauth" if signing else address)
        deadline = asyncio.get_running_loop().time() + timeout
        if signing is not None:
            return await session.beside(_by_browser(signing, guide, portal, deadline, timeout))
        if way == "install":
            return await session.beside(_by_installation(session, portal, state, timeout))
        return await session.beside(_by_token(portal, state, guide, timeout))


async def store_token(name: str, state: State, token: str) -> Portal:
    """Store the ``application_token`` that a person has copied; raises `WrongUsage` for what cannot be one."""
    token = checked(token, "the application token")

    def with_token(stored: Portal) -> Portal:
        return dataclasses.replace(stored, application_token=token, application_token_from="")

    return await asyncio.to_thread(state.change_portal, name, with_token)


async def _by_browser(signing: SignIn, guide: Guide, portal: Portal, deadline: float, timeout: float) -> Portal:
    try:
        async with asyncio.timeout_at(deadline):
            await guide.pasted()
    except TimeoutError:
        raise _too_late(portal, timeout, "the address was not pasted") from None
    guide.browse(signing.address())
    try:
        async with asyncio.timeout_at(deadline):
            return await signing.wait(2 * timeout)  # its own sentence would name what is left of the time
    except TimeoutError:
        raise _too_late(
            portal,
            timeout,
            f"nobody came back from {portal.domain or portal.name} (is the address shown its handler?)",
        ) from None


async def _by_installation(session: _Running, portal: Portal, state: State, timeout: float) -> Portal:
    try:
        async with asyncio.timeout(timeout):
            while True:
                stored = await asyncio.to_thread(state.portal, portal.name)
                if session.installed.is_set() or stored.access_token not in ("", portal.access_token):
                    return stored
                try:
                    await asyncio.wait_for(session.installed.wait(), _LOOK_SECONDS)
                except TimeoutError:
                    continue
    except TimeoutError:
        raise _too_late(portal, timeout, "no installation of the application arrived") from None


async def _by_token(portal: Portal, state: State, guide: Guide, timeout: float) -> Portal:
    try:
        async with asyncio.timeout(timeout):
            token = await guide.token()
    except TimeoutError:
        raise _too_late(portal, timeout, "no token was given") from None
    if not token:
        return portal
    return await store_token(portal.name, state, token)


def _too_late(portal: Portal, timeout: float, what: str) -> OutsideFailure:
    return OutsideFailure(
        f"{what} within {timeout:g} s; begin again with `b24tunnel portal login {portal.name}`, or allow more "
        "time with --timeout"
    )


class _Running:
    """A session that runs beside whatever leads the person."""

    def __init__(self, settings: Settings, guide: Guide) -> None:
        self.installed = asyncio.Event()
        self.stop = asyncio.Event()
        self._guide = guide
        self._ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.task = asyncio.create_task(Session(settings, self._tell).run(self.stop))

    async def address(self) -> str:
        """The handler's public address, once it is up."""
        return await self._ready

    async def beside(self, work: Coroutine[Any, Any, _T]) -> _T:
        """The result of ``work``; raises what the session ends with, if it does before."""
        working = asyncio.create_task(work)
        try:
            await asyncio.wait((working, self.task), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                self.task.result()
                raise OutsideFailure("the listener has ended; begin again")
            return working.result()
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    def _tell(self, happening: Happening) -> None:
        if isinstance(happening, Ready) and not self._ready.done():
            self._ready.set_result(happening.handler_url)
        elif isinstance(happening, Installed):
            self.installed.set()
        elif isinstance(happening, Note | Trouble):
            self._guide.say(happening.message)


@asynccontextmanager
async def _session(settings: Settings, guide: Guide) -> AsyncIterator[_Running]:
    running = _Running(settings, guide)
    try:
        yield running
    finally:
        running.stop.set()
        await asyncio.wait((running.task,))
        if not running.task.cancelled():
            running.task.exception()  # `beside` has raised it, where anything still depended on it

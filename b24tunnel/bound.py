"""A session's bindings on a portal: made when it begins, moved with its address, removed when it ends."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from b24tunnel.errors import UserError
from b24tunnel.happenings import Bound, Happening, Note, Trouble
from b24tunnel.portal import Bindings, Portal, RestClient, State
from b24tunnel.portal.bindings import Other
from b24tunnel.redact import shown_url

CLEAN_UP_COMMAND = "b24tunnel bindings clean"
_UNBIND_SECONDS = 2.8


class BoundHandler:
    """Binds and unbinds on ``portal``; ``left`` tells whether something could not be unbound."""

    def __init__(
        self,
        portal: Portal,
        state: State,
        emit: Callable[[Happening], None],
        *,
        back_off: Sequence[float],
        keep: bool = False,
        on_moved: Callable[[], None] = lambda: None,
    ) -> None:
        """``back_off``: seconds between tries to move it; ``keep``: what is bound stays when the session ends.

        ``on_moved`` is called when everything is bound to another address.
        """
        self.left = False
        self._portal = portal
        self._state = state
        self._emit = emit
        self._keep = keep
        self._on_moved = on_moved
        self._back_off = back_off
        self._handler_url = ""
        self._wanted = ""
        self._entered = False
        self._moving = asyncio.Event()
        self._bindings: Bindings

    @asynccontextmanager
    async def to(self, handler_url: str, events: Sequence[str]) -> AsyncIterator[None]:
        """``events`` are bound to the address inside the block.

        Then what crashed runs left is unbound, and other handlers of the same events are told. Raises
        `PortalError` and its kin; nothing is bound then.
        """
        async with RestClient(self._portal, self._state) as client:
            info = await client.app_info()
            if info.get("INSTALLED") is False:
                self._emit(
                    Trouble(
                        "The application's installation is not finished (app.info INSTALLED is false): Bitrix24 "
                        "accepts every call and delivers nothing until it is."
                    )
                )
            owner = f"listen-{os.getpid()}-{secrets.token_hex(4)}"
            self._bindings = Bindings(client, self._state, owner, keep=self._keep)
            self._events = events
            try:
                # Before the orphans go: where the address is still the same, it never ceases to be bound.
                await self._bindings.bind_all(events, handler_url)
                self._handler_url = self._wanted = handler_url
                await self._remove_orphans()
                await self._check()
                self._entered = True
                yield
            finally:
                await _to_its_end(self._end(keep=self._keep and self._entered))

    def move_to(self, handler_url: str) -> None:
        """The handler has this address from now on; `follow` sees to it."""
        self._wanted = handler_url
        self._moving.set()

    async def follow(self) -> None:
        """Bind the address that was last wanted, then unbind the one before; for ever, however long it takes."""
        failures = 0
        while True:
            await self._moving.wait()
            self._moving.clear()
            if self._wanted == self._handler_url:
                failures = 0
                continue
            try:
                await self._move(self._wanted)
                failures = 0
            except UserError as error:
                if not failures:
                    self._emit(Trouble(f"The new address is not bound yet: {error}"))
                pause = self._back_off[min(failures, len(self._back_off) - 1)]
                failures += 1
                self._moving.set()
                await asyncio.sleep(pause)

    async def _move(self, handler_url: str) -> None:
        await self._bindings.bind_all(self._events, handler_url)
        self._handler_url = handler_url
        self._emit(Bound(handler_url, tuple(self._events), self._portal.name))
        self._on_moved()
        left = await self._bindings.unbind_all(but=handler_url)
        if left:
            events = ", ".join(leftover.row.event for leftover in left)
            self._emit(
                Trouble(
                    f"The former address is still bound for {events} ({left[0].reason}); that is tried again at "
                    "the end."
                )
            )
        try:
            await self._check()
        except UserError as error:
            self._emit(Trouble(f"Whether the portal lists the new address could not be looked up: {error}"))

    async def _check(self) -> None:
        """Tell what the portal's own list has to say about it."""
        survey = await self._bindings.survey(self._events, self._handler_url)
        if survey.missing:
            self._emit(
                Trouble(
                    f"The portal has accepted the binding of {', '.join(survey.missing)} and does not list it "
                    "(event.get): start again if nothing arrives."
                )
            )
        for other in survey.others:
            self._emit(Note(f"{other.event} also goes to {_whose(other)}, which fires too."))

    async def _remove_orphans(self) -> None:
        done = await self._bindings.clean()
        if done.unbound:
            self._emit(Note(f"Unbound what a crashed run had left on the portal ({len(done.unbound)})."))
        for left in done.left:
            self._emit(Trouble(f"A binding of a crashed run is still there: {left.reason}"))

    async def _end(self, *, keep: bool) -> None:
        """Unbind everything, or with ``keep`` all but the present address."""
        command = f"{CLEAN_UP_COMMAND} --kept" if keep else CLEAN_UP_COMMAND
        if keep:
            self._emit(Note(f"Left bound on purpose: {', '.join(self._events)}; unbind with: {command}"))
        try:
            async with asyncio.timeout(_UNBIND_SECONDS):
                left = await self._bindings.unbind_all(but=self._handler_url if keep else None)
        except TimeoutError:
            self.left = True
            self._emit(Trouble(f"The portal did not answer in time; unbind with: {command}"))
            return
        if left:
            self.left = True
            events = ", ".join(leftover.row.event for leftover in left)
            self._emit(Trouble(f"Still bound: {events} ({left[0].reason}); unbind with: {command}"))


def _whose(other: Other) -> str:
    # Other people keep keys in the query of their addresses.
    address = shown_url(other.handler.partition("?")[0])
    if other.row is None:
        return address
    if other.row.state == "kept":
        return f"{address} (kept by an earlier run; unbind it with: {CLEAN_UP_COMMAND} --kept)"
    return f"{address} (another listen, process {other.row.pid})"


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Run ``work`` whole even if this task is cancelled meanwhile: whoever waits for it is ending already."""
    task = asyncio.create_task(work)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait((task,))
    task.result()

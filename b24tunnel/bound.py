"""A session's bindings on a portal: made when it begins, removed when it ends, or told how to."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from b24tunnel.happenings import Happening, Note, Trouble
from b24tunnel.portal import Bindings, Portal, RestClient, State
from b24tunnel.redact import shown_url

CLEAN_UP_COMMAND = "b24tunnel bindings clean"
_UNBIND_SECONDS = 4.0


class Bound:
    """Binds and unbinds on ``portal``; ``left`` tells whether something could not be unbound."""

    def __init__(self, portal: Portal, state: State, emit: Callable[[Happening], None]) -> None:
        self.left = False
        self._portal = portal
        self._state = state
        self._emit = emit

    @asynccontextmanager
    async def to(self, handler_url: str, events: Sequence[str]) -> AsyncIterator[None]:
        """``events`` are bound to the address inside the block.

        Before, what crashed runs left is unbound, and other handlers of the same events are told. Raises
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
            bindings = Bindings(client, self._state, owner=f"listen-{os.getpid()}-{secrets.token_hex(4)}")
            await self._remove_orphans(bindings)
            for other in await bindings.foreign(events):
                # Other people keep keys in the query of their addresses.
                address = shown_url(other.handler.partition("?")[0])
                self._emit(Note(f"{other.event} also goes to {address}, which fires too."))
            try:
                await bindings.bind_all(events, handler_url)
                yield
            finally:
                await _to_its_end(self._unbind(bindings))

    async def _remove_orphans(self, bindings: Bindings) -> None:
        done = await bindings.clean()
        if done.unbound:
            self._emit(Note(f"Unbound what a crashed run had left on the portal ({len(done.unbound)})."))
        for left in done.left:
            self._emit(Trouble(f"A binding of a crashed run is still there: {left.reason}"))

    async def _unbind(self, bindings: Bindings) -> None:
        try:
            async with asyncio.timeout(_UNBIND_SECONDS):
                left = await bindings.unbind_all()
        except TimeoutError:
            self.left = True
            self._emit(Trouble(f"The portal did not answer in time; unbind with: {CLEAN_UP_COMMAND}"))
            return
        if left:
            self.left = True
            events = ", ".join(leftover.row.event for leftover in left)
            self._emit(Trouble(f"Still bound: {events} ({left[0].reason}); unbind with: {CLEAN_UP_COMMAND}"))


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Run ``work`` whole even if this task is cancelled meanwhile: whoever waits for it is ending already."""
    task = asyncio.create_task(work)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait((task,))
    task.result()

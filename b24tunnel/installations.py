"""A session's installations: each delivery that claims one is held against what the portal itself says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from b24tunnel.errors import UserError
from b24tunnel.event import Event
from b24tunnel.happenings import Happening, Installed, Trouble
from b24tunnel.portal import Portal, State
from b24tunnel.portal.installation import confirm_installation

# Anybody who knows the address can claim installations, and each costs a call to the portal, which allows two a
# second from one address ("Limits").
_MOST_WAITING = 4
_MOST_REFUSALS = 5
_REFUSAL_SECONDS = 60.0


class Installations:
    """Confirms installations on ``portal`` one at a time, and stores what they bring."""

    def __init__(self, portal: Portal, state: State, emit: Callable[[Happening], None]) -> None:
        self._portal = portal
        self._state = state
        self._emit = emit
        self._one_at_a_time = asyncio.Lock()
        self._waiting = 0
        self._refusals: list[float] = []
        self._told_of_many = False

    async def confirm(self, event: Event) -> str | None:
        """The application_token of an installation that the portal has confirmed and that is stored; else None."""
        if self._waiting >= _MOST_WAITING or self._too_many_refusals():
            if not self._told_of_many:
                self._told_of_many = True
                self._emit(
                    Trouble(
                        "Many deliveries claim an installation that the portal does not confirm: for a minute no "
                        "more of them are looked into."
                    )
                )
            return None
        self._told_of_many = False
        self._waiting += 1
        try:
            async with self._one_at_a_time:
                stored = await confirm_installation(self._portal, self._state, event.auth or {})
        except UserError as error:
            self._refusals.append(time.monotonic())
            self._emit(Trouble(f"An installation was not taken over: {error}"))
            return None
        finally:
            self._waiting -= 1
        self._portal = stored
        self._emit(Installed(stored.name, event.code or ""))
        return stored.application_token or None

    def _too_many_refusals(self) -> bool:
        now = time.monotonic()
        self._refusals = [at for at in self._refusals if now - at < _REFUSAL_SECONDS]
        return len(self._refusals) >= _MOST_REFUSALS

"""A session's installations: each delivery that claims one is held against what the portal itself says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from b24tunnel.errors import UserError
from b24tunnel.event import Event
from b24tunnel.happenings import Happening, Installed, Note, Trouble
from b24tunnel.portal import Portal, State
from b24tunnel.portal.installation import (
    NotThisPortal,
    confirm_application_token,
    confirm_installation,
)
from b24tunnel.seldom import Seldom

# Anybody who knows the address can claim installations, and each costs a call to the portal, which allows two a
# second from one address ("Limits").
_MOST_WAITING = 4
_MOST_REFUSALS = 5
_REFUSAL_SECONDS = 60.0


@dataclass
class _Budget:
    """What is spent on claims that come by one way."""

    waiting: int = 0
    refusals: list[float] = field(default_factory=list)
    told: bool = False

    @property
    def is_spent(self) -> bool:
        now = time.monotonic()
        self.refusals = [at for at in self.refusals if now - at < _REFUSAL_SECONDS]
        return self.waiting >= _MOST_WAITING or len(self.refusals) >= _MOST_REFUSALS


class Installations:
    """Confirms installations on ``portal`` one at a time, and stores what they bring."""

    def __init__(self, portal: Portal, state: State, emit: Callable[[Happening], None]) -> None:
        self._portal = portal
        self._state = state
        self._emit = emit
        self._seldom = Seldom(_REFUSAL_SECONDS)
        self._one_at_a_time = asyncio.Lock()
        # Strangers, who do not know the handler's path, cannot spend what is there for those who do.
        self._budgets = {True: _Budget(), False: _Budget()}

    async def confirm(self, event: Event, *, secret_path: bool) -> str | None:
        """The application_token of an installation that the portal has confirmed and that is stored; else None.

        ``secret_path``: whether it came to the path that only the portal knows.
        """
        stored = await self._asked(confirm_installation, event, secret_path)
        if stored is None:
            return None
        self._emit(Installed(stored.name, event.code or ""))
        return stored.application_token or None

    async def confirm_token(self, event: Event, *, secret_path: bool) -> str | None:
        """The application_token of an event whose access token the portal has confirmed, stored; else None."""
        if not (event.auth or {}).get("access_token"):
            return None  # of a robot, a webhook: nothing to ask with
        stored = await self._asked(confirm_application_token, event, secret_path)
        if stored is None:
            return None
        self._emit(Note(f"The application_token of {stored.name} is known now: what has another one is refused."))
        return stored.application_token or None

    async def _asked(
        self, ask: Callable[[Portal, State, Mapping[str, Any]], Awaitable[Portal]], event: Event, secret_path: bool
    ) -> Portal | None:
        budget = self._budgets[secret_path]
        if budget.is_spent:
            if not budget.told:
                budget.told = True
                self._emit(
                    Trouble(
                        "Many deliveries claim what the portal does not confirm: for a minute no more of them are "
                        "looked into."
                    )
                )
            return None
        budget.told = False
        budget.waiting += 1
        try:
            async with self._one_at_a_time:
                self._portal = await ask(self._portal, self._state, event.auth or {})
        except UserError as error:
            if not isinstance(error, NotThisPortal):  # which costs nothing
                budget.refusals.append(time.monotonic())
            self._seldom.say(
                "refused",
                f"{event.code} was not believed: {error}",
                "Deliveries were not believed: {count} more within a minute.",
                lambda told: self._emit(Trouble(told)),
            )
            return None
        finally:
            budget.waiting -= 1
        return self._portal

    def close(self) -> None:
        """Tell what was counted."""
        self._seldom.finish()

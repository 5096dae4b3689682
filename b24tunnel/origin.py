"""Where a delivery comes from: by its token, what the portal says of an installation, its sender's address."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from b24tunnel.errors import UserError
from b24tunnel.event import Event
from b24tunnel.form import FormError
from b24tunnel.recording import Recording, Verdict
from b24tunnel.verdict import judge

# Deliveries that bring an application_token which may be another one than before ("Installation callback",
# "OnAppUpdate").
INSTALLATIONS = frozenset({"ONAPPINSTALL", "ONAPPUPDATE"})

# Whether a sender's address is one of Bitrix24's own servers'.
Admits = Callable[[str], Awaitable[bool]]

_CLOSE_SECONDS = 1.0
_SECONDS_BETWEEN_LOOKS = 1.0


class Confirms(Protocol):
    """What the portal says of a delivery: the application_token that holds now, or None where it is not confirmed.

    ``secret_path``: whether it came to the path that only the portal knows.
    """

    async def confirm(self, event: Event, *, secret_path: bool) -> str | None:
        """Of an installation, whose tokens are stored then."""
        ...

    async def confirm_token(self, event: Event, *, secret_path: bool) -> str | None:
        """Of any event, as long as no application_token is known; nothing else of it is stored."""
        ...


class Origin:
    """The ``application_token`` that deliveries have to carry (None: it is not known), and who may change it."""

    def __init__(
        self,
        application_token: str | None = None,
        *,
        installations: Confirms | None = None,
        stored: Callable[[], str | None] = lambda: None,
        admits: Admits | None = None,
    ) -> None:
        """Without ``installations`` no other token is ever believed; ``stored`` reads the one that is stored now.

        Without ``admits`` senders' addresses do not matter.
        """
        self.application_token = application_token
        self.admits = admits
        self._installations = installations
        self._stored = stored
        self._looked_at = 0.0
        self._confirmed: Event | None = None
        self._learning: set[asyncio.Task[None]] = set()

    async def second_look(
        self, verdict: Verdict, code: str | None, target: str, body: bytes, *, secret_path: bool
    ) -> Verdict:
        """The verdict on a delivery whose token is another one: it may have changed, or an installation bring it.

        Its sender waits meanwhile: what is forwarded has to be known to come from the portal.
        """
        if verdict != "mismatched" or self._installations is None:
            return verdict
        if await self._has_changed() and judge(target, body, self.application_token)[1] == "verified":
            return "verified"
        if code is None or code.upper() not in INSTALLATIONS:
            return verdict
        try:
            event = Event.from_request(target, body)
        except FormError:
            return verdict
        token = await self._installations.confirm(event, secret_path=secret_path)
        if token is None or token != event.application_token:
            return verdict
        self.application_token = token
        self._confirmed = event
        return "verified"

    async def _has_changed(self) -> bool:
        """Whether another process has stored another token. Strangers' requests ask once a second at most."""
        now = time.monotonic()
        if now - self._looked_at < _SECONDS_BETWEEN_LOOKS:
            return False
        self._looked_at = now
        try:
            token = await asyncio.to_thread(self._stored)
        except UserError:
            return False  # removed, or unreadable at this moment: what is known goes on to hold
        if token is None or token == self.application_token:
            return False
        self.application_token = token
        return True

    def learn(self, recording: Recording, *, secret_path: bool) -> None:
        """Have an installation that is on disk confirmed; or any event, while no token is known."""
        if self._installations is None or recording.verdict == "mismatched" or recording.code is None:
            return
        installs = recording.code.upper() in INSTALLATIONS
        if not installs and (self.application_token is not None or self._learning):
            return
        event = recording.event
        if event.application_token is None or event == self._confirmed:
            return
        task = asyncio.create_task(self._learn(event, self._installations, installs, secret_path))
        self._learning.add(task)
        task.add_done_callback(self._learning.discard)

    async def _learn(self, event: Event, confirms: Confirms, installs: bool, secret_path: bool) -> None:
        confirm = confirms.confirm if installs else confirms.confirm_token
        token = await confirm(event, secret_path=secret_path)
        if token is not None:
            self.application_token = token

    async def close(self) -> None:
        """Give a confirmation that is under way a moment, then give it up."""
        if not self._learning:
            return
        _, late = await asyncio.wait(self._learning, timeout=_CLOSE_SECONDS)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

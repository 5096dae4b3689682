"""Where a delivery comes from: by its token, what the portal says of an installation, its sender's address."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from b24tunnel.event import Event
from b24tunnel.form import FormError
from b24tunnel.recording import Recording, Verdict

# Deliveries that bring an application_token which may be another one than before ("Installation callback",
# "OnAppUpdate").
INSTALLATIONS = frozenset({"ONAPPINSTALL", "ONAPPUPDATE"})

# What the portal says of an installation: the application_token that holds now, or None where it is not confirmed.
Confirm = Callable[[Event], Awaitable[str | None]]
# Whether a sender's address is one of Bitrix24's own servers'.
Admits = Callable[[str], Awaitable[bool]]

_CLOSE_SECONDS = 1.0


class Origin:
    """The ``application_token`` that deliveries have to carry (None: it is not known), and who may change it."""

    def __init__(
        self, application_token: str | None = None, *, confirm: Confirm | None = None, admits: Admits | None = None
    ) -> None:
        """Without ``confirm`` no installation is believed; without ``admits`` senders' addresses do not matter."""
        self.application_token = application_token
        self.admits = admits
        self._confirm = confirm
        self._learning: set[asyncio.Task[None]] = set()

    async def second_look(self, verdict: Verdict, code: str | None, target: str, body: bytes) -> Verdict:
        """The verdict on a delivery whose token is another one: an installation may bring a new one.

        Its sender waits meanwhile: what is forwarded has to be known to come from the portal.
        """
        if verdict != "mismatched" or code is None or code.upper() not in INSTALLATIONS or self._confirm is None:
            return verdict
        try:
            event = Event.from_request(target, body)
        except FormError:
            return verdict
        token = await self._confirm(event)
        if token is None or token != event.application_token:
            return verdict
        self.application_token = token
        return "verified"

    def learn(self, recording: Recording) -> None:
        """Have an installation that is on disk confirmed, and its token hold from then on."""
        code = (recording.code or "").upper()
        if self._confirm is not None and code in INSTALLATIONS and recording.verdict != "mismatched":
            task = asyncio.create_task(self._learn(recording.event, self._confirm))
            self._learning.add(task)
            task.add_done_callback(self._learning.discard)

    async def _learn(self, event: Event, confirm: Confirm) -> None:
        token = await confirm(event)
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

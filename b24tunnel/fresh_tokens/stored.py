"""A stored portal's tokens for replayed recordings: shown to the portal first, renewed when they have expired."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from b24tunnel.errors import UserError, WrongUsage
from b24tunnel.fresh_tokens.carried import LIFE_SECONDS, Held

if TYPE_CHECKING:
    from b24tunnel.portal import Portal, State

# A token that was renewed just now is good for an hour. How old one is that the portal accepts, nobody knows: it
# is shown to the portal again after a minute, which costs one call of the two a second that are free ("Limits").
_SECONDS_AFTER_RENEWAL = LIFE_SECONDS - 300
_SECONDS_AFTER_LOOK = 60


class StoredTokens:
    """The tokens of the portal ``name`` in ``state``, shared by all recordings of a run.

    The portal is asked with one cheap call (``app.info``) at the first need and again from time to time;
    `RestClient` renews the tokens where the portal answers ``expired_token``. What failed once is not tried again:
    `failure` is why.
    """

    def __init__(self, name: str, state: State, now: Callable[[], datetime]) -> None:
        self.name = name
        self.failure: UserError | None = None
        self._state = state
        self._now = now
        self._one_at_a_time = asyncio.Lock()
        self._kept: Mapping[Held, str] | None = None
        self._kept_without: Mapping[Held, str] | None = None
        self._token = ""
        self._token_since = 0
        self._looked_at = 0
        self._look_after = 0

    async def fresh(self) -> Mapping[Held, str]:
        """What recordings are to carry, with tokens that the portal accepts; raises `UserError`."""
        if self._kept is None or self._look_is_due():
            async with self._one_at_a_time:
                if self.failure is not None:
                    # Without what it gathered on its way to others who waited.
                    raise self.failure.with_traceback(None)
                if self._kept is None or self._look_is_due():
                    try:
                        self._kept = await self._look()
                    except UserError as error:
                        self.failure = error
                        raise
        return self._kept

    async def without_tokens(self) -> Mapping[Held, str]:
        """What recordings that carry no tokens are to carry; asks nobody, raises `UserError`."""
        if self._kept_without is None:
            async with self._one_at_a_time:
                if self._kept_without is None:
                    portal = await asyncio.to_thread(self._state.portal, self.name)
                    self._kept_without = _values(portal, 0)
        return self._kept_without

    def _look_is_due(self) -> bool:
        # A clock that was set back makes no token younger.
        return not 0 <= int(self._now().timestamp()) - self._looked_at < self._look_after

    async def _look(self) -> Mapping[Held, str]:
        from b24tunnel.portal import RestClient

        asked_at = int(self._now().timestamp())
        # Read each time: another process may have renewed the tokens, or somebody signed in anew.
        before = await asyncio.to_thread(self._state.portal, self.name)
        if not before.access_token:
            raise WrongUsage(
                f"no tokens are stored for the portal {self.name}; store some with `b24tunnel portal login "
                f"{self.name}`"
            )
        async with RestClient(before, self._state) as client:
            await client.app_info()
            portal = client.portal
        renewed = portal.access_token != before.access_token
        if portal.access_token != self._token or asked_at >= self._token_since + LIFE_SECONDS:
            self._token, self._token_since = portal.access_token, asked_at
        self._looked_at = asked_at
        self._look_after = _SECONDS_AFTER_RENEWAL if renewed else _SECONDS_AFTER_LOOK
        # What was renewed comes as it is stored, without a secret that lies elsewhere.
        portal = dataclasses.replace(portal, application_token=before.application_token)
        return _values(portal, self._token_since + LIFE_SECONDS)


def portal_domain(portal: Portal) -> str:
    """The portal's ``domain`` as Bitrix24 writes it into deliveries."""
    return portal.domain or urlsplit(portal.client_endpoint).netloc


def _values(portal: Portal, expires: int) -> Mapping[Held, str]:
    """What there is to fill in of ``portal``, whose token expires at this time (unix seconds) at the latest."""
    from b24tunnel.portal.addresses import usual_server

    values: dict[Held, str] = {
        "access_token": portal.access_token,
        "refresh_token": portal.refresh_token,
        "expires": str(expires),
        "expires_in": str(LIFE_SECONDS),
        "application_token": portal.application_token,
        "client_endpoint": portal.client_endpoint,
        "server_endpoint": portal.server_endpoint or usual_server(portal.client_endpoint),
        "domain": portal_domain(portal),
        "member_id": portal.member_id,
        "protocol": "0" if urlsplit(portal.client_endpoint).scheme == "http" else "1",
    }
    return {held: value for held, value in values.items() if value}

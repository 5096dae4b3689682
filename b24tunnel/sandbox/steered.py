"""What can be done to a sandbox from Python: let events happen, set up applications, switch faults on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from b24tunnel import catalogue
from b24tunnel.catalogue.bindable import bindable_codes
from b24tunnel.errors import WrongUsage

from . import applications, pages
from .answers import Refusal
from .faults import ANY, TOKEN, Fault
from .methods_events import check_handler, check_unique
from .pages import Page
from .rest import find
from .seen import Seen
from .store import Binding
from .wire import TooBig

MAX_AGE = 100 * 365 * 24 * 3600


class Steered(Seen):
    """The side of the sandbox that acts."""

    # ---- applications

    @property
    def installed(self) -> bool:
        """Whether the application's installation is finished. Set it to finish the installation or undo it."""
        return self._portal.installed

    @installed.setter
    def installed(self, value: bool) -> None:
        self._portal.installed = value

    @property
    def redirect_uri(self) -> str:
        """Where ``/oauth/authorize/`` sends the browser: the return address in the application's settings."""
        return self._portal.redirect_uri

    @redirect_uri.setter
    def redirect_uri(self, value: str) -> None:
        self._portal.redirect_uri = value

    @property
    def install_url(self) -> str:
        """The initial installation path of the last ``save_application``, ``""`` without one."""
        return self._portal.install_url

    def save_application(self, *, handler: str = "", install: str = "", api_only: bool = True) -> None:
        """Saves the form "Local application" as a person would.

        ``handler``: where the application lives, hence also its OAuth return address. ``install``: the initial
        installation path. With ``api_only`` the installation counts as finished; ``install`` is bound to
        ONAPPINSTALL, replacing the one of the last save, and the event is raised. Without it ``installed`` is
        False until ``finish_installation``. Raises ``WrongUsage`` for an address that Bitrix24 refuses.
        """
        self._must_run()
        try:
            applications.save(self._portal, handler, install, api_only)
        except Refusal as refusal:
            raise WrongUsage(f"The application was not saved: {refusal.description}.") from refusal

    def finish_installation(self) -> None:
        """What ``BX24.installFinish`` on the installer's page does; raises ONAPPINSTALL where it is bound."""
        self._must_run()
        applications.finish_installation(self._portal)

    def add_webhook(self, handler: str, events: Iterable[str]) -> str:
        """Adds an outgoing webhook and gives its own ``application_token``.

        Its deliveries carry no tokens, and its handlers are none of the application's. Raises ``WrongUsage`` for
        an unknown event, none at all, or an address that Bitrix24 refuses.
        """
        codes = bindable_codes(events)
        if not codes:
            raise WrongUsage("An outgoing webhook needs at least one event.")
        try:
            return applications.add_webhook(self._portal, handler, codes).application_token
        except Refusal as refusal:
            raise WrongUsage(f"The outgoing webhook was not added: {refusal.description}.") from refusal

    def bind_foreign(self, event: str, handler: str) -> Binding:
        """Binds a handler of another application on the same portal.

        Raises ``WrongUsage`` for an unknown event or an address that Bitrix24 refuses.
        """
        code = _known(event)
        foreign = self._portal.foreign
        try:
            check_handler(handler)
            check_unique(self._portal, Binding(0, code, handler, 0, foreign.client_id, True))
        except Refusal as refusal:
            raise WrongUsage(f"{handler} cannot be bound to {code}: {refusal.description}.") from refusal
        return self._portal.bind(foreign, code, handler)

    # ---- tokens

    def expire_access_token(self) -> None:
        """Lets every access token that was given out so far expire; refresh tokens stay good."""
        self._portal.tokens.expire()

    def age(self, seconds: float) -> None:
        """Lets every token and code that was given out grow older by so much.

        Access tokens live for ``token_life`` seconds, refresh tokens for 180 days, codes for 30 seconds.
        """
        if not (math.isfinite(seconds) and 0 <= seconds <= MAX_AGE):
            raise WrongUsage(f"Tokens cannot grow older by {seconds} seconds: give 0 to {MAX_AGE}.")
        self._portal.tokens.age(seconds)

    def authorization_code(self) -> str:
        """A new code for the ``authorization_code`` grant, good for 30 seconds and one use."""
        return self._portal.tokens.code(self._portal.own, self._portal.user_id)

    # ---- what happens

    def fail(self, what: str, fault: Fault, times: int = 1) -> None:
        """The next ``times`` requests for ``what`` meet ``fault``.

        ``what``: a REST method's name, ``"oauth/token"``, or ``"*"`` for any REST call. A batch counts as
        ``batch``, whatever is in it. Raises ``WrongUsage`` for a method that the sandbox does not have.
        """
        name = what.lower()
        if name not in (ANY, TOKEN) and find(name) is None:
            raise WrongUsage(f"The sandbox has no method {what}: name one, {TOKEN!r} or {ANY!r}.")
        self._rest.faults.add(name, fault, times)

    def raise_event(self, code: str, data: Any = None, user: bool = True) -> int:
        """Lets an event happen on the portal and gives the number of deliveries that were queued.

        ``data``: JSON values; None takes the catalogue's sample. ``user``: False for an event of a robot or an
        agent, which carries no tokens. Raises ``WrongUsage`` for an unknown code, for data of more than
        4 MiB, or when the sandbox does not run.
        """
        known = _known(code)
        self._must_run()
        if data is None:
            entry = catalogue.lookup(known)
            data = [] if entry is None or entry.data is None else entry.data
        try:
            return self._portal.raise_event(known, data, self._portal.user_id if user else None)
        except TooBig as error:
            raise WrongUsage(f"{known} was not raised: {error}.") from error

    def run_robot(self, code: str, properties: Mapping[str, Any] | None = None) -> int:
        """Lets a workflow on a deal run a robot or activity of the application; gives the deliveries queued.

        ``properties``: JSON values by name. Nothing is delivered before the installation is finished. Raises
        ``WrongUsage`` when the application registered none of this code.
        """
        self._must_run()
        return self._portal.robots.run(self._portal, code, properties or {})

    async def open_page(
        self, url: str, *, placement: str = "DEFAULT", options: Mapping[str, Any] | None = None
    ) -> Page:
        """Opens a page of the application as the portal does in a user's browser, and gives its answer.

        ``placement``: ``DEFAULT`` for the application's own page and its installer. ``options``: what
        ``PLACEMENT_OPTIONS`` tells of the place. Raises ``WrongUsage`` for an address that cannot be one,
        ``OutsideFailure`` without a complete answer.
        """
        self._must_run()
        return await pages.open_page(self._portal, url, placement, options)

    async def run_settings_wizard(
        self, url: str, code: str = "OnAppSettingsInstall", data: Mapping[str, Any] | None = None
    ) -> Page:
        """Asks an application's settings wizard as the portal does, and gives its answer, which is JSON.

        ``data``: the present values of the form's fields. Raises as ``open_page`` does.
        """
        self._must_run()
        return await pages.run_settings_wizard(self._portal, url, code, data or {})

    async def idle(self, timeout: float = 10.0) -> None:
        """Waits until every delivery is done. Raises TimeoutError after ``timeout`` seconds."""
        await self._queue.idle(timeout)

    def _must_run(self) -> None:
        if not self._queue.running:
            raise WrongUsage("The sandbox does not run, so nothing can be delivered; start it first.")


def _known(event: str) -> str:
    """The code in upper case. Raises ``WrongUsage`` when Bitrix24 has no such event."""
    entry = catalogue.lookup(event)
    if entry is None:
        close = catalogue.suggest(event)
        hint = f" Did you mean {', '.join(close)}?" if close else ""
        raise WrongUsage(f"Bitrix24 has no event {event}.{hint}")
    return event.upper()

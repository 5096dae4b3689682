"""What a person sets up in the portal's own pages: the local application and outgoing webhooks.

Pages "Local applications", "Installation callback" and "Outgoing webhooks" of the Bitrix24 documentation.
"""

import secrets
from collections.abc import Sequence

from .answers import Refusal
from .methods_events import HANDLER_LENGTH, check_handler, check_unique
from .store import Binding, Portal
from .tokens import App

INSTALL = "ONAPPINSTALL"
MAX_WEBHOOKS = 100


def save(portal: Portal, handler: str, install: str, api_only: bool) -> None:
    """Saves the form of the local application. Raises ``Refusal``.

    An application without an interface is installed by saving: its installation address becomes a handler of
    ONAPPINSTALL, and the event is raised. One with an interface has to finish its installation itself, each time
    that the form is saved (a guess: the page tells of the first time only).
    """
    for address in (handler, install):
        if address:
            _check_address(address)
    row = Binding(0, INSTALL, install, 0, portal.own.client_id)
    before = portal.bindings
    portal.unbind(lambda binding: binding.handler_id == portal.install_handler_id)
    install_handler_id = 0
    if api_only and install and not any(_same(binding, row) for binding in portal.bindings):
        try:
            check_unique(portal, row)
        except Refusal:
            portal.bindings = before
            raise
        install_handler_id = portal.bind(portal.own, INSTALL, install).handler_id
    portal.install_handler_id = install_handler_id
    portal.redirect_uri, portal.install_url = handler, install
    portal.installed = api_only
    if api_only and install:
        _raise(portal)


def finish_installation(portal: Portal) -> None:
    """What ``BX24.installFinish`` does; nothing when the installation is finished already.

    Handlers of ONAPPINSTALL that the application bound meanwhile are told (a guess: the page of the method does
    not say it, that of the event speaks of every installation).
    """
    if not portal.installed:
        portal.installed = True
        _raise(portal)


def add_webhook(portal: Portal, handler: str, codes: Sequence[str]) -> App:
    """Adds an outgoing webhook with a handler row an event. ``codes``: known ones. Raises ``Refusal``."""
    _check_address(handler)
    if len(portal.webhooks) >= MAX_WEBHOOKS:
        raise Refusal("ERROR_CORE", f"The sandbox keeps at most {MAX_WEBHOOKS} outgoing webhooks")
    number = len(portal.webhooks) + 1
    webhook = App(number, f"webhook.{number}", "", secrets.token_hex(16))
    for code in codes:
        check_unique(portal, Binding(0, code, handler, 0, webhook.client_id))
    portal.webhooks[webhook.client_id] = webhook
    for code in codes:
        portal.bind(webhook, code, handler)
    return webhook


def _raise(portal: Portal) -> None:
    data = {"VERSION": "1", "ACTIVE": "Y", "INSTALLED": "Y", "LANGUAGE_ID": "en"}
    portal.raise_event(INSTALL, data, portal.user_id, only=portal.own)


def _check_address(address: str) -> None:
    check_handler(address)
    if len(address) > HANDLER_LENGTH:
        description = f"Handler URL is longer than {HANDLER_LENGTH} characters"
        raise Refusal("ERROR_WRONG_HANDLER_URL", description)


def _same(one: Binding, other: Binding) -> bool:
    return (one.client_id, one.event, one.handler, one.user_id) == (
        other.client_id,
        other.event,
        other.handler,
        other.user_id,
    )

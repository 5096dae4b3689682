"""event.bind, event.unbind, event.get, event.test and events.

Pages of the same names in the Bitrix24 REST documentation; codes and texts as the portal's rest module has them.
"""

from typing import Any
from urllib.parse import urlsplit

from b24tunnel import catalogue

from .answers import ERROR_ARGUMENT, ERROR_CORE, Refusal, access_denied
from .calls import Call, Method
from .store import MAX_BINDINGS, Binding, Portal
from .wire import TooBig

HANDLER_LENGTH = 255
HANDLER_UNIQUE = 180


def bind(call: Call) -> bool:
    """Registers a handler of an event."""
    portal = call.portal
    offline = _offline(call)
    user_id = _user_of_binding(call, offline)
    code = call.need("event").upper()
    handler = "" if offline else call.need("handler")
    connector = call.text("auth_connector")
    if offline and code == "ONOFFLINEEVENT":
        raise Refusal(ERROR_ARGUMENT, "Offline event cannot be registered for this event.", argument="EVENT_TYPE")
    if not _bindable(portal, code):
        raise Refusal("ERROR_EVENT_NOT_FOUND", "Event not found")
    if not offline:
        check_handler(handler)
    check_unique(portal, Binding(0, code, handler, user_id, _client_id(call), False, offline, connector))
    portal.bind(call.app, code, handler, user_id, offline, connector)
    return True


def check_handler(handler: str) -> None:
    """Refuses an address that ``event.bind`` refuses.

    The host needs a dot after its first character: ``localhost`` fails, ``127.0.0.1`` passes.
    """
    try:
        parts = urlsplit(handler)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        raise Refusal("ERROR_WRONG_HANDLER_URL", "Wrong handler URL") from None
    if host.find(".") < 1:
        raise Refusal("ERROR_WRONG_HANDLER_URL", "Wrong handler URL")
    if parts.scheme not in ("http", "https"):
        raise Refusal("ERROR_UNSUPPORTED_PROTOCOL", "Unsupported handler protocol")


def check_unique(portal: Portal, wanted: Binding) -> None:
    """Refuses a binding that the portal's table cannot take.

    A row is told apart by application, event, user, connector and the first 180 characters of the handler.
    """
    if len(wanted.handler) > HANDLER_LENGTH:
        raise _unable(f"Handler URL is longer than {HANDLER_LENGTH} characters")
    for row in portal.bindings:
        if _place(row) != _place(wanted):
            continue
        if row.handler == wanted.handler:
            raise _unable("Handler already binded")
        if row.handler[:HANDLER_UNIQUE] == wanted.handler[:HANDLER_UNIQUE]:
            raise _unable(f"Duplicate entry: same first {HANDLER_UNIQUE} characters as another handler URL")
    if len(portal.bindings) >= MAX_BINDINGS:
        raise _unable(f"The sandbox keeps at most {MAX_BINDINGS} handlers")


def unbind(call: Call) -> dict[str, int]:
    """Removes handlers of an event.

    Without ``handler`` this removes every handler of the event, other applications' too: the danger that the
    page warns of is real, so it is here as well. Outgoing webhooks stay (a guess: their rows belong to the
    portal's own settings).
    """
    code = call.need("event").upper()
    offline = _offline(call)
    handler = call.text("handler")
    connector = call.text("auth_connector")
    admin = call.portal.admin
    by_user = "auth_type" in call.params
    user_id = call.number("auth_type", 0)
    if offline and not admin:
        raise access_denied("Offline events unbinding requires administrator access rights")
    if by_user and not admin and user_id != call.user_id:
        raise access_denied("Event unbinding with AUTH_TYPE requires administrator access rights")

    def matches(row: Binding) -> bool:
        if row.event != code or row.offline != offline or row.webhook:
            return False
        if offline:
            return row.client_id == _client_id(call) and row.connector == connector
        if handler and (row.handler != handler or row.client_id != _client_id(call)):
            return False
        if by_user and row.user_id != user_id:
            return False
        return admin or row.user_id == call.user_id

    return {"count": call.portal.unbind(matches)}


def get(call: Call) -> list[dict[str, Any]]:
    """The application's handlers; a user who is no administrator sees the own ones."""
    rows = []
    for row in call.portal.bindings:
        if row.client_id != _client_id(call) or not (call.portal.admin or row.user_id == call.user_id):
            continue
        if row.offline:
            rows.append({"event": row.event, "connector_id": row.connector, "offline": 1})
        else:
            rows.append({"event": row.event, "handler": row.handler, "auth_type": str(row.user_id), "offline": 0})
    return rows


def names(call: Call) -> list[str]:
    """The codes that can be bound: of one scope, of all, or of the application's scopes and ``basic``."""
    scope = call.text("scope")
    everything = call.yes("full")
    return [
        code
        for code, entry in catalogue.events().items()
        if entry.delivered
        and not entry.pattern
        and (entry.scope == scope if scope else everything or call.portal.has_scope(entry.scope))
    ]


def test(call: Call) -> int:
    """Raises ONAPPTEST for this application's own handlers, with the call's parameters in the data."""
    data = {"QUERY": dict(call.params), "LANGUAGE_ID": "en"}
    try:
        call.portal.raise_event("ONAPPTEST", data, call.user_id, call.depth, only=call.app)
    except TooBig as error:
        raise Refusal(ERROR_CORE, str(error)) from error
    return 1


def _bindable(portal: Portal, code: str) -> bool:
    # The portal looks an event up among those of the application's scopes only, hence one answer for both.
    entry = catalogue.lookup(code)
    if entry is None or not entry.delivered or "{" in code:
        return False
    return portal.has_scope(entry.scope)


def _user_of_binding(call: Call, offline: bool) -> int:
    """Whose tokens the deliveries will carry. Only an administrator may choose another user."""
    user_id = call.number("auth_type", 0)
    if call.portal.admin:
        return user_id
    if offline:
        raise access_denied("Offline events binding requires administrator access rights")
    if user_id not in (0, call.user_id):
        raise access_denied("Event binding with AUTH_TYPE requires administrator access rights")
    return call.user_id


def _offline(call: Call) -> bool:
    kind = call.text("event_type").lower()
    if kind not in ("", "online", "offline"):
        raise Refusal(ERROR_ARGUMENT, "Value must be one of values: online, offline", argument="EVENT_TYPE")
    return kind == "offline"


def _client_id(call: Call) -> str:
    return call.app.client_id


def _place(row: Binding) -> tuple[str, str, int, bool, str]:
    return (row.client_id, row.event, row.user_id, row.offline, row.connector)


def _unable(why: str) -> Refusal:
    return Refusal(ERROR_CORE, f"Unable to set event handler: {why}")


METHODS = {
    "event.bind": Method(bind, application_only=True),
    "event.unbind": Method(unbind, application_only=True),
    "event.get": Method(get, application_only=True),
    "event.test": Method(test, application_only=True),
    "events": Method(names, application_only=True),
}

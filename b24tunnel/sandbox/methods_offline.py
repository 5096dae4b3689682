"""event.offline.get, .list, .clear and .error. Pages of the same names in the Bitrix24 REST documentation."""

from typing import Any

from .answers import ERROR_ARGUMENT, Refusal, access_denied, no_license
from .calls import Call, Listing, Method, scalar
from .offline import OfflineEvent

PAGE = 50
MESSAGE_ID_LENGTH = 32


def get(call: Call) -> dict[str, Any]:
    """Hands out waiting events: removed at once, or with ``clear=0`` reserved under a ``process_id``.

    With a ``process_id`` it hands out what that process has reserved and nothing else, as in the portal's source.
    """
    _admins_only(call)
    clear_them = bool(call.number("clear", 1))
    if not clear_them and not call.portal.offline_extended:
        raise no_license("extended offline events handling")
    limit = call.number("limit", PAGE)
    if limit <= 0:
        raise Refusal(ERROR_ARGUMENT, "Value must be positive integer", argument="LIMIT")
    process_id = call.text("process_id").strip()
    again = bool(process_id)
    with_errors = call.number("error", 0) == 1
    events = call.portal.offline.select(
        lambda event: (
            event.connector == call.text("auth_connector")
            and event.process_id == process_id
            and event.error == with_errors
            and _matches(event, call.table("filter"))
        )
    )
    events = _ordered(events, call.table("order"))[:limit]
    shown = [event.as_json() for event in events]
    if clear_them:
        call.portal.offline.remove(events)
    elif not again:
        process_id = call.portal.offline.reserve(events)
    return {"process_id": process_id if again or not clear_them else None, "events": shown}


def listing(call: Call) -> Listing:
    """Shows waiting events, a page of 50 at a time, and leaves them where they are."""
    _admins_only(call)
    start = max(0, call.number("start", 0))
    events = call.portal.offline.select(
        lambda event: event.connector == call.text("auth_connector") and _matches(event, call.table("filter"))
    )
    events = _ordered(sorted(events, key=lambda event: event.number), call.table("order"))
    more = start + PAGE < len(events)
    rows = [event.as_row() for event in events[start : start + PAGE]]
    return Listing(rows, len(events), start + PAGE if more else None)


def clear(call: Call) -> bool:
    """Removes events of a batch: all, or those named by ``message_id`` or ``id``."""
    call.portal.offline.remove(_batch(call))
    return True


def error(call: Call) -> bool:
    """Marks events of a batch as failed, so that only a call with ``error=1`` hands them out again."""
    if not call.items("message_id"):
        raise Refusal(ERROR_ARGUMENT, "Argument 'MESSAGE_ID' is null or empty", argument="MESSAGE_ID")
    for event in _batch(call):
        event.error = True
        event.process_id = ""
    return True


def _batch(call: Call) -> list[OfflineEvent]:
    """The events that a call names. ``message_id`` wins over ``id``, as in the portal's source."""
    _admins_only(call)
    process_id = call.need("process_id")
    messages, numbers = call.items("message_id"), call.items("id")
    if any(len(message) != MESSAGE_ID_LENGTH for message in messages):
        raise Refusal(ERROR_ARGUMENT, "Value must be 32 characters long", argument="MESSAGE_ID")

    def named(event: OfflineEvent) -> bool:
        if event.process_id != process_id or event.connector != call.text("auth_connector"):
            return False
        if messages:
            return event.message_id in messages
        return not numbers or str(event.number) in numbers

    return call.portal.offline.select(named)


def _ordered(events: list[OfflineEvent], order: dict[str, Any]) -> list[OfflineEvent]:
    """The entries in the order that a call asks for; they come in the method's own one."""
    for name, direction in reversed(order.items()):
        down = scalar(direction).upper() == "DESC"
        match name.upper():
            case "ID":
                events = sorted(events, key=lambda event: event.number, reverse=down)
            case "TIMESTAMP_X":
                events = sorted(events, key=lambda event: event.changed_at, reverse=down)
            case "EVENT_NAME":
                events = sorted(events, key=lambda event: event.code, reverse=down)
            case "MESSAGE_ID":
                events = sorted(events, key=lambda event: event.message_id, reverse=down)
    return events


def _matches(event: OfflineEvent, conditions: dict[str, Any]) -> bool:
    """Whether an entry meets the filter; only equality is known here, other operators match everything."""
    row = event.as_row()
    for key, wanted in conditions.items():
        name = key.lstrip("=").upper()
        values = wanted if isinstance(wanted, list) else [wanted]
        if name in row and row[name] not in [scalar(value) for value in values]:
            return False
    return True


def _admins_only(call: Call) -> None:
    if not call.portal.admin:
        raise access_denied("")


METHODS = {
    "event.offline.get": Method(get, application_only=True),
    "event.offline.list": Method(listing, application_only=True),
    "event.offline.clear": Method(clear, application_only=True),
    "event.offline.error": Method(error, application_only=True),
}

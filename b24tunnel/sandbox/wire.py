"""An event as the bytes that Bitrix24 posts.

Key order and encoding follow real deliveries: event, event_handler_id, data, ts, auth. Which keys ``auth``
has: pages "Events" and "Authorization parameters in events".
"""

from collections.abc import Mapping
from typing import Any

from b24tunnel import form

from .calls import scalar
from .tokens import App, Pair

MAX_DATA_BYTES = 4 * 1024 * 1024
WITHOUT_TOKENS = frozenset({"ONAPPUNINSTALL", "ONAPPMETHODCONFIRM"})
WITH_REFRESH_TOKEN = frozenset({"ONAPPINSTALL", "ONAPPUPDATE", "ONAPPTEST", "ONOFFLINEEVENT"})


def as_wire(value: Any) -> Any:
    """A value with every scalar as the text that travels: 7 ``"7"``, true ``"1"``, null ``""``."""
    if isinstance(value, Mapping):
        return {str(key): as_wire(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_wire(item) for item in value]
    return scalar(value)


class TooBig(ValueError):
    """Event data whose form would be bigger than the queue takes."""


def check_size(value: Any) -> None:
    """Raises ``TooBig`` when the form of a value would be bigger than ``MAX_DATA_BYTES``.

    Checked before encoding: a form repeats the path of keys for each leaf, so a small JSON body can ask for a
    form of any size.
    """
    room = MAX_DATA_BYTES
    stack: list[tuple[Any, int]] = [(value, 0)]
    while stack:
        item, path = stack.pop()
        if isinstance(item, Mapping):
            stack.extend((inner, path + len(str(key)) + 2) for key, inner in item.items())
        elif isinstance(item, (list, tuple)):
            stack.extend((inner, path + 8) for inner in item)
        else:
            room -= path + len(scalar(item)) + 2
        if room < 0:
            raise TooBig(f"the event's data is bigger than {MAX_DATA_BYTES} bytes as a form")


def head(code: str, handler_id: int, data: Any, ts: int) -> bytes:
    """The body up to ``auth``. ``ts``: unix seconds. An empty ``data`` leaves no key, as in PHP."""
    return form.encode({"event": code, "event_handler_id": str(handler_id), "data": as_wire(data), "ts": str(ts)})


def tail(auth: Mapping[str, str]) -> bytes:
    """The body's ``auth`` part, with the ampersand that joins it to the head."""
    return b"&" + form.encode({"auth": dict(auth)})


def auth_of_user(
    pair: Pair, with_refresh: bool, life: int, scope: str, system: Mapping[str, str]
) -> dict[str, str]:
    """``auth`` of an event that a user caused. ``life``: seconds; ``system``: from ``auth_of_nobody``."""
    auth = {
        "access_token": pair.access.value,
        "expires": str(pair.access.expires),
        "expires_in": str(life),
        "scope": scope,
        "domain": system["domain"],
        "server_endpoint": system["server_endpoint"],
        "status": "L",
        "client_endpoint": system["client_endpoint"],
        "member_id": system["member_id"],
    }
    if with_refresh:
        auth["refresh_token"] = pair.refresh
    auth["user_id"] = str(pair.access.user_id)
    auth["application_token"] = system["application_token"]
    return auth


def auth_of_nobody(app: App, origin: str, domain: str, member_id: str) -> dict[str, str]:
    """``auth`` of an event without a user: a robot's, a workflow's, an agent's."""
    return {
        "domain": domain,
        "client_endpoint": f"{origin}/rest/",
        "server_endpoint": f"{origin}/rest/",
        "member_id": member_id,
        "application_token": app.application_token,
    }

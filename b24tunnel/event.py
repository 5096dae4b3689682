"""Event: the parsed view of a delivery, computed on demand from its bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

from b24tunnel import form

# Seconds after 1970 up to the year 9999: what `datetime` can hold.
_LATEST_TS = 253_402_300_799


@dataclass(frozen=True)
class Event:
    """What a delivery says, as a PHP handler would find it in ``$_POST``.

    ``fields`` is the whole parsed body: every leaf is a string, an array whose keys are 0…n-1 in order is a
    list, every other one a dict. A delivery that is no event (a robot, an application page) has ``code`` None.
    """

    fields: Mapping[str, Any]

    @classmethod
    def from_body(cls, body: bytes) -> Event:
        """Parse a form-encoded body. Raises ``form.FormError`` when it has more parameters than the bound."""
        return cls(_as_mapping(form.parse(body)))

    @classmethod
    def from_request(cls, target: str, body: bytes) -> Event:
        """Parse a request as PHP's ``$_REQUEST`` does: the query first, the body's fields over it, key by key.

        ``target`` is the request target (``/path?query``). Bitrix24 documents that a handler must accept GET
        and POST ("event.bind"); a GET delivery carries its fields in the query.
        """
        query = target.partition("?")[2].encode("utf-8", "surrogateescape")
        if not query:
            return cls.from_body(body)
        return cls(_as_mapping(_merged(form.parse(query), form.parse(body))))

    @property
    def code(self) -> str | None:
        """The event's code as it was sent; Bitrix24 sends upper case, compare without regard to case."""
        return _text(self.fields.get("event"))

    @property
    def data(self) -> Any:
        """``data`` as parsed: mostly a dict, sometimes a scalar; None where the delivery has none."""
        return self.fields.get("data")

    @property
    def auth(self) -> dict[str, Any] | None:
        """``auth`` as parsed, or None. A robot's or a webhook's holds no tokens."""
        auth = self.fields.get("auth")
        return auth if isinstance(auth, dict) else None

    @property
    def ts(self) -> datetime | None:
        """When Bitrix24 queued the event (aware, UTC, whole seconds); None where absent or no number."""
        text = _text(self.fields.get("ts"))
        if text is None or not (text.isascii() and text.isdigit()) or len(text) > 12:
            return None
        seconds = int(text)
        return datetime.fromtimestamp(seconds, UTC) if seconds <= _LATEST_TS else None

    @property
    def handler_id(self) -> str | None:
        """The id of the handler's row on the portal.

        The key is ``event_handler_id``; for a while in 2024 it was ``event_id``; deliveries before have none.
        """
        return _text(self.fields.get("event_handler_id")) or _text(self.fields.get("event_id"))

    @property
    def application_token(self) -> str | None:
        """``auth[application_token]``, the only proof of origin ("Secure event handlers"), or None."""
        return _text((self.auth or {}).get("application_token"))


def code_is_one_of(code: str | None, patterns: Iterable[str]) -> bool:
    """Whether a code is one of ``patterns``, codes or globs in any case; none is one of ``*`` alone."""
    if code is None:
        return "*" in patterns
    return any(fnmatchcase(code.upper(), pattern.upper()) for pattern in patterns)


def _merged(under: Any, over: Any) -> Any:
    """Two parsed forms in one: arrays are merged key by key, anything else of ``over`` takes the place.

    PHP nests at most 64 deep, so this does too.
    """
    if isinstance(under, str) or isinstance(over, str):
        return over
    result = _as_mapping(under).copy()
    for key, value in _as_mapping(over).items():
        result[key] = _merged(result[key], value) if key in result else value
    in_order = all(key == str(place) for place, key in enumerate(result))
    return list(result.values()) if in_order else result


def _as_mapping(value: Any) -> dict[str, Any]:
    """The top level as a mapping also where its keys happen to be 0…n-1."""
    return value if isinstance(value, dict) else {str(key): item for key, item in enumerate(value)}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None

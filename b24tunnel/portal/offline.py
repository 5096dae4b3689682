"""What the portal's offline queue hands out: pages of entries, and one entry read with bounds.

Pages "Offline events", "event.offline.get" and "event.offline.list" of the Bitrix24 REST documentation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from b24tunnel import form

PAGE = 50
"""The most entries that one call of ``event.offline.get`` or ``event.offline.list`` gives."""

_MAX_DATA = 4 * 1024 * 1024
# PHP nests at most 64 deep, and `data` is the first of these.
_MAX_DEPTH = 60
_CODE = re.compile(r"[!-~]{1,255}")
_MESSAGE_ID = re.compile(r"[!-~]{32}")
_NUMBER = re.compile(r"[0-9]{1,20}")


@dataclass(frozen=True)
class OfflineBatch:
    """What ``event.offline.get`` handed out: ``events`` as the portal sent them, not looked into yet.

    ``process_id`` is the mark under which they are reserved, ``""`` where they were removed at once.
    """

    process_id: str
    events: list[Any]


@dataclass(frozen=True)
class OfflinePage:
    """A page of ``event.offline.list``: ``rows`` as the portal sent them, and where the ``next`` page starts."""

    rows: list[Any]
    next: int | None


@dataclass(frozen=True)
class OfflineEntry:
    """One entry of the queue.

    ``number`` is its ID, ``changed_at`` its TIMESTAMP_X in unix seconds, ``code`` the event's in upper case.
    ``data`` is EVENT_DATA with every scalar as it travels. ``user_id`` is ``""`` where nobody caused it.
    """

    number: str
    message_id: str
    changed_at: int
    code: str
    data: Any
    user_id: str


class DamagedEntry(ValueError):
    """An entry that is not as documented; the message says what is wrong and holds nothing of its contents."""


def read_entry(value: Any) -> OfflineEntry:
    """The entry that the portal describes with ``value``; raises ``DamagedEntry``."""
    if not isinstance(value, Mapping):
        raise DamagedEntry("it is no object")
    number, message_id, code = _text(value.get("ID")), value.get("MESSAGE_ID"), value.get("EVENT_NAME")
    if not _NUMBER.fullmatch(number):
        raise DamagedEntry("ID is no number")
    if not isinstance(message_id, str) or not _MESSAGE_ID.fullmatch(message_id):
        raise DamagedEntry("MESSAGE_ID does not have 32 characters")
    if not isinstance(code, str) or not _CODE.fullmatch(code):
        raise DamagedEntry("EVENT_NAME is no event's code")
    additional = value.get("EVENT_ADDITIONAL")
    user_id = _text(additional.get("user_id")) if isinstance(additional, Mapping) else ""
    return OfflineEntry(
        number=number,
        message_id=message_id,
        changed_at=_seconds(value.get("TIMESTAMP_X")),
        code=code.upper(),
        data=_data(value.get("EVENT_DATA")),
        user_id=user_id if _NUMBER.fullmatch(user_id) and user_id.strip("0") else "",
    )


def is_free(row: Any) -> bool:
    """Whether a row of ``event.offline.list`` is neither reserved nor marked as failed."""
    return isinstance(row, Mapping) and not row.get("PROCESS_ID") and not _is_error(row)


def reserved_under(row: Any) -> str:
    """The mark under which a row of ``event.offline.list`` is reserved; ``""`` where it is not, or has failed."""
    process_id = row.get("PROCESS_ID") if isinstance(row, Mapping) and not _is_error(row) else None
    return process_id if isinstance(process_id, str) else ""


def _is_error(row: Mapping[str, Any]) -> bool:
    return _text(row.get("ERROR")) not in ("", "0")


def _seconds(value: Any) -> int:
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise DamagedEntry("TIMESTAMP_X is no time") from None
    if moment.tzinfo is None or not 1970 < moment.year < 9999:
        raise DamagedEntry("TIMESTAMP_X is no time with its time zone")
    return int(moment.timestamp())


def _data(value: Any) -> Any:
    try:
        travelling = _Travelling().made(value, 1)
        form.encode({"data": travelling})
    except form.FormError:
        raise DamagedEntry("EVENT_DATA has text that cannot be sent") from None
    return travelling


class _Travelling:
    """Makes every scalar what travels (7 ``"7"``, true ``"1"``, null ``""``), up to a bound on the form's size."""

    def __init__(self) -> None:
        self._room = _MAX_DATA

    def made(self, value: Any, depth: int, path: int = 4) -> Any:
        if depth > _MAX_DEPTH:
            raise DamagedEntry(f"EVENT_DATA is nested more than {_MAX_DEPTH} deep")
        if isinstance(value, Mapping):
            return {key: self.made(item, depth + 1, path + len(key) + 2) for key, item in value.items()}
        if isinstance(value, list):
            return [self.made(item, depth + 1, path + 8) for item in value]
        # Floats are left to the codec, which prints them as PHP does.
        scalar = value if isinstance(value, float) else _text(value)
        # A form repeats the path of keys for each leaf, so a small document can ask for a form of any size.
        self._room -= path + len(str(scalar)) + 2
        if self._room < 0:
            raise DamagedEntry(f"EVENT_DATA takes more than {_MAX_DATA} bytes as a form")
        return scalar


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    return str(value) if isinstance(value, (str, int)) else ""

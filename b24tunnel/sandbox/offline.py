"""The queue of offline events, which the application fetches itself.

Page "Offline events": an entry is an event with its data; the same change again only renews the entry's time.
"""

import hashlib
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

MAX_EVENTS = 100_000
MAX_BYTES = 64 * 1024 * 1024


@dataclass(slots=True)
class OfflineEvent:
    """One waiting event. ``process_id``: the batch that reserved it, ``""`` while it is free."""

    number: int
    changed_at: datetime
    code: str
    data: Any
    user_id: int
    message_id: str
    connector: str
    size: int
    process_id: str = ""
    error: bool = False

    def as_json(self) -> dict[str, Any]:
        """The entry as ``event.offline.get`` shows it."""
        return {
            "ID": str(self.number),
            "TIMESTAMP_X": self.changed_at.isoformat(timespec="seconds"),
            "EVENT_NAME": self.code,
            "EVENT_DATA": self.data,
            "EVENT_ADDITIONAL": {"user_id": str(self.user_id)},
            "MESSAGE_ID": self.message_id,
        }

    def as_row(self) -> dict[str, Any]:
        """The entry as ``event.offline.list`` shows it."""
        return {**self.as_json(), "PROCESS_ID": self.process_id, "ERROR": "1" if self.error else "0"}


class OfflineQueue:
    """Waiting events in order of arrival; the oldest is forgotten when there are too many."""

    def __init__(self) -> None:
        self._events: dict[int, OfflineEvent] = {}
        self._free: dict[tuple[str, str], OfflineEvent] = {}
        self._last = 0
        self._size = 0

    def put(self, code: str, data: Any, user_id: int, connector: str) -> None:
        """Adds an event, or renews the free entry that says the same."""
        text = f"{code}|{json.dumps(data)}".encode()
        message_id = hashlib.md5(text, usedforsecurity=False).hexdigest()
        now = datetime.now().astimezone()
        known = self._free.get((message_id, connector))
        if known is not None:
            known.changed_at = now
            return
        self._last += 1
        event = OfflineEvent(self._last, now, code, data, user_id, message_id, connector, len(text))
        self._events[event.number] = event
        self._free[(message_id, connector)] = event
        self._size += event.size
        while len(self._events) > MAX_EVENTS or (self._size > MAX_BYTES and len(self._events) > 1):
            self.remove([next(iter(self._events.values()))])

    def select(self, wanted: Callable[[OfflineEvent], bool]) -> list[OfflineEvent]:
        """The entries that ``wanted`` accepts, oldest change first."""
        found = [event for event in self._events.values() if wanted(event)]
        return sorted(found, key=lambda event: event.changed_at)

    def reserve(self, events: list[OfflineEvent]) -> str:
        """Marks entries as one batch's; gives the batch's new identifier."""
        process_id = secrets.token_hex(16)
        for event in events:
            event.process_id = process_id
            self._forget_free(event)
        return process_id

    def remove(self, events: list[OfflineEvent]) -> None:
        """Takes entries out."""
        for event in events:
            if self._events.pop(event.number, None) is not None:
                self._size -= event.size
            self._forget_free(event)

    def _forget_free(self, event: OfflineEvent) -> None:
        key = (event.message_id, event.connector)
        if self._free.get(key) is event:
            del self._free[key]

"""What of the offline queue the journal holds already, delivered online or taken from the queue before."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from b24tunnel import form
from b24tunnel.journal import Journal
from b24tunnel.portal.offline import OfflineEntry
from b24tunnel.queue_delivery import marked_entry
from b24tunnel.recording import Recording

# What was recorded that much before the oldest entry changed is about something else, even where this machine's
# clock is wrong. Its line is not parsed.
_MOST_CLOCK_ERROR = timedelta(days=2)
# What came online cannot be of later than when it came, but for the clocks.
_MOST_AHEAD = timedelta(minutes=10)
# Of each kind. Beyond, what is in the journal may be recorded once more.
_MOST_REMEMBERED = 500_000


class AlreadyRecorded:
    """Built once a drain; ``since`` (unix seconds) is the oldest change of an entry that it can tell about."""

    def __init__(self, since: int) -> None:
        self.since = since
        self._online: dict[bytes, int] = {}
        self._taken: set[bytes] = set()

    @classmethod
    def read(
        cls, journal: Journal, portal: str, codes: Collection[str], since: int, stop: threading.Event
    ) -> AlreadyRecorded:
        """Go through the journal for recordings of ``portal`` with one of ``codes`` (upper case).

        Blocks until it is through or ``stop`` is set; raises ``JournalUnreadable``.
        """
        found = cls(since)
        first = datetime.fromtimestamp(max(since, 0), UTC) - _MOST_CLOCK_ERROR
        for document in journal.documents():
            if stop.is_set():
                break
            try:
                code = document["code"]
                wanted = code is not None and code.upper() in codes and document["received_at"] >= first
            except KeyError:
                continue  # a spoiled line, which the journal notes
            if wanted and (recording := document.recording) is not None and recording.portal == portal:
                found._remember(recording)
        return found

    def holds(self, entry: OfflineEntry) -> bool:
        """Whether the entry's change was delivered online and recorded, or taken from the queue before.

        The portal's clock stands on both sides, in whole seconds.
        """
        if _taken_key(entry.number, entry.message_id, entry.changed_at) in self._taken:
            return True
        return self._online.get(_online_key(entry.code, _as_parsed(entry.data)), -1) >= entry.changed_at

    def add(self, entries: Iterable[OfflineEntry]) -> None:
        """These are in the journal now."""
        for entry in entries:
            self._take(_taken_key(entry.number, entry.message_id, entry.changed_at))

    def _remember(self, recording: Recording) -> None:
        event = recording.event
        if event.ts is None or event.code is None:
            return
        ts = int(event.ts.timestamp())
        if recording.source == "offline":
            if (marked := marked_entry(recording)) is not None:
                self._take(_taken_key(*marked, ts))
        elif event.ts - recording.received_at > _MOST_AHEAD:
            return  # made up, and would stand for every change to come
        elif recording.source == "tunnel" and recording.verdict != "mismatched" and ts >= self.since:
            key = _online_key(event.code, event.data)
            if key in self._online or len(self._online) < _MOST_REMEMBERED:
                self._online[key] = max(ts, self._online.get(key, ts))

    def _take(self, key: bytes) -> None:
        if len(self._taken) < _MOST_REMEMBERED:
            self._taken.add(key)


def _as_parsed(data: Any) -> Any:
    """An entry's data as it is found in a delivery: PHP has no key for an empty array, for one."""
    parsed = form.parse(form.encode({"data": data}))
    return parsed.get("data") if isinstance(parsed, dict) else None


def _online_key(code: str, data: Any) -> bytes:
    return _digest([code.upper(), data])


def _taken_key(number: str, message_id: str, ts: int) -> bytes:
    # With the time: without the extended mode a changed entry keeps its ID, and is news all the same.
    return _digest([number, message_id, ts])


def _digest(value: Any) -> bytes:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).digest()

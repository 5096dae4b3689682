"""Catching up: what happened while nobody listened is taken from the portal's offline queue into the journal.

Each entry is on disk before it is removed from the queue, and one that the journal holds already is only removed.
So a crash at any point loses nothing and doubles nothing.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from b24tunnel.already_recorded import AlreadyRecorded
from b24tunnel.bound import CLEAN_UP_COMMAND
from b24tunnel.errors import OutsideFailure
from b24tunnel.handler_path import handler_segment
from b24tunnel.happenings import Happening, Note, Trouble
from b24tunnel.journal import Journal, JournalWriter
from b24tunnel.portal import Bindings, Portal, RestClient, State, offline_ledger
from b24tunnel.portal.offline import DamagedEntry, OfflineBatch, OfflineEntry, is_free, read_entry, reserved_under
from b24tunnel.queue_delivery import queue_delivery

# The event that tells of the queue itself; the portal refuses to queue it (page "event.bind").
_NEVER_QUEUED = "ONOFFLINEEVENT"
# Another run may have thousands of entries to take, at the two calls a second that the portal lets through.
_PATIENCE = 900.0
ONLINE_SECONDS = 15.0
"""For how long something that has just happened may still arrive by the public address: the portal sends events
"with a slight delay" (page "Events")."""

# Pages of the queue that are looked through for what a crashed run has reserved, far above what portals keep.
_MOST_PAGES = 10_000
_MOST_TOLD = 1000
_LATEST = 253_402_300_799  # the last second of the year 9999


@dataclass(frozen=True)
class _Queue:
    """``connector`` names it (``auth_connector``); ``extended``: whether entries can be reserved."""

    connector: str
    extended: bool


class CatchUp:
    """Binds ``events`` offline on ``portal``, and drains its queue into the journal of ``writer``.

    The calls may be cancelled at any point. A portal has one drain at a time on this machine.
    """

    def __init__(
        self,
        portal: Portal,
        state: State,
        events: Sequence[str],
        writer: JournalWriter,
        journal: Journal,
        emit: Callable[[Happening], None],
        *,
        target: str | None = None,
    ) -> None:
        """``journal`` reads what ``writer`` and former sessions wrote; ``target`` is the handler's path."""
        self._portal = portal.name
        self._state = state
        self._events = [code for event in events if (code := event.strip().upper()) not in ("", _NEVER_QUEUED)]
        self._writer = writer
        self._journal = journal
        self._emit = emit
        self._target = target
        self._queue: _Queue | None = None
        self._already: AlreadyRecorded | None = None
        self._handed_in: list[asyncio.Future[None]] = []
        self._taken: list[OfflineEntry] = []
        self._status = "L"
        self.left_young = False  # whether the last drain left something to arrive by itself
        self._young_from: float | None = None
        self.recorded = 0  # by all drains together, also by one that failed later
        self._written = 0
        self._damaged: dict[str, str] = {}
        self._told: set[str] = set()

    async def prepare(self) -> None:
        """Bind the events offline, and tell what the queue cannot give.

        Raises ``UserError`` where the portal's user is no administrator, where another program drains the same
        queue, or where the portal fails.
        """
        async with await self._client() as client:
            bindings = self._bindings(client)
            queue = self._queue = await self._find_queue(client, bindings)
            if not self._events:
                return
            new = await bindings.bind_offline(self._events, queue.connector)
        if new:
            self._emit(
                Note(
                    f"Bound offline for catching up: {', '.join(new)}. The portal goes on collecting them when "
                    f"this session has ended; stop that with: {CLEAN_UP_COMMAND} --kept"
                )
            )
        self._emit(
            Note(
                "The offline queue keeps the last state of each entry, not each change (the same change again "
                "only renews its time), and no tokens of the user who caused it: what is caught up comes with the "
                "application's own."
            )
        )
        if not queue.extended:
            self._emit(
                Note(
                    "The portal's plan lacks the extended offline queue (rest_offline_extended), so entries are "
                    "removed as they are handed out: one that changes again while it is being fetched is lost if "
                    "this machine fails in that moment."
                )
            )

    async def drain(self, since: float | None = None) -> int:
        """Record what is in the queue and remove it there; how many recordings that made.

        What happened after ``since`` (seconds since 1970 on this machine's clock) is left: it is about to arrive
        by the public address, and the drain after that tells whether it did. `left_young` then says so. Raises
        ``UserError`` when the portal or the disk fails; the next drain goes on from there.
        """
        self._written = 0
        self.left_young = False
        async with self._state.exclusive("offline", self._portal, _PATIENCE):
            # What a cancelled drain handed to the writer reaches the disk before the journal is searched for it.
            await self._on_disk()
            self._already = None
            try:
                async with await self._client() as client:
                    # A call that renews the tokens if they have expired, so that handlers get fresh ones.
                    answer = await client.call_full("app.info")
                    info = answer["result"] if isinstance(answer["result"], dict) else {}
                    self._status = str(info.get("STATUS") or "L")[:1]
                    self._young_from = None if since is None else since + _ahead(answer.get("time"))
                    queue = self._queue or await self._find_queue(client, self._bindings(client))
                    self._queue = queue
                    if queue.extended:
                        await self._drain_reserving(client, queue)
                    else:
                        await self._drain_removing(client, queue)
            finally:
                self._already = None
                self._tell_damaged()
        return self._written

    async def _client(self) -> RestClient:
        return RestClient(await asyncio.to_thread(self._state.portal, self._portal), self._state)

    def _bindings(self, client: RestClient) -> Bindings:
        return Bindings(client, self._state, f"catch-up-{os.getpid()}-{secrets.token_hex(4)}", keep=True)

    async def _find_queue(self, client: RestClient, bindings: Bindings) -> _Queue:
        """Which queue is ours and how it can be drained; raises ``OutsideFailure`` where it must not be."""
        profile = await client.profile()
        if str(profile.get("ADMIN")).upper() not in ("TRUE", "1", "Y"):
            raise OutsideFailure(
                "catching up needs an administrator, because Bitrix24 lets nobody else bind offline events, and "
                f"the user of {self._portal} is none; sign in there as one, or listen without --catch-up"
            )
        extended = await client.feature_get("rest_offline_extended")
        separate = await client.feature_get("rest_auth_connector")
        connector = await asyncio.to_thread(
            offline_ledger.choose_queue, self._state, self._portal, separate=separate
        )
        if others := await bindings.others_offline(connector):
            raise OutsideFailure(
                f"another program of this application collects {_some(others)} in the offline queue of "
                f"{self._portal}, whose plan has only one (no rest_auth_connector), and catching up would take "
                "its entries; listen without --catch-up, or unbind its offline events"
            )
        return _Queue(connector, extended)

    # -- with the extended mode: reserve, write, remove --------------------------------------------------------

    async def _drain_reserving(self, client: RestClient, queue: _Queue) -> None:
        if not await asyncio.to_thread(offline_ledger.is_drained, self._state, self._portal):
            for process_id in await self._reserved(client, queue):
                await self._settle_reserved(client, queue, process_id)
        # On disk before anything is reserved: an answer that never arrives leaves entries reserved all the same,
        # under a mark that only the portal knows.
        await asyncio.to_thread(offline_ledger.note_drained, self._state, self._portal, False)
        for _ in range(_MOST_PAGES):
            batch = await client.offline_get(clear=False, connector=queue.connector)
            if not batch.events:
                break
            await self._settle(client, queue, batch)
        if not self.left_young:
            await asyncio.to_thread(offline_ledger.note_drained, self._state, self._portal, True)

    async def _reserved(self, client: RestClient, queue: _Queue) -> list[str]:
        """The marks under which a run that did not come to its end has reserved entries."""
        found: dict[str, None] = {}
        start: int | None = 0
        for _ in range(_MOST_PAGES):
            page = await client.offline_list(start=start or 0, connector=queue.connector)
            found.update((mark, None) for row in page.rows if (mark := reserved_under(row)))
            start = page.next
            if start is None:
                break
        return list(found)

    async def _settle_reserved(self, client: RestClient, queue: _Queue, process_id: str) -> None:
        while True:
            batch = await client.offline_get(clear=False, process_id=process_id, connector=queue.connector)
            # What is damaged stays reserved and would come again for ever.
            if not await self._settle(client, queue, batch):
                return

    async def _settle(self, client: RestClient, queue: _Queue, batch: OfflineBatch) -> int:
        """Record the entries of a batch, then remove exactly those; how many."""
        entries = self._readable(batch.events)
        if entries:
            await self._record(client, entries, batch.process_id)
            ids = [entry.message_id for entry in entries]
            await client.offline_clear(batch.process_id, ids, queue.connector)
        return len(entries)

    # -- without it: look, write, remove by number -------------------------------------------------------------

    async def _drain_removing(self, client: RestClient, queue: _Queue) -> None:
        """Entries are listed and written first; what their removal hands out has only changed since, if at all."""
        await self._record_taken(client)
        start = 0
        for _ in range(_MOST_PAGES):
            page = await client.offline_list(start=start, connector=queue.connector)
            if not page.rows:
                return
            entries = self._readable(row for row in page.rows if is_free(row))
            removed: set[str] = set()
            if entries:
                await self._record(client, entries, "")
                numbers = [entry.number for entry in entries]
                batch = await client.offline_get(
                    clear=True, limit=len(numbers), conditions={"=ID": numbers}, connector=queue.connector
                )
                self._taken = self._readable(batch.events)
                removed = {entry.number for entry in self._taken}.intersection(numbers)
                await self._record_taken(client)
            start += len(page.rows) - len(removed)

    async def _record_taken(self, client: RestClient) -> None:
        """Record what only this process holds any more; kept for the next drain where that fails."""
        await self._record(client, self._taken, "")
        self._taken = []

    # -- both --------------------------------------------------------------------------------------------------

    async def _record(self, client: RestClient, entries: Sequence[OfflineEntry], process_id: str) -> None:
        """Write those entries that the journal lacks; returns when they are on disk."""
        if not entries:
            return
        already = await self._already_recorded(min(entry.changed_at for entry in entries))
        fresh = [entry for entry in entries if not already.holds(entry)]
        for entry in fresh:
            recording = queue_delivery(
                entry,
                client.portal,
                recording_id=self._writer.next_id(),
                target=await self._handler_path(),
                process_id=process_id,
                status=self._status,
            )
            done = self._writer.hand_in(recording)
            done.add_done_callback(_looked_at)
            self._handed_in.append(done)
        for error in await self._on_disk():
            raise error
        already.add(fresh)
        self._written += len(fresh)
        self.recorded += len(fresh)

    async def _on_disk(self) -> list[BaseException]:
        """Wait until everything that was handed in is written or has failed; the failures."""
        if self._handed_in:
            # Not gathered: whoever cancels this does not cancel the writing.
            await asyncio.wait(self._handed_in)
        handed_in, self._handed_in = self._handed_in, []
        return [error for done in handed_in if (error := done.exception()) is not None]

    async def _already_recorded(self, since: int) -> AlreadyRecorded:
        if self._already is None or self._already.since > since:
            rows = await asyncio.to_thread(self._state.ledger, self._portal)
            codes = {*self._events, *(row.event for row in rows if row.handler == offline_ledger.OFFLINE)}
            stop = threading.Event()
            try:
                self._already = await asyncio.to_thread(
                    AlreadyRecorded.read, self._journal, self._portal, codes, since, stop
                )
            finally:
                stop.set()
        return self._already

    async def _handler_path(self) -> str:
        if self._target is None:
            segment = await asyncio.to_thread(handler_segment, self._journal.directory.parent)
            self._target = f"/b24/{segment}"
        return self._target

    def _readable(self, values: Iterable[Any]) -> list[OfflineEntry]:
        entries = []
        for value in values:
            try:
                entry = read_entry(value)
                if self._young_from is not None and entry.changed_at > self._young_from:
                    self.left_young = True
                else:
                    entries.append(entry)
            except DamagedEntry as error:
                number = value.get("ID") if isinstance(value, dict) else None
                named = number if isinstance(number, str) and number.isdecimal() else "unknown"
                self._damaged.setdefault(named[:20], str(error))
        return entries

    def _tell_damaged(self) -> None:
        damaged, self._damaged = self._damaged, {}
        new = {number: why for number, why in damaged.items() if number not in self._told}
        if not new:
            return
        if len(self._told) < _MOST_TOLD:
            self._told.update(new)
        number, why = next(iter(new.items()))
        self._emit(
            Trouble(
                f"{len(new)} of the entries in the offline queue of {self._portal} could not be read and stay "
                f"there (the first is ID {number}: {why}); look at them with event.offline.list."
            )
        )


def _ahead(timed: Any) -> float:
    """By how many seconds the portal's clock is ahead of this machine's, as far as an answer's ``time`` tells."""
    start = timed.get("start") if isinstance(timed, dict) else None
    return float(start) - time.time() if isinstance(start, int | float) and 0 < start < _LATEST else 0.0


def _looked_at(done: asyncio.Future[None]) -> None:
    """So that nothing complains of a failure that nobody fetched because the drain was cancelled."""
    if not done.cancelled():
        done.exception()


def _some(events: Sequence[str]) -> str:
    shown = ", ".join(events[:3])
    return shown if len(events) <= 3 else f"{shown} and {len(events) - 3} more"

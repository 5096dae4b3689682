"""The bindings that this tool makes on a portal: written down before they are made, removed exactly.

Each binding has a row in the ledger from before the call until after its removal, so that whatever a crash
leaves on the portal is known to the next start. Two processes never bind and unbind on one portal at the
same time, so that the clean-up of one cannot take away what the other has just bound.

Offline bindings have no handler: the portal collects their events in its queue, for a run that is to come. So
they are kept from the start, no run removes them unasked, and each is unbound from its own queue only.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from b24tunnel.errors import UserError, WrongUsage
from b24tunnel.portal import offline_ledger, process
from b24tunnel.portal.errors import PortalError, PortalUnreachable
from b24tunnel.portal.state import LedgerRow, State

if TYPE_CHECKING:
    from b24tunnel.portal.client import RestClient

# The column for the handler's address on the portal's side; see the page "event.bind".
LONGEST_ADDRESS = 255
_AT_ONCE = 8


@dataclass(frozen=True)
class Leftover:
    """A ledger row whose binding could not be removed, and why, in one sentence."""

    row: LedgerRow
    reason: str


@dataclass(frozen=True)
class CleanUp:
    """What a clean-up did: ``unbound`` rows are gone from portal and ledger, ``left`` ones are in both."""

    unbound: tuple[LedgerRow, ...]
    left: tuple[Leftover, ...]


@dataclass(frozen=True)
class Other:
    """Another handler of an event; ``row`` is this tool's own, where it is a binding of another run."""

    event: str
    handler: str
    row: LedgerRow | None = None


@dataclass(frozen=True)
class Survey:
    """What the portal lists: which events lack our handler (``missing``), and who else gets them (``others``)."""

    missing: tuple[str, ...]
    others: tuple[Other, ...]


class Bindings:
    """Binds and unbinds on the portal of ``client``, on behalf of ``owner`` (a name for this run)."""

    def __init__(self, client: RestClient, state: State, owner: str, *, keep: bool = False) -> None:
        """``keep``: what is bound is to stay when the run is over, so it is no orphan either."""
        self._client = client
        self._state = state
        self._owner = owner
        self._bound: Literal["bound", "kept"] = "kept" if keep else "bound"
        self._portal = client.portal.name

    async def bind(self, event: str, handler_url: str) -> bool:
        """Bind ``handler_url`` to ``event``; whether the binding is new.

        False means that it existed: then it goes on the ledger only if it was there, because a binding that
        this tool did not make is not this tool's to remove. Raises ``WrongUsage`` for an address that
        Bitrix24 would refuse, and ``PortalError`` or ``PortalUnreachable``. After an error the ledger row
        is gone, unless the portal may have bound all the same.
        """
        check_address(handler_url)
        async with self._alone():
            return await self._bind(_code(event), handler_url)

    async def bind_all(self, events: Iterable[str], handler_url: str) -> None:
        """Bind ``handler_url`` to every one of ``events``, or to none.

        If one fails, those that this call has bound are unbound again, those that another run had are its again,
        and the error is raised; what could not be unbound is said in the error's notes and stays on the ledger.
        A cancelled call leaves what it has bound on the ledger, for ``unbind_all``.
        """
        check_address(handler_url)
        codes = list(dict.fromkeys(_code(event) for event in events))
        async with self._alone():
            before = {row.key: row for row in await asyncio.to_thread(self._state.ledger, self._portal)}
            made: list[LedgerRow] = []
            taken: list[LedgerRow] = []
            for code in codes:
                try:
                    row = self._row(code, handler_url)
                    if await self._bind(code, handler_url):
                        made.append(row)
                    elif row.key in before:
                        taken.append(before[row.key])
                except UserError as error:
                    if getattr(error, "outcome_unknown", False):
                        made.append(self._row(code, handler_url))
                    for leftover in (await self._unbind_rows(made)).left:
                        error.add_note(f"{leftover.row.event} may still be bound: {leftover.reason}")
                    for former in taken:
                        await asyncio.to_thread(self._state.put_row, former)
                    raise

    async def unbind(self, event: str, handler_url: str) -> int:
        """Unbind exactly this handler from this event and forget it; how many bindings there were."""
        async with self._alone():
            return await self._unbind(self._row(_code(event), handler_url))

    async def unbind_all(self, *, but: str | None = None) -> list[Leftover]:
        """Unbind all that this owner has bound online, ``but`` for this address; what could not be, and why."""
        async with self._alone_if_possible() as refused:
            rows = await asyncio.to_thread(self._state.ledger, self._portal, self._owner)
            rows = [row for row in rows if row.handler not in (but, offline_ledger.OFFLINE)]
            if refused is not None:
                return [Leftover(row, str(refused)) for row in rows]
            return list((await self._unbind_rows(rows)).left)

    async def bind_offline(self, events: Iterable[str], connector: str = "") -> list[str]:
        """Have the portal collect every one of ``events`` in the queue ``connector``, or none; the new ones.

        They are kept when the run is over. If one fails, what this call has bound is unbound again, the error is
        raised, and what could not be unbound is said in its notes and stays on the ledger. Raises ``PortalError``
        and ``PortalUnreachable``.
        """
        made: list[LedgerRow] = []
        async with self._alone():
            before = {row.key for row in await asyncio.to_thread(self._state.ledger, self._portal)}
            for code in dict.fromkeys(_code(event) for event in events):
                row = dataclasses.replace(self._row(code, offline_ledger.OFFLINE), state="kept")
                try:
                    if await self._bind_offline(row, connector):
                        made.append(row)
                except UserError as error:
                    if getattr(error, "outcome_unknown", False) and row.key not in before:
                        made.append(row)
                    for leftover in (await self._unbind_rows(made)).left:
                        error.add_note(f"{leftover.row.event} may still be bound offline: {leftover.reason}")
                    raise
        return [row.event for row in made]

    async def others_offline(self, connector: str = "") -> list[str]:
        """The events that the queue ``connector`` collects by bindings that are not on this tool's ledger."""
        rows = await asyncio.to_thread(self._state.ledger, self._portal)
        ours = {
            row.event
            for row in rows
            if row.handler == offline_ledger.OFFLINE
            and await asyncio.to_thread(offline_ledger.connector_of, self._state, row) == connector
        }
        bound = await self._client.event_get()
        return [
            found.event.upper()
            for found in bound
            if found.offline and found.connector_id == connector and found.event.upper() not in ours
        ]

    async def survey(self, events: Iterable[str], handler_url: str) -> Survey:
        """Ask the portal which handlers these events have; offline ones and this owner's own are left out."""
        codes = list(dict.fromkeys(_code(event) for event in events))
        bound = [
            (found.event.upper(), found.handler) for found in await self._client.event_get() if not found.offline
        ]
        rows = await asyncio.to_thread(self._state.ledger, self._portal)
        ours = {(row.event, row.handler): row for row in rows}
        own = {key for key, row in ours.items() if row.owner == self._owner}
        return Survey(
            tuple(code for code in codes if (code, handler_url) not in bound),
            tuple(
                Other(event, handler, ours.get((event, handler)))
                for event, handler in bound
                if event in codes and handler != handler_url and (event, handler) not in own
            ),
        )

    async def clean(self, *, kept: bool = False) -> CleanUp:
        """Unbind the orphans, and nothing else; with ``kept`` also what ended runs left on purpose.

        Raises ``LockTimeout`` if another process is at it.
        """
        async with self._alone():
            # Looked up inside: another process may have cleaned, or taken a row over, until a moment ago.
            rows = await asyncio.to_thread(self._state.ledger, self._portal)
            return await self._unbind_rows(removable(rows, kept=kept))

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        async with self._state.exclusive("bindings", self._portal):
            yield

    @asynccontextmanager
    async def _alone_if_possible(self) -> AsyncIterator[UserError | None]:
        alone = self._alone()
        try:
            await alone.__aenter__()
        except UserError as error:
            yield error
            return
        try:
            yield None
        finally:
            await alone.__aexit__(None, None, None)

    def _row(self, event: str, handler: str) -> LedgerRow:
        return LedgerRow(
            portal=self._portal,
            event=event,
            handler=handler,
            owner=self._owner,
            pid=os.getpid(),
            started=process.start_mark(os.getpid()),
            created_at=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        )

    async def _bind(self, event: str, handler: str) -> bool:
        row = self._row(event, handler)
        before = await asyncio.to_thread(self._state.put_row, row)
        new = True
        try:
            await self._client.event_bind(event, handler)
        except PortalError as error:
            if not _is_bound_already(error):
                if not error.outcome_unknown:
                    await self._restore(row, before)
                raise
            new = False
        except PortalUnreachable as error:
            if not error.outcome_unknown:
                await self._restore(row, before)
            raise
        except UserError:
            # Neither answer nor network: the call was never made.
            await self._restore(row, before)
            raise
        if new or before is not None:
            await asyncio.to_thread(self._state.put_row, dataclasses.replace(row, state=self._bound))
        else:
            await asyncio.to_thread(self._state.drop_row, row)
        return new

    async def _restore(self, row: LedgerRow, before: LedgerRow | None) -> None:
        if before is None:
            await asyncio.to_thread(self._state.drop_row, row)
        else:
            await asyncio.to_thread(self._state.put_row, before)

    async def _bind_offline(self, row: LedgerRow, connector: str) -> bool:
        """Bind one offline; whether it is new."""
        before = await asyncio.to_thread(offline_ledger.put_binding, self._state, row, connector)
        try:
            await self._client.event_bind_offline(row.event, connector)
        except UserError as error:
            if isinstance(error, PortalError) and _is_bound_already(error):
                return False
            if before is not None:
                await asyncio.to_thread(offline_ledger.put_binding, self._state, *before)
            elif not getattr(error, "outcome_unknown", False):
                await asyncio.to_thread(offline_ledger.drop_binding, self._state, row)
            raise
        return True

    async def _unbind_offline(self, row: LedgerRow) -> int:
        connector = await asyncio.to_thread(offline_ledger.connector_of, self._state, row)
        if connector is None:
            raise WrongUsage(
                f"which offline queue of {row.portal} collects {row.event} is not known any more; unbind it there "
                "with event.unbind and event_type=offline"
            )
        count = await self._client.event_unbind_offline(row.event, connector)
        await asyncio.to_thread(offline_ledger.drop_binding, self._state, row)
        return count

    async def _unbind(self, row: LedgerRow) -> int:
        if row.handler == offline_ledger.OFFLINE:
            return await self._unbind_offline(row)
        count = await self._client.event_unbind(row.event, row.handler)
        await asyncio.to_thread(self._state.drop_row, row)
        return count

    async def _unbind_rows(self, rows: Sequence[LedgerRow]) -> CleanUp:
        gate = asyncio.Semaphore(_AT_ONCE)

        async def attempt(row: LedgerRow) -> Leftover | None:
            async with gate:
                try:
                    await self._unbind(row)
                except UserError as error:
                    return Leftover(row, str(error))
                return None

        outcomes = await asyncio.gather(*(attempt(row) for row in rows))
        done = tuple(row for row, outcome in zip(rows, outcomes, strict=True) if outcome is None)
        return CleanUp(done, tuple(outcome for outcome in outcomes if outcome is not None))


def removable(rows: Iterable[LedgerRow], *, kept: bool = False) -> list[LedgerRow]:
    """The orphans among these rows; with ``kept`` also what ended runs left on purpose."""
    return [row for row in rows if row.left_behind or (kept and row.state == "kept" and not row.in_use)]


def check_address(handler_url: str) -> None:
    """Raise ``WrongUsage`` for a handler's address that Bitrix24 would refuse (page "event.bind")."""
    if len(handler_url) > LONGEST_ADDRESS:
        raise WrongUsage(
            f"the handler's address has {len(handler_url)} characters and Bitrix24 stores {LONGEST_ADDRESS}; "
            "use a shorter path or another tunnel"
        )
    try:
        parts = urlsplit(handler_url)
        scheme, host = parts.scheme.lower(), parts.hostname or ""
    except ValueError as error:
        raise WrongUsage(f"the handler's address is no address ({error}); use the tunnel's public one") from None
    if scheme not in ("http", "https"):
        raise WrongUsage(
            f"the handler's address starts with {scheme or 'no scheme'!r}, and Bitrix24 calls http:// and "
            "https:// only; use the tunnel's public address"
        )
    if "." not in host[1:]:
        raise WrongUsage(
            f"the handler's host {host!r} has no dot, which Bitrix24 refuses, because its servers cannot "
            "reach names like localhost; use the tunnel's public address"
        )


def _code(event: str) -> str:
    code = event.strip().upper()
    if not code:
        raise WrongUsage("an event's code is empty; `b24tunnel events` lists the codes")
    return code


def _is_bound_already(error: PortalError) -> bool:
    # The portal's own spelling, in the source of event.bind; there is no code for it.
    return error.code == "ERROR_CORE" and "already binded" in error.description.lower()

"""Which offline queue this tool fills and drains on a portal, and with which of its bindings.

A portal's queues are told apart by ``auth_connector``, a name that each consumer chooses (page "Offline
events"). The ledger's row of an offline binding has the handler ``""``; its queue is kept here, because unbinding
without the right one would remove the binding of another program of the same application.
"""

from __future__ import annotations

import secrets
from typing import Any

from tinydb import where

from b24tunnel.portal.state import LedgerRow, State, Transaction

OFFLINE = ""
"""What an offline binding has in the place of a handler."""

_QUEUES = "offline_queues"
_BINDINGS = "offline_bindings"


def choose_queue(state: State, portal: str, *, separate: bool) -> str:
    """The ``auth_connector`` of this tool on ``portal``, the same from run to run; ``""``: the common queue.

    ``separate``: whether the portal has queues apart from the common one (``rest_auth_connector``).
    """
    with state.transaction() as transaction:
        queue = _queue(transaction, portal)
        connector = str(queue.get("connector") or "")
        if not separate:
            connector = ""
        elif "connector" not in queue:
            connector = f"b24tunnel-{secrets.token_hex(8)}"
        if queue.get("connector") != connector:
            _put(transaction, portal, {"connector": connector, "drained": False})
        return connector


def is_drained(state: State, portal: str) -> bool:
    """Whether the last drain came to its end, so that nothing is reserved that a run did not finish with."""
    with state.transaction() as transaction:
        return _queue(transaction, portal).get("drained") is True


def note_drained(state: State, portal: str, drained: bool) -> None:
    """Keep that a drain begins (False) or came to its end (True); on disk when this returns."""
    with state.transaction() as transaction:
        if _queue(transaction, portal).get("drained") is not drained:
            _put(transaction, portal, {"drained": drained})


def put_binding(state: State, row: LedgerRow, connector: str) -> tuple[LedgerRow, str] | None:
    """Store the row of an offline binding and its queue; answers those that they replace."""
    with state.transaction() as transaction:
        before = next((old for old in transaction.ledger() if old.key == row.key), None)
        former = _connector(transaction, row)
        transaction.put_row(row)
        document = {"portal": row.portal, "event": row.event, "connector": connector}
        transaction.db.table(_BINDINGS).upsert(document, _is(row))
        return None if before is None else (before, former or "")


def drop_binding(state: State, row: LedgerRow) -> None:
    """Remove the row of an offline binding and its queue."""
    with state.transaction() as transaction:
        transaction.drop_row(row)
        transaction.db.table(_BINDINGS).remove(_is(row))


def connector_of(state: State, row: LedgerRow) -> str | None:
    """The queue of an offline binding on the ledger; None where it is not known."""
    with state.transaction() as transaction:
        return _connector(transaction, row)


def _connector(transaction: Transaction, row: LedgerRow) -> str | None:
    document = transaction.db.table(_BINDINGS).get(_is(row))
    connector = document.get("connector") if isinstance(document, dict) else None
    return connector if isinstance(connector, str) else None


def _queue(transaction: Transaction, portal: str) -> dict[str, Any]:
    document = transaction.db.table(_QUEUES).get(where("portal") == portal)
    return dict(document) if isinstance(document, dict) else {}


def _put(transaction: Transaction, portal: str, changes: dict[str, Any]) -> None:
    transaction.db.table(_QUEUES).upsert({"portal": portal, **changes}, where("portal") == portal)


def _is(row: LedgerRow) -> Any:
    return (where("portal") == row.portal) & (where("event") == row.event)

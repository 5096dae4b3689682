"""Removing what crashed runs left bound, on every portal that the ledger names."""

from __future__ import annotations

from b24tunnel.errors import UserError
from b24tunnel.portal.bindings import Bindings, CleanUp, Leftover, removable
from b24tunnel.portal.client import RestClient
from b24tunnel.portal.state import State


async def clean_all(state: State, *, kept: bool = False) -> list[CleanUp]:
    """Unbind the orphans of each portal; one that is unknown or does not answer is in the result with why.

    With ``kept`` also what ended runs left bound on purpose.
    """
    results = []
    for name in sorted({row.portal for row in state.ledger()}):
        orphans = removable(state.ledger(name), kept=kept)
        if not orphans:
            continue
        try:
            async with RestClient(state.portal(name), state) as client:
                results.append(await Bindings(client, state, owner="clean").clean(kept=kept))
        except UserError as error:
            results.append(CleanUp((), tuple(Leftover(row, str(error)) for row in orphans)))
    return results

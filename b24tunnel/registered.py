"""A running sandbox as a portal that other commands know by name."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

from b24tunnel.errors import WrongUsage
from b24tunnel.portal.state import Portal, State, UnknownPortal
from b24tunnel.sandbox import Sandbox

_LOOK_SECONDS = 1.0


@contextlib.contextmanager
def registered(sandbox: Sandbox, name: str, state: State) -> Iterator[Portal]:
    """Known as the portal ``name`` inside the block; gone after it, with the bindings that were made on it.

    Raises `WrongUsage` when the name is a real portal's, or that of another sandbox that still runs.
    """
    portal = Portal.from_mapping(name, sandbox.credentials.as_dict())
    _check_free(state, name)
    state.save_portal(portal)
    try:
        yield portal
    finally:
        if state.remove_portal(name, only_if=lambda known: known.client_id == portal.client_id):
            for row in state.ledger(name):
                state.drop_row(row)


def _check_free(state: State, name: str) -> None:
    try:
        known = state.portal(name)
    except UnknownPortal:
        return
    if not known.on_this_machine:
        raise WrongUsage(f"{name!r} is the name of a portal on {known.domain}: give the sandbox another --name.")
    address = urlsplit(known.client_endpoint)
    try:
        socket.create_connection((address.hostname or "", address.port or 80), _LOOK_SECONDS).close()
    except OSError:
        return  # what ran there was killed
    raise WrongUsage(f"A sandbox named {name!r} runs already at {known.domain}: give this one another --name.")

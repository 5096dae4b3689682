"""A portal: its credentials on disk, its REST interface, and the bindings that this tool makes on it.

``Portal``, ``State`` and ``LedgerRow`` know no network and import no HTTP client; ``RestClient``,
``Bindings``, ``SignIn`` and ``confirm_installation`` talk to Bitrix24. The names are loaded when they are
first used, so that a command which only lists portals does not pay for aiohttp.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from b24tunnel.portal.bindings import Bindings, CleanUp, Leftover
    from b24tunnel.portal.client import Binding, RestClient
    from b24tunnel.portal.errors import PortalError, PortalUnreachable
    from b24tunnel.portal.installation import NotConfirmed, confirm_installation
    from b24tunnel.portal.sign_in import SignIn
    from b24tunnel.portal.state import LedgerRow, Portal, State, Transaction

__all__ = [
    "Binding",
    "Bindings",
    "CleanUp",
    "LedgerRow",
    "Leftover",
    "NotConfirmed",
    "Portal",
    "PortalError",
    "PortalUnreachable",
    "RestClient",
    "SignIn",
    "State",
    "Transaction",
    "confirm_installation",
]

_HOMES = {
    "Binding": "client",
    "Bindings": "bindings",
    "CleanUp": "bindings",
    "LedgerRow": "state",
    "Leftover": "bindings",
    "NotConfirmed": "installation",
    "Portal": "state",
    "PortalError": "errors",
    "PortalUnreachable": "errors",
    "RestClient": "client",
    "SignIn": "sign_in",
    "State": "state",
    "Transaction": "state",
    "confirm_installation": "installation",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)

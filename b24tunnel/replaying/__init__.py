"""Replay: recordings to a handler again, as they are or changed, at a chosen pace, and what came of it.

The names are loaded when they are first used: a part of it does not cost what all of it does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from b24tunnel.changing import Change, SetHeader, SetPath, SetTs, SetValue, Unset, UnsetHeader
    from b24tunnel.fresh_tokens import Auth
    from b24tunnel.replaying.comparing import Comparison
    from b24tunnel.replaying.pace import AtOnce, LikeBitrix24, OriginalPace, Pace, Rate
    from b24tunnel.replaying.report import Report
    from b24tunnel.replaying.result import Result
    from b24tunnel.replaying.run import areplay, replay
    from b24tunnel.replaying.variations import Variation

__all__ = [
    "AtOnce",
    "Auth",
    "Change",
    "Comparison",
    "LikeBitrix24",
    "OriginalPace",
    "Pace",
    "Rate",
    "Report",
    "Result",
    "SetHeader",
    "SetPath",
    "SetTs",
    "SetValue",
    "Unset",
    "UnsetHeader",
    "Variation",
    "areplay",
    "replay",
]

_HOMES = {
    **dict.fromkeys(("AtOnce", "LikeBitrix24", "OriginalPace", "Pace", "Rate"), "b24tunnel.replaying.pace"),
    **dict.fromkeys(("areplay", "replay"), "b24tunnel.replaying.run"),
    **dict.fromkeys(
        ("Change", "SetHeader", "SetPath", "SetTs", "SetValue", "Unset", "UnsetHeader"), "b24tunnel.changing"
    ),
    "Auth": "b24tunnel.fresh_tokens",
    "Comparison": "b24tunnel.replaying.comparing",
    "Report": "b24tunnel.replaying.report",
    "Result": "b24tunnel.replaying.result",
    "Variation": "b24tunnel.replaying.variations",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

"""Receive, record, forward and replay Bitrix24 events on a laptop."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from b24tunnel.event import Event
    from b24tunnel.formats.fixture import load
    from b24tunnel.journal import Journal
    from b24tunnel.recording import Attempt, Recording
    from b24tunnel.replaying import Report, areplay, replay

__all__ = ["Attempt", "Event", "Journal", "Recording", "Report", "areplay", "load", "replay"]

_HOME = {
    "Attempt": "b24tunnel.recording",
    "Event": "b24tunnel.event",
    "Journal": "b24tunnel.journal",
    "Recording": "b24tunnel.recording",
    "Report": "b24tunnel.replaying",
    "areplay": "b24tunnel.replaying",
    "load": "b24tunnel.formats.fixture",
    "replay": "b24tunnel.replaying",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that the command line starts quickly."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value

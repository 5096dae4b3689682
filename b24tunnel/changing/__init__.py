"""Changes to a recording: each touches the bytes that it is about and no others."""

from collections.abc import Callable
from typing import TypeAlias

from b24tunnel.changing.head import SetHeader, SetPath, UnsetHeader
from b24tunnel.changing.leaves import UnknownPath, leaves, with_value, without
from b24tunnel.changing.values import SetTs, SetValue, Unset
from b24tunnel.recording import Recording

Change: TypeAlias = Callable[[Recording], Recording]
"""One change; raises `WrongUsage` where it cannot be made."""

__all__ = [
    "Change",
    "SetHeader",
    "SetPath",
    "SetTs",
    "SetValue",
    "UnknownPath",
    "Unset",
    "UnsetHeader",
    "leaves",
    "with_value",
    "without",
]

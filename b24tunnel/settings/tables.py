"""A table of the settings checked against what it may hold: its keys, and the types of its values."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from b24tunnel.errors import WrongUsage

_T = TypeVar("_T")


def check_keys(found: Mapping[str, Any], known: Iterable[str], where: str, more: str = "") -> None:
    """Raise `WrongUsage` for a key that is not ``known``: with the one that is meant, or with all and ``more``."""
    known = list(known)
    for key in found:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}{more}."
            raise WrongUsage(f"{where} knows no {key!r}: {hint}")


def build(kind: type[_T], given: Mapping[str, Any], where: str) -> _T:
    """A table as a dataclass of this ``kind``; ``where`` names it and its file.

    Raises `WrongUsage` for a key that ``kind`` does not have, a value of another type, or one that lacks.
    """
    fields = {known.name: known for known in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(kind)
    check_keys(given, fields, where)
    values = {}
    for name, value in given.items():
        wanted = hints[name]
        if typing.get_origin(wanted) is tuple and isinstance(value, list | tuple):
            value = tuple(value)
            fits = all(isinstance(item, str) for item in value)
        else:
            kinds = tuple(part for part in _parts(wanted) if isinstance(part, type))
            fits = isinstance(value, kinds) and not (isinstance(value, bool) and bool not in kinds)
        if not fits:
            raise WrongUsage(f"{where}: {name} cannot be {value!r}; it is {_described(wanted)}.")
        values[name] = value
    for name, known in fields.items():
        if name not in values and known.default is known.default_factory:  # both missing
            raise WrongUsage(f"{where} lacks {name}, {_described(hints[name])}.")
    try:
        return kind(**values)
    except WrongUsage as error:
        raise WrongUsage(f"{where}: {error}") from error


def _parts(wanted: Any) -> tuple[Any, ...]:
    if isinstance(wanted, types.UnionType) or typing.get_origin(wanted) is typing.Union:
        return tuple(part for part in typing.get_args(wanted) if part is not type(None))
    return (wanted,)


def _described(wanted: Any) -> str:
    if typing.get_origin(wanted) is tuple:
        return "a list of texts"
    names = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
    return " or ".join(names.get(part, str(part)) for part in _parts(wanted))

"""JSON for comparing: a tree whose nodes know at once whether they are equal, however they were written.

The order of keys, white space and the spelling of numbers do not matter (1 is 1.0, but neither true nor "1"). A
key that stands in an object several times has all its values.
"""

from __future__ import annotations

import hashlib
import json
import re
from json.encoder import encode_basestring as _quoted  # in C
from typing import Any, NamedTuple

from b24tunnel.ignoring import DEEPEST, Ignored, Place

_NUMBER = re.compile(r"(-?)([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?)0*([0-9]{1,18}))?", re.ASCII)
_PLAIN_KEY = re.compile(r"[^\W\d]\w*")


class Node(NamedTuple):
    """A value: equal ones have the same digest. A child of an object has its key, of an array its index there."""

    digest: bytes
    leaf: str | None = None
    """The value as JSON text, where it has no children."""
    object: dict[str, Node] | None = None
    array: list[tuple[int, Node]] | None = None
    repeated: list[Node] | None = None
    """The values of a key that stands in its object several times."""

    @property
    def text(self) -> str:
        """The value as JSON, without what is ignored."""
        if self.object is not None:
            members = []
            for key, child in self.object.items():
                children = [child] if child.repeated is None else child.repeated
                members += [f"{_quoted(key)}: {each.text}" for each in children]
            return f"{{{', '.join(members)}}}"
        if self.array is not None:
            return f"[{', '.join(child.text for _, child in self.array)}]"
        if self.repeated is not None:
            return ", ".join(child.text for child in self.repeated)
        return self.leaf or ""

    def alike(self, other: Node) -> float:
        """How much two nodes have in common, from 0 to 1."""
        if self.digest == other.digest:
            return 1.0
        if self.object and other.object:
            same = sum(
                1 for key, child in self.object.items() if key in other.object and other.object[key][0] == child[0]
            )
            return same / max(len(self.object), len(other.object))
        return 0.0


class NoJson(ValueError):
    """Text that is no JSON, or nested deeper than `DEEPEST`."""


def parse(text: str) -> Any:
    """The value that ``text`` holds; numbers keep their spelling. Raises `NoJson`."""
    try:
        value = json.loads(
            text, object_pairs_hook=_members, parse_int=_Number, parse_float=_Number, parse_constant=_Number
        )
    except (ValueError, RecursionError) as error:
        raise NoJson("not JSON") from error
    _check_depth(value)
    return value


def tree(value: Any, ignored: Ignored) -> Node | None:
    """The tree of a parsed value without what is ignored; None where that is everything."""
    return _node(value, (), ignored.places(value) if ignored else frozenset())


def key_path(path: str, key: str) -> str:
    """The JSONPath of an object's member: ``$.result``, ``$['a b']``."""
    if _PLAIN_KEY.fullmatch(key):
        return f"{path}.{key}"
    escaped = key.replace("\\", "\\\\").replace("'", "\\'")
    return f"{path}['{escaped}']"


class _Number(float):
    """A number with the text that it was read from, which may say more than a float holds."""

    spelled: str

    def __new__(cls, spelled: str) -> _Number:
        number = super().__new__(cls, spelled)
        number.spelled = spelled
        return number


class _Repeated:
    """The values of a key that stands in its object several times."""

    def __init__(self, values: list[Any]) -> None:
        self.values = values


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) == len(pairs):
        return members
    values: dict[str, list[Any]] = {}
    for key, value in pairs:
        values.setdefault(key, []).append(value)
    return {key: several[0] if len(several) == 1 else _Repeated(several) for key, several in values.items()}


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, _Repeated):
        return value.values
    return value if isinstance(value, list) else []


def _check_depth(value: Any) -> None:
    """So that what is recursive here, and in the library for paths, has a bound."""
    level = [value]
    for _ in range(DEEPEST):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return
    if any(isinstance(value, (dict, list, _Repeated)) for value in level):
        raise NoJson("nested too deep")


def _node(value: Any, place: Place, ignored: frozenset[Place]) -> Node | None:
    if place in ignored:
        return None
    if isinstance(value, dict):
        members = ((key, _node(child, (*place, key) if ignored else (), ignored)) for key, child in value.items())
        children = {key: child for key, child in members if child is not None}
        each = sorted(_digest(b"k", _bytes(key)) + child.digest for key, child in children.items())
        return Node(_digest(b"o", *each), object=children)
    if isinstance(value, list):
        items = ((at, _node(child, (*place, at) if ignored else (), ignored)) for at, child in enumerate(value))
        kept = [(at, child) for at, child in items if child is not None]
        return Node(_digest(b"a", *(child.digest for _, child in kept)), array=kept)
    if isinstance(value, _Repeated):
        several = [child for each in value.values if (child := _node(each, (), frozenset())) is not None]
        return Node(_digest(b"r", *(child.digest for child in several)), repeated=several)
    if isinstance(value, str):
        return Node(_digest(b"s", _bytes(value)), _quoted(value))
    if isinstance(value, _Number):
        return Node(_digest(b"n", _canonical(value.spelled).encode()), value.spelled)
    leaf = "null" if value is None else "true" if value else "false"
    return Node(_digest(b"c", leaf.encode()), leaf)


def _digest(kind: bytes, *parts: bytes) -> bytes:
    return hashlib.blake2b(kind + b"".join(parts), digest_size=16).digest()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _canonical(spelled: str) -> str:
    """One spelling for all of a number's; what is no plain number (NaN, an endless exponent) is its own."""
    found = _NUMBER.fullmatch(spelled)
    if found is None:
        return spelled.lower()
    sign, whole, fraction, exponent_sign, exponent = found.groups(default="")
    digits = (whole + fraction).lstrip("0")
    kept = digits.rstrip("0")
    if not kept:
        return "0"
    power = int(f"{exponent_sign}{exponent or 0}") - len(fraction) + len(digits) - len(kept)
    return f"{sign}{kept}e{power}"

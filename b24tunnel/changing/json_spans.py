"""Where in the bytes of a JSON document a value lies (RFC 8259)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from b24tunnel.form import MAX_PARAMETERS

MAX_VALUES: Final = MAX_PARAMETERS

# Strings, then what opens, closes and divides, then numbers and words.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[{}\[\],:]|[^\s{}\[\],:"]+', re.DOTALL)
_WORDS = {None: "null", True: "true", False: "false"}


class NoJson(ValueError):
    """A body that cannot be read as JSON; the message completes "…, because it"."""


class Member(NamedTuple):
    """A value in an object or a list, with its key: byte offsets into the document."""

    key: str
    start: int
    """Where the key begins, in a list the value."""
    value_start: int
    end: int


def parse(document: bytes) -> Any:
    """The document with every number, word and string as text, numbers and words as they are spelled.

    Raises NoJson, also for more than MAX_VALUES values.
    """
    if document.count(b",") + document.count(b"[") + document.count(b"{") > MAX_VALUES:
        raise NoJson(f"has more than {MAX_VALUES:,} values")
    try:
        return json.loads(
            document.decode("utf-8", "surrogateescape"),
            parse_int=str,
            parse_float=str,
            parse_constant=_refuse,
        )
    except RecursionError:
        raise NoJson("is nested too deep") from None
    except ValueError:
        raise NoJson("is no JSON") from None


def text_of(scalar: Any) -> str:
    """A scalar of `parse` as text."""
    return scalar if isinstance(scalar, str) else _WORDS[scalar]


def find(document: bytes, keys: Sequence[str]) -> tuple[int, int] | None:
    """Where the value at these keys lies in a document that `parse` reads; None where there is none.

    A list's keys are its indexes. Where a key is there twice, the last one counts.
    """
    start = _value_start(document, 0)
    end = len(document.rstrip(b" \t\r\n"))
    for key in keys:
        matching = [member for member in _members(document, start) if member.key == key]
        if not matching:
            return None
        _, _, start, end = matching[-1]
    return start, end


def replace(document: bytes, span: tuple[int, int], value: str) -> bytes:
    """The document with another scalar: a string where it was one, else what JSON ``value`` is, else a string."""
    start, end = span
    spelled = value.strip(" \t\r\n") if document[start : start + 1] != b'"' and _is_json(value) else None
    if spelled is None:
        spelled = json.dumps(value, ensure_ascii=False)
    return document[:start] + spelled.encode("utf-8") + document[end:]


def remove(document: bytes, keys: Sequence[str]) -> bytes:
    """The document without what is at these keys, which are there: every member of that key, each with a comma."""
    above = find(document, keys[:-1])
    assert above is not None
    members = list(_members(document, above[0]))
    gone = [member.key == keys[-1] for member in members]
    pieces: list[bytes] = []
    position = 0
    for place, member in enumerate(members):
        if not gone[place]:
            continue
        if not all(gone[:place]):
            start, end = members[place - 1].end, member.end
        elif place + 1 < len(members):
            start, end = member.start, members[place + 1].start
        else:
            start, end = member.start, member.end
        pieces.append(document[position:start])
        position = end
    return b"".join([*pieces, document[position:]])


def _members(document: bytes, start: int) -> Iterator[Member]:
    """The members of the object or list that begins here; none where a scalar does."""
    if document[start : start + 1] not in (b"{", b"["):
        return
    is_object = document[start : start + 1] == b"{"
    depth = 0
    first: re.Match[bytes] | None = None  # of the member's tokens: its key, in a list its value
    value_start: int | None = None
    end = start
    index = 0
    for token in _TOKEN.finditer(document, start):
        mark = token[0]
        if depth == 1 and mark in (b",", b"]", b"}"):
            if first is not None and value_start is not None:
                key = json.loads(first[0].decode("utf-8", "surrogateescape")) if is_object else str(index)
                yield Member(key, first.start(), value_start, end)
                index += 1
            if mark != b",":
                return
            first = value_start = None
            continue
        if depth == 1 and mark != b":":
            if first is None:
                first = token
                value_start = None if is_object else token.start()
            elif value_start is None:
                value_start = token.start()
        if mark in (b"{", b"["):
            depth += 1
        elif mark in (b"}", b"]"):
            depth -= 1
        end = token.end()


def _value_start(document: bytes, position: int) -> int:
    token = _TOKEN.search(document, position)
    return len(document) if token is None else token.start()


def _is_json(text: str) -> bool:
    try:
        json.loads(text, parse_int=str, parse_float=str, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")

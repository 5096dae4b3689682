"""multipart/form-data as PHP reads it into `$_POST`: where each value's bytes lie (RFC 7578; main/rfc1867.c)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from b24tunnel.form import MAX_PARAMETERS

LONGEST_BOUNDARY: Final = 1000
"""Bytes; RFC 2046 allows 70."""

_SPACE = b" \t\n\v\f\r"


class TooManyParts(ValueError):
    """A body of more than MAX_PARAMETERS parts."""


class Part(NamedTuple):
    """One part that holds a value. All positions are byte offsets into the body.

    ``start`` is where the line with the boundary begins, ``next_start`` where the next such line does (None when
    the body breaks off), ``before`` where the value of the part before it ends.
    """

    name: bytes
    before: int
    start: int
    value_start: int
    value_end: int
    next_start: int | None


def boundary_of(content_type: str) -> bytes | None:
    """The boundary that a Content-Type names; None where it names none, or one that is too long."""
    place = content_type.lower().find("boundary")
    _, equals, named = content_type[max(place, 0) :].partition("=")
    if place < 0 or not equals:
        return None
    if named.startswith('"'):
        named, quote, _ = named[1:].partition('"')
        if not quote:
            return None
    else:
        named = named.partition(",")[0].partition(";")[0]
    boundary = named.encode("utf-8", "surrogateescape")
    return boundary if 0 < len(boundary) <= LONGEST_BOUNDARY else None


def parts(body: bytes, boundary: bytes) -> Iterator[Part]:
    """The parts that hold values, in order; files and whatever PHP does not look at are passed over.

    Raises TooManyParts.
    """
    line = b"--" + boundary
    between = b"\n" + line
    found = _find_line(body, line, 0)
    before = 0
    count = 0
    while found is not None:
        count += 1
        if count > MAX_PARAMETERS:
            raise TooManyParts(f"The body has more than {MAX_PARAMETERS:,} parts.")
        start, after = found
        disposition, value_start = _disposition(body, after)
        value_end, next_line = _value_end(body, between, value_start)
        found = None if next_line is None else _find_line(body, line, next_line)
        if disposition is not None:
            name, is_file = _name(disposition)
            if name is None and not is_file:
                return  # PHP stops at what it calls garbled
            if name is not None and not is_file:
                yield Part(name, before, start, value_start, value_end, next_line)
        before = value_end


def _find_line(body: bytes, line: bytes, position: int) -> tuple[int, int] | None:
    """The next line that is nothing but the boundary, from a line's beginning on: its start and what follows."""
    at_once = body.startswith(line, position)
    start: int | None = position if at_once else _line_after(body, line, position)
    while start is not None:
        end = body.find(b"\n", start + len(line))
        if end < 0:
            return None
        if body[start + len(line) : min(end, start + len(line) + 2)] in (b"", b"\r"):
            return start, end + 1
        start = _line_after(body, line, start + len(line))
    return None


def _line_after(body: bytes, line: bytes, position: int) -> int | None:
    """Where the next line that begins like this begins, behind a line feed."""
    found = body.find(b"\n" + line, position)
    return None if found < 0 else found + 1


def _disposition(body: bytes, position: int) -> tuple[bytes | None, int]:
    """The value of the first Content-Disposition, and where the part's own value begins."""
    key: bytes | None = None
    found: list[bytes] | None = None
    while (end := body.find(b"\n", position)) >= 0:
        text = body[position:end].removesuffix(b"\r").partition(b"\0")[0]
        position = end + 1
        if not text:
            break
        name, colon, value = text.partition(b":")
        if colon and text[0] not in _SPACE:
            key = name.lower()
            if found is None and key == b"content-disposition":
                found = [value.lstrip(_SPACE)]
                continue
            key = b"" if key == b"content-disposition" else key
        elif found is not None and key == b"content-disposition":
            found.append(text)
    return (None if found is None else b"".join(found)), position


def _value_end(body: bytes, between: bytes, start: int) -> tuple[int, int | None]:
    """Where a value ends, and where the line with the next boundary begins; None when the body breaks off."""
    bound = body.find(between, start)
    if bound >= 0:
        is_after_return = bound > start and body[bound - 1 : bound] == b"\r"
        return bound - is_after_return, bound + 1
    # PHP takes what may be the beginning of a boundary for none of the value.
    for length in range(min(len(between) - 1, len(body) - start), 0, -1):
        if body.endswith(between[:length]):
            end = len(body) - length
            return end - (end > start and body[end - 1 : end] == b"\r"), None
    return len(body), None


def _name(disposition: bytes) -> tuple[bytes | None, bool]:
    """The name that a Content-Disposition gives, and whether it gives a file's name too."""
    name: bytes | None = None
    is_file = False
    for word in _words(disposition):
        key, equals, value = word.lstrip(_SPACE).partition(b"=")
        if equals and key.lower() == b"name":
            name = _unquoted(value)
        elif equals and key.lower() == b"filename":
            is_file = True
    return name, is_file


def _words(text: bytes) -> Iterator[bytes]:
    """What stands between semicolons that are in no quotes."""
    start = position = 0
    while position < len(text):
        char = text[position : position + 1]
        position += 1
        if char in (b'"', b"'"):
            while position < len(text) and text[position : position + 1] != char:
                position += 2 if text[position : position + 2] == b"\\" + char else 1
            position += 1
        elif char == b";":
            yield text[start : position - 1]
            start = position
    yield text[start:]


def _unquoted(value: bytes) -> bytes:
    value = value.lstrip(_SPACE)
    quote = value[:1]
    if quote not in (b'"', b"'"):
        quote = b""
        value = value.split(None, 1)[0] if value else b""
    unquoted = bytearray()
    position = len(quote)
    while position < len(value):
        char = value[position : position + 1]
        if char == b"\\":
            following = value[position + 1 : position + 2]
            if following and following in (b"\\", quote):
                char = following
                position += 1
        elif char == quote:
            break
        unquoted += char
        position += 1
    return bytes(unquoted)

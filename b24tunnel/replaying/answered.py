"""The body of a handler's answer as it is looked at: decompressed within a bound."""

from __future__ import annotations

import zlib
from typing import NamedTuple

from b24tunnel.body_differences import Body
from b24tunnel.recording import Attempt

MOST_BYTES = 1024 * 1024
"""Bytes of an answer that are looked at, once decompressed."""

_WINDOWS = {"gzip": (31,), "x-gzip": (31,), "deflate": (15, -15)}  # deflate is sent with and without a head


class Answered(NamedTuple):
    """``why_not`` says why the body could not be looked into (None: it could); ``body`` is then as it came."""

    body: Body
    why_not: str | None = None


def answered(attempt: Attempt) -> Answered:
    """The body of an attempt's answer, decompressed where Content-Encoding says gzip or deflate."""
    content_type = next(iter(header_values(attempt, "Content-Type")), "")
    as_it_came = Body(attempt.body, content_type, attempt.truncated)
    encodings = [
        encoding.strip().lower()
        for value in header_values(attempt, "Content-Encoding")
        for encoding in value.split(",")
        if encoding.strip().lower() not in ("", "identity")
    ]
    if not encodings or not attempt.body:
        return Answered(as_it_came)
    named = ", ".join(encodings)[:40]
    if len(encodings) > 1 or encodings[0] not in _WINDOWS:
        return Answered(as_it_came, f"it is compressed ({named})")
    why_not = f"its Content-Encoding is {named}, which it is not"
    for window in _WINDOWS[encodings[0]]:
        try:
            data, ended = _decompressed(attempt.body, window)
        except zlib.error:
            continue
        if ended or attempt.truncated or len(data) >= MOST_BYTES:
            return Answered(Body(data, content_type, cut=not ended))
        why_not = f"it is compressed ({named}) and breaks off"
    return Answered(as_it_came, why_not)


def header_values(attempt: Attempt, name: str) -> list[str]:
    """The values of an answer's header, whose name is compared without regard to case."""
    lowered = name.lower()
    return [value.strip() for header, value in attempt.headers if header.lower() == lowered]


def _decompressed(body: bytes, window: int) -> tuple[bytes, bool]:
    """At most `MOST_BYTES` of it, and whether that is all. Raises ``zlib.error``."""
    pieces: list[bytes] = []
    size, ended = 0, False
    # A gzip may consist of several, one behind the other.
    while body and size < MOST_BYTES and (not pieces or window == 31):
        stream = zlib.decompressobj(window)
        try:
            piece = stream.decompress(body, MOST_BYTES - size)
        except zlib.error:
            if ended:  # what follows the end is no part of it
                break
            raise
        pieces.append(piece)
        size += len(piece)
        ended = stream.eof
        body = stream.unused_data
        if not ended:
            break
    return b"".join(pieces), ended and not (body and size >= MOST_BYTES)

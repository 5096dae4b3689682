"""Bodies of requests as they arrive: each within a bound and a time, all of them together within another bound."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web
from aiohttp.http import HttpVersion11

# A sender that stops in the middle of its body gives its connection back after this long.
BODY_SECONDS = 60.0
# Bytes of bodies under way at the same time; those no larger than an event's do not count.
UNDER_WAY_BYTES = 128 * 1024 * 1024
_SMALL = 64 * 1024


class BodyRefused(Exception):
    """A body that is not taken: the answer's status and text, and a sentence for the user (None: no news)."""

    def __init__(self, status: int, text: str, news: str | None) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.news = news


@dataclass
class _Share:
    """What one body has added to the bytes under way."""

    counted: int = 0


class Bodies:
    """Reads the bodies of requests without decompressing them."""

    def __init__(self, max_body: int) -> None:
        """``max_body`` is the largest body in bytes."""
        self._max_body = max_body
        self._most_under_way = max(UNDER_WAY_BYTES, 2 * max_body)
        self._small = min(_SMALL, max_body)
        self._under_way = 0

    def at_once(self, request: web.BaseRequest) -> bytes | None:
        """A small body that has come with its head, as an event's does; None for any other."""
        content = request.content
        # Nothing at all may also be a length that the parser could not count: that is looked into.
        if content.is_eof() and 0 < content.total_bytes <= self._small and not content.exception():
            return content.read_nowait()
        return None

    @asynccontextmanager
    async def reading(self, request: web.BaseRequest) -> AsyncIterator[bytes]:
        """The body once it is whole; it counts as under way until the context ends. Raises `BodyRefused`."""
        declared = request.headers.get("Content-Length", "")
        if declared.isascii() and declared.isdigit() and int(declared[:20]) > self._max_body:
            raise self._too_large()
        # RFC 9110 §10.1.1: older senders take it for the answer.
        if request.version >= HttpVersion11 and request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        share = _Share()
        try:
            yield await self._whole(request, share)
        finally:
            self._under_way -= share.counted

    async def _whole(self, request: web.BaseRequest, share: _Share) -> bytes:
        pieces: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for piece in request.content.iter_any():
                    size += len(piece)
                    if size > self._max_body:
                        raise self._too_large()
                    if size > _SMALL:
                        self._under_way += size - share.counted
                        share.counted = size
                        if self._under_way > self._most_under_way:
                            raise BodyRefused(
                                503,
                                "Too many large bodies are under way.",
                                "Refused a delivery (503): too many large ones are under way.",
                            )
                    pieces.append(piece)
        except ConnectionError:  # the sender hung up in the middle
            raise BodyRefused(400, "The body did not arrive whole.", None) from None
        except TimeoutError:
            late = f"did not arrive within {BODY_SECONDS:.0f} seconds"
            raise BodyRefused(408, f"The body {late}.", f"The body of a delivery {late} (408).") from None
        return b"".join(pieces)

    def _too_large(self) -> BodyRefused:
        return BodyRefused(
            413,
            f"A body may have at most {self._max_body} bytes here.",
            f"Refused a delivery of more than {self._max_body:,} bytes (413); "
            "raise --max-body if this was a real one.",
        )

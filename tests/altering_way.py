"""A public server on the way to a receiver that does to requests what tunnels and proxies do to them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl

import aiohttp
from aiohttp import web

# Made anew by the next server on the way: they speak of one connection, or of the body that is sent along.
_FRAMING = ("host", "content-length", "transfer-encoding", "connection")


@dataclass(frozen=True)
class Passing:
    """One request on its way."""

    method: str
    headers: dict[str, str]
    body: bytes


# What is done to a request: it is passed on (changed or not), or answered on the way.
Deed = Callable[[Passing], Passing | web.Response]


def unchanged(passing: Passing) -> Passing:
    """A good way."""
    return passing


def as_json(passing: Passing) -> Passing:
    """The form rewritten as JSON, its header left as it was."""
    pairs = dict(parse_qsl(passing.body.decode(), keep_blank_values=True))
    return replace(passing, body=json.dumps(pairs).encode())


def without(header: str) -> Deed:
    """One header stripped."""

    def strip(passing: Passing) -> Passing:
        kept = {name: value for name, value in passing.headers.items() if name.lower() != header.lower()}
        return replace(passing, headers=kept)

    return strip


def answer(status: int, html: str = "", **headers: str) -> Deed:
    """An answer of its own."""
    kind = {"content_type": "text/html"} if html else {}
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda passing: web.Response(status=status, text=html, headers=names, **kind)  # type: ignore[arg-type]


class AlteringWay:
    """Leads to ``port``; what is done on it can change at any time, and so can what is done to answers."""

    def __init__(self, port: int, deed: Deed = unchanged) -> None:
        self.port = port
        self.deed = deed
        self.on_answer: Callable[[web.Response], Awaitable[web.StreamResponse] | web.StreamResponse] | None = None
        self.url = ""
        self.passed = 0

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        passing = self.deed(Passing(request.method, dict(request.headers), await request.read()))
        if isinstance(passing, web.Response):
            return passing
        self.passed += 1
        headers = {name: value for name, value in passing.headers.items() if name.lower() not in _FRAMING}
        async with (
            aiohttp.ClientSession(skip_auto_headers=("User-Agent", "Content-Type")) as client,
            client.request(
                passing.method,
                f"http://127.0.0.1:{self.port}{request.raw_path}",
                data=passing.body,
                headers=headers,
                allow_redirects=False,
            ) as there,
        ):
            back = web.Response(status=there.status, body=await there.read())
        if self.on_answer is None:
            return back
        made = self.on_answer(back)
        return made if isinstance(made, web.StreamResponse) else await made


@contextlib.asynccontextmanager
async def altering_way(port: int, deed: Deed = unchanged, **options: Any) -> AsyncIterator[AlteringWay]:
    """The way, as a server on a free port of this machine; ``options`` are those of its site (``ssl_context``)."""
    way = AlteringWay(port, deed)
    runner = web.ServerRunner(web.Server(way.handle), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, **options)
    await site.start()
    try:
        scheme = "https" if "ssl_context" in options else "http"
        way.url = f"{scheme}://127.0.0.1:{runner.addresses[0][1]}"
        yield way
    finally:
        await runner.cleanup()

"""Pass-through: whatever is not ours goes to the developer's application, and its answers go back unchanged."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Protocol, Self

from aiohttp import web

from b24tunnel.bodies import Bodies, BodyRefused
from b24tunnel.connections import hung_up
from b24tunnel.pass_through_exchange import Exchange, Failed
from b24tunnel.pass_through_heads import (
    Application,
    Host,
    check_request,
    declared_length,
    passed_target,
    wants_websocket,
)
from b24tunnel.recording import INTERRUPTED, Attempt, Recording, RequestType, decoded_headers
from b24tunnel.redact import shown_url
from b24tunnel.request_type import is_hidden, may_be_form, request_type, says_form
from b24tunnel.seldom import Seldom

# Requests and sockets that are open at the same time: they must leave connections for deliveries.
MOST_UNDER_WAY = 256
_SECONDS_BETWEEN_WORDS = 60.0
_HIDDEN = "This request has a field of Bitrix24's among more than is looked into."
_STOPPED = f"{INTERRUPTED}: b24tunnel stopped before the handler had answered"


class Recorder(Protocol):
    """What becomes of a request that is Bitrix24's."""

    async def record(self, request: web.BaseRequest, body: bytes, type: RequestType) -> Recording | web.Response:
        """The recording once it is on disk, or the answer that refuses the request, which then goes no further."""
        ...

    async def attempted(self, attempt: Attempt) -> None:
        """Note what the application answered to a recorded request."""
        ...


class PassThrough:
    """A streaming reverse proxy with WebSockets, for requests to a `BoundedServer`.

    Bodies go both ways as they come, in pieces, neither kept nor decompressed. Forms are
    read whole, so that what is Bitrix24's (`request_type`) can be recorded before the application gets it. Those
    over ``max_body`` bytes, and those in which its fields may be hidden (`is_hidden`), are refused (413).

    Use it as an asynchronous context manager, or `stop` it.
    """

    def __init__(
        self,
        application: str,
        *,
        max_body: int,
        recorder: Recorder,
        timeout: float = 60.0,
        host: Host = "public",
        most_under_way: int = MOST_UNDER_WAY,
        on_trouble: Callable[[str], None] = lambda message: None,
    ) -> None:
        """``application``: an http or https URL whose path goes before that of each request; else `WrongUsage`.

        ``timeout``: seconds until the beginning of an answer. ``host``: what the application gets as ``Host``,
        the public one, by which frameworks build addresses and compare origins, or its own, for servers that
        refuse any other. ``on_trouble`` gets a sentence when the application fails; many alike are told as a
        number, once a minute.
        """
        self.application = Application.at(application)
        # Of the public address, for X-Forwarded-Proto where the tunnel does not set it.
        self.scheme = "http"
        self.under_way = 0
        self._max_body = max_body
        self._recorder = recorder
        self._timeout = timeout
        self._host = host
        self._most_under_way = most_under_way
        self._on_trouble = on_trouble
        self._bodies = Bodies(max_body)
        self._seldom = Seldom(_SECONDS_BETWEEN_WORDS)
        self._stopping = False
        self._running: dict[asyncio.Task[None], Exchange] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self, seconds: float = 1.0) -> None:
        """Take no more, end WebSockets at once and everything else after ``seconds``."""
        self._stopping = True
        for task, exchange in self._running.items():
            if exchange.upgraded:
                task.cancel()
        if self._running:
            await asyncio.wait(tuple(self._running), timeout=seconds)
        rest = tuple(self._running)
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        self._seldom.finish()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """The application's answer, most of which has been written already when this returns."""
        if (wrong := check_request(request)) is not None:
            return _refusal(400, wrong)
        if request.method == "CONNECT":
            return _refusal(405, "This is no proxy.")
        if self._stopping:
            return _refusal(503, "b24tunnel is stopping.")
        if self.under_way >= self._most_under_way:
            self._say("crowded", "has too many requests under way, so some were refused (503)")
            return _refusal(503, "Too many requests are under way.")
        self.under_way += 1
        try:
            return await self._answer(request)
        except BodyRefused as refusal:
            if refusal.news is not None:
                more = f"Requests were not taken ({refusal.status}): {{count}} more within a minute."
                self._seldom.say(f"body {refusal.status}", refusal.news, more, self._on_trouble)
            return _refusal(refusal.status, refusal.text)
        finally:
            self.under_way -= 1

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        headers = decoded_headers(request.raw_headers)
        target = request.raw_path
        length = declared_length(request)
        by_query = request_type(target, headers, b"")
        if is_hidden(target, headers, b""):
            return _refusal(413, _HIDDEN)
        within = length is not None and 0 < length <= self._max_body
        # A body that does not say what it is, and has no known end or another method, is no form of Bitrix24's.
        has_form = length != 0 and (
            says_form(headers) or (within and request.method == "POST" and may_be_form(headers))
        )
        # A chunked body that is no form has no known end: it is not waited for.
        wanted = by_query != "other" and length is not None and length <= self._max_body
        if wants_websocket(request) or not (has_form or wanted):
            return await self._pass(request, None, None)
        async with self._bodies.reading(request) as body:
            kind = request_type(target, headers, body)
            if kind == "other":
                if is_hidden(target, headers, body):
                    return _refusal(413, _HIDDEN)
                return await self._pass(request, body, None)
            recorded = await self._recorder.record(request, body, kind)
            if isinstance(recorded, Recording):
                return await self._pass(request, body, recorded)
            return recorded

    async def _pass(
        self, request: web.BaseRequest, whole: bytes | None, recording: Recording | None
    ) -> web.StreamResponse:
        started_at, start = datetime.now(UTC), time.monotonic()
        failure: Exception | None = None
        exchange = Exchange(
            request,
            self.application,
            host=self._host,
            scheme=self.scheme,
            timeout=self._timeout,
            whole=whole,
            keep=recording is not None,
        )
        try:
            error, answer = await self._run(request, exchange)
        except asyncio.CancelledError:
            error, answer = _STOPPED, None
        except Exception as unforeseen:
            failure = unforeseen
            error, answer = f"given up: b24tunnel failed ({type(unforeseen).__name__})", None
        if recording is not None:
            attempt = Attempt(
                recording.id,
                "forward",
                _url(self.application, request.raw_path),
                started_at,
                (time.monotonic() - start) * 1000,
                error=error,
            )
            if error is None and exchange.head is not None:
                attempt = replace(
                    attempt,
                    status=exchange.head.status,
                    headers=decoded_headers(exchange.head.headers),
                    body=exchange.kept,
                    truncated=exchange.truncated,
                )
            await self._recorder.attempted(attempt)
        if failure is not None:
            raise failure
        if answer is None:
            raise asyncio.CancelledError
        return answer

    async def _run(
        self, request: web.BaseRequest, exchange: Exchange
    ) -> tuple[str | None, web.StreamResponse | None]:
        """What kept the application's answer from being whole, for the attempt, and the answer to the client."""
        gone = hung_up(request)
        task = asyncio.create_task(exchange.run())
        self._running[task] = exchange
        try:
            await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            del self._running[task]
        failure = None if task.cancelled() else task.exception()
        if exchange.complete and (failure is None or isinstance(failure, ConnectionError | TimeoutError)):
            if exchange.upgraded and task.cancelled() and request.transport is not None:
                request.transport.abort()
            return None, _Written(exchange.keep_alive)
        if task.cancelled():
            if gone.done():
                return "given up: the sender hung up before the answer was whole", _Written(False)
            if exchange.begun and request.transport is not None:
                request.transport.abort()  # it may be one that does not read what is left
            return _STOPPED, self._cut(request, exchange, _refusal(503, "b24tunnel is stopping."))
        if isinstance(failure, Failed):
            if failure.trouble is not None:
                self._say(failure.trouble, failure.trouble)
            return failure.error, self._cut(request, exchange, _refusal(failure.status, failure.text))
        if isinstance(failure, ConnectionError | TimeoutError):
            return "given up: the sender did not take the answer", self._cut(request, exchange, _Written(False))
        assert failure is not None
        raise failure

    def _cut(
        self, request: web.BaseRequest, exchange: Exchange, unbegun: web.StreamResponse
    ) -> web.StreamResponse:
        """What is answered where the application's answer is not whole, which the client has to notice."""
        if not exchange.begun:
            return unbegun
        if request.transport is not None and exchange.ends_with_connection:
            _reset(request.transport)  # an orderly end would say that this was all
        return _Written(False)

    def _say(self, kind: str, what: str) -> None:
        url = shown_url(self.application.url)
        more = f"The application {url} {what}: {{count}} more times within a minute."
        self._seldom.say(kind, f"The application {url} {what}.", more, self._on_trouble)


class _Written(web.StreamResponse):
    """An answer that is on its way to the client already, as raw as it came."""

    def __init__(self, keep_alive: bool) -> None:
        super().__init__()
        self._may_stay = keep_alive

    @property
    def keep_alive(self) -> bool:
        return self._may_stay

    async def prepare(self, request: web.BaseRequest) -> None:
        """Nothing is left to write."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to write."""


def _reset(transport: asyncio.Transport) -> None:
    """End a connection with a TCP reset."""
    connection = transport.get_extra_info("socket")
    if connection is not None:
        at_once = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
        with contextlib.suppress(OSError):  # it is gone already
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
    transport.abort()


def _refusal(status: int, text: str) -> web.Response:
    # Without it aiohttp names its own version and Python's.
    answer = web.Response(status=status, text=text + "\n", headers={"Server": "b24tunnel"})
    answer.force_close()  # of the body there may be a rest that nobody reads
    return answer


def _url(application: Application, target: str) -> str:
    return f"{application.scheme}://{application.authority}{passed_target(application, target)}"

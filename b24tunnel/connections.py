"""aiohttp's low-level server with a bound on its connections, none of which may keep the others out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

# A connection that sends no request at all is ended after this long.
HEAD_SECONDS = 30.0
_FILES = 8192


class BoundedServer(web.Server):
    """Serves at most half as many connections as this process may open files.

    Beyond it one without a request under way makes room: the oldest of those that never sent one, else the one
    that has been idle for longest. Where all have a request under way the new one is closed at once, which
    ``on_crowded`` is told.
    """

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        on_crowded: Callable[[], None],
        on_error: Callable[[BaseException | None], web.Response],
        **settings: Any,
    ) -> None:
        """``on_error`` makes the answer to what is no HTTP (`HttpProcessingError`) and to failures of ours.

        ``settings`` are those of `aiohttp.web.Server`.
        """
        super().__init__(self._handle, **settings)
        self.on_error = on_error
        self._settings = settings
        self._handler = handler
        self._on_crowded = on_crowded
        self._most = _most_connections()
        self._open = 0
        # Connections without a request under way, the longest idle first.
        self._idle: dict[web.RequestHandler, None] = {}
        # Those that have not sent one yet, and when they are ended.
        self._silent: dict[web.RequestHandler, asyncio.TimerHandle] = {}

    def new_connection(self) -> asyncio.Protocol:
        """The protocol for a new connection (`asyncio.loop.create_server`)."""
        if self._open >= self._most:
            making_room = next(iter(self._silent), None) or next(iter(self._idle), None)
            if making_room is None:
                self._on_crowded()
                return _Refusing()
            self._end(making_room)
        # Counted already here: many may be accepted before the first of them is made.
        loop = asyncio.get_running_loop()
        connection = _Connection(self, loop=loop, **self._settings)
        self._open += 1
        self._idle[connection] = None
        self._silent[connection] = loop.call_later(HEAD_SECONDS, self._end, connection)
        return connection

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if handler not in self._idle:  # it has made room for another meanwhile
            transport.abort()

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self._open -= 1
        self._idle.pop(handler, None)
        self._no_longer_silent(handler)

    async def shutdown(self, timeout: float | None = None) -> None:
        await super().shutdown(timeout)
        for timer in self._silent.values():
            timer.cancel()
        self._silent.clear()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        self._idle.pop(connection, None)
        self._no_longer_silent(connection)
        try:
            return await self._handler(request)
        finally:
            if request.transport is not None:
                self._idle[connection] = None

    def _no_longer_silent(self, connection: web.RequestHandler) -> None:
        if (timer := self._silent.pop(connection, None)) is not None:
            timer.cancel()

    def _end(self, connection: web.RequestHandler) -> None:
        self._idle.pop(connection, None)
        self._silent.pop(connection, None)
        if connection.transport is not None:
            connection.transport.abort()


def hung_up(request: web.BaseRequest) -> asyncio.Future[None]:
    """Done once the connection of a request to a `BoundedServer` is no more; not to be cancelled."""
    connection = request.protocol
    assert isinstance(connection, _Connection), "a request of another server"
    return connection.gone()


class _Connection(web.RequestHandler):
    """aiohttp's, which by itself quotes in its answer what it could not read, and logs it with a traceback."""

    __slots__ = ("_gone", "_on_error")

    def __init__(self, server: BoundedServer, **settings: Any) -> None:
        super().__init__(server, **settings)
        self._on_error = server.on_error
        self._gone: asyncio.Future[None] | None = None

    def gone(self) -> asyncio.Future[None]:
        if self._gone is None:
            self._gone = asyncio.get_running_loop().create_future()
            if self.transport is None:
                self._gone.set_result(None)
        return self._gone

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("a part of another answer is on its way already")
        answer = self._on_error(exc)
        answer.force_close()
        return answer


class _Refusing(asyncio.Protocol):
    """A connection beyond the bound: it is closed at once, so that files and handlers stay within reach."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def _most_connections() -> int:
    """Half of the files that this process may open: the journal and the handler need some too."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return 512
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _FILES <= hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (_FILES, hard))
        soft = _FILES
    return max(16, min(soft, _FILES) // 2)

"""The public listener: record the raw request, sync it, answer 200, and nothing else."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from aiohttp import web
from aiohttp.http import HttpProcessingError

from b24tunnel.errors import OutsideFailure
from b24tunnel.event import Event
from b24tunnel.form import FormError
from b24tunnel.journal import JournalUnwritable, JournalWriter
from b24tunnel.recording import Recording, Verdict, decoded_headers

MAX_BODY = 32 * 1024 * 1024
# A sender that stops in the middle of its body gives its connection back after this long.
BODY_SECONDS = 60.0
# ... and one that sends no request at all after this long.
HEAD_SECONDS = 30.0
_FILES = 8192
_MOST_PAIRS = 20_000
# A delivery by GET carries everything in its request line.
_LONGEST_LINE = 64 * 1024


class Receiver:
    """A server that knows one path, ``/b24/SEGMENT``, and writes what comes there to the journal.

    It answers 200 with an empty body after the sync; 413 to a body over ``max_body`` bytes and 503 when the
    record could not be written, both with a plain reason; 404 everywhere else, recording nothing.
    """

    def __init__(
        self,
        writer: JournalWriter,
        segment: str,
        *,
        max_body: int = MAX_BODY,
        portal: str | None = None,
        application_token: str | None = None,
        on_trouble: Callable[[str], None] = lambda message: None,
    ) -> None:
        """``application_token``, where the portal's is known, gives each delivery its verdict.

        ``on_trouble`` gets one sentence for each delivery that could not be recorded.
        """
        self.path = f"/b24/{segment}"
        self.recorded = 0
        self.refused = 0  # deliveries that could not be recorded: Bitrix24 does not send them again
        self.port = 0
        self._writer = writer
        self._max_body = max_body
        self._portal = portal
        self._application_token = application_token
        self._on_trouble = on_trouble
        self._most_connections = 0
        # Connections that have sent no request yet, and when they are ended.
        self._silent: dict[Any, asyncio.TimerHandle] = {}
        self._server: asyncio.Server | None = None
        self._protocols: web.Server | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen, and return the port; raises `OutsideFailure` when the address is taken or not ours."""
        loop = asyncio.get_running_loop()
        self._most_connections = _most_connections()
        # No decompression: a recording holds the bytes as they came.
        self._protocols = web.Server(
            self._answer,
            auto_decompress=False,
            access_log=None,
            logger=_told(self._on_trouble),
            max_line_size=_LONGEST_LINE,
            max_field_size=_LONGEST_LINE,
        )
        try:
            self._server = await loop.create_server(self._connection, host, port, backlog=1024)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise OutsideFailure(f"Cannot listen on {host}:{port} ({reason}): choose another --port.") from error
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self.port

    async def stop(self, seconds: float = 2.0) -> None:
        """Take no new deliveries, finish those under way within ``seconds``, close all connections."""
        if self._server is not None and self._protocols is not None:
            self._server.close()
            self._protocols.pre_shutdown()
            await self._protocols.shutdown(seconds)
            for timer in self._silent.values():
                timer.cancel()
            self._silent.clear()
            self._server = None

    def _connection(self) -> asyncio.Protocol:
        """The protocol of a new connection: none of them all may keep others out, or last without a request."""
        assert self._protocols is not None
        if len(self._protocols.connections) >= self._most_connections:
            return _Refusing()
        protocol = self._protocols()
        loop = asyncio.get_running_loop()
        self._silent[protocol] = loop.call_later(HEAD_SECONDS, self._end_silent, protocol)
        return protocol

    def _end_silent(self, protocol: Any) -> None:
        del self._silent[protocol]
        if protocol.transport is not None:
            protocol.transport.abort()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if (timer := self._silent.pop(request.protocol, None)) is not None:
            timer.cancel()
        path = request.raw_path.partition("?")[0]
        if not hmac.compare_digest(path.rstrip("/").encode("utf-8", "replace"), self.path.encode()):
            return _plain(404, "There is nothing here.")
        try:
            body = await self._read_body(request)
        except _BodyTooLarge:
            self._on_trouble(
                f"Refused a delivery of more than {self._max_body:,} bytes (413); "
                "raise --max-body if this was a real one."
            )
            return _plain(413, f"A body may have at most {self._max_body} bytes here.")
        except ConnectionError:  # the sender hung up in the middle: nobody reads the answer
            return _plain(400, "The body did not arrive whole.")
        except TimeoutError:
            return _plain(408, f"The body did not arrive within {BODY_SECONDS:.0f} seconds.")
        recording = self._recording(request, body)
        try:
            await self._writer.append(recording)
        except JournalUnwritable as error:
            self.refused += 1
            self._on_trouble(f"Refused {recording.code or 'a delivery'} (503), for it cannot be recorded. {error}")
            return _plain(503, "The delivery could not be written to disk, so it was not accepted.")
        self.recorded += 1
        return web.Response()

    async def _read_body(self, request: web.BaseRequest) -> bytes:
        declared = request.headers.get("Content-Length", "")
        if declared.isascii() and declared.isdigit() and int(declared[:20]) > self._max_body:
            raise _BodyTooLarge
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        pieces = []
        size = 0
        async with asyncio.timeout(BODY_SECONDS):
            async for piece in request.content.iter_any():
                size += len(piece)
                if size > self._max_body:
                    raise _BodyTooLarge
                pieces.append(piece)
        return b"".join(pieces)

    def _recording(self, request: web.BaseRequest, body: bytes) -> Recording:
        code, verdict = self._judge(request.raw_path, body)
        return Recording(
            id=self._writer.next_id(),
            received_at=datetime.now(UTC),
            code=code,
            method=request.method,
            target=request.raw_path,
            http_version=f"{request.version.major}.{request.version.minor}",
            headers=decoded_headers(request.raw_headers),
            body=body,
            remote=request.remote,
            verdict=verdict,
            portal=self._portal,
        )

    def _judge(self, target: str, body: bytes) -> tuple[str | None, Verdict]:
        """The event's code, and whether the delivery proves its origin ("Secure event handlers").

        A body of very many pairs is not looked into while its sender waits: no event has so many.
        """
        if body.count(b"&") + target.count("&") > _MOST_PAIRS:
            return None, "unverified"
        try:
            event = Event.from_request(target, body)
        except FormError:  # over the codec's bound: kept like any other bytes
            return None, "unverified"
        token = event.application_token
        if self._application_token is None or token is None:
            return event.code, "unverified"
        known = self._application_token.encode("utf-8", "surrogateescape")
        same = hmac.compare_digest(token.encode("utf-8", "surrogateescape"), known)
        return event.code, "verified" if same else "mismatched"


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


class _BodyTooLarge(Exception):
    pass


def _told(on_trouble: Callable[[str], None]) -> logging.Logger:
    """A logger for aiohttp that tells failures of ours in one sentence.

    aiohttp logs a request that is no HTTP with a traceback and its request line, which may hold a token. Anybody
    can send such requests to a public address, so they are answered 400 and not told at all.
    """

    class Telling(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            failure = record.exc_info[0] if record.exc_info else None
            if failure is not None and not issubclass(failure, HttpProcessingError):
                on_trouble(f"A request was not answered because of an error of b24tunnel ({failure.__name__}).")

    logger = logging.Logger("b24tunnel.receiver", logging.ERROR)
    logger.addHandler(Telling())
    return logger


def _plain(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text + "\n")

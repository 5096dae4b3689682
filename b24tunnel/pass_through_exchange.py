"""One request handed to the developer's application, and its answer back as it comes."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
import ssl
from collections.abc import AsyncGenerator

from aiohttp import web
from aiohttp.http import HttpVersion11

from b24tunnel.pass_through_heads import (
    AnswerHead,
    Application,
    Host,
    NoHttp,
    declared_length,
    expects_continue,
    read_answer_head,
    request_head,
    wants_websocket,
)
from b24tunnel.pass_through_websocket import relay
from b24tunnel.recording import UNREACHED
from b24tunnel.this_machine import leads_to_this_machine

# Of an answer so much is kept for the attempt.
KEPT_BYTES = 64 * 1024
# A stream may last for ever, but where nothing has moved for so long nobody is there.
IDLE_SECONDS = 3600.0
_CONNECT_SECONDS = 10.0
# An application that knows nothing of `Expect: 100-continue` says nothing: then the body is asked for anyway.
_CONTINUE_SECONDS = 1.0
_PIECE = 64 * 1024
_LONGEST_HEAD = 64 * 1024
_MOST_INTERIM = 32
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Failed(Exception):
    """The application gave no whole answer.

    ``status`` and ``text`` are for whoever asked, ``error`` is the attempt's (it begins with its kind),
    ``trouble`` a predicate for the user, or None where the sender is at fault.
    """

    def __init__(self, status: int, text: str, error: str, trouble: str | None) -> None:
        super().__init__(error)
        self.status = status
        self.text = text
        self.error = error
        self.trouble = trouble


class Exchange:
    """One request and its answer; `run` it once."""

    def __init__(
        self,
        request: web.BaseRequest,
        application: Application,
        *,
        host: Host,
        scheme: str,
        timeout: float,
        whole: bytes | None,
        keep: bool,
    ) -> None:
        """``timeout``: seconds until the answer's head, counted from when something of the body moved last.

        ``whole`` is the body where it has been read already, ``keep`` whether the answer's beginning is kept.
        """
        self.head: AnswerHead | None = None
        self.kept = b""
        self.truncated = False
        self.begun = False  # something of the answer is on its way to the client
        self.complete = False  # all of it is
        self.keep_alive = False  # the client's connection may have another request
        self.upgraded = False
        self.ends_with_connection = False  # that is how the client knows that the answer is over
        self._request = request
        self._application = application
        self._timeout = timeout
        self._whole = whole
        self._keep = keep
        self._head = request_head(request, application, host=host, scheme=scheme, whole=whole)
        self._expects = whole is None and expects_continue(request)
        self._go_on = asyncio.Event()  # the body may be sent
        self._waits_for_sender = False
        self._asked = False  # the client was asked for its body
        self._bound: asyncio.Timeout | None = None
        self._fault: Failed | None = None  # of the client, while its body was sent on

    async def run(self) -> None:
        """Raises `Failed`, and ConnectionError when the client is gone; `begun` tells what it has seen then."""
        reader, writer = await self._connect()
        upload: asyncio.Task[None] | None = None
        try:
            writer.write(self._head)
            upload = asyncio.create_task(self._send_body(writer))
            head = await self._answer_head(reader)
            if head.status == 101:
                await self._switch(head, reader, writer)
            else:
                await self._pass_back(head, reader, upload)
        finally:
            if upload is not None:
                upload.cancel()
                await asyncio.gather(upload, return_exceptions=True)
            # Nothing that is left is for anybody.
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    # To the application

    async def _connect(self) -> tuple[_Reader, asyncio.StreamWriter]:
        loop = asyncio.get_running_loop()
        host, port = self._application.host, self._application.port
        tls = _tls(self._application.url) if self._application.scheme == "https" else None
        failure: OSError = OSError()
        try:
            async with asyncio.timeout(min(_CONNECT_SECONDS, self._timeout)):
                # Each in turn: what asyncio makes of several failures names addresses.
                for family, _, _, _, address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                    reader = _Reader(_LONGEST_HEAD)
                    try:
                        transport, protocol = await loop.create_connection(
                            functools.partial(asyncio.StreamReaderProtocol, reader),
                            str(address[0]),
                            port,
                            family=family,
                            ssl=tls,
                            server_hostname=host if tls is not None else None,
                        )
                    except OSError as error:
                        failure = error
                    else:
                        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)
        except TimeoutError:
            raise Failed(
                504,
                "The application did not take the connection in time.",
                f"{UNREACHED}: nobody took the connection in time",
                "cannot be reached: nobody took the connection in time",
            ) from None
        except (OSError, UnicodeError) as error:
            failure = error if isinstance(error, OSError) else OSError()
        why = _why_unreached(failure)
        raise Failed(
            502, "The application cannot be reached.", f"{UNREACHED}: {why}", f"cannot be reached: {why}"
        ) from failure

    async def _send_body(self, writer: asyncio.StreamWriter) -> None:
        """Send the body on as it comes; where the client fails, the exchange does."""
        try:
            if self._whole is not None:
                writer.write(self._whole)
                await writer.drain()
                return
            length = declared_length(self._request)
            if length == 0:
                return
            await self._ask_for_body()
            while piece := await self._next_piece():
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if length is None else piece)
                await writer.drain()
                self._moved()
            if length is None:
                writer.write(b"0\r\n\r\n")
                await writer.drain()
        except Failed as fault:
            self._fault = fault
            writer.transport.abort()  # what the application has of it must not look whole
        except ConnectionError:
            pass  # the application takes no more: it may have answered already

    async def _ask_for_body(self) -> None:
        if not self._expects:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CONTINUE_SECONDS):
                await self._go_on.wait()
        await self._ask()

    async def _ask(self) -> None:
        if not self._asked and not self.begun:
            self._asked = True
            await self._to_client(_CONTINUE, begins=False)

    async def _next_piece(self) -> bytes:
        self._waits_for_sender = True
        try:
            async with asyncio.timeout(self._timeout):
                return await self._request.content.readany()
        except TimeoutError:
            raise _stalled() from None
        except Exception as error:  # its connection is lost, or what comes is no body
            text = "The body did not arrive whole."
            raise Failed(400, text, "given up: the sender's body broke off", None) from error
        finally:
            self._waits_for_sender = False

    def _moved(self) -> None:
        if self._bound is not None and not self._bound.expired():
            self._bound.reschedule(asyncio.get_running_loop().time() + self._timeout)

    # From the application

    async def _answer_head(self, reader: _Reader) -> AnswerHead:
        """The head of the answer, or of the switch to WebSocket; what comes before is passed on."""
        try:
            async with asyncio.timeout(self._timeout) as self._bound:
                for _ in range(_MOST_INTERIM):
                    head = read_answer_head(await reader.readuntil(b"\r\n\r\n"))
                    if head.status >= 200 or (head.status == 101 and wants_websocket(self._request)):
                        return head
                    await self._pass_interim(head)
                raise NoHttp("it never ends")
        except TimeoutError:
            if self._waits_for_sender:
                raise _stalled() from None
            raise self._fault or Failed(
                504,
                "The application did not answer in time.",
                f"timed out: no answer within {self._timeout:g} s",
                f"did not answer within {self._timeout:g} s",
            ) from None
        except asyncio.IncompleteReadError as cut:
            raise self._fault or _hung_up(reader, bool(cut.partial)) from None
        except asyncio.LimitOverrunError:
            raise _no_http("its head has no end") from None
        except NoHttp as wrong:
            raise _no_http(str(wrong)) from None
        finally:
            self._bound = None

    async def _pass_interim(self, head: AnswerHead) -> None:
        if head.status == 101:
            raise NoHttp("it changes to a protocol that nobody asked for")
        if head.status == 100:
            self._go_on.set()
            if self._expects:
                await self._ask()
        elif self._request.version >= HttpVersion11:
            await self._to_client(head.passed_on("1.1"), begins=False)

    async def _pass_back(self, head: AnswerHead, reader: _Reader, upload: asyncio.Task[None]) -> None:
        request = self._request
        try:
            body = head.body(request.method)
        except NoHttp as wrong:
            raise _no_http(str(wrong)) from None
        self.head = head
        version = request.version
        modern = version >= HttpVersion11
        unframed = not isinstance(body, int)
        self.ends_with_connection = unframed and not modern
        # A body that was not taken whole leaves no place for another request.
        self.keep_alive = request.keep_alive and not self.ends_with_connection and upload.done()
        added: list[tuple[bytes, bytes]] = []
        keep: frozenset[bytes] = frozenset()
        if unframed and modern:
            added.append((b"Transfer-Encoding", b"chunked"))
        options = [] if self.keep_alive == modern else [b"keep-alive" if self.keep_alive else b"close"]
        if head.status == 426:  # RFC 9110 §15.5.22: it says which protocol is asked for
            keep = frozenset({b"upgrade"})
            options.insert(0, b"Upgrade")
        if options:
            added.append((b"Connection", b", ".join(options)))
        await self._to_client(head.passed_on(f"{version.major}.{version.minor}", *added, keep=keep))
        pieces = _chunks(reader) if body == "chunked" else _plain(reader, body if isinstance(body, int) else None)
        try:
            async with contextlib.aclosing(pieces):
                while True:
                    async with asyncio.timeout(IDLE_SECONDS):
                        piece = await anext(pieces, None)
                    if piece is None:
                        break
                    self._keep_some(piece)
                    await self._to_client(b"%x\r\n%b\r\n" % (len(piece), piece) if unframed and modern else piece)
        except TimeoutError:
            raise self._fault or Failed(
                504, "", "timed out: the answer stood still", "stopped in the middle of an answer"
            ) from None
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, NoHttp):
            raise self._fault or Failed(
                502,
                "",
                "connection closed: the handler's answer broke off",
                "broke off in the middle of an answer",
            ) from None
        if self._fault is not None:
            raise self._fault
        if unframed and modern:
            await self._to_client(b"0\r\n\r\n")
        self.complete = True

    async def _switch(self, head: AnswerHead, reader: _Reader, writer: asyncio.StreamWriter) -> None:
        if not head.is_websocket:
            raise _no_http("it changes to a protocol that nobody asked for")
        self.head, self.upgraded, self.complete = head, True, True
        added = ((b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"))
        await self._to_client(head.passed_on("1.1", *added))
        await relay(self._request, reader, writer, IDLE_SECONDS)

    async def _to_client(self, data: bytes, *, begins: bool = True) -> None:
        if begins:
            self.begun = True
        writer = self._request.writer
        async with asyncio.timeout(IDLE_SECONDS):
            await writer.write(data)
            if not begins:
                writer.output_size = 0  # the answer itself is still to come
            await writer.drain()

    def _keep_some(self, piece: bytes) -> None:
        if not self._keep or self.truncated:
            return
        self.kept += piece
        if len(self.kept) > KEPT_BYTES:
            self.kept, self.truncated = self.kept[:KEPT_BYTES], True


class _Reader(asyncio.StreamReader):
    """Gives what has come before it tells that the connection was lost: an early answer is often cut off so."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.reset = False

    def set_exception(self, exc: BaseException) -> None:
        self.reset = True
        self.feed_eof()


async def _plain(reader: _Reader, length: int | None) -> AsyncGenerator[bytes, None]:
    """The body of so many bytes, or up to the connection's end, in pieces as they come."""
    while length is None or length > 0:
        piece = await reader.read(_PIECE if length is None else min(_PIECE, length))
        if not piece:
            if length is not None or reader.reset:
                raise asyncio.IncompleteReadError(b"", length)
            return
        if length is not None:
            length -= len(piece)
        yield piece


async def _chunks(reader: _Reader) -> AsyncGenerator[bytes, None]:
    """The body of a chunked answer in pieces as they come, without extensions and trailers (RFC 9112 §7.1)."""
    while True:
        line = (await reader.readuntil(b"\r\n")).partition(b";")[0].strip(b" \t\r\n")
        if not line or len(line) > 15 or line.strip(b"0123456789abcdefABCDEF"):
            raise NoHttp("a chunk without a size")
        size = int(line, 16)
        if size == 0:
            break
        async for piece in _plain(reader, size):
            yield piece
        if await reader.readexactly(2) != b"\r\n":
            raise NoHttp("a chunk without an end")
    taken = 0
    while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
        taken += len(line)
        if taken > _LONGEST_HEAD:
            raise NoHttp("trailers without an end")


def _stalled() -> Failed:
    text = "The body did not arrive in time."
    return Failed(408, text, "given up: the sender stopped in the middle of its body", None)


def _hung_up(reader: _Reader, begun: bool) -> Failed:
    words = "cut it without a whole answer" if reader.reset else "hung up without an answer"
    return Failed(
        502,
        "The application gave no answer.",
        f"connection {'reset' if reader.reset else 'closed'}: the handler {words}",
        "gave no whole answer" if begun else "hung up without an answer",
    )


def _no_http(why: str) -> Failed:
    return Failed(
        502,
        "What the application answered is no HTTP.",
        f"no HTTP: what the handler answered is no HTTP answer ({why})",
        f"gave an answer that is no HTTP ({why})",
    )


def _tls(url: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if leads_to_this_machine(url):  # nobody stands between, and its certificate is mostly one's own
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _why_unreached(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, socket.gaierror):
        return "the host's name cannot be resolved"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its TLS certificate is not trusted ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason})"
    # asyncio puts the address where the system's words should be.
    return os.strerror(error.errno) if error.errno else "no connection"

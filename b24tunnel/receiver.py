"""The public listener: what comes to the handler's path is recorded, synced and answered."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.http import HttpProcessingError, HttpVersion11

from b24tunnel.bodies import Bodies, BodyRefused
from b24tunnel.connections import BoundedServer
from b24tunnel.errors import OutsideFailure
from b24tunnel.journal import JournalUnwritable, JournalWriter
from b24tunnel.origin import Origin
from b24tunnel.recording import PAGES, Attempt, Headers, Recording, RequestType, Verdict, decoded_headers
from b24tunnel.request_type import is_of_settings_wizard, request_type
from b24tunnel.seldom import Seldom
from b24tunnel.verdict import is_without_auth, judge, judge_page

if TYPE_CHECKING:
    from b24tunnel.pass_through import PassThrough

MAX_BODY = 32 * 1024 * 1024
# A delivery by GET carries everything in its request line.
_LONGEST_LINE = 64 * 1024
_SECONDS_BETWEEN_WORDS = 60.0
# Without it aiohttp names its own version and Python's.
_NAMELESS = {"Server": "b24tunnel"}
_ACCEPTED = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


# A probe's nonce, the request's method, its headers and its body; gives the answer's body, or None for a 404.
OnProbe = Callable[[str, str, Sequence[tuple[str, str]], bytes], bytes | None]


# An OAuth return: its query gives the HTTP status and the page for the browser.
OnReturn = Callable[[str], Awaitable[tuple[int, str]]]
# The sender's address by a request's headers and its socket's peer.
SenderAddress = Callable[[Headers, str | None], str | None]

# A request that is not the portal's is kept up to this size: anybody can send one.
_LARGEST_STRANGE = 64 * 1024
_STRANGE = "This does not come from the portal, so it is not taken."


def _peer(headers: Headers, peer: str | None) -> str | None:
    """For a receiver that is reached without a tunnel."""
    return peer


def _no_probes(nonce: str, method: str, headers: Sequence[tuple[str, str]], body: bytes) -> None:
    """For a receiver whose address nobody probes."""


class Receiver:
    """A server that knows one path, ``/b24/SEGMENT``, and writes what comes there to the journal.

    Below it, at ``/b24/SEGMENT/probe/NONCE``, it takes the probes of its own address, and at
    ``/b24/SEGMENT/oauth`` the return of a sign-in, and records neither. It answers 200 with an empty body after
    the sync; 403 to what is not from the portal, which is recorded too; 413 to a body over ``max_body`` bytes and
    503 when the record could not be written, all with a plain reason. Every other path is the application's, where
    there is ``pass_through``; else it is answered 404 and not recorded.
    """

    def __init__(
        self,
        writer: JournalWriter,
        segment: str,
        *,
        max_body: int = MAX_BODY,
        portal: str | None = None,
        origin: Origin | None = None,
        sender_address: SenderAddress = _peer,
        on_probe: OnProbe = _no_probes,
        on_return: OnReturn | None = None,
        on_trouble: Callable[[str], None] = lambda message: None,
        on_note: Callable[[str], None] = lambda message: None,
    ) -> None:
        """``origin`` gives each delivery its verdict; without one all are unverified.

        ``on_trouble`` gets a sentence when deliveries could not be recorded, ``on_note`` one when requests that
        are none were rejected; many alike are told as a number, once a minute.
        """
        self.path = f"/b24/{segment}"
        self.recorded = 0
        self.refused = 0  # deliveries that could not be recorded: Bitrix24 does not send them again
        self.rejected = 0  # requests that were no deliveries
        self.port = 0
        self.pass_through: PassThrough | None = None
        self._path = self.path.encode()
        self._on_probe = on_probe
        self._writer = writer
        self._bodies = Bodies(max_body)
        self._portal = portal
        self._origin = origin or Origin()
        self._sender_address = sender_address
        self._on_return = on_return
        self._on_trouble = on_trouble
        self._on_note = on_note
        self._seldom = Seldom(_SECONDS_BETWEEN_WORDS)
        self._server: asyncio.Server | None = None
        self._protocols: BoundedServer | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen, and return the port; raises `OutsideFailure` when the address is taken or not ours."""
        loop = asyncio.get_running_loop()
        # No decompression: a recording holds the bytes as they came.
        protocols = self._protocols = BoundedServer(
            self._answer,
            self._crowded,
            self._unanswered,
            auto_decompress=False,
            access_log=None,
            logger=self._logger(),
            # A sender whose body was not taken is listened to for so long, so that it can read why.
            lingering_time=1.0,
            max_line_size=_LONGEST_LINE,
            max_field_size=_LONGEST_LINE,
        )
        try:
            self._server = await loop.create_server(protocols.new_connection, host, port, backlog=1024)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise OutsideFailure(f"Cannot listen on {host}:{port} ({reason}): choose another --port.") from error
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self.port

    async def stop(self, seconds: float = 2.0) -> None:
        """Take no new deliveries, finish those under way within ``seconds``, close all connections."""
        if self._server is not None and self._protocols is not None:
            self._server.close()
            if self.pass_through is not None:
                await self.pass_through.stop()
            self._protocols.pre_shutdown()
            await self._protocols.shutdown(seconds)
            self._server = None
            self._seldom.finish()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        target = request.raw_path
        path = _path_of(target)
        if not hmac.compare_digest(path.encode("utf-8", "replace"), self._path) or request.method == "CONNECT":
            return await self._answer_elsewhere(request, path)
        body = self._bodies.at_once(request)
        if body is not None:
            return await self._record(request, target, body)
        try:
            async with self._bodies.reading(request) as body:
                return await self._record(request, target, body)
        except BodyRefused as refusal:
            return self._refuse_body(refusal)

    async def _record(self, request: web.BaseRequest, target: str, body: bytes) -> web.StreamResponse:
        recording = await self._recorded(request, target, body, None)
        if isinstance(recording, web.Response):
            return recording
        if recording.type in PAGES:
            start = "" if self.pass_through else ", and start with --pass-through"
            self._seldom.say(
                "page",
                f"{recording.id} asks for a page ({recording.type}) at the handler's address, which has none: "
                f"give the portal your application's own path there{start}.",
                "Requests for pages came to the handler's address: {count} more within a minute.",
                self._on_trouble,
            )
        if request.version == HttpVersion11 and request.keep_alive:
            return _ACKNOWLEDGED
        return web.Response(headers=_NAMELESS)

    async def record(self, request: web.BaseRequest, body: bytes, type: RequestType) -> Recording | web.Response:
        """The recording of a request that is passed through, once it is on disk, or the answer that refuses it."""
        return await self._recorded(request, request.raw_path, body, type)

    async def attempted(self, attempt: Attempt) -> None:
        """Note the application's own answer to what was passed through."""
        try:
            await self._writer.append(attempt)
        except JournalUnwritable as error:
            self._on_trouble(f"An attempt with {attempt.recording} could not be noted. {error}")

    async def _recorded(
        self, request: web.BaseRequest, target: str, body: bytes, passed_through: RequestType | None
    ) -> Recording | web.Response:
        headers = decoded_headers(request.raw_headers)
        code, verdict = judge(target, body, self._origin.application_token)
        if code is not None and passed_through is None and not is_of_settings_wizard(code):
            kind: RequestType = "event"
        else:
            kind = passed_through or request_type(target, headers, body)
        if kind in PAGES:
            page = judge_page(target, body, self._origin.application_token)
            # At the handler's path nothing is taken on trust once a token is known.
            verdict = page if page == "verified" or passed_through else verdict
        elif kind == "robot" and verdict == "mismatched" and is_without_auth(target, body):
            verdict = "unverified"
        sender = self._sender_address(headers, request.remote)
        if verdict == "mismatched" or self._origin.admits is not None:
            verdict = await self._second_look(verdict, code, kind, sender, target, body, passed_through is None)
            if verdict == "mismatched" and len(body) > _LARGEST_STRANGE:
                self.rejected += 1
                return _plain(403, _STRANGE)
        version = request.version
        recording = Recording(
            id=self._writer.next_id(),
            received_at=datetime.now(UTC),
            code=code,
            method=request.method,
            target=target,
            http_version=f"{version.major}.{version.minor}",
            headers=headers,
            body=body,
            remote=sender or request.remote,
            verdict=verdict,
            portal=self._portal,
            type=kind,
            passed_through=passed_through is not None,
        )
        try:
            await self._writer.append(recording)
        except JournalUnwritable as error:
            self.refused += 1
            self._seldom.say(
                "unwritable",
                f"Refused {code or 'a delivery'} (503), for it cannot be recorded. {error}",
                f"Refused deliveries (503), for they cannot be recorded: {{count}} more within a minute. {error}",
                self._on_trouble,
            )
            return _plain(503, "The delivery could not be written to disk, so it was not accepted.")
        self.recorded += 1
        if verdict == "mismatched":
            return _plain(403, _STRANGE)
        if code is not None:
            self._origin.learn(recording, secret_path=passed_through is None)
        return recording

    async def _second_look(
        self,
        verdict: Verdict,
        code: str | None,
        kind: RequestType,
        sender: str | None,
        target: str,
        body: bytes,
        secret_path: bool,
    ) -> Verdict:
        """The verdict where the token is another one, or where the sender's address matters."""
        admits = self._origin.admits
        if admits is not None and kind not in ("page", "placement") and not (sender and await admits(sender)):
            address = sender or "an unknown address"
            self._refuse_origin(f"{code or 'a request'} from {address}, which is none of Bitrix24's")
            return "mismatched"
        looked = await self._origin.second_look(verdict, code, target, body, secret_path=secret_path)
        if looked == "mismatched":
            self._refuse_origin(f"{code or 'a request'} without the portal's application_token")
        return looked

    def _refuse_origin(self, what: str) -> None:
        self._seldom.say(
            "origin",
            f"Refused (403), recorded and not forwarded: {what}.",
            "Refused (403), recorded and not forwarded: {count} more within a minute.",
            self._on_trouble,
        )

    async def _answer_elsewhere(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        """Whatever is not for the handler."""
        below = path.encode("utf-8", "replace")[: len(self._path) + 1]
        if hmac.compare_digest(below, self._path + b"/") and request.method != "CONNECT":
            if path == f"{self.path}/oauth":
                return await self._answer_return(request)
            return await self._answer_probe(request, path)
        if self.pass_through is not None and request.method != "CONNECT":
            return await self.pass_through.answer(request)
        return self._nothing_here(request)

    async def _answer_return(self, request: web.BaseRequest) -> web.StreamResponse:
        """The browser of who signs in comes back from the portal."""
        if self._on_return is None or request.method != "GET":
            return self._nothing_here(request)
        status, page = await self._on_return(request.raw_path.partition("?")[2])
        # The code is in its address, which must not go on to anybody.
        headers = {**_NAMELESS, "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}
        return web.Response(status=status, text=page, content_type="text/html", headers=headers)

    async def _answer_probe(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        """A probe of our own address, or nothing of ours."""
        above, _, nonce = path.rpartition("/")
        if not hmac.compare_digest(above.encode("utf-8", "replace"), self._path + b"/probe"):
            return self._nothing_here(request)
        try:
            async with self._bodies.reading(request) as body:
                headers = decoded_headers(request.raw_headers)
                reply = self._on_probe(nonce, request.method, headers, body)
        except BodyRefused as refusal:
            return self._refuse_body(refusal)
        if reply is None:
            return self._nothing_here(request)
        return web.Response(body=reply, content_type="text/plain", headers=_NAMELESS)

    def _nothing_here(self, request: web.BaseRequest) -> web.StreamResponse:
        self._reject("for another path than the handler's", 404)
        answer = _plain(404, "There is nothing here.")
        if request.method == "CONNECT":  # what follows is not for us; and a 200 would have been taken for a tunnel
            answer.force_close()
        return answer

    def _refuse_body(self, refusal: BodyRefused) -> web.StreamResponse:
        if refusal.status == 503:
            self.refused += 1
        elif refusal.news is not None:
            self.rejected += 1
        if refusal.news is not None:
            more = f"Deliveries were not taken ({refusal.status}): {{count}} more within a minute."
            self._seldom.say(f"body {refusal.status}", refusal.news, more, self._on_trouble)
        answer = _plain(refusal.status, refusal.text)
        if refusal.status != 503:  # the rest of the body is not waited for
            answer.force_close()
        return answer

    def _reject(self, which: str, status: int) -> None:
        """Count a request that is no delivery; anybody can send such to a public address."""
        self.rejected += 1
        self._seldom.say(
            f"rejected {status}",
            f"Rejected a request {which} ({status}).",
            f"Rejected requests {which} ({status}): {{count}} more within a minute.",
            self._on_note,
        )

    def _crowded(self) -> None:
        self.rejected += 1
        self._seldom.say(
            "crowded",
            "Closed a new connection: all that there may be have a request under way.",
            "Closed new connections: {count} more within a minute.",
            self._on_trouble,
        )

    def _unanswered(self, failure: BaseException | None) -> web.Response:
        self._tell_failure(failure)
        if isinstance(failure, HttpProcessingError):
            return _plain(400, "This is no HTTP.")
        return _plain(500, "An error of b24tunnel.")

    def _tell_failure(self, failure: BaseException | None) -> None:
        if isinstance(failure, HttpProcessingError):
            self._reject("that is no HTTP", 400)
            return
        name = type(failure).__name__
        self._seldom.say(
            f"failure {name}",
            f"A request was not answered because of an error of b24tunnel ({name}).",
            f"Requests not answered because of an error of b24tunnel ({name}): {{count}} more within a minute.",
            self._on_trouble,
        )

    def _logger(self) -> logging.Logger:
        """A logger for aiohttp, which by itself logs tracebacks with parts of a request."""
        tell = self._tell_failure

        class Telling(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                tell(record.exc_info[1] if record.exc_info else None)

        logger = logging.Logger("b24tunnel.receiver", logging.ERROR)
        logger.addHandler(Telling())
        return logger


class _Acknowledgement(web.StreamResponse):
    """The empty 200 for a sender that keeps its connection: the same bytes each time, written in one go."""

    @property
    def keep_alive(self) -> bool:
        return True

    async def prepare(self, request: web.BaseRequest) -> None:
        if (transport := request.transport) is not None:
            transport.write(_ACCEPTED)
            if transport.get_write_buffer_size():  # it does not read its answers: its next request waits
                await request.writer.drain()

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to write."""


_ACKNOWLEDGED = _Acknowledgement()


def _plain(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text + "\n", headers=_NAMELESS)


def _path_of(target: str) -> str:
    """The path of a request target, which may be a whole address (RFC 9112 §3.2.2)."""
    path = target.partition("?")[0]
    if not path.startswith("/") and "://" in path:
        path = "/" + path.partition("://")[2].partition("/")[2]
    return path.rstrip("/")

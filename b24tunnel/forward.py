"""Recordings to the developer's handler in arrival order, and an attempt for each try back to the journal."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from operator import attrgetter
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import aiohttp
from aiohttp import hdrs
from yarl import URL

from b24tunnel.connection_headers import SENDERS_OWN
from b24tunnel.errors import WrongUsage
from b24tunnel.journal import JournalUnwritable, JournalWriter, follow
from b24tunnel.recording import (
    INTERRUPTED,
    UNREACHED,
    Attempt,
    Cause,
    Headers,
    Recording,
    as_in_addresses,
    decoded_headers,
    with_query,
)
from b24tunnel.redact import shown_url
from b24tunnel.send_once import ConnectionLost, send_once

TIMEOUT = 60.0
CONCURRENCY = 8
ANSWER_BYTES = 64 * 1024

# What aiohttp would still add on its own, beside `_Request.DEFAULT_HEADERS`.
_ADDED = (("user-agent", hdrs.USER_AGENT), ("content-type", hdrs.CONTENT_TYPE))
_CONNECT_SECONDS = 10.0
_RETRY_FIRST, _RETRY_LONGEST = 0.1, 2.0
# aiohttp repeats by itself what RFC 9110 §9.2.2 calls idempotent; these are not.
_NEVER_REPEATED = ("POST", "PATCH")
_SEND_ONCE = (send_once,)
# aiohttp warns of larger bodies given as bytes, which it would write in one go.
_LARGE = 1024 * 1024


Note = Callable[[Attempt], Awaitable[None]]


async def _unnoted(attempt: Attempt) -> None:
    """For who needs no more than what `Sender.send` returns."""


class _Request(aiohttp.ClientRequest):
    """One to which aiohttp adds no Accept of its own. Having each request leave it out takes longer."""

    DEFAULT_HEADERS = {}  # noqa: RUF012 (the name and its type are aiohttp's)


class Sender:
    """Hands single recordings to a handler's URL. Use as an asynchronous context manager."""

    def __init__(
        self,
        url: str,
        *,
        cause: Cause,
        timeout: float = TIMEOUT,
        concurrency: int = CONCURRENCY,
        keep_alive: bool = False,
        own_path: bool = False,
    ) -> None:
        """``timeout`` is seconds for the whole answer. Raises `WrongUsage` for a URL that is none.

        ``own_path``: each recording goes to the path of its own target, instead of that of ``url``.

        Without ``keep_alive`` each delivery has a connection of its own, as Bitrix24's have: a handler that
        restarts then refuses it, rather than losing one on a connection that was kept from before.
        """
        self.url = check_handler_url(url)
        self._plain_url = URL(self.url, encoded=True)
        parts = urlsplit(self.url)
        self._origin = f"{parts.scheme}://{parts.netloc}" if own_path else None
        self._query = f"?{parts.query}" if parts.query else ""
        self._cause = cause
        self._timeout = timeout
        # Less than the whole, so that a handler that was never reached is told from a slow one.
        self._connect_seconds = min(_CONNECT_SECONDS, 0.9 * timeout)
        self._concurrency = concurrency
        self._keep_alive = keep_alive
        self._client: aiohttp.ClientSession | None = None
        # A handler's answers are much alike.
        self._last_raw: tuple[tuple[bytes, bytes], ...] = ()
        self._last_headers: Headers = ()

    async def __aenter__(self) -> Self:
        self._client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._concurrency, force_close=not self._keep_alive),
            timeout=aiohttp.ClientTimeout(total=self._timeout, sock_connect=self._connect_seconds),
            cookie_jar=aiohttp.DummyCookieJar(),
            request_class=_Request,
            auto_decompress=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            await self._client.close()

    async def send(self, recording: Recording, note: Note = _unnoted) -> Attempt:
        """Send the exact bytes once, note what came of it, and return it; a failure is an attempt with an error.

        The delivery's own query is added to that of the handler's URL. Cancelled, it notes an interrupted attempt.
        """
        assert self._client is not None, "use the sender as a context manager"
        target = with_query(self._address(recording), recording.target)
        url = self._plain_url if target is self.url else URL(target, encoded=True)
        headers, left_out = _prepared(recording)
        outcome: tuple[int | None, Headers, bytes, bool, str | None]
        started_at, start = datetime.now(UTC), time.monotonic()
        try:
            async with self._client.request(
                recording.method,
                url,
                data=_payload(recording.body),
                headers=headers,
                skip_auto_headers=left_out,
                allow_redirects=False,
                middlewares=() if recording.method in _NEVER_REPEATED else _SEND_ONCE,
            ) as answer:
                body, truncated = await _bounded(answer.content)
            outcome = answer.status, self._decoded(answer.raw_headers), body, truncated, None
        except (aiohttp.ClientError, OSError, ValueError) as failure:  # a time-out is an OSError
            outcome = None, (), b"", False, _describe(failure, self._timeout, self._connect_seconds)
        except asyncio.CancelledError:
            duration = (time.monotonic() - start) * 1000
            error = f"{INTERRUPTED}: b24tunnel stopped before the handler had answered"
            await note(Attempt(recording.id, self._cause, target, started_at, duration, error=error))
            raise
        duration = (time.monotonic() - start) * 1000
        made = Attempt(recording.id, self._cause, target, started_at, duration, *outcome)
        await note(made)
        return made

    def _address(self, recording: Recording) -> str:
        """The handler's URL, with the recording's own path where that is wanted."""
        if self._origin is None:
            return self.url
        path = recording.target.partition("?")[0]
        if not path.startswith("/"):  # a whole address, as a proxy is sent
            path = urlsplit(path).path or "/"
        return f"{self._origin}{as_in_addresses(path)}{self._query}"

    def _decoded(self, raw: tuple[tuple[bytes, bytes], ...]) -> Headers:
        if raw != self._last_raw:
            self._last_raw, self._last_headers = raw, decoded_headers(raw)
        return self._last_headers


class Forwarder:
    """Follows a session's journal and hands each recording to the handler, oldest first.

    At most ``concurrency`` are under way. While the handler cannot be connected to, everything waits, and goes
    on in order when it listens again; the refused try is in the journal once for each recording that met it.
    Any other outcome settles a recording: the handler may have acted on it, and Bitrix24 does not repeat either.
    """

    def __init__(
        self,
        writer: JournalWriter,
        sender: Sender,
        *,
        concurrency: int = CONCURRENCY,
        first: Iterable[Recording] = (),
        wants: Callable[[Recording], bool] = attrgetter("to_be_forwarded"),
        on_trouble: Callable[[str], None] = lambda message: None,
        on_note: Callable[[str], None] = lambda message: None,
    ) -> None:
        """``first`` are recordings of earlier sessions, handed over before this session's own. What the handler
        does not ``wants`` is passed over, which settles it.

        ``on_trouble`` gets one sentence when the handler cannot be connected to, and when an attempt could not be
        noted; ``on_note`` one when the handler takes events again.
        """
        self.settled = 0
        self._taken = 0
        self._writer = writer
        self._sender = sender
        self._concurrency = concurrency
        self._first = first
        self._wants = wants
        self._on_trouble = on_trouble
        self._on_note = on_note
        self._slots = asyncio.Semaphore(concurrency)
        self._ready: asyncio.PriorityQueue[tuple[int, Recording]] = asyncio.PriorityQueue()
        self._reachable = asyncio.Event()
        self._reachable.set()
        self._lost = asyncio.Event()
        self._away = False  # the handler's absence was told, and nothing was handed over since
        self._pause = _RETRY_FIRST
        self._refused: set[str] = set()
        self._progress = asyncio.Event()

    async def run(self) -> None:
        """Forward until cancelled; tries under way are then noted as interrupted."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._take())
            group.create_task(self._watch_handler())
            for _ in range(self._concurrency):
                group.create_task(self._work())

    async def settled_at_least(self, count: int) -> None:
        """Return when so many recordings are settled; give it a deadline, for a handler may stay away."""
        while self.settled < count:
            self._progress.clear()
            await self._progress.wait()

    async def hand_over(self, recordings: Iterable[Recording]) -> None:
        """Forward these too, beside what arrives; returns when the last of them has been taken up."""
        remaining = iter(recordings)
        # They may come from files: reading those must not hold up the receiver's answers.
        while (recording := await asyncio.to_thread(next, remaining, None)) is not None:
            await self._enqueue(recording)

    async def _take(self) -> None:
        await self.hand_over(self._first)
        async for record in follow(self._writer):
            if isinstance(record, Recording):
                await self._enqueue(record)

    async def _enqueue(self, recording: Recording) -> None:
        if not self._wants(recording):
            self.settled += 1
            self._progress.set()
            return
        await self._slots.acquire()
        self._taken += 1
        self._ready.put_nowait((self._taken, recording))

    async def _work(self) -> None:
        while True:
            await self._reachable.wait()
            place, recording = await self._ready.get()
            if not self._reachable.is_set():
                self._ready.put_nowait((place, recording))
                continue
            attempt = await self._sender.send(recording, self._note)
            if attempt.delivered:
                if self._away:
                    self._away, self._pause = False, _RETRY_FIRST
                    self._on_note(f"The handler {shown_url(self._sender.url)} takes events again: going on.")
                self._refused.discard(recording.id)
                self.settled += 1
                self._slots.release()
                self._progress.set()
            else:
                self._refused.add(recording.id)
                self._ready.put_nowait((place, recording))
                self._lost.set()
                self._reachable.clear()

    async def _note(self, attempt: Attempt) -> None:
        if attempt.recording in self._refused and (attempt.error or "").startswith(UNREACHED):
            return  # noted once already
        try:
            await self._writer.append(attempt)
        except JournalUnwritable as error:
            self._on_trouble(f"An attempt with {attempt.recording} could not be noted. {error}")

    async def _watch_handler(self) -> None:
        """While the handler cannot be connected to, try with a pause that grows, and let the others go on."""
        address = urlsplit(self._sender.url)
        port = address.port or (443 if address.scheme == "https" else 80)
        while True:
            await self._lost.wait()
            if not self._away:
                self._away = True
                self._on_trouble(
                    f"The handler {shown_url(self._sender.url)} cannot be reached: events wait for it."
                )
            while True:
                await asyncio.sleep(self._pause)
                self._pause = min(self._pause * 1.5, _RETRY_LONGEST)
                try:
                    async with asyncio.timeout(_CONNECT_SECONDS):
                        _, connection = await asyncio.open_connection(address.hostname, port)
                except OSError:  # a time-out is one too
                    continue
                connection.close()
                break
            self._lost.clear()
            self._reachable.set()


def check_handler_url(url: str) -> str:
    """``url`` itself when it is an absolute http or https URL; raises `WrongUsage` when it is not."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        (parts.hostname or "").encode("idna")  # raises for a host that no name server could be asked for
        URL(url)
    except ValueError:
        valid = False
    if not valid:
        raise WrongUsage(f"{url!r} is no handler's URL: give one like http://127.0.0.1:8000/handler.")
    # Spaces and Cyrillic in path and query are encoded as an address has to be; the rest stays as written.
    host_end = len(f"{parts.scheme}://{parts.netloc}")
    path = url.partition("#")[0][host_end:]
    return url[:host_end] + as_in_addresses(path)


def forwarded_headers(recording: Recording) -> list[tuple[str, str]]:
    """The recording's headers without those that speak of one connection, and with its id."""
    return _prepared(recording)[0]


def _prepared(recording: Recording) -> tuple[list[tuple[str, str]], list[str] | None]:
    """`forwarded_headers`, and the names of what aiohttp would add to them."""
    dropped = SENDERS_OWN
    kept: list[tuple[str, str]] = []
    # For aiohttp a second spelling of a name replaces the first, and a value that is no UTF-8 cannot be written.
    spelling: dict[str, str] = {}
    headers = [(name.lower(), name, value) for name, value in recording.headers]
    for lowered, _, value in headers:
        if lowered == "connection":
            dropped = dropped.union(part.strip().lower() for part in value.split(","))
    for lowered, name, value in headers:
        if lowered not in dropped:
            kept.append((spelling.setdefault(lowered, name), value if value.isascii() else _writable(value)))
    kept.append(("X-B24tunnel-Recording", recording.id))
    if "user-agent" in spelling and "content-type" in spelling:
        return kept, None
    return kept, [name for lowered, name in _ADDED if lowered not in spelling]


def _writable(value: str) -> str:
    """A header's value as it is, or its bytes read as Latin-1 where they are no UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogateescape").decode("latin-1")
    return value


def _payload(body: bytes) -> bytes | io.BytesIO | None:
    if len(body) > _LARGE:
        return io.BytesIO(body)
    return body or None


async def _bounded(content: aiohttp.StreamReader) -> tuple[bytes, bool]:
    """The first bytes of an answer, and whether there were more."""
    body = b""
    while not content.at_eof():
        body += await content.read(ANSWER_BYTES + 1 - len(body))
        if len(body) > ANSWER_BYTES:
            return body[:ANSWER_BYTES], True
    return body, False


def _describe(failure: Exception, timeout: float, connect_seconds: float) -> str:
    """What went wrong, in words that begin with its kind."""
    if isinstance(failure, aiohttp.ConnectionTimeoutError):
        return f"{UNREACHED}: nobody took the connection within {connect_seconds:g} s"
    if isinstance(failure, aiohttp.ClientConnectorError) and not isinstance(failure, aiohttp.ClientSSLError):
        reason = failure.os_error
        refused = isinstance(reason, ConnectionRefusedError)
        words = reason.strerror or str(reason) or type(reason).__name__
        return f"{UNREACHED}: " + ("connection refused" if refused else words)
    hung_up = isinstance(failure, ConnectionLost) and not failure.reset
    if hung_up or isinstance(failure, aiohttp.ServerDisconnectedError):
        return "connection closed: the handler hung up without an answer"
    cut = isinstance(failure, aiohttp.ClientOSError) and not isinstance(failure, aiohttp.ClientConnectorError)
    if cut or isinstance(failure, ConnectionLost | ConnectionError):
        return "connection reset: the handler cut it without a whole answer"
    if isinstance(failure, TimeoutError):
        return f"timed out: no whole answer within {timeout:g} s"
    # The exceptions' own texts hold the address with its query, and what the handler wrote: both may hold tokens.
    if isinstance(failure, aiohttp.ClientPayloadError):
        return "connection closed: the handler's answer broke off"
    if isinstance(failure, aiohttp.ClientResponseError):
        return "no HTTP: what the handler answered is no HTTP answer"
    return f"failed: {type(failure).__name__}"

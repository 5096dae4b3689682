"""Recordings to the developer's handler in arrival order, and an attempt for each try back to the journal."""

from __future__ import annotations

import asyncio
import io
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import UTC, datetime
from types import TracebackType
from typing import Self
from urllib.parse import quote, urlsplit

import aiohttp
from yarl import URL

from b24tunnel.errors import WrongUsage
from b24tunnel.journal import JournalUnwritable, JournalWriter, follow
from b24tunnel.recording import INTERRUPTED, UNREACHED, Attempt, Cause, Headers, Recording
from b24tunnel.send_once import ConnectionLost, send_once

TIMEOUT = 60.0
CONCURRENCY = 8
ANSWER_BYTES = 64 * 1024

# RFC 9110 §7.6.1 and RFC 9112: these speak of one connection. Expect is settled with our own sender, and Host
# and Content-Length are made anew for the handler's connection.
_NOT_FORWARDED = frozenset(
    {
        *("connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization"),
        *("te", "trailer", "transfer-encoding", "upgrade", "expect", "host", "content-length"),
    }
)
# What aiohttp would add on its own.
_OURS = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
_CONNECT_SECONDS = 10.0
_RETRY_FIRST, _RETRY_LONGEST = 0.1, 2.0
# aiohttp warns of larger bodies given as bytes, which it would write in one go.
_LARGE = 1024 * 1024


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
    ) -> None:
        """``timeout`` is seconds for the whole answer. Raises `WrongUsage` for a URL that is none.

        Without ``keep_alive`` each delivery has a connection of its own, as Bitrix24's have: a handler that
        restarts then refuses it, rather than losing one on a connection that was kept from before.
        """
        self.url = check_handler_url(url)
        self._cause = cause
        self._timeout = timeout
        self._concurrency = concurrency
        self._keep_alive = keep_alive
        self._client: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._concurrency, force_close=not self._keep_alive),
            timeout=aiohttp.ClientTimeout(total=self._timeout, sock_connect=_CONNECT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_OURS,
            auto_decompress=False,
            middlewares=(send_once,),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            await self._client.close()

    async def send(self, recording: Recording) -> Attempt:
        """Send the exact bytes once and return what came of it; a failure is an attempt with an error.

        The delivery's own query is added to that of the handler's URL. Cancelling it raises as usual.
        """
        assert self._client is not None, "use the sender as a context manager"
        target = with_query(self.url, recording.target)
        started_at, start = datetime.now(UTC), time.monotonic()
        status: int | None = None
        headers: Headers = ()
        body, truncated = b"", False
        error: str | None = None
        try:
            async with self._client.request(
                recording.method,
                URL(target, encoded=True),
                data=_payload(recording.body),
                headers=forwarded_headers(recording),
                allow_redirects=False,
            ) as answer:
                body, truncated = await _bounded(answer.content)
                status, headers = answer.status, _headers(answer)
        except (aiohttp.ClientError, OSError, ValueError) as failure:  # a time-out is an OSError
            error = _describe(failure, self._timeout)
        return Attempt(
            recording=recording.id,
            cause=self._cause,
            target=target,
            started_at=started_at,
            duration_ms=(time.monotonic() - start) * 1000,
            status=status,
            headers=headers,
            body=body,
            truncated=truncated,
            error=error,
        )


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
        on_trouble: Callable[[str], None] = lambda message: None,
    ) -> None:
        """``first`` are recordings of earlier sessions, handed over before this session's own.

        ``on_trouble`` gets one sentence when the handler cannot be connected to, when it is back, and when an
        attempt could not be noted.
        """
        self.settled = 0
        self._taken = 0
        self._writer = writer
        self._sender = sender
        self._concurrency = concurrency
        self._first = first
        self._on_trouble = on_trouble
        self._slots = asyncio.Semaphore(concurrency)
        self._ready: asyncio.PriorityQueue[tuple[int, Recording]] = asyncio.PriorityQueue()
        self._reachable = asyncio.Event()
        self._reachable.set()
        self._lost = asyncio.Event()
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

    async def _take(self) -> None:
        async for recording in self._arriving():
            await self._slots.acquire()
            self._taken += 1
            self._ready.put_nowait((self._taken, recording))

    async def _arriving(self) -> AsyncIterator[Recording]:
        for recording in self._first:
            yield recording
        async for record in follow(self._writer):
            if isinstance(record, Recording):
                yield record

    async def _work(self) -> None:
        while True:
            await self._reachable.wait()
            place, recording = await self._ready.get()
            if not self._reachable.is_set():
                self._ready.put_nowait((place, recording))
                continue
            attempt = await self._try(recording)
            if attempt.delivered:
                self._refused.discard(recording.id)
                self.settled += 1
                self._slots.release()
                self._progress.set()
            else:
                self._ready.put_nowait((place, recording))
                self._lost.set()
                self._reachable.clear()

    async def _try(self, recording: Recording) -> Attempt:
        started_at, start = datetime.now(UTC), time.monotonic()
        try:
            attempt = await self._sender.send(recording)
        except asyncio.CancelledError:
            await self._note(
                Attempt(
                    recording=recording.id,
                    cause="forward",
                    target=self._sender.url,
                    started_at=started_at,
                    duration_ms=(time.monotonic() - start) * 1000,
                    error=f"{INTERRUPTED}: b24tunnel stopped before the handler had answered",
                )
            )
            raise
        if attempt.delivered or recording.id not in self._refused:
            await self._note(attempt)
        if not attempt.delivered:
            self._refused.add(recording.id)
        return attempt

    async def _note(self, attempt: Attempt) -> None:
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
            self._on_trouble(f"The handler {self._sender.url} cannot be connected to: events wait for it.")
            pause = _RETRY_FIRST
            while True:
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, _RETRY_LONGEST)
                try:
                    _, connection = await asyncio.open_connection(address.hostname, port)
                except OSError:
                    continue
                connection.close()
                break
            self._on_trouble(f"The handler {self._sender.url} listens again: going on.")
            self._lost.clear()
            self._reachable.set()


def check_handler_url(url: str) -> str:
    """``url`` itself when it is an absolute http or https URL; raises `WrongUsage` when it is not."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise WrongUsage(f"{url!r} is no handler's URL: give one like http://127.0.0.1:8000/handler.")
    # Spaces and Cyrillic in path and query are encoded as an address has to be; the rest stays as written.
    path = url.partition("#")[0][len(f"{parts.scheme}://{parts.netloc}") :]
    return f"{parts.scheme}://{parts.netloc}" + re.sub(r"[^!-~]+", lambda found: quote(found[0]), path)


def with_query(url: str, target: str) -> str:
    """The handler's URL with the query of a request target added to its own."""
    query = target.partition("?")[2]
    if not query:
        return url
    return f"{url}{'&' if '?' in url else '?'}{query}"


def forwarded_headers(recording: Recording) -> list[tuple[str, str]]:
    """The recording's headers without those that speak of one connection, and with its id."""
    dropped = set(_NOT_FORWARDED)
    for name, value in recording.headers:
        if name.lower() == "connection":
            dropped.update(part.strip().lower() for part in value.split(","))
    # For aiohttp a second spelling of a name replaces the first, and a value that is no UTF-8 cannot be written.
    spelling: dict[str, str] = {}
    kept = [
        (spelling.setdefault(name.lower(), name), _writable(value))
        for name, value in recording.headers
        if name.lower() not in dropped
    ]
    return [*kept, ("X-B24tunnel-Recording", recording.id)]


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
    async for piece in content.iter_any():
        body += piece
        if len(body) > ANSWER_BYTES:
            return body[:ANSWER_BYTES], True
    return body, False


def _headers(answer: aiohttp.ClientResponse) -> Headers:
    return tuple(
        (name.decode("utf-8", "surrogateescape"), value.decode("utf-8", "surrogateescape"))
        for name, value in answer.raw_headers
    )


def _describe(failure: Exception, timeout: float) -> str:
    """What went wrong, in words that begin with its kind."""
    if isinstance(failure, aiohttp.ConnectionTimeoutError):
        return f"{UNREACHED}: nobody took the connection within {_CONNECT_SECONDS:g} seconds"
    if isinstance(failure, aiohttp.ClientConnectorError) and not isinstance(failure, aiohttp.ClientSSLError):
        reason = failure.os_error
        refused = isinstance(reason, ConnectionRefusedError)
        return f"{UNREACHED}: " + ("connection refused" if refused else str(reason.strerror or reason))
    if isinstance(failure, ConnectionLost) and not failure.reset:
        return "connection closed: the handler hung up without an answer"
    if isinstance(failure, ConnectionLost | ConnectionError):
        return "connection reset: the handler cut it without a whole answer"
    if isinstance(failure, TimeoutError):
        return f"timed out: no whole answer within {timeout:g} seconds"
    # The exceptions' own texts hold the address with its query, and what the handler wrote: both may hold tokens.
    if isinstance(failure, aiohttp.ClientPayloadError):
        return "connection closed: the handler's answer broke off"
    if isinstance(failure, aiohttp.ClientResponseError):
        return "no HTTP: what the handler answered is no HTTP answer"
    return f"failed: {type(failure).__name__}"

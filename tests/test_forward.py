"""Forwarding to real sockets: the exact bytes, in order, each once, and every outcome noted."""

import asyncio
import contextlib
import socket
import struct
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from raw_cases import RAW_CASES, RawCase

from b24tunnel import forward
from b24tunnel.errors import WrongUsage
from b24tunnel.forward import Forwarder, Sender, check_handler_url, forwarded_headers, with_query
from b24tunnel.journal import Journal, JournalWriter, writer
from b24tunnel.recording import INTERRUPTED, UNREACHED, Attempt, Recording

DEADLINE = 20.0
NOW = datetime(2026, 11, 25, 14, 15, 3, tzinfo=UTC)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Request(NamedTuple):
    line: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key.lower() == name.lower()]


class Handler:
    """A raw HTTP server that answers what the test says, and keeps every byte that it got."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self.under_way = 0
        self.most_under_way = 0
        self.answer: Callable[[Request, asyncio.StreamWriter], Awaitable[None]] = self.ok
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/handler"

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            for connection in list(self._writers):
                connection.transport.abort()
            self._server = None

    async def ok(self, request: Request, out: asyncio.StreamWriter) -> None:
        out.write(OK)

    def answers(self, raw: bytes) -> None:
        async def answer(request: Request, out: asyncio.StreamWriter) -> None:
            out.write(raw)

        self.answer = answer

    def order(self) -> list[str]:
        """The ids of the recordings in the order in which they were received."""
        return [request.values(b"X-B24tunnel-Recording")[0].decode() for request in self.requests]

    async def _serve(self, reader: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(out)
        try:
            while True:
                request = await self._read(reader)
                self.requests.append(request)
                self.under_way += 1
                self.most_under_way = max(self.most_under_way, self.under_way)
                try:
                    await self.answer(request, out)
                finally:
                    self.under_way -= 1
                await out.drain()
                if out.is_closing():
                    return
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self._writers.discard(out)
            out.close()

    async def _read(self, reader: asyncio.StreamReader) -> Request:
        head = await reader.readuntil(b"\r\n\r\n")
        line, *rest = head[:-4].split(b"\r\n")
        headers = []
        for each in rest:
            name, _, value = each.partition(b":")
            headers.append((name, value.strip()))
        lengths = [value for name, value in headers if name.lower() == b"content-length"]
        return Request(line, headers, await reader.readexactly(int(lengths[0])) if lengths else b"")


@pytest.fixture
async def handler() -> AsyncIterator[Handler]:
    handler = Handler()
    await handler.start()
    yield handler
    await handler.stop()


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[JournalWriter]:
    journal = JournalWriter(tmp_path, forward="http://127.0.0.1/")
    yield journal
    await journal.close()


def recording(body: bytes = b"event=ONCRMDEALADD", id: str = "1-1", **changes: Any) -> Recording:
    parts = {"method": "POST", "target": "/b24/x", "headers": (("Host", "hooks.example.org"),), **changes}
    return Recording(id=id, received_at=NOW, body=body, **parts)


async def send(url: str, one: Recording, **options: Any) -> Attempt:
    async with asyncio.timeout(DEADLINE), Sender(url, cause="forward", **options) as sender:
        return await sender.send(one)


class TestWhatIsSent:
    @pytest.mark.parametrize("case", RAW_CASES, ids=lambda case: case.name)
    async def test_a_real_delivery_arrives_byte_for_byte(self, handler: Handler, case: RawCase) -> None:
        attempt = await send(handler.url, recording(case.body))
        assert attempt.ok
        [request] = handler.requests
        assert request.body == case.body
        assert request.values(b"Content-Length") == [str(len(case.body)).encode()]

    async def test_its_headers_go_along_in_order_as_spelled_and_each_time(self, handler: Handler) -> None:
        headers = (
            ("Host", "hooks.example.org"),
            ("uSeR-aGeNt", "Bitrix24 Webhook Engine"),
            ("X-Twice", "1"),
            ("Content-Type", "application/x-www-form-urlencoded; charset=windows-1251"),
            ("X-Twice", "2"),
            ("Content-Length", "18"),
            ("Accept-Encoding", "br"),
            ("Cookie", "a=1; b=2"),
            ("Authorization", "Bearer secret"),
            ("Content-Encoding", "gzip"),
            ("X-Empty", ""),
            ("X-Text", "лид"),
        )
        await send(handler.url, recording(headers=headers))
        [request] = handler.requests
        expected = [(n.encode(), v.encode()) for n, v in headers if n not in ("Host", "Content-Length")]
        added = {b"Host", b"Content-Length", b"X-B24tunnel-Recording", b"Connection"}
        got = [pair for pair in request.headers if pair[0] not in added]
        assert sorted(got) == sorted(expected)
        assert [v for n, v in got if n == b"X-Twice"] == [b"1", b"2"]
        once = [pair for pair in expected if pair[0] != b"X-Twice"]
        assert [pair for pair in got if pair[0] != b"X-Twice"] == once

    async def test_nothing_is_added_but_what_this_connection_needs(self, handler: Handler) -> None:
        await send(handler.url, recording(headers=()))
        [request] = handler.requests
        assert request.line == b"POST /handler HTTP/1.1"
        assert {name for name, _ in request.headers} <= {
            *(b"Host", b"Content-Length", b"X-B24tunnel-Recording", b"Connection"),
        }
        assert request.values(b"Host") == [f"127.0.0.1:{handler.port}".encode()]
        assert request.values(b"X-B24tunnel-Recording") == [b"1-1"]

    @pytest.mark.parametrize("name", ["User-Agent", "user-agent", "Content-Type", "Accept", "Accept-Encoding"])
    async def test_nothing_is_added_to_what_has_one_of_the_usual_headers(
        self, handler: Handler, name: str
    ) -> None:
        await send(handler.url, recording(headers=((name, "its own"),)))
        [request] = handler.requests
        needed = {b"Host", b"Content-Length", b"X-B24tunnel-Recording", b"Connection"}
        added = [pair for pair in request.headers if pair[0] not in needed]
        assert added == [(name.encode(), b"its own")]

    async def test_a_large_body_is_sent_alike(self, handler: Handler) -> None:
        body = bytes(range(256)) * (5 * 1024 * 4)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            attempt = await send(handler.url, recording(body, headers=()))
        assert attempt.ok
        [request] = handler.requests
        assert request.body == body
        assert request.values(b"Content-Length") == [str(len(body)).encode()]
        assert {name for name, _ in request.headers} <= {
            *(b"Host", b"Content-Length", b"X-B24tunnel-Recording", b"Connection"),
        }

    async def test_headers_of_one_connection_are_left_out(self, handler: Handler) -> None:
        headers = (
            ("Connection", "keep-alive, X-Hop"),
            ("X-Hop", "gone"),
            ("Keep-Alive", "timeout=5"),
            ("Transfer-Encoding", "chunked"),
            ("TE", "trailers"),
            ("Trailer", "X"),
            ("Upgrade", "h2c"),
            ("Proxy-Connection", "keep-alive"),
            ("Proxy-Authorization", "Basic x"),
            ("Expect", "100-continue"),
            ("X-Stays", "here"),
        )
        await send(handler.url, recording(headers=headers))
        [request] = handler.requests
        kept = {name.lower() for name, _ in request.headers} - {b"host", b"content-length", b"connection"}
        assert kept == {b"x-stays", b"x-b24tunnel-recording"}
        assert request.values(b"Connection") in ([], [b"close"])

    async def test_bytes_in_a_header_that_are_no_utf8_arrive_read_as_latin_1(self, handler: Handler) -> None:
        # aiohttp writes text only, as UTF-8; the recording keeps the bytes.
        spoiled = b"\xcd\xee".decode("utf-8", "surrogateescape")
        attempt = await send(handler.url, recording(headers=(("X-Bytes", spoiled),)))
        assert attempt.error is None
        [request] = handler.requests
        assert request.values(b"X-Bytes") == [b"\xcd\xee".decode("latin-1").encode()]

    async def test_a_header_in_two_spellings_arrives_twice(self, handler: Handler) -> None:
        await send(handler.url, recording(headers=(("X-Twice", "1"), ("x-tWICE", "2"))))
        [request] = handler.requests
        assert request.values(b"X-Twice") == [b"1", b"2"]

    @pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"])
    async def test_the_method_stays(self, handler: Handler, method: str) -> None:
        await send(handler.url, recording(b"a=1", method=method))
        [request] = handler.requests
        assert (request.line, request.body) == (f"{method} /handler HTTP/1.1".encode(), b"a=1")

    async def test_a_head_delivery_has_an_answer_without_a_body(self, handler: Handler) -> None:
        handler.answers(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
        attempt = await send(handler.url, recording(b"", method="HEAD"))
        assert (attempt.status, attempt.body, attempt.error) == (200, b"", None)

    async def test_an_empty_delivery_stays_empty(self, handler: Handler) -> None:
        await send(handler.url, recording(b"", headers=()))
        [request] = handler.requests
        assert request.body == b""
        assert request.values(b"Content-Length") in ([], [b"0"])

    @pytest.mark.parametrize(
        ("own", "target", "line"),
        [
            ("", "/b24/x?event=A&b=%zz+%20[x]", b"/handler?event=A&b=%zz+%20[x]"),
            ("?key=1", "/b24/x?event=A", b"/handler?key=1&event=A"),
            ("?key=%D0%BB", "/b24/x", b"/handler?key=%D0%BB"),
            ("", "/b24/x/?a=/b?c=%2F", b"/handler?a=/b?c=%2F"),
            ("#part", "/b24/x?a=1", b"/handler?a=1"),
        ],
    )
    async def test_the_query_goes_along_as_it_was(
        self, handler: Handler, own: str, target: str, line: bytes
    ) -> None:
        attempt = await send(handler.url + own, recording(target=target))
        [request] = handler.requests
        assert request.line == b"POST " + line + b" HTTP/1.1"
        assert attempt.target == f"http://127.0.0.1:{handler.port}{line.decode()}"


class TestWhatCameOfIt:
    async def test_an_answer_is_kept_with_its_headers(self, handler: Handler) -> None:
        handler.answers(
            b"HTTP/1.1 201 Made\r\nX-a: 1\r\nx-A: 2\r\nContent-Length: 4\r\nX-Bytes: \xcd\r\n\r\n\xcd\xee\x00\n"
        )
        attempt = await send(handler.url, recording())
        assert (attempt.status, attempt.ok, attempt.error) == (201, True, None)
        assert attempt.body == b"\xcd\xee\x00\n"
        assert attempt.headers == (("X-a", "1"), ("x-A", "2"), ("Content-Length", "4"), ("X-Bytes", "\udccd"))
        assert attempt.recording == "1-1"
        assert attempt.cause == "forward"
        assert attempt.duration_ms > 0
        assert not attempt.truncated

    @pytest.mark.parametrize(
        ("length", "truncated"), [(forward.ANSWER_BYTES, False), (forward.ANSWER_BYTES + 1, True), (10**6, True)]
    )
    async def test_a_long_answer_is_cut_and_says_so(self, handler: Handler, length: int, truncated: bool) -> None:
        handler.answers(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length + b"x" * length)
        attempt = await send(handler.url, recording())
        assert attempt.ok
        assert attempt.truncated is truncated
        assert len(attempt.body) == min(length, forward.ANSWER_BYTES)

    async def test_an_answer_without_end_does_not_hold_it_up(self, handler: Handler) -> None:
        async def endless(request: Request, out: asyncio.StreamWriter) -> None:
            out.write(b"HTTP/1.1 200 OK\r\n\r\n")
            with contextlib.suppress(OSError):
                while not out.is_closing():
                    out.write(b"x" * 10_000)
                    await out.drain()

        handler.answer = endless
        attempt = await send(handler.url, recording())
        assert (attempt.status, attempt.truncated) == (200, True)

    async def test_a_compressed_answer_stays_compressed(self, handler: Handler) -> None:
        handler.answers(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nxyz")
        attempt = await send(handler.url, recording())
        assert (attempt.status, attempt.body) == (200, b"xyz")

    async def test_each_has_the_headers_of_its_own_answer(self, handler: Handler) -> None:
        async def answer(request: Request, out: asyncio.StreamWriter) -> None:
            [name] = request.values(b"X-B24tunnel-Recording")
            out.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Of: %s\r\n\r\n" % name)

        handler.answer = answer
        ids = ["1-1", "1-2", "1-2", "1-1"]
        async with asyncio.timeout(DEADLINE), Sender(handler.url, cause="replay", keep_alive=True) as sender:
            attempts = [await sender.send(recording(id=one)) for one in ids]
        assert [dict(attempt.headers)["X-Of"] for attempt in attempts] == ids

    async def test_an_answer_in_pieces_is_put_together(self, handler: Handler) -> None:
        async def answer(request: Request, out: asyncio.StreamWriter) -> None:
            out.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for piece in (b"a", b"bc", b"def"):
                out.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                await out.drain()
            out.write(b"0\r\n\r\n")

        handler.answer = answer
        attempt = await send(handler.url, recording())
        assert (attempt.body, attempt.truncated) == (b"abcdef", False)

    async def test_a_redirect_is_an_answer_and_is_not_followed(self, handler: Handler) -> None:
        handler.answers(b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n")
        attempt = await send(handler.url, recording())
        assert (attempt.status, attempt.ok, attempt.delivered) == (302, False, True)
        assert len(handler.requests) == 1

    async def test_a_500_is_an_answer(self, handler: Handler) -> None:
        handler.answers(b"HTTP/1.1 500 Oh\r\nContent-Length: 5\r\n\r\nsorry")
        attempt = await send(handler.url, recording())
        assert (attempt.status, attempt.body, attempt.error) == (500, b"sorry", None)
        assert attempt.delivered

    @pytest.mark.parametrize("method", ["POST", "GET", "PUT"])
    @pytest.mark.parametrize("keep_alive", [False, True])
    async def test_a_handler_that_hangs_up_was_asked_once(
        self, handler: Handler, method: str, keep_alive: bool
    ) -> None:
        async def hang_up(request: Request, out: asyncio.StreamWriter) -> None:
            out.close()

        handler.answer = hang_up
        attempt = await send(handler.url, recording(method=method), keep_alive=keep_alive)
        assert attempt.status is None
        assert attempt.error == "connection closed: the handler hung up without an answer"
        assert attempt.delivered
        assert len(handler.requests) == 1

    @pytest.mark.parametrize("method", ["POST", "PATCH", "GET", "PUT", "DELETE"])
    @pytest.mark.parametrize("reset", [False, True])
    async def test_a_connection_that_was_kept_and_is_lost_is_no_reason_to_send_it_again(
        self, handler: Handler, method: str, reset: bool
    ) -> None:
        async def once(request: Request, out: asyncio.StreamWriter) -> None:
            if len(handler.requests) == 1:
                out.write(OK)
            elif reset:
                await _reset(request, out)
            else:
                out.close()

        handler.answer = once
        async with asyncio.timeout(DEADLINE), Sender(handler.url, cause="replay", keep_alive=True) as sender:
            first, second = [await sender.send(recording(method=method)) for _ in range(2)]
        assert first.ok
        assert (second.error or "").startswith("connection reset: " if reset else "connection closed: ")
        assert (len(handler.requests), handler.connections) == (2, 1)

    @pytest.mark.parametrize("method", ["POST", "GET"])
    async def test_a_handler_that_resets_the_connection_was_asked_once(
        self, handler: Handler, method: str
    ) -> None:
        handler.answer = _reset
        attempt = await send(handler.url, recording(method=method))
        assert attempt.error is not None
        assert attempt.error.startswith("connection reset: ")
        assert attempt.status is None
        assert attempt.delivered
        assert len(handler.requests) == 1

    async def test_a_handler_that_takes_too_long_is_timed_out(self, handler: Handler) -> None:
        handler.answer = _never
        attempt = await send(handler.url, recording(), timeout=0.1)
        assert attempt.error == "timed out: no whole answer within 0.1 s"
        assert attempt.delivered

    async def test_an_answer_that_stops_half_way_is_timed_out_too(self, handler: Handler) -> None:
        async def half(request: Request, out: asyncio.StreamWriter) -> None:
            out.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
            await _never(request, out)

        handler.answer = half
        attempt = await send(handler.url, recording(), timeout=0.2)
        assert attempt.status is None
        assert attempt.error is not None
        assert attempt.error.startswith("timed out")

    async def test_an_answer_that_is_no_http_is_an_error_of_its_own(self, handler: Handler) -> None:
        handler.answers(b"SSH-2.0-OpenSSH_9.2 its-own-words\r\n\r\n")
        attempt = await send(handler.url, recording())
        assert attempt.status is None
        assert attempt.error is not None
        assert attempt.error.startswith("no HTTP: ")
        assert "its-own-words" not in attempt.error
        assert attempt.delivered

    async def test_an_answer_that_breaks_off_is_no_answer(self, handler: Handler) -> None:
        async def breaks_off(request: Request, out: asyncio.StreamWriter) -> None:
            out.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
            out.close()

        handler.answer = breaks_off
        attempt = await send(handler.url, recording())
        assert attempt.status is None
        assert attempt.error is not None
        assert attempt.error.startswith("connection closed: ")
        assert attempt.delivered

    async def test_an_address_where_nobody_listens_is_unreached(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            attempt = await send(f"http://127.0.0.1:{taken.getsockname()[1]}/", recording())
        assert attempt.error == f"{UNREACHED}: connection refused"
        assert not attempt.delivered

    async def test_a_name_that_nobody_has_is_unreached(self) -> None:
        attempt = await send("http://no.such.host.invalid/", recording())
        assert attempt.error is not None
        assert attempt.error.startswith(UNREACHED)

    async def test_a_handler_that_takes_no_connection_in_time_is_unreached(self) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            port = listener.getsockname()[1]
            with contextlib.ExitStack() as stack:
                # Its queue of connections that wait to be taken is full, so the next one gets no answer.
                for _ in range(4):
                    waiting = stack.enter_context(socket.socket())
                    waiting.setblocking(False)
                    waiting.connect_ex(("127.0.0.1", port))
                attempt = await send(f"http://127.0.0.1:{port}/", recording(), timeout=0.5)
        assert attempt.error is not None
        assert attempt.error.startswith(UNREACHED)
        assert not attempt.delivered


class Forwarding:
    """A forwarder that runs, over a journal of this test's own."""

    def __init__(self, journal: JournalWriter, directory: Path) -> None:
        self.journal = journal
        self.directory = directory
        self.troubles: list[str] = []
        self.notes: list[str] = []
        self.forwarder: Forwarder
        self.task: asyncio.Task[None]

    @contextlib.asynccontextmanager
    async def running(
        self, url: str, *, concurrency: int = 1, timeout: float = DEADLINE, first: list[Recording] | None = None
    ) -> AsyncIterator[Forwarder]:
        async with Sender(url, cause="forward", timeout=timeout, concurrency=concurrency) as sender:
            self.forwarder = Forwarder(
                self.journal,
                sender,
                concurrency=concurrency,
                first=first or (),
                on_trouble=self.troubles.append,
                on_note=self.notes.append,
            )
            self.task = asyncio.create_task(self.forwarder.run())
            try:
                yield self.forwarder
            finally:
                await self.stop()

    async def stop(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task

    async def record(self, count: int = 1) -> list[str]:
        made = [recording(id=self.journal.next_id()) for _ in range(count)]
        await asyncio.gather(*(self.journal.append(one) for one in made))
        return [one.id for one in made]

    async def settled(self, count: int) -> None:
        async with asyncio.timeout(DEADLINE):
            await self.forwarder.settled_at_least(count)

    def attempts(self, id: str) -> list[Attempt]:
        return Journal.open(self.directory).attempts(id)


@pytest.fixture
def forwarding(journal: JournalWriter, tmp_path: Path) -> Forwarding:
    return Forwarding(journal, tmp_path)


class TestTheOrder:
    async def test_one_at_a_time_is_the_order_of_arrival(self, handler: Handler, forwarding: Forwarding) -> None:
        async with forwarding.running(handler.url):
            sent = await forwarding.record(30)
            await forwarding.settled(30)
        assert handler.order() == sent
        assert handler.most_under_way == 1
        assert [len(forwarding.attempts(id)) for id in sent] == [1] * 30

    async def test_what_was_recorded_before_it_began_is_handed_over(
        self, handler: Handler, forwarding: Forwarding
    ) -> None:
        sent = await forwarding.record(5)
        async with forwarding.running(handler.url):
            await forwarding.settled(5)
        assert handler.order() == sent

    async def test_more_at_a_time_begin_in_the_order_of_arrival_and_stay_within_the_limit(
        self, handler: Handler, forwarding: Forwarding
    ) -> None:
        gate = asyncio.Event()

        async def wait(request: Request, out: asyncio.StreamWriter) -> None:
            await gate.wait()
            out.write(OK)

        handler.answer = wait
        async with forwarding.running(handler.url, concurrency=3):
            sent = await forwarding.record(10)
            await _until(lambda: len(handler.requests) == 3)
            assert sorted(handler.order()) == sent[:3]
            gate.set()
            await forwarding.settled(10)
        assert handler.most_under_way == 3
        assert sorted(handler.order()) == sorted(sent)

    async def test_a_slow_one_does_not_hold_up_the_others(self, handler: Handler, forwarding: Forwarding) -> None:
        gate = asyncio.Event()

        async def first_waits(request: Request, out: asyncio.StreamWriter) -> None:
            if request.values(b"X-B24tunnel-Recording") == [b"1-1"]:
                await gate.wait()
            out.write(OK)

        handler.answer = first_waits
        async with forwarding.running(handler.url, concurrency=2):
            await forwarding.record(10)
            await forwarding.settled(9)
            assert forwarding.attempts("1-1") == []
            gate.set()
            await forwarding.settled(10)

    async def test_those_of_earlier_sessions_come_first(self, handler: Handler, forwarding: Forwarding) -> None:
        sent = await forwarding.record(2)
        earlier = [recording(id=f"7-{number}") for number in range(1, 4)]
        async with forwarding.running(handler.url, first=earlier):
            await forwarding.settled(5)
        assert handler.order() == ["7-1", "7-2", "7-3", *sent]
        assert len(forwarding.attempts("7-2")) == 1


class TestAHandlerThatIsAway:
    @pytest.mark.parametrize("concurrency", [1, 3])
    async def test_events_wait_for_it_and_go_on_in_order(
        self, handler: Handler, forwarding: Forwarding, concurrency: int
    ) -> None:
        await handler.stop()
        async with forwarding.running(handler.url, concurrency=concurrency):
            sent = await forwarding.record(10)
            await _until(lambda: forwarding.troubles)
            assert "cannot be reached" in forwarding.troubles[0]
            await handler.start(handler.port)
            await forwarding.settled(10)
        assert sorted(handler.order()) == sorted(sent)
        if concurrency == 1:
            assert handler.order() == sent
        refused = [id for id in sent if not forwarding.attempts(id)[0].delivered]
        # Only those that met the refusal have it noted, once; all have their answer noted, once.
        assert refused == sent[: len(refused)]
        assert 1 <= len(refused) <= concurrency
        assert [len(forwarding.attempts(id)) for id in sent] == [2 if id in refused else 1 for id in sent]
        assert len(forwarding.troubles) == len(forwarding.notes) == 1
        assert "takes events again" in forwarding.notes[0]

    async def test_it_may_go_away_and_come_back_again_and_again(
        self, handler: Handler, forwarding: Forwarding
    ) -> None:
        sent: list[str] = []
        async with forwarding.running(handler.url):
            for round in range(3):
                await handler.stop()
                before = len(forwarding.troubles)
                sent += await forwarding.record(3)
                await _until(lambda before=before: len(forwarding.troubles) > before)
                await handler.start(handler.port)
                await forwarding.settled((round + 1) * 3)
        assert handler.order() == sent
        assert len(forwarding.troubles) == 3

    async def test_refused_again_and_again_it_is_noted_once(
        self, handler: Handler, forwarding: Forwarding, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def listens(host: str, port: int) -> tuple[None, Any]:
            """A look that finds it listening, though it is away again at the next moment."""
            return None, contextlib.ExitStack()

        tries: list[str] = []
        original = Sender.send

        async def counted(self: Sender, one: Recording, note: forward.Note) -> Attempt:
            tries.append(one.id)
            return await original(self, one, note)

        await handler.stop()
        with monkeypatch.context() as patch:
            patch.setattr(forward.asyncio, "open_connection", listens)
            patch.setattr(Sender, "send", counted)
            async with forwarding.running(handler.url):
                [id] = await forwarding.record()
                await _until(lambda: len(tries) > 3)
                assert len(forwarding.attempts(id)) == 1
                assert len(forwarding.troubles) == 1, "its absence is told once"
                await handler.start(handler.port)
                await forwarding.settled(1)
        assert [attempt.delivered for attempt in forwarding.attempts(id)] == [False, True]

    async def test_while_it_is_away_nobody_tries(
        self, handler: Handler, forwarding: Forwarding, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tries: list[str] = []
        looks: list[int] = []
        original = Sender.send

        async def counted(self: Sender, one: Recording, note: forward.Note) -> Attempt:
            tries.append(one.id)
            return await original(self, one, note)

        async def away(host: str, port: int) -> None:
            looks.append(port)
            raise ConnectionRefusedError

        await handler.stop()
        monkeypatch.setattr(Sender, "send", counted)
        monkeypatch.setattr(forward.asyncio, "open_connection", away)
        async with forwarding.running(handler.url, concurrency=3):
            [id] = await forwarding.record()
            await _until(lambda: len(looks) >= 2)
        assert tries == [id]
        assert looks == [handler.port] * len(looks)

    async def test_a_refused_recording_is_not_settled_when_it_stops(
        self, handler: Handler, forwarding: Forwarding
    ) -> None:
        await handler.stop()
        async with forwarding.running(handler.url):
            [id] = await forwarding.record()
            await _until(lambda: forwarding.attempts(id))
        [attempt] = forwarding.attempts(id)
        assert attempt.error == f"{UNREACHED}: connection refused"
        assert forwarding.forwarder.settled == 0


class TestOutcomes:
    @pytest.mark.parametrize(
        ("answer", "error"),
        [
            (b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", None),
            (b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", None),
            (b"nonsense\r\n\r\n", "no HTTP: "),
            ("close", "connection closed: "),
            ("reset", "connection reset: "),
            ("never", "timed out: "),
        ],
        ids=["500", "302", "nonsense", "hang-up", "reset", "time-out"],
    )
    async def test_anything_but_a_refusal_settles_it(
        self, handler: Handler, forwarding: Forwarding, answer: bytes | str, error: str | None
    ) -> None:
        async def close(request: Request, out: asyncio.StreamWriter) -> None:
            out.close()

        if isinstance(answer, bytes):
            handler.answers(answer)
        else:
            handler.answer = {"close": close, "reset": _reset, "never": _never}[answer]
        async with forwarding.running(handler.url, timeout=0.3):
            ids = await forwarding.record(2)
            await forwarding.settled(2)
        assert handler.order() == ids
        for id in ids:
            [attempt] = forwarding.attempts(id)
            assert (attempt.error or "").startswith(error or "")
            assert (attempt.status is None) is (error is not None)
        assert forwarding.troubles == []

    async def test_stopped_in_the_middle_it_notes_what_was_interrupted(
        self, handler: Handler, forwarding: Forwarding
    ) -> None:
        handler.answer = _never
        async with forwarding.running(handler.url, concurrency=2):
            ids = await forwarding.record(3)
            await _until(lambda: len(handler.requests) == 2)
        for id in ids[:2]:
            [attempt] = forwarding.attempts(id)
            assert attempt.error is not None
            assert attempt.error.startswith(INTERRUPTED)
            assert not attempt.delivered
        assert forwarding.attempts(ids[2]) == []

    async def test_an_attempt_that_cannot_be_noted_is_told_and_forwarding_goes_on(
        self, handler: Handler, forwarding: Forwarding, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = writer._write_all
        failing = [True]

        def fails_for_attempts(descriptor: int, data: bytes) -> None:
            if failing[0] and b'"kind":"attempt"' in data:
                failing[0] = False
                raise OSError(28, "No space left on device")
            original(descriptor, data)

        monkeypatch.setattr(writer, "_write_all", fails_for_attempts)
        async with forwarding.running(handler.url):
            await forwarding.record()
            await forwarding.settled(1)
            await forwarding.record()
            await forwarding.settled(2)
        assert handler.order() == ["1-1", "1-2"]
        assert forwarding.attempts("1-1") == []
        assert len(forwarding.attempts("1-2")) == 1
        assert [t for t in forwarding.troubles if "could not be noted" in t and "1-1" in t]


class TestThePureParts:
    @pytest.mark.parametrize(
        "url",
        [
            "",
            "handler",
            "127.0.0.1:8000",
            "ftp://h/",
            "http://",
            "http:///x",
            "http://h:0/",
            "http://h:x/",
            "http://[/",
        ],
    )
    def test_an_address_that_is_no_handlers_is_refused(self, url: str) -> None:
        with pytest.raises(WrongUsage, match=r"no handler's URL: give one like http://"):
            check_handler_url(url)

    @pytest.mark.parametrize(
        "url", ["http://h", "https://h:8/x?y=1", "http://[::1]:8000/", "http://h/%D0%BB?a=%2F+"]
    )
    def test_a_handlers_address_is_taken_as_it_is(self, url: str) -> None:
        assert check_handler_url(url) == url
        assert check_handler_url(f"{url}#part") == url

    def test_what_an_address_cannot_hold_is_encoded(self) -> None:
        assert check_handler_url("http://h/лид 1?a=№%2F") == "http://h/%D0%BB%D0%B8%D0%B4%201?a=%E2%84%96%2F"

    @pytest.mark.parametrize(
        ("url", "target", "expected"),
        [
            ("http://h/x", "/p", "http://h/x"),
            ("http://h/x", "/p?", "http://h/x"),
            ("http://h/x", "/p?a=1", "http://h/x?a=1"),
            ("http://h/x?b=2", "/p?a=1", "http://h/x?b=2&a=1"),
        ],
    )
    def test_queries_are_put_together(self, url: str, target: str, expected: str) -> None:
        assert with_query(url, target) == expected

    def test_the_recordings_id_is_the_last_header(self) -> None:
        assert forwarded_headers(recording(id="12-345"))[-1] == ("X-B24tunnel-Recording", "12-345")


async def _never(request: Request, out: asyncio.StreamWriter) -> None:
    """No answer, until the other side has had enough."""
    await out.wait_closed()


async def _reset(request: Request, out: asyncio.StreamWriter) -> None:
    connection = out.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    out.transport.abort()


async def _until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(DEADLINE):
        while True:
            if condition():
                return
            await asyncio.sleep(0.005)

"""What is not ours goes to the application byte for byte, and its answers come back as they are."""

from __future__ import annotations

import asyncio
import gzip
import json
import resource
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from b24pysdk.credentials import OAuthPlacementData, OAuthWorkflowData
from bitrix_requests import AUTH, PAGE, PAGE_QUERY, ROBOT
from passing_through import MAX_BODY, PUBLIC, Passing, get, gone, head_of, passing, post, talking
from programs import Programs, free_port, wait_until
from raw_server import RESET, RawServer, answer_with
from receiving import DEADLINE
from sandboxed import rest
from self_signed import self_signed
from waiting import until

from b24tunnel import form
from b24tunnel.errors import WrongUsage
from b24tunnel.pass_through import PassThrough
from b24tunnel.sandbox import Sandbox

FORWARDED = (
    f"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: {PUBLIC}\r\n"
    "Connection: close\r\n\r\n"
).encode()
CLOSE = "Connection: close"
CHUNKED = "Transfer-Encoding: chunked"
BINARY = "Content-Type: application/octet-stream"


def chunks(body: bytes, size: int) -> bytes:
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def unchunked(body: bytes) -> bytes:
    whole = b""
    while True:
        size, _, body = body.partition(b"\r\n")
        if not int(size, 16):
            assert body == b"\r\n"
            return whole
        piece, end, body = body[: int(size, 16)], body[int(size, 16) :][:2], body[int(size, 16) + 2 :]
        assert end == b"\r\n"
        whole += piece


class Raw:
    """A raw application behind a pass-through."""

    def __init__(self, server: RawServer, place: Passing) -> None:
        self.server = server
        self.place = place

    async def arrived(self, data: bytes) -> bytes:
        """The head and the body that the application got for what a client sent."""
        await self.place.conversation(data)
        request = self.server.requests[-1]
        return request.head + b"\r\n\r\n" + request.body

    async def answered(self, answer: bytes | None, data: bytes = get("/", CLOSE)) -> bytes:
        """What a client got for an answer of the application."""
        self.server.answer = answer
        return await self.place.conversation(data)


@pytest.fixture
async def raw() -> AsyncIterator[Raw]:
    with RawServer() as server:
        async with passing(f"http://127.0.0.1:{server.port}") as place:
            yield Raw(server, place)


class TestRequests:
    async def test_a_head_arrives_in_order_and_spelling(self, raw: Raw) -> None:
        sent = (
            b"GET /app?x=1 HTTP/1.1\r\nhOST: " + PUBLIC.encode() + b"\r\nX-b: 1\r\nX-B: 2\r\nx-A:\r\n"
            b"Cookie: a=1; b=\xff\xfe\r\nCookie: c=2\r\nAccept-Encoding: gzip, br\r\nx-tabs: a\tb\r\n"
            b"Connection: close\r\n\r\n"
        )
        wanted = sent.replace(b"x-A:\r\n", b"x-A: \r\n").replace(b"Connection: close\r\n\r\n", FORWARDED)
        assert await raw.arrived(sent) == wanted

    @pytest.mark.parametrize(
        "target",
        [
            b"/a/../b/./c",
            b"/%2F%2e%2E/%zz%",
            b"//double//slash/",
            b"/?",
            b"/a?b?c=d&&=&x[]=1&y=a+b%20c",
            b"/a;b=c,d!$'()*@:[]{}|\\^`\"<>",
            b"/x#y?z#",
            b"/x?" + b"a" * 9000,
        ],
        ids=lambda target: repr(target[:20]),
    )
    async def test_a_target_is_not_touched(self, raw: Raw, target: bytes) -> None:
        assert (await raw.arrived(get(target, CLOSE))).startswith(b"GET " + target + b" HTTP/1.1\r\n")

    async def test_a_whole_address_is_one_s_own(self, raw: Raw) -> None:
        arrived = await raw.arrived(get("http://other.example/a/../b?c", CLOSE))
        assert arrived.startswith(b"GET /a/../b?c HTTP/1.1\r\nHost: other.example\r\n")
        assert b"X-Forwarded-Host: other.example\r\n" in arrived

    async def test_options_of_everything(self, raw: Raw) -> None:
        assert (await raw.arrived(get("*", CLOSE, method="OPTIONS"))).startswith(b"OPTIONS * HTTP/1.1\r\n")

    @pytest.mark.parametrize("path", ["/app", "/app/", "/a%20b/c/"])
    async def test_the_application_s_path_goes_before_it(self, path: str) -> None:
        with RawServer() as server:
            async with passing(f"http://127.0.0.1:{server.port}{path}") as place:
                await place.conversation(get("//x/../y?z", CLOSE))
            assert server.requests[0].line == f"GET {path.rstrip('/')}//x/../y?z HTTP/1.1".encode()

    @pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "PROPFIND", "QUERY"])
    async def test_every_method_is_its_own(self, raw: Raw, method: str) -> None:
        assert (await raw.arrived(get("/", CLOSE, method=method))).startswith(method.encode() + b" / HTTP/1.1\r\n")

    async def test_what_speaks_of_one_connection_stays_behind(self, raw: Raw) -> None:
        dropped = (
            *("Connection: close, X-Private , x-other", "X-Private: 1", "X-Other: 2", "Keep-Alive: timeout=5"),
            *("Proxy-Connection: close", "TE: trailers", "Trailer: X-T", "Proxy-Authorization: Basic x"),
            *("Upgrade: h2c",),
        )
        arrived = await raw.arrived(get("/", "X-First: 1", *dropped, "Authorization: Bearer x"))
        start = f"GET / HTTP/1.1\r\nHost: {PUBLIC}\r\nX-First: 1\r\nAuthorization: Bearer x\r\n".encode()
        assert arrived == start + FORWARDED

    async def test_connection_cannot_take_away_the_length_or_the_host(self, raw: Raw) -> None:
        arrived = await raw.arrived(post(b"abc", "/", "Connection: content-length, host, close"))
        assert arrived.endswith(b"\r\n\r\nabc")
        assert b"Content-Length: 3\r\n" in arrived
        assert f"Host: {PUBLIC}\r\n".encode() in arrived

    async def test_connection_cannot_take_away_what_is_meant_for_the_application(self, raw: Raw) -> None:
        sent = (
            "X-Forwarded-For: 203.0.113.7",
            "Cookie: a=1",
            "Authorization: Bearer x",
            "CF-Connecting-IP: ::1",
        )
        names = "close, x-forwarded-for, cookie, Authorization, cf-connecting-ip"
        arrived = await raw.arrived(get("/", *sent, f"Connection: {names}"))
        assert b"X-Forwarded-For: 203.0.113.7, 127.0.0.1\r\n" in arrived
        for line in sent[1:]:
            assert line.encode() in arrived

    async def test_what_the_tunnel_says_of_the_sender_is_kept_and_added_to(self, raw: Raw) -> None:
        said = ("X-Forwarded-For: 203.0.113.7, 10.0.0.1", "x-forwarded-for: 10.0.0.2")
        said = (*said, "X-Forwarded-Proto: https", "X-FORWARDED-HOST: public.example")
        await raw.arrived(get("/", *said, CLOSE))
        request = raw.server.requests[0]
        assert request.header(b"x-forwarded-for") == [b"203.0.113.7, 10.0.0.1", b"10.0.0.2, 127.0.0.1"]
        assert request.header(b"x-forwarded-proto") == [b"https"]
        assert request.header(b"x-forwarded-host") == [b"public.example"]

    async def test_the_public_scheme_is_told_where_the_tunnel_does_not(self, raw: Raw) -> None:
        raw.place.pass_through.scheme = "https"
        await raw.arrived(get("/", CLOSE))
        assert raw.server.requests[0].header(b"x-forwarded-proto") == [b"https"]

    async def test_the_application_may_be_told_its_own_host(self) -> None:
        with RawServer() as server:
            async with passing(f"http://127.0.0.1:{server.port}", host="application") as place:
                await place.conversation(get("/", CLOSE))
            request = server.requests[0]
            assert request.header(b"host") == [f"127.0.0.1:{server.port}".encode()]
            assert request.header(b"x-forwarded-host") == [PUBLIC.encode()]

    @pytest.mark.parametrize("size", [0, 1, 5, 70_000])
    async def test_a_body_with_a_length_keeps_it(self, raw: Raw, size: int) -> None:
        body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        arrived = await raw.arrived(get("/", BINARY, f"content-LENGTH: {size}", CLOSE, method="POST") + body)
        assert f"\r\ncontent-LENGTH: {size}\r\n".encode() in arrived
        assert arrived.partition(b"\r\n\r\n")[2] == body

    @pytest.mark.parametrize("size", [1, 1000, 100_000])
    async def test_a_chunked_body_stays_one_without_trailers(self, raw: Raw, size: int) -> None:
        body = bytes(range(256)) * 1000
        sent = get("/", BINARY, CHUNKED, "Trailer: X-T", CLOSE, method="POST") + chunks(body, size)
        await raw.arrived(sent.removesuffix(b"\r\n") + b"X-T: 1\r\n\r\n")
        request = raw.server.requests[0]
        assert request.header(b"transfer-encoding") == [b"chunked"]
        assert request.header(b"content-length") == []
        assert unchunked(request.body) == body

    async def test_a_compressed_body_stays_compressed(self, raw: Raw) -> None:
        body = gzip.compress(b"x" * 1000)
        arrived = await raw.arrived(post(body, "/", "Content-Encoding: gzip", CLOSE))
        assert arrived.endswith(b"\r\n\r\n" + body)

    async def test_an_old_client_is_served(self, raw: Raw) -> None:
        arrived = await raw.arrived(b"POST / HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc")
        own = f"Host: 127.0.0.1:{raw.server.port}\r\n".encode()
        assert arrived.startswith(b"POST / HTTP/1.1\r\n" + own + b"Content-Length: 3\r\n")
        assert arrived.endswith(b"\r\n\r\nabc")


class TestWhatCouldBeReadInTwoWays:
    @pytest.mark.parametrize(
        "headers",
        [
            ("Content-Length: 3", CHUNKED),
            (CHUNKED, "Content-Length: 3"),
            ("Content-Length: 3", "Content-Length: 4"),
            ("Content-Length: 3", "Content-Length: 3"),
            ("Content-Length: 3, 3",),
            ("Content-Length: +3",),
            ("Content-Length: -3",),
            ("Content-Length: 0x3",),
            ("Content-Length: 3 3",),
            ("Content-Length:",),
            ("Transfer-Encoding: gzip, chunked",),
            ("Transfer-Encoding: chunked, chunked",),
            ("Transfer-Encoding: xchunked",),
            ("Transfer-Encoding: identity",),
            (CHUNKED, CHUNKED),
            ("Content-Length : 3",),
            ("Host: other.example",),
            (" folded: 1",),
            ("X-Nul: a\0b",),
            ("X-Cr: a\rb",),
        ],
        ids=repr,
    )
    async def test_is_refused_and_the_application_sees_nothing(self, headers: tuple[str, ...]) -> None:
        with RawServer() as server:
            place = Passing(f"http://127.0.0.1:{server.port}")
            await place.start()
            said = await place.conversation(
                get("/", BINARY, *headers, method="POST") + b"3\r\nabc\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n"
            )
            await place.stop()
            assert said.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
            assert said.count(b"HTTP/1.") == 1
            assert server.requests == []

    async def test_chunks_of_an_old_client_are_refused(self, raw: Raw) -> None:
        said = await raw.place.conversation(get("/", CHUNKED, method="POST", version="1.0") + b"0\r\n\r\n")
        assert b" 400 " in said.split(b"\r\n")[0]
        assert raw.server.requests == []

    async def test_a_tunnel_is_refused(self, raw: Raw) -> None:
        raw.place.failures.clear()
        said = await raw.place.conversation(b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n")
        assert said.startswith((b"HTTP/1.1 405 ", b"HTTP/1.1 400 "))
        raw.place.failures.clear()

    async def test_a_broken_chunk_never_looks_whole_to_the_application(self) -> None:
        body = b""

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal body
            await head_of(reader)
            while piece := await reader.read(1000):
                body += piece

        async with talking(talk) as application:
            place = Passing(application.url, timeout=0.3)
            await place.start()
            async with await place.connect() as sender:
                await sender.send(get("/", BINARY, CHUNKED, method="POST") + b"3\r\nabc\r\n")
                await until(lambda: body)
                await sender.send(b"zz\r\n\r\n")
                assert (await sender.rest()).startswith(b"HTTP/1.1 408 ")
            await until(lambda: application.ended)
            await place.stop()
        assert b"abc" in body
        assert b"0\r\n\r\n" not in body


class TestAnswers:
    @pytest.mark.parametrize("body", [b"", b"x", b"\0\xff" * 100_000])
    async def test_one_with_a_length_comes_back_as_it_is(self, raw: Raw, body: bytes) -> None:
        head = (
            b"HTTP/1.1 222 Rather  \xc3\xb6dd\r\nset-COOKIE: a=1; SameSite=None; Secure\r\nSet-Cookie: b=\xff\r\n"
            b"Set-Cookie: a=2\r\nx-Empty: \r\nContent-Security-Policy: frame-ancestors https://*.bitrix24.ru\r\n"
            b"Content-Encoding: br\r\nServer: Some/1.0\r\nX-Frame-Options: DENY\r\ncontent-length: %d\r\n"
            % len(body)
        )
        # ... less what speaks of one connection, in place of which stands our own
        sent = head + b"Keep-Alive: timeout=5\r\nX-Gone: 1\r\nConnection: keep-alive, x-gone\r\n\r\n" + body
        assert await raw.answered(sent) == head + b"Connection: close\r\n\r\n" + body

    async def test_nothing_is_added_to_a_bare_one(self, raw: Raw) -> None:
        async with await raw.place.connect() as sender:
            raw.server.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
            await sender.send(get())
            answer = await sender.answer()
            assert answer.head + answer.body == raw.server.answer

    @pytest.mark.parametrize(
        "line", [b"HTTP/1.1 200 ", b"HTTP/1.1 200", b"HTTP/1.0 404 Not Found", b"HTTP/1.1 599 X"]
    )
    async def test_status_and_reason_are_its_own(self, raw: Raw, line: bytes) -> None:
        said = await raw.answered(line + b"\r\nContent-Length: 0\r\n\r\n")
        assert said.split(b"\r\n")[0] == b"HTTP/1.1" + line[8:]

    async def test_a_redirect_is_the_browser_s(self, raw: Raw) -> None:
        location = "Location: http://127.0.0.1:8000/a/../b?c#d"
        said = await raw.answered(answer_with("302 Found", b"", location))
        assert said.startswith(b"HTTP/1.1 302 Found\r\n")
        assert location.encode() + b"\r\n" in said

    @pytest.mark.parametrize("version", ["1.1", "1.0"])
    async def test_chunks_are_for_those_who_know_them(self, raw: Raw, version: str) -> None:
        body = b"0123456789" * 1000
        answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nTrailer: X\r\nX: 1\r\n\r\n"
        answer += b"3;ext=1\r\n012\r\n" + chunks(body[3:], 777).removesuffix(b"\r\n") + b"X-Trailer: 1\r\n\r\n"
        said = await raw.answered(answer, get("/", CLOSE, version=version))
        head, _, sent = said.partition(b"\r\n\r\n")
        if version == "1.1":
            assert head == b"HTTP/1.1 200 OK\r\nX: 1\r\nTransfer-Encoding: chunked\r\nConnection: close"
            assert unchunked(sent) == body
        else:
            assert head == b"HTTP/1.0 200 OK\r\nX: 1"
            assert sent == body

    @pytest.mark.parametrize("version", ["1.1", "1.0"])
    async def test_one_that_ends_with_its_connection(self, raw: Raw, version: str) -> None:
        said = await raw.answered(b"HTTP/1.0 200 OK\r\nX: 1\r\n\r\nall of it", get("/", CLOSE, version=version))
        body = said.partition(b"\r\n\r\n")[2]
        assert (unchunked(body) if version == "1.1" else body) == b"all of it"

    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 204 No Content\r\nX: 1\r\n\r\n",
            b"HTTP/1.1 304 Not Modified\r\nETag: x\r\nContent-Length: 100\r\n\r\n",
        ],
    )
    async def test_some_have_no_body(self, raw: Raw, answer: bytes) -> None:
        raw.server.answer = answer
        async with await raw.place.connect() as sender:
            for _ in range(2):
                await sender.send(get())
                assert (await sender.answer(head_only=True)).head == answer

    async def test_one_to_head_has_the_length_and_no_body(self, raw: Raw) -> None:
        raw.server.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
        async with await raw.place.connect() as sender:
            for _ in range(2):
                await sender.send(get(method="HEAD"))
                assert (await sender.answer(head_only=True)).head == raw.server.answer

    async def test_a_folded_header_is_made_one_line(self, raw: Raw) -> None:
        said = await raw.answered(b"HTTP/1.1 200 OK\r\nX: a\r\n  b\r\n\tc\r\nContent-Length: 0\r\n\r\n")
        assert b"\r\nX: a b c\r\n" in said

    async def test_what_is_said_before_the_answer_is_passed_on(self, raw: Raw) -> None:
        hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"
        said = await raw.answered(b"HTTP/1.1 100 Continue\r\n\r\n" + hints + answer_with())
        assert said.startswith(hints + b"HTTP/1.1 200 OK\r\n")
        said = await raw.answered(hints + answer_with(), get("/", CLOSE, version="1.0"))
        assert said.startswith(b"HTTP/1.0 200 OK\r\n")

    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
            b"HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX : 1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nno header\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
            b"HTTP/1.1 20 OK\r\n\r\n",
            b"HTTP/2 200 OK\r\n\r\n",
            b"ICY 200 OK\r\n\r\n",
            b"<html>\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
            b"HTTP/1.1 102 Processing\r\n\r\n" * 100,
        ],
        ids=lambda answer: repr(answer[:60]),
    )
    async def test_one_that_is_no_http_is_told_as_such(self, raw: Raw, answer: bytes) -> None:
        said = await raw.answered(answer)
        *interim, last = said.split(b"HTTP/1.1 ")[1:]
        assert last.startswith(b"502 Bad Gateway\r\n")
        assert all(head.startswith(b"102 ") for head in interim)
        assert last.endswith(b"What the application answered is no HTTP.\n")
        assert "no HTTP" in raw.place.troubles[0]

    @pytest.mark.parametrize("answer", [RESET, b"", b"HTTP/1.1 200 OK\r\nX: 1\r\n"], ids=["reset", "end", "part"])
    async def test_none_at_all_is_told_as_such(self, raw: Raw, answer: bytes | None) -> None:
        assert (await raw.answered(answer)).startswith(b"HTTP/1.1 502 ")
        assert len(raw.place.troubles) == 1

    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n9\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcXY0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n" + b"1" * 100_000,
        ],
        ids=lambda answer: repr(answer[-20:]),
    )
    async def test_one_that_breaks_off_never_looks_whole(self, raw: Raw, answer: bytes) -> None:
        said = await raw.answered(answer, get())  # not closed by the client
        head, _, body = said.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"abc" in body
        assert not body.endswith(b"0\r\n\r\n")
        assert "broke off" in raw.place.troubles[0]

    async def test_one_that_breaks_off_breaks_off_for_an_old_client_too(self, raw: Raw) -> None:
        raw.server.answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
        async with await raw.place.connect() as sender:
            await sender.send(get(version="1.0"))
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(sender.reader.read(), DEADLINE)


async def test_an_application_that_is_away_is_told_without_its_address() -> None:
    port = free_port()
    async with passing(f"http://127.0.0.1:{port}/x") as place:
        for _ in range(3):
            said = await place.conversation(get("/", CLOSE))
            head, _, body = said.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 502 ")
            assert body == b"The application cannot be reached.\n"
            assert str(port).encode() not in said
        assert place.troubles == [
            f"The application http://127.0.0.1:{port}/x cannot be reached: connection refused."
        ]
    assert place.troubles[1:] == [
        f"The application http://127.0.0.1:{port}/x cannot be reached: connection refused: "
        "2 more times within a minute."
    ]


async def test_a_name_that_leads_nowhere_is_told() -> None:
    async with passing("http://nowhere.invalid:1") as place:
        assert (await place.conversation(get("/", CLOSE))).startswith(b"HTTP/1.1 502 ")
        assert "cannot be resolved" in place.troubles[0]


async def test_an_application_that_says_nothing_is_a_time_out() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gone(reader)

    async with talking(talk) as application, passing(application.url, timeout=0.2) as place:
        said = await place.conversation(get("/", CLOSE))
        assert said.startswith(b"HTTP/1.1 504 ")
        assert said.endswith(b"The application did not answer in time.\n")
        await until(lambda: application.ended)
        assert place.troubles == [f"The application {application.url} did not answer within 0.2 s."]


async def test_a_sender_that_stops_in_its_body_is_a_time_out_of_its_own() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gone(reader)

    async with talking(talk) as application, passing(application.url, timeout=0.2) as place:
        said = await place.conversation(get("/", BINARY, "Content-Length: 5", method="POST") + b"abc")
        assert said.startswith(b"HTTP/1.1 408 ")
        await until(lambda: application.ended)
        assert place.troubles == []


async def test_a_sender_that_stops_in_its_body_gets_no_endless_answer() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nso far")
        await gone(reader)

    async with talking(talk) as application, passing(application.url, timeout=0.2) as place:
        said = await place.conversation(get("/", BINARY, "Content-Length: 5", method="POST") + b"abc")
        assert said.endswith(b"\r\nso far\r\n")
        await until(lambda: application.ended)


async def test_a_client_that_reads_nothing_for_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("b24tunnel.pass_through_exchange.IDLE_SECONDS", 0.3)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 100_000)
            await writer.drain()

    async with (
        talking(talk) as application,
        passing(application.url) as place,
        await place.connect() as sender,
    ):
        await sender.send(get())
        await until(lambda: application.ended)


async def test_a_stream_of_events_comes_piece_by_piece() -> None:
    step: asyncio.Queue[bytes] = asyncio.Queue()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        while piece := await step.get():
            writer.write(piece)
            await writer.drain()

    async with (
        talking(talk) as application,
        passing(application.url, timeout=0.5) as place,
        await place.connect() as sender,
    ):
        await sender.send(get("/events"))
        async with asyncio.timeout(DEADLINE):
            await sender.reader.readuntil(b"\r\n\r\n")
            for number in range(5):
                event = f"data: {number}\n\n".encode()
                step.put_nowait(event)  # the next one is not sent before this one has arrived
                assert await sender.reader.readexactly(len(event) + 5) == b"9\r\n" + event + b"\r\n"
            step.put_nowait(b"")
            assert await sender.reader.readexactly(5) == b"0\r\n\r\n"
            await sender.send(get("/events"))  # and the connection may go on
            await sender.reader.readuntil(b"\r\n\r\n")
        step.put_nowait(b"")


class TestHangingUp:
    async def _hang_up(self, sent: bytes, *said: bytes) -> Passing:
        """A client hangs up after it has sent and got this; the application sees its connection end."""

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await head_of(reader)
            for part in said:
                writer.write(part)
            await gone(reader)

        async with talking(talk) as application, passing(application.url) as place:
            async with await place.connect() as sender:
                await sender.send(sent)
                await until(lambda: application.connections)
                for _ in said:
                    await sender.reader.readuntil(b"\r\n\r\n")
            await until(lambda: application.ended)
            await until(lambda: place.pass_through.under_way == 0)
        assert place.troubles == []
        return place

    async def test_before_the_answer(self) -> None:
        await self._hang_up(get())

    async def test_in_the_middle_of_the_answer(self) -> None:
        await self._hang_up(get(), b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")

    async def test_in_the_middle_of_the_body(self) -> None:
        await self._hang_up(get("/", BINARY, "Content-Length: 10", method="POST") + b"abc")

    async def test_while_it_is_being_recorded(self) -> None:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await gone(reader)

        async with talking(talk) as application, passing(application.url) as place:
            place.recording.clear()
            async with await place.connect() as sender:
                await sender.send(post(form.encode(ROBOT)))
                await until(lambda: place.pass_through.under_way)
            await until(lambda: all(each.transport is None for each in place.protocols.connections))
            place.recording.set()
            assert (await place.attempt()).error == "given up: the sender hung up before the answer was whole"

    async def test_of_a_recorded_one_is_in_its_attempt(self) -> None:
        place = await self._hang_up(post(form.encode(ROBOT)))
        assert [attempt.error for attempt in place.attempts] == [
            "given up: the sender hung up before the answer was whole"
        ]


class TestExpect:
    HEAD = get("/", BINARY, "Content-Length: 3", "Expect: 100-continue", method="PUT")

    async def test_the_application_asks(self) -> None:
        asked = asyncio.Event()

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            assert b"Expect: 100-continue\r\n" in await head_of(reader)
            await asked.wait()
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = await reader.readexactly(3)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n" + body)

        async with (
            talking(talk) as application,
            passing(application.url) as place,
            await place.connect() as sender,
        ):
            await sender.send(self.HEAD)
            await until(lambda: application.connections)
            asked.set()
            assert (await sender.answer()).head == b"HTTP/1.1 100 Continue\r\n\r\n"
            await sender.send(b"abc")
            assert (await sender.answer()).body == b"abc"
            asked.clear()
            asked.set()
            await sender.send(self.HEAD + b"def")  # who does not wait is served too
            assert (await sender.answer()).status == 100
            assert (await sender.answer()).body == b"def"

    async def test_the_application_knows_nothing_of_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("b24tunnel.pass_through_exchange._CONTINUE_SECONDS", 0.05)

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await head_of(reader)
            body = await reader.readexactly(3)
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n" + body)

        async with (
            talking(talk) as application,
            passing(application.url) as place,
            await place.connect() as sender,
        ):
            await sender.send(self.HEAD)
            assert (await sender.answer()).status == 100
            await sender.send(b"abc")
            assert (await sender.answer()).body == b"abc"

    async def test_the_application_does_not_want_the_body(self) -> None:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await head_of(reader)
            writer.write(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n")
            assert await reader.read() == b""

        async with talking(talk) as application, passing(application.url) as place:
            said = await place.conversation(self.HEAD)
            assert said == b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await head_of(reader)
    target = head.split(b" ")[1]
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(target), target))


async def echo_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await echo(reader, writer)
    writer.close()


async def test_a_connection_of_a_client_serves_many_requests() -> None:
    async with talking(echo) as application, passing(application.url) as place:
        async with await place.connect() as sender:
            await sender.send(b"".join(get(f"/{number}") for number in range(20)))  # all at once
            assert [(await sender.answer()).body for _ in range(20)] == [b"/%d" % number for number in range(20)]
        async with await place.connect() as sender:
            for number in range(3):
                await sender.send(get(f"/{number}", "Connection: keep-alive", version="1.0"))
                answer = await sender.answer()
                assert answer.header("connection") == ["keep-alive"]
                assert answer.body == b"/%d" % number
        assert application.connections == 23


async def test_fifty_at_a_time_keep_apart() -> None:
    async with talking(echo) as application, passing(application.url) as place:

        async def one(number: int) -> bytes:
            async with await place.connect() as sender:
                bodies = b""
                for round in range(5):
                    await sender.send(post(b"x" * number * 50, f"/{number}/{round}"))
                    answer = await sender.answer()
                    bodies += answer.body
                return bodies

        got = await asyncio.gather(*map(one, range(50)))
    assert got == [b"".join(b"/%d/%d" % (number, round) for round in range(5)) for number in range(50)]


async def test_more_than_there_may_be_are_refused() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gone(reader)

    async with talking(talk) as application, passing(application.url, most_under_way=2) as place:
        async with await place.connect() as first, await place.connect() as second:
            for sender in (first, second):
                await sender.send(get())
            await until(lambda: application.connections == 2)
            assert (await place.conversation(get())).startswith(b"HTTP/1.1 503 ")
        assert "503" in place.troubles[0]


class TestLargeBodies:
    SIZE = 100_000_000

    async def test_an_upload_of_100_mb_needs_no_memory(self) -> None:
        taken = 0

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal taken
            await head_of(reader)
            while (size := int(await reader.readuntil(b"\r\n"), 16)) > 0:
                while size:
                    piece = await reader.read(size)
                    taken += len(piece)
                    size -= len(piece)
                await reader.readexactly(2)
            await reader.readexactly(2)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

        async with (
            talking(talk) as application,
            passing(application.url) as place,
            await place.connect() as sender,
        ):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            await sender.send(get("/", BINARY, CHUNKED, method="POST"))
            chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
            for _ in range(self.SIZE // 0x100000):
                await sender.send(chunk)
            await sender.send(b"0\r\n\r\n")
            assert (await sender.answer()).status == 200
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert taken == self.SIZE // 0x100000 * 0x100000
        assert grown < 40_000  # KiB

    async def test_an_application_that_does_not_read_is_not_sent_more(self) -> None:
        reading = asyncio.Event()

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await head_of(reader)
            await reading.wait()
            await gone(reader)

        async with talking(talk) as application, passing(application.url) as place:
            async with await place.connect() as sender:
                await sender.send(get("/", BINARY, f"Content-Length: {self.SIZE}", method="POST"))
                assert await self._sent_until_it_stops(sender.out) < 40_000_000
            reading.set()

    async def test_a_client_that_does_not_read_is_not_sent_more(self) -> None:
        sent: list[int] = []

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await head_of(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % self.SIZE)
            sent.append(await self._sent_until_it_stops(writer))

        async with (
            talking(talk) as application,
            passing(application.url) as place,
            await place.connect() as sender,
        ):
            await sender.send(get())
            assert (await until(lambda: sent))[0] < 40_000_000

    async def test_a_slow_client_gets_all_of_it(self) -> None:
        body = bytes(range(256)) * 40_000

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await head_of(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()

        async with (
            talking(talk) as application,
            passing(application.url) as place,
            await place.connect() as sender,
        ):
            await sender.send(get())
            await until(lambda: application.connections)
            await sender.reader.readuntil(b"\r\n\r\n")
            got = b""
            while len(got) < len(body):
                got += await sender.reader.read(300_000)
                await asyncio.sleep(0)
            assert got == body

    async def test_an_early_answer_reaches_who_is_still_sending(self) -> None:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await head_of(reader)
            await reader.readexactly(100_000)
            writer.write(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nno!")

        async with (
            talking(talk) as application,
            passing(application.url) as place,
            await place.connect() as sender,
        ):
            await sender.send(get("/", BINARY, f"Content-Length: {self.SIZE}", method="POST") + b"x" * 200_000)
            answer = await sender.answer()
            assert (answer.status, answer.body) == (413, b"no!")
            assert answer.header("connection") == ["close"]
        assert place.troubles == []

    async def _sent_until_it_stops(self, out: asyncio.StreamWriter) -> int:
        sent = 0
        while sent < self.SIZE:
            out.write(b"x" * 100_000)
            try:
                async with asyncio.timeout(1):
                    await out.drain()
            except TimeoutError:
                break
            sent += 100_000
        return sent


class TestRecording:
    async def test_a_robot_is_on_disk_before_the_application_has_it(self, raw: Raw) -> None:
        body = form.encode(ROBOT)
        raw.place.recording.clear()
        raw.server.answer = answer_with("200 OK", b"done", "X-Own: 1")
        async with await raw.place.connect() as sender:
            await sender.send(post(body, "/robot?x=1"))
            await until(lambda: raw.place.pass_through.under_way)
            assert raw.server.requests == []
            raw.place.recording.set()
            answer = await sender.answer()
        assert (answer.status, answer.body, answer.header("x-own")) == (200, b"done", ["1"])
        assert raw.server.requests[0].body == body
        [recording] = raw.place.recordings
        assert (recording.type, recording.body, recording.target) == ("robot", body, "/robot?x=1")
        attempt = await raw.place.attempt()
        assert attempt.recording == recording.id
        assert attempt.target == f"http://127.0.0.1:{raw.server.port}/robot?x=1"
        assert (attempt.cause, attempt.status, attempt.body, attempt.error) == ("forward", 200, b"done", None)
        assert ("X-Own", "1") in attempt.headers
        assert not attempt.truncated

    async def test_what_is_refused_goes_no_further(self, raw: Raw) -> None:
        raw.place.refuse = web.Response(status=403, text="no")
        answer = await raw.place.exchange(post(form.encode(ROBOT)))
        assert (answer.status, answer.body) == (403, b"no")
        assert raw.server.requests == []
        assert raw.place.attempts == []

    @pytest.mark.parametrize(
        ("fields", "target", "type"),
        [
            (PAGE, PAGE_QUERY, "page"),
            ({**PAGE, "PLACEMENT": "CRM_DEAL_DETAIL_TAB"}, PAGE_QUERY, "placement"),
            ({"event": "OnAppSettingsInstall", "auth": AUTH}, "/settings", "settings"),
            ({"event": "ONCRMDEALADD", "auth": AUTH}, "/handler", "event"),
        ],
    )
    async def test_each_type_is_told(self, raw: Raw, fields: dict[str, Any], target: str, type: str) -> None:
        await raw.place.exchange(post(form.encode(fields), target))
        assert [recording.type for recording in raw.place.recordings] == [type]
        assert raw.server.requests[0].body == form.encode(fields)

    async def test_what_is_opened_by_its_query_is_recorded_too(self, raw: Raw) -> None:
        target = f"{PAGE_QUERY}&{form.encode(PAGE).decode()}"
        await raw.place.exchange(get(target))
        await raw.place.exchange(get(target, BINARY, "Content-Length: 3", method="POST") + b"abc")
        assert [(recording.type, recording.body) for recording in raw.place.recordings] == [
            ("page", b""),
            ("page", b"abc"),
        ]
        assert [request.body for request in raw.server.requests] == [b"", b"abc"]

    async def test_what_is_the_application_s_own_is_not_recorded(self, raw: Raw) -> None:
        await raw.place.exchange(post(b"name=x&password=y"))
        await raw.place.exchange(get("/a.js?v=1"))
        await raw.place.exchange(
            get("/", "Content-Type: application/json", "Content-Length: 2", method="POST") + b"{}"
        )
        assert raw.place.recordings == []
        assert [request.body for request in raw.server.requests] == [b"name=x&password=y", b"", b"{}"]

    async def test_a_chunked_form_has_a_length_then(self, raw: Raw) -> None:
        body = form.encode(ROBOT)
        kind = "Content-Type: application/x-www-form-urlencoded"
        await raw.place.exchange(get("/", kind, CHUNKED, method="POST") + chunks(body, 50))
        request = raw.server.requests[0]
        assert request.header(b"content-length") == [b"%d" % len(body)]
        assert request.header(b"transfer-encoding") == []
        assert request.body == raw.place.recordings[0].body == body

    async def test_a_form_over_the_bound_is_refused_with_a_length_and_without(self, raw: Raw) -> None:
        body = b"event=ONCRMDEALADD&x=" + b"y" * MAX_BODY
        head = post(body).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        assert (await raw.place.conversation(head)).startswith(b"HTTP/1.1 413 ")
        kind = "Content-Type: application/x-www-form-urlencoded"
        said = await raw.place.conversation(get("/", kind, CHUNKED, method="POST") + chunks(body, 1 << 19))
        assert said.startswith(b"HTTP/1.1 413 ")
        assert raw.server.requests == []
        assert raw.place.recordings == []

    @pytest.mark.parametrize("padding", [b"&event_token=" + b"x" * 17_000, b"&a=1" * 20_001])
    async def test_padding_carries_nothing_past_the_check(self, raw: Raw, padding: bytes) -> None:
        said = await raw.place.conversation(post(b"event=ONCRMDEALADD&auth[domain]=x" + padding, "/", CLOSE))
        assert said.startswith(b"HTTP/1.1 413 ")
        assert raw.server.requests == []

    async def test_a_large_form_of_the_application_s_own_passes(self, raw: Raw) -> None:
        body = b"a=1&" * 30_000
        assert (await raw.place.exchange(post(body))).status == 200
        assert raw.server.requests[0].body == body

    async def test_a_chunked_body_of_no_type_is_streamed(self, raw: Raw) -> None:
        body = b"x" * (MAX_BODY + 1)
        said = await raw.place.conversation(get("/", CHUNKED, CLOSE, method="PUT") + chunks(body, 1 << 19))
        assert said.startswith(b"HTTP/1.1 200 ")
        assert unchunked(raw.server.requests[0].body) == body

    async def test_what_nobody_foresaw_is_noted(self, raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
        async def run(exchange: object) -> None:
            raise ValueError("x")

        monkeypatch.setattr("b24tunnel.pass_through_exchange.Exchange.run", run)
        assert (await raw.place.conversation(post(form.encode(ROBOT), "/", CLOSE))).startswith(b"HTTP/1.1 400 ")
        assert (await raw.place.attempt()).error == "given up: b24tunnel failed (ValueError)"
        assert [type(failure) for failure in raw.place.failures] == [ValueError]
        raw.place.failures.clear()

    async def test_a_form_that_waits_to_be_asked_for_is(self, raw: Raw) -> None:
        async with await raw.place.connect() as sender:
            head, _, body = post(form.encode(ROBOT), "/", "Expect: 100-continue").partition(b"\r\n\r\n")
            await sender.send(head + b"\r\n\r\n")
            assert (await sender.answer()).status == 100
            await sender.send(body)
            assert (await sender.answer()).status == 200
        assert raw.server.requests[0].header(b"expect") == []

    async def test_of_a_long_answer_the_beginning_is_kept(self, raw: Raw) -> None:
        page = b"0123456789abcdef" * 10_000
        raw.server.answer = answer_with("200 OK", page)
        assert (await raw.place.exchange(post(form.encode(PAGE), PAGE_QUERY))).body == page
        attempt = await raw.place.attempt()
        assert attempt.truncated
        assert attempt.body == page[: 64 * 1024]

    @pytest.mark.parametrize(
        ("answer", "error"),
        [
            (RESET, "connection reset: the handler cut it without a whole answer"),
            (b"", "connection closed: the handler hung up without an answer"),
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
                "connection closed: the handler's answer broke off",
            ),
            (b"nonsense\r\n\r\n", "no HTTP: "),
        ],
    )
    async def test_a_failure_is_an_attempt_with_an_error(self, raw: Raw, answer: bytes | None, error: str) -> None:
        await raw.answered(answer, post(form.encode(ROBOT)))
        attempt = await raw.place.attempt()
        assert attempt.status is None
        assert attempt.error is not None
        assert attempt.error.startswith(error)
        assert attempt.delivered

    async def test_an_application_that_is_away_has_not_seen_it(self) -> None:
        async with passing(f"http://127.0.0.1:{free_port()}") as place:
            assert (await place.conversation(post(form.encode(ROBOT), "/", CLOSE))).startswith(b"HTTP/1.1 502 ")
            attempt = await place.attempt()
            assert attempt.error == "cannot connect: connection refused"
            assert not attempt.delivered


class TestStopping:
    async def test_what_is_nearly_done_gets_done(self) -> None:
        answer = asyncio.Event()

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await head_of(reader)
            await answer.wait()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

        async with (
            talking(talk) as application,
            passing(application.url) as place,
            await place.connect() as sender,
        ):
            await sender.send(get())
            await until(lambda: application.connections)
            stopping = asyncio.create_task(place.pass_through.stop(DEADLINE))
            await asyncio.sleep(0)
            assert (await place.conversation(get("/", CLOSE))).startswith(b"HTTP/1.1 503 ")
            answer.set()
            assert (await sender.answer()).body == b"ok"
            await stopping

    async def test_what_takes_long_is_ended_and_noted(self) -> None:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await gone(reader)

        async with talking(talk) as application, passing(application.url) as place:
            async with await place.connect() as sender:
                await sender.send(post(form.encode(ROBOT)))
                await until(lambda: application.connections)
                await place.pass_through.stop(0.01)
                assert (await sender.answer()).status == 503
            assert ((await place.attempt()).error or "").startswith("interrupted: ")

    async def test_a_stream_nobody_reads_is_ended(self) -> None:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await head_of(reader)
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                writer.write(b"x" * 100_000)
                await writer.drain()

        async with (
            talking(talk) as application,
            passing(application.url) as place,
            await place.connect() as sender,
        ):
            await sender.send(get())
            await until(lambda: application.connections)
            await sender.reader.readuntil(b"\r\n\r\n")
            await place.stop()
            await until(lambda: application.ended)


@pytest.mark.parametrize(
    "url",
    ["localhost:8000", "ftp://x", "http://", "http://u:p@127.0.0.1/", "http://127.0.0.1/?a=1", "http://x:0/"],
)
def test_an_address_that_is_none_is_wrong_usage(url: str) -> None:
    with pytest.raises(WrongUsage):
        PassThrough(url, max_body=1, recorder=None)  # type: ignore[arg-type]


async def test_an_application_on_ipv6_and_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    async with talking(echo) as application, passing(f"http://localhost:{application.port}") as place:
        assert (await place.exchange(get("/x"))).body == b"/x"


class TestRealApplications:
    async def test_aiohttp_gets_what_the_official_sdk_takes_for_a_placement_and_a_robot(self) -> None:
        seen: list[dict[str, Any]] = []

        async def handle(request: web.Request) -> web.Response:
            seen.append({**request.query, **await request.post()})
            return web.Response(text="<p>framed</p>", content_type="text/html")

        application = web.Application()
        application.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        try:
            async with passing(f"http://127.0.0.1:{port}") as place:
                body = form.encode({**PAGE, "PLACEMENT": "CRM_DEAL_DETAIL_TAB", "PLACEMENT_OPTIONS": '{"ID":"7"}'})
                answer = await place.exchange(post(body, PAGE_QUERY))
                assert answer.body == b"<p>framed</p>"
                assert answer.header("x-frame-options") == []
                await place.exchange(post(form.encode(ROBOT), "/robot"))
        finally:
            await runner.cleanup()
        assert [recording.type for recording in place.recordings] == ["placement", "robot"]
        placement = OAuthPlacementData.from_dict(seen[0])
        assert (placement.placement, placement.placement_options) == ("CRM_DEAL_DETAIL_TAB", {"ID": "7"})
        robot = OAuthWorkflowData.from_dict(seen[1])
        assert robot.document_id == ["crm", "CCrmDocumentContact", "CONTACT_109286"]

    @pytest.mark.parametrize("here", [True, False])
    async def test_one_with_a_certificate_of_its_own(
        self, tmp_path: Path, here: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """On this machine nobody stands between; elsewhere the certificate has to be trusted."""
        monkeypatch.setattr("b24tunnel.pass_through_exchange.leads_to_this_machine", lambda url: here)
        server = await asyncio.start_server(echo_once, "127.0.0.1", 0, ssl=self_signed(tmp_path))
        async with server, passing(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}") as place:
            if here:
                assert (await place.exchange(get("/x"))).body == b"/x"
            else:
                assert (await place.conversation(get("/x"))).startswith(b"HTTP/1.1 502 ")
                assert "its TLS certificate is not trusted" in place.troubles[0]

    async def test_what_the_sandbox_sends_is_recognised_and_reaches_the_application_whole(self, raw: Raw) -> None:
        raw.server.answer = answer_with("200 OK", b'{"title":"x"}', "Content-Type: application/json")
        url = raw.place.url
        async with Sandbox(delay=0) as sandbox:
            assert (await sandbox.open_page(f"{url}/app")).body == b'{"title":"x"}'
            assert (await sandbox.open_page(f"{url}/tab?x=1", placement="CRM_DEAL_DETAIL_TAB")).status == 200
            for code in ("OnAppSettingsInstall", "OnAppSettingsChange"):
                wizard = await sandbox.run_settings_wizard(f"{url}/settings", code, {"country": "DE"})
                assert wizard.body == b'{"title":"x"}'
            robot = {"CODE": "mine", "HANDLER": f"{url}/robot", "NAME": "Mine"}
            await rest(sandbox, "bizproc.robot.add", **robot)
            sandbox.run_robot("mine", {"comment": "ж"})
            await sandbox.idle(DEADLINE)
        wanted = ["page", "placement", "settings", "settings", "robot"]
        assert [recording.type for recording in raw.place.recordings] == wanted
        requests = raw.server.requests
        assert [request.body for request in requests] == [recording.body for recording in raw.place.recordings]
        placement = requests[1].line.split(b" ")[1].partition(b"?")[2]
        OAuthPlacementData.from_dict({**form.parse(placement), **form.parse(requests[1].body)})  # type: ignore[dict-item]
        read = OAuthWorkflowData.from_dict(form.parse(requests[4].body))  # type: ignore[arg-type]
        assert read.properties == {"comment": "ж"}

    @pytest.mark.php
    async def test_php(self, programs: Programs) -> None:
        root = programs.directory / "app"
        root.mkdir()
        (root / "page.php").write_text(PHP_PAGE)
        address = f"127.0.0.1:{free_port()}"
        program = programs.start("php", "-n", "-S", address, "-t", str(root))
        await asyncio.to_thread(_wait_for, address, program)
        async with passing(f"http://{address}") as place:
            body = form.encode({**PAGE, "list": ["a b", "ж"]})
            answer = await place.exchange(post(body, "/page.php" + PAGE_QUERY.removeprefix("/app")))
            direct = await asyncio.to_thread(
                _ask, f"http://{address}/page.php{PAGE_QUERY.removeprefix('/app')}", body
            )
            seen = json.loads(answer.body) if answer.body else json.loads(unchunked(answer.body))
            assert seen == direct
            assert seen["post"]["list"] == ["a b", "ж"]
            assert answer.header("set-cookie") == ["a=1", "b=2"]
            moved = await place.exchange(get("/page.php?to=1"))
            assert (moved.status, moved.header("location")) == (302, ["/elsewhere"])
            part = b'--B\r\nContent-Disposition: form-data; name="f"; filename="f.bin"\r\n\r\n' + b"\xff" * 500_000
            part += b"\r\n--B--\r\n"
            kind = "Content-Type: multipart/form-data; boundary=B"
            upload = get("/page.php", kind, CHUNKED, CLOSE, method="POST") + chunks(part, 9999)
            assert json.loads((await place.conversation(upload)).partition(b"\r\n\r\n")[2])["file"] == 500_000
            assert (await place.exchange(get("/page.php", method="HEAD"), head_only=True)).status == 200
            assert (await place.exchange(get("/none.txt"))).status == 404
        assert [recording.type for recording in place.recordings] == ["page"]


PHP_PAGE = """<?php
header("Set-Cookie: a=1");
header("Set-Cookie: b=2", false);
if (isset($_GET["to"])) { header("Location: /elsewhere"); }
$text = json_encode(["get" => $_GET, "post" => $_POST, "file" => $_FILES["f"]["size"] ?? null]);
header("Content-Length: " . strlen($text));
echo $text;
"""


def _wait_for(address: str, program: Any) -> None:
    def answers() -> bool:
        assert program.process.poll() is None, str(program)
        try:
            with urllib.request.urlopen(f"http://{address}/page.php", timeout=5):
                return True
        except OSError:
            return False

    wait_until(answers, "php -S answers")


def _ask(url: str, body: bytes) -> Any:
    with urllib.request.urlopen(url, body, timeout=DEADLINE) as answer:
        return json.load(answer)

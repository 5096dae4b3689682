"""WebSockets go through as they are: what was negotiated, every frame, both directions, either side's end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import WSCloseCode, WSMsgType, web
from passing_through import Passing, get, gone, head_of, passing, talking
from receiving import DEADLINE
from waiting import until

HANDSHAKE = get(
    "/socket",
    "Connection: keep-alive, Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Protocol: b, a",
)
SWITCH = (
    b"HTTP/1.1 101 Web Socket Protocol Handshake\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
    b"Set-Cookie: a=1\r\n"
)
SWITCHED = b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCHING = SWITCH + b"Upgrade: WebSocket\r\nConnection: upgrade\r\n\r\n"


class Sockets:
    """A WebSocket application of aiohttp, which answers each message with the same, behind a pass-through."""

    def __init__(self) -> None:
        self.closed: list[int | None] = []
        self.pongs: list[bytes] = []
        self.open: list[web.WebSocketResponse] = []
        self.close_with: tuple[int, bytes] | None = None
        self.place: Passing
        self.client: aiohttp.ClientSession

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=("a", "c"), autoping=False, max_msg_size=64 * 1024 * 1024)
        await socket.prepare(request)
        self.open.append(socket)
        async for message in socket:
            if message.type == WSMsgType.TEXT and message.data == "close":
                assert self.close_with is not None
                await socket.close(code=self.close_with[0], message=self.close_with[1])
            elif message.type == WSMsgType.TEXT:
                await socket.send_str(message.data)
            elif message.type == WSMsgType.BINARY:
                await socket.send_bytes(message.data)
            elif message.type == WSMsgType.PING:
                await socket.pong(message.data)
            elif message.type == WSMsgType.PONG:
                self.pongs.append(bytes(message.data))
        self.closed.append(socket.close_code)
        return socket

    def connect(self, **options: object) -> aiohttp.client._WSRequestContextManager:
        return self.client.ws_connect(f"{self.place.url}/socket", **{"max_msg_size": 0, **options})  # type: ignore[arg-type]


@pytest.fixture
async def sockets() -> AsyncIterator[Sockets]:
    sockets = Sockets()
    application = web.Application()
    application.router.add_get("/socket", sockets.serve)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with (
            passing(f"http://127.0.0.1:{runner.addresses[0][1]}") as sockets.place,
            aiohttp.ClientSession() as sockets.client,
        ):
            yield sockets
    finally:
        await runner.cleanup()


async def test_text_and_binary_go_both_ways(sockets: Sockets) -> None:
    async with sockets.connect() as socket:
        for number in range(100):
            await socket.send_str(f"ж {number}")
            await socket.send_bytes(bytes([number]) * number)
        for number in range(100):
            assert await socket.receive_str(timeout=DEADLINE) == f"ж {number}"
            assert await socket.receive_bytes(timeout=DEADLINE) == bytes([number]) * number


async def test_pings_and_pongs_are_the_two_ends_own(sockets: Sockets) -> None:
    async with sockets.connect(autoping=False) as socket:
        await socket.ping(b"from the client")
        answer = await socket.receive(timeout=DEADLINE)
        assert (answer.type, bytes(answer.data)) == (WSMsgType.PONG, b"from the client")
        await sockets.open[0].ping(b"from the application")
        asked = await socket.receive(timeout=DEADLINE)
        assert (asked.type, bytes(asked.data)) == (WSMsgType.PING, b"from the application")
        await socket.pong(asked.data)
        await until(lambda: sockets.pongs == [b"from the application"])


@pytest.mark.parametrize("code", [1000, 1001, 1011, 4321])
async def test_the_client_s_code_reaches_the_application(sockets: Sockets, code: int) -> None:
    async with sockets.connect() as socket:
        await socket.close(code=code, message=b"why")
    await until(lambda: sockets.closed == [code])
    await until(lambda: sockets.place.pass_through.under_way == 0)


@pytest.mark.parametrize("code", [1000, 1012, 4000])
async def test_the_application_s_code_reaches_the_client(sockets: Sockets, code: int) -> None:
    sockets.close_with = (code, b"because")
    async with sockets.connect() as socket:
        await socket.send_str("close")
        closing = await socket.receive(timeout=DEADLINE)
        assert (closing.type, closing.data, closing.extra) == (WSMsgType.CLOSE, code, "because")
    await until(lambda: sockets.place.pass_through.under_way == 0)


async def test_what_the_two_negotiate_holds(sockets: Sockets) -> None:
    async with sockets.connect(protocols=("x", "c", "a"), compress=15) as socket:
        assert socket.protocol == "c"
        assert socket.compress == 15
        await socket.send_str("x" * 100_000)
        assert await socket.receive_str(timeout=DEADLINE) == "x" * 100_000
    async with sockets.connect() as socket:
        assert socket.protocol is None
        assert socket.compress == 0


async def test_a_large_message_goes_both_ways(sockets: Sockets) -> None:
    message = bytes(range(256)) * 65536
    async with sockets.connect() as socket:
        sending = asyncio.create_task(socket.send_bytes(message))
        assert await socket.receive_bytes(timeout=DEADLINE) == message
        await sending


async def test_twenty_sockets_keep_apart(sockets: Sockets) -> None:
    async def one(number: int) -> None:
        async with sockets.connect() as socket:
            for round in range(20):
                await socket.send_str(f"{number} {round}")
                assert await socket.receive_str(timeout=DEADLINE) == f"{number} {round}"

    await asyncio.gather(*map(one, range(20)))
    await until(lambda: sockets.place.pass_through.under_way == 0)


async def test_nothing_of_them_is_recorded_and_nothing_complained_of(sockets: Sockets) -> None:
    async with sockets.connect() as socket:
        await socket.send_str("event=ONCRMDEALADD")
        await socket.receive_str(timeout=DEADLINE)
    assert sockets.place.recordings == []
    assert sockets.place.troubles == []


async def test_stopping_ends_open_sockets_at_once(sockets: Sockets) -> None:
    async with sockets.connect() as socket:
        await socket.send_str("x")
        await socket.receive_str(timeout=DEADLINE)
        async with asyncio.timeout(DEADLINE):
            await sockets.place.pass_through.stop(10 * DEADLINE)
        assert (await socket.receive(timeout=DEADLINE)).type in (
            WSMsgType.CLOSED,
            WSMsgType.ERROR,
            WSMsgType.CLOSE,
        )
        assert socket.close_code == WSCloseCode.ABNORMAL_CLOSURE
    await until(lambda: sockets.closed)


async def test_the_handshake_goes_through_byte_for_byte() -> None:
    heads: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await head_of(reader))
        writer.write(SWITCHING + b"\x81\x02hi")  # with what comes at once
        writer.write(await reader.readexactly(9))
        await gone(reader)

    async with talking(talk) as application, passing(application.url) as place:
        async with await place.connect() as sender:
            await sender.send(HANDSHAKE + b"\x81\x83abcd")
            assert (await sender.answer()).head == SWITCH + SWITCHED
            async with asyncio.timeout(DEADLINE):
                assert await sender.reader.readexactly(4) == b"\x81\x02hi"
                await sender.send(b"\xff\0x")
                assert await sender.reader.readexactly(9) == b"\x81\x83abcd\xff\0x"
        await until(lambda: application.ended)
    wanted = HANDSHAKE.replace(b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n", b"")
    forwarded = b"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: hooks.example.org\r\n"
    assert heads == [wanted.removesuffix(b"\r\n") + forwarded + SWITCHED]


@pytest.mark.parametrize(
    "refusal",
    [
        b"HTTP/1.1 403 Forbidden\r\nX-Why: origin\r\nContent-Length: 3\r\n\r\nno!",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    ],
)
async def test_a_refusal_comes_back_as_it_is_and_the_connection_goes_on(refusal: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(refusal)

    async with talking(talk) as application, passing(application.url) as place, await place.connect() as sender:
        await sender.send(HANDSHAKE + get("/behind"))
        for _ in range(2):
            answer = await sender.answer()
            assert answer.head + answer.body == refusal
        assert application.connections == 2


async def test_one_that_asks_for_another_protocol_keeps_saying_so() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\n")
        writer.write(b"Connection: Upgrade\r\nContent-Length: 0\r\n\r\n")

    async with talking(talk) as application, passing(application.url) as place:
        answer = await place.exchange(get())
    assert (answer.status, answer.header("upgrade"), answer.header("connection")) == (
        426,
        ["websocket"],
        ["Upgrade"],
    )


@pytest.mark.parametrize(
    "answer", [SWITCH + b"Upgrade: h2c\r\nConnection: Upgrade\r\n\r\n", SWITCH + b"\r\n"], ids=["another", "none"]
)
async def test_a_switch_to_something_else_is_a_failure(answer: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(answer)
        await gone(reader)

    async with talking(talk) as application, passing(application.url) as place:
        assert (await place.conversation(HANDSHAKE)).startswith(b"HTTP/1.1 502 ")


@pytest.mark.parametrize(
    "asking",
    [
        HANDSHAKE.replace(b"HTTP/1.1", b"HTTP/1.0"),
        HANDSHAKE.replace(b"GET ", b"POST ").replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\nabc"),
        HANDSHAKE.replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\nabc"),
        HANDSHAKE.replace(b"Upgrade: websocket", b"Upgrade: h2c"),
        HANDSHAKE.replace(b"keep-alive, Upgrade", b"keep-alive"),
    ],
    ids=["old client", "with a body", "a GET with a body", "another protocol", "in one header only"],
)
async def test_what_is_no_such_request_is_an_ordinary_one(asking: bytes) -> None:
    heads: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await head_of(reader))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with talking(talk) as application, passing(application.url) as place, await place.connect() as sender:
        await sender.send(asking)
        assert (await sender.answer()).body == b"ok"
    assert b"upgrade" not in heads[0].lower()
    assert b"\r\nConnection: close\r\n" in heads[0]


async def test_a_client_that_dies_takes_the_application_s_connection_with_it() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(SWITCHING)
        await gone(reader)

    async with talking(talk) as application, passing(application.url) as place:
        async with await place.connect() as sender:
            await sender.send(HANDSHAKE)
            await sender.answer()
            sender.out.transport.abort()
            await until(lambda: application.ended)
        await until(lambda: place.pass_through.under_way == 0)


async def test_what_the_client_sent_before_its_end_still_arrives() -> None:
    got = b""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal got
        await head_of(reader)
        writer.write(SWITCHING)
        got = await reader.read()

    async with (
        talking(talk) as application,
        passing(application.url) as place,
        await place.connect() as sender,
    ):
        await sender.send(HANDSHAKE)
        await sender.answer()
        await sender.send(b"\x82\x7e" + b"x" * 50_000)
        sender.out.close()
        await until(lambda: application.ended)
    assert got == b"\x82\x7e" + b"x" * 50_000


@pytest.mark.parametrize("abrupt", [True, False])
async def test_an_application_that_dies_takes_the_client_s_connection_with_it(abrupt: bool) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(SWITCHING + b"\x81\x02hi")
        await reader.readexactly(1)
        if abrupt:
            writer.transport.abort()

    async with talking(talk) as application, passing(application.url) as place, await place.connect() as sender:
        await sender.send(HANDSHAKE)
        await sender.answer()
        await sender.send(b"!")
        assert (await sender.rest()) == b"\x81\x02hi"
        await until(lambda: place.pass_through.under_way == 0)


async def test_a_socket_on_which_nothing_moves_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("b24tunnel.pass_through_exchange.IDLE_SECONDS", 1.0)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(SWITCHING)
        for _ in range(15):  # for longer than that, but never silent for so long
            writer.write(b"\x81\x00")
            await asyncio.sleep(0.1)
        await gone(reader)

    async with talking(talk) as application, passing(application.url) as place, await place.connect() as sender:
        await sender.send(HANDSHAKE)
        await sender.answer()
        assert await sender.rest() == b"\x81\x00" * 15
        await until(lambda: application.ended)


SIZE = 100_000_000


async def sent_until_it_stops(out: asyncio.StreamWriter) -> int:
    sent = 0
    while sent < SIZE:
        out.write(b"x" * 100_000)
        try:
            async with asyncio.timeout(1):
                await out.drain()
        except TimeoutError:
            break
        sent += 100_000
    return sent


async def test_an_application_that_does_not_read_is_not_sent_more() -> None:
    done = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(SWITCHING)
        await done.wait()

    async with talking(talk) as application, passing(application.url) as place:
        async with await place.connect() as sender:
            await sender.send(HANDSHAKE)
            await sender.answer()
            assert await sent_until_it_stops(sender.out) < 40_000_000
        done.set()
        await until(lambda: place.pass_through.under_way == 0)


async def test_a_client_that_does_not_read_is_not_sent_more_and_cannot_hold_up_the_end() -> None:
    sent: list[int] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(SWITCHING)
        sent.append(await sent_until_it_stops(writer))
        await gone(reader)

    async with (
        talking(talk) as application,
        passing(application.url) as place,
        await place.connect() as sender,
    ):
        await sender.send(HANDSHAKE)
        assert (await until(lambda: sent))[0] < 40_000_000
        await place.pass_through.stop(0.1)
        await until(lambda: application.ended)


async def test_a_slow_client_gets_all_that_was_said_before_the_end() -> None:
    said = bytes(range(256)) * 20_000

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(SWITCHING + said)
        with contextlib.suppress(ConnectionError):
            await writer.drain()

    async with talking(talk) as application, passing(application.url) as place, await place.connect() as sender:
        await sender.send(HANDSHAKE)
        await sender.answer()
        got = b""
        async with asyncio.timeout(DEADLINE):
            while piece := await sender.reader.read(50_000):
                got += piece
                await asyncio.sleep(0)
        assert got == said

"""The public listener over real sockets: recorded and synced first, answered second, and nothing else there."""

import asyncio
import errno
import gzip
import socket
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from held_disk import Disk
from programs import Programs, wait_until
from raw_cases import RAW_CASES, RawCase

from b24tunnel import bodies, form
from b24tunnel.errors import OutsideFailure
from b24tunnel.journal import Journal, JournalWriter
from b24tunnel.origin import Origin
from b24tunnel.receiver import Receiver
from b24tunnel.recording import Recording

DEADLINE = 20.0
SEGMENT = "an-unguessable-segment"
PATH = f"/b24/{SEGMENT}"
TOKEN = "b928r5nj59sw5k7h4m7vwef9zyd3c0ii"


class Answer(NamedTuple):
    status: int
    head: bytes
    body: bytes


class Place:
    """A receiver that listens, its journal, and what it complained of."""

    def __init__(self, directory: Path, journal: JournalWriter, options: dict[str, Any]) -> None:
        self.directory = directory
        self.troubles: list[str] = []
        self.receiver = Receiver(journal, SEGMENT, on_trouble=self.troubles.append, **options)

    def recordings(self) -> list[Recording]:
        return list(Journal.open(self.directory).recordings())

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.receiver.port)

    async def exchange(self, request: bytes, *, head: bool = False) -> Answer:
        """Send these bytes, hang nothing up, and read one answer."""
        reader, out = await self.connect()
        try:
            out.write(request)
            async with asyncio.timeout(DEADLINE):
                return await read_answer(reader, head=head)
        finally:
            out.close()

    async def post(self, body: bytes = b"event=ONCRMDEALADD", path: str = PATH) -> Answer:
        return await self.exchange(post_of(body, path))


def post_of(body: bytes, path: str = PATH, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: hooks.example.org", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def read_answer(reader: asyncio.StreamReader, *, head: bool = False) -> Answer:
    top = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in top.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    body = b"" if head else await reader.readexactly(length)
    return Answer(int(top.split(b" ")[1]), top, body)


@pytest.fixture
async def start(tmp_path: Path, disk: Disk) -> AsyncIterator[Callable[..., Any]]:
    """Starts a receiver with the options given."""
    journal = JournalWriter(tmp_path)
    places: list[Place] = []

    async def starting(**options: Any) -> Place:
        place = Place(tmp_path, journal, options)
        places.append(place)
        await place.receiver.start()
        return place

    yield starting
    disk.gate.set()
    disk.failures.clear()
    for place in places:
        await place.receiver.stop(0.1)
    await journal.close()


@pytest.fixture
async def place(start: Callable[..., Any]) -> Place:
    started: Place = await start()
    return started


class TestTheOrderOfThings:
    async def test_a_delivery_is_answered_200_with_nothing_in_it(self, place: Place) -> None:
        answer = await place.post()
        assert (answer.status, answer.body) == (200, b"")
        assert place.receiver.recorded == 1

    async def test_there_is_no_answer_before_the_sync(self, place: Place, disk: Disk) -> None:
        disk.shut()
        reader, out = await place.connect()
        out.write(post_of(b"event=ONCRMDEALADD"))
        await disk.reached()
        reading = asyncio.create_task(read_answer(reader))
        # While the sync hangs, other requests are served to their end: the loop had time for this one too.
        for _ in range(5):
            assert (await place.post(path="/elsewhere")).status == 404
        assert not reading.done()
        disk.gate.set()
        async with asyncio.timeout(DEADLINE):
            assert (await reading).status == 200
        out.close()

    async def test_a_sender_that_hangs_up_during_the_sync_is_recorded_all_the_same(
        self, place: Place, disk: Disk
    ) -> None:
        disk.shut()
        _, out = await place.connect()
        out.write(post_of(b"event=ONCRMDEALADD"))
        await disk.reached()
        out.transport.abort()
        assert (await place.post(path="/elsewhere")).status == 404
        disk.gate.set()
        assert (await place.post(b"event=ONCRMLEADADD")).status == 200
        assert [one.code for one in place.recordings()] == ["ONCRMDEALADD", "ONCRMLEADADD"]

    async def test_several_deliveries_on_one_connection_are_each_recorded(self, place: Place) -> None:
        reader, out = await place.connect()
        for number in range(3):
            out.write(post_of(b"n=%d" % number))
            async with asyncio.timeout(DEADLINE):
                assert (await read_answer(reader)).status == 200
        out.close()
        assert [one.body for one in place.recordings()] == [b"n=0", b"n=1", b"n=2"]

    async def test_many_at_once_are_all_recorded(self, place: Place) -> None:
        answers = await asyncio.gather(*(place.post(b"n=%d" % number) for number in range(100)))
        assert {answer.status for answer in answers} == {200}
        assert {one.body for one in place.recordings()} == {b"n=%d" % number for number in range(100)}
        assert place.receiver.recorded == 100


class TestWhatIsKept:
    @pytest.mark.parametrize("case", RAW_CASES, ids=lambda case: case.name)
    async def test_a_real_delivery_is_kept_byte_for_byte(self, place: Place, case: RawCase) -> None:
        before = datetime.now(UTC)
        assert (await place.post(case.body)).status == 200
        [kept] = place.recordings()
        assert (kept.body, kept.code, kept.method, kept.target) == (case.body, case.event, "POST", PATH)
        assert kept.remote == "127.0.0.1"
        assert kept.source == "tunnel"
        assert before - timedelta(seconds=1) <= kept.received_at <= datetime.now(UTC)

    async def test_headers_keep_their_order_spelling_and_duplicates(self, place: Place) -> None:
        head = (
            f"POST {PATH} HTTP/1.1\r\nhOsT: a.example\r\nX-Twice: 1\r\nUSER-AGENT: Bitrix24 Webhook Engine\r\n"
            "x-twice: 2\r\nX-Empty:\r\nX-Twice: 1\r\nContent-Length: 3\r\n"
        )
        request = head.encode() + b"X-Bytes: \xcd\xee\r\nX-Text: \xd0\xbb\r\n\r\na=1"
        assert (await place.exchange(request)).status == 200
        [kept] = place.recordings()
        assert kept.headers == (
            ("hOsT", "a.example"),
            ("X-Twice", "1"),
            ("USER-AGENT", "Bitrix24 Webhook Engine"),
            ("x-twice", "2"),
            ("X-Empty", ""),
            ("X-Twice", "1"),
            ("Content-Length", "3"),
            ("X-Bytes", "\udccd\udcee"),
            ("X-Text", "л"),
        )

    @pytest.mark.parametrize("target", ["?", "?event=A&b=%zz+%20[x]", "/", "/?a=1", "?a=/b?c=d"])
    async def test_the_target_is_kept_as_it_was_asked_for(self, place: Place, target: str) -> None:
        assert (await place.post(path=PATH + target)).status == 200
        [kept] = place.recordings()
        assert kept.target == PATH + target

    @pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "REPORT"])
    async def test_any_method_is_a_delivery(self, place: Place, method: str) -> None:
        request = f"{method} {PATH}?event=ONX HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\na=1"
        assert (await place.exchange(request.encode())).status == 200
        [kept] = place.recordings()
        assert (kept.method, kept.code, kept.body) == (method, "ONX", b"a=1")

    async def test_a_head_request_is_a_delivery_too(self, place: Place) -> None:
        answer = await place.exchange(f"HEAD {PATH} HTTP/1.1\r\nHost: h\r\n\r\n".encode(), head=True)
        assert answer.status == 200
        assert [one.method for one in place.recordings()] == ["HEAD"]

    async def test_http_1_0_is_kept_as_such(self, place: Place) -> None:
        assert (
            await place.exchange(f"POST {PATH} HTTP/1.0\r\nContent-Length: 3\r\n\r\na=1".encode())
        ).status == 200
        [kept] = place.recordings()
        assert (kept.http_version, kept.body) == ("1.0", b"a=1")

    @pytest.mark.parametrize("encoding", ["gzip", "deflate", "br"])
    async def test_a_compressed_body_stays_compressed(self, place: Place, encoding: str) -> None:
        body = gzip.compress(b"event=ONCRMDEALADD")
        request = post_of(body, PATH, f"Content-Encoding: {encoding}")
        assert (await place.exchange(request)).status == 200
        assert [one.body for one in place.recordings()] == [body]

    async def test_a_body_in_chunks_is_put_together(self, place: Place) -> None:
        head = f"POST {PATH} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        assert (await place.exchange(head + b"3\r\na=1\r\n4;x=y\r\n&b=2\r\n0\r\n\r\n")).status == 200
        assert [one.body for one in place.recordings()] == [b"a=1&b=2"]

    async def test_a_body_that_comes_slowly_is_read_to_its_end(self, place: Place) -> None:
        reader, out = await place.connect()
        for octet in post_of(b"event=A"):
            out.write(bytes([octet]))
            await out.drain()
            await asyncio.sleep(0)
        async with asyncio.timeout(DEADLINE):
            assert (await read_answer(reader)).status == 200
        out.close()
        assert [one.body for one in place.recordings()] == [b"event=A"]

    async def test_the_name_of_the_portal_is_noted(self, start: Callable[..., Any]) -> None:
        place = await start(portal="mine")
        await place.post()
        assert [one.portal for one in place.recordings()] == ["mine"]


class TestVerdicts:
    @pytest.mark.parametrize(
        ("known", "body", "verdict"),
        [
            (TOKEN, f"event=A&auth[application_token]={TOKEN}", "verified"),
            (TOKEN, f"event=A&auth[application_token]={TOKEN}x", "mismatched"),
            (TOKEN, f"event=A&auth[application_token]={TOKEN[:-1]}", "mismatched"),
            (TOKEN, "event=A&auth[application_token]=", "mismatched"),
            (TOKEN, "event=A&auth[application_token]=%FF", "mismatched"),
            (TOKEN, "event=A", "mismatched"),
            (TOKEN, "event=A&auth[application_token][]=x", "mismatched"),
            (TOKEN, f"event=A&application_token={TOKEN}", "mismatched"),
            (None, f"event=A&auth[application_token]={TOKEN}", "unverified"),
        ],
    )
    async def test_the_application_token_proves_the_origin(
        self, start: Callable[..., Any], known: str | None, body: str, verdict: str
    ) -> None:
        place = await start(origin=Origin(known))
        assert (await place.post(body.encode())).status == (403 if verdict == "mismatched" else 200)
        assert [(one.verdict, one.code) for one in place.recordings()] == [(verdict, "A")]

    async def test_a_body_beyond_the_codecs_bound_is_kept_unjudged(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(form, "MAX_PARAMETERS", 2)
        body = b"event=A&event[]=1&event[]=2"
        assert (await place.post(body)).status == 200
        [kept] = place.recordings()
        assert (kept.body, kept.code, kept.verdict) == (body, None, "unverified")


class TestRefusals:
    @pytest.mark.parametrize(
        "path",
        [
            "/",
            "/b24",
            "/b24/",
            "/b24/another",
            f"{PATH}x",
            f"{PATH}/more",
            f"/{PATH}",
            f"/B24/{SEGMENT}",
            f"/b24/{SEGMENT.upper()}",
            f"/b24/%61{SEGMENT[1:]}",
            f"/x?{PATH}",
            "/" + "я" * 10,
        ],
    )
    async def test_nothing_is_elsewhere_and_nothing_is_recorded(self, place: Place, path: str) -> None:
        answer = await place.post(path=path)
        assert answer.status in (404, 400 if not path.isascii() else 404)
        assert SEGMENT.encode() not in answer.head + answer.body
        assert place.recordings() == []
        assert place.receiver.recorded == 0

    async def test_a_declared_length_over_the_bound_is_413_before_the_body_is_sent(
        self, start: Callable[..., Any]
    ) -> None:
        place = await start(max_body=10)
        head = f"POST {PATH} HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\n\r\n".encode()
        answer = await place.exchange(head)
        assert answer.status == 413
        assert answer.body == b"A body may have at most 10 bytes here.\n"
        assert place.recordings() == []
        assert len(place.troubles) == 1
        assert "413" in place.troubles[0]
        assert "--max-body" in place.troubles[0]

    async def test_a_length_of_many_digits_is_413_too(self, place: Place) -> None:
        head = f"POST {PATH} HTTP/1.1\r\nHost: h\r\nContent-Length: 18446744073709551615\r\n\r\n".encode()
        assert (await place.exchange(head)).status in (400, 413)
        assert place.recordings() == []

    async def test_a_body_in_chunks_over_the_bound_is_413(self, start: Callable[..., Any]) -> None:
        place = await start(max_body=10)
        head = f"POST {PATH} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        answer = await place.exchange(head + b"6\r\naaaaaa\r\n5\r\nbbbbb\r\n")
        assert answer.status == 413
        assert place.recordings() == []

    async def test_a_body_of_exactly_the_bound_is_recorded(self, start: Callable[..., Any]) -> None:
        place = await start(max_body=10)
        assert (await place.post(b"0123456789")).status == 200
        assert [one.body for one in place.recordings()] == [b"0123456789"]

    async def test_the_next_delivery_after_a_413_is_recorded(self, start: Callable[..., Any]) -> None:
        place = await start(max_body=10)
        assert (await place.post(b"x" * 100_000)).status == 413
        assert (await place.post(b"a=1")).status == 200
        assert [one.body for one in place.recordings()] == [b"a=1"]

    async def test_what_could_not_be_written_is_503_and_the_next_one_goes_through(
        self, place: Place, disk: Disk
    ) -> None:
        disk.failures = [OSError(errno.ENOSPC, "No space left on device")]
        answer = await place.post(b"n=1")
        assert answer.status == 503
        assert answer.body == b"The delivery could not be written to disk, so it was not accepted.\n"
        assert [trouble for trouble in place.troubles if "503" in trouble and "No space left" in trouble]
        assert (await place.post(b"n=2")).status == 200
        assert [one.body for one in place.recordings()] == [b"n=2"]
        assert place.receiver.recorded == 1

    async def test_a_body_that_does_not_arrive_is_408(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bodies, "BODY_SECONDS", 0.05)
        assert (await place.exchange(post_of(b"a=1")[:-1])).status == 408
        assert place.recordings() == []


class TestOnTheOpenInternet:
    async def test_a_sender_that_waits_for_100_continue_is_told_to_go_on(self, place: Place) -> None:
        # RFC 9110 §10.1.1: the server must answer 100 or a final status; curl, thus PHP's, asks for it.
        reader, out = await place.connect()
        request = post_of(b"event=ONCRMDEALADD", PATH, "Expect: 100-continue")
        head, _, body = request.partition(b"\r\n\r\n")
        out.write(head + b"\r\n\r\n")
        # Whatever comes after it is served by the same loop, so an answer to the first would be there by then.
        for _ in range(5):
            await place.post(path="/elsewhere")
        try:
            async with asyncio.timeout(2):
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
            out.write(body)
            async with asyncio.timeout(DEADLINE):
                assert (await read_answer(reader)).status == 200
        finally:
            out.close()
        assert [one.body for one in place.recordings()] == [body]

    @pytest.mark.parametrize(
        "noise",
        [
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"nonsense\r\n\r\n",
            f"POST {PATH} HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n".encode(),
            f"POST {PATH} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".encode(),
            b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
            post_of(b"event=ONCRMDEALADD")[:-5],
        ],
        ids=["tls", "words", "length", "chunk", "huge header", "half a body"],
    )
    async def test_noise_is_no_delivery(self, place: Place, noise: bytes) -> None:
        reader, out = await place.connect()
        out.write(noise)
        out.write_eof()
        async with asyncio.timeout(DEADLINE):
            answer = await reader.read()
        out.close()
        assert b" 200 " not in answer.partition(b"\r\n")[0]
        assert b"Traceback" not in answer
        assert (await place.post(b"a=1")).status == 200
        assert [one.body for one in place.recordings()] == [b"a=1"]
        assert place.troubles == []

    async def test_a_sender_that_hangs_up_in_the_middle_of_its_body_is_no_error_of_ours(
        self, place: Place
    ) -> None:
        _, out = await place.connect()
        out.write(post_of(b"event=ONCRMDEALADD")[:-5])
        await out.drain()
        assert (await place.post(path="/elsewhere")).status == 404
        out.transport.abort()
        for number in range(3):
            assert (await place.post(b"n=%d" % number)).status == 200
        assert [one.body for one in place.recordings()] == [b"n=0", b"n=1", b"n=2"]
        assert place.troubles == []

    async def test_noise_and_senders_that_hang_up_are_nothing_on_the_terminal(
        self, programs: Programs, tmp_path: Path
    ) -> None:
        program = programs.start(sys.executable, "-c", _RECEIVES, str(tmp_path), SEGMENT)
        port = int(await asyncio.to_thread(lambda: wait_until(lambda: program.lines, "it listens")[0]))
        for request in (
            f"POST {PATH} HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n".encode(),
            b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        ):
            reader, out = await asyncio.open_connection("127.0.0.1", port)
            out.write(request)
            async with asyncio.timeout(DEADLINE):
                assert (await reader.readline()).split()[1] == b"400"
            out.close()
        _, out = await asyncio.open_connection("127.0.0.1", port)
        out.write(post_of(b"event=ONCRMDEALADD")[:-5])
        await out.drain()
        # An answer to a later request shows that the earlier one is being read by now.
        for step in (out.transport.abort, lambda: None):
            reader, other = await asyncio.open_connection("127.0.0.1", port)
            other.write(post_of(b"", "/elsewhere"))
            async with asyncio.timeout(DEADLINE):
                assert (await read_answer(reader)).status == 404
            other.close()
            step()
        assert await asyncio.to_thread(program.stop) == 0
        assert program.errors == []


_RECEIVES = """
import asyncio, signal, sys
from pathlib import Path
from b24tunnel.journal import JournalWriter
from b24tunnel.receiver import Receiver

async def main():
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, over.set)
    writer = JournalWriter(Path(sys.argv[1]))
    receiver = Receiver(writer, sys.argv[2])
    print(await receiver.start(), flush=True)
    await over.wait()
    await receiver.stop()
    await writer.close()

asyncio.run(main())
"""


class TestStartAndStop:
    async def test_a_port_that_is_taken_is_told_plainly(self, place: Place, tmp_path: Path) -> None:
        journal = JournalWriter(tmp_path)
        second = Receiver(journal, SEGMENT)
        with pytest.raises(OutsideFailure, match=r"Cannot listen on 127\.0\.0\.1:\d+ .*--port"):
            await second.start(port=place.receiver.port)
        await second.stop()
        await journal.close()

    @pytest.mark.parametrize(
        ("host", "port"), [("127.0.0.1", 70_000), ("192.0.2.1", 0), ("no.such.host.invalid", 0)]
    )
    async def test_an_address_that_is_not_ours_is_told_plainly(self, tmp_path: Path, host: str, port: int) -> None:
        journal = JournalWriter(tmp_path)
        with pytest.raises(OutsideFailure, match="Cannot listen on"):
            await Receiver(journal, SEGMENT).start(host, port)
        await journal.close()

    async def test_stopping_finishes_the_deliveries_under_way(self, place: Place, disk: Disk) -> None:
        disk.shut()
        reader, out = await place.connect()
        out.write(post_of(b"event=ONCRMDEALADD"))
        await disk.reached()
        stopping = asyncio.create_task(place.receiver.stop(DEADLINE))
        await asyncio.sleep(0)
        disk.gate.set()
        async with asyncio.timeout(DEADLINE):
            assert (await read_answer(reader)).status == 200
            await stopping
        out.close()
        assert len(place.recordings()) == 1

    async def test_nobody_listens_afterwards_and_stopping_twice_is_fine(self, place: Place) -> None:
        port = place.receiver.port
        await place.receiver.stop()
        await place.receiver.stop()
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0

    async def test_it_stops_though_a_sender_keeps_its_connection(self, place: Place) -> None:
        reader, out = await place.connect()
        out.write(post_of(b"a=1"))
        await read_answer(reader)
        async with asyncio.timeout(DEADLINE):
            await place.receiver.stop()
            assert await reader.read() == b""
        out.close()

"""The public side under attack: one path answers, nothing is executed or revealed, and nothing grows or stops."""

import contextlib
import gzip
import re
import threading
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from listening import MEBIBYTE, listening, memory_of, recorded_bodies, status_of
from programs import Program, Programs, wait_until
from raw_server import RawServer, deliver, delivery, exchange
from receiving import DEADLINE, PATH, SEGMENT, Place, post, receiving, request

from b24tunnel import bodies, forward
from b24tunnel.event import Event
from b24tunnel.journal import writer
from b24tunnel.origin import Origin
from b24tunnel.recording import Recording

CHUNKED = "Transfer-Encoding: chunked"
SMUGGLED = post(b"event=SMUGGLED")
TOKEN = "b928r5nj59sw5k7h4m7vwef9zyd3c0ii"
# Another sender waits for its answer at most this long, whatever anybody sends.
PATIENCE = 5.0


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with receiving(tmp_path) as started:
        yield started


@pytest.fixture
async def knowing(tmp_path: Path) -> AsyncIterator[Place]:
    """A receiver that knows the portal's token."""
    async with receiving(tmp_path, origin=Origin(TOKEN), portal="mine") as started:
        yield started


async def still_there(place: Place) -> None:
    """It takes a delivery, and nothing else was recorded or told as a trouble."""
    assert (await place.exchange(post(b"event=AFTER"))).status == 200
    assert place.bodies() == [b"event=AFTER"]
    assert place.troubles == []


class TestPaths:
    @pytest.mark.parametrize(
        "target",
        [
            f"{PATH}/../../etc/passwd",
            f"{PATH}/../{SEGMENT}",
            f"/b24/../b24/{SEGMENT}",
            f"/b24/./{SEGMENT}",
            f"/b24/%2e%2e/b24/{SEGMENT}",
            f"/b24//{SEGMENT}",
            f"/b24%2f{SEGMENT}",
            f"/b24\\{SEGMENT}",
            f"{PATH}\\..\\..",
            f"{PATH};jsessionid=1",
            f"{PATH}%00",
            f"{PATH}%20",
            f"{PATH}#fragment",
            f"{PATH}.php",
            f"/x/..{PATH}",
            "/%ff%fe",
            "/" + "../" * 1000 + "etc/passwd",
            "/.git/config",
            "/.env",
            "/recordings/journal/handler-path",
            "/?/../../",
            "/" + "a" * 60_000,
        ],
    )
    async def test_one_that_is_not_exactly_the_handlers_is_404(self, place: Place, target: str) -> None:
        answer = await place.exchange(post(b"event=EVIL", target))
        assert (answer.status, answer.body) == (404, b"There is nothing here.\n")
        await still_there(place)

    @pytest.mark.parametrize(
        "target",
        [
            PATH.encode() + b"\0",
            b"/\xff\xfe",
            PATH.encode() + b"?\xff\xfe",
            b"\\b24\\" + SEGMENT.encode(),
            PATH.encode()[1:],
            b"*",
            b"",
            PATH.encode() + b" x",
            PATH.encode() + b"\t",
        ],
    )
    async def test_one_that_is_no_target_is_no_request(self, place: Place, target: bytes) -> None:
        async with await place.connect() as sender:
            await sender.send(post(b"event=EVIL", target))
            assert (await sender.first_line()).split()[1:2] in ([b"400"], [b"404"], [])
        await still_there(place)

    @pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "PUT", "TRACE", "PROPFIND"])
    async def test_there_is_nothing_else_on_the_public_side(self, place: Place, method: str) -> None:
        paths = ["/", "/b24", "/b24/", "/api", "/inspector", "/inspect", "/metrics", "/health", "/favicon.ico"]
        paths += ["/oauth", "/static/", "/robots.txt", "/recordings", "/journal", "/.well-known/security.txt"]
        for path in paths:
            answer = await place.exchange(request(path, "Content-Length: 0", method=method))
            assert (answer.status, answer.body) == (404, b"There is nothing here.\n"), path
        await still_there(place)

    async def test_a_near_miss_is_answered_as_a_far_one(self, place: Place) -> None:
        def undated(head: bytes) -> list[bytes]:
            return [line for line in head.split(b"\r\n") if not line.lower().startswith(b"date:")]

        answers = [
            await place.exchange(post(b"event=EVIL", target))
            for target in ("/", PATH[:-1], PATH + "x", "/b24/" + "x" * len(SEGMENT), "/" + "x" * 5000)
        ]
        assert len({(tuple(undated(answer.head)), answer.body) for answer in answers}) == 1
        await still_there(place)

    async def test_connect_to_another_host_is_no_proxy(self, place: Place) -> None:
        async with await place.connect() as sender:
            await sender.send(request("127.0.0.1:22", method="CONNECT") + b"SSH-2.0-x\r\n")
            assert (await sender.first_line()).split()[1:2] in ([b"400"], [b"404"], [b"405"], [])
        await still_there(place)


class TestOtherProtocols:
    @pytest.mark.parametrize(
        "hello",
        [
            b"\x16\x03\x01\x00\xf4\x01\x00\x00\xf0\x03\x03" + bytes(range(32)) + b"\x20" * 200,
            b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
            b"EHLO mail.example.org\r\n",
            b"USER anonymous\r\n",
            b"* OK IMAP4rev1\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\x04\0\0\0\0\0",
            b"\x05\x01\x00",
            b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00",
            b"*1\r\n$4\r\nPING\r\n",
            b"\x03\x00\x00\x13\x0e\xe0\x00\x00\x00\x00\x00\x01\x00\x08\x00\x03\x00\x00\x00",
            b"OPTIONS sip:x SIP/2.0\r\nVia: SIP/2.0/TCP x\r\n\r\n",
            b"OPTIONS rtsp://x RTSP/1.0\r\nCSeq: 1\r\n\r\n",
            b"get / http/1.1\r\nhost: x\r\n\r\n",
            b"POST " + PATH.encode() + b" HTTP/1.2\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
            bytes(range(256)) * 16,
            b"\0" * 4096,
        ],
        ids=lambda hello: repr(hello[:12]),
    )
    async def test_it_is_refused_and_the_connection_ended(self, place: Place, hello: bytes) -> None:
        answer = await place.conversation(hello)
        assert answer == b"" or answer.split()[1] in (b"400", b"404")
        assert b"Traceback" not in answer
        await still_there(place)


class TestSmuggling:
    @pytest.mark.parametrize(
        "head",
        [
            ("Content-Length: 5", CHUNKED),
            (CHUNKED, "Content-Length: 5"),
            ("Content-Length: 5", "Content-Length: 6"),
            ("Content-Length: 5", "Content-Length: 5"),
            ("Content-Length: 5, 5",),
            ("Content-Length: -1",),
            ("Content-Length: +5",),
            ("Content-Length: 0x5",),
            ("Content-Length: 5 5",),
            ("Content-Length: 5e0",),
            ("Content-Length: ",),
            ("Content-Length: 18446744073709551621",),
            ("Content-Length: " + "9" * 5000,),
            ("Content-Length : 5",),
            ("Content-Length: 5\x0b",),
            ("Content-Length: \u0665".encode(),),  # an Arabic five
            ("Transfer-Encoding : chunked",),
            ("Transfer-Encoding: xchunked",),
            ("Transfer-Encoding: chunked, identity",),
            ("Transfer-Encoding: chunked, chunked",),
            ("Transfer-Encoding: identity",),
            ("Transfer-Encoding: chunked\x0b",),
            (CHUNKED, "Transfer-Encoding: identity"),
            (CHUNKED, CHUNKED),
            (" Content-Length: 5",),
            ("X-Fold: a\r\n Content-Length: 5",),
            ("X-Fold: a\r\n\tTransfer-Encoding: chunked",),
            ("X-No-Colon",),
            (": nameless",),
            ("Host: other.example",),
        ],
        ids=lambda head: str(b" | ".join(h if isinstance(h, bytes) else h.encode() for h in head))[2:50],
    )
    async def test_a_head_that_can_be_read_in_two_ways_is_read_in_none(
        self, place: Place, head: tuple[str | bytes, ...]
    ) -> None:
        answer = await place.conversation(request(PATH, *head) + b"0\r\n\r\n" + SMUGGLED)
        assert answer.split()[1] == b"400"
        assert len(re.findall(rb"HTTP/1\.\d \d\d\d ", answer)) == 1
        await still_there(place)

    @pytest.mark.parametrize(
        "body",
        [
            b"zz\r\n",
            b"-1\r\n",
            b"+4\r\na=16\r\n0\r\n\r\n",
            b"0x4\r\na=16\r\n0\r\n\r\n",
            b"4\na=16\n0\n\n",
            b" 4\r\na=16\r\n0\r\n\r\n",
            b"4;\na=16\r\n0\r\n\r\n",
            b"4\r\na=16XX0\r\n\r\n",
            b"4\r\na=166\r\n0\r\n\r\n",
            b"FFFFFFFFFFFFFFFFF\r\n",
            b"\r\n0\r\n\r\n",
        ],
    )
    async def test_a_chunk_that_can_be_read_in_two_ways_is_read_in_none(self, place: Place, body: bytes) -> None:
        answer = await place.conversation(request(PATH, CHUNKED) + body + SMUGGLED)
        assert answer.split()[1] == b"400"
        assert len(re.findall(rb"HTTP/1\.\d \d\d\d ", answer)) == 1
        await still_there(place)

    async def test_a_chunk_of_nearly_2_64_bytes_takes_no_room(self, place: Place) -> None:
        async with await place.connect() as sender:
            await sender.send(request(PATH, CHUNKED) + b"FFFFFFFFFFFFFFF0\r\nabc")
            await still_there(place)

    @pytest.mark.parametrize("line_end", [b"\n", b"\r", b"\n\r"])
    async def test_lines_end_in_one_way_only(self, place: Place, line_end: bytes) -> None:
        answer = await place.conversation(
            request(PATH, "Content-Length: 0").replace(b"\r\n", line_end) + b"\r\n\r\n"
        )
        assert answer.split()[1] == b"400"
        await still_there(place)

    async def test_what_lies_in_a_body_is_no_request(self, place: Place) -> None:
        async with await place.connect() as sender:
            await sender.send(post(SMUGGLED) + post(b"event=AFTER"))
            assert [(await sender.answer()).status for _ in range(2)] == [200, 200]
        assert place.bodies() == [SMUGGLED, b"event=AFTER"]

    async def test_what_comes_through_the_tunnel_that_connect_asks_for_is_no_request(self, place: Place) -> None:
        async with await place.connect() as sender:
            await sender.send(request(PATH, method="CONNECT") + SMUGGLED)
            assert (await sender.first_line()).split()[1:2] in ([b"404"], [b"405"])
            await place.exchange(post(b"", "/elsewhere"))  # by now the second one would have been recorded
            assert place.bodies() == []


class TestWhatTheHandlerGets:
    @pytest.mark.parametrize(
        "header",
        [
            b"X-Bad: 1\rX-Injected: 1",
            b"X-Bad: 1\nX-Injected: 1",
            b"X-Bad: 1\r\n X-Injected: 1",
            b"X-Bad: 1\0X-Injected: 1",
            b"X-Bad\rX-Injected: 1",
            b"X-Bad: \x0bX-Injected: 1",
        ],
    )
    async def test_a_header_with_a_line_end_inside_is_refused(self, place: Place, header: bytes) -> None:
        assert (await place.conversation(post(b"event=EVIL", PATH, header))).split()[1] == b"400"
        await still_there(place)

    @pytest.mark.parametrize(
        ("target", "header"),
        [
            (PATH, b"X-Bad: 1\xc2\x85X-Injected: 1"),
            (PATH, b"X-Bad: 1\x85X-Injected: 1"),
            (PATH, "X-Bad: 1\u2028X-Injected: 1".encode()),
            (PATH, b"X-Bad: 1%0d%0aX-Injected: 1"),
            (PATH, b"X-Bad: 1\xe5\x98\x8d\xe5\x98\x8aX-Injected: 1"),  # their low bytes are CR and LF
            (f"{PATH}?a=1%0d%0aX-Injected:%201", b"X-Good: 1"),
            (f"{PATH}?a=1%E5%98%8D%E5%98%8AX-Injected:1", b"X-Good: 1"),
        ],
    )
    async def test_nothing_that_reads_as_a_line_end_somewhere_becomes_one(
        self, place: Place, target: str, header: bytes
    ) -> None:
        assert (await place.exchange(post(b"event=ONX", target, header))).status == 200
        [recording] = place.recordings()
        with RawServer() as handler:
            async with forward.Sender(handler.url, cause="forward") as sender:
                assert (await sender.send(recording)).status == 200
            [got] = handler.requests
        assert not re.search(rb"[\r\n]\s*X-Injected", got.head)
        assert got.body == b"event=ONX"

    @pytest.mark.parametrize("end", ["\r\n", "\n", "\r"])
    @pytest.mark.parametrize("where", ["name", "value", "target"])
    async def test_a_recording_that_was_tampered_with_sends_no_line_of_its_own(
        self, place: Place, end: str, where: str
    ) -> None:
        evil = f"1{end}X-Injected: 1"
        recording = Recording(
            id="1-1",
            received_at=datetime.now(UTC),
            method="POST",
            target=f"{PATH}?a={evil}" if where == "target" else PATH,
            headers=((f"X-Bad{end}X-Injected", "1") if where == "name" else ("X-Bad", evil),)
            if where != "target"
            else (),
            body=b"event=ONX",
        )
        with RawServer() as handler:
            async with forward.Sender(handler.url, cause="replay") as sender:
                await sender.send(recording)
            got = list(handler.requests)
        assert not [one for one in got if re.search(rb"[\r\n]\s*X-Injected", one.head)]

    @pytest.mark.parametrize(
        "spelled",
        [
            "X-B24tunnel-Recording",
            "X-B24TUNNEL-RECORDING",
            "x-b24tunnel-recording",
        ],
    )
    async def test_the_recordings_id_is_ours_alone(self, place: Place, spelled: str) -> None:
        assert (await place.exchange(post(b"event=ONX", PATH, f"{spelled}: 9-9", f"{spelled}: 8-8"))).status == 200
        [recording] = place.recordings()
        with RawServer() as handler:
            async with forward.Sender(handler.url, cause="forward") as sender:
                await sender.send(recording)
            assert handler.requests[0].header(b"X-B24tunnel-Recording") == [recording.id.encode()]

    async def test_a_connection_header_cannot_take_the_recordings_id_or_the_framing_away(
        self, place: Place
    ) -> None:
        names = "Connection: X-B24tunnel-Recording, Content-Length, Host, Transfer-Encoding"
        assert (await place.exchange(post(b"event=ONX", PATH, names))).status == 200
        [recording] = place.recordings()
        with RawServer() as handler:
            async with forward.Sender(handler.url, cause="forward") as sender:
                await sender.send(recording)
            [got] = handler.requests
        assert got.header(b"X-B24tunnel-Recording") == [recording.id.encode()]
        assert got.header(b"Host") == [f"127.0.0.1:{handler.port}".encode()]
        assert got.header(b"Content-Length") == [b"9"]


class TestWhatIsRevealed:
    @pytest.mark.parametrize(
        "data",
        [
            post(b"", "/elsewhere"),
            post(b"event=A", version="1.0"),
            request(PATH, "Content-Length: 99999999999"),
            b"nonsense\r\n\r\n",
        ],
        ids=["404", "200 to HTTP/1.0", "413", "400"],
    )
    async def test_no_answer_names_a_version(self, place: Place, data: bytes) -> None:
        answer = (await place.exchange(data)).head.lower()
        assert b"aiohttp" not in answer
        assert b"python" not in answer

    async def test_an_acknowledgement_names_no_version(self, place: Place) -> None:
        assert (await place.exchange(post(b"event=A"))).header("server") == []

    @pytest.mark.parametrize("status", [200, 404, 413, 408, 503])
    async def test_an_answer_holds_nothing_of_the_request(
        self, place: Place, status: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        target, header = f"{PATH}?marker=MARKER", "X-MARKER: MARKER"
        body = b"event=MARKER&MARKER=<script>MARKER</script>"
        sent = post(body, target, header, "Origin: https://MARKER", "Cookie: MARKER=1")
        if status == 404:
            sent = post(body, "/MARKER?MARKER", header)
        elif status == 413:
            sent = request(target, "Content-Length: 99999999999", header)
        elif status == 408:
            sent = sent[:-1]
        with monkeypatch.context() as patch:
            patch.setattr(bodies, "BODY_SECONDS", 0.05)
            if status == 503:
                patch.setattr(writer, "_write_all", _full)
            answer = await place.exchange(sent)
        assert answer.status == status
        assert b"MARKER" not in answer.head + answer.body
        assert SEGMENT.encode() not in answer.head + answer.body
        assert str(place.directory).encode() not in answer.body
        assert not [name for name in ("access-control-allow-origin", "set-cookie") if answer.header(name)]

    @pytest.mark.parametrize(
        "data",
        [
            b"MARKER / HTTP/1.1\r\n\r\n",
            b"POST " + PATH.encode() + b"?MARKER HTTP/1.1\nHost: h\r\n\r\n",
            request(PATH, "X-Bad : MARKER", "Content-Length: 0"),
        ],
        ids=["method", "target", "header"],
    )
    async def test_a_refusal_of_what_is_no_http_holds_nothing_of_it_either(
        self, place: Place, data: bytes
    ) -> None:
        answer = await place.exchange(data)
        assert answer.status == 400
        assert b"MARKER" not in answer.head + answer.body

    @pytest.mark.parametrize(
        "hosts",
        ["evil.example", "127.0.0.1", "localhost:1", "[::1]", "", "<script>", "a.example, b.example"],
    )
    async def test_the_host_is_recorded_and_means_nothing(self, place: Place, hosts: str) -> None:
        head = f"POST {PATH} HTTP/1.1\r\nHost: {hosts}\r\nContent-Length: 3\r\n\r\n"
        assert (await place.exchange(head.encode() + b"a=1")).status == 200
        assert [dict(one.headers)["Host"] for one in place.recordings()] == [hosts]


class TestTokens:
    @pytest.mark.parametrize(
        ("target", "body", "verdict"),
        [
            (PATH, "auth[application_token][x]={}", "mismatched"),
            (PATH, "auth[application_token][]={}&auth[application_token][]={}", "mismatched"),
            (PATH, "auth[application_token]={}&auth[application_token][]={}", "mismatched"),
            (PATH, "auth={}", "mismatched"),
            (PATH, "auth[APPLICATION_TOKEN]={}", "mismatched"),
            (PATH, "auth[application_token ]={}", "mismatched"),
            (PATH, "auth[application_token]={}&auth=x", "mismatched"),
            (PATH, "auth[application_token]=x{}", "mismatched"),
            (PATH, "auth[application_token]={}%00", "mismatched"),
            (PATH, "auth[application_token]={}%20", "mismatched"),
            (PATH, "auth[application_token]={}&auth[application_token]=x", "mismatched"),
            (PATH, "auth[application_token]=%ff", "mismatched"),
            (PATH, "auth%5Bapplication_token%5D={}", "verified"),
            # The query counts as PHP's $_REQUEST has it, and the body stands over it.
            (f"{PATH}?auth[application_token]={TOKEN}", "", "verified"),
            (f"{PATH}?auth[application_token]={TOKEN}", "auth[application_token]=x", "mismatched"),
            (f"{PATH}?auth[application_token]={TOKEN}", "auth=x", "mismatched"),
            (f"{PATH}?auth[application_token]=x", "auth[application_token]={}", "verified"),
            (f"{PATH}?auth[application_token][]={TOKEN}", "", "mismatched"),
        ],
    )
    async def test_only_the_one_string_in_the_one_place_proves_the_origin(
        self, knowing: Place, target: str, body: str, verdict: str
    ) -> None:
        sent = ("event=ONX&" + body.replace("{}", TOKEN)).encode()
        status = (await knowing.exchange(post(sent, target))).status
        assert status == (200 if verdict == "verified" else 403)
        [kept] = knowing.recordings()
        assert (kept.verdict, kept.code, kept.body, kept.target) == (verdict, "ONX", sent, target)

    async def test_a_wrong_token_is_recorded_refused_and_told_once(self, knowing: Place) -> None:
        right = await knowing.exchange(post(f"event=ONX&auth[application_token]={TOKEN}".encode()))
        wrong = post(f"event=ONX&auth[application_token]={TOKEN[::-1]}".encode())
        refused = [await knowing.exchange(wrong) for _ in range(3)]
        assert [right.status, *(answer.status for answer in refused)] == [200, 403, 403, 403]
        assert [one.verdict for one in knowing.recordings()] == ["verified", *["mismatched"] * 3]
        assert [one.to_be_forwarded for one in knowing.recordings()] == [True, False, False, False]
        [told] = knowing.troubles
        assert "ONX" in told
        assert TOKEN[::-1] not in told


class TestBytesThatAreNoText:
    async def test_they_are_kept_wherever_they_may_stand(self, place: Place) -> None:
        body = b"event=%FF%FE&\xff\xfe=\xff&\xed\xa0\x80=\xc0\x80&data[%FF]=\xf5"
        target = f"{PATH}?%FF=%C0%80&event=%FE"
        assert (await place.exchange(post(body, target, b"X-Bytes: \xff\xfe\xc0\x80"))).status == 200
        [kept] = place.recordings()
        assert (kept.body, kept.target) == (body, target)
        assert dict(kept.headers)["X-Bytes"].encode("utf-8", "surrogateescape") == b"\xff\xfe\xc0\x80"
        assert kept.code is not None
        assert kept.code.encode("utf-8", "surrogateescape") == b"\xff\xfe"

    @pytest.mark.parametrize(
        "data",
        [
            b"P\xffST " + PATH.encode() + b" HTTP/1.1\r\nHost: h\r\n\r\n",
            request(PATH, b"X-\xff: 1", "Content-Length: 0"),
            b"POST " + PATH.encode() + b" HTTP/\xff.1\r\nHost: h\r\n\r\n",
        ],
        ids=["method", "name", "version"],
    )
    async def test_elsewhere_they_are_no_http(self, place: Place, data: bytes) -> None:
        assert (await place.conversation(data)).split()[1] == b"400"
        await still_there(place)


def _full(descriptor: int, data: bytes) -> None:
    raise OSError(28, "No space left on device")


# -- against a process of its own, so that what it blocks is its own ---------------------------------------------

MOST = 32 * MEBIBYTE


def bombs() -> dict[str, Callable[[], bytes]]:
    return {
        "nested 100,000 deep": lambda: b"event=A&a" + b"[b]" * 100_000 + b"=1",
        "1,000,000 brackets": lambda: b"event=A&a" + b"[]" * 1_000_000 + b"=1",
        "1,000,000 open brackets": lambda: b"event=A&a" + b"[" * 1_000_000 + b"=1",
        "1,000,000 keys": lambda: b"&".join(b"k%d=1" % number for number in range(1_000_000)),
        # PHP's keys that are numbers collided where they were equal in their low bits.
        "19,000 keys for a hash table": lambda: b"&".join(b"a[%d]=1" % (n << 16) for n in range(19_000)),
        "19,000 tokens": lambda: b"&".join(b"auth[%d][token]=secret%d" % (n, n) for n in range(19_000)),
        "nothing but &": lambda: b"&" * MOST,
        "nothing but [": lambda: b"[" * MOST,
        "nothing but =": lambda: b"=" * MOST,
        "nothing but +": lambda: b"event=" + b"+" * (MOST - 6),
        "nothing but zeros": lambda: b"\0" * (MOST // 4),
        "no text": lambda: b"\xff" * MOST,
        "nothing but %": lambda: b"%" * MOST,
        "a token's name and quotes": lambda: b"data[a]=access_token" + b"'" * (MOST - 20),
    }


@pytest.mark.parametrize("name", bombs())
def test_a_form_bomb_is_recorded_and_others_are_answered_meanwhile(programs: Programs, name: str) -> None:
    bomb = bombs()[name]()
    listen, url = listening(programs)
    assert status_of(url, b"event=BEFORE", PATIENCE) == 200
    statuses: list[int] = []

    def throw() -> None:
        with contextlib.suppress(OSError):  # where the test has failed meanwhile
            statuses.append(deliver(url, bomb).status)

    thrower = threading.Thread(target=throw, daemon=True)
    thrower.start()
    others = 0
    # Others are answered until the bomb has been dealt with in every way, or for a while after its answer.
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end and not (statuses and _is_told(listen, len(bomb))):
        unanswered = not statuses
        assert status_of(url, b"event=MEANWHILE", PATIENCE) == 200
        others += 1
        if unanswered and statuses:
            end = time.monotonic() + 2
    thrower.join(1)
    assert statuses == [200]
    assert memory_of(listen, "VmHWM") < 1024 * MEBIBYTE
    bodies = recorded_bodies(programs)
    assert bodies.count(bomb) == 1
    assert bodies.count(b"event=MEANWHILE") == others


def _is_told(listen: Program, size: int) -> bool:
    return any(f'"size": {size}' in line for line in listen.lines)


def test_repeated_bombs_do_not_let_the_memory_grow(programs: Programs) -> None:
    kinds = [b"&" * 4 * MEBIBYTE, b"\xff" * 4 * MEBIBYTE, b"event=A&a=" + b"x" * 4 * MEBIBYTE]
    listen, url = listening(programs)

    def throw(times: int) -> int:
        told = sum('"recorded"' in line for line in listen.lines)
        for number in range(times):
            assert deliver(url, kinds[number % len(kinds)]).status == 200
        wait_until(
            lambda: sum('"recorded"' in line for line in listen.lines) == told + times, f"{times} more are told"
        )
        return memory_of(listen)

    before = throw(6)
    assert throw(12) - before < 100 * MEBIBYTE
    assert memory_of(listen, "VmHWM") < 512 * MEBIBYTE


def test_many_large_bodies_at_once_are_taken_or_refused_within_a_bound(programs: Programs) -> None:
    listen, url = listening(programs)
    body = b"event=A&a=" + b"x" * (MOST - 10)
    statuses: list[int] = []
    senders = [
        threading.Thread(target=lambda: statuses.append(exchange(url, delivery(url, body)).status), daemon=True)
        for _ in range(6)
    ]
    for sender in senders:
        sender.start()
    while any(sender.is_alive() for sender in senders):
        assert status_of(url, b"event=B", 2 * PATIENCE) == 200
    assert len(statuses) == 6
    assert set(statuses) <= {200, 503}
    assert memory_of(listen, "VmHWM") < 2048 * MEBIBYTE
    assert recorded_bodies(programs).count(body) == statuses.count(200) > 0


def test_a_gzip_bomb_is_kept_and_handed_over_as_it_came(programs: Programs) -> None:
    # One member of 16 MiB of zeros, 64 times: together 1 GiB.
    bomb = gzip.compress(b"\0" * 16 * MEBIBYTE) * 64
    with RawServer() as handler:
        listen, url = listening(programs, "--forward", handler.url)
        assert exchange(url, delivery(url, bomb, "Content-Encoding: gzip")).status == 200
        [got] = handler.wait_for(1)
        assert got.body == bomb
        assert got.header(b"Content-Encoding") == [b"gzip"]
        listen.next_json("attempt")
        assert memory_of(listen, "VmHWM") < 256 * MEBIBYTE
    assert recorded_bodies(programs) == [bomb]
    assert programs.run("show", "last").process.returncode == 0


def test_what_is_no_text_is_told_and_listed(programs: Programs) -> None:
    listen, url = listening(programs)
    body = b"event=%FF%0A%1b[31m&data[\xff]=%00%1b]0;title%07"
    assert deliver(url, body).status == 200
    assert listen.next_json("recorded")["size"] == len(body)
    listed = programs.run("list")
    assert listed.process.returncode == 0
    assert "\x1b" not in "".join(listed.lines)
    assert "Traceback" not in str(listen) + str(listed)


@pytest.mark.parametrize("way", ["listen", "list", "show", "follow"])
def test_a_line_end_in_an_events_code_makes_no_line_of_its_own(programs: Programs, way: str) -> None:
    body = b"event=A%0AFORGED%0DFORGED%0B%C2%85FORGED%E2%80%A8FORGED&data=1%0AFORGED"
    listen = programs.b24tunnel("listen", "--no-bind", "--tunnel", "local", "--output", "plain")
    wait_until(lambda: any("/b24/" in line for line in listen.lines), "it is ready")
    [url] = {word for line in listen.lines for word in line.split() if "/b24/" in word}
    assert deliver(url, body).status == 200
    if way in ("list", "show"):
        lines = programs.run(way, *(["last"] if way == "show" else [])).lines[:2]
    else:
        lines = (listen if way == "listen" else programs.b24tunnel("follow")).lines

    def is_told() -> bool:
        if way == "follow":  # it tells what comes from its start on
            assert deliver(url, body).status == 200
        return any("FORGED" in line for line in lines)

    wait_until(is_told, "it is told")
    assert not [line for line in lines if line.lstrip().startswith("FORGED")]
    assert not [line for line in lines if set(line[:-1]) & set("\r\x0b\x85\u2028")]


def test_reading_one_delivery_waits_for_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    large, small = (
        Recording(
            id=f"1-{number}", received_at=datetime.now(UTC), method="POST", target="/", headers=(), body=body
        )
        for number, body in enumerate((b"event=LARGE", b"event=SMALL"))
    )
    reading, go_on = threading.Event(), threading.Event()
    original = Event.from_request

    def slow(target: str, body: bytes) -> Event:
        if body == large.body:
            reading.set()
            assert go_on.wait(DEADLINE)
        return original(target, body)

    monkeypatch.setattr(Event, "from_request", slow)
    codes: list[str | None] = []
    threads = [
        threading.Thread(target=lambda one=one: codes.append(one.event.code), daemon=True)
        for one in (large, small)
    ]
    threads[0].start()
    assert reading.wait(DEADLINE)
    threads[1].start()
    threads[1].join(0.5)
    waited = threads[1].is_alive()
    go_on.set()
    for thread in threads:
        thread.join(DEADLINE)
    assert sorted(map(str, codes)) == ["LARGE", "SMALL"]
    assert not waited


@pytest.mark.parametrize("way", ["listen", "list", "show"])
def test_what_has_no_end_is_told_in_short(programs: Programs, way: str) -> None:
    listen, url = listening(programs)
    body = b"event=" + b"A" * MEBIBYTE + b"&data[" + b"B" * MEBIBYTE + b"]=" + b"C" * MEBIBYTE
    assert deliver(url, body).status == 200
    if way == "listen":
        listen.next_json("recorded")
        lines = listen.lines
    else:
        lines = programs.run(way, *(["last"] if way == "show" else [])).lines[:2]
    assert any("1-1" in line for line in lines)
    assert max(map(len, lines)) < 10_000

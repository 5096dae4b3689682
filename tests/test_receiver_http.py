"""HTTP as it comes: every framing that a sender may choose is one delivery, and nobody waits for somebody else."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from held_disk import Disk
from receiving import DEADLINE, PATH, Place, Sender, many_files, post, receiving, request

from b24tunnel import bodies, connections, receiver
from b24tunnel.origin import Origin

CHUNKED = "Transfer-Encoding: chunked"
EVENT = b"event=ONCRMDEALADD"


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with receiving(tmp_path) as started:
        yield started


def chunks(body: bytes, size: int) -> bytes:
    """The body in chunks of ``size`` bytes, with the last one of none."""
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


class TestChunkedBodies:
    @pytest.mark.parametrize("size", [1, 2, 7, 17, 18, 4096])
    async def test_the_size_of_chunks_leaves_no_trace(self, place: Place, size: int) -> None:
        assert (await place.exchange(request(PATH, CHUNKED) + chunks(EVENT, size))).status == 200
        assert place.bodies() == [EVENT]

    @pytest.mark.parametrize(
        "spelled",
        [
            b"12\r\n%b\r\n0\r\n\r\n",
            b"0012\r\n%b\r\n000\r\n\r\n",
            b"12;name=value\r\n%b\r\n0;last\r\n\r\n",
            b'12;a="quoted; text";b\r\n%b\r\n0\r\n\r\n',
            b"12\r\n%b\r\n0\r\nX-Checksum: 1\r\nX-Other: 2\r\n\r\n",
        ],
        ids=["plain", "zeros", "extension", "quoted extension", "trailers"],
    )
    async def test_extensions_and_trailers_are_no_part_of_it(self, place: Place, spelled: bytes) -> None:
        async with await place.connect() as sender:
            await sender.send(request(PATH, CHUNKED) + spelled % EVENT)
            assert (await sender.answer()).status == 200
            await sender.send(post(b"n=2"))  # what came behind the body was taken off the connection
            assert (await sender.answer()).status == 200
        assert place.bodies() == [EVENT, b"n=2"]
        assert [name for name, _ in place.recordings()[0].headers] == ["Host", "Transfer-Encoding"]

    async def test_upper_case_sizes_and_names_are_the_same(self, place: Place) -> None:
        body = b"x" * 0xAB
        head = request(PATH, "TRANSFER-ENCODING: Chunked")
        assert (await place.exchange(head + b"AB\r\n" + body + b"\r\n0\r\n\r\n")).status == 200
        assert place.bodies() == [body]

    async def test_it_may_come_byte_by_byte(self, place: Place) -> None:
        async with await place.connect() as sender:
            await sender.drip(request(PATH, CHUNKED) + chunks(EVENT, 5))
            assert (await sender.answer()).status == 200
        assert place.bodies() == [EVENT]

    async def test_without_its_last_chunk_it_is_no_delivery(self, place: Place) -> None:
        async with await place.connect() as sender:
            await sender.send(request(PATH, CHUNKED) + chunks(EVENT, 5).removesuffix(b"0\r\n\r\n"))
            sender.out.write_eof()
            assert not (await sender.rest()).startswith(b"HTTP/1.1 200")
        assert (await place.exchange(post(b"a=1"))).status == 200
        assert place.bodies() == [b"a=1"]
        assert place.troubles == []

    @pytest.mark.parametrize("more", [0, 1])
    async def test_the_bound_is_that_of_the_body_and_not_of_its_framing(self, place: Place, more: int) -> None:
        body = b"x" * (receiver.MAX_BODY + more)
        answer = await place.exchange(request(PATH, CHUNKED) + chunks(body, 1 << 20))
        assert answer.status == (413 if more else 200)
        assert place.bodies() == ([] if more else [body])


class TestExpect:
    async def test_at_a_wrong_path_there_is_nothing_to_go_on_with(self, place: Place) -> None:
        answer = await place.exchange(request("/elsewhere", "Content-Length: 3", "Expect: 100-continue"))
        assert answer.status == 404

    async def test_a_body_that_would_be_too_large_is_not_asked_for(self, place: Place) -> None:
        head = request(PATH, f"Content-Length: {receiver.MAX_BODY + 1}", "Expect: 100-continue")
        assert (await place.exchange(head)).status == 413
        assert place.bodies() == []

    @pytest.mark.parametrize("spelled", ["Expect: 100-continue", "EXPECT: 100-Continue"])
    async def test_the_body_is_asked_for_once(self, place: Place, spelled: str) -> None:
        async with await place.connect() as sender:
            await sender.send(request(PATH, "Content-Length: 3", spelled))
            assert (await sender.answer()).status == 100
            await sender.send(b"a=1")
            assert (await sender.answer()).status == 200
            await sender.send(post(b"a=2"))
            assert (await sender.answer()).status == 200
        assert place.bodies() == [b"a=1", b"a=2"]

    async def test_chunks_are_asked_for_too(self, place: Place) -> None:
        async with await place.connect() as sender:
            await sender.send(request(PATH, CHUNKED, "Expect: 100-continue"))
            assert (await sender.answer()).status == 100
            await sender.send(chunks(EVENT, 4))
            assert (await sender.answer()).status == 200
        assert place.bodies() == [EVENT]

    async def test_a_body_that_did_not_wait_is_taken_all_the_same(self, place: Place) -> None:
        async with await place.connect() as sender:
            await sender.send(post(EVENT, PATH, "Expect: 100-continue"))
            answer = await sender.answer()
            if answer.status == 100:
                answer = await sender.answer()
            assert answer.status == 200
        assert place.bodies() == [EVENT]

    async def test_another_expectation_is_a_header_like_others(self, place: Place) -> None:
        assert (await place.exchange(post(EVENT, PATH, "Expect: the-unexpected"))).status == 200
        assert place.bodies() == [EVENT]

    async def test_a_sender_of_http_1_0_gets_no_100(self, place: Place) -> None:
        # RFC 9110 §10.1.1: "A server that receives a 100-continue expectation in an HTTP/1.0 request MUST ignore
        # that expectation."
        async with await place.connect() as sender:
            await sender.send(request(PATH, "Content-Length: 3", "Expect: 100-continue", version="1.0"))
            await place.exchange(post(b"", "/elsewhere"))  # the head alone has been read by then
            await sender.send(b"a=1")
            assert (await sender.answer()).status == 200


class TestConnections:
    @pytest.mark.parametrize(
        ("version", "header", "stays"),
        [
            ("1.1", "X-None: 1", True),
            ("1.1", "Connection: close", False),
            ("1.0", "X-None: 1", False),
            ("1.0", "Connection: keep-alive", True),
            ("1.0", "Connection: Keep-Alive", True),
        ],
    )
    async def test_it_stays_where_the_sender_wants_that(
        self, place: Place, version: str, header: str, stays: bool
    ) -> None:
        async with await place.connect() as sender:
            await sender.send(post(b"a=1", PATH, header, version=version))
            answer = await sender.answer()
            assert (answer.status, answer.body) == (200, b"")
            if stays:
                assert answer.header("connection") == ([] if version == "1.1" else ["keep-alive"])
                await sender.send(post(b"a=2", PATH, header, version=version))
                assert (await sender.answer()).status == 200
            else:
                assert await sender.rest() == b""
        assert place.bodies() == [b"a=1", b"a=2"][: 1 + stays]

    async def test_a_thousand_deliveries_on_one_connection_are_each_answered_and_recorded(
        self, place: Place
    ) -> None:
        async with await place.connect() as sender:
            for number in range(1000):
                await sender.send(post(b"n=%d" % number))
                assert (await sender.answer()).status == 200
        assert place.bodies() == [b"n=%d" % number for number in range(1000)]

    @pytest.mark.parametrize("count", [2, 100])
    async def test_requests_in_one_segment_are_answered_and_recorded_in_order(
        self, place: Place, count: int
    ) -> None:
        # Each third goes elsewhere, so that an answer in the wrong place would show.
        targets = [PATH if number % 3 else "/elsewhere" for number in range(count)]
        async with await place.connect() as sender:
            await sender.send(b"".join(post(b"n=%d" % n, target) for n, target in enumerate(targets)))
            statuses = [(await sender.answer()).status for _ in targets]
        assert statuses == [200 if target == PATH else 404 for target in targets]
        recorded = place.recordings()
        assert [one.body for one in recorded] == [
            b"n=%d" % n for n, target in enumerate(targets) if target == PATH
        ]
        assert [one.id for one in recorded] == [f"1-{n}" for n in range(1, len(recorded) + 1)]

    async def test_pipelined_chunks_and_lengths_do_not_run_into_each_other(self, place: Place) -> None:
        bodies = [b"n=%d" % number for number in range(20)]
        async with await place.connect() as sender:
            await sender.send(
                b"".join(
                    request(PATH, CHUNKED) + chunks(body, 2) if number % 2 else post(body)
                    for number, body in enumerate(bodies)
                )
            )
            assert [(await sender.answer()).status for _ in bodies] == [200] * 20
        assert place.bodies() == bodies

    async def test_an_answer_to_head_has_no_body_that_would_shift_the_next(self, place: Place) -> None:
        async with await place.connect() as sender:
            for target, status in (("/elsewhere", 404), (PATH, 200)):
                await sender.send(request(target, method="HEAD"))
                assert (await sender.answer(head_only=True)).status == status
            await sender.send(post(EVENT))
            assert (await sender.answer()).status == 200
        assert [one.method for one in place.recordings()] == ["HEAD", "POST"]

    async def test_a_refused_body_does_not_become_the_next_request(self, place: Place) -> None:
        inner = post(b"event=INNER")
        async with await place.connect() as sender:
            await sender.send(post(inner, "/elsewhere") + post(b"event=AFTER"))
            assert (await sender.answer()).status == 404
            assert (await sender.answer()).status == 200
        assert place.bodies() == [b"event=AFTER"]

    @pytest.mark.parametrize("protocol", ["websocket", "h2c"])
    async def test_an_offer_to_change_the_protocol_is_not_taken_up_and_the_body_is_kept(
        self, place: Place, protocol: str
    ) -> None:
        # curl --http2 sends the second one with each request.
        async with await place.connect() as sender:
            whole = post(EVENT, PATH, "Connection: Upgrade", f"Upgrade: {protocol}")
            await sender.send(whole[: -len(EVENT)])
            await place.exchange(post(b"", "/elsewhere"))  # the head alone has been read by then
            await sender.send(EVENT)
            assert (await sender.answer()).status == 200
        assert place.bodies() == [EVENT]


class TestHeads:
    async def test_header_lines_just_below_the_bound_are_kept_whole(self, place: Place) -> None:
        value = "v" * (receiver._LONGEST_LINE - 100)
        assert (await place.exchange(post(EVENT, PATH, f"X-Long: {value}"))).status == 200
        [kept] = place.recordings()
        assert dict(kept.headers)["X-Long"] == value

    async def test_a_request_line_just_below_the_bound_is_kept_whole(self, place: Place) -> None:
        target = f"{PATH}?a=" + "v" * (receiver._LONGEST_LINE - len(PATH) - 100)
        assert (await place.exchange(post(EVENT, target))).status == 200
        assert [one.target for one in place.recordings()] == [target]

    @pytest.mark.parametrize("part", ["value", "name", "line"])
    async def test_just_above_the_bound_it_is_refused_and_the_connection_ended(
        self, place: Place, part: str
    ) -> None:
        long = "v" * (receiver._LONGEST_LINE + 100)
        refused = {
            "value": post(EVENT, PATH, f"X-Long: {long}"),
            "name": post(EVENT, PATH, f"{long}: 1"),
            "line": post(EVENT, f"{PATH}?a={long}"),
        }[part]
        answer = await place.conversation(refused)
        assert answer == b"" or answer.split()[1] in (b"400", b"414", b"431")
        assert (await place.exchange(post(b"a=1"))).status == 200
        assert place.bodies() == [b"a=1"]
        assert place.troubles == []

    async def test_a_header_that_never_ends_is_not_waited_for(self, place: Place) -> None:
        async with await place.connect() as sender:
            out = request(PATH)[:-2] + b"X-Long: "
            for _ in range(100):
                await sender.send(out)
                out = b"v" * 4096
            answer = await sender.rest()
        assert answer == b"" or answer.split()[1] in (b"400", b"431")

    async def test_a_hundred_headers_are_kept_in_order(self, place: Place) -> None:
        headers = [f"X-{number}: {number}" for number in range(100)]
        assert (await place.exchange(post(EVENT, PATH, *headers))).status == 200
        [kept] = place.recordings()
        assert [f"{name}: {value}" for name, value in kept.headers][2:] == headers

    async def test_a_thousand_headers_are_refused_or_kept_whole(self, place: Place) -> None:
        # Senders and proxies add a few dozen; aiohttp's bound is 128 from 3.14 on.
        headers = [f"X-{number}: {number}" for number in range(1000)]
        answer = await place.exchange(post(EVENT, PATH, *headers))
        assert answer.status in (200, 400, 431)
        kept = [[f"{name}: {value}" for name, value in one.headers][2:] for one in place.recordings()]
        assert kept == ([headers] if answer.status == 200 else [])
        assert place.troubles == []

    @pytest.mark.parametrize("lines", [b"\r\n", b"\r\n\r\n\r\n"])
    async def test_empty_lines_before_a_request_are_passed_over(self, place: Place, lines: bytes) -> None:
        # RFC 9112 §2.2: old senders put one behind a body.
        async with await place.connect() as sender:
            for number in range(2):
                await sender.send(lines + post(b"n=%d" % number))
                assert (await sender.answer()).status == 200
        assert place.bodies() == [b"n=0", b"n=1"]

    async def test_a_target_may_be_a_whole_address(self, place: Place) -> None:
        # RFC 9112 §3.2.2: "a server MUST accept the absolute-form in requests".
        assert (await place.exchange(post(EVENT, f"http://hooks.example.org{PATH}"))).status == 200

    async def test_a_whole_address_of_another_path_is_404(self, place: Place) -> None:
        assert (await place.exchange(post(EVENT, "http://hooks.example.org/elsewhere"))).status == 404
        assert (await place.exchange(post(EVENT, f"http://x{PATH}/elsewhere"))).status == 404

    @pytest.mark.parametrize("head", [request(PATH, "Content-Length: 0"), request(PATH), request(PATH, CHUNKED)])
    async def test_a_body_of_nothing_is_a_delivery(self, place: Place, head: bytes) -> None:
        data = b"0\r\n\r\n" if b"chunked" in head else b""
        assert (await place.exchange(head + data)).status == 200
        [kept] = place.recordings()
        assert (kept.body, kept.code) == (b"", None)

    @pytest.mark.parametrize("more", [0, 1])
    async def test_a_body_of_32_mib_is_recorded_and_one_byte_more_is_not(self, place: Place, more: int) -> None:
        body = b"event=A&x=" + b"x" * (32 * 1024 * 1024 + more - 10)
        assert (await place.exchange(post(body))).status == (413 if more else 200)
        assert place.bodies() == ([] if more else [body])

    async def test_ten_thousand_keys_are_read_for_the_code_and_the_verdict(self, tmp_path: Path) -> None:
        pairs = "&".join(f"data[{number}]={number}" for number in range(10_000))
        body = f"event=ONCRMDEALADD&{pairs}&auth[application_token]=secret".encode()
        async with receiving(tmp_path, origin=Origin("secret")) as place:
            assert (await place.exchange(post(body))).status == 200
            [kept] = place.recordings()
        assert (kept.body, kept.code, kept.verdict) == (body, "ONCRMDEALADD", "verified")


class TestSlowSenders:
    async def test_a_connection_without_a_request_is_ended(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connections, "HEAD_SECONDS", 0.05)
        async with await place.connect() as sender:
            assert await sender.rest() == b""

    async def test_a_head_that_drips_is_not_waited_for(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connections, "HEAD_SECONDS", 0.1)
        async with await place.connect() as sender:
            await self._drip_for_ever(sender, request(PATH)[:-4] + b"x" * 100_000)
        assert place.bodies() == []

    async def test_a_body_that_drips_is_answered_408(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bodies, "BODY_SECONDS", 0.1)
        async with await place.connect() as sender:
            dripping = asyncio.create_task(self._drip_for_ever(sender, post(b"x" * 100_000)))
            assert (await sender.answer()).status == 408
            dripping.cancel()
        assert place.bodies() == []

    async def test_its_connection_is_free_at_once(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bodies, "BODY_SECONDS", 0.05)
        async with await place.connect() as sender:
            await sender.send(post(EVENT)[:-1])
            assert (await sender.answer()).header("connection") == ["close"]
            assert await sender.rest(2) == b""

    async def test_a_sender_that_was_slow_once_delivers_on_a_new_connection(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bodies, "BODY_SECONDS", 0.05)
        assert (await place.exchange(post(EVENT)[:-1])).status == 408
        assert (await place.exchange(post(EVENT))).status == 200
        assert place.bodies() == [EVENT]

    async def _drip_for_ever(self, sender: Sender, data: bytes) -> None:
        """Send a byte at a time until the receiver has had enough."""
        async with asyncio.timeout(DEADLINE):
            try:
                for octet in data:
                    sender.out.write(bytes([octet]))
                    await sender.out.drain()
                    await asyncio.sleep(0.001)
                raise AssertionError("all of it was waited for")
            except ConnectionError:
                return


class TestCrowds:
    async def test_two_thousand_idle_connections_keep_nobody_out(self, place: Place) -> None:
        # Both ends of each are in this process.
        with many_files(4500) as allowed:
            count = min(2000, (allowed - 300) // 2, connections._most_connections() - 50)
            async with AsyncExitStack() as idle:
                for _ in range(0, count, 100):
                    for sender in await asyncio.gather(*(place.connect() for _ in range(100))):
                        await idle.enter_async_context(sender)
                assert (await place.exchange(post(EVENT))).status == 200
        assert place.bodies() == [EVENT]
        assert place.troubles == []

    async def test_beyond_the_bound_a_connection_is_ended_and_those_under_way_are_answered(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connections, "_most_connections", lambda: 20)
        async with receiving(tmp_path) as place, AsyncExitStack() as open_ones:
            under_way = [await open_ones.enter_async_context(await place.connect()) for _ in range(20)]
            for number, sender in enumerate(under_way):
                await sender.send(post(b"n=%02d" % number)[:-1])
            await self._all_under_way(place, 20)
            for number, sender in enumerate(under_way):
                async with await place.connect() as one_more:
                    await one_more.send(post(EVENT))
                    assert await one_more.rest() == b""
                if number >= 10:
                    continue
                # It ends well and its connection, kept but idle, makes room for the next one.
                await sender.send(b"%d" % (number % 10))
                assert (await sender.answer()).status == 200
                assert (await place.exchange(post(b"more"))).status == 200
                assert await sender.rest() == b""
                under_way_again = await open_ones.enter_async_context(await place.connect())
                await under_way_again.send(post(EVENT)[:-1])
                await self._all_under_way(place, 20)
            bodies_of = [body for number in range(10) for body in (b"n=%02d" % number, b"more")]
            assert place.bodies() == bodies_of
            assert place.receiver.rejected == 20
            assert len(place.troubles) == 1

    @pytest.mark.parametrize(
        "after", [b"", post(EVENT)[:40], b"\r\n", b"GET / HTTP/1.1\r\nX-Long: " + b"x" * 10_000]
    )
    async def test_those_that_sent_one_request_and_then_nothing_whole_keep_nobody_out(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bytes
    ) -> None:
        monkeypatch.setattr(connections, "_most_connections", lambda: 20)
        async with receiving(tmp_path) as place, AsyncExitStack() as open_ones:
            for _ in range(30):
                sender = await open_ones.enter_async_context(await place.connect())
                await sender.send(post(b"", "/elsewhere") + after)
                assert (await sender.answer()).status == 404
            assert (await place.exchange(post(EVENT))).status == 200
            assert place.troubles == []

    async def test_those_that_never_read_their_answers_keep_nobody_out(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connections, "_most_connections", lambda: 3)
        async with receiving(tmp_path) as place, AsyncExitStack() as open_ones:
            for _ in range(3):
                raw = open_ones.enter_context(socket.socket())
                await _flood(raw, place, post(b"n=1") * 500)
            for number in range(5):
                assert (await place.exchange(post(b"m=%d" % number))).status == 200
            assert place.troubles == []

    async def _all_under_way(self, place: Place, count: int) -> None:
        protocols = place.receiver._protocols
        assert protocols is not None
        await place.until(
            lambda: protocols._open == count and not protocols._idle, f"{count} requests are under way"
        )

    async def test_many_that_are_stuck_in_their_bodies_hold_up_nobody_and_may_still_end_well(
        self, place: Place
    ) -> None:
        async with AsyncExitStack() as open_ones:
            stuck = [await open_ones.enter_async_context(await place.connect()) for _ in range(50)]
            for sender in stuck:
                await sender.send(post(EVENT)[:-1])
            for number in range(50):
                assert (await place.exchange(post(b"n=%d" % number))).status == 200
            for sender in stuck:
                await sender.send(EVENT[-1:])
            assert [(await sender.answer()).status for sender in stuck] == [200] * 50
        assert place.bodies() == [b"n=%d" % number for number in range(50)] + [EVENT] * 50

    async def test_what_senders_declare_takes_no_room_before_it_comes(self, place: Place) -> None:
        async with AsyncExitStack() as open_ones:
            for _ in range(100):
                sender = await open_ones.enter_async_context(await place.connect())
                await sender.send(request(PATH, f"Content-Length: {receiver.MAX_BODY}") + b"x")
            assert (await place.exchange(post(EVENT))).status == 200
            assert (await place.exchange(post(b"x" * 1_000_000))).status == 200

    async def test_one_that_never_reads_its_answers_is_read_no_further_and_holds_up_nobody(
        self, place: Place
    ) -> None:
        with socket.socket() as raw:
            await _flood(raw, place, post(b"", "/elsewhere") * 500)
            for number in range(50):
                assert (await place.exchange(post(b"n=%d" % number))).status == 200
        assert place.bodies()[-50:] == [b"n=%d" % number for number in range(50)]
        assert place.troubles == []


async def _flood(raw: socket.socket, place: Place, pipelined: bytes) -> None:
    """Send requests and read no answer, until the receiver reads no more of them or hangs up."""
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", place.receiver.port))
    sent, quiet = 0, 0
    async with asyncio.timeout(DEADLINE):
        while quiet < 50:
            try:
                sent += raw.send(pipelined[sent % len(pipelined) :])
                quiet = 0
            except BlockingIOError:
                quiet += 1
                # Time for the receiver to read more of it.
                async with await place.connect() as other:
                    await other.send(post(b"", "/elsewhere"))
                    assert (await other.answer()).status == 404
            except ConnectionError:
                return  # it had to make room for others
            assert sent < 64 * 1024 * 1024, "the receiver reads on though its answers pile up"


class TestSendersThatLeave:
    @pytest.mark.parametrize("how", ["half-closes", "resets"])
    async def test_what_a_sender_that_leaves_during_the_sync_had_sent_is_recorded(
        self, disk: Disk, place: Place, how: str
    ) -> None:
        disk.shut()
        async with await place.connect() as sender:
            await sender.send(post(b"n=1"))
            await disk.reached()
            if how == "half-closes":
                sender.out.write_eof()
            else:
                sender.out.transport.abort()
            # By the answer to this one the receiver knows that the other has gone.
            assert (await place.exchange(post(b"", "/elsewhere"))).status == 404
            disk.gate.set()
            assert (await place.exchange(post(b"n=2"))).status == 200
        assert place.bodies() == [b"n=1", b"n=2"]
        assert place.troubles == []

    async def test_many_that_leave_at_once_lose_nothing_and_leave_nothing_behind(
        self, disk: Disk, place: Place
    ) -> None:
        disk.shut()
        senders = [await place.connect() for _ in range(50)]
        for number, sender in enumerate(senders):
            await sender.send(post(b"n=%d" % number))
        await disk.reached()
        # The receiver has read each of them when it has made an id for each.
        await place.until(lambda: place.journal._number == 50, "all are read")
        for sender in senders:
            sender.out.transport.abort()
        assert (await place.exchange(post(b"", "/elsewhere"))).status == 404
        disk.gate.set()
        assert (await place.exchange(post(b"n=50"))).status == 200
        assert sorted(place.bodies()) == sorted(b"n=%d" % number for number in range(51))
        protocols = place.receiver._protocols
        assert protocols is not None
        await place.until(lambda: len(protocols.connections) <= 1, "the connections are given up")
        assert place.troubles == []

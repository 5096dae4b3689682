"""A probe goes out to the public address and comes back to the receiver, or says what is in its way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from altering_way import Deed, Passing, altering_way, answer, as_json, without
from programs import free_port
from receiving import PATH, Place, post, receiving, request
from self_signed import self_signed

from b24tunnel.tunnel.finding import Finding
from b24tunnel.tunnel.probe import Prober

LOGIN = "https://login.example.org/oauth/authorize?client_id=1"


@pytest.fixture
def prober() -> Prober:
    return Prober(PATH, seconds=5)


@pytest.fixture
async def place(tmp_path: Path, prober: Prober) -> AsyncIterator[Place]:
    async with receiving(tmp_path, on_probe=prober.arrived) as started:
        yield started


async def found(prober: Prober, place: Place, deed: Deed) -> Finding:
    async with altering_way(place.receiver.port, deed) as way:
        return await prober.probe(way.url)


async def test_a_good_way_is_found_to_work_and_how_long_it_takes(prober: Prober, place: Place) -> None:
    async with altering_way(place.receiver.port) as way:
        finding = await prober.probe(way.url)
    assert finding.works
    assert finding.latency_ms is not None
    assert finding.latency_ms > 0
    assert way.passed == 1


async def test_a_probe_is_neither_recorded_nor_counted(prober: Prober, place: Place) -> None:
    assert (await prober.probe(f"http://127.0.0.1:{place.receiver.port}")).works
    assert place.recordings() == []
    assert place.receiver.recorded == place.receiver.rejected == 0


@pytest.mark.parametrize(
    ("deed", "kind", "words"),
    [
        (as_json, "altered body", "rewritten as JSON"),
        (lambda passing: replace(passing, body=passing.body + b"&utm=1"), "altered body", "another body"),
        (lambda passing: replace(passing, body=b""), "altered body", "without their body"),
        (lambda passing: replace(passing, method="GET", body=b""), "altered body", "a POST on as a GET"),
        (without("Content-Type"), "lost header", "without their header Content-Type"),
        (without("User-Agent"), "lost header", "without their header User-Agent"),
        (
            lambda passing: replace(passing, headers={**passing.headers, "Content-Type": "text/plain"}),
            "lost header",
            "another Content-Type (text/plain)",
        ),
        (answer(200, "<title>You are about\n to visit</title>"), "interstitial", "'You are about to visit'"),
        (answer(401, "<html>Tunnel password"), "interstitial", "answers 401 with a web page"),
        (answer(502, "<title>Bad gateway</title>"), "bad gateway", "502 with the web page 'Bad gateway'"),
        (answer(530), "bad gateway", "530 and passes nothing on"),
        (answer(404, "<title>x</title>", Ngrok_Error_Code="ERR_NGROK_3200"), "bad gateway", "ERR_NGROK_3200"),
        (answer(302, Location=LOGIN), "redirect", "to login.example.org (a login, it seems)"),
        (answer(301, Location="https://www.example.org/b24"), "redirect", "to www.example.org instead"),
        (answer(307), "redirect", "elsewhere"),
        (answer(308, Location="https://[x"), "redirect", "elsewhere"),
        (answer(404, "<title>Not Found</title>"), "elsewhere", "404"),
        (answer(200), "elsewhere", "does not lead here"),
        (answer(404, Server="b24tunnel"), "elsewhere", "another b24tunnel"),
    ],
)
async def test_what_is_in_the_way_is_told_as_what_it_is(
    prober: Prober, place: Place, deed: Deed, kind: str, words: str
) -> None:
    finding = await found(prober, place, deed)
    assert finding.kind == kind
    assert words in finding.message
    assert finding.latency_ms is None


async def test_a_page_cannot_put_controls_or_a_novel_on_the_terminal(prober: Prober, place: Place) -> None:
    finding = await found(prober, place, answer(200, "<title>\x1b[2J\x07" + "long " * 40_000 + "</title>"))
    assert finding.kind == "interstitial"
    assert "\x1b" not in finding.message
    assert len(finding.message) < 300


async def test_an_endless_answer_is_not_read_to_its_end(prober: Prober, place: Place) -> None:
    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 65536)

    server = web.ServerRunner(web.Server(endless), shutdown_timeout=0.1)
    await server.setup()
    try:
        await web.TCPSite(server, "127.0.0.1", 0).start()
        finding = await prober.probe(f"http://127.0.0.1:{server.addresses[0][1]}")
    finally:
        await server.cleanup()
    assert finding.kind == "elsewhere"


@pytest.mark.parametrize(
    "change",
    [
        lambda back: web.Response(text=back.text + "<script>"),
        lambda back: web.Response(status=502, text="<title>no</title>", content_type="text/html"),
        lambda back: web.Response(status=204),
    ],
)
async def test_an_answer_that_is_changed_on_its_way_back_is_found(
    prober: Prober, place: Place, change: Callable[[web.Response], web.Response]
) -> None:
    async with altering_way(place.receiver.port) as way:
        way.on_answer = change
        finding = await prober.probe(way.url)
    assert finding.kind == "altered answer"
    assert "arrive" in finding.message


async def test_a_dead_port_behind_a_live_process_is_found(place: Place) -> None:
    """The port takes connections, as that of a dead tunnel's process does, and nobody ever answers."""
    held: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: held.append(writer), "127.0.0.1", 0)
    async with server:
        finding = await Prober(PATH, seconds=0.3).probe(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        for writer in held:
            writer.close()
    assert finding.kind == "unreachable"
    assert "no answer within 0.3 s" in finding.message


async def test_a_server_that_hangs_up_is_found(prober: Prober) -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        finding = await prober.probe(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert finding.kind == "unreachable"
    assert "closed before the answer" in finding.message


async def test_what_speaks_no_http_is_found(prober: Prober) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        finding = await prober.probe(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert (finding.kind, "no HTTP" in finding.message) == ("unreachable", True)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://127.0.0.1:{port}", "refused"),
        ("https://nowhere.invalid", "name cannot be resolved"),
        ("https://a..b", "cannot be reached"),
    ],
)
async def test_an_address_that_nobody_is_at_is_found(prober: Prober, address: str, words: str) -> None:
    finding = await prober.probe(address.format(port=free_port()))
    assert finding.kind == "unreachable"
    assert words in finding.message


async def test_a_certificate_that_nobody_vouches_for_is_found(
    prober: Prober, place: Place, tmp_path: Path
) -> None:
    async with altering_way(place.receiver.port, ssl_context=self_signed(tmp_path)) as way:
        finding = await prober.probe(way.url)
    assert finding.kind == "unreachable"
    assert "certificate is not trusted: self-signed certificate" in finding.message


@pytest.mark.parametrize(
    "proxy", ["http://me:word@127.0.0.1:{port}", "socks5://127.0.0.1:{port}", "127.0.0.1:{port}"]
)
async def test_a_proxy_that_is_in_the_way_is_named_without_its_user(
    prober: Prober, monkeypatch: pytest.MonkeyPatch, proxy: str, capfd: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    monkeypatch.setenv("http_proxy", proxy.format(port=port))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    finding = await prober.probe("http://hooks.example.org")
    assert finding.kind == "unreachable"
    assert "http_proxy of the environment" in finding.message
    assert f"127.0.0.1:{port}" in finding.message
    assert "word" not in finding.message
    assert tuple(capfd.readouterr()) == ("", "")


async def test_probes_at_the_same_time_are_told_apart(prober: Prober, place: Place) -> None:
    async with AsyncExitStack() as ways:
        deeds: list[Deed] = [as_json, lambda passing: passing, without("User-Agent")]
        opened = [await ways.enter_async_context(altering_way(place.receiver.port, deed)) for deed in deeds]
        findings = await asyncio.gather(*(prober.probe(way.url) for way in opened))
    assert [finding.kind for finding in findings] == ["altered body", "works", "lost header"]


@pytest.mark.parametrize("target", [f"{PATH}/probe/unknown", f"{PATH}/probe/", f"{PATH}/probe", f"{PATH}/other/x"])
async def test_who_does_not_know_a_probe_under_way_gets_what_anybody_gets(place: Place, target: str) -> None:
    reply = await place.exchange(post(b"a=1", target))
    assert (reply.status, reply.body) == (404, b"There is nothing here.\n")
    assert place.recordings() == []
    assert place.receiver.rejected == 1


async def test_another_segment_learns_nothing_of_probes(prober: Prober, place: Place) -> None:
    seen: list[Passing] = []

    def look(passing: Passing) -> Passing:
        seen.append(passing)
        return passing

    async with altering_way(place.receiver.port, look) as way:
        assert (await Prober("/b24/another-segment", seconds=5).probe(way.url)).kind == "elsewhere"
    assert len(seen) == 1


async def test_a_probe_with_a_large_body_is_refused_within_the_receivers_bounds(
    tmp_path: Path, prober: Prober
) -> None:
    async with receiving(tmp_path, on_probe=prober.arrived, max_body=1024) as place:
        reply = await place.exchange(request(f"{PATH}/probe/x", "Content-Length: 2000"))
    assert reply.status == 413

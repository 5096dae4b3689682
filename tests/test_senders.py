"""Which senders are Bitrix24's own: its published lists, from real servers, kept and seldom asked for."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from raw_server import RESET, RawServer, Request, answer_with
from waiting import until

from b24tunnel.errors import OutsideFailure, WrongUsage
from b24tunnel.sender_address import sender_address, telling_providers, tells_sender
from b24tunnel.senders import (
    LARGEST_LIST,
    MOST_LISTS,
    MOST_NODES,
    NODE_LISTS,
    OLD_SECONDS,
    REFRESH_SECONDS,
    NotAList,
    Senders,
    parse_list,
)
from b24tunnel.tunnel.facts import FACTS

WORLD, RUSSIA, STRANGER, NEW = "3.217.33.54", "195.208.184.200", "203.0.113.9", "203.0.113.10"
CACHE = "bitrix24-nodes.json"


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Lists:
    """Both published lists, served as Bitrix24 does, and a `Senders` that reads them."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.world = RawServer(_answer({"nodes": [WORLD]}))
        self.russia = RawServer(_answer([RUSSIA]))
        self.clock = Clock()
        self.said: list[str] = []

    def senders(self, **options: Any) -> Senders:
        """One that tells ``said``."""
        options = {"clock": self.clock, "say": self.said.append, **options}
        return Senders(self.home, lists=(self.world.url, self.russia.url), **options)

    @property
    def asked(self) -> tuple[int, int]:
        """How often each list was asked for."""
        return len(self.world.requests), len(self.russia.requests)

    def cached(self) -> Any:
        """What the cache's file holds."""
        return json.loads((self.home / CACHE).read_text())


@pytest.fixture
def lists(home: Path) -> Iterator[Lists]:
    served = Lists(home)
    yield served
    served.world.close()
    served.russia.close()


def _answer(nodes: object, *headers: str) -> bytes:
    return answer_with("200 OK", json.dumps(nodes).encode(), *headers)


async def test_the_nodes_of_both_regions_are_admitted_and_nobody_else(lists: Lists) -> None:
    senders = lists.senders()
    await senders.start()
    assert await senders.admits(WORLD)
    assert await senders.admits(RUSSIA)
    assert not await senders.admits(STRANGER)
    assert lists.asked == (1, 1)
    assert lists.said == []


@pytest.mark.parametrize("address", ["", "x", f"{WORLD}, {WORLD}", "3.217.33", "03.217.33.54", f"{WORLD}/32"])
async def test_what_is_no_address_is_not_admitted_and_asks_nobody(lists: Lists, address: str) -> None:
    senders = lists.senders()
    await senders.start()
    lists.clock.now += REFRESH_SECONDS
    assert not await senders.admits(address)
    assert lists.asked == (1, 1)


async def test_networks_ipv6_and_mapped_ipv4_addresses_are_understood(lists: Lists) -> None:
    lists.world.answer = _answer(["192.0.2.0/24", "2001:db8:1::/48", "::ffff:198.51.100.7", "::ffff:10.1.0.0/112"])
    senders = lists.senders(further=["172.20.0.0/16"])
    await senders.start()
    inside = ["192.0.2.77", "::ffff:192.0.2.77", "2001:db8:1:2::3", "198.51.100.7", "10.1.2.3", "172.20.1.1"]
    outside = ["192.0.3.1", "2001:db8:2::1", "198.51.100.8", "10.2.0.1", "172.21.0.1", "fd00::8", "::c000:24d"]
    assert [await senders.admits(address) for address in inside] == [True] * len(inside)
    assert [await senders.admits(address) for address in outside] == [False] * len(outside)


async def test_a_flood_of_unknown_addresses_leads_to_one_refresh_in_five_minutes(lists: Lists) -> None:
    senders = lists.senders()
    await senders.start()
    for second in range(0, int(REFRESH_SECONDS)):
        lists.clock.now += 1
        if second < REFRESH_SECONDS - 1:
            assert not await senders.admits(f"203.0.113.{second % 250}")
    assert lists.asked == (1, 1)
    gate = lists.world.hold = threading.Event()
    flood = [asyncio.create_task(senders.admits(f"198.51.{n % 256}.{n // 256}")) for n in range(2000)]
    await until(lambda: lists.asked == (2, 2))
    lists.world.answer = _answer({"nodes": [WORLD, NEW]})
    newcomer = asyncio.create_task(senders.admits(NEW))
    await asyncio.sleep(0)
    assert not newcomer.done()
    gate.set()
    assert not any(await asyncio.gather(*flood))
    assert await newcomer  # it waited for the refresh that was under way
    assert lists.asked == (2, 2)


async def test_a_flood_does_not_ask_more_often_while_the_lists_cannot_be_had(lists: Lists) -> None:
    senders = lists.senders()
    await senders.start()
    lists.world.answer = lists.russia.answer = answer_with("503 Service Unavailable")
    lists.clock.now += REFRESH_SECONDS
    for _ in range(50):
        assert not await senders.admits(STRANGER)
    assert lists.asked == (2, 2)
    lists.clock.now += REFRESH_SECONDS
    assert not await senders.admits(STRANGER)
    assert lists.asked == (3, 3)
    assert len(lists.said) == 2  # one sentence a list, not one a try
    assert await senders.admits(WORLD)
    assert await senders.admits(RUSSIA)
    assert "the answer was 503" in lists.said[0]
    assert "the one from before holds" in lists.said[0]


async def test_who_goes_away_does_not_end_the_refresh_that_others_wait_for(lists: Lists) -> None:
    senders = lists.senders()
    await senders.start()
    lists.clock.now += REFRESH_SECONDS
    lists.world.answer = _answer([NEW])
    gate = lists.world.hold = threading.Event()
    first = asyncio.create_task(senders.admits(STRANGER))
    await until(lambda: lists.asked == (2, 2))
    second = asyncio.create_task(senders.admits(NEW))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    gate.set()
    assert await second


async def test_a_failure_is_told_again_after_it_had_passed(lists: Lists) -> None:
    senders = lists.senders()
    await senders.start()
    good = lists.russia.answer
    for answer in (RESET, RESET, good, RESET):
        lists.russia.answer = answer
        lists.clock.now += REFRESH_SECONDS
        assert not await senders.admits(STRANGER)
    assert len(lists.said) == 2


async def test_a_node_that_left_the_list_is_admitted_until_the_list_is_old(lists: Lists) -> None:
    senders = lists.senders()
    await senders.start()
    lists.world.answer = _answer({"nodes": [NEW]})
    lists.clock.now += OLD_SECONDS - 1
    assert await senders.admits(WORLD)
    assert lists.asked == (1, 1)
    lists.clock.now += 1
    assert await senders.admits(WORLD)  # at once: it does not wait for the refresh that it led to
    await until(lambda: lists.cached()["lists"][lists.world.url]["nodes"] == [f"{NEW}/32"])
    assert not await senders.admits(WORLD)
    assert await senders.admits(NEW)


async def test_a_clock_that_is_set_back_does_not_stop_refreshing(lists: Lists) -> None:
    senders = lists.senders()
    await senders.start()
    lists.clock.now -= 86_400
    lists.world.answer = _answer([NEW])
    assert await senders.admits(NEW)


async def test_a_young_cache_is_used_without_asking(lists: Lists) -> None:
    await lists.senders().start()
    lists.world.close()
    lists.russia.close()
    senders = lists.senders()
    await senders.start()
    assert await senders.admits(WORLD)
    assert await senders.admits(RUSSIA)
    assert not await senders.admits(STRANGER)
    assert lists.said == []
    assert (lists.home / CACHE).stat().st_mode & 0o777 == 0o600
    assert [file.name for file in lists.home.iterdir() if CACHE in file.name] == [CACHE]


async def test_an_old_cache_is_refreshed_and_holds_where_that_fails(lists: Lists) -> None:
    await lists.senders().start()
    lists.clock.now += OLD_SECONDS
    lists.world.answer = _answer([NEW])
    lists.russia.answer = answer_with("500 Oops")
    senders = lists.senders()
    await senders.start()
    assert not await senders.admits(WORLD)
    assert await senders.admits(NEW)
    assert await senders.admits(RUSSIA)
    assert len(lists.said) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"version": 2, "lists": {}}',
        b'{"version": 2, "lists": {"URL": {"read_at": NOW, "nodes": ["203.0.113.9"]}}}',
        b'{"version": 1, "lists": []}',
        b'{"version": 1, "lists": {"URL": []}}',
        b'{"version": 1, "lists": {"URL": {"read_at": NOW, "nodes": "3.217.33.54"}}}',
        b'{"version": 1, "lists": {"URL": {"read_at": NOW, "nodes": []}}}',
        b'{"version": 1, "lists": {"URL": {"read_at": NOW, "nodes": [7]}}}',
        b'{"version": 1, "lists": {"URL": {"read_at": NOW, "nodes": ["everybody"]}}}',
        b'{"version": 1, "lists": {"URL": {"read_at": NOW, "nodes": ["0.0.0.0/0"]}}}',
        b'{"version": 1, "lists": {"URL": {"read_at": NaN, "nodes": ["203.0.113.9"]}}}',
        b'{"version": 1, "lists": {"URL": {"read_at": 1%b, "nodes": ["203.0.113.9"]}}}' % (b"0" * 400),
        b'{"version": 1, "lists": {"URL": {"read_at": true, "nodes": ["203.0.113.9"]}}}',
        b'{"version": 1, "lists": {"URL": {"read_at": "now", "nodes": ["203.0.113.9"]}}}',
        b'{"version": 1, "lists": {"URL": {"nodes": ["203.0.113.9"]}}}',
        b'{"version": 1, "lists": {"URL": {"read_at": 9e99, "nodes": ["203.0.113.9"]}}}',
        b'{"version": 1, "lists": {"https://another.example.org/": {"read_at": NOW, "nodes": ["203.0.113.9"]}}}',
    ],
)
async def test_a_damaged_or_foreign_cache_is_loaded_anew(lists: Lists, content: bytes) -> None:
    now = str(lists.clock.now).encode()
    (lists.home / CACHE).write_bytes(content.replace(b"URL", lists.world.url.encode()).replace(b"NOW", now))
    for server in (lists.world, lists.russia):
        good, server.answer = server.answer, RESET
        with pytest.raises(OutsideFailure):  # nothing of it is taken where nothing else is to be had
            await Senders(lists.home, lists=[server.url], clock=lists.clock).start()
        server.answer = good
        server.requests.clear()
    senders = lists.senders()
    await senders.start()
    assert await senders.admits(WORLD)
    assert not await senders.admits(STRANGER)
    assert lists.asked == (1, 1)
    again = lists.senders()
    await again.start()
    assert await again.admits(WORLD)
    assert lists.asked == (1, 1)  # the second one reads what the first has written


async def test_without_cache_and_network_it_does_not_start(lists: Lists) -> None:
    lists.world.answer = lists.russia.answer = RESET
    with pytest.raises(OutsideFailure, match="leave --only-from-bitrix24 out"):
        await lists.senders().start()
    assert not (lists.home / CACHE).exists()


async def test_one_list_of_two_is_enough_to_start_and_the_other_is_told_and_asked_for_again(lists: Lists) -> None:
    good, lists.russia.answer = lists.russia.answer, answer_with("404 Not Found")
    senders = lists.senders()
    await senders.start()
    [told] = lists.said
    assert lists.russia.url in told
    assert "is refused until it can" in told
    assert await senders.admits(WORLD)
    assert not await senders.admits(RUSSIA)
    lists.russia.answer = good
    lists.clock.now += REFRESH_SECONDS
    assert await senders.admits(RUSSIA)


async def test_a_cache_that_cannot_be_written_is_told_once_and_the_lists_hold(lists: Lists) -> None:
    (lists.home / CACHE).mkdir()
    senders = lists.senders()
    await senders.start()
    lists.clock.now += REFRESH_SECONDS
    assert not await senders.admits(STRANGER)
    assert await senders.admits(WORLD)
    assert lists.asked == (2, 2)
    [told] = lists.said
    assert "cannot be kept" in told
    assert [file.name for file in lists.home.iterdir() if CACHE in file.name] == [CACHE]


def _redirect(request: Request) -> bytes:
    if request.line.startswith(b"GET /handler "):
        return answer_with("302 Found", b"", "Location: /elsewhere")
    return _answer([STRANGER])


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (_redirect, "the answer was 302"),
        (answer_with("404 Not Found"), "the answer was 404"),
        (answer_with("200 OK", b"<html>"), "it is no JSON"),
        (answer_with("200 OK", b"[" * LARGEST_LIST), "it is no JSON"),
        (answer_with("200 OK", b'["' + b"1" * LARGEST_LIST + b'"]'), f"it has more than {LARGEST_LIST:,} bytes"),
        (answer_with("200 OK", b"[]"), "it lists no nodes"),
        (answer_with("200 OK", b"{}"), "it lists no nodes"),
        (answer_with("200 OK", b"7"), "it lists no nodes"),
        (answer_with("200 OK", b'{"nodes": {"3.217.33.54": 1}}'), "it lists no nodes"),
        (answer_with("200 OK", b'["3.217.33.54", 7]'), "something that is no address"),
        (answer_with("200 OK", b'["3.217.33.54", "x"]'), "something that is no address"),
        (answer_with("200 OK", b'["0.0.0.0/0"]'), "in which nearly everybody is"),
        (answer_with("200 OK", b'["::/0"]'), "in which nearly everybody is"),
        (
            answer_with("200 OK", gzip.compress(b'["203.0.113.9"]', mtime=0), "Content-Encoding: gzip"),
            "it is no JSON",
        ),
    ],
)
async def test_an_answer_that_is_no_list_changes_nothing_and_is_told(
    lists: Lists, answer: Any, words: str
) -> None:
    senders = lists.senders()
    await senders.start()
    lists.world.answer = answer
    lists.clock.now += REFRESH_SECONDS
    assert not await senders.admits(STRANGER)
    assert await senders.admits(WORLD)
    [told] = lists.said
    assert words in told


def test_ten_thousand_nodes_are_a_list_and_one_more_is_none() -> None:
    nodes = [f"10.0.{n // 256}.{n % 256}" for n in range(MOST_NODES)]
    assert len(parse_list(json.dumps(nodes).encode())) == MOST_NODES
    with pytest.raises(NotAList, match="more than 10,000 nodes"):
        parse_list(json.dumps([*nodes, "10.1.0.0"]).encode())


def test_the_documented_forms_are_lists() -> None:
    assert len(parse_list(b'{"nodes":["3.217.33.54","52.29.163.104"]}')) == 2
    assert len(parse_list(b'\xef\xbb\xbf["195.208.184.200","89.208.230.2"]')) == 2


async def test_the_environments_proxy_is_used_but_not_for_this_machine(
    lists: Lists, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with RawServer(answer_with("403 Forbidden")) as proxy:
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        await lists.senders().start()
        assert lists.asked == (1, 1)
        assert proxy.requests == []
        with pytest.raises(OutsideFailure):
            await Senders(lists.home, lists=["https://lists.example.org/nodes"]).start()
        assert proxy.requests[0].line == b"CONNECT lists.example.org:443 HTTP/1.1"


@pytest.mark.parametrize("proxy", ["me:very-secret@h", "http://me:very-secret@127.0.0.1:PORT"])
async def test_a_proxys_password_is_not_told(lists: Lists, monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with RawServer(answer_with("407 Proxy Authentication Required")) as server:
        monkeypatch.setenv("https_proxy", proxy.replace("PORT", str(server.port)))
        senders = Senders(lists.home, lists=["https://lists.example.org/nodes"], say=lists.said.append)
        with pytest.raises(OutsideFailure):
            await senders.start()
    [told] = lists.said
    assert "https://lists.example.org/nodes" in told
    assert "very-secret" not in told


async def test_stopping_ends_a_refresh_and_who_waits_for_it(lists: Lists) -> None:
    senders = lists.senders()
    await senders.start()
    lists.clock.now += REFRESH_SECONDS
    lists.world.hold = threading.Event()
    waiting = asyncio.create_task(senders.admits(STRANGER))
    await until(lambda: lists.asked == (2, 2))
    await senders.stop()
    assert not await waiting
    assert lists.said == []  # it did not wait until that took too long
    await senders.stop()


@pytest.mark.parametrize(
    "url", ["http://example.org/l", "example.org", "https://", "https://h:x/", "https://a..b/", "file:///h"]
)
def test_a_list_has_to_be_read_by_https(home: Path, url: str) -> None:
    with pytest.raises(WrongUsage, match="is no address of a list of nodes"):
        Senders(home, lists=[url])


def test_the_number_of_lists_is_bounded(home: Path) -> None:
    for lists in ([], [f"https://{n}.example.org/" for n in range(MOST_LISTS + 1)]):
        with pytest.raises(WrongUsage, match="give 1 to"):
            Senders(home, lists=lists)


def test_the_published_lists_are_those_of_the_documentation() -> None:
    assert NODE_LISTS == (
        "https://dl.bitrix24.com/webhook/app-world.json",
        "https://repos.1c-bitrix.ru/webhook/app.json",
    )


NODE = WORLD
FORGED = [
    ("X-Forwarded-For", NODE),
    ("X-Real-IP", NODE),
    ("CF-Connecting-IP", NODE),
    ("True-Client-IP", NODE),
    ("Forwarded", f"for={NODE}"),
]


def without(name: str) -> list[tuple[str, str]]:
    return [header for header in FORGED if header[0] != name]


@pytest.mark.parametrize(
    ("provider", "headers", "peer", "wanted"),
    [
        # who sends to this machine itself is at the other end of the socket, whatever it claims
        ("local", FORGED, STRANGER, STRANGER),
        ("local", [], "::1", "::1"),
        ("local", [], "::ffff:203.0.113.9", STRANGER),
        ("local", FORGED, None, None),
        # ngrok adds to what came
        ("ngrok", [("X-Forwarded-For", STRANGER)], "127.0.0.1", STRANGER),
        (
            "ngrok",
            [*without("X-Forwarded-For"), ("x-forwarded-for", f"{NODE}, {STRANGER}")],
            "127.0.0.1",
            STRANGER,
        ),
        ("ngrok", [("X-Forwarded-For", f"{NODE},{NODE},{STRANGER}")], "127.0.0.1", STRANGER),
        ("ngrok", [("X-Forwarded-For", "2001:DB8::1")], "127.0.0.1", "2001:db8::1"),
        ("ngrok", [("X-Forwarded-For", f"{STRANGER}, {NODE}")], "127.0.0.1", NODE),
        ("ngrok", [("X-Forwarded-For", NODE), ("X-Forwarded-For", STRANGER)], "127.0.0.1", None),
        ("ngrok", [("X-Forwarded-For", STRANGER), ("X-Forwarded-For", NODE)], "127.0.0.1", None),
        ("ngrok", [("X-Forwarded-For", f"{NODE}, ")], "127.0.0.1", None),
        ("ngrok", [("X-Forwarded-For", f"{NODE}, unknown")], "127.0.0.1", None),
        ("ngrok", without("X-Forwarded-For"), NODE, None),
        # Cloudflare's edge sets a header of its own
        ("cloudflared", [*without("CF-Connecting-IP"), ("Cf-Connecting-Ip", STRANGER)], "127.0.0.1", STRANGER),
        ("cloudflared", [("CF-Connecting-IP", NODE), ("CF-Connecting-IP", STRANGER)], "127.0.0.1", None),
        ("cloudflared", [("CF-Connecting-IP", f"{NODE}, {STRANGER}")], "127.0.0.1", None),
        ("cloudflared", without("CF-Connecting-IP"), NODE, None),
        # tailscaled sets it anew
        ("tailscale", [*without("X-Forwarded-For"), ("X-Forwarded-For", STRANGER)], "127.0.0.1", STRANGER),
        ("tailscale", without("X-Forwarded-For"), NODE, None),
        # an own program's name
        ("mine", FORGED, NODE, None),
        ("", FORGED, NODE, None),
    ],
)
def test_only_what_the_tunnel_has_added_is_believed(
    provider: str, headers: list[tuple[str, str]], peer: str | None, wanted: str | None
) -> None:
    assert sender_address(headers, peer, provider) == wanted


@pytest.mark.parametrize("provider", sorted(FACTS))
def test_a_provider_that_is_not_known_to_tell_is_never_believed(provider: str) -> None:
    assert tells_sender(provider) == (provider in {"local", "ngrok", "cloudflared", "tailscale"})
    assert tells_sender(provider) == (provider in telling_providers())
    if not tells_sender(provider):
        assert sender_address(FORGED, NODE, provider) is None


async def test_a_forged_header_before_the_tunnels_own_does_not_help(lists: Lists) -> None:
    senders = lists.senders()
    await senders.start()
    for headers, admitted in (
        ([("X-Forwarded-For", f"{WORLD}, {STRANGER}")], False),
        ([("X-Forwarded-For", f"{STRANGER}, {WORLD}")], True),
    ):
        address = sender_address(headers, "127.0.0.1", "ngrok")
        assert address is not None
        assert await senders.admits(address) is admitted

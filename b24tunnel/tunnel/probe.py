"""Goes out to a public address and sees whether a delivery would come back here, whole."""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import time
import urllib.request
from collections.abc import Mapping
from urllib.parse import urlsplit

import aiohttp

from b24tunnel import form
from b24tunnel.this_machine import leads_to_this_machine
from b24tunnel.tunnel.finding import Answer, Finding, Headers, Request, judge
from b24tunnel.unanswered import why_unanswered

# It warns of proxies that it does not know, between the program's own lines.
logging.getLogger("aiohttp.client").addHandler(logging.NullHandler())

_SECONDS = 8.0
_LONGEST_ANSWER = 64 * 1024
# As Bitrix24's queue sends them (protocol.md: access logs of public servers).
_HEADERS = {
    "User-Agent": "Bitrix24 Webhook Engine",
    "Content-Type": "application/x-www-form-urlencoded",
    "Accept": "*/*",
}


class Prober:
    """Sends probes through public addresses; the receiver hands over what arrives (`arrived`)."""

    def __init__(self, path: str, seconds: float = _SECONDS) -> None:
        """``path``: the handler's, below which the receiver takes probes; ``seconds``: for one probe."""
        self._path = path
        self._seconds = seconds
        self._under_way: dict[str, _Probe] = {}

    def arrived(self, nonce: str, method: str, headers: Headers, body: bytes) -> bytes | None:
        """A request came for the probe ``nonce``: the answer's body, or None if no such probe is under way."""
        for known, probe in self._under_way.items():
            if hmac.compare_digest(known.encode(), nonce.encode("utf-8", "replace")):
                probe.arrived = Request(method, headers, body)
                return probe.reply
        return None

    async def probe(self, address: str) -> Finding:
        """POST something like a delivery to the public ``address`` (no slash at its end), and judge what came."""
        probe = _Probe()
        self._under_way[probe.nonce] = probe
        began = time.perf_counter()
        try:
            answer = await self._send(f"{address}{self._path}/probe/{probe.nonce}", probe.sent)
        finally:
            del self._under_way[probe.nonce]
        took = (time.perf_counter() - began) * 1000
        finding = judge(address, probe.sent, probe.arrived, probe.reply, answer)
        return Finding(finding.kind, finding.message, took) if finding.works else finding

    async def _send(self, url: str, request: Request) -> Answer | str:
        try:
            async with (
                asyncio.timeout(self._seconds),
                # A connection of its own and no cached names: what holds now, not a moment ago.
                aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(force_close=True, use_dns_cache=False),
                    trust_env=not leads_to_this_machine(url),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    skip_auto_headers=("Accept-Encoding",),
                ) as client,
                client.post(url, data=request.body, headers=request.headers, allow_redirects=False) as answer,
            ):
                beginning = await _beginning(answer.content)
                return Answer(answer.status, _pairs(answer.headers), beginning)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return why_unanswered(error, self._seconds) + _by_proxy(url)


class Unprobed:
    """For an address that cannot be probed from here, as behind a router that does not lead back inside."""

    async def probe(self, address: str) -> Finding:
        """It works, for all that is known; without a time."""
        return Finding("works", f"{address} is taken to lead here")


class _Probe:
    """One probe: what it sends, what is answered to it, and what has arrived of it."""

    def __init__(self) -> None:
        self.nonce = secrets.token_urlsafe(18)
        self.reply = secrets.token_urlsafe(18).encode()
        self.arrived: Request | None = None
        # What real deliveries have in them and what gets lost on bad ways: brackets, spaces, plus signs, Cyrillic,
        # empty values.
        body = form.encode(
            {
                "event": "ONAPPTEST",
                "event_handler_id": "0",
                "data": {"PROBE": self.nonce, "TEXT": "a b+c %26 проба", "EMPTY": "", "LIST": ["1", "2"]},
                "ts": str(int(time.time())),
                "auth": {"domain": "probe.invalid"},
            }
        )
        self.sent = Request("POST", tuple(_HEADERS.items()), body)


async def _beginning(stream: aiohttp.StreamReader) -> bytes:
    body = bytearray()
    while len(body) < _LONGEST_ANSWER and (piece := await stream.read(_LONGEST_ANSWER - len(body))):
        body += piece
    return bytes(body)


def _pairs(headers: Mapping[str, str]) -> Headers:
    return tuple(headers.items())


def _by_proxy(url: str) -> str:
    """That a proxy of the environment was asked, which may be what is wrong; without its user."""
    scheme = urlsplit(url).scheme
    proxy = urllib.request.getproxies().get(scheme)
    host = urlsplit(url).hostname or ""
    if leads_to_this_machine(url) or not proxy or urllib.request.proxy_bypass(host):
        return ""
    return f"; {scheme}_proxy of the environment names the proxy {proxy.rpartition('@')[2][:100]}"

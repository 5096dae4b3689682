"""Which addresses Bitrix24 sends from: its published lists, kept and refreshed, and further ones of the user's.

The lists are those of "Network access" (network-access.md), which asks to look at them every 5 to 10 minutes
because they change.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from b24tunnel.addresses import AddressSet, Network, parse_address, parse_network
from b24tunnel.errors import OutsideFailure, WrongUsage
from b24tunnel.node_cache import NodeList, load_cache, store_cache
from b24tunnel.this_machine import leads_to_this_machine

# All of the world, and Russia with its neighbours.
NODE_LISTS = (
    "https://dl.bitrix24.com/webhook/app-world.json",
    "https://repos.1c-bitrix.ru/webhook/app.json",
)
LARGEST_LIST = 64 * 1024
MOST_NODES = 10_000
MOST_LISTS = 16
# Seconds between two refreshes at least, and after which one is due though nobody unknown has asked.
REFRESH_SECONDS = 300.0
OLD_SECONDS = 3600.0
_FETCH_SECONDS = 10.0
# A list with larger networks than these would let nearly everybody in: it is none.
_WIDEST = {4: 8, 6: 16}


class NotAList(Exception):
    """What was read is no list of nodes; the message says why, in a few words."""


class Senders:
    """Whether a delivery's sender is one of Bitrix24's own servers, or one of the user's ``further`` ones.

    ``say`` is told, one sentence each, which list could not be loaded: once, until it could be again. ``clock``
    gives seconds since 1970.
    """

    def __init__(
        self,
        home: Path,
        *,
        lists: Sequence[str] = NODE_LISTS,
        further: Sequence[str] = (),
        clock: Callable[[], float] = time.time,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """Raises `WrongUsage` for a list's address that is no https one, and for what is no address or network."""
        if not 0 < len(lists) <= MOST_LISTS:
            raise WrongUsage(f"There are {len(lists)} lists of Bitrix24's nodes: give 1 to {MOST_LISTS}.")
        for url in lists:
            check_list_url(url)
        self._home = home
        self._urls = tuple(dict.fromkeys(lists))
        self._further = AddressSet(parse_senders(further))
        self._clock = clock
        self._say = say or (lambda sentence: None)
        self._lists: dict[str, NodeList] = {}
        self._nodes = AddressSet(())
        self._tried: float | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._failing: set[str] = set()

    async def start(self) -> None:
        """Load the lists from the cache, and from the network where it has none or an old one.

        Raises `OutsideFailure` when neither gives a single list.
        """
        cached = await asyncio.to_thread(load_cache, self._home)
        for url in self._urls:
            if (known := cached.get(url)) is not None:
                try:
                    parse_nodes(list(known.nodes))
                except NotAList:
                    continue  # a damaged cache is no cache: the list is loaded again
                self._lists[url] = known
        self._index()
        if self._is_old():
            await self._refresh()
        if not self._lists:
            raise OutsideFailure(
                "None of Bitrix24's lists of its servers' addresses can be loaded, so no sender can be told from "
                "another: see whether this machine reaches the internet, name mirrors as lists in [origin], or "
                "leave --only-from-bitrix24 out."
            )

    async def admits(self, address: str) -> bool:
        """Whether it is one of them. An unknown address may wait for a refresh, some seconds at most."""
        sender = parse_address(address)
        if sender is None:
            return False
        if sender in self._further:
            return True
        if sender in self._nodes:
            if self._is_old() and self._may_refresh():
                self._begin()  # it need not wait for it
            return True
        if self._refreshing is not None or self._may_refresh():
            await self._refresh()
        return sender in self._nodes

    async def stop(self) -> None:
        """End a refresh that is under way."""
        if (task := self._refreshing) is not None:
            task.cancel()
            await asyncio.wait([task])

    def _is_old(self) -> bool:
        now = self._clock()
        return any(
            url not in self._lists or not 0 <= now - self._lists[url].read_at < OLD_SECONDS for url in self._urls
        )

    def _may_refresh(self) -> bool:
        """Whether the last try is long enough ago; a clock that was set back does not make it wait for ever."""
        last = self._tried
        if last is None and len(self._lists) == len(self._urls):
            last = min(known.read_at for known in self._lists.values())
        return last is None or not 0 <= self._clock() - last < REFRESH_SECONDS

    def _begin(self) -> asyncio.Task[None]:
        if self._refreshing is None:
            self._tried = self._clock()
            self._refreshing = asyncio.create_task(self._load_all())
        return self._refreshing

    async def _refresh(self) -> None:
        """One refresh at a time: who comes meanwhile waits for it, and who goes away does not end it."""
        task = self._begin()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()

    async def _load_all(self) -> None:
        try:
            found = await asyncio.gather(*map(self._load, self._urls))
            loaded = {url: known for url, known in zip(self._urls, found, strict=True) if known is not None}
            if loaded:
                self._lists.update(loaded)
                self._index()
                await self._keep()
        finally:
            self._refreshing = None

    async def _load(self, url: str) -> NodeList | None:
        """A list as it is now; None, and a word about it, where it cannot be had."""
        import aiohttp

        try:
            nodes = parse_list(await _fetch(url))
        except (aiohttp.ClientError, OSError, TimeoutError, NotAList) as error:
            self._tell_once(url, _failure(url, error, known=url in self._lists))
            return None
        self._failing.discard(url)
        return NodeList(self._clock(), tuple(map(str, nodes)))

    async def _keep(self) -> None:
        try:
            await asyncio.to_thread(store_cache, self._home, dict(self._lists))
        except OSError as error:
            reason = error.strerror or type(error).__name__
            self._tell_once("cache", f"Bitrix24's lists of nodes cannot be kept in {self._home} ({reason}).")
        else:
            self._failing.discard("cache")

    def _tell_once(self, what: str, sentence: str) -> None:
        if what not in self._failing:
            self._failing.add(what)
            self._say(sentence)

    def _index(self) -> None:
        self._nodes = AddressSet(node for known in self._lists.values() for node in parse_nodes(list(known.nodes)))


def parse_senders(texts: Iterable[str]) -> list[Network]:
    """The user's own addresses and networks. Raises `WrongUsage` for what is neither."""
    networks = []
    for text in texts:
        if (network := parse_network(text)) is None:
            raise WrongUsage(f"{text!r} is no address of a sender: give one like 198.51.100.7 or 192.0.2.0/24.")
        networks.append(network)
    return networks


def check_list_url(url: str) -> None:
    """Raise `WrongUsage` unless it is an https address, or an http one on this machine: others could be forged."""
    try:
        parts = urlsplit(url)
        valid = bool(parts.hostname) and parts.port != 0
        (parts.hostname or "").encode("idna")  # raises for a host that no name server could be asked for
    except ValueError:
        valid = False
    if not valid or not (parts.scheme == "https" or (parts.scheme == "http" and leads_to_this_machine(url))):
        raise WrongUsage(
            f"{url!r} is no address of a list of nodes: give one like https://lists.example.org/nodes."
        )


def parse_list(content: bytes) -> list[Network]:
    """A published list, ``["192.0.2.1", …]`` or ``{"nodes": […]}``. Raises `NotAList` for anything else."""
    try:
        found = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise NotAList("it is no JSON") from error
    return parse_nodes(found.get("nodes") if isinstance(found, Mapping) else found)


def parse_nodes(found: object) -> list[Network]:
    """The networks of a list's texts. Raises `NotAList` where they are none, too many or too wide."""
    if not isinstance(found, list) or not found:
        raise NotAList("it lists no nodes")
    if len(found) > MOST_NODES:
        raise NotAList(f"it lists more than {MOST_NODES:,} nodes")
    networks = []
    for text in found:
        network = parse_network(text) if isinstance(text, str) else None
        if network is None:
            raise NotAList("it lists something that is no address")
        if network.prefixlen < _WIDEST[network.version]:
            raise NotAList(f"it lists the network {network}, in which nearly everybody is")
        networks.append(network)
    return networks


async def _fetch(url: str) -> bytes:
    """The list as it comes. Raises `NotAList` for another answer than 200, and for one that is too large."""
    import aiohttp

    async with (
        aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=_FETCH_SECONDS),
            trust_env=not leads_to_this_machine(url),
            cookie_jar=aiohttp.DummyCookieJar(),
            # Nothing compressed: a few bytes could become very many.
            auto_decompress=False,
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
        ) as session,
        session.get(url, allow_redirects=False) as response,
    ):
        if response.status != 200:
            raise NotAList(f"the answer was {response.status}")
        content = bytearray()
        async for chunk in response.content.iter_any():
            content += chunk
            if len(content) > LARGEST_LIST:
                raise NotAList(f"it has more than {LARGEST_LIST:,} bytes")
        return bytes(content)


def _failure(url: str, error: Exception, *, known: bool) -> str:
    from b24tunnel.redact import shown_url

    reason = str(error) or type(error).__name__
    if isinstance(error, TimeoutError):
        reason = "it took too long"
    elif isinstance(error, ValueError):  # its text is the address, and a proxy's may hold a password
        reason = "its address, or that of the proxy in the environment, is none"
    what = f"Bitrix24's list of its servers' addresses at {shown_url(url)} cannot be loaded ({reason})"
    if known:
        return f"{what}: the one from before holds until it can."
    return f"{what}: what the servers in it send is refused until it can, so see whether this machine reaches it."

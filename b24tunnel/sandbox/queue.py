"""The queue that posts events to handlers the way Bitrix24's queue server does.

One attempt a delivery, whatever comes back; nothing is repeated and no redirect is followed. Each handler URL
has its own lane, so that one handler does not hold up another. A host that answers slowly is called less often:
the pause between calls to it grows with each slow answer, up to a bound, and shrinks with each quick one.
Source: pages "Events" and "Queue of events"; the numbers are not documented there and are this sandbox's own.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from b24tunnel.queue_pacing import Pacing, Pause

from .logs import BoundedLog

MAX_QUEUED = 100_000
MAX_QUEUED_BYTES = 256 * 1024 * 1024
MAX_LOG_BYTES = 64 * 1024 * 1024
MAX_ANSWER_BYTES = 64 * 1024
MAX_PAUSES = 1_000


@dataclass(slots=True)
class Delivery:
    """One delivery in ``Sandbox.deliveries``; its later fields are filled in as it proceeds.

    ``handler_id``: the ``event_handler_id``. ``queued_at``, ``sent_at``: aware UTC; ``sent_at`` is None until
    the request is made. ``body``: the bytes posted, empty before. ``status``: the handler's HTTP status;
    ``error``: why there is none. ``duration``: seconds from the request to the end of the answer.
    """

    code: str
    handler_id: int
    url: str
    queued_at: datetime
    body: bytes = b""
    sent_at: datetime | None = None
    status: int | None = None
    error: str | None = None
    duration: float | None = None

    @property
    def done(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status is not None or self.error is not None


@dataclass(slots=True)
class _Item:
    delivery: Delivery
    due: float
    size: int
    body: Callable[[], bytes]


@dataclass(slots=True)
class _Lane:
    """One handler URL: what waits for it and who works on it."""

    items: deque[_Item] = field(default_factory=deque)
    workers: set[asyncio.Task[None]] = field(default_factory=set)


class Queue:
    """Takes deliveries, posts each once. Lives in one event loop between ``start`` and ``stop``."""

    def __init__(
        self, delay: float, pacing: Pacing, log_length: int, on_done: Callable[[Delivery], None] | None = None
    ) -> None:
        """``delay``: seconds between an event and its delivery. ``on_done``: called with each that was tried."""
        self._on_done = on_done
        self.delay = delay
        self.pacing = pacing
        self._log: BoundedLog[Delivery] = BoundedLog(log_length, MAX_LOG_BYTES)
        self._lanes: dict[str, _Lane] = {}
        self._pauses: dict[str, Pause] = {}
        self._session: aiohttp.ClientSession | None = None
        self._waiting = 0
        self._waiting_bytes = 0
        self._outstanding = 0
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def running(self) -> bool:
        """Whether deliveries can be taken."""
        return self._session is not None

    def start(self) -> None:
        """Opens the HTTP client. Needs a running event loop."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("Accept",),
            timeout=aiohttp.ClientTimeout(total=self.pacing.timeout),
        )

    async def stop(self) -> None:
        """Gives up what is under way and what waits; closes the client."""
        session, self._session = self._session, None
        workers = [worker for lane in self._lanes.values() for worker in lane.workers]
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        for lane in self._lanes.values():
            for item in lane.items:
                item.delivery.error = "the sandbox was stopped before this delivery was sent"
        self._lanes.clear()
        self._pauses.clear()
        self._waiting = self._waiting_bytes = self._outstanding = 0
        self._empty.set()
        if session is not None:
            await session.close()

    def put(self, code: str, handler_id: int, url: str, head: bytes, tail: Callable[[], bytes]) -> bool:
        """Queues one delivery; False, with an entry in the log, when the queue is full.

        ``head``: the body up to ``auth``. ``tail``: makes the rest when the request is about to be sent, so
        that tokens are fresh however long the delivery waited.
        """
        delivery = Delivery(code, handler_id, url, datetime.now(UTC))
        size = len(head)
        self._log.append(delivery, size + 1024)
        if self._waiting >= MAX_QUEUED or self._waiting_bytes + size > MAX_QUEUED_BYTES:
            delivery.error = f"dropped: {self._waiting} deliveries were waiting already"
            return False
        lane = self._lanes.setdefault(url, _Lane())
        lane.items.append(_Item(delivery, time.monotonic() + self.delay, size, lambda: head + tail()))
        self._waiting += 1
        self._waiting_bytes += size
        self._outstanding += 1
        self._empty.clear()
        if len(lane.workers) < self.pacing.concurrency:
            worker = asyncio.get_running_loop().create_task(self._work(url, lane))
            lane.workers.add(worker)
        return True

    def deliveries(self) -> list[Delivery]:
        """The log of deliveries, oldest first."""
        return self._log.entries()

    def pause(self, url: str) -> float:
        """The present pause, in seconds, between calls to the host of ``url``; 0 for a quick handler."""
        pause = self._pauses.get(urlsplit(url).netloc)
        return 0.0 if pause is None else pause.seconds

    async def idle(self, timeout: float) -> None:
        """Waits until nothing waits or is under way. Raises TimeoutError after ``timeout`` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._empty.wait()
        except TimeoutError:
            raise TimeoutError(
                f"{self._outstanding} deliveries of the sandbox were not done after {timeout:g} s"
            ) from None

    async def _work(self, url: str, lane: _Lane) -> None:
        """Posts what waits in a lane, one after the other, and ends when nothing does."""
        netloc = urlsplit(url).netloc
        try:
            while lane.items:
                item = lane.items.popleft()
                try:
                    await _sleep_until(item.due)
                    await self._keep_pace(netloc)
                    await self._post(item, netloc)
                except asyncio.CancelledError:
                    item.delivery.error = item.delivery.error or "the sandbox was stopped during this delivery"
                    raise
                finally:
                    self._waiting_bytes -= item.size
                    self._waiting -= 1
                    self._outstanding -= 1
                    if self._outstanding == 0:
                        self._empty.set()
        finally:
            task = asyncio.current_task()
            if task is not None:
                lane.workers.discard(task)
            if not lane.workers and not lane.items and self._lanes.get(url) is lane:
                del self._lanes[url]

    async def _keep_pace(self, netloc: str) -> None:
        pause = self._pauses.get(netloc)
        if pause is not None:
            await _sleep_until(pause.next_start())

    async def _post(self, item: _Item, netloc: str) -> None:
        session = self._session
        if session is None:
            return
        delivery = item.delivery
        delivery.body = item.body()
        delivery.sent_at = datetime.now(UTC)
        started = time.monotonic()
        try:
            # The order is that of a captured request; nothing else goes out (Host comes first by itself).
            headers = {
                "User-Agent": "Bitrix24 Webhook Engine",
                "Content-Type": "application/x-www-form-urlencoded",
                "Content-Length": str(len(delivery.body)),
                "Accept-Encoding": "gzip",
                "Connection": "close",
            }
            async with session.post(
                _address(delivery.url), data=delivery.body, headers=headers, allow_redirects=False
            ) as answer:
                await _read(answer.content)
                delivery.status = answer.status
        except TimeoutError:
            delivery.error = f"no complete answer within {self.pacing.timeout:g} s"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            delivery.error = f"{type(error).__name__}: {error}"
        delivery.duration = time.monotonic() - started
        self._set_pace(netloc, delivery.duration)
        if self._on_done is not None:
            self._on_done(delivery)

    def _set_pace(self, netloc: str, duration: float) -> None:
        pause = self._pauses.get(netloc)
        if pause is None:
            if not self.pacing.is_slow(duration):
                return
            if len(self._pauses) >= MAX_PAUSES:
                del self._pauses[next(iter(self._pauses))]
            pause = self._pauses[netloc] = Pause(self.pacing)
        pause.answered(duration)
        if not pause.seconds:
            del self._pauses[netloc]


def _address(url: str) -> URL:
    """The URL as it was bound, without normalising what the handler's owner wrote."""
    return URL(url, encoded=url.isascii())


async def _read(content: aiohttp.StreamReader) -> None:
    """Reads an answer to its end, or as much of it as anybody would."""
    read = 0
    while read < MAX_ANSWER_BYTES and (chunk := await content.readany()):
        read += len(chunk)


async def _sleep_until(moment: float) -> None:
    remaining = moment - time.monotonic()
    if remaining > 0:
        await asyncio.sleep(remaining)

"""A session's handlers: who gets what is recorded, and what earlier sessions could not hand over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import chain
from typing import Any

from b24tunnel.errors import UserError
from b24tunnel.forward import Forwarder, Sender
from b24tunnel.happenings import Happening, Note, Pending, Trouble
from b24tunnel.journal import Journal, JournalWriter
from b24tunnel.portal.lock import FileLock
from b24tunnel.recording import Recording
from b24tunnel.routes import Route

_SETTLE_SECONDS = 1.0


class HandingOver:
    """Forwards to every handler what its routes want, each with its own attempts and at its own pace."""

    def __init__(
        self,
        routes: Sequence[Route],
        journal: Journal,
        emit: Callable[[Happening], None],
        *,
        resume: bool | None,
        timeout: float,
        concurrency: int,
    ) -> None:
        """``resume``: what earlier sessions left is handed over too; None tells of it and waits for `resume`."""
        self._routes = routes
        self._handlers = tuple(dict.fromkeys(route.to for route in routes))
        self._begin = asyncio.Event()
        self._journal = journal
        self._emit = emit
        self._resume = asyncio.Event()
        if resume:
            self._resume.set()
        self._wants_resume = resume is not False
        self._timeout = timeout
        self._concurrency = concurrency
        self._alone = FileLock(journal.directory / "resume.lock")
        self._left = False
        self._resumed = 0
        self._got: dict[str, set[str]] = {url: set() for url in self._handlers}
        self._forwarders: list[Forwarder] = []

    @property
    def in_journal(self) -> dict[str, Any]:
        """What the session's first line says of it, for `JournalWriter`."""
        if not self._routes:
            return {}
        by_handler = {url: [r.events for r in self._routes if r.to == url] for url in self._handlers}
        routes = tuple((url, tuple(chain.from_iterable(events))) for url, events in by_handler.items())
        everything = len(routes) == 1 and "*" in routes[0][1]
        return {"forward": self._handlers[0], "routes": () if everything else routes}

    def begin(self) -> None:
        """Forward from now on: until then what is recorded waits."""
        self._begin.set()

    def resume(self) -> None:
        """Hand over now what `Pending` told of."""
        self._resume.set()

    async def find_pending(self) -> None:
        """Tell what earlier sessions left to be forwarded. Before this session's own file is there."""
        if not self._handlers or not self._wants_resume:
            return
        if ids := await asyncio.to_thread(self._find_owed):
            self._left = True
            if not self._resume.is_set():
                self._emit(Pending(ids, False))

    def release(self) -> None:
        """Let another session hand over what is left."""
        self._alone.release()

    @asynccontextmanager
    async def running(
        self, writer: JournalWriter, stop_receiving: Callable[[], Awaitable[None]], recorded: Callable[[], int]
    ) -> AsyncIterator[list[asyncio.Task[None]]]:
        """The handlers get what is recorded, inside the block, once it has begun; the tasks that see to it.

        At the end ``stop_receiving`` is awaited, and those who answer at once still get the last of ``recorded``.
        """
        first: tuple[str, ...] = ()
        if self._resume.is_set():
            first = await self._take_pending()
        async with AsyncExitStack() as stack:
            for url in self._handlers:
                sender = await stack.enter_async_context(
                    Sender(url, cause="forward", timeout=self._timeout, concurrency=self._concurrency)
                )
                self._forwarders.append(
                    Forwarder(
                        writer,
                        sender,
                        concurrency=self._concurrency,
                        first=self._journal.these(first),
                        wants=self._wanted_at(url),
                        on_trouble=lambda message: self._emit(Trouble(message)),
                        on_note=lambda message: self._emit(Note(message)),
                    )
                )
            tasks = [asyncio.create_task(self._forward(forwarder)) for forwarder in self._forwarders]
            later = asyncio.create_task(self._hand_over_when_asked())
            try:
                yield tasks
            finally:
                await stop_receiving()
                await self._settle(recorded() + self._resumed, tasks)
                for ending in (later, *tasks):
                    ending.cancel()
                await asyncio.gather(later, *tasks, return_exceptions=True)

    async def _forward(self, forwarder: Forwarder) -> None:
        await self._begin.wait()
        await forwarder.run()

    def still_pending(self, recorded: int) -> int:
        """How many recordings, of ``recorded`` ones and of those resumed, some handler did not get."""
        total = recorded + self._resumed
        if not self._forwarders:  # it has not come to that
            return total if self._handlers else 0
        return max(total - forwarder.settled for forwarder in self._forwarders)

    async def _settle(self, count: int, tasks: list[asyncio.Task[None]]) -> None:
        """A handler that is slow or away waits for next time."""
        settled = asyncio.create_task(self._settled(count))
        await asyncio.wait((settled, *tasks), timeout=_SETTLE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        settled.cancel()
        await asyncio.gather(settled, return_exceptions=True)

    async def _settled(self, count: int) -> None:
        for forwarder in self._forwarders:
            await forwarder.settled_at_least(count)

    async def _take_pending(self) -> tuple[str, ...]:
        """What is to be handed over now, once; one session at a time does, until it ends."""
        if not self._left:
            return ()
        self._left = False
        if not self._alone.try_acquire():
            self._emit(Note("Another session is handing over what earlier ones left."))
            return ()
        ids = await asyncio.to_thread(self._find_owed)  # another may just have handed them over
        if ids:
            self._emit(Pending(ids, True))
        self._resumed = len(ids)
        return ids

    def _find_owed(self) -> tuple[str, ...]:
        """The ids of what a handler of this session is owed; notes which of them has got which already."""
        found = []
        for debt in self._journal.debts():
            wanting = {route.to for route in self._routes if route.wants(debt.code)}
            if any(debt.is_open_at(url) for url in wanting):
                found.append(debt.id)
                for url in wanting:
                    if not debt.is_open_at(url):
                        self._got[url].add(debt.id)
        return tuple(found)

    async def _hand_over_when_asked(self) -> None:
        await self._resume.wait()
        try:
            ids = await self._take_pending()
            await asyncio.gather(*(each.hand_over(self._journal.these(ids)) for each in self._forwarders))
        except UserError as error:
            self._emit(Trouble(f"What earlier sessions left could not be handed over: {error}"))

    def _wanted_at(self, url: str) -> Callable[[Recording], bool]:
        routes = [route for route in self._routes if route.to == url]
        got = self._got[url]

        def wanted(recording: Recording) -> bool:
            if not recording.to_be_forwarded or recording.id in got:
                return False
            return any(route.wants(recording.code) for route in routes)

        return wanted

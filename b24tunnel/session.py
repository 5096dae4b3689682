"""One `listen`: puts the parts together, and takes them apart again in whatever way it ends."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from b24tunnel import forward as forwarding
from b24tunnel.bound import BoundHandler
from b24tunnel.errors import OutsideFailure, UserError, WrongUsage
from b24tunnel.handler_path import handler_segment
from b24tunnel.happenings import (
    Attempted,
    Happening,
    Note,
    Pending,
    Ready,
    Recorded,
    Stopped,
    Trouble,
    TunnelProbed,
)
from b24tunnel.journal import Journal, JournalUnwritable, JournalWriter, Tail, follow, rest, rest_unread
from b24tunnel.portal import Portal, State
from b24tunnel.portal.lock import FileLock
from b24tunnel.receiver import MAX_BODY, Receiver
from b24tunnel.recording import Attempt, Record, Recording
from b24tunnel.tunnel.probe import Prober, Unprobed
from b24tunnel.tunnel.supervisor import Candidate, Pace, Supervisor, TunnelState
from b24tunnel.unhurried import Unhurried

_SETTLE_SECONDS = 1.0
_SHOW_SECONDS = 1.0


@dataclass(frozen=True)
class Settings:
    """What one session is to do. ``timeout`` is seconds for the handler's answer, ``max_body`` bytes.

    ``tunnels``: those that may be tried, in this order. ``probe``: whether an address has to be seen to work.
    ``keep_bound``: whether the bindings stay when the session ends. ``resume``: whether to forward what earlier
    sessions could not; None tells of it and waits for `resume`.
    """

    recordings: Path
    tunnels: tuple[Candidate, ...]
    events: tuple[str, ...] = ()
    portal: Portal | None = None
    state: State | None = None
    bind: bool = True
    keep_bound: bool = False
    probe: bool = True
    pace: Pace = field(default_factory=Pace)
    forward: str | None = None
    resume: bool | None = None
    host: str = "127.0.0.1"
    port: int = 0
    concurrency: int = forwarding.CONCURRENCY
    timeout: float = forwarding.TIMEOUT
    max_body: int = MAX_BODY


async def _always() -> None:
    """For whoever has room for every happening."""


class Session:
    """Receives, records and forwards from `run` until ``stop`` is set."""

    def __init__(
        self,
        settings: Settings,
        emit: Callable[[Happening], None],
        room: Callable[[], Awaitable[None]] = _always,
    ) -> None:
        """``emit`` gets each happening, in order, in the event loop, and must not block.

        ``room`` returns when there is room for another: until then recordings and attempts wait in the journal.
        """
        self._settings = settings
        self._emit = emit
        self._room = room
        self._answered = 0
        self._failed = 0
        self._recorded = 0
        self._ready = False
        self._handler_url = ""
        self._bound: BoundHandler | None = None
        self._tunnel: TunnelState | None = None
        self._pending = False
        self._resumed = 0
        self._forwarder: forwarding.Forwarder | None = None
        self._resume = asyncio.Event()
        if settings.resume:
            self._resume.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Run until ``stop`` is set, then unbind, close and emit `Stopped`.

        Raises a `UserError` when it cannot start, or when a part of it failed; what it had bound is unbound
        then too. Stopped before it was ready, it takes back what it had begun.
        """
        running = asyncio.create_task(self._run(stop))
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((running, stopped), return_when=asyncio.FIRST_COMPLETED)
            if not self._ready:
                running.cancel()
            await asyncio.wait((running,))
            try:
                running.result()
            except asyncio.CancelledError as cancelled:
                # Stopped while a start that had failed already was being taken back: the failure is the news.
                if (failure := _user_error_behind(cancelled)) is not None:
                    raise failure from None
                if self._bound is None or not self._bound.left:
                    self._emit(Note("Stopped before it was ready; what had begun was taken back."))
        finally:
            for task in (running, stopped):
                task.cancel()
            await asyncio.gather(running, stopped, return_exceptions=True)

    def resume(self) -> None:
        """Forward now what `Pending` told of."""
        self._resume.set()

    def tell_tunnel(self) -> None:
        """Emit how the public address is now, for a person to see."""
        if self._tunnel is not None and self._ready:
            self._emit(TunnelProbed(self._tunnel, asked=True))

    async def _run(self, stop: asyncio.Event) -> None:
        settings = self._settings
        check_reachable(settings)
        if settings.forward is not None:
            forwarding.check_handler_url(settings.forward)
        journal = Journal.open(settings.recordings)
        for torn in journal.torn:
            self._emit(Trouble(str(torn)))
        handing_over = FileLock(journal.directory / "resume.lock")
        async with AsyncExitStack() as stack:
            stack.callback(handing_over.release)
            await self._find_pending(journal)
            writer = JournalWriter(settings.recordings, forward=settings.forward)
            stack.push_async_callback(self._close_journal, writer)
            segment = handler_segment(settings.recordings)
            prober = Prober(f"/b24/{segment}")
            receiver = Receiver(
                writer,
                segment,
                max_body=settings.max_body,
                portal=settings.portal.name if settings.portal else None,
                application_token=settings.portal.application_token or None if settings.portal else None,
                on_probe=prober.arrived,
                on_trouble=self._trouble,
                on_note=self._note,
            )
            port = await receiver.start(settings.host, settings.port)
            stack.push_async_callback(receiver.stop)
            check_no_loop(settings.forward, port)
            supervisor = Supervisor(
                settings.tunnels,
                prober if settings.probe else Unprobed(),
                say=self._note,
                trouble=self._trouble,
                on_state=self._tell_tunnel,
                pace=settings.pace,
            )
            stack.push_async_callback(supervisor.close)  # also of one that was cancelled while it opened
            handler_url = await supervisor.open(port, unproven=not self._binds) + receiver.path
            running = [await stack.enter_async_context(self._watching(writer, receiver))]
            if settings.forward is not None:
                forwarding_it = self._forwarding(settings.forward, writer, receiver, journal, handing_over)
                running.append(await stack.enter_async_context(forwarding_it))
            if settings.portal is not None and settings.bind:
                state = settings.state or State.open()
                self._bound = BoundHandler(
                    settings.portal, state, self._emit, back_off=settings.pace.back_off, keep=settings.keep_bound
                )
                await stack.enter_async_context(self._bound.to(handler_url, settings.events))
                running.append(await stack.enter_async_context(_going_on(self._bound.follow())))
            watching_it = supervisor.watch(lambda url: self._moved(url + receiver.path))
            running.append(await stack.enter_async_context(_going_on(watching_it)))
            self._handler_url = handler_url
            self._ready = True
            self._emit(
                Ready(
                    session=writer.session,
                    handler_url=handler_url,
                    port=port,
                    tunnel=supervisor.tunnel.name,
                    events=settings.events,
                    portal=settings.portal.name if settings.portal else None,
                    forward=settings.forward,
                    recordings=str(settings.recordings),
                )
            )
            self.tell_tunnel()
            await _first_of(stop, running)
        self._emit(
            Stopped(
                session=writer.session,
                recorded=self._recorded,
                answered=self._answered,
                failed=self._failed,
                pending=self._still_pending(),
                refused=receiver.refused,
                rejected=receiver.rejected,
                tunnel=self._tunnel,
            )
        )

    @property
    def _binds(self) -> bool:
        return self._settings.portal is not None and self._settings.bind

    def _note(self, message: str) -> None:
        self._emit(Note(message))

    def _trouble(self, message: str) -> None:
        self._emit(Trouble(message))

    def _tell_tunnel(self, state: TunnelState) -> None:
        self._tunnel = state
        if self._ready:
            self._emit(TunnelProbed(state))

    def _moved(self, handler_url: str) -> None:
        """The address may be another one now."""
        if handler_url == self._handler_url:
            return
        self._handler_url = handler_url
        if self._bound is not None:
            self._bound.move_to(handler_url)
        else:
            self._emit(
                Trouble(f"The address is another one now, to be pasted in place of the former: {handler_url}")
            )

    async def _find_pending(self, journal: Journal) -> None:
        """Tell what earlier sessions left to be forwarded."""
        if self._settings.forward is None or self._settings.resume is False:
            return
        if ids := await asyncio.to_thread(journal.pending):
            self._pending = True
            if not self._resume.is_set():
                self._emit(Pending(tuple(ids), False))

    async def _take_pending(self, journal: Journal, handing_over: FileLock) -> tuple[str, ...]:
        """What is to be handed over now, once; one session at a time does, until it ends."""
        if not self._pending:
            return ()
        self._pending = False
        if not handing_over.try_acquire():
            self._emit(Note("Another session is handing over what earlier ones left."))
            return ()
        ids = tuple(await asyncio.to_thread(journal.pending))  # again: another may just have handed them over
        if ids:
            self._emit(Pending(ids, True))
        self._resumed = len(ids)
        return ids

    @asynccontextmanager
    async def _forwarding(
        self, url: str, writer: JournalWriter, receiver: Receiver, journal: Journal, handing_over: FileLock
    ) -> AsyncIterator[asyncio.Task[None]]:
        settings = self._settings
        first: Iterable[Recording] = ()
        if self._resume.is_set():
            first = journal.these(await self._take_pending(journal, handing_over))
        async with forwarding.Sender(
            url, cause="forward", timeout=settings.timeout, concurrency=settings.concurrency
        ) as sender:
            forwarder = self._forwarder = forwarding.Forwarder(
                writer,
                sender,
                concurrency=settings.concurrency,
                first=first,
                on_trouble=self._trouble,
                on_note=self._note,
            )
            task = asyncio.create_task(forwarder.run())
            later = asyncio.create_task(self._hand_over_when_asked(journal, handing_over, forwarder))
            try:
                yield task
            finally:
                # Those who answer at once still get theirs; a handler that is slow or away waits for next time.
                await receiver.stop()
                settled = asyncio.create_task(forwarder.settled_at_least(receiver.recorded + self._resumed))
                await asyncio.wait((settled, task), timeout=_SETTLE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                for ending in (settled, later, task):
                    ending.cancel()
                await asyncio.gather(settled, later, task, return_exceptions=True)

    async def _hand_over_when_asked(
        self, journal: Journal, handing_over: FileLock, forwarder: forwarding.Forwarder
    ) -> None:
        await self._resume.wait()
        await forwarder.hand_over(journal.these(await self._take_pending(journal, handing_over)))

    @asynccontextmanager
    async def _watching(self, writer: JournalWriter, receiver: Receiver) -> AsyncIterator[asyncio.Task[None]]:
        """Emit what reaches the journal, as it stands there, to the last record."""
        tail = Tail(writer.directory, writer.session, keep_open=True)
        unhurried = Unhurried(lambda: receiver.recorded)  # senders wait for answers, nobody for what is shown

        async def room() -> None:
            await unhurried.pause()
            await self._room()

        async def watch() -> None:
            async for record in follow(writer, tail, room):
                self._tell(record)

        task = asyncio.create_task(watch())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self._tell_the_rest(writer, tail)

    async def _tell_the_rest(self, writer: JournalWriter, tail: Tail) -> None:
        """Emit what is left as long as there is room for it soon, and count it in any case."""
        hidden = 0
        left = rest(writer, tail)
        end = time.monotonic() + _SHOW_SECONDS
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SHOW_SECONDS):
                while time.monotonic() < end and (record := next(left, None)) is not None:
                    self._tell(record)
                    await self._room()
        for unread in rest_unread(writer, tail):
            if unread is None:
                self._recorded += 1
            else:
                self._tell(unread, shown=False)
            hidden += 1
        tail.close()
        if hidden:
            self._emit(Note(f"{hidden} recordings and attempts are in the journal and were not shown."))

    def _tell(self, record: Record, shown: bool = True) -> None:
        happening: Happening
        if isinstance(record, Recording):
            self._recorded += 1
            happening = Recorded(record)
        elif isinstance(record, Attempt):
            if record.ok:
                self._answered += 1
            elif record.delivered:
                self._failed += 1
            happening = Attempted(record)
        else:
            return
        if shown:
            self._emit(happening)

    def _still_pending(self) -> int:
        """How many recordings, of this session and the resumed ones, were to be forwarded and are not settled."""
        if self._forwarder is None:
            return 0
        return max(0, self._recorded + self._resumed - self._forwarder.settled)

    async def _close_journal(self, writer: JournalWriter) -> None:
        try:
            await writer.close(self._still_pending())
        except JournalUnwritable as error:
            self._emit(Trouble(f"The session's last line could not be written. {error}"))


def check_reachable(settings: Settings) -> None:
    """Raise `WrongUsage` where a portal on the internet would be given an address of this machine."""
    if settings.portal is None or not settings.bind or settings.portal.on_this_machine:
        return
    if all(candidate.tunnel.name == "local" for candidate in settings.tunnels):
        where = settings.portal.domain or "the internet"
        raise WrongUsage(
            f"The portal {settings.portal.name!r} is on {where} and cannot reach this machine itself: leave "
            "--tunnel local out, or give the public address that leads here with --public-url https://…."
        )


def check_no_loop(forward: str | None, port: int) -> None:
    """Raise `WrongUsage` where recordings would be forwarded to the receiver itself, over and over."""
    if forward is None:
        return
    parts = urlsplit(forward)
    if parts.hostname in ("127.0.0.1", "localhost", "::1") and parts.port == port:
        raise WrongUsage(f"--forward leads to the receiver's own port {port}: give your handler's address.")


def _user_error_behind(error: BaseException) -> UserError | None:
    """The user's error that was being handled when ``error`` came, if any."""
    context = error.__context__
    while context is not None and not isinstance(context, UserError):
        context = context.__context__
    return context


@asynccontextmanager
async def _going_on(work: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    """The work goes on inside the block, as a task."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _first_of(stop: asyncio.Event, running: list[asyncio.Task[None]]) -> None:
    """Wait for ``stop``; raise what a part failed with, if one does before."""
    stopped = asyncio.create_task(stop.wait())
    try:
        done, _ = await asyncio.wait((stopped, *running), return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
    for task in done:
        if task is not stopped:
            error = task.exception()
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            if isinstance(error, UserError):
                raise error
            raise OutsideFailure(f"A part of the session stopped unexpectedly: {error!r}") from error

"""One `listen`: puts the parts together, and takes them apart again in whatever way it ends."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from b24tunnel import forward as forwarding
from b24tunnel.bound import BoundHandler
from b24tunnel.catching_up import ONLINE_SECONDS, CatchUp
from b24tunnel.errors import OutsideFailure, UserError, WrongUsage
from b24tunnel.handing_over import HandingOver
from b24tunnel.handler_path import handler_segment
from b24tunnel.happenings import (
    Attempted,
    Happening,
    Note,
    Ready,
    Recorded,
    Stopped,
    Trouble,
    TunnelProbed,
)
from b24tunnel.installations import Installations
from b24tunnel.journal import Journal, JournalUnwritable, JournalWriter, Tail, follow, rest, rest_unread
from b24tunnel.origin import Origin
from b24tunnel.pass_through import PassThrough
from b24tunnel.portal import Portal, State
from b24tunnel.receiver import MAX_BODY, Receiver
from b24tunnel.recording import Attempt, Record, Recording
from b24tunnel.routes import Route
from b24tunnel.sender_address import sender_address
from b24tunnel.senders import Senders
from b24tunnel.this_machine import leads_to_this_machine
from b24tunnel.tunnel.probe import Prober, Unprobed
from b24tunnel.tunnel.supervisor import Candidate, Pace, Supervisor, TunnelState
from b24tunnel.unhurried import Unhurried

if TYPE_CHECKING:
    from b24tunnel.portal.sign_in import SignIn

_SHOW_SECONDS = 1.0


@dataclass(frozen=True)
class Settings:
    """What one session is to do. ``timeout`` is seconds for the handler's answer, ``max_body`` bytes.

    ``tunnels``: those that may be tried, in this order. ``probe``: whether an address has to be seen to work.
    ``keep_bound``: whether the bindings stay when the session ends. ``resume``: whether to forward what earlier
    sessions could not; None tells of it and waits for `resume`. ``forward`` gets everything, and each of
    ``routes`` what it wants. ``pass_through``: the application that every other path is carried to.
    ``catch_up``: whether what happened meanwhile is taken from the portal's offline queue. ``senders``: who may
    deliver (None: anybody). ``sign_in``: whose return from the portal is waited for.
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
    routes: tuple[Route, ...] = ()
    pass_through: str | None = None
    catch_up: bool = False
    senders: Senders | None = None
    sign_in: SignIn | None = None
    resume: bool | None = None
    host: str = "127.0.0.1"
    port: int = 0
    concurrency: int = forwarding.CONCURRENCY
    timeout: float = forwarding.TIMEOUT
    max_body: int = MAX_BODY

    @property
    def all_routes(self) -> tuple[Route, ...]:
        """Every handler with what it gets."""
        everything = () if self.forward is None else (Route(("*",), self.forward),)
        return everything + self.routes


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
        self._caught_up = 0
        self._ready = False
        self._handler_url = ""
        self._bound: BoundHandler | None = None
        self._tunnel: TunnelState | None = None
        self._handing_over: HandingOver | None = None
        self._receiver: Receiver | None = None
        self._gap_is_over = asyncio.Event()
        self._listening_since = 0.0

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
        if self._handing_over is not None:
            self._handing_over.resume()

    def tell_tunnel(self) -> None:
        """Emit how the public address is now, for a person to see."""
        if self._tunnel is not None and self._ready:
            self._emit(TunnelProbed(self._tunnel, asked=True))

    async def _run(self, stop: asyncio.Event) -> None:
        settings = self._settings
        check_reachable(settings)
        routes = settings.all_routes
        for route in routes:
            forwarding.check_handler_url(route.to)
        journal = Journal.open(settings.recordings)
        for torn in journal.torn:
            self._emit(Trouble(str(torn)))
        async with AsyncExitStack() as stack:
            handing_over = self._handing_over = HandingOver(
                routes,
                journal,
                self._emit,
                # What a run that was killed had caught up was never handed over either.
                resume=True if settings.catch_up and settings.resume is None else settings.resume,
                timeout=settings.timeout,
                concurrency=settings.concurrency,
            )
            if settings.senders is not None:
                await settings.senders.start()
                stack.push_async_callback(settings.senders.stop)
            stack.callback(handing_over.release)
            await handing_over.find_pending()
            writer = JournalWriter(settings.recordings, **handing_over.in_journal)
            stack.push_async_callback(self._close_journal, writer)
            segment = handler_segment(settings.recordings)
            prober = Prober(f"/b24/{segment}")
            origin = self._origin(stack)
            stack.push_async_callback(origin.close)
            supervisor = Supervisor(
                settings.tunnels,
                prober if settings.probe else Unprobed(),
                say=self._note,
                trouble=self._trouble,
                on_state=self._tell_tunnel,
                pace=settings.pace,
            )
            receiver = self._receiver = Receiver(
                writer,
                segment,
                max_body=settings.max_body,
                portal=settings.portal.name if settings.portal else None,
                origin=origin,
                sender_address=lambda headers, peer: sender_address(headers, peer, supervisor.tunnel.name),
                on_probe=prober.arrived,
                on_return=settings.sign_in.take if settings.sign_in else None,
                on_trouble=self._trouble,
                on_note=self._note,
            )
            if settings.pass_through is not None:
                receiver.pass_through = PassThrough(
                    settings.pass_through,
                    max_body=settings.max_body,
                    recorder=receiver,
                    timeout=settings.timeout,
                    on_trouble=self._trouble,
                )
            port = await receiver.start(settings.host, settings.port)
            stack.push_async_callback(receiver.stop)
            check_no_loops(settings, port)
            stack.push_async_callback(supervisor.close)  # also of one that was cancelled while it opened
            public_url = await supervisor.open(port, unproven=not self._binds)
            check_no_loops(settings, port, public_url)
            handler_url = public_url + receiver.path
            if receiver.pass_through is not None:
                receiver.pass_through.scheme = urlsplit(public_url).scheme
            running = [await stack.enter_async_context(self._watching(writer, receiver))]
            handed = handing_over.running(writer, receiver.stop, lambda: receiver.recorded + self._caught_up)
            running += await stack.enter_async_context(handed)
            if settings.portal is not None and settings.bind:
                state = settings.state or State.open()
                self._bound = BoundHandler(
                    settings.portal,
                    state,
                    self._emit,
                    back_off=settings.pace.back_off,
                    keep=settings.keep_bound,
                    on_moved=self._listens_again,
                )
                await stack.enter_async_context(self._bound.to(handler_url, settings.events))
                self._listens_again()
                running.append(await stack.enter_async_context(_going_on(self._bound.follow())))
                if settings.catch_up:
                    catch_up = CatchUp(
                        settings.portal, state, settings.events, writer, journal, self._emit, target=receiver.path
                    )
                    await catch_up.prepare()
                    self._gap_is_over.clear()
                    await self._drain(catch_up, self._listening_since)
                    running.append(await stack.enter_async_context(_going_on(self._catching_up(catch_up))))
            handing_over.begin()
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
                    routes=tuple((route.events, route.to) for route in settings.routes),
                    pass_through=settings.pass_through,
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

    def _origin(self, stack: AsyncExitStack) -> Origin:
        """Who may deliver."""
        settings = self._settings
        admits = settings.senders.admits if settings.senders else None
        if settings.portal is None:
            return Origin(admits=admits)
        portal, state = settings.portal, settings.state or State.open()
        installations = Installations(portal, state, self._emit)
        stack.callback(installations.close)

        def stored() -> str | None:
            return state.portal(portal.name).application_token or None

        token = portal.application_token or None
        return Origin(token, installations=installations, stored=stored, admits=admits)

    def _listens_again(self) -> None:
        """From now on what happens arrives by the public address; what happened before may be in the queue."""
        self._listening_since = time.time()
        self._gap_is_over.set()

    async def _catching_up(self, catch_up: CatchUp) -> None:
        """After each gap, take what happened meanwhile, and later what was to come by itself and did not."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ONLINE_SECONDS if catch_up.left_young else None):
                    await self._gap_is_over.wait()
            since = self._listening_since if self._gap_is_over.is_set() else time.time() - ONLINE_SECONDS
            again = not self._gap_is_over.is_set()
            self._gap_is_over.clear()
            await self._drain(catch_up, since)
            if again:
                catch_up.left_young = (
                    False  # what is younger still comes by itself, or is taken after the next gap
                )

    async def _drain(self, catch_up: CatchUp, since: float) -> None:
        try:
            if count := await catch_up.drain(since):
                self._emit(Note(f"Caught up: {count} recordings from the offline queue."))
        except UserError as error:
            self._emit(Trouble(f"What happened meanwhile could not be taken from the offline queue: {error}"))
        finally:
            self._caught_up = catch_up.recorded

    def _note(self, message: str) -> None:
        self._emit(Note(message))

    def _trouble(self, message: str) -> None:
        self._emit(Trouble(message))

    def _tell_tunnel(self, state: TunnelState) -> None:
        self._tunnel = state
        if self._ready:
            self._emit(TunnelProbed(state))

    def _moved(self, handler_url: str) -> None:
        """There was a gap, and the address may be another one now."""
        if handler_url == self._handler_url:
            self._listens_again()
            return
        self._handler_url = handler_url
        if self._bound is not None:
            self._bound.move_to(handler_url)
        else:
            pasted = f"{handler_url}/oauth" if self._settings.sign_in else handler_url
            self._emit(Trouble(f"The address is another one now, to be pasted in place of the former: {pasted}"))

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
        if self._handing_over is None or self._receiver is None:
            return 0
        return max(0, self._handing_over.still_pending(self._receiver.recorded + self._caught_up))

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


def check_no_loops(settings: Settings, port: int, public_url: str | None = None) -> None:
    """Raise `WrongUsage` where requests would be carried to the receiver itself, over and over."""
    addresses = [("--forward" if r.to == settings.forward else "a route", r.to) for r in settings.all_routes]
    if settings.pass_through is not None:
        addresses.append(("--pass-through", settings.pass_through))
    for named, address in addresses:
        parts = urlsplit(address)
        usual = 443 if parts.scheme == "https" else 80
        if (parts.port or usual) == port and leads_to_this_machine(address):
            raise WrongUsage(f"{named} leads to the receiver's own port {port}: give your application's address.")
        if public_url is not None and parts.netloc.lower() == urlsplit(public_url).netloc.lower():
            raise WrongUsage(f"{named} leads to the public address itself: give your application's own address.")


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

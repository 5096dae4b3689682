"""Replay: send recordings' exact bytes to a handler and report what it answered."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from b24tunnel import event_loop
from b24tunnel.errors import WrongUsage
from b24tunnel.forward import CONCURRENCY, TIMEOUT, Sender, check_handler_url
from b24tunnel.journal import Journal, JournalWriter
from b24tunnel.recording import Attempt, Recording

_MOST_CONCURRENT = 1000
_MOST_UNSYNCED = 1000


@dataclass
class Report:
    """What a replay did: its attempts in the order in which the recordings were given."""

    # Not in the repr, which asyncio makes of a task's result: there may be very many.
    attempts: list[Attempt] = field(default_factory=list, repr=False)

    @property
    def ok(self) -> bool:
        """Every handler answered 2xx, and at least one recording was sent."""
        return bool(self.attempts) and all(attempt.ok for attempt in self.attempts)

    @property
    def failed(self) -> list[Attempt]:
        """The attempts that were not answered 2xx."""
        return [attempt for attempt in self.attempts if not attempt.ok]


async def areplay(
    recordings: Iterable[Recording],
    to: str,
    *,
    concurrency: int = CONCURRENCY,
    timeout: float = TIMEOUT,
    writer: JournalWriter | None = None,
    on_attempt: Callable[[Recording, Attempt], None] = lambda recording, attempt: None,
) -> Report:
    """Send each recording's exact bytes to the URL ``to``, at most ``concurrency`` at a time, in order.

    ``timeout`` is seconds an answer may take. With a ``writer``, each attempt is also noted in the journal.
    Raises `WrongUsage` for a bad URL or number; a handler that fails is in the report, not an exception.
    """
    if not 1 <= concurrency <= _MOST_CONCURRENT:
        raise WrongUsage(f"The concurrency must be 1 to {_MOST_CONCURRENT}, not {concurrency}.")
    remaining = iter(enumerate(recordings))
    done: dict[int, Attempt] = {}
    unsynced: deque[asyncio.Future[None]] = deque()

    async def send_remaining() -> None:
        for place, recording in remaining:

            async def note(attempt: Attempt, place: int = place, recording: Recording = recording) -> None:
                done[place] = attempt
                on_attempt(recording, attempt)
                if writer is not None:
                    # The next one is sent meanwhile.
                    unsynced.append(writer.hand_in(attempt, urgent=False))
                    while unsynced[0].done() or len(unsynced) > _MOST_UNSYNCED:
                        await unsynced.popleft()

            await sender.send(recording, note)

    async with Sender(to, cause="replay", timeout=timeout, concurrency=concurrency, keep_alive=True) as sender:
        tasks = [asyncio.create_task(send_remaining()) for _ in range(concurrency)]
        try:
            await asyncio.gather(*tasks)
            await asyncio.gather(*unsynced)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, *unsynced, return_exceptions=True)
    return Report([done[place] for place in sorted(done)])


async def areplay_noted(
    recordings: Iterable[Recording],
    to: str,
    journal: Journal,
    *,
    concurrency: int = CONCURRENCY,
    timeout: float = TIMEOUT,
    on_attempt: Callable[[Recording, Attempt], None] = lambda recording, attempt: None,
) -> Report:
    """`areplay` with every attempt noted in the journal, as a session of its own."""
    check_handler_url(to)
    writer = JournalWriter(journal.directory.parent, purpose="replay")
    try:
        return await areplay(
            recordings, to, concurrency=concurrency, timeout=timeout, writer=writer, on_attempt=on_attempt
        )
    finally:
        await writer.close()


def replay(
    recordings: Iterable[Recording], to: str, *, concurrency: int = CONCURRENCY, timeout: float = TIMEOUT
) -> Report:
    """`areplay` for code without an event loop."""
    return event_loop.run(areplay(recordings, to, concurrency=concurrency, timeout=timeout))

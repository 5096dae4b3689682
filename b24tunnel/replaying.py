"""Replay: select recordings, send their exact bytes to a handler, report what it answered."""

from __future__ import annotations

import asyncio
import fnmatch
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from b24tunnel.errors import WrongUsage
from b24tunnel.formats.fixture import FixtureNotFound, load
from b24tunnel.forward import CONCURRENCY, TIMEOUT, Sender, check_handler_url
from b24tunnel.journal import Journal, JournalWriter
from b24tunnel.recording import Attempt, Recording, parse_id

_MOST_CONCURRENT = 1000


@dataclass
class Report:
    """What a replay did: its attempts in the order in which the recordings were given."""

    attempts: list[Attempt] = field(default_factory=list)

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

    async def send_remaining() -> None:
        for place, recording in remaining:
            attempt = await sender.send(recording)
            done[place] = attempt
            if writer is not None:
                await writer.append(attempt)
            on_attempt(recording, attempt)

    async with Sender(to, cause="replay", timeout=timeout, concurrency=concurrency, keep_alive=True) as sender:
        tasks = [asyncio.create_task(send_remaining()) for _ in range(concurrency)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
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
    return asyncio.run(areplay(recordings, to, concurrency=concurrency, timeout=timeout))


def select(journal: Journal, selectors: Iterable[str], fixtures: Path) -> Iterator[Recording]:
    """The recordings that the selectors name, in the order of the selectors, oldest first within each.

    A selector is an id (``12-345``), ``last``, ``last:N``, a session (``12``), an event's code or a glob over
    codes (``'ONCRM*'``), or a fixture's name below ``fixtures`` or its path. Raises `WrongUsage` for one that
    selects nothing, before any recording is given out.
    """
    return chain.from_iterable([_not_empty(journal, selector, fixtures) for selector in selectors])


def select_one(journal: Journal, selector: str, fixtures: Path) -> Recording:
    """The one recording that a selector names, the last where it names several; raises `WrongUsage`."""
    return deque(select(journal, [selector], fixtures), maxlen=1).pop()


def _not_empty(journal: Journal, selector: str, fixtures: Path) -> Iterable[Recording]:
    chosen = iter(_matching(journal, selector, fixtures))
    first = next(chosen, None)
    if first is None:
        raise WrongUsage(
            f"{selector!r} selects no recording: see them with 'b24tunnel list'. A selector is an id "
            "(12-345), last, last:N, a session (12), an event code or glob ('ONCRM*'), or a fixture."
        )
    return chain((first,), chosen)


def _matching(journal: Journal, selector: str, fixtures: Path) -> Iterable[Recording]:
    last = re.fullmatch(r"last(?::([0-9]{1,9}))?", selector, re.ASCII)
    if last:
        return journal.last(int(last[1] or 1))
    if parse_id(selector):
        recording = journal.get(selector)
        return [recording] if recording else []
    if re.fullmatch(r"[1-9][0-9]{0,8}", selector, re.ASCII):
        return journal.recordings(int(selector))
    try:
        return [load(selector, fixtures)]
    except FixtureNotFound:
        return (r for r in journal.recordings() if matches_code(r, selector))


def matches_code(recording: Recording, pattern: str) -> bool:
    """Whether the recording's event code is ``pattern`` or matches it as a glob, without regard to case."""
    return fnmatch.fnmatchcase((recording.code or "").upper(), pattern.upper())

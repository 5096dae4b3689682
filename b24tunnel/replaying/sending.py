"""The engine of a replay: takes recordings one after the other, sends each once, judges the answer, notes it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from b24tunnel.changing import Change
from b24tunnel.difference import Difference
from b24tunnel.errors import WrongUsage
from b24tunnel.forward import Sender
from b24tunnel.journal import JournalWriter
from b24tunnel.recording import Attempt, Recording
from b24tunnel.replaying.comparing import Comparison
from b24tunnel.replaying.expecting import DEFAULT, Expectation
from b24tunnel.replaying.expecting import problems as problems_of
from b24tunnel.replaying.pace import Pace
from b24tunnel.replaying.report import Report
from b24tunnel.replaying.result import Result

OnError = Literal["continue", "stop"]
Answers = Callable[[Recording], Attempt | None]
# What it returns is waited for before the one who sent it sends the next: so a slow reader holds the run up.
OnResult = Callable[[Result], Awaitable[None] | None]

_MOST_UNSYNCED = 1000


class _Taken(NamedTuple):
    """One that is to be sent: its place in the run, the recording as it goes and as it was, seconds late."""

    number: int
    recording: Recording
    original: Recording | None
    late: float


@dataclass
class Sending:
    """Sends what ``next_one`` gives out (None: no more), at most ``concurrency`` at a time, and fills ``report``.

    ``filled`` puts fresh tokens in, before the ``changes``. ``comparison`` holds an answer against that of the
    handler ``against``, which gets the same, or where there is none against what ``answers`` knows.
    """

    next_one: Callable[[], Awaitable[Recording | None]]
    sender: Sender
    report: Report
    concurrency: int = 1
    filled: Callable[[Recording], Awaitable[Recording]] | None = None
    changes: Sequence[Change] = ()
    pace: Pace | None = None
    expectations: Sequence[Expectation] = ()
    comparison: Comparison | None = None
    answers: Answers | None = None
    against: Sender | None = None
    on_error: OnError = "continue"
    writer: JournalWriter | None = None
    on_result: OnResult = lambda result: None
    on_note: Callable[[str], None] = lambda sentence: None
    _any_2xx: bool = field(init=False)
    _taken: int = field(default=0, init=False)
    _left_one: bool = field(default=False, init=False)
    _said_not_compared: bool = field(default=False, init=False)
    _ending: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    _unsynced: deque[asyncio.Future[None]] = field(default_factory=deque, init=False)

    def __post_init__(self) -> None:
        # What is wanted of almost every answer is told without asking each expectation.
        self._any_2xx = [expectation.text for expectation in self.expectations] in ([], [DEFAULT])

    async def run(self, stop: asyncio.Event | None = None) -> None:
        """Send all, up to the first wrong one where that ends it. Setting ``stop`` cuts off what is under way."""
        if stop is not None and stop.is_set():
            self.report.interrupted = self.report.unsent = True
            return
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.sender)
            if self.against is not None:
                await stack.enter_async_context(self.against)
            workers = [asyncio.create_task(_Worker(self).work()) for _ in range(self.concurrency)]
            stopping = asyncio.create_task(stop.wait()) if stop is not None else None
            all_sent = asyncio.gather(*workers)
            try:
                if stopping is not None:
                    await asyncio.wait((all_sent, stopping), return_when=asyncio.FIRST_COMPLETED)
                    self.report.interrupted = not all_sent.done()
                if not self.report.interrupted:
                    await all_sent
            finally:
                if stopping is not None:
                    stopping.cancel()
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, all_sent, return_exceptions=True)
                synced = await asyncio.gather(*self._unsynced, return_exceptions=True)
            for failure in synced:
                if isinstance(failure, BaseException):
                    raise failure
            if self.report.stopped and not self._left_one and not self.report.interrupted:
                self._left_one = await self._is_one_left(stop)
            self.report.unsent = self.report.interrupted or self._left_one

    async def _is_one_left(self, stop: asyncio.Event | None) -> bool:
        """Whether there is another one to send; it may be where nobody waited for the answer to that."""
        looking = asyncio.ensure_future(self.next_one())
        stopping = asyncio.ensure_future(stop.wait()) if stop is not None else None
        waiting = [looking] if stopping is None else [looking, stopping]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            return not looking.done() or looking.result() is not None
        finally:
            for one in waiting:
                one.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def take(self) -> _Taken | None:
        """The next one as it is to be sent; None at the end."""
        if self.pace is None:
            return await self._next()
        async with self._turn:
            return await self._next()

    async def _next(self) -> _Taken | None:
        original = None if self.report.stopped else await self.next_one()
        if original is None:
            return None
        recording = original
        # Before the turn, because it may take a call to the portal; the changes after it, for the time may be one.
        if self.filled is not None:
            recording = await self.filled(recording)
        late = 0.0 if self.pace is None else await self._late_at_its_turn(original, self.pace)
        if self.report.stopped:  # meanwhile
            self._left_one = True
            return None
        for change in self.changes:
            recording = change(recording)
            if not isinstance(recording, Recording):
                raise WrongUsage(f"The change {change!r} gave no recording: return the one that is to be sent.")
        self._taken += 1
        return _Taken(self._taken, recording, None if recording is original else original, late)

    async def _late_at_its_turn(self, recording: Recording, pace: Pace) -> float:
        """Wait for the moment to send it, or for the run's end, and give how late that is in seconds."""
        if self.on_error == "continue":
            return await pace.turn(recording)
        turn, ending = asyncio.ensure_future(pace.turn(recording)), asyncio.ensure_future(self._ending.wait())
        try:
            await asyncio.wait((turn, ending), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiting in (turn, ending):
                waiting.cancel()
            await asyncio.gather(turn, ending, return_exceptions=True)
        return 0.0 if self._ending.is_set() else turn.result()

    async def noted(self, attempt: Attempt) -> None:
        """Note an attempt in the journal; the next one is sent meanwhile."""
        if self.writer is None:
            return
        self._unsynced.append(self.writer.hand_in(attempt, urgent=False))
        while self._unsynced and (self._unsynced[0].done() or len(self._unsynced) > _MOST_UNSYNCED):
            await self._unsynced.popleft()

    def judged(self, taken: _Taken, attempt: Attempt, beside: Attempt | None) -> Awaitable[None] | None:
        """Count one answer and tell of it. ``beside`` is what the other handler answered, where there is one.

        What is returned is to be awaited before the same worker sends its next.
        """
        problems = () if self._any_2xx and attempt.ok else problems_of(self.expectations, attempt)
        differences: tuple[Difference, ...] = ()
        cut_off = next((one for one in (attempt, beside) if one is not None and one.cut_off), None)
        if cut_off is not None:
            problems = (f"no answer: {cut_off.error}",)
        elif self.comparison is not None:
            before = self._before(taken.recording, beside)
            differences = self.comparison.differences(before, attempt)
            if attempt.error is not None and not problems and not differences:
                problems = (f"no answer: {attempt.error}",)
            if not differences:
                self._say_not_compared(self.comparison.not_compared(before, attempt), taken.recording)
        number, recording, original, late = taken
        result = Result(number, recording, cut_off or attempt, problems, differences, late * 1000, original)
        self.report.add(result)
        if self.pace is not None:
            self.pace.answered(attempt)
        if self.on_error == "stop" and not result.ok and cut_off is None:
            self.report.stopped = True
            self._ending.set()
        return self.on_result(result)

    def _say_not_compared(self, why_not: str | None, recording: Recording) -> None:
        if why_not is not None and not self._said_not_compared:
            self._said_not_compared = True
            self.on_note(f"{recording.id}, and maybe others: {why_not}.")

    def _before(self, recording: Recording, beside: Attempt | None) -> Attempt | None:
        if self.against is not None:
            return beside
        return None if self.answers is None else self.answers(recording)


class _Worker:
    """Sends one at a time, and knows what came of it also when it is cut off."""

    def __init__(self, sending: Sending) -> None:
        self._sending = sending
        self._attempt: Attempt | None = None
        self._beside: Attempt | None = None

    async def work(self) -> None:
        """Until there are no more."""
        sending = self._sending
        while (taken := await sending.take()) is not None:
            self._attempt = self._beside = told = None
            try:
                if sending.against is None:
                    await sending.sender.send(taken.recording, self._note)
                else:
                    await self._send_to_both(taken.recording, sending.against)
            finally:
                # Also when it was cut off: what was sent is sent.
                if self._attempt is not None:
                    told = sending.judged(taken, self._attempt, self._beside)
            if told is not None:
                await told

    async def _send_to_both(self, recording: Recording, against: Sender) -> None:
        sends = [
            asyncio.create_task(self._sending.sender.send(recording, self._note)),
            asyncio.create_task(against.send(recording, self._note_beside)),
        ]
        try:
            await asyncio.gather(*sends)
        finally:
            for send in sends:
                send.cancel()
            await asyncio.gather(*sends, return_exceptions=True)

    async def _note(self, attempt: Attempt) -> None:
        self._attempt = attempt
        await self._sending.noted(attempt)

    async def _note_beside(self, attempt: Attempt) -> None:
        self._beside = attempt
        await self._sending.noted(attempt)

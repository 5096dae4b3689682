"""One replay from its beginning to its end: puts the parts together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from functools import partial

from b24tunnel import event_loop
from b24tunnel.changing import Change, SetPath
from b24tunnel.errors import WrongUsage
from b24tunnel.forward import TIMEOUT, Sender
from b24tunnel.fresh_tokens import Auth, TokenFilling
from b24tunnel.journal import Journal, JournalWriter
from b24tunnel.journal.runs import Run
from b24tunnel.recording import Recording
from b24tunnel.replaying.comparing import Comparison
from b24tunnel.replaying.expecting import Expectation, expectations
from b24tunnel.replaying.pace import Pace
from b24tunnel.replaying.reading import Reader
from b24tunnel.replaying.report import Report
from b24tunnel.replaying.sending import OnError, OnResult, Sending
from b24tunnel.replaying.variations import Variation
from b24tunnel.selecting import Selection
from b24tunnel.through import Through

_MOST_CONCURRENT = 1000


async def areplay(
    recordings: Recording | Iterable[Recording],
    to: str,
    *,
    own_path: bool = False,
    changes: Iterable[Change] = (),
    auth: Auth = "recorded",
    variation: Variation | None = None,
    pace: Pace | None = None,
    concurrency: int | None = None,
    timeout: float = TIMEOUT,
    expect: str | Iterable[str] = (),
    compare: Comparison | None = None,
    against: str | None = None,
    on_error: OnError = "continue",
    journal: Journal | None = None,
    arguments: Sequence[str] = (),
    resumes: Run | None = None,
    through: Through | None = None,
    report: Report | None = None,
    on_result: OnResult = lambda result: None,
    on_note: Callable[[str], None] = lambda sentence: None,
    stop: asyncio.Event | None = None,
) -> Report:
    """Send recordings, or one, to the URL ``to``, each as it was recorded but for what is asked for, and report.

    ``own_path``: each goes to the path of its own target on that host, instead of the URL's (so does `SetPath`).
    ``changes`` are made to each, one after the other; ``auth`` says whose tokens it carries (`TokenFilling`).
    ``variation`` repeats, drops and shuffles. ``pace`` says when each is sent (None: as fast as answers come), at
    most ``concurrency`` at a time (None: one, which keeps a strict order, or what the pace has); ``timeout`` is
    seconds an answer may take.

    An answer is wrong when it is not as ``expect`` says (`Expectation`; 2xx where nothing is said), or differs by
    ``compare`` from the recorded one of the ``journal``, or from what the handler ``against`` answers to the same.
    With ``on_error="stop"`` the first wrong one ends the run.

    With a ``journal`` every attempt is noted in it, as a session of its own under ``arguments``, by which
    `Journal.last_run` finds it; ``resumes=journal.last_run()`` passes over what that run delivered, and
    ``through=journal.through()`` notes what there was to select from. A `Selection` is read in a thread.

    ``report`` is filled while the run goes on, also when it raises; ``on_result`` gets each result, and what it
    returns is awaited before the one who sent it sends another; ``on_note`` gets sentences that a user should
    read. Setting ``stop`` cuts off what is under way and ends the run with a report.

    Raises `WrongUsage` for a bad URL, number or text and for a change that a recording does not allow,
    `OutsideFailure` where the journal cannot be written or tokens cannot be had. A handler that fails is in the
    report and no exception.
    """
    report = Report() if report is None else report
    changes = tuple(changes)
    recordings = (recordings,) if isinstance(recordings, Recording) else recordings
    expect = (expect,) if isinstance(expect, str) else tuple(expect)
    concurrency = _concurrency(concurrency, pace)
    own_path = own_path or any(isinstance(change, SetPath) for change in changes)
    sender_to = partial(Sender, timeout=timeout, concurrency=concurrency, keep_alive=True, own_path=own_path)
    sender = sender_to(to, cause="replay")
    beside = None
    if against is not None:
        beside = sender_to(against, cause="against")
        compare = compare or Comparison()
    # Whoever compares wants the same answer, and not that it is 2xx.
    expected = expectations(expect) if compare is None else tuple(map(Expectation.parse, expect))
    by_journal = compare is not None and against is None
    if by_journal and journal is None:
        raise WrongUsage("To compare, name a journal that has the recorded answers, or a second handler.")
    if resumes is not None and journal is None:
        raise WrongUsage("To go on with a run, name the journal that it is noted in.")
    variation = variation or Variation()
    report.seed = variation.seed
    report.paced = pace is not None
    begun = time.monotonic()
    report.unsent = True  # until the run is over
    async with AsyncExitStack() as stack:
        answers = None
        if by_journal and journal is not None:
            own = () if resumes is None else resumes.sessions
            answers = stack.enter_context(await asyncio.to_thread(journal.recorded_answers, without=own))
        remaining = await asyncio.to_thread(
            to_be_sent, recordings, variation, journal, resumes, both=against is not None
        )
        filling = await stack.enter_async_context(TokenFilling(auth, on_note=on_note))
        writer = None
        if journal is not None:
            writer = JournalWriter(
                journal.directory.parent,
                purpose="replay",
                arguments=tuple(arguments),
                resumes=None if resumes is None else resumes.session,
                through=through if resumes is None else resumes.through,
            )
            stack.push_async_callback(_closed, writer, report)
            if resumes is not None:
                await asyncio.to_thread(_check_alone, journal, resumes, writer.session)
        sending = Sending(
            _taking(remaining, stack, isinstance(recordings, Selection)),
            sender,
            report,
            concurrency=concurrency,
            filled=None if auth == "recorded" else filling.filled,
            changes=changes,
            pace=pace,
            expectations=expected,
            comparison=compare,
            answers=None if answers is None else answers.to,
            against=beside,
            on_error=on_error,
            writer=writer,
            on_result=on_result,
            on_note=on_note,
        )
        try:
            await sending.run(stop)
        except BaseException:
            report.interrupted = True
            raise
        finally:
            report.seconds = time.monotonic() - begun
    return report


def replay(
    recordings: Recording | Iterable[Recording],
    to: str,
    *,
    own_path: bool = False,
    changes: Iterable[Change] = (),
    auth: Auth = "recorded",
    variation: Variation | None = None,
    pace: Pace | None = None,
    concurrency: int | None = None,
    timeout: float = TIMEOUT,
    expect: str | Iterable[str] = (),
    compare: Comparison | None = None,
    against: str | None = None,
    on_error: OnError = "continue",
    journal: Journal | None = None,
    arguments: Sequence[str] = (),
    resumes: Run | None = None,
    through: Through | None = None,
    report: Report | None = None,
    on_result: OnResult = lambda result: None,
    on_note: Callable[[str], None] = lambda sentence: None,
) -> Report:
    """`areplay` for code without an event loop."""
    return event_loop.run(
        areplay(
            recordings,
            to,
            own_path=own_path,
            changes=changes,
            auth=auth,
            variation=variation,
            pace=pace,
            concurrency=concurrency,
            timeout=timeout,
            expect=expect,
            compare=compare,
            against=against,
            on_error=on_error,
            journal=journal,
            arguments=arguments,
            resumes=resumes,
            through=through,
            report=report,
            on_result=on_result,
            on_note=on_note,
        )
    )


def _concurrency(given: int | None, pace: Pace | None) -> int:
    if given is None:
        return 1 if pace is None else pace.concurrency
    if not 1 <= given <= _MOST_CONCURRENT:
        raise WrongUsage(f"The concurrency must be 1 to {_MOST_CONCURRENT}, not {given}.")
    return given


def to_be_sent(
    recordings: Iterable[Recording],
    variation: Variation,
    journal: Journal | None = None,
    resumes: Run | None = None,
    *,
    both: bool = False,
) -> Iterator[Recording]:
    """The recordings in the order in which a run sends them, without what the run that it ``resumes`` delivered.

    ``both``: only what reached the second handler too was delivered.
    """
    remaining = variation.varied(recordings)
    if resumes is None or journal is None:
        return remaining
    delivered = [journal.delivered_in(resumes.sessions)]
    if both:
        delivered.append(journal.delivered_in(resumes.sessions, "against"))
    # Each is asked, for each has its own count.
    return (one for one in remaining if not all([counted.take(one.id) for counted in delivered]))


def _check_alone(journal: Journal, resumes: Run, own: int) -> None:
    """Raise `WrongUsage` where somebody else has begun to go on with the same run."""
    other = journal.resumed_elsewhere(resumes.session, own)
    if other is not None:
        raise WrongUsage(
            f"Session {other} goes on with the replay of session {resumes.session}: wait for it, or end it."
        )


async def _closed(writer: JournalWriter, report: Report) -> None:
    """End the run's session with how many recordings are still to be sent: at least one, where nobody counted."""
    await writer.close(report.undelivered or int(report.unsent))


def _taking(
    recordings: Iterator[Recording], stack: AsyncExitStack, from_journal: bool
) -> Callable[[], Awaitable[Recording | None]]:
    """What gives out one after the other; what is read from the journal is read in a thread."""
    if from_journal:
        reader = Reader(recordings)
        stack.callback(reader.close)
        return reader.next

    async def next_one() -> Recording | None:
        return next(recordings, None)

    return next_one

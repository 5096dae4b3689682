"""How one `replay` looks: its progress, each result, the sum."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from b24tunnel import allocator
from b24tunnel.cli.differences import difference_lines
from b24tunnel.cli.printing import Printer
from b24tunnel.cli.render import attempt_json, outcome, what
from b24tunnel.cli.replay_plan import Plan, planned
from b24tunnel.cli.stopping import run_until_stopped
from b24tunnel.cli.terminal import counted, duration, one_line, print_json, say_unreadable, visible
from b24tunnel.journal.runs import Run
from b24tunnel.masked_differences import masked
from b24tunnel.redact import shown_url
from b24tunnel.replaying import Report, Result, areplay
from b24tunnel.replaying.junit import JUnitFile

if TYPE_CHECKING:
    from rich.progress import Progress

    from b24tunnel.cli.replay_asked import Asked

_WRONG_SHOWN = 100
_PROGRESS_SECONDS = 0.1
_INTERRUPTED = 130
# A pace that is this much behind at the median is not held.
_BEHIND_MS = 1000


def carry_out(asked: Asked, arguments: tuple[str, ...], run: Run | None) -> int:
    """Replay, print what comes of it, and return the exit code."""
    on_terminal = not asked.as_json and (sys.stdout.isatty() or sys.stderr.isatty())
    plan = planned(asked, run, count=on_terminal)
    report = Report(keep=0)
    if plan.variation.needs_seed and asked.seed is None:
        # In front, because behind a -- nothing is an option.
        arguments = ("--seed", str(plan.variation.seed), *arguments)
    failures: list[OSError] = []
    printers: list[Printer] = []

    async def main(stop: asyncio.Event) -> None:
        def failed(error: OSError) -> None:
            failures.append(error)
            stop.set()

        printers.append(Printer(failed))
        with _progress(plan, on_terminal) as progress:
            shown = _Shown(plan, printers[0], progress, junit)
            try:
                await areplay(
                    plan.selection,
                    asked.handler,
                    own_path=asked.path is not None,
                    changes=plan.changes,
                    auth=asked.auth,
                    variation=plan.variation,
                    pace=plan.pace,
                    concurrency=asked.concurrency,
                    timeout=asked.timeout,
                    expect=asked.expect,
                    compare=asked.comparison(),
                    against=asked.against,
                    on_error=asked.on_error,
                    journal=plan.journal,
                    arguments=arguments,
                    resumes=run,
                    through=plan.through,
                    report=report,
                    on_result=shown.show,
                    on_note=_note,
                    stop=stop,
                )
            finally:
                shown.end()

    begun = False
    with nullcontext() if asked.junit is None else JUnitFile(asked.junit) as junit:
        _say_before(plan)
        try:
            allocator.keep_what_is_freed()
            run_until_stopped(main, "Left at once.")
            begun = True
        finally:
            # Also when it could not go on: what was sent is sent. And first what can be written whoever reads.
            if junit is not None and (begun or report.sent):
                junit.close(_title(asked), report.seconds, report.unsent)
            _print_rest(plan, report, printers, failures, summed=begun or report.sent > 0)
    return _exit_code(report, run)


def say_nothing_left(asked: Asked) -> None:
    """What a run that has nothing to go on with prints and writes."""
    if asked.as_json:
        print_json({"total": report_json(Report(), ok=True)})
    if asked.junit is not None:
        with JUnitFile(asked.junit) as junit:
            junit.close("b24tunnel replay --resume", 0.0, False)


def _title(asked: Asked) -> str:
    return f"b24tunnel replay to {shown_url(asked.handler)}"


def _print_rest(
    plan: Plan, report: Report, printers: list[Printer], failures: list[OSError], *, summed: bool
) -> None:
    """What is left of the results, what has to be said of the run, and its sum."""
    try:
        printed = all([printer.drain(patient=not report.interrupted) for printer in printers])
    except KeyboardInterrupt:
        printed = False
    if not printed:
        os._exit(_INTERRUPTED)  # nobody reads, and nothing more can be printed
    if failures:
        raise failures[0]
    say_unreadable(plan.journal)
    if plan.left_out is not None:
        _note(plan.left_out)
    if summed:
        _print_sum(plan, report)


def _exit_code(report: Report, run: Run | None) -> int:
    if report.interrupted:
        return _INTERRUPTED
    nothing_left = run is not None and report.sent == 0 and not report.unsent
    return 0 if report.ok or nothing_left else 1


def _note(sentence: str) -> None:
    with suppress(OSError):  # a run is not given up because nobody reads what is said beside it
        click.echo(f"Note: {sentence}", err=True)


def _say_before(plan: Plan) -> None:
    """What a user wants to know before the first is sent: chance's seed, and how long it will take."""
    if plan.variation.needs_seed:
        _note(f"the seed is {plan.variation.seed}: --seed {plan.variation.seed} makes the same again.")
    if plan.run is not None:
        left = "" if plan.total is None else f", of which {counted(plan.total, 'recording')} left"
        _note(f"going on with the replay of session {plan.run.session}{left}.")
    if plan.planned is not None and plan.planned.seconds is not None and plan.total:
        _note(f"{plan.amount} to be sent over {duration(plan.planned.seconds)}{plan.changed_gaps}.")


class _Shown:
    """Prints results as they come, beside the run: all of a short one, of a long one only what is wrong."""

    def __init__(self, plan: Plan, printer: Printer, progress: Progress | None, junit: JUnitFile | None) -> None:
        self._plan = plan
        self._printer = printer
        self._progress = progress
        self._junit = junit
        self._colours = sys.stdout.isatty()
        self._task = None if progress is None else progress.add_task("", total=plan.total, wrong="")
        self._updated = 0.0
        self._sent = 0
        self._wrong = 0

    def show(self, result: Result) -> Awaitable[None] | None:
        """Print one, or count it; what is returned waits for room, where the reader is slow."""
        self._sent += 1
        self._wrong += not result.ok
        if self._junit is not None:
            self._junit.add(result)
        if self._progress is not None and (now := time.monotonic()) - self._updated > _PROGRESS_SECONDS:
            self._updated = now
            self._update()
        if self._plan.asked.as_json:
            self._printer.put(partial(print_json, result_json(result)))
        elif self._plan.is_short or (not result.ok and self._wrong <= _WRONG_SHOWN):
            self._printer.put(partial(self._print, self._lines(result)))
        return None if self._printer.has_room else self._printer.room()

    def end(self) -> None:
        """Say what was not shown."""
        self._update()
        if not self._plan.asked.as_json and not self._plan.is_short and self._wrong > _WRONG_SHOWN:
            more = f"… and {self._wrong - _WRONG_SHOWN} more that were wrong: --json or --junit FILE has them all."
            self._printer.put(partial(self._print, [(more, "")]))

    def _update(self) -> None:
        if self._progress is not None and self._task is not None:
            wrong = f"{self._wrong} wrong" if self._wrong else ""
            self._progress.update(self._task, completed=self._sent, wrong=wrong)

    def _lines(self, result: Result) -> list[tuple[str, str]]:
        """The lines of one result, each with its colour."""
        id_width, event_width = self._plan.widths
        answer = outcome(result.attempt)
        said = [problem for problem in result.problems if self._plan.asked.expect or self._plan.asked.on_compare]
        if said and result.attempt.error is None:
            answer += ": " + "; ".join(said)
        recording = result.recording
        if result.differences:
            answer += f", otherwise than {self._plan.asked.other_answer}"
        head = f"{recording.id:<{id_width}}  {one_line(what(recording)):<{event_width}}  {one_line(answer)}"
        lines = [(head, "green" if result.ok else "red")]
        if result.differences:
            masker = result.masker
            lines += [
                (f"    {line}", "") for line in difference_lines(result.differences, masker, colours=self._colours)
            ]
        return lines

    def _print(self, lines: list[tuple[str, str]]) -> None:
        for text, colour in lines:
            shown = text if not colour else visible(text)
            if self._colours and colour:
                shown = click.style(shown, fg=colour)
            if self._progress is not None and self._colours:
                from rich.text import Text

                self._progress.console.print(Text.from_ansi(shown), soft_wrap=True)
            else:
                click.echo(shown)


@contextmanager
def _progress(plan: Plan, on_terminal: bool) -> Iterator[Progress | None]:
    """A bar of a run that is not over at once, on a terminal; it goes away at the end."""
    if not on_terminal or (plan.is_short and plan.pace is None):
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("[red]{task.fields[wrong]}"),
    )
    console = Console(stderr=not sys.stdout.isatty(), highlight=False)
    with Progress(*columns, console=console, transient=True, redirect_stdout=False) as progress:
        yield progress


def _print_sum(plan: Plan, report: Report) -> None:
    """The last lines: how many were sent and right, how quick the handler was, how to go on."""
    if plan.asked.as_json:
        print_json({"total": report_json(report, ok=_exit_code(report, plan.run) == 0)})
        return
    right = "all as expected" if plan.asked.expect or plan.asked.on_compare else "all answered 2xx"
    parts = [f"{report.wrong} failed" if report.wrong else right]
    if report.differing:
        parts.append(f"{report.differing} answered otherwise than {plan.asked.other_answer}")
    if report.unreached:
        parts.append(f"{report.unreached} never reached the handler")
    if report.cut_off:
        parts.append(f"{report.cut_off} cut off before the answer")
    click.echo(f"{report.sent} sent, {', '.join(parts)}." if report.sent else "Nothing was sent.")
    if report.latency.count > 1:
        at = {share: duration(report.latency.percentile(share) / 1000) for share in (50, 95, 99)}
        rate = f"; {report.sent / report.seconds:,.1f} a second" if report.seconds else ""
        click.echo(
            f"Answered after {at[50]} (median), {at[95]} (95 %), {at[99]} (99 %), "
            f"{duration(report.latency.highest / 1000)} at most{rate}."
        )
    if plan.pace is not None and report.late.count:
        late = report.late.percentile(50)
        behind = " Your handler did not keep up with the pace." if late > _BEHIND_MS else ""
        click.echo(f"Sent {late:.0f} ms late (median), {report.late.highest:.0f} ms at most.{behind}")
    if report.differing:
        click.echo(
            f"- is what {plan.asked.other_in_full}, + is what {shown_url(plan.asked.handler)} answered now."
        )
    if report.interrupted or report.stopped:
        click.echo("Interrupted." if report.interrupted else "Stopped at the first that failed (--on-error stop).")
    if report.unsent or report.undelivered:
        click.echo("'b24tunnel replay --resume' sends what was not delivered.")


def report_json(report: Report, *, ok: bool) -> dict[str, Any]:
    """The sum for output. ``ok`` is what the exit code says."""
    return {
        "sent": report.sent,
        "wrong": report.wrong,
        "differing": report.differing,
        "unreached": report.unreached,
        "cut_off": report.cut_off,
        "ok": ok,
        "interrupted": report.interrupted,
        "stopped": report.stopped,
        "seconds": round(report.seconds, 3),
        "seed": report.seed,
        "latency_ms": report.latency.to_json(),
        "late_ms": report.late.to_json(),
    }


def result_json(result: Result) -> dict[str, Any]:
    """One result for output: the attempt, secrets masked, and what is wrong with it."""
    masker = result.masker
    return {
        **attempt_json(result.attempt, masker),
        "number": result.number,
        "code": result.recording.code,
        "ok": result.ok,
        "problems": [masker.text(problem) for problem in result.problems],
        "differences": [masked(difference, masker)._asdict() for difference in result.differences],
        "late_ms": round(result.late_ms, 3),
    }

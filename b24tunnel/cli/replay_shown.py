"""How one `replay` looks: its progress, each result, the sum; and a dry run, in which nothing is sent."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from b24tunnel import allocator
from b24tunnel.cli.differences import difference_lines, masked
from b24tunnel.cli.printing import Printer
from b24tunnel.cli.render import attempt_json, outcome, summary, what
from b24tunnel.cli.replay_plan import Plan, planned
from b24tunnel.cli.stopping import run_until_stopped
from b24tunnel.cli.terminal import counted, one_line, print_json, print_table, say_unreadable, visible
from b24tunnel.difference import Difference
from b24tunnel.differing import differences_of
from b24tunnel.journal.runs import Run
from b24tunnel.redact import Masker, shown_url
from b24tunnel.replaying import Report, Result, areplay
from b24tunnel.replaying.junit import JUnitFile

if TYPE_CHECKING:
    from rich.progress import Progress

    from b24tunnel.cli.replay_asked import Asked

_WRONG_SHOWN = 100
_ROWS_SHOWN = 1000
_PROGRESS_SECONDS = 0.1
_INTERRUPTED = 130
# A pace that is this much behind at the median is not held.
_BEHIND_MS = 1000


def carry_out(asked: Asked, arguments: tuple[str, ...], run: Run | None) -> int:
    """Replay, print what comes of it, and return the exit code."""
    on_terminal = not asked.as_json and (sys.stdout.isatty() or sys.stderr.isatty())
    plan = planned(asked, run, count=on_terminal)
    report = Report(keep=0)
    junit = JUnitFile(asked.junit) if asked.junit else None
    _say_before(plan)
    if plan.variation.needs_seed and asked.seed is None:
        # In front, because behind a -- nothing is an option.
        arguments = ("--seed", str(plan.variation.seed), *arguments)
    failures: list[OSError] = []

    async def main(stop: asyncio.Event) -> None:
        def failed(error: OSError) -> None:
            failures.append(error)
            stop.set()

        printer = Printer(failed)
        with _progress(plan, on_terminal) as progress:
            shown = _Shown(plan, printer, progress, junit)
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
                    report=report,
                    on_result=shown.show,
                    on_note=_note,
                    stop=stop,
                )
            finally:
                shown.end()
                printer.finish(_exit_code(report, run))

    with nullcontext() if junit is None else junit:
        begun = False
        try:
            allocator.keep_what_is_freed()
            run_until_stopped(main, "Left at once.")
            begun = True
            if failures:
                raise failures[0]
        finally:
            say_unreadable(plan.journal)
            # Also when it could not go on: what was sent is sent.
            if begun or report.sent:
                if not failures:
                    _print_sum(plan, report)
                if junit is not None:
                    name = f"b24tunnel replay to {shown_url(asked.handler)}"
                    junit.close(name, report.seconds, report.unsent)
    return _exit_code(report, run)


def _exit_code(report: Report, run: Run | None) -> int:
    if report.interrupted:
        return _INTERRUPTED
    nothing_left = run is not None and report.sent == 0 and not report.unsent
    return 0 if report.ok or nothing_left else 1


def _note(sentence: str) -> None:
    click.echo(f"Note: {sentence}", err=True)


def _say_before(plan: Plan) -> None:
    """What a user wants to know before the first is sent: chance's seed, and how long it will take."""
    if plan.variation.needs_seed:
        _note(f"the seed is {plan.variation.seed}: --seed {plan.variation.seed} makes the same again.")
    if plan.selection.left_out:
        _note(_left_out(plan.selection.left_out))
    if plan.run is not None:
        left = "" if plan.total is None else f"{counted(plan.total, 'recording')} left of "
        _note(f"going on with the replay of session {plan.run.session}: {left}what it was to send.")
    if plan.planned is not None and plan.planned.seconds is not None:
        _note(f"{_amount(plan)} to be sent over {duration(plan.planned.seconds)}{_gaps(plan)}.")


def _left_out(count: int) -> str:
    were = "was refused when it" if count == 1 else "were refused when they"
    return f"{counted(count, 'recording')} {were} came, and left out now: name one by its id to send it."


def _amount(plan: Plan) -> str:
    return counted(plan.total, "recording") if plan.total is not None else "the recordings"


def _gaps(plan: Plan) -> str:
    """What was made of gaps that are not kept as they were."""
    made = plan.planned
    words = []
    if made is not None and made.cut:
        words.append(f"{counted(made.cut, 'longer gap')} cut to {duration(plan.asked.longest_gap)} (--max-gap)")
    if made is not None and made.back:
        words.append(f"{counted(made.back, 'time')} the clock goes back, which counts as no gap")
    return f", {', '.join(words)}" if words else ""


def duration(seconds: float) -> str:
    """``850 ms``, ``12.3 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if minutes else f"{hours:,} h"


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
        print_json({"total": report_json(report)})
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
    if report.interrupted or report.stopped:
        click.echo("Interrupted." if report.interrupted else "Stopped at the first that failed (--on-error stop).")
    if report.unsent or report.undelivered:
        click.echo("'b24tunnel replay --resume' sends what was not delivered.")


def report_json(report: Report) -> dict[str, Any]:
    """The sum for output."""
    return {
        "sent": report.sent,
        "wrong": report.wrong,
        "differing": report.differing,
        "unreached": report.unreached,
        "cut_off": report.cut_off,
        "ok": report.ok,
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


def dry_run(asked: Asked, run: Run | None) -> None:
    """Print what would be sent where, changed how, when, and how long that would take."""
    plan = planned(asked, run, count=True)
    moments = plan.pace.plan() if plan.pace is not None else None
    rows: list[tuple[str, ...]] = []
    for recording in plan.to_be_sent() if asked.as_json else islice(plan.to_be_sent(), _ROWS_SHOWN):
        changed = recording
        for change in plan.changes:
            changed = change(changed)
        at = None
        if moments is not None:
            moments.add(recording.received_at)
            at = moments.seconds
        differences = differences_of(recording, changed) if plan.changes else ()
        masker = Masker.of(recording)
        if asked.as_json:
            print_json(
                {
                    "recording": recording.id,
                    "code": recording.code,
                    "to": shown_url(asked.handler),
                    "at_seconds": None if at is None else round(at, 3),
                    "bytes": len(changed.body),
                    "changes": [masked(difference, masker)._asdict() for difference in differences],
                }
            )
        else:
            when = "" if at is None else f"+{duration(at)}"
            made = ", ".join(_change(masked(one, masker)) for one in differences)
            rows.append((recording.id, what(changed), summary(changed), when, made))
    if not asked.as_json:
        columns = ("ID", "EVENT", "DATA", "AT", "CHANGED")
        shown = [place for place in range(5) if place < 3 or any(row[place] for row in rows)]
        print_table(
            [columns[place] for place in shown],
            [[row[place] for place in shown] for row in rows],
            shrink=("DATA", "CHANGED"),
        )
        if plan.total is not None and plan.total > len(rows):
            click.echo(f"… and {plan.total - len(rows):,} more.")
    say_unreadable(plan.journal)
    _say_dry_sum(plan)


def _change(made: Difference) -> str:
    return f"without {made.where}" if made.after is None else f"{made.where}={made.after}"


def _say_dry_sum(plan: Plan) -> None:
    asked = plan.asked
    seconds = plan.planned.seconds if plan.planned is not None else _by_recorded_answers(plan)
    if asked.as_json:
        print_json(
            {
                "total": {
                    "recordings": plan.total,
                    "to": shown_url(asked.handler),
                    "seconds": None if seconds is None else round(seconds, 3),
                    "seed": plan.variation.seed,
                }
            }
        )
        return
    where = shown_url(asked.handler) + (f" and to {shown_url(asked.against)}" if asked.against else "")
    if seconds is None:
        how_long = "for as long as your handler takes"
    elif plan.planned is not None:
        how_long = f"over {duration(seconds)}{_gaps(plan)}"
    else:
        how_long = f"in about {duration(seconds)}, as quickly as it was answered before"
    click.echo(f"Nothing was sent. {_amount(plan)} would go to {where}, {how_long}.")
    if plan.variation.needs_seed:
        click.echo(f"Give --seed {plan.variation.seed} to have exactly these sent in this order.")
    if plan.selection.left_out:
        click.echo(_left_out(plan.selection.left_out))


def _by_recorded_answers(plan: Plan) -> float | None:
    """How many seconds it takes where the handler is as quick as it was; None where it has not answered yet."""
    with plan.journal.recorded_answers() as answers:
        took = [
            answer.duration_ms
            for recording in islice(plan.to_be_sent(), _ROWS_SHOWN)
            if (answer := answers.to(recording)) is not None
        ]
    if not took or plan.total is None:
        return None
    return sum(took) / len(took) / 1000 * plan.total / (plan.asked.concurrency or 1)

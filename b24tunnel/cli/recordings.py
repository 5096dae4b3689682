"""`b24tunnel list`, `show` and `follow`: what is recorded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from b24tunnel.cli.selecting_options import narrowing_of, selecting_options
from b24tunnel.cli.terminal import (
    counted,
    json_option,
    local_time,
    open_journal,
    print_json,
    print_table,
    recordings_option,
    reveal_option,
    say_unreadable,
    visible,
)
from b24tunnel.errors import CheckFailed, WrongUsage

if TYPE_CHECKING:
    from b24tunnel.journal import Journal, LaterFormat
    from b24tunnel.redact import Masker


@click.command(
    "list",
    epilog="\b\nExample:\n  b24tunnel list 'ONCRM*' --failed -n 20\n"
    "  b24tunnel list --since 10m --where 'data.FIELDS.ID>=7000'",
)
@click.argument("selectors", nargs=-1, metavar="[SELECTOR]...")
@recordings_option
@click.option("-n", "--limit", type=click.IntRange(1, 10_000_000), default=50, show_default=True, help="How many.")
@selecting_options
@click.option("--check", is_flag=True, help="Read the whole journal and say what is wrong with it.")
@json_option
@reveal_option
@click.pass_context
def list_command(
    context: click.Context,
    /,
    selectors: tuple[str, ...],
    recordings: Path,
    limit: int,
    check: bool,
    as_json: bool,
    reveal: bool,
    **narrowed_by: Any,
) -> None:
    """List recordings, newest last, each with what the handler made of it.

    A SELECTOR is an id (12-345), last, last:N, a session (12), an event code or glob ('ONCRM*'), or a fixture's
    name or path. ORIGIN: verified (the portal's application_token), mismatched (another one), unverified (none is
    known). HANDLER: the last attempt's answer, of each handler where there are several.

    With --check: what each file holds and what is wrong with it; exit code 1 when something is.
    """
    narrowing = narrowing_of(**narrowed_by)
    if check:
        limited = context.get_parameter_source("limit") is not ParameterSource.DEFAULT
        if selectors or narrowing.narrows or reveal or limited:
            raise WrongUsage(
                "--check looks at the whole journal: leave out selectors, --limit, --reveal and what narrows it."
            )
        _check_journal(recordings, as_json=as_json)
        return
    from b24tunnel.cli.render import attempt_json, outcomes, recording_json, summary, what
    from b24tunnel.redact import Masker
    from b24tunnel.selecting import histories

    journal = open_journal(recordings)
    try:
        chosen = histories(journal, selectors, recordings, limit=limit, narrowing=narrowing)[::-1]
    finally:
        say_unreadable(journal)
    if as_json:
        for recording, attempts in chosen:
            masker = None if reveal else Masker.of(recording)
            print_json(
                {**recording_json(recording, masker), "attempts": [attempt_json(a, masker) for a in attempts]}
            )
    elif chosen:
        print_table(
            ("ID", "RECEIVED", "EVENT", "DATA", "ORIGIN", "HANDLER"),
            shrink=("DATA", "HANDLER"),
            rows=(
                (
                    recording.id,
                    local_time(recording.received_at),
                    what(recording),
                    summary(recording),
                    recording.verdict,
                    outcomes(attempts),
                )
                for recording, attempts in chosen
            ),
        )
    else:
        which = " that match" if selectors or narrowing.narrows else ""
        click.echo(f"No recordings{which} in {journal.directory.absolute()}.", err=True)


def _check_journal(recordings: Path, *, as_json: bool) -> None:
    """Print what is in each of the journal's files and what is wrong with it; raises `CheckFailed`."""
    journal = open_journal(recordings)
    total = {"files": 0, "recordings": 0, "attempts": 0, "bytes": 0, "problems": 0}
    for checked in journal.check():
        found = {
            "recordings": checked.recordings,
            "attempts": checked.attempts,
            "bytes": checked.size,
        }
        for name, number in {**found, "files": 1, "problems": checked.problem_count}.items():
            total[name] += number
        if as_json:
            problems = [{"line": problem.line, "what": problem.what} for problem in checked.problems]
            place = {"file": str(checked.path), "session": checked.session, "being_written": checked.being_written}
            print_json({**place, **found, "problem_count": checked.problem_count, "problems": problems})
        elif checked.recordings or checked.attempts or checked.problem_count:
            written = ", being written" if checked.being_written else ""
            holds = f"{counted(checked.recordings, 'recording')}, {counted(checked.attempts, 'attempt')}"
            click.echo(f"{checked.path.name}: {holds}{written}")
            for problem in checked.problems:
                click.echo(f"  {problem}")
            if (more := checked.problem_count - len(checked.problems)) > 0:
                click.echo(f"  and {counted(more, 'problem')} more")
    if as_json:
        print_json({"total": {**total, "repaired": len(journal.torn)}})
    else:
        held = [counted(total[noun + "s"], noun) for noun in ("recording", "attempt", "file", "problem")]
        click.echo(", ".join(held) + ".")
    if total["problems"]:
        raise CheckFailed(
            f"the journal in {journal.directory.absolute()} has {counted(total['problems'], 'problem')}: what is "
            "named above is skipped, and everything else is read."
        )


@click.command("show", epilog="\b\nExample:\n  b24tunnel show last")
@click.argument("selector", metavar="ID")
@recordings_option
@json_option
@reveal_option
def show_command(selector: str, recordings: Path, as_json: bool, reveal: bool) -> None:
    """Show one recording whole: request, event, exact body, and every attempt with its answer.

    ID is a recording's id, 'last', or a fixture's name or path. Secrets are masked unless --reveal is given.
    """
    from b24tunnel.cli.render import attempt_json, outcome, pretty, recording_json, what
    from b24tunnel.redact import Masker
    from b24tunnel.selecting import select_one

    journal = open_journal(recordings)
    try:
        recording = select_one(journal, selector, recordings)
        attempts = journal.attempts(recording.id)
    finally:
        say_unreadable(journal)
    masker = None if reveal else Masker.of(recording)
    shown = recording_json(recording, masker)
    tries = [attempt_json(attempt, masker) for attempt in attempts]
    if as_json:
        print_json({**shown, "attempts": tries})
        return
    request = shown["request"]
    lines = [
        f"{what(recording)}  {recording.id}",
        f"  received {local_time(recording.received_at)} from {recording.remote or 'unknown'}, {recording.verdict}"
        + (f", portal {recording.portal}" if recording.portal else ""),
        "",
        f"{request['method']} {request['target']} HTTP/{request['http_version']}",
        *(f"{name}: {value}" for name, value in request["headers"]),
        "",
        f"Body ({len(recording.body)} bytes):",
        request.get("body") or request.get("body_masked") or request.get("body_base64", ""),
        "",
        "Event:",
        pretty(shown["event"]),
    ]
    for number, (attempt, record) in enumerate(zip(attempts, tries, strict=True), 1):
        lines += [
            "",
            f"Attempt {number} ({attempt.cause}, {local_time(attempt.started_at)}) to {record['target']}:",
            f"  {outcome(attempt)}",
            *(f"  {name}: {value}" for name, value in record["headers"]),
        ]
        answer = record.get("body") or record.get("body_base64")
        if answer:
            lines += ["", *(f"  {line}" for line in answer.splitlines())]
        if attempt.truncated:
            lines.append("  … (the answer went on)")
    if not attempts:
        lines += ["", "No attempt: it was not forwarded or replayed."]
    click.echo("\n".join(map(visible, lines)))


@click.command("follow", epilog="\b\nExample:\n  b24tunnel follow --json | jq .code")
@recordings_option
@json_option
@reveal_option
def follow_command(recordings: Path, as_json: bool, reveal: bool) -> None:
    """Print recordings and attempts as they come, also those of a 'listen' in another terminal."""
    import asyncio

    from b24tunnel.cli.printing import Printer
    from b24tunnel.cli.render import attempt_json, recording_json, renderer
    from b24tunnel.cli.stopping import run_until_stopped
    from b24tunnel.happenings import Attempted, Recorded
    from b24tunnel.journal import follow_directory
    from b24tunnel.recording import Attempt, Recording
    from b24tunnel.redact import Masker

    journal = open_journal(recordings)
    show = renderer(None)
    # Secrets of recent recordings, for masking them in what handlers answer to them.
    maskers: dict[str, Masker] = {}

    def line_of(record: Recording | Attempt) -> Callable[[], None]:
        """What prints a record, made at once: only its text waits for the reader."""
        if isinstance(record, Recording):
            masker = maskers[record.id] = Masker.of(record)
            if len(maskers) > 1000:
                del maskers[next(iter(maskers))]
            if as_json:
                return partial(print_json, recording_json(record, None if reveal else masker))
            return show(Recorded(record))
        if as_json:
            masker = maskers.get(record.recording) or _masker_of(journal, record.recording)
            return partial(print_json, attempt_json(record, None if reveal else masker))
        return show(Attempted(record))

    async def follow(stop: asyncio.Event) -> None:
        failures: list[OSError] = []

        def failed(error: OSError) -> None:
            failures.append(error)
            stop.set()

        async def print_as_they_come() -> None:
            def skipped(later: LaterFormat) -> None:
                printer.put(partial(click.echo, f"Note: {later}", err=True))

            async for record in follow_directory(journal.directory, skipped):
                await printer.room()
                printer.put(line_of(record))

        printer = Printer(failed)
        printing = asyncio.create_task(print_as_they_come())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait((printing, stopping), return_when=asyncio.FIRST_COMPLETED)
        for task in (printing, stopping):
            task.cancel()
        results = await asyncio.gather(printing, stopping, return_exceptions=True)
        printer.finish(0)
        for failure in (*failures, *results):
            if isinstance(failure, Exception):
                raise failure

    run_until_stopped(follow, "Left at once.")


def _masker_of(journal: Journal, recording_id: str) -> Masker:
    from b24tunnel.redact import Masker

    recording = journal.get(recording_id)
    return Masker.of(recording) if recording else Masker(())

"""`b24tunnel replay`."""

from __future__ import annotations

from pathlib import Path

import click

from b24tunnel.cli.terminal import (
    concurrency_option,
    json_option,
    open_journal,
    print_json,
    print_table,
    recordings_option,
    say_unreadable,
    timeout_option,
)


@click.command("replay", epilog="\b\nExample:\n  b24tunnel replay last:10 --to http://127.0.0.1:8000/handler")
@click.argument("selectors", nargs=-1, required=True, metavar="SELECTOR...")
@click.option("--to", required=True, metavar="URL", help="The handler to send them to.")
@recordings_option
@concurrency_option(1)
@timeout_option
@json_option
@click.pass_context
def replay_command(
    context: click.Context,
    selectors: tuple[str, ...],
    to: str,
    recordings: Path,
    concurrency: int,
    timeout: float,
    as_json: bool,
) -> None:
    """Send recordings to a handler again, the exact bytes.

    A SELECTOR is an id (12-345), last, last:N, a session (12), an event code or glob ('ONCRM*'), or a fixture's
    name or path. Exit code 1 when a handler did not answer 2xx.
    """
    from b24tunnel import event_loop
    from b24tunnel.cli.render import attempt_json, outcome, what
    from b24tunnel.recording import Attempt, Recording
    from b24tunnel.redact import Masker
    from b24tunnel.replaying import areplay_noted
    from b24tunnel.selecting import select

    journal = open_journal(recordings)
    rows: list[tuple[str, str, str]] = []

    def on_attempt(recording: Recording, attempt: Attempt) -> None:
        if as_json:
            print_json(attempt_json(attempt, Masker.of(recording)))
        else:
            rows.append((recording.id, what(recording), outcome(attempt)))

    try:
        report = event_loop.run(
            areplay_noted(
                select(journal, selectors, recordings),
                to,
                journal,
                concurrency=concurrency,
                timeout=timeout,
                on_attempt=on_attempt,
            )
        )
    finally:
        say_unreadable(journal)
        # Also when it was interrupted: what was sent is sent.
        if rows and not as_json:
            print_table(("ID", "EVENT", "HANDLER"), rows, shrink=("HANDLER",))
    if not as_json:
        sum_of_all = f"{len(report.failed)} failed" if report.failed else "all answered 2xx"
        click.echo(f"{len(report.attempts)} sent, {sum_of_all}.")
    context.exit(0 if report.ok else 1)

"""`b24tunnel prune`: removes old recordings."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import click

from b24tunnel.cli.terminal import json_option, open_journal, print_json, recordings_option

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def _age(context: click.Context, option: click.Parameter, value: str | None) -> timedelta | None:
    """``30d`` as a span of time."""
    if value is None:
        return None
    match = re.fullmatch(r"([0-9]{1,5})([mhdw])", value, re.ASCII)
    if match is None:
        raise click.BadParameter(f"{value!r} is no age: give a number and a unit, as in 45m, 12h, 30d or 2w.")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


@click.command("prune", epilog="\b\nExample:\n  b24tunnel prune --older-than 30d --keep 1000")
@click.option("--older-than", callback=_age, metavar="AGE", help="Those received longer ago: 45m, 12h, 30d, 2w.")
@click.option("--keep", type=click.IntRange(0, 1_000_000_000), metavar="N", help="But never the newest N.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@recordings_option
@json_option
def prune_command(
    older_than: timedelta | None, keep: int | None, dry_run: bool, recordings: Path, as_json: bool
) -> None:
    """Remove old recordings from the journal, each with its attempts; with --keep alone, all but the newest N.

    Recordings that were not forwarded yet stay, and so do fixtures, what another b24tunnel is writing, and files
    with lines that cannot be read.
    """
    from b24tunnel.journal.prune import prune

    journal = open_journal(recordings)
    report = prune(journal.directory, older_than=older_than, keep=keep, dry_run=dry_run)
    for path, why in report.left_whole.items():
        click.echo(f"Note: {path} was left whole: {why}.", err=True)
    if as_json:
        print_json(
            {
                "dry_run": dry_run,
                "recordings": report.recordings,
                "attempts": report.attempts,
                "bytes": report.size,
                "not_forwarded": report.not_forwarded,
                "sessions_being_written": report.being_written,
                "left_whole": [{"file": str(path), "why": why} for path, why in report.left_whole.items()],
            }
        )
        return
    if report.being_written:
        sessions = "1 session is" if report.being_written == 1 else f"{report.being_written} sessions are"
        click.echo(f"Note: {sessions} being written and left alone.", err=True)
    removed = f"{_counted(report.recordings, 'recording')} and {_counted(report.attempts, 'attempt')}"
    kept = ""
    if report.not_forwarded:
        they = "it was" if report.not_forwarded == 1 else "they were"
        kept = f"; {report.not_forwarded:,} kept because {they} not forwarded yet"
    click.echo(f"{'Would remove' if dry_run else 'Removed'} {removed} ({_size(report.size)}){kept}.")


def _counted(number: int, noun: str) -> str:
    """``1 recording``, ``1,234 recordings``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _size(number: int) -> str:
    """``12.3 MB``."""
    amount = float(number)
    for unit in ("bytes", "kB", "MB"):
        if amount < 1000:
            return f"{number} bytes" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"

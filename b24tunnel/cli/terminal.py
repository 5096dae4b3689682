"""What all commands share: options, tables, text that is safe to show, and stopping on a signal."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from b24tunnel.journal import Journal

# Wide enough that nothing is cut where the output is no terminal.
_UNCUT = 100_000

recordings_option = click.option(
    "--recordings",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("recordings"),
    show_default=True,
    metavar="DIR",
    help="Where fixtures and the journal lie.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
reveal_option = click.option("--reveal", is_flag=True, help="Show tokens and other secrets.")


def print_json(value: Any) -> None:
    """One JSON object as one line, at once. Surrogate escapes become JSON escapes."""
    line = json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace")
    click.echo(line)


def visible(text: str) -> str:
    """``text`` without anything that a terminal would obey: control characters are written out."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Aligned columns; cut to the terminal's width, and not cut at all where there is none."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_UNCUT)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="ellipsis", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(visible(cell)) for cell in row))
    console.print(table)


def local_time(moment: datetime) -> str:
    """A moment on the user's clock, to the second."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def open_journal(recordings: Path) -> Journal:
    """The journal below ``recordings``; what had to be repaired is said on standard error."""
    from b24tunnel.journal import Journal

    journal = Journal.open(recordings)
    for torn in journal.torn:
        click.echo(f"Note: {torn}.", err=True)
    return journal


def say_unreadable(journal: Journal) -> None:
    """Tell on standard error which lines were passed over while reading."""
    for path, problems in journal.unreadable.items():
        for problem in problems:
            click.echo(f"Note: skipped in {path}: {problem}.", err=True)


def run_until_stopped(main: Callable[[asyncio.Event], Awaitable[None]], at_second_signal: str) -> None:
    """Run ``main`` with an event that Ctrl-C, SIGTERM and the closing of the terminal set.

    The second signal ends the process at once, after printing ``at_second_signal``.
    """

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def on_signal() -> None:
            if stop.is_set():
                sys.stderr.write(at_second_signal + "\n")
                sys.stderr.flush()
                os._exit(130)
            stop.set()

        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is None:
                continue
            try:
                loop.add_signal_handler(number, on_signal)
            except NotImplementedError:  # Windows: its loop cannot, so the signal is handed over to it
                signal.signal(number, lambda *_: loop.call_soon_threadsafe(on_signal))
        await main(stop)

    asyncio.run(run())

"""What the commands print with, and the options that several of them take."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

if TYPE_CHECKING:
    from b24tunnel.journal import Journal

# Wide enough that nothing is cut where the output is no terminal.
_UNCUT = 100_000
# Columns of a terminal between two columns of a table, and what a column of it is cut to at most.
_GAP = 2
_NARROWEST = 8
_Command = TypeVar("_Command", bound=Callable[..., Any])


class Seconds(click.FloatRange):
    """A number of seconds within a range; no NaN, which every comparison lets through."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail(f"{value!r} is no number of seconds.", param, ctx)
        return seconds


class _Recordings(click.Option):
    """Without the option, a command that reads recordings looks for them where `listen` is set to keep them."""

    def get_default(self, ctx: click.Context, call: bool = True) -> Any:
        # `listen` itself is settled as a whole; help and completion read no settings.
        if not call or ctx.resilient_parsing or ctx.command.name == "listen":
            return super().get_default(ctx, call)
        from b24tunnel.cli.settled import settled_recordings

        return settled_recordings()


recordings_option = click.option(
    "--recordings",
    cls=_Recordings,
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("recordings"),
    show_default=True,
    metavar="DIR",
    help="Where fixtures and the journal lie.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
reveal_option = click.option("--reveal", is_flag=True, help="Show tokens and other secrets.")
timeout_option = click.option(
    "--timeout", type=Seconds(0.1, 3600), default=60.0, show_default=True, help="Seconds your handler may take."
)


def concurrency_option(default: int | None, shown: str | bool = True) -> Callable[[_Command], _Command]:
    """``--concurrency``: how many requests to a handler are under way at a time."""
    return click.option(
        "--concurrency",
        type=click.IntRange(1, 1000),
        default=default,
        show_default=shown,
        help="Requests to your handler at a time; 1 keeps a strict order.",
    )


def json_line(value: Any) -> bytes:
    """A value as one line of JSON. Surrogate escapes become JSON escapes."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace")


def print_json(value: Any) -> None:
    """One JSON object as one line, at once."""
    click.echo(json_line(value))


def visible(text: str) -> str:
    """``text`` without anything that a terminal would obey: control characters are written out."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str) -> str:
    """``text`` with its line ends shown as such, so that none begins a line that nobody wrote."""
    return re.sub(r"\r?\n|\r", "⏎", text)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], shrink: Sequence[str] = (), *, fold: bool = False
) -> None:
    """Aligned columns; on a terminal those in ``shrink`` are cut to its width, or folded, elsewhere nothing is."""
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_UNCUT)
    table = Table(box=None, pad_edge=False, header_style="bold")
    shown = [[visible(one_line(cell)) for cell in row] for row in rows]
    widths = {
        column: max([len(column), *(cell_len(row[place]) for row in shown)])
        for place, column in enumerate(columns)
    }
    room = console.width - _GAP * (len(columns) - 1) - sum(widths[c] for c in columns if c not in shrink)
    widths |= _shared(room, {column: widths[column] for column in shrink if column in widths})
    # Rather a line that the terminal breaks than one without its first columns.
    console.width = max(console.width, sum(widths.values()) + _GAP * (len(columns) - 1))
    for column in columns:
        folds = fold and column in shrink
        overflow: Literal["fold", "ellipsis"] = "fold" if folds else "ellipsis"
        table.add_column(column, overflow=overflow, no_wrap=not folds, width=widths[column])
    for row in shown:
        table.add_row(*map(Text, row))
    console.print(table)


def _shared(room: int, wanted: dict[str, int]) -> dict[str, int]:
    """The room divided among columns: what one does not need is the others'; none has less than a few letters."""
    given: dict[str, int] = {}
    for number, (column, width) in enumerate(sorted(wanted.items(), key=lambda one: one[1])):
        share = max(_NARROWEST, (room - sum(given.values())) // (len(wanted) - number))
        given[column] = min(width, share)
    return given


def local_time(moment: datetime) -> str:
    """A moment on the user's clock, to the second; without the date where that is today's."""
    local = moment.astimezone()
    today = local.date() == datetime.now().astimezone().date()
    return local.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S")


def duration(seconds: float) -> str:
    """``0.8 ms``, ``850 ms``, ``12.3 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if 0 < seconds < 0.01:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if minutes else f"{hours:,} h"


def counted(number: int, noun: str) -> str:
    """``1 recording``, ``2 recordings``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def open_journal(recordings: Path) -> Journal:
    """The journal below ``recordings``; what had to be repaired is said on standard error."""
    from b24tunnel.journal import Journal

    journal = Journal.open(recordings)
    for torn in journal.torn:
        click.echo(f"Note: {torn}", err=True)
    return journal


def say_unreadable(journal: Journal) -> None:
    """Tell on standard error which lines were passed over while reading."""
    for path, problems in journal.unreadable.items():
        for problem in problems:
            click.echo(f"Note: skipped in {path}: {problem}.", err=True)

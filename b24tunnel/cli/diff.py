"""`b24tunnel diff`: two recordings side by side."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from b24tunnel.cli.terminal import (
    counted,
    json_option,
    open_journal,
    print_json,
    recordings_option,
    reveal_option,
    say_unreadable,
)


@click.command(
    "diff",
    epilog="\b\nExample:\n  b24tunnel diff 12-345 12-346 --ignore ts --ignore 'auth.*' --ignore 'header *'",
)
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.option(
    "--ignore",
    multiple=True,
    metavar="PLACE",
    help="What may differ: 'auth.*', ts, 'header Host', or '$.time' in JSON. Repeatable.",
)
@recordings_option
@json_option
@reveal_option
@click.pass_context
def diff_command(
    context: click.Context,
    before: str,
    after: str,
    ignore: tuple[str, ...],
    recordings: Path,
    as_json: bool,
    reveal: bool,
) -> None:
    """Show where two recordings' requests differ, field by field.

    A and B are recordings' ids, 'last', or fixtures' names or paths. A PLACE with $ in front is a JSONPath of a
    JSON body; any other is a glob over the places as they are printed. What lies below it is ignored too. Secrets
    are masked unless --reveal is given. Exit code 0 when nothing differs, 1 when something does.
    """
    from b24tunnel.cli.differences import difference_lines
    from b24tunnel.difference import how_many
    from b24tunnel.differing import differences_of
    from b24tunnel.masked_differences import masked
    from b24tunnel.redact import Masker
    from b24tunnel.selecting import select_one

    journal = open_journal(recordings)
    try:
        first, second = (select_one(journal, selector, recordings) for selector in (before, after))
    finally:
        say_unreadable(journal)
    differences = differences_of(first, second, ignore)
    masker = None if reveal else Masker.of(first, second)
    if as_json:
        for difference in differences:
            print_json(masked(difference, masker)._asdict())
    else:
        for line in difference_lines(differences, masker, colours=sys.stdout.isatty()):
            click.echo(line)
        number = how_many(differences)
        click.echo(f"{counted(number, 'difference')}." if number else "No difference.")
    context.exit(1 if differences else 0)

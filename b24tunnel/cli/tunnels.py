"""`b24tunnel tunnels`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from b24tunnel.cli.terminal import json_option, print_json, print_table

if TYPE_CHECKING:
    from b24tunnel.tunnel.choosing import Known


@click.command("tunnels", epilog="\b\nExample:\n  b24tunnel tunnels")
@json_option
def tunnels_command(as_json: bool) -> None:
    """List what --tunnel can be, with what each needs and which of them are usable here now."""
    from pathlib import Path

    from b24tunnel.portal import State
    from b24tunnel.settings import read_settings
    from b24tunnel.tunnel.choosing import survey

    home = State.open().home
    found = survey(read_settings(Path.cwd(), home), home)
    if as_json:
        for row in found:
            print_json(
                {
                    "name": row.name,
                    "usable": row.lacks is None,
                    "lacks": row.lacks,
                    "automatic": row.automatic,
                    "needs": row.facts.needs,
                    "stays": row.facts.stays,
                    "russia": row.facts.russia,
                }
            )
        return
    print_table(
        ("TUNNEL", "USABLE NOW", "NEEDS", "THE SAME ADDRESS NEXT TIME", "FROM RUSSIA"),
        [
            (
                row.name,
                _usable(row),
                row.facts.needs,
                row.facts.stays,
                row.facts.russia,
            )
            for row in found
        ],
        shrink=("USABLE NOW", "NEEDS", "THE SAME ADDRESS NEXT TIME", "FROM RUSSIA"),
        fold=True,
    )


def _usable(row: Known) -> str:
    if row.lacks is not None:
        return f"no, lacks {row.lacks}"
    return f"yes, auto tries it as number {row.automatic}" if row.automatic else "yes"

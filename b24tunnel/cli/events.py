"""`b24tunnel events`: the catalogue."""

from __future__ import annotations

import click

from b24tunnel.cli.terminal import json_option, print_json, print_table


@click.command("events", epilog="\b\nExample:\n  b24tunnel events 'ONCRMDEAL*'")
@click.argument("pattern", default="*", required=False)
@json_option
def events_command(pattern: str, as_json: bool) -> None:
    """List the documented events whose code matches PATTERN (a glob, or a part of the code)."""
    from b24tunnel.catalogue import find, suggest
    from b24tunnel.errors import WrongUsage

    entries = find(pattern)
    if not entries:
        near = ", ".join(suggest(pattern))
        raise WrongUsage(
            f"No documented event matches {pattern!r}"
            + (f": did you mean {near}?" if near else ": see 'b24tunnel events'.")
        )
    if as_json:
        for entry in entries:
            print_json(
                {
                    "code": entry.code,
                    "scope": entry.scope,
                    "meaning": entry.meaning,
                    "data": entry.data,
                    "auth_keys": entry.auth_keys,
                    "delivered": entry.delivered,
                }
            )
    else:
        print_table(
            ("EVENT", "SCOPE", "MEANING"), ((e.code, e.scope, e.meaning) for e in entries), shrink=("MEANING",)
        )

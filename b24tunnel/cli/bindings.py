"""`b24tunnel bindings`: what this tool has bound, and the removal of what a crash left."""

from __future__ import annotations

import click

from b24tunnel.cli.terminal import counted, json_option, print_json, print_table


@click.group("bindings", invoke_without_command=True, epilog="\b\nExample:\n  b24tunnel bindings clean")
@json_option
@click.pass_context
def bindings_command(context: click.Context, as_json: bool) -> None:
    """List the bindings that this tool made and has not removed yet."""
    if context.invoked_subcommand is not None:
        return
    from b24tunnel.portal import State

    rows = [
        (row.portal, row.event, row.handler or "offline queue", "left behind" if row.left_behind else row.state)
        for row in State.open().ledger()
    ]
    if as_json:
        for row in rows:
            print_json(dict(zip(("portal", "event", "handler", "state"), row, strict=True)))
    elif rows:
        print_table(("PORTAL", "EVENT", "HANDLER", "STATE"), rows, shrink=("HANDLER",))
    else:
        click.echo("Nothing is bound by this tool.", err=True)


@bindings_command.command("clean", epilog="\b\nExample:\n  b24tunnel bindings clean")
@click.option(
    "--kept", is_flag=True, help="Also what ended runs left bound on purpose (--keep-bound, --catch-up)."
)
def clean(kept: bool) -> None:
    """Unbind what crashed runs left on their portals; nothing else is touched."""
    import asyncio

    from b24tunnel.errors import OutsideFailure
    from b24tunnel.portal import State
    from b24tunnel.portal.clean_up import clean_all

    results = asyncio.run(clean_all(State.open(), kept=kept))
    unbound = sum(len(result.unbound) for result in results)
    left = [leftover for result in results for leftover in result.left]
    if unbound or not left:
        click.echo(f"Unbound {counted(unbound, 'binding')}." if unbound else "Nothing was left behind.")
    if left:
        raise OutsideFailure(
            f"{counted(len(left), 'binding')} are still there, the first is {left[0].row.event} on "
            f"{left[0].row.portal}: {left[0].reason}."
        )

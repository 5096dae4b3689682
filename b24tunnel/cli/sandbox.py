"""`b24tunnel sandbox`: the simulated portal on its own."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from b24tunnel.cli.stopping import run_until_stopped
from b24tunnel.cli.terminal import Seconds, json_option, print_json, visible

if TYPE_CHECKING:
    import asyncio

CLOUD_OPERATING = 480.0  # seconds a method in ten minutes: the example of the page "Limits"


@click.group(
    "sandbox",
    invoke_without_command=True,
    epilog="\b\nExample:\n  b24tunnel sandbox\n  b24tunnel sandbox call crm.deal.add 'fields[TITLE]=First'",
)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="0 takes a free one.")
@click.option(
    "--delay",
    type=Seconds(0, 60),
    default=0.2,
    show_default=True,
    help="Seconds between a change and its delivery.",
)
@click.option(
    "--token-life",
    type=click.IntRange(1, 30 * 24 * 3600),
    default=3600,
    show_default=True,
    help="Seconds for which an access token is good.",
)
@click.option("--no-admin", is_flag=True, help="The user is no administrator.")
@click.option("--not-installed", is_flag=True, help="The application's installation is not finished.")
@click.option("--basic-offline", is_flag=True, help="The plan lacks the extended mode of offline events.")
@click.option("--limits", is_flag=True, help="Limit requests and working time as cloud portals do.")
@click.option("--name", default="sandbox", show_default=True, help="The portal's name for --portal.")
@json_option
@click.pass_context
def sandbox_command(
    context: click.Context,
    port: int,
    delay: float,
    token_life: int,
    no_admin: bool,
    not_installed: bool,
    basic_offline: bool,
    limits: bool,
    name: str,
    as_json: bool,
) -> None:
    """Run a simulated Bitrix24 portal on this machine until Ctrl-C.

    While it runs it is known as the portal 'sandbox', so 'listen --portal sandbox' finds it. Its page "Developer
    resources", whose address is printed, takes what you would set up by hand on a portal. --json prints its
    address and credentials as one line.
    """
    if context.invoked_subcommand is not None:
        return
    from b24tunnel.cli.printing import Printer
    from b24tunnel.portal import State
    from b24tunnel.registered import registered
    from b24tunnel.sandbox import Delivery, Limits, Sandbox

    state = State.open()

    async def serve(stop: asyncio.Event) -> None:
        def tell(delivery: Delivery) -> None:
            made = delivery.status if delivery.error is None else delivery.error
            line = visible(f"delivered {delivery.code} to {delivery.url.partition('?')[0]}: {made}")
            if printer.has_room:  # a reader who has stopped reading does not hold up the portal
                printer.put(partial(click.echo, line))

        printer = Printer(lambda error: stop.set())
        async with Sandbox(
            port=port,
            delay=delay,
            token_life=token_life,
            admin=not no_admin,
            installed=not not_installed,
            offline_extended=not basic_offline,
            limits=Limits(operating=CLOUD_OPERATING) if limits else None,
            on_delivery=None if as_json else tell,
        ) as sandbox:
            with registered(sandbox, name, state):
                if as_json:
                    printer.put(partial(print_json, sandbox.credentials.as_dict()))
                else:
                    named = "" if name == "sandbox" else f" --name {name}"
                    printer.put(
                        partial(
                            click.echo,
                            f"Simulated portal at {sandbox.url}, known as {name!r} until Ctrl-C ends it.\n"
                            f"Set up its application and webhooks by hand at {sandbox.devops_url}\n"
                            "In other terminals:\n"
                            f"  b24tunnel listen ONCRMDEALADD ONCRMDEALUPDATE --portal {name}\n"
                            f"  b24tunnel sandbox call{named} crm.deal.add 'fields[TITLE]=First'",
                        )
                    )
                await stop.wait()
        printer.finish(0)

    run_until_stopped(serve, "Left at once.")


@sandbox_command.command(
    "call", epilog="\b\nExample:\n  b24tunnel sandbox call crm.deal.update id=1 'fields[TITLE]=New'"
)
@click.argument("method")
@click.argument("params", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--name", default="sandbox", show_default=True, help="The portal's name.")
def call(method: str, params: tuple[str, ...], name: str) -> None:
    """Call a REST METHOD of the running sandbox, for example to change a deal, and print its result.

    \b
    METHODs: crm.deal|lead|contact.add|update|get|list|delete|fields,
    event.bind|unbind|get|test, events, event.offline.get|list|clear|error,
    bizproc.robot|activity.add|list|delete, bizproc.event.send,
    app.info, profile, scope, method.get, feature.get, batch.
    """
    import asyncio

    from b24tunnel.portal import RestClient, State

    parsed = _parameters(params)
    state = State.open()

    async def run() -> object:
        async with RestClient(state.portal(name), state) as client:
            return await client.call(method, parsed)

    print_json(asyncio.run(run()))


@sandbox_command.command(
    "robot",
    epilog="\b\nExample:\n  b24tunnel sandbox call bizproc.robot.add code=mine name=Mine "
    "handler=http://127.0.0.1:8000/\n  b24tunnel sandbox robot mine comment=Hello",
)
@click.argument("code")
@click.argument("properties", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--name", default="sandbox", show_default=True, help="The portal's name.")
def robot(code: str, properties: tuple[str, ...], name: str) -> None:
    """Let a workflow of the running sandbox run the robot or activity CODE.

    The application registered it before with bizproc.robot.add or bizproc.activity.add.
    """
    from b24tunnel.portal import State
    from b24tunnel.sandbox.filling_in import fill_in

    portal = State.open().portal(name)
    fields = {"form": "robot", "code": code, "properties": _parameters(properties)}
    click.echo(visible(fill_in(portal.client_endpoint, fields)))


def _parameters(params: tuple[str, ...]) -> dict[str, Any]:
    """NAME=VALUE arguments as a table; brackets in a name make it nested. Raises ``WrongUsage``."""
    from urllib.parse import quote_plus

    from b24tunnel import form
    from b24tunnel.errors import WrongUsage

    pairs = []
    for param in params:
        name_and_value = param.partition("=")
        if not (name_and_value[0] and name_and_value[1]):
            raise WrongUsage(f"{param!r} is no parameter: write NAME=VALUE, such as 'fields[TITLE]=First'.")
        pairs.append("=".join(quote_plus(part, errors="surrogateescape") for part in name_and_value[::2]))
    parsed = form.parse("&".join(pairs).encode())
    return parsed if isinstance(parsed, dict) else {}

"""`b24tunnel portal`: the portals that are known, and the ways in to them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from b24tunnel.cli.secret_options import GivenSecrets, on_terminal, secret_options, warn_of_open_files
from b24tunnel.cli.stopping import run_until_stopped
from b24tunnel.cli.terminal import Seconds, json_option, print_json, print_table, visible

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from b24tunnel.portal import Portal, State
    from b24tunnel.signing_in import Way

_KINDS = ("oauth", "install", "webhook")
_INTERRUPTED = 130
_SECRETS = ("client_secret", "access_token", "refresh_token", "application_token")

_WAYS = """\
How your code gets in:
  oauth    a local application whose users sign in (the full OAuth protocol)
  install  a local application that only calls the API; the portal tells its installation
  webhook  an outgoing webhook: it only receives events, nothing is bound or called"""

_BEFORE_OAUTH = """\
On {host}: Developer resources → Other → Local application. Leave "Uses only API" (script only) unticked, enter
https://example.com as the handler path for now, choose the scopes, and save. Then copy from that page:"""


@click.group("portal", epilog="\b\nExample:\n  b24tunnel portal add work\n  b24tunnel portal login work")
def portal_command() -> None:
    """Store Bitrix24 portals with an application's credentials, and sign in to them."""


@portal_command.command(
    "add",
    epilog="\b\nExample:\n  b24tunnel portal add work --kind oauth --domain example.bitrix24.com "
    "--client-id local.0123456789abcdef.01234567",
)
@click.argument("name")
@click.option("--kind", type=click.Choice(_KINDS), help="The way in: see above.")
@click.option("--domain", metavar="HOST", help="The portal: example.bitrix24.com, or https://box.example.")
@click.option("--client-id", metavar="ID", help="The application's client_id.")
@secret_options
@click.option("--server-endpoint", metavar="URL", help="The authorisation server of a portal that has its own.")
@click.option("--replace", is_flag=True, help="Forget what is stored under this name.")
def add(
    name: str,
    kind: str | None,
    domain: str | None,
    client_id: str | None,
    server_endpoint: str | None,
    replace: bool,
    **secret: str | None,
) -> None:
    """Store a portal under a NAME of yours; what is missing is asked for, secrets unseen.

    \b
    oauth:    a local application with the full OAuth protocol
    install:  a local application that only calls the API; the portal tells its installation by an event
    webhook:  an outgoing webhook, which only brings events
    """
    from b24tunnel.portal import Portal, State
    from b24tunnel.portal import addresses as known
    from b24tunnel.portal.credentials import checked
    from b24tunnel.portal.state import AlreadyStored

    state = State.open()
    # What is wrong with the name is said before anything is asked.
    Portal(name, "")
    if not replace and any(portal.name == name for portal in state.portals()):
        raise AlreadyStored(name)
    given = GivenSecrets(**secret)
    if not on_terminal():
        _check_complete(kind, domain, client_id, given)
    if kind is None:
        click.echo(_WAYS)
        kind = click.prompt("Way in", type=click.Choice(_KINDS))
    if domain is None:
        endpoint = click.prompt(
            "The portal's address, such as example.bitrix24.com", value_proc=_asked_again(known.portal_endpoint)
        )
    else:
        endpoint = known.portal_endpoint(domain)
    host = endpoint.split("/")[2]
    server = known.server_endpoint(server_endpoint) if server_endpoint else known.usual_server(endpoint)
    values = dict(given.values)
    if kind == "oauth" and (client_id is None or "client_secret" not in given):
        click.echo(_BEFORE_OAUTH.format(host=host))
    if kind == "oauth" and client_id is None:
        client_id = click.prompt("Application ID (client_id)")
    if kind == "oauth" and "client_secret" not in given:
        typed = click.prompt("Application key (client_secret), which is not shown", hide_input=True)
        values["client_secret"] = checked(typed, "the client_secret")
    portal = Portal(
        name=name,
        client_endpoint=endpoint,
        server_endpoint=server,
        domain=host,
        client_id=checked(client_id, "the client_id") if client_id is not None else "",
        kind=cast("Way", kind),
        client_secret=values.get("client_secret", ""),
        application_token=values.get("application_token", ""),
        client_secret_from=given.references.get("client_secret_from", ""),
        application_token_from=given.references.get("application_token_from", ""),
    )
    state.add_portal(portal, replace=replace)
    warn_of_open_files(portal)
    if name == "sandbox" and not portal.on_this_machine:
        click.echo("Warning: b24tunnel sandbox takes this name too: give it another with its --name.", err=True)
    click.echo(f"Stored the portal {name} ({host}). Next:\n  b24tunnel portal login {name}")


@portal_command.command("list", epilog="\b\nExample:\n  b24tunnel portal list")
@json_option
def list_portals(as_json: bool) -> None:
    """List the portals that are known."""
    from b24tunnel.portal import State

    state = State.open()
    shown = [_described(portal, state) for portal in state.portals()]
    if as_json:
        for portal in shown:
            print_json(portal)
    elif shown:
        print_table(
            ("NAME", "PORTAL", "WAY IN", "SIGNED IN", "BINDINGS"),
            [
                (
                    portal["name"],
                    portal["domain"],
                    portal["kind"] or "-",
                    "yes" if portal["signed_in"] else "no",
                    str(portal["bindings"]),
                )
                for portal in shown
            ],
            shrink=("PORTAL",),
        )
    else:
        click.echo("No portal is known: b24tunnel portal add NAME stores one.", err=True)


@portal_command.command("show", epilog="\b\nExample:\n  b24tunnel portal show work")
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show what is known of the portal NAME, and which secrets are held; never a secret itself."""
    from b24tunnel.portal import State

    state = State.open()
    portal = state.stored(name)
    described = _described(portal, state)
    if as_json:
        print_json(described)
        return
    secrets = described.pop("secrets")
    described["signed_in"] = "yes" if described["signed_in"] else "no"
    for key, value in described.items():
        click.echo(f"{key:<18} {visible(str(value)) or '-'}")
    for secret, place in secrets.items():
        where = place["from"] or "not held"
        click.echo(
            f"{secret:<18} {visible(where)}{'' if place['held'] or not place['from'] else ' (not there now)'}"
        )
    warn_of_open_files(portal)


@portal_command.command("remove", epilog="\b\nExample:\n  b24tunnel portal remove work")
@click.argument("name")
@click.option("--force", is_flag=True, help="Even while events are bound there; they stay bound.")
def remove(name: str, force: bool) -> None:
    """Forget the portal NAME with its credentials; on the portal itself nothing changes."""
    from b24tunnel.errors import WrongUsage
    from b24tunnel.portal import State

    state = State.open()
    portal = state.stored(name)
    if not force and portal.on_this_machine and _listens(portal.client_endpoint):
        raise WrongUsage(f"{name} is running on this machine; end it with Ctrl-C first, or give --force.")
    state.forget_portal(name, force=force)
    click.echo(f"Forgot the portal {name}.")


def _listens(endpoint: str) -> bool:
    """Whether something listens at this address of this machine."""
    import socket
    from urllib.parse import urlsplit

    parts = urlsplit(endpoint)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


class _AsListen(click.Command):
    """Takes from the settings of ``listen`` what leads to the same address, where nobody says otherwise."""

    _KEYS = ("recordings", "public-url", "domain", "port")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing and not {"-h", "--help"} & set(args):
            from b24tunnel.portal import State
            from b24tunnel.settings import read_settings

            settled = read_settings(Path.cwd(), State.open().home).listen
            found = {key.replace("-", "_"): settled[key] for key in self._KEYS if key in settled}
            ctx.default_map = {name: self._value(name, setting) for name, setting in found.items()}
        return super().parse_args(ctx, args)

    @staticmethod
    def _value(name: str, setting: Any) -> Any:
        if name != "recordings":
            return setting.value
        path = Path(str(setting.value)).expanduser()
        return str(setting.file.parent / path if setting.of_project else path)


@portal_command.command("login", cls=_AsListen, epilog="\b\nExample:\n  b24tunnel portal login work")
@click.argument("name")
@click.option("--tunnel", metavar="PROVIDER", help="Where the public address comes from, as for listen.")
@click.option("--domain", metavar="NAME", help="The fixed name to ask the tunnel's provider for.")
@click.option("--public-url", metavar="URL", help="A public address of yours that leads to --port.")
@click.option("--no-probe", is_flag=True, help="Take for granted that the address leads here.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="The listener's port; 0 takes a free one.")
@click.option(
    "--recordings",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("recordings"),
    show_default=True,
    metavar="DIR",
    help="As for listen: the address belongs to this directory.",
)
@secret_options
@click.option("--no-browser", is_flag=True, help="Only print the address to open.")
@click.option("--no-wait", is_flag=True, help="The address is on the portal already: do not wait for Enter.")
@click.option(
    "--timeout",
    type=Seconds(1, 86_400),
    default=600.0,
    show_default=True,
    help="Seconds until you have to be signed in.",
)
@click.pass_context
def login(
    context: click.Context,
    /,
    name: str,
    tunnel: str | None,
    domain: str | None,
    public_url: str | None,
    no_probe: bool,
    port: int,
    recordings: Path,
    no_browser: bool,
    no_wait: bool,
    timeout: float,
    **secret: str | None,
) -> None:
    """Sign in to the portal NAME, step by step: what to paste where, until the credentials are stored.

    The public address is the one that 'listen' has for the same --recordings and tunnel.
    """
    from click.core import ParameterSource

    from b24tunnel.portal import State
    from b24tunnel.settings import read_settings
    from b24tunnel.signing_in import Listening, sign_in, way_in
    from b24tunnel.tunnel.choosing import Wish, choose

    state = State.open()
    given = GivenSecrets(**secret)
    if given:
        state.change_portal(name, given.into)
    portal = state.portal(name)
    warn_of_open_files(portal)
    way = way_in(portal)
    asks_token = way == "webhook" and "application_token" not in given and not portal.application_token_from
    if asks_token and not on_terminal():
        if not portal.application_token:
            raise click.UsageError(
                "There is no terminal to ask for the webhook's token on: give --application-token-file or "
                "--application-token-env."
            )
        asks_token = False
    if tunnel is not None:
        # What the settings say of an address belongs to their own tunnel.
        settled = ParameterSource.DEFAULT_MAP
        domain = None if context.get_parameter_source("domain") is settled else domain
        public_url = None if context.get_parameter_source("public_url") is settled else public_url
    wish = Wish(tunnel, public_url, domain, here=portal.on_this_machine, recordings=recordings)
    listening = Listening(
        recordings, choose(wish, read_settings(Path.cwd(), state.home), state.home), port, probe=not no_probe
    )
    signed_in: Portal | None = None

    async def lead(stop: asyncio.Event) -> None:
        import asyncio

        from b24tunnel.cli.guide import TerminalGuide

        nonlocal signed_in
        guide = TerminalGuide(portal, way, waits=not no_wait, opens=not no_browser, asks_token=asks_token)
        signing = asyncio.create_task(sign_in(name, state, listening, guide, timeout=timeout))
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((signing, stopped), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            if not signing.done():
                signing.cancel()
                await asyncio.wait((signing,))
        if not signing.cancelled():
            signed_in = signing.result()

    run_until_stopped(lead, "Left at once.")
    if signed_in is None:
        click.echo("Not signed in.", err=True)
        raise SystemExit(_INTERRUPTED)
    if way == "install" and not signed_in.client_secret and on_terminal():
        _ask_for_the_key(state, name)
    _tell(signed_in, way)


def _ask_for_the_key(state: State, name: str) -> None:
    """What an installation does not bring, and a renewal of the tokens needs: the page shows it from now on."""
    from b24tunnel.portal.credentials import checked

    typed = click.prompt(
        "Application key (client_secret) from the application's page, which is not shown; without it (Enter) the\n"
        "tokens cannot be renewed and are good for an hour",
        default="",
        show_default=False,
        hide_input=True,
    )
    if typed.strip():
        client_secret = checked(typed, "the client_secret")
        state.change_portal(name, lambda stored: dataclasses.replace(stored, client_secret=client_secret))


def _tell(portal: Portal, way: str) -> None:
    if way == "webhook":
        click.echo(
            f"The token of {portal.name} is stored. Next:\n  b24tunnel listen --no-bind --portal {portal.name}"
        )
        return
    user = f" as user {visible(portal.user_id)}" if portal.user_id else ""
    click.echo(
        f"Signed in to {portal.name} ({visible(portal.domain)}){user}. Next:\n"
        f"  b24tunnel listen ONCRMDEALADD ONCRMDEALUPDATE --portal {portal.name}"
    )
    if not portal.application_token and not portal.application_token_from:
        click.echo(
            "The application_token is not known yet: listen learns it from the first event that the portal "
            "confirms."
        )


def _asked_again(read: Callable[[str], str]) -> Callable[[str], str]:
    """``read`` for a question, which is asked again where that raises `WrongUsage`."""
    from b24tunnel.errors import WrongUsage

    def read_or_ask(typed: str) -> str:
        try:
            return read(typed)
        except WrongUsage as error:
            raise click.UsageError(str(error)) from None

    return read_or_ask


def _check_complete(kind: str | None, domain: str | None, client_id: str | None, given: GivenSecrets) -> None:
    """Raise a usage error where something would have to be asked for and nobody is there."""
    needed: dict[str, object] = {"--kind": kind, "--domain": domain}
    if kind == "oauth":
        needed["--client-id"] = client_id
        needed["--client-secret-file or --client-secret-env"] = "client_secret" in given or None
    if missing := [option for option, value in needed.items() if value is None]:
        raise click.UsageError(f"There is no terminal to ask on: give {', '.join(missing)}.")


def _described(portal: Portal, state: State) -> dict[str, Any]:
    """A portal without its secrets, of which it says where they are."""
    from urllib.parse import urlsplit

    from b24tunnel.errors import WrongUsage
    from b24tunnel.portal.credentials import origin, read_reference

    endpoint = urlsplit(portal.client_endpoint)
    # People store incoming webhooks' addresses, which end in a secret.
    path = endpoint.path if endpoint.path.strip("/") in ("", "rest") else "/rest/[masked]"
    secrets: dict[str, dict[str, Any]] = {}
    for secret in _SECRETS:
        place = origin(portal, secret)
        held = bool(place)
        if place not in ("", "stored"):
            try:
                read_reference(getattr(portal, f"{secret}_from"), secret)
            except WrongUsage:  # not there, or no secret
                held = False
        secrets[secret] = {"from": place or None, "held": held}
    token = "application_token" if portal.kind == "webhook" else "access_token"
    return {
        "name": portal.name,
        "kind": portal.kind,
        "domain": portal.domain or endpoint.hostname or "",
        "client_endpoint": f"{endpoint.scheme}://{endpoint.netloc.rpartition('@')[2]}{path}",
        "server_endpoint": portal.server_endpoint,
        "member_id": portal.member_id,
        "client_id": portal.client_id,
        "user_id": portal.user_id,
        "scope": portal.scope,
        "signed_in": secrets[token]["held"],
        "bindings": len(state.ledger(portal.name)),
        "secrets": secrets,
    }

"""`b24tunnel listen`."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from b24tunnel.cli.settled import SettledCommand, settings_of
from b24tunnel.cli.stopping import run_until_stopped
from b24tunnel.cli.terminal import concurrency_option, counted, recordings_option, timeout_option

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from b24tunnel.happenings import Happening
    from b24tunnel.portal import Portal, State
    from b24tunnel.senders import Senders
    from b24tunnel.settings import ProjectSettings
    from b24tunnel.tunnel.choosing import Wish
    from b24tunnel.tunnel.supervisor import Candidate


@click.command(
    "listen",
    cls=SettledCommand,
    epilog="\b\nExample:\n  b24tunnel listen ONCRMDEALUPDATE --portal sandbox --forward http://127.0.0.1:8000/handler",
)
@click.argument("events", nargs=-1, metavar="[EVENT]...")
@click.option("--forward", metavar="URL", help="Your handler: each recorded event is sent there.")
@click.option(
    "--pass-through",
    metavar="URL",
    help="Your application: every other path goes there, and its answers go back (pages, placements, robots).",
)
@click.option("--portal", metavar="NAME", help="The portal to bind on; not needed when there is only one.")
@click.option(
    "--catch-up/--no-catch-up",
    help="Collect the events in the portal's offline queue too, and take from it what happened meanwhile.",
)
@click.option(
    "--only-from-bitrix24/--no-only-from-bitrix24",
    help="Refuse what does not come from the addresses that Bitrix24 publishes.",
)
@click.option("--no-bind/--bind", help="Bind nothing: only receive, record and forward.")
@click.option("--keep-bound/--no-keep-bound", help="Leave the events bound at the end.")
@click.option(
    "--tunnel",
    metavar="PROVIDER",
    help="Where the public address comes from: auto (the default), ngrok, cloudflared, ssh, srv.us, tuna, local, "
    "url, …; 'b24tunnel tunnels' lists all.",
)
@click.option("--domain", metavar="NAME", help="The fixed name to ask the provider for.")
@click.option("--public-url", metavar="URL", help="A public address of yours that leads to --port (tunnel 'url').")
@click.option("--no-probe/--probe", help="Take for granted that the address leads here.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="The receiver's port; 0 takes a free one.")
@recordings_option
@click.option(
    "--resume/--no-resume",
    default=None,
    help="Forward first what earlier sessions could not, or leave it; without either you are asked.",
)
@concurrency_option(8)
@timeout_option
@click.option(
    "--max-body",
    type=click.IntRange(1024, 1 << 30),
    default=32 * 1024 * 1024,
    show_default=True,
    help="The largest delivery in bytes.",
)
@click.option(
    "--output",
    type=click.Choice(["rich", "plain", "json", "quiet"]),
    help="How to show what happens; rich on a terminal, else plain.",
)
@click.pass_context
def listen_command(
    context: click.Context,
    events: tuple[str, ...],
    forward: str | None,
    pass_through: str | None,
    portal: str | None,
    catch_up: bool,
    only_from_bitrix24: bool,
    no_bind: bool,
    keep_bound: bool,
    tunnel: str | None,
    domain: str | None,
    public_url: str | None,
    no_probe: bool,
    port: int,
    recordings: Path,
    resume: bool | None,
    concurrency: int,
    timeout: float,
    max_body: int,
    output: str | None,
) -> None:
    """Record Bitrix24's events to disk, answer at once, and forward them to your handler.

    EVENTs such as ONCRMDEALUPDATE are bound on the portal and unbound at the end (Ctrl-C). See them with
    'b24tunnel events'. Each option can also be set in b24tunnel.toml, which 'b24tunnel init' writes, and in the
    environment: --max-body is B24TUNNEL_LISTEN_MAX_BODY there, the EVENTs are B24TUNNEL_LISTEN_EVENTS.
    """
    from b24tunnel.bound import CLEAN_UP_COMMAND
    from b24tunnel.catalogue.bindable import bindable_codes
    from b24tunnel.cli.printing import Printer
    from b24tunnel.cli.render import renderer
    from b24tunnel.cli.typed import typed_lines
    from b24tunnel.happenings import Note, Pending, Trouble, TunnelProbed
    from b24tunnel.portal import State
    from b24tunnel.session import Session, Settings
    from b24tunnel.tunnel.choosing import choose

    if keep_bound and no_bind:
        raise click.UsageError(
            "--keep-bound leaves bound what --no-bind does not bind: leave one of them out, or give --bind or "
            "--no-keep-bound where the settings have the other."
        )
    if catch_up and no_bind:
        raise click.UsageError("--catch-up binds the events offline, and --no-bind binds nothing: leave one out.")
    settled = settings_of(context)
    codes = bindable_codes(events)
    state = State.open()
    chosen = _portal(state, portal, codes, no_bind)
    wish = _wish(context, settled, here=chosen is not None and chosen.on_this_machine)
    show = renderer(output)
    tunnels = choose(wish, settled, state.home)
    settings = Settings(
        recordings=recordings,
        tunnels=_telling(tunnels) if only_from_bitrix24 else tunnels,
        events=() if no_bind else codes,
        portal=chosen,
        state=state,
        bind=not no_bind,
        keep_bound=keep_bound,
        probe=not no_probe,
        forward=forward,
        routes=settled.routes,
        pass_through=pass_through,
        catch_up=catch_up,
        senders=_senders(state, settled, lambda told: show(Note(told))()) if only_from_bitrix24 else None,
        resume=resume,
        port=port,
        concurrency=concurrency,
        timeout=timeout,
        max_body=max_body,
    )
    if no_bind and codes:
        show(Note(f"Nothing is bound because of --no-bind, {', '.join(codes)} neither."))()

    # Where a person can answer.
    asks = sys.stdin.isatty() and sys.stdout.isatty() and output in (None, "rich", "plain") and os.name == "posix"

    async def listen(stop: asyncio.Event) -> None:
        failure: OSError | None = None
        left = 0  # what the question is about
        asked = False

        def failed(error: OSError) -> None:
            # Nobody reads any more (a closed pipe or terminal), or the disk is full: the session ends in order.
            nonlocal failure
            failure = error
            stop.set()

        def emit(happening: Happening) -> None:
            nonlocal left, asked
            if failure is not None:
                if isinstance(happening, Trouble):  # standard error may still be read
                    printer.put(partial(click.echo, happening.message, err=True))
                return
            if asks and isinstance(happening, Pending) and not happening.resumed:
                left = len(happening.recordings)
                return
            printer.put(show(happening))
            if left and not asked and isinstance(happening, TunnelProbed):
                # Only now that it is ready, so that nothing is missed while the question waits for its answer.
                asked = True
                question = (
                    f"{counted(left, 'recording')} of earlier sessions never reached your handler. Hand over now?"
                )
                printer.put(partial(click.echo, f"{question} [y/N] ", nl=False))

        def typed(line: str) -> None:
            nonlocal left
            if not (left and asked):
                session.tell_tunnel()
                return
            left = 0
            if line.lower() in ("y", "yes"):
                session.resume()

        printer = Printer(failed)
        session = Session(settings, emit, printer.room)
        code = 0
        try:
            with typed_lines(typed) if asks else contextlib.nullcontext():
                await session.run(stop)
        except BaseException:
            code = 3
            raise
        finally:
            printer.finish(code)
        if failure is not None and failure.errno not in (errno.EPIPE, errno.EIO):
            raise failure

    run_until_stopped(listen, f"Left at once. Remove what is still bound with: {CLEAN_UP_COMMAND}")


def _wish(context: click.Context, settled: ProjectSettings, *, here: bool) -> Wish:
    """Where the public address is to come from.

    A tunnel or an address that is named now is not the one that the files' domain and public-url belong to.
    """
    from b24tunnel.tunnel.choosing import Wish

    tunnel, public_url, domain = (context.params[name] for name in ("tunnel", "public_url", "domain"))
    of_files = settled.tunnel or ("url" if "public-url" in settled.listen else None)
    if _is_settled(context, "public_url") and tunnel is None:
        tunnel = of_files
    elif tunnel != of_files and (tunnel is not None or public_url is not None):
        public_url = None if _is_settled(context, "public_url") else public_url
        domain = None if _is_settled(context, "domain") else domain
    return Wish(tunnel, public_url, domain, here=here, recordings=context.params["recordings"])


def _is_settled(context: click.Context, name: str) -> bool:
    """Whether a parameter has its value from a file."""
    return context.get_parameter_source(name) is ParameterSource.DEFAULT_MAP


def _telling(tunnels: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
    """Those through which it can be told who sent a delivery; raises `WrongUsage` where there is none."""
    from b24tunnel.errors import WrongUsage
    from b24tunnel.sender_address import telling_providers, tells_sender

    telling = tuple(candidate for candidate in tunnels if tells_sender(candidate.tunnel.name))
    if not telling:
        raise WrongUsage(
            f"--only-from-bitrix24 needs a tunnel that tells where a delivery comes from, and "
            f"{', '.join(candidate.tunnel.name for candidate in tunnels)} does not: give --tunnel "
            f"{' or '.join(telling_providers())}."
        )
    return telling


def _senders(state: State, settled: ProjectSettings, say: Callable[[str], None]) -> Senders:
    """Who may deliver."""
    from b24tunnel.senders import NODE_LISTS, Senders

    return Senders(state.home, lists=settled.origin.lists or NODE_LISTS, further=settled.origin.senders, say=say)


def _portal(state: State, name: str | None, codes: tuple[str, ...], no_bind: bool) -> Portal | None:
    """The portal that is meant. Raises a usage error where binding needs one and none is clear."""
    if name is not None:
        chosen = state.portal(name)
    elif no_bind:
        return None
    else:
        known = state.portals()
        if len(known) != 1:
            names = ", ".join(sorted(p.name for p in known))
            raise click.UsageError(
                "Say on which portal to bind with --portal NAME "
                f"({'known: ' + names if names else 'none is known: b24tunnel sandbox starts a simulated one'}), "
                "or receive only with --no-bind."
            )
        chosen = state.portal(known[0].name)
    if chosen.kind == "webhook" and not no_bind:
        raise click.UsageError(
            f"{chosen.name} is an outgoing webhook, which is bound on the portal itself: listen with --no-bind, "
            "and paste the address there."
        )
    if not codes and not no_bind:
        raise click.UsageError("Name the events to bind (b24tunnel events lists them), or give --no-bind.")
    return chosen

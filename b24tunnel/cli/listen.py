"""`b24tunnel listen`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from b24tunnel.cli.terminal import recordings_option, run_until_stopped

if TYPE_CHECKING:
    import asyncio

    from b24tunnel.happenings import Happening
    from b24tunnel.portal import Portal, State


@click.command(
    "listen",
    epilog="\b\nExample:\n  b24tunnel listen ONCRMDEALUPDATE --portal sandbox --forward http://127.0.0.1:8000/handler",
)
@click.argument("events", nargs=-1, metavar="[EVENT]...")
@click.option("--forward", metavar="URL", help="Your handler: each recorded event is sent there.")
@click.option("--portal", metavar="NAME", help="The portal to bind on; not needed when there is only one.")
@click.option("--no-bind", is_flag=True, help="Bind nothing: only receive, record and forward.")
@click.option("--tunnel", metavar="PROVIDER", help="Where the public address comes from: local or url.")
@click.option("--public-url", metavar="URL", help="A public address of yours that leads to --port (tunnel 'url').")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="The receiver's port; 0 takes a free one.")
@recordings_option
@click.option(
    "--resume/--no-resume",
    default=None,
    help="Forward first what earlier sessions could not; without it you are asked.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 1000),
    default=8,
    show_default=True,
    help="Forwards under way at a time; 1 keeps a strict order.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0.1, 3600),
    default=60.0,
    show_default=True,
    help="Seconds your handler may take.",
)
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
def listen_command(
    events: tuple[str, ...],
    forward: str | None,
    portal: str | None,
    no_bind: bool,
    tunnel: str | None,
    public_url: str | None,
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
    'b24tunnel events'.
    """
    from b24tunnel.catalogue.bindable import bindable_codes
    from b24tunnel.cli.render import renderer
    from b24tunnel.portal import State
    from b24tunnel.session import CLEAN_UP_COMMAND, Session, Settings
    from b24tunnel.tunnel import choose

    codes = bindable_codes(events)
    state = State.open()
    settings = Settings(
        recordings=recordings,
        tunnel=choose(tunnel, public_url),
        events=() if no_bind else codes,
        portal=_portal(state, portal, codes, no_bind),
        state=state,
        bind=not no_bind,
        forward=forward,
        resume=_resume(recordings, resume, forward, output),
        port=port,
        concurrency=concurrency,
        timeout=timeout,
        max_body=max_body,
    )
    show = renderer(output)

    async def listen(stop: asyncio.Event) -> None:
        gone = False

        def emit(happening: Happening) -> None:
            # Nobody reads any more (a closed pipe or terminal): the session still ends in order.
            nonlocal gone
            if not gone:
                try:
                    show(happening)
                except OSError:
                    gone = True
                    stop.set()

        await Session(settings, emit).run(stop)

    run_until_stopped(listen, f"Left at once. Remove what is still bound with: {CLEAN_UP_COMMAND}")


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
        chosen = known[0]
    if not codes and not no_bind:
        raise click.UsageError("Name the events to bind (b24tunnel events lists them), or give --no-bind.")
    return chosen


def _resume(recordings: Path, resume: bool | None, forward: str | None, output: str | None) -> bool:
    """Whether to forward what earlier sessions could not; asked where a person can answer."""
    if resume is not None or forward is None:
        return bool(resume)
    if output in ("json", "quiet") or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    from b24tunnel.cli.terminal import open_journal

    count = len(open_journal(recordings).pending())
    return count > 0 and click.confirm(
        f"{count} recording(s) of earlier sessions were never forwarded. Forward them now?"
    )

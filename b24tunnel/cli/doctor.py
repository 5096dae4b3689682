"""`b24tunnel doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from b24tunnel.cli.stopping import run_until_stopped
from b24tunnel.cli.terminal import Seconds, counted, json_option, print_json, visible

if TYPE_CHECKING:
    import asyncio

    from b24tunnel.doctor import Result, Step

_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "failed": ("✗", "red"), "skipped": ("-", "cyan")}
_INTERRUPTED = 130


def _of_listen(option: str) -> str:
    """The variable that settles an option of `listen`, which is what is examined."""
    return f"B24TUNNEL_LISTEN_{option}".upper().replace("-", "_")


@click.command(
    "doctor",
    epilog="\b\nExample:\n  b24tunnel doctor ONCRMDEALUPDATE --portal sandbox --forward http://127.0.0.1:8000/handler",
)
@click.argument("events", nargs=-1, metavar="[EVENT]...", envvar=_of_listen("events"))
@click.option(
    "--forward", envvar=_of_listen("forward"), metavar="URL", help="Your handler, which the test event is sent to."
)
@click.option(
    "--portal", envvar=_of_listen("portal"), metavar="NAME", help="The portal; not needed when there is only one."
)
@click.option("--tunnel", envvar=_of_listen("tunnel"), metavar="PROVIDER", help="As for listen.")
@click.option(
    "--domain", envvar=_of_listen("domain"), metavar="NAME", help="The fixed name to ask the provider for."
)
@click.option(
    "--public-url",
    envvar=_of_listen("public-url"),
    metavar="URL",
    help="A public address of yours that leads to --port.",
)
@click.option(
    "--no-probe", envvar=_of_listen("no-probe"), is_flag=True, help="Take for granted that the address leads here."
)
@click.option(
    "--port",
    envvar=_of_listen("port"),
    type=click.IntRange(0, 65535),
    help="The receiver's port; a free one by default.",
)
@click.option(
    "--catch-up",
    envvar=_of_listen("catch-up"),
    is_flag=True,
    help="Offline events are wanted too, which takes an administrator.",
)
@click.option(
    "--recordings",
    envvar=_of_listen("recordings"),
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where fixtures and the journal lie; 'recordings' by default.",
)
@click.option(
    "--timeout", type=Seconds(1, 3600), default=60.0, show_default=True, help="Seconds for the whole walk."
)
@json_option
def doctor_command(
    events: tuple[str, ...],
    forward: str | None,
    portal: str | None,
    tunnel: str | None,
    domain: str | None,
    public_url: str | None,
    no_probe: bool,
    port: int | None,
    catch_up: bool,
    recordings: Path | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Walk the whole way of an event and stop at the first thing that is wrong, with what to do.

    From the settings over handler, tunnel, portal, token, installation, scopes, rights and bindings to a test
    event (ONAPPTEST) that is bound, sent by the portal, recorded, forwarded, answered and unbound again. EVENTs
    are those that you mean to listen to. What is left out is as the settings and the environment have it for
    'listen'.

    \b
    Exit codes: 0 all held, 1 a check failed, 2 wrong settings or options,
    3 the world outside failed (tunnel, portal, disk).
    """
    from b24tunnel.bound import CLEAN_UP_COMMAND
    from b24tunnel.cli.listen import listen_command
    from b24tunnel.cli.settled import defaults_of
    from b24tunnel.doctor import Plan, examine

    plan = Plan(
        directory=Path.cwd(),
        recordings=recordings,
        events=events,
        portal=portal,
        forward=forward,
        tunnel=tunnel,
        domain=domain,
        public_url=public_url,
        port=port,
        probe=not no_probe,
        catch_up=catch_up,
        timeout=timeout,
        of_listen=lambda settings: defaults_of(listen_command, settings),
    )
    result: Result | None = None

    async def walk(stop: asyncio.Event) -> None:
        import asyncio

        nonlocal result
        examining = asyncio.create_task(examine(plan, _print_json if as_json else _print))
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((examining, stopped), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            if not examining.done():  # what it has bound is unbound before it ends
                examining.cancel()
                await asyncio.wait((examining,))
        if not examining.cancelled():
            result = examining.result()

    run_until_stopped(walk, f"Left at once. Remove what is still bound with: {CLEAN_UP_COMMAND}")
    if as_json:
        print_json(_as_json(result))
    else:
        click.echo(_sum(result))
    click.get_current_context().exit(_INTERRUPTED if result is None else result.exit_code)


def _print(step: Step) -> None:
    mark, colour = _MARKS[step.state]
    click.echo(f"{click.style(mark, fg=colour)} {step.name:<13} {visible(step.message)}")
    if step.advice:
        click.echo(f"  {'':<13} {click.style('→', fg=colour)} {visible(step.advice)}")


def _print_json(step: Step) -> None:
    print_json(
        {
            "type": "step",
            "name": step.name,
            "state": step.state,
            "message": step.message,
            "advice": step.advice,
            "ms": round(step.ms, 1),
        }
    )


def _sum(result: Result | None) -> str:
    if result is None:
        return "Interrupted; what had begun was taken back."
    if result.failed is not None:
        return f"Stopped at the {result.failed.name}: what comes after it was not looked at."
    warnings = sum(step.state == "warning" for step in result.steps)
    skipped = [step.name for step in result.steps if step.state == "skipped"]
    held = "All that was looked at held" if skipped else "All of it held"
    text = f"{held}, with {counted(warnings, 'warning')}." if warnings else f"{held}."
    if skipped:
        was = "was" if len(skipped) == 1 else "were"
        text += f" {counted(len(skipped), 'step')} {was} not looked at: {', '.join(skipped)}."
    return text


def _as_json(result: Result | None) -> dict[str, object]:
    if result is None:
        return {
            "type": "result",
            "ok": False,
            "failed": None,
            "warnings": 0,
            "skipped": [],
            "exit_code": _INTERRUPTED,
            "ms": None,
        }
    return {
        "type": "result",
        "ok": result.ok,
        "failed": result.failed.name if result.failed is not None else None,
        "warnings": sum(step.state == "warning" for step in result.steps),
        "skipped": [step.name for step in result.steps if step.state == "skipped"],
        "exit_code": result.exit_code,
        "ms": round(result.ms, 1),
    }

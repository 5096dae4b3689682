"""`b24tunnel replay`."""

from __future__ import annotations

from typing import Any

import click

from b24tunnel.cli.replay_asked import Asked
from b24tunnel.cli.selecting_options import NAMES, selecting_options
from b24tunnel.cli.terminal import Seconds, concurrency_option, json_option, recordings_option, timeout_option

_ARGUMENTS = "b24tunnel.replay.arguments"
# What a resumed run may have otherwise than the one that it goes on with.
_MAY_DIFFER = frozenset(
    {"to", "against", "recordings", "as_json", "junit", "timeout", "concurrency", "on_error", "dry_run"}
)
# The options in the order of the questions that they answer; those that are in no group come last.
_GROUPS = {
    "Where to": ("to", "path", "recordings"),
    "Which ones": NAMES,
    "What is changed": ("set_", "unset", "header", "unset_header", "ts", "auth"),
    "When": ("speed", "max_gap", "rate", "like_bitrix24", "concurrency", "timeout"),
    "What is made of them": ("times", "shuffle", "drop", "seed"),
    "What is right": ("expect", "compare", "against", "compare_header", "ignore"),
    "The run": ("on_error", "resume", "dry_run", "junit", "as_json"),
}


class _ReplayCommand(click.Command):
    """Keeps its arguments as they were typed: an interrupted run is resumed with them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_ARGUMENTS] = tuple(args)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options in their groups."""
        records = {parameter.name: parameter.get_help_record(ctx) for parameter in self.get_params(ctx)}
        grouped = {name for names in _GROUPS.values() for name in names}
        groups = {**_GROUPS, "Other": tuple(name for name in records if name not in grouped)}
        for title, names in groups.items():
            with formatter.section(title):
                formatter.write_dl([record for name in names if (record := records.get(name)) is not None])


@click.command(
    "replay",
    cls=_ReplayCommand,
    epilog="\b\nExample:\n"
    "  b24tunnel replay last:10 --to http://127.0.0.1:8000/handler\n"
    "  b24tunnel replay 'ONCRM*' --failed --set data.FIELDS.ID=5 --to http://127.0.0.1:8000/\n"
    "  b24tunnel replay 12 --speed 1 --dry-run --to http://127.0.0.1:8000/\n"
    "  b24tunnel replay 12 --compare --ignore '$.time' --to http://127.0.0.1:8000/\n"
    "  b24tunnel replay 12 --times 2 --shuffle --to http://127.0.0.1:8000/",
)
@click.argument("selectors", nargs=-1, metavar="SELECTOR...")
@click.option("--to", metavar="URL", help="The handler to send them to.")
@recordings_option
@selecting_options
@click.option(
    "--set", "set_", multiple=True, metavar="PATH=VALUE", help="Change a value: data.FIELDS.ID=5. Repeatable."
)
@click.option("--unset", multiple=True, metavar="PATH", help="Leave a value out. Repeatable.")
@click.option("--header", multiple=True, metavar="'NAME: VALUE'", help="Set a header. Repeatable.")
@click.option("--unset-header", multiple=True, metavar="NAME", help="Leave a header out. Repeatable.")
@click.option("--ts", metavar="TIME", help="Set ts: now (at the moment of sending), Unix seconds, or ISO 8601.")
@click.option(
    "--path", metavar="PATH", help="Send to this path instead of the one in --to, or each to its own: recorded."
)
@click.option(
    "--auth",
    type=click.Choice(["auto", "fresh", "recorded", "sandbox"]),
    default="auto",
    show_default=True,
    help="Whose tokens they carry: auto fills in the portal's where the recorded ones have expired.",
)
@click.option("--speed", type=float, metavar="FACTOR", help="Keep the recorded gaps: 1 as they were, 10 shorter.")
@click.option(
    "--max-gap", type=Seconds(0, 86_400), metavar="SECONDS", help="With --speed, the longest gap. [default: 60]"
)
@click.option("--rate", type=float, metavar="N", help="Send so many a second.")
@click.option(
    "--like-bitrix24", is_flag=True, help="Send as its queue does: after a delay, less often to a slow handler."
)
@concurrency_option(None, "1, which keeps a strict order; more with a pace")
@timeout_option
@click.option(
    "--times",
    type=click.IntRange(1, 1000),
    default=1,
    help="Send each so often: does your handler mind duplicates?",
)
@click.option("--shuffle", is_flag=True, help="Send them in another order: does your handler depend on it?")
@click.option("--drop", metavar="SHARE", help="Leave out a share by chance, such as 0.1 or 10%.")
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), metavar="N", help="What chance begins with; it is printed."
)
@click.option(
    "--expect",
    multiple=True,
    metavar="WHAT",
    help="What is right instead of 2xx: 204, 2xx, 200-299, body~REGEX, 'header NAME=TEXT'. Repeatable, all hold.",
)
@click.option("--compare", is_flag=True, help="Hold each answer against the recorded one.")
@click.option("--against", metavar="URL", help="Send to this handler too, and hold the answers against its.")
@click.option(
    "--compare-header",
    multiple=True,
    metavar="NAME",
    help="Headers to compare. Repeatable. [default: Content-Type]",
)
@click.option(
    "--ignore", multiple=True, metavar="JSONPATH", help="Not compared: '$.time', '$.items[*].id'. Repeatable."
)
@click.option(
    "--on-error",
    type=click.Choice(["continue", "stop"]),
    default="continue",
    show_default=True,
    help="After an answer that is wrong, or none.",
)
@click.option(
    "--resume", is_flag=True, help="Go on with the last replay, as it was asked for: send what it did not deliver."
)
@click.option("--dry-run", is_flag=True, help="Send nothing: print what would go where, and for how long.")
@click.option("--junit", type=click.Path(dir_okay=False), metavar="FILE", help="Write the results as JUnit XML.")
@json_option
@click.pass_context
def replay_command(context: click.Context, /, **options: Any) -> None:
    """Send recordings to a handler again: the exact bytes, or with the changes that you ask for.

    A SELECTOR is an id (12-345), last, last:N, a session (12), an event code or glob ('ONCRM*'), or a fixture's
    name or path. Options narrow it, and without a selector they narrow everything.

    Exit code 1 when an answer was not as expected or nothing was sent, 130 when it was interrupted. What a run
    did not deliver goes out with --resume.
    """
    from b24tunnel.cli.replay_dry_run import dry_run
    from b24tunnel.cli.replay_plan import resumed
    from b24tunnel.cli.replay_shown import carry_out, say_nothing_left

    asked, run = Asked(**options), None
    arguments: tuple[str, ...] = context.meta[_ARGUMENTS]
    if asked.resume:
        source = context.get_parameter_source
        typed = {name for name in options if source(name) is click.core.ParameterSource.COMMANDLINE} - {"resume"}
        # Older versions of click take selectors that nobody has typed for typed ones.
        typed -= set() if asked.selectors else {"selectors"}
        resuming = resumed(asked, typed, _MAY_DIFFER, _asked_by)
        if resuming is None:
            say_nothing_left(asked)
            return
        asked, run = resuming
        # What is typed now goes in front of a -- of then, and after what it takes the place of.
        typed_now = [argument for argument in arguments if argument != "--resume"]
        then = list(run.arguments)
        end = then.index("--") if "--" in then else len(then)
        arguments = (*then[:end], *typed_now, *then[end:])
    asked.check()
    if asked.dry_run:
        dry_run(asked, run)
    else:
        context.exit(carry_out(asked, arguments, run))


def _asked_by(arguments: tuple[str, ...]) -> Asked:
    """What a former command line asked for."""
    return Asked(**replay_command.make_context("replay", list(arguments)).params)

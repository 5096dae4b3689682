"""A dry run of `replay`: what would be sent where, changed how, when, and how long it would take."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import click

from b24tunnel.cli.render import summary, what
from b24tunnel.cli.replay_plan import Plan, planned
from b24tunnel.cli.terminal import duration, print_json, print_table, say_unreadable
from b24tunnel.difference import Difference
from b24tunnel.differing import differences_of
from b24tunnel.journal.runs import Run
from b24tunnel.masked_differences import masked
from b24tunnel.portal import State
from b24tunnel.redact import Masker, shown_url
from b24tunnel.replaying import LikeBitrix24

if TYPE_CHECKING:
    from b24tunnel.cli.replay_asked import Asked

_ROWS_SHOWN = 1000


def dry_run(asked: Asked, run: Run | None) -> None:
    """Print what would be sent where, changed how, when, and how long that would take."""
    plan = planned(asked, run, count=True)
    moments = plan.pace.plan() if plan.pace is not None else None
    rows: list[tuple[str, ...]] = []
    for recording in plan.to_be_sent() if asked.as_json else islice(plan.to_be_sent(), _ROWS_SHOWN):
        changed = recording
        for change in plan.changes:
            changed = change(changed)
        at = None
        if moments is not None:
            moments.add(recording.received_at)
            at = moments.seconds
        differences = differences_of(recording, changed) if plan.changes else ()
        masker = Masker.of(recording, changed)
        if asked.as_json:
            print_json(
                {
                    "recording": recording.id,
                    "code": recording.code,
                    "to": shown_url(asked.handler),
                    "at_seconds": None if at is None else round(at, 3),
                    "bytes": len(changed.body),
                    "changes": [masked(difference, masker)._asdict() for difference in differences],
                }
            )
        else:
            when = "" if at is None else f"+{duration(at)}"
            made = ", ".join(_change(masked(one, masker)) for one in differences)
            rows.append((recording.id, what(changed), summary(changed), when, made))
    if not asked.as_json:
        columns = ("ID", "EVENT", "DATA", "AT", "CHANGED")
        shown = [place for place in range(5) if place < 3 or any(row[place] for row in rows)]
        print_table(
            [columns[place] for place in shown],
            [[row[place] for place in shown] for row in rows],
            shrink=("DATA", "CHANGED"),
        )
        if plan.total is not None and plan.total > len(rows):
            click.echo(f"… and {plan.total - len(rows):,} more.")
    say_unreadable(plan.journal)
    _say_dry_sum(plan)


def _change(made: Difference) -> str:
    return f"without {made.where}" if made.after is None else f"{made.where}={made.after}"


def _say_dry_sum(plan: Plan) -> None:
    asked = plan.asked
    seconds = plan.planned.seconds if plan.planned is not None else _by_recorded_answers(plan)
    if asked.as_json:
        print_json(
            {
                "total": {
                    "recordings": plan.total,
                    "to": shown_url(asked.handler),
                    "seconds": None if seconds is None else round(seconds, 3),
                    "seed": plan.variation.seed,
                }
            }
        )
        return
    where = shown_url(asked.handler) + (f" and to {shown_url(asked.against)}" if asked.against else "")
    if isinstance(plan.pace, LikeBitrix24):
        how_long = f"after {duration(plan.pace.delay)}, and then for as long as your handler takes"
    elif seconds is None:
        how_long = "for as long as your handler takes"
    elif plan.planned is not None:
        how_long = f"over {duration(seconds)}{plan.changed_gaps}"
    else:
        how_long = f"in about {duration(seconds)}, as quickly as it was answered before"
    click.echo(f"Nothing was sent. {plan.amount} would go to {where}, {how_long}.")
    if asked.auth in ("fresh", "sandbox"):
        click.echo(f"Tokens are filled in when they are sent (--auth {asked.auth}).")
    elif asked.auth == "auto" and State.open().portals():
        click.echo("Tokens that have expired are filled in when they are sent, where their portal is known.")
    if plan.variation.needs_seed:
        click.echo(f"Give --seed {plan.variation.seed} to have exactly these sent in this order.")
    if plan.left_out is not None:
        click.echo(plan.left_out)


def _by_recorded_answers(plan: Plan) -> float | None:
    """How many seconds it takes where the handler is as quick as it was; None where it has not answered yet."""
    with plan.journal.recorded_answers() as answers:
        took = [
            answer.duration_ms
            for recording in islice(plan.to_be_sent(), _ROWS_SHOWN)
            if (answer := answers.to(recording)) is not None
        ]
    if not took or plan.total is None:
        return None
    return sum(took) / len(took) / 1000 * plan.total / (plan.asked.concurrency or 1)

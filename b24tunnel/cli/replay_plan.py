"""What one `replay` is about to do: which recordings, with which changes, at which pace, and how long it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from b24tunnel.changing import Change
from b24tunnel.cli.render import what
from b24tunnel.cli.selecting_options import NAMES, narrowing_of
from b24tunnel.cli.terminal import counted, duration, open_journal
from b24tunnel.errors import WrongUsage
from b24tunnel.journal import Journal
from b24tunnel.journal.runs import Run
from b24tunnel.recording import Recording
from b24tunnel.replaying import Pace, Variation
from b24tunnel.replaying.pace import Planned
from b24tunnel.replaying.run import to_be_sent
from b24tunnel.selecting import Selection
from b24tunnel.through import Through

if TYPE_CHECKING:
    from b24tunnel.cli.replay_asked import Asked

SHOWN = 100
"""A run of no more than so many shows every result; of a longer one only what is wrong."""

# One code that somebody made up does not widen every line.
_WIDEST_EVENT = 40


@dataclass
class Plan:
    """A run before it begins. ``total`` is how many are to be sent, None where nobody has counted.

    ``through`` is what it selects from. ``widths`` are those of the ids and events of a short run, for lines that
    stand below each other.
    """

    asked: Asked
    run: Run | None
    through: Through | None
    journal: Journal
    selection: Selection
    variation: Variation
    changes: list[Change]
    pace: Pace | None
    total: int | None = None
    planned: Planned | None = None
    widths: tuple[int, int] = (8, 24)

    def to_be_sent(self) -> Iterator[Recording]:
        """The recordings in order, as they were recorded."""
        both = self.asked.against is not None
        return to_be_sent(self.selection, self.variation, self.journal, self.run, both=both)

    @property
    def amount(self) -> str:
        """How many are to be sent, in words."""
        if self.total is None:
            return "the recordings"
        return counted(self.total, "recording" if self.variation.times == 1 else "sending")

    @property
    def changed_gaps(self) -> str:
        """What was made of gaps that are not kept as they were."""
        made = self.planned
        words = []
        if made is not None and made.cut:
            words.append(
                f"{counted(made.cut, 'longer gap')} cut to {duration(self.asked.longest_gap)} (--max-gap)"
            )
        if made is not None and made.back:
            words.append(f"{counted(made.back, 'time')} the clock goes back, which counts as no gap")
        return f", {', '.join(words)}" if words else ""

    @property
    def left_out(self) -> str | None:
        """What is said of recordings that are left out; None where none are."""
        count = self.selection.left_out
        if not count:
            return None
        were = "was refused when it" if count == 1 else "were refused when they"
        return f"{counted(count, 'recording')} {were} came, and left out now: name one by its id to send it."

    @property
    def is_short(self) -> bool:
        """Whether every result is shown."""
        return self.total is not None and self.total <= SHOWN


def planned(asked: Asked, run: Run | None, *, count: bool) -> Plan:
    """The plan for what was asked for; raises `WrongUsage` for what cannot be, before anything is sent.

    ``count``: also of a long run it has to be known how many are to be sent.
    """
    journal = open_journal(asked.recordings)
    options = {name: getattr(asked, name) for name in NAMES}
    through: Through | None
    if run is None:
        through = journal.through()
        chosen = narrowing_of(**options, now=through.at, through=through)
    else:
        # As it was when the run began.
        through = run.through
        chosen = narrowing_of(
            **options,
            now=run.started_at,
            through=through,
            attempts_before=run.started_at,
            attempts_without=run.sessions,
        )
    plan = Plan(
        asked,
        run,
        through,
        journal,
        Selection(journal, asked.selectors, asked.recordings, chosen),
        asked.variation(),
        asked.changes(),
        asked.pace(),
    )
    if plan.pace is not None:
        plan.planned = plan.pace.plan()
    to_the_end = bool(plan.changes) or plan.pace is not None or count
    number = id_width = event_width = 0
    for number, recording in enumerate(plan.to_be_sent(), 1):
        if number > SHOWN and not to_the_end:
            return plan
        _check(plan, recording)
        if plan.planned is not None:
            plan.planned.add(recording.received_at)
        if number <= SHOWN:
            id_width, event_width = max(id_width, len(recording.id)), max(event_width, len(what(recording)))
    plan.total = number
    if plan.is_short:
        plan.widths = id_width, min(_WIDEST_EVENT, event_width)
    return plan


def _check(plan: Plan, recording: Recording) -> None:
    """Make the changes once, so that one that cannot be made is known before anything is sent."""
    for change in plan.changes:
        recording = change(recording)


def resumed(
    asked: Asked, typed: set[str], may_differ: frozenset[str], asked_by: Callable[[tuple[str, ...]], Asked]
) -> tuple[Asked, Run] | None:
    """What the last run asked for, with what is ``typed`` now, and that run; None where it was whole.

    Raises `WrongUsage` where there is none, or it still goes on, or what is typed would make it another run.
    """
    if others := sorted(typed - may_differ):
        named = others[0] if others[0] == "selectors" else "--" + others[0].strip("_").replace("_", "-")
        raise WrongUsage(
            f"--resume goes on with the last replay as it was asked for: leave out {named}, or leave out --resume."
        )
    journal = open_journal(asked.recordings)
    run = journal.last_run()
    if run is None:
        raise WrongUsage(f"There is no replay to go on with in {journal.directory}: start one without --resume.")
    if run.running:
        raise WrongUsage(f"The last replay, session {run.session}, still goes on: wait for it, or end it first.")
    if run.finished:
        text = f"The last replay, session {run.session}, delivered everything: nothing is left to send."
        click.echo(text, err=asked.as_json)
        return None
    before = asked_by(run.arguments)
    # The report of the first run stays, unless another place is named for this one's.
    changed: dict[str, Any] = {"junit": None, "dry_run": False, **{name: getattr(asked, name) for name in typed}}
    return before.with_those({**changed, "recordings": asked.recordings}), run

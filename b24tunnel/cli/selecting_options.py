"""The options that narrow a selection of recordings, the same for each command that takes selectors."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from b24tunnel.narrowing import Narrowing
    from b24tunnel.through import Through

_Command = TypeVar("_Command", bound=Callable[..., Any])

NAMES = ("since", "until", "where", "portal", "failed", "not_forwarded")
"""The parameters of a command with these options."""

_OPTIONS = (
    click.option(
        "--since",
        metavar="TIME",
        help="Only those received then or later: 2026-11-25T14:00 (local time), 14:00 (today), or 10m, 2h, 3d "
        "(so long ago).",
    ),
    click.option("--until", metavar="TIME", help="Only those received before."),
    click.option(
        "--where",
        multiple=True,
        metavar="CONDITION",
        help="Only those for which it holds, such as data.FIELDS.ID=7405 or type=robot; may be repeated. By = != "
        "< <= > >= or ~ !~ (regular expression); PATH alone: it is there, !PATH: it is not.",
    ),
    click.option("--portal", metavar="NAME", help="Only those for this portal."),
    click.option("--failed", is_flag=True, help="Only those whose last attempt was not answered 2xx."),
    click.option(
        "--not-forwarded",
        is_flag=True,
        help="Only those with which no attempt, forward or replay, reached a handler.",
    ),
)


def selecting_options(command: _Command) -> _Command:
    """Give a command ``--since --until --where --portal --failed --not-forwarded``."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def narrowing_of(
    *,
    since: str | None = None,
    until: str | None = None,
    where: tuple[str, ...] = (),
    portal: str | None = None,
    failed: bool = False,
    not_forwarded: bool = False,
    to: str | None = None,
    now: datetime | None = None,
    through: Through | None = None,
    attempts_before: datetime | None = None,
    attempts_without: Collection[int] = (),
) -> Narrowing:
    """What the options' values say; what else `Narrowing` takes goes through. Raises `WrongUsage`.

    ``now`` (aware) is what ages and times of day are relative to, where it is not the present.
    """
    from b24tunnel.conditions import Condition
    from b24tunnel.moments import parse_moment
    from b24tunnel.narrowing import Narrowing

    return Narrowing(
        where=tuple(Condition.parse(text, now) for text in where),
        since=None if since is None else parse_moment(since, now),
        until=None if until is None else parse_moment(until, now),
        portal=portal,
        failed=failed,
        not_forwarded=not_forwarded,
        to=to,
        through=through,
        attempts_before=attempts_before,
        attempts_without=attempts_without,
    )

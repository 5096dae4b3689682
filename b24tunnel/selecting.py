"""Which recordings a user means: selectors, and what narrows them."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path

from b24tunnel.errors import WrongUsage
from b24tunnel.formats.fixture import FixtureNotFound, load
from b24tunnel.journal import History, Journal
from b24tunnel.recording import Recording, parse_id


def select(journal: Journal, selectors: Iterable[str], fixtures: Path) -> Iterator[Recording]:
    """The recordings that the selectors name, in the order of the selectors, oldest first within each.

    A selector is an id (``12-345``), ``last``, ``last:N``, a session (``12``), an event's code or a glob over
    codes (``'ONCRM*'``), or a fixture's name below ``fixtures`` or its path. Raises `WrongUsage` for one that
    selects nothing, before any recording is given out.
    """
    return chain.from_iterable([_not_empty(journal, selector, fixtures) for selector in selectors])


def select_one(journal: Journal, selector: str, fixtures: Path) -> Recording:
    """The one recording that a selector names; raises `WrongUsage` where it names none or several."""
    chosen = list(islice(select(journal, [selector], fixtures), 2))
    if len(chosen) > 1:
        raise WrongUsage(f"{selector!r} names several recordings: see them with 'b24tunnel list {selector}'.")
    return chosen[0]


def _not_empty(journal: Journal, selector: str, fixtures: Path) -> Iterable[Recording]:
    chosen = iter(_matching(journal, selector, fixtures))
    first = next(chosen, None)
    if first is None:
        if next(iter(journal.last(1)), None) is None:
            raise WrongUsage(f"{selector!r} selects nothing: nothing is recorded in {journal.directory} yet.")
        raise WrongUsage(
            f"{selector!r} selects no recording: see them with 'b24tunnel list'. A selector is an id "
            "(12-345), last, last:N, a session (12), an event code or glob ('ONCRM*'), or a fixture."
        )
    return chain((first,), chosen)


def _matching(journal: Journal, selector: str, fixtures: Path) -> Iterable[Recording]:
    last = re.fullmatch(r"last(?::([0-9]{1,9}))?", selector, re.ASCII)
    if last:
        return journal.last(int(last[1] or 1))
    if parse_id(selector):
        recording = journal.get(selector)
        return [recording] if recording else []
    if re.fullmatch(r"[1-9][0-9]{0,8}", selector, re.ASCII):
        return journal.recordings(int(selector))
    # A code is written in capitals and a fixture's name is not, so neither is taken for the other.
    if selector != selector.upper() or "/" in selector:
        try:
            return [load(selector, fixtures)]
        except FixtureNotFound:
            pass
    return (r for r in journal.recordings() if matches_code(r, selector))


def matches_code(recording: Recording, pattern: str) -> bool:
    """Whether the recording's event code is ``pattern`` or matches it as a glob, without regard to case.

    A delivery that is no event has the empty code, which ``*`` matches.
    """
    return bool(pattern) and fnmatch.fnmatchcase((recording.code or "").upper(), pattern.upper())


def histories(
    journal: Journal, selectors: Iterable[str], fixtures: Path, *, failed: bool = False
) -> Iterator[History]:
    """The selected recordings (all without selectors) with their attempts, newest first, fixtures before them.

    ``failed``: only those whose last attempt was not answered 2xx. Raises `WrongUsage` as `select` does.
    """
    wanted: set[str] | None = None
    if selectors := tuple(selectors):
        wanted = set()
        for recording in select(journal, selectors, fixtures):
            if parse_id(recording.id):
                wanted.add(recording.id)
            else:  # a fixture, which is in no journal
                yield from _failed_or_all([History(recording, tuple(journal.attempts(recording.id)))], failed)
    yield from _failed_or_all(_wanted(journal, wanted), failed)


def _wanted(journal: Journal, wanted: set[str] | None) -> Iterator[History]:
    if wanted is None:
        yield from journal.newest_first()
        return
    newest = journal.newest_first()
    while wanted and (history := next(newest, None)) is not None:
        if history.recording.id in wanted:
            wanted.remove(history.recording.id)
            yield history


def _failed_or_all(chosen: Iterable[History], failed: bool) -> Iterator[History]:
    return (h for h in chosen if not failed or (h.attempts and not h.attempts[-1].ok))

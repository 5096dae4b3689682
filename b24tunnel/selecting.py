"""Which recordings a user means: selectors, and what narrows them."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

from b24tunnel.errors import WrongUsage
from b24tunnel.formats.fixture import FixtureNotFound, load
from b24tunnel.journal import History, Journal
from b24tunnel.journal.document import Document, code_in_head
from b24tunnel.recording import Recording, parse_id

_LAST = re.compile(r"last(?::([0-9]{1,9}))?", re.ASCII)
_SESSION = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)
# Recordings whose attempts are looked at together where only those that failed are wanted.
_AT_A_TIME = 1000
_CODES_REMEMBERED = 1000


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


def histories(
    journal: Journal, selectors: Iterable[str], fixtures: Path, *, limit: int, failed: bool = False
) -> list[History]:
    """The newest ``limit`` of the selected recordings (without selectors: of all) with attempts, newest first.

    Fixtures come before them, without attempts. ``failed``: only recordings whose last attempt was not answered
    2xx. Memory is that of ``limit`` recordings. Raises `WrongUsage` as `select` does.
    """
    selectors = tuple(selectors)
    parts = [_part(selector, fixtures) for selector in selectors]
    sought = [part for part in parts if isinstance(part, _Sought)] if selectors else [_everything()]
    found = [History(part, ()) for part in parts if isinstance(part, Recording) and not failed][:limit]
    if failed:
        may_have_failed = journal.failed().may_include
        newest = _newest_first(journal, sought, lambda document: may_have_failed(document.place))
        found += _failed(journal, newest, limit - len(found))
    else:
        newest = _newest_first(journal, sought)
        chosen = [document.recording for document in islice(newest, limit - len(found))]
        found += journal.with_attempts([recording for recording in chosen if recording is not None])
    if selectors:
        _check_found(journal, newest, sought)
    return found


def _failed(journal: Journal, newest: Iterator[Document], limit: int) -> list[History]:
    """The newest whose last attempt was not answered 2xx, of those that may be such."""
    candidates = (document.recording for document in newest)
    found: list[History] = []
    while len(found) < limit:
        some = [recording for recording in islice(candidates, max(limit, _AT_A_TIME)) if recording is not None]
        if not some:
            break
        found += (h for h in journal.with_attempts(some) if h.attempts and not h.attempts[-1].ok)
    return found[:limit]


@dataclass
class _Sought:
    """A selector over the journal, whose recordings are met newest first."""

    selector: str
    matches: Callable[[Document], Any]
    sessions: frozenset[int] | None = None  # where they are; None: anywhere
    left: int | None = None  # how many it selects yet; None: any number
    by_code: bool = False  # by nothing else
    found: bool = False


def _everything() -> _Sought:
    return _Sought("", lambda document: True)


def _newest_first(
    journal: Journal, sought: list[_Sought], wanted: Callable[[Document], bool] = lambda document: True
) -> Iterator[Document]:
    """What any of the selectors selects and is wanted, newest first, once; it ends where they select no more."""
    sessions: set[int] | None = set()
    for one in sought:
        sessions = None if sessions is None or one.sessions is None else sessions | one.sessions
    # Codes that nothing selects are not looked at again.
    refused: set[bytes | None] = set()
    by_code = all(one.by_code for one in sought)
    for document in journal.newest_first(sessions, refused):
        selecting = [one for one in sought if one.left != 0]
        if not selecting:
            return
        by = [one for one in selecting if one.matches(document)]
        if by_code and not by and len(refused) < _CODES_REMEMBERED:
            refused.add(code_in_head(document["code"]))
        counts = any(one.left is not None or not one.found for one in by)
        if counts and document.recording is None:
            continue
        for one in by:
            one.found = True
            one.left = None if one.left is None else one.left - 1
        if by and wanted(document) and document.recording is not None:
            yield document


def _check_found(journal: Journal, newest: Iterator[Document], sought: list[_Sought]) -> None:
    """Raise `WrongUsage` for the first selector that selects nothing, also of what ``newest`` has not come to."""
    while True:
        for one in sought:
            one.left = 0 if one.found else one.left
        if all(one.found for one in sought) or next(newest, None) is None:
            break
    for one in sought:
        if not one.found:
            raise _selects_nothing(journal, one.selector)


def _part(selector: str, fixtures: Path) -> Recording | _Sought:
    """The fixture that a selector names, or what it seeks in the journal."""
    if last := _LAST.fullmatch(selector):
        return _Sought(selector, lambda document: True, left=int(last[1] or 1))
    if parsed := parse_id(selector):
        return _Sought(selector, lambda document: document["id"] == selector, frozenset({parsed[0]}), left=1)
    if _SESSION.fullmatch(selector):
        session = int(selector)
        return _Sought(selector, lambda document: document["session"] == session, frozenset({session}))
    # A code is written in capitals and a fixture's name is not, so neither is taken for the other.
    if selector != selector.upper() or "/" in selector:
        try:
            return load(selector, fixtures)
        except FixtureNotFound:
            pass

    @lru_cache(maxsize=1000)
    def matches(code: str | None) -> bool:
        return _matches(code, selector)

    return _Sought(selector, lambda document: matches(document["code"]), by_code=True)


def _not_empty(journal: Journal, selector: str, fixtures: Path) -> Iterable[Recording]:
    part = _part(selector, fixtures)
    chosen = iter((part,)) if isinstance(part, Recording) else _oldest_first(journal, part)
    first = next(chosen, None)
    if first is None:
        raise _selects_nothing(journal, selector)
    return chain((first,), chosen)


def _oldest_first(journal: Journal, sought: _Sought) -> Iterator[Recording]:
    """What a selector selects, oldest first, none of it held."""
    if sought.sessions is None and sought.left is not None:
        return journal.latest(sought.left)
    chosen = (document.recording for document in journal.documents(sought.sessions) if sought.matches(document))
    return islice((recording for recording in chosen if recording is not None), sought.left)


def _selects_nothing(journal: Journal, selector: str) -> WrongUsage:
    if not journal.last(1):
        return WrongUsage(f"{selector!r} selects nothing: nothing is recorded in {journal.directory} yet.")
    return WrongUsage(
        f"{selector!r} selects no recording: see them with 'b24tunnel list'. A selector is an id "
        "(12-345), last, last:N, a session (12), an event code or glob ('ONCRM*'), or a fixture."
    )


def matches_code(recording: Recording, pattern: str) -> bool:
    """Whether the recording's event code is ``pattern`` or matches it as a glob, without regard to case.

    A delivery that is no event has the empty code, which ``*`` matches.
    """
    return _matches(recording.code, pattern)


def _matches(code: str | None, pattern: str) -> bool:
    return bool(pattern) and fnmatch.fnmatchcase((code or "").upper(), pattern.upper())

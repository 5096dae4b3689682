"""Which recordings a user means: selectors, and what narrows them."""

from __future__ import annotations

import fnmatch
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from b24tunnel.errors import WrongUsage
from b24tunnel.formats.fixture import FixtureNotFound, load
from b24tunnel.journal import History, Journal
from b24tunnel.journal.document import Document, code_in_head
from b24tunnel.journal.extent import Extent
from b24tunnel.narrowing import Narrowed, Narrowing
from b24tunnel.recording import Recording, parse_id

__all__ = ["Narrowing", "Selection", "histories", "select", "select_one"]

_LAST = re.compile(r"last(?::([0-9]{1,9}))?", re.ASCII)
_SESSION = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)
_CODES_REMEMBERED = 1000


class Selection:
    """The recordings that selectors name, narrowed: read from disk each time that it is gone through.

    They come in the order of the selectors, oldest first within each; one that two selectors name comes twice.
    What is recorded meanwhile is not among them. Memory does not grow with their number, but for about a byte for
    each where the narrowing asks for attempts.

    ``left_out`` tells how many recordings were left out the last time because their verdict is ``mismatched``:
    somebody else sent them, and they were refused when they came. One that is named by its own id or is a fixture
    is not left out, and none is with ``mismatched``.
    """

    def __init__(
        self,
        journal: Journal,
        selectors: Iterable[str] = (),
        fixtures: str | Path | None = None,
        narrowing: Narrowing = Narrowing(),  # noqa: B008  it is frozen
        *,
        mismatched: bool = False,
    ) -> None:
        """A selector is as for `select`; without any, it is all recordings of the journal.

        ``fixtures``: the directory in which they lie, where not in that of the journal.
        """
        self._journal = journal
        self._selectors = tuple(selectors)
        self._fixtures = journal.directory.parent if fixtures is None else Path(fixtures)
        self._narrowing = narrowing
        self._mismatched = mismatched
        self._extent: Extent | None = None
        self.left_out = 0

    def __iter__(self) -> Iterator[Recording]:
        """Raises `WrongUsage` at once for a selector that selects nothing, and where nothing is left over.

        Raises `FileTakenAway` where a prune removes what was to come, after what stands before it.
        """
        self.left_out = 0
        extent = self._extent or self._journal.extent(self._narrowing.through)
        if self._narrowing.through is not None:
            # The same again each time, so that what a prune takes away in between is noticed.
            self._extent = extent
        parts = [_part(selector, self._fixtures) for selector in self._selectors]
        _check_names(part for part in parts if isinstance(part, Recording))
        named = _named(self._journal, parts, extent)
        sources = [_not_empty(self._journal, part, extent, named) for part in parts]
        if not sources:
            sources = [_everything_since(self._journal, self._narrowing.since, extent)]
        narrowed = self._narrowing.over(self._journal) if self._narrowing.narrows else None
        chosen = self._chosen(sources, narrowed)
        first = next(chosen, None)
        if first is None:
            raise self._nothing_left()
        return chain((first,), chosen)

    def count(self) -> int:
        """How many there are; they are gone through once, and it raises as that does."""
        return sum(1 for _ in self)

    def _chosen(self, sources: list[_Source], narrowed: Narrowed | None) -> Iterator[Recording]:
        for part, documents in sources:
            if isinstance(part, Recording):
                if narrowed is None or narrowed.keeps_fixture(part):
                    yield part
                continue
            all_verdicts = self._mismatched or part.is_id
            for document in documents:
                if narrowed is not None and not narrowed.keeps(document):
                    continue
                recording = document.recording
                if recording is None:
                    continue
                if recording.verdict == "mismatched" and not all_verdicts:
                    self.left_out += 1
                else:
                    yield recording

    def _nothing_left(self) -> WrongUsage:
        """Why none of the recordings that the selectors name is given out."""
        listed = " ".join(["b24tunnel list", *map(_quoted, self._selectors)])
        if self.left_out:
            were = "one recording that is left was" if self.left_out == 1 else "recordings that are left were"
            number = "The" if self.left_out == 1 else f"The {self.left_out:,}"
            return WrongUsage(
                f"{number} {were} refused, because somebody else sent what came: name one by its id to use it "
                f"nevertheless, as this shows it: {listed}"
            )
        options = self._narrowing.options
        if not options:
            return _nothing_of_then("the journal")
        verb = "leaves" if len(options) == 1 else "together leave"
        return WrongUsage(f"{_and(options)} {verb} no recording: see what there is with: {listed}")


def select(journal: Journal, selectors: Iterable[str], fixtures: Path) -> Iterator[Recording]:
    """The recordings that the selectors name, in the order of the selectors, oldest first within each.

    A selector is an id (``12-345``), ``last``, ``last:N``, a session (``12``), an event's code or a glob over
    codes (``'ONCRM*'``), or a fixture's name below ``fixtures`` or its path. Raises `WrongUsage` for one that
    selects nothing, before any recording is given out.
    """
    selectors = tuple(selectors)
    return iter(Selection(journal, selectors, fixtures, mismatched=True)) if selectors else iter(())


def select_one(journal: Journal, selector: str, fixtures: Path) -> Recording:
    """The one recording that a selector names; raises `WrongUsage` where it names none or several."""
    chosen = list(islice(select(journal, [selector], fixtures), 2))
    if len(chosen) > 1:
        shown = f"b24tunnel list {_quoted(selector)}"
        raise WrongUsage(f"{selector!r} names several recordings, as this shows: {shown}")
    return chosen[0]


def histories(
    journal: Journal,
    selectors: Iterable[str],
    fixtures: Path,
    *,
    limit: int,
    narrowing: Narrowing = Narrowing(),  # noqa: B008  it is frozen
) -> list[History]:
    """The newest ``limit`` of the selected recordings (without selectors: of all) with attempts, newest first.

    Only those that the narrowing leaves. Fixtures come before them, without attempts. Memory is that of ``limit``
    recordings. Raises `WrongUsage` as `select` does.
    """
    selectors = tuple(selectors)
    parts = [_part(selector, fixtures) for selector in selectors]
    sought = [part for part in parts if isinstance(part, _Sought)]
    narrowed = narrowing.over(journal) if narrowing.narrows else None
    saved = [part for part in parts if isinstance(part, Recording)]
    found = [History(one, ()) for one in saved if narrowed is None or narrowed.keeps_fixture(one)][:limit]
    if not selectors:
        newest = _all_newest_first(journal, narrowing.since, narrowed)
    elif narrowed is None:
        newest = _newest_first(journal, sought)
    else:
        newest = _newest_first(journal, sought, narrowed.keeps)
    chosen = [document.recording for document in islice(newest, limit - len(found))]
    found += journal.with_attempts([recording for recording in chosen if recording is not None])
    if selectors:
        _check_found(journal, newest, sought)
    return found


@dataclass
class _Sought:
    """A selector over the journal, whose recordings are met newest first."""

    selector: str
    matches: Callable[[Document], Any]
    sessions: frozenset[int] | None = None  # where they are; None: anywhere
    left: int | None = None  # how many it selects yet; None: any number
    by_code: bool = False  # by nothing else
    found: bool = False

    @property
    def is_id(self) -> bool:
        """It names one recording."""
        return self.left == 1 and self.sessions is not None


class _Source(NamedTuple):
    """What a selector selects: a fixture, or recordings of the journal, oldest first."""

    part: Recording | _Sought
    documents: Iterator[Document]


def _check_names(fixtures: Iterable[Recording]) -> None:
    """Raise `WrongUsage` for two fixtures of one name: nobody could tell attempts with them apart."""
    known: dict[str, Recording] = {}
    for fixture in fixtures:
        if known.setdefault(fixture.id, fixture) != fixture:
            raise WrongUsage(f"Two fixtures are called {fixture.id!r}: give one of them another name.")


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


def _all_newest_first(journal: Journal, since: datetime | None, narrowed: Narrowed | None) -> Iterator[Document]:
    """All recordings that are left, newest first."""
    documents = journal.newest_first(None if since is None else journal.sessions_since(since))
    kept = documents if narrowed is None else filter(narrowed.keeps, documents)
    return (document for document in kept if document.recording is not None)


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
            # A path is nothing else, however it is called.
            if "/" in selector or selector.endswith(".json"):
                raise

    @lru_cache(maxsize=1000)
    def matches(code: str | None) -> bool:
        return _matches(code, selector)

    return _Sought(selector, lambda document: matches(document["code"]), by_code=True)


def _named(journal: Journal, parts: Iterable[Recording | _Sought], extent: Extent) -> dict[str, Document]:
    """What is named by its id, all of it found in one go."""
    ids = {part.selector for part in parts if isinstance(part, _Sought) and part.is_id}
    found: dict[str, Document] = {}
    sessions = {place[0] for one in ids if (place := parse_id(one)) is not None}
    for document in journal.documents(sessions, extent) if ids else ():
        if document["id"] in ids and document.recording is not None:
            found[document["id"]] = document
            if len(found) == len(ids):
                break
    return found


def _not_empty(
    journal: Journal, part: Recording | _Sought, extent: Extent, named: Mapping[str, Document]
) -> _Source:
    """What a selector selects; raises `WrongUsage` where that is nothing."""
    if isinstance(part, Recording):
        return _Source(part, iter(()))
    if part.is_id:
        documents = iter([named[part.selector]] if part.selector in named else [])
    else:
        documents = _oldest_first(journal, part, extent)
    first = next((document for document in documents if document.recording is not None), None)
    if first is None:
        if extent.through is not None and _selects_now(journal, part):
            raise _nothing_of_then(_quoted(part.selector))
        raise _selects_nothing(journal, part.selector)
    # Where there is only one, its file need not stay open.
    return _Source(part, iter((first,)) if part.left == 1 else chain((first,), documents))


def _everything_since(journal: Journal, since: datetime | None, extent: Extent) -> _Source:
    """All recordings but for those of sessions that had written their last before."""
    if not journal.last(1):
        raise WrongUsage(f"Nothing is recorded in {journal.directory} yet.")
    sessions = None if since is None else journal.sessions_since(since)
    return _Source(_everything(), journal.documents(sessions, extent))


def _oldest_first(journal: Journal, sought: _Sought, extent: Extent) -> Iterator[Document]:
    """What a selector selects, oldest first, little of it held."""
    if sought.left is not None and sought.sessions is None:
        return journal.latest_documents(sought.left, extent)
    return filter(sought.matches, journal.documents(sought.sessions, extent))


def _selects_now(journal: Journal, sought: _Sought) -> bool:
    """Whether a selector selects anything of what is in the journal now."""
    documents = _oldest_first(journal, sought, journal.extent())
    return any(document.recording is not None for document in documents)


def _nothing_of_then(what: str) -> WrongUsage:
    """What a run that is resumed selected at first is not there, and something else is."""
    return WrongUsage(
        f"Of {what} nothing is left that had been recorded when the run began: there is nothing to go on with."
    )


def _selects_nothing(journal: Journal, selector: str) -> WrongUsage:
    if not journal.last(1):
        return WrongUsage(f"{selector!r} selects nothing: nothing is recorded in {journal.directory} yet.")
    return WrongUsage(
        f"{selector!r} selects no recording: see them with 'b24tunnel list'. A selector is an id "
        "(12-345), last, last:N, a session (12), an event code or glob ('ONCRM*'), or a fixture."
    )


def _quoted(selector: str) -> str:
    """A selector as it is typed."""
    return shlex.quote(selector) if selector.isprintable() else repr(selector)


def _and(options: tuple[str, ...]) -> str:
    return " and ".join(filter(None, (", ".join(options[:-1]), options[-1])))


def _matches(code: str | None, pattern: str) -> bool:
    return bool(pattern) and fnmatch.fnmatchcase((code or "").upper(), pattern.upper())

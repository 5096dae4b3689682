"""What narrows a selection of recordings: when they came, what they hold, what became of them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from b24tunnel.conditions import Condition, Query
from b24tunnel.errors import WrongUsage
from b24tunnel.journal import Journal
from b24tunnel.journal.document import Document
from b24tunnel.journal.outcomes import Outcomes
from b24tunnel.recording import Recording
from b24tunnel.through import Through


@dataclass(frozen=True)
class Narrowing:
    """Only recordings for which all of it holds; one without anything leaves all of them.

    - ``where``: each of these conditions, or queries of TinyDB, holds.
    - ``since``, ``until``: received at ``since`` or later and before ``until`` (aware).
    - ``portal``: delivered for the portal of this name.
    - ``failed``: the last attempt was not answered 2xx; a recording without attempts has not failed.
    - ``not_forwarded``: no attempt, forwarding or replay, reached a handler (`Attempt.delivered`). What was passed
      through to the application has reached it.
    - ``to``: for the two before, only attempts with the handler at this URL count, its query apart; without it,
      those with any.
    - ``through``: of the recordings, only those that were there then are looked at, also by ``last:N``. With
      ``attempts_before`` and ``attempts_without``, attempts made at this moment or later, and those of these
      sessions, are not looked at. So a run that is resumed selects what it selected at first.

    A fixture has no attempts, and is there at any time.
    """

    where: tuple[Query, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    portal: str | None = None
    failed: bool = False
    not_forwarded: bool = False
    to: str | None = None
    through: Through | None = None
    attempts_before: datetime | None = None
    attempts_without: Collection[int] = ()

    def __post_init__(self) -> None:
        """Raises `WrongUsage` for a time without a zone, and where nothing is both since and until."""
        object.__setattr__(self, "where", tuple(self.where))
        object.__setattr__(self, "attempts_without", frozenset(self.attempts_without))
        for name in ("since", "until", "attempts_before"):
            moment = getattr(self, name)
            if moment is not None and moment.tzinfo is None:
                raise WrongUsage(f"{name} has no time zone: give an aware datetime.")
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise WrongUsage(f"Nothing comes since {_time(self.since)} and before {_time(self.until)}: swap them.")

    @property
    def options(self) -> tuple[str, ...]:
        """The command line's options for what narrows here, without values that may be secret."""
        found = []
        if self.since is not None:
            found.append(f"--since {_time(self.since)}")
        if self.until is not None:
            found.append(f"--until {_time(self.until)}")
        for query in self.where:
            found.append(f"--where {query.path_text}" if isinstance(query, Condition) else "--where")
        if self.portal is not None:
            found.append(f"--portal {self.portal!r}")
        found += ["--failed"] * self.failed + ["--not-forwarded"] * self.not_forwarded
        return tuple(found)

    @property
    def narrows(self) -> bool:
        """Whether it may leave anything out."""
        return bool(self.options) or self.through is not None

    def over(self, journal: Journal) -> Narrowed:
        """It, made ready for this journal: all attempts are read now where they count."""
        outcomes = None
        if self.failed or self.not_forwarded:
            outcomes = journal.outcomes(to=self.to, before=self.attempts_before, without=self.attempts_without)
        return Narrowed(self, outcomes)


class Narrowed:
    """Says of one recording after the other whether it is among those that are left; the cheap questions first."""

    def __init__(self, narrowing: Narrowing, outcomes: Outcomes | None) -> None:
        self._narrowing = narrowing
        self._outcomes = outcomes
        self._since = narrowing.since
        self._until = narrowing.until
        self._through = narrowing.through
        self._timed = self._since is not None or self._until is not None
        # The sort is stable: those that need no parsing come first, each kind in the order given.
        self._where = sorted(narrowing.where, key=lambda query: not getattr(query, "in_head", False))

    def keeps(self, document: Document) -> bool:
        """Whether a recording of the journal is one of them; False for a line that turns out to be spoiled."""
        place = document.place if self._outcomes is not None or self._through is not None else None
        if self._through is not None and place is not None and not self._through.includes(*place):
            return False
        return self._keeps(document, place)

    def keeps_fixture(self, recording: Recording) -> bool:
        """The same of a fixture."""
        return self._keeps(Document(b"", None, lambda line: recording), None)

    def _keeps(self, document: Document, place: tuple[int, int] | None) -> bool:
        try:
            if self._timed and not self._came_then(document["received_at"]):
                return False
            if self._outcomes is not None and not self._became_so(document, place, self._outcomes):
                return False
            portal = self._narrowing.portal
            if portal is not None and document["portal"] != portal:
                return False
            return all(query(document) for query in self._where)
        except Exception:
            if document.recording is None:
                return False  # no wonder: the line is spoiled
            raise

    def _came_then(self, received_at: datetime) -> bool:
        if self._since is not None and received_at < self._since:
            return False
        return self._until is None or received_at < self._until

    def _became_so(self, document: Document, place: tuple[int, int] | None, outcomes: Outcomes) -> bool:
        if self._narrowing.failed and not outcomes.failed(place):
            return False
        if not self._narrowing.not_forwarded:
            return True
        if outcomes.delivered(place):
            return False
        recording = document.recording
        return recording is not None and not recording.passed_through


def _time(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")

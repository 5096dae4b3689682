"""Reading the journal, also while other processes write it: scan, search, last, attempts, what is pending."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from b24tunnel.journal import attempts as gathering
from b24tunnel.journal import check as checking
from b24tunnel.journal import files
from b24tunnel.journal.attempts import History
from b24tunnel.journal.check import Checked
from b24tunnel.journal.document import Document, code_in_head
from b24tunnel.journal.extent import Extent, through_now
from b24tunnel.journal.files import Segment, TornLine
from b24tunnel.journal.outcomes import Outcomes
from b24tunnel.journal.pending import Debt, debts
from b24tunnel.journal.recorded_answers import RecordedAnswers
from b24tunnel.journal.runs import Delivered, Run, last_run, resumed_elsewhere
from b24tunnel.journal.scan import Scan
from b24tunnel.recording import Attempt, Cause, Recording, parse_id
from b24tunnel.through import Through

# A query's answers are remembered for this many codes of at most this length.
_CODES_REMEMBERED = 1000
_LONGEST_CODE_REMEMBERED = 100
# A file's time may be coarser than a record's.
_SECONDS_OF_DOUBT = 2.0


class Journal:
    """The recordings and attempts below a directory, for reading.

    ``torn`` lists the torn last lines that opening it cut off; ``unreadable`` maps a file to what was wrong
    with lines of it that were skipped, or why all of it was, filled while reading.
    """

    def __init__(self, recordings: Path) -> None:
        self.directory = files.journal_directory(recordings)
        self.torn: list[TornLine] = []
        self._scan = Scan(self.directory)
        self.unreadable = self._scan.unreadable

    @classmethod
    def open(cls, directory: str | Path = "recordings") -> Journal:
        """Open the journal under ``directory`` and repair what a crash left; raises `JournalUnreadable`.

        A directory without a journal is an empty journal.
        """
        journal = cls(Path(directory))
        journal.torn = [torn for segment in files.segments(journal.directory) if (torn := files.repair(segment))]
        return journal

    def recordings(self, session: int | None = None) -> Iterator[Recording]:
        """All recordings, or those of one session, in the order in which they came."""
        return _parsed(self._scan.documents(self._scan.segments(session)))

    def search(self, query: Callable[[Mapping[str, Any]], bool]) -> Iterator[Recording]:
        """The recordings for which a TinyDB query holds: ``journal.search(where("code") == "ONCRMDEALADD")``.

        A query sees ``id``, ``session``, ``code``, ``data``, ``auth``, ``ts``, ``received_at``, ``method``,
        ``target``, ``source``, ``verdict``, ``portal``, ``remote`` and ``fields`` (the whole parsed body).
        A query that TinyDB may cache is not asked again about a code that it refused by the code alone.
        """
        remembering = getattr(query, "is_cacheable", bool)()
        refused: set[bytes | None] = set()
        for document in self._scan.documents(self._scan.segments(), refused):
            try:
                holds = query(document)
            except Exception:
                if document.recording is None:
                    continue  # no wonder: the line is spoiled
                raise
            if holds:
                if (recording := document.recording) is not None:
                    yield recording
            elif remembering and document.only_code and len(refused) < _CODES_REMEMBERED:
                code = document["code"]
                if code is None or len(code) <= _LONGEST_CODE_REMEMBERED:
                    refused.add(code_in_head(code))

    def documents(
        self, sessions: Collection[int] | None = None, extent: Extent | None = None
    ) -> Iterator[Document]:
        """All recordings, or those of some sessions, as they came, parsed no further than asked.

        With an ``extent``, those that were there when it was taken, so that this ends while others write; raises
        `FileTakenAway` for a file that is not there any more as it was.
        """
        if extent is not None:
            return extent.documents(self._scan, sessions)
        return self._scan.documents(self._of(sessions))

    def extent(self, through: Through | None = None) -> Extent:
        """What is in the journal now; with ``through``, what is there of what was there then."""
        return Extent.now(self._scan, through)

    def through(self) -> Through:
        """Which recordings there are now, in few numbers, for a run that is resumed later."""
        return through_now(self._scan)

    def sessions_since(self, moment: datetime) -> set[int]:
        """Sessions that have written at this moment or later, or may have: by their files' times."""
        earliest = moment.timestamp() - _SECONDS_OF_DOUBT
        return {one.session for one in self._scan.segments() if files.changed_at(one.path) >= earliest}

    def newest_first(
        self, sessions: Collection[int] | None = None, without_codes: Collection[bytes | None] = ()
    ) -> Iterator[Document]:
        """All recordings, or those of some sessions, newest first, parsed no further than asked.

        They are read from the end of the files, so that the first ones cost little. Recordings with one of
        ``without_codes`` (`code_in_head`), which may grow meanwhile, may be left out.
        """
        return self._scan.documents(reversed(self._of(sessions)), without_codes, from_end=True)

    def last(self, count: int) -> list[Recording]:
        """The last ``count`` recordings, oldest first, read from the end of the files."""
        return list(islice(_parsed(self.newest_first()), max(0, count)))[::-1]

    def latest(self, count: int) -> Iterator[Recording]:
        """As `last`, for many: they are not held in memory, and their files are read twice.

        Raises `FileTakenAway` as `documents` does.
        """
        return _parsed(self.latest_documents(count, self.extent()))

    def latest_documents(self, count: int, extent: Extent) -> Iterator[Document]:
        """The last ``count`` recordings of an extent that can be read, oldest first."""
        return extent.latest(self._scan, count)

    def get(self, recording_id: str) -> Recording | None:
        """The recording with this id, or None."""
        return next(self.these((recording_id,)), None)

    def these(self, ids: Iterable[str]) -> Iterator[Recording]:
        """The recordings with these ids in the order in which they came; each session is read once."""
        wanted: set[str] = set()
        sessions: set[int] = set()
        for recording_id in ids:
            if parsed := parse_id(recording_id):
                wanted.add(recording_id)
                sessions.add(parsed[0])
        return _parsed(document for document in self.documents(sessions) if document["id"] in wanted)

    def attempts(self, recording_id: str) -> list[Attempt]:
        """All attempts with this recording, in the order in which they were made."""
        return gathering.attempts_with(self._scan, recording_id) if parse_id(recording_id) else []

    def with_attempts(self, recordings: Sequence[Recording]) -> list[History]:
        """Recordings of this journal with the attempts made with them, in the order given.

        What was written before the oldest of them is not read.
        """
        return gathering.histories(self._scan, recordings)

    def outcomes(
        self, *, to: str | None = None, before: datetime | None = None, without: Collection[int] = ()
    ) -> Outcomes:
        """What came of the attempts with each recording; reads all of them, and holds about a byte for each.

        ``to``: only attempts with the handler at this URL, whatever its query. ``before``: only those made before.
        ``without``: not those of these sessions.
        """
        return Outcomes.of(self._scan, to=to, before=before, without=without)

    def pending(self) -> list[str]:
        """Ids of recordings that an ended session was to forward and that no handler was reached with.

        Sessions that still run, only recorded, or ended with nothing pending are passed over.
        """
        return [debt.id for debt in debts(self._scan)]

    def debts(self) -> list[Debt]:
        """The same, each with where it was delivered, for who has several handlers."""
        return list(debts(self._scan))

    def recorded_answers(self, before: datetime | None = None, without: Collection[int] = ()) -> RecordedAnswers:
        """What handlers answered to the recordings, to hold other answers against; reads all attempts at once.

        Only attempts count that are there now and began before ``before`` (aware), and none of the sessions
        ``without``. Close it, or use it as a context manager.
        """
        return RecordedAnswers(self._scan, before, without)

    def last_run(self, *, with_arguments: bool = True) -> Run | None:
        """The newest replay from the command line, with those that resumed it.

        One from Python has no arguments, unless it was given some, and is passed over; without
        ``with_arguments`` it counts as well.
        """
        return last_run(self._scan, with_arguments=with_arguments)

    def resumed_elsewhere(self, session: int, own: int) -> int | None:
        """The lowest session below ``own`` that resumes ``session`` too, alive or not; None where there is none.

        Of several that resume one run at the same time, each with a session ``own`` already, those that find
        another one give up.
        """
        return resumed_elsewhere(self._scan, session, own)

    def delivered_in(self, sessions: Collection[int], cause: Cause = "replay") -> Delivered:
        """What the replays of these sessions have delivered; with ``against`` that to the second handler."""
        return Delivered.of(self._scan, sessions, cause)

    def check(self) -> Iterator[Checked]:
        """What is in each of the journal's files and what is wrong with it; parses every line."""
        return checking.check(self.directory)

    def _of(self, sessions: Collection[int] | None) -> list[Segment]:
        return [s for s in self._scan.segments() if sessions is None or s.session in sessions]


def _parsed(documents: Iterable[Document]) -> Iterator[Recording]:
    return (recording for document in documents if (recording := document.recording) is not None)

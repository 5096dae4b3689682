"""What is in the journal at one moment, so that reading it ends while others write it."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, dropwhile, groupby, islice
from operator import attrgetter
from pathlib import Path
from typing import BinaryIO

from b24tunnel.errors import OutsideFailure
from b24tunnel.journal import files, lines
from b24tunnel.journal.document import Document
from b24tunnel.journal.files import Segment
from b24tunnel.journal.scan import Scan
from b24tunnel.through import Through

# The last so many recordings are held while they are given out; more are read twice.
_MOST_HELD = 100


class FileTakenAway(OutsideFailure):
    """A file of the journal was removed or rewritten before it was read."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} was removed or rewritten before it could be read, as 'b24tunnel prune' does: ask again for "
            "what there is now; a replay sends what is left with --resume."
        )


@dataclass(frozen=True)
class Part:
    """A segment as it was: which file, up to which byte its lines went, and where it was being written.

    There ``growing`` holds, and ``last`` is the id of the last recording in it, None where there was none yet.
    """

    segment: Segment
    device: int
    inode: int
    end: int
    growing: bool = False
    last: str | None = None

    def is_still(self, now: os.stat_result) -> bool:
        """Whether a file is the one that this was, with all of its lines."""
        same = (now.st_dev, now.st_ino) == (self.device, self.inode)
        # What a writer could not make durable it cuts off again.
        return same and (self.growing or now.st_size >= self.end)


@dataclass(frozen=True)
class Extent:
    """The segments that there were; with ``through``, only what it includes of them.

    An open file is read to its end whatever happens to its name. One that was removed or rewritten before it is
    opened raises `FileTakenAway`, after what stands before it was given out.
    """

    parts: tuple[Part, ...]
    through: Through | None = None

    @classmethod
    def now(cls, scan: Scan, through: Through | None = None) -> Extent:
        """What there is now."""
        parts = (
            _part(scan, segment)
            for segment in scan.segments()
            if through is None or segment.session <= through.session
        )
        return cls(tuple(part for part in parts if part is not None), through)

    def documents(self, scan: Scan, sessions: Collection[int] | None = None) -> Iterator[Document]:
        """Its recordings, or those of some sessions, as they came."""
        for part in self._of(sessions):
            if part.growing and part.last is None:
                continue
            for document in scan.documents_among(part.segment, _lines(scan, part)):
                if self._includes(document):
                    yield document
                if part.growing and document["id"] == part.last:
                    break

    def newest_first(self, scan: Scan, sessions: Collection[int] | None = None) -> Iterator[Document]:
        """The same, newest first; the first ones cost little."""
        for part in reversed(self._of(sessions)):
            reached = not part.growing
            for document in scan.documents_among(part.segment, _lines(scan, part, from_end=True)):
                reached = reached or document["id"] == part.last
                if reached and self._includes(document):
                    yield document

    def latest(self, scan: Scan, count: int) -> Iterator[Document]:
        """Its last ``count`` recordings that can be read, oldest first, few of them held."""
        newest = (document for document in self.newest_first(scan) if document.recording is not None)
        if count <= _MOST_HELD:
            return iter(list(islice(newest, max(0, count)))[::-1])
        oldest = deque(islice(newest, count), maxlen=1)
        if not oldest:
            return iter(())
        from_there = self._from(scan, oldest[0])
        return islice((document for document in from_there if document.recording is not None), count)

    def _from(self, scan: Scan, first: Document) -> Iterator[Document]:
        """Its recordings from this one on."""
        sought, place = first["id"], first.place
        found_in = {part.segment.session for part in self.parts}
        sessions = found_in if place is None else {session for session in found_in if session >= place[0]}
        from_there = dropwhile(lambda document: document["id"] != sought, self.documents(scan, sessions))
        found = next(from_there, None)
        if found is None:
            raise FileTakenAway(self._of(sessions)[0].segment.path)
        return chain((found,), from_there)

    def _of(self, sessions: Collection[int] | None) -> list[Part]:
        return [part for part in self.parts if sessions is None or part.segment.session in sessions]

    def _includes(self, document: Document) -> bool:
        if self.through is None or not self.through.numbers:
            return True
        place = document.place
        return place is None or self.through.includes(*place)


def through_now(scan: Scan) -> Through:
    """Which recordings there are now."""
    at, newest, numbers = datetime.now(UTC), 0, {}
    for session, grouped in groupby(scan.segments(), key=attrgetter("session")):
        newest, own = session, list(grouped)
        # Marked before it has a line: looked at in the other order, it could be neither.
        if not files.end_of_lines(own[-1].path) or files.is_live(own[-1]):
            places = (document.place for document in scan.documents(reversed(own), from_end=True))
            numbers[session] = next((place[1] for place in places if place and place[0] == session), 0)
    return Through(at, newest, numbers)


def _part(scan: Scan, segment: Segment) -> Part | None:
    """A segment as it is; None where it was removed meanwhile."""
    with files.reading(segment.path), segment.path.open("rb") as file:
        status = os.fstat(file.fileno())
        end = files.end_of_lines_in(file)
        # A file without a line is one whose writer is just about to mark it as its own.
        if end and not files.is_being_written(segment.path):
            return Part(segment, status.st_dev, status.st_ino, end)
        last = next(scan.documents((segment,), from_end=True), None)
        last_id = None if last is None else last["id"]
        return Part(segment, status.st_dev, status.st_ino, end, growing=True, last=last_id)
    return None


def _lines(scan: Scan, part: Part, *, from_end: bool = False) -> Iterator[bytes]:
    """A segment's lines but for those that are surely no recording's; raises `FileTakenAway`."""
    path = part.segment.path
    # From the end, a file is read in blocks already.
    with files.reading(path), _opened(part, -1 if from_end else files.BUFFER) as file:
        if not scan.is_later(path, file):
            lines_in = files.lines_in_from_end if from_end else files.lines_in
            yield from lines_in(file, lines.NO_RECORDING)


def _opened(part: Part, buffering: int) -> BinaryIO:
    path = part.segment.path
    try:
        file = path.open("rb", buffering=buffering)
    except FileNotFoundError as error:
        raise FileTakenAway(path) from error
    if not part.is_still(os.fstat(file.fileno())):
        file.close()
        raise FileTakenAway(path)
    return file

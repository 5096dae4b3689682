"""Going through the journal's lines: what cannot be read is passed over and noted."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

from b24tunnel.journal import files, lines
from b24tunnel.journal.document import Document
from b24tunnel.journal.files import Segment
from b24tunnel.recording import Record, UnreadableRecord, from_line

_MOST_PROBLEMS = 10


class Scan:
    """Reads the segments of one journal's directory. ``unreadable`` maps a file to what was wrong with it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.unreadable: dict[Path, list[str]] = {}

    def segments(self, session: int | None = None) -> list[Segment]:
        """All segments in order, or those of one session."""
        return files.segments(self.directory, session)

    def lines(self, segment: Segment, passed_over: tuple[bytes, ...] = ()) -> Iterator[bytes]:
        """A segment's complete lines without those that begin with one of ``passed_over``.

        One that was removed meanwhile has none; nor has one of a later format, which is noted.
        """
        if self.is_later(segment.path):
            return
        with files.reading(segment.path):
            yield from files.lines_of(segment.path, passed_over)

    def lines_from_end(self, segment: Segment, passed_over: tuple[bytes, ...] = ()) -> Iterator[bytes]:
        """As `lines`, last first."""
        if self.is_later(segment.path):
            return
        with files.reading(segment.path):
            yield from files.lines_from_end(segment.path, passed_over)

    def documents(
        self, segments: Iterable[Segment], without_codes: Collection[bytes | None] = (), *, from_end: bool = False
    ) -> Iterator[Document]:
        """The recordings in these segments, parsed no further than asked.

        ``without_codes`` are passed over where a line's head has the code, in ASCII; it may grow meanwhile.
        """
        lines_of = self.lines_from_end if from_end else self.lines
        for segment in segments:
            yield from self.documents_among(segment, lines_of(segment, lines.NO_RECORDING), without_codes)

    def documents_among(
        self, segment: Segment, among: Iterable[bytes], without_codes: Collection[bytes | None] = ()
    ) -> Iterator[Document]:
        """The recordings among lines of a segment."""
        read = partial(self.read, segment.path)
        for line in among:
            head = lines.recording_head(line)
            if head is None:
                document = Document(line, None, read)
                if document.recording is not None:
                    yield document
            elif head[5] not in without_codes:
                yield Document(line, head, read)

    def read(self, path: Path, line: bytes) -> Record | None:
        """The record of a line; None where it is spoiled, which is noted."""
        try:
            return from_line(line)
        except UnreadableRecord as error:
            self._note(path, lines.spoiled(line, error))
            return None

    def is_later(self, path: Path, file: BinaryIO | None = None) -> bool:
        """Whether a later b24tunnel wrote this file, which may be open; it is noted then."""
        later = files.later_format(path) if file is None else files.later_format_of(file, path)
        if later is not None:
            self._note(path, later.problem)
        return later is not None

    def _note(self, path: Path, problem: str) -> None:
        problems = self.unreadable.setdefault(path, [])
        if problem not in problems and len(problems) < _MOST_PROBLEMS:
            problems.append(problem)

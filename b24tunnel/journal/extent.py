"""What is in the journal at one moment, so that reading it ends while others write it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from b24tunnel.journal import files
from b24tunnel.journal.document import Document
from b24tunnel.journal.files import Segment
from b24tunnel.journal.scan import Scan


@dataclass(frozen=True)
class Extent:
    """The segments that there were; ``growing``: those being written, with the id of the last recording in each.

    It is None for a segment that held no recording yet.
    """

    segments: tuple[Segment, ...]
    growing: dict[Segment, str | None]

    @classmethod
    def now(cls, scan: Scan) -> Extent:
        """What there is now."""
        segments = tuple(scan.segments())
        growing: dict[Segment, str | None] = {}
        for segment in segments:
            if files.is_being_written(segment.path):
                last = next(scan.documents((segment,), from_end=True), None)
                growing[segment] = None if last is None else last["id"]
        return cls(segments, growing)

    def documents(self, scan: Scan, sessions: Collection[int] | None = None) -> Iterator[Document]:
        """Its recordings, or those of some sessions, as they came."""
        for segment in self.segments:
            if sessions is not None and segment.session not in sessions:
                continue
            if segment not in self.growing:
                yield from scan.documents((segment,))
            elif (last := self.growing[segment]) is not None:
                for document in scan.documents((segment,)):
                    yield document
                    if document["id"] == last:
                        break

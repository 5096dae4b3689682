"""Reading the journal, also while other processes write it: scan, search, last, attempts, what is pending."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from b24tunnel.journal import files
from b24tunnel.journal.files import Segment, TornLine
from b24tunnel.recording import (
    Attempt,
    Record,
    Recording,
    SessionEnd,
    SessionStart,
    UnreadableRecord,
    from_line,
    parse_id,
)

# How lines begin: telling them apart by it spares parsing those that nobody asked for.
_KNOWN = b'{"v":1,"kind":"'
_RECORDING = _KNOWN + b'recording"'
_ATTEMPT = _KNOWN + b'attempt"'


class History(NamedTuple):
    """A recording and the attempts made with it, oldest first."""

    recording: Recording
    attempts: tuple[Attempt, ...]


class Journal:
    """The recordings and attempts below a directory, for reading.

    ``torn`` lists the torn last lines that opening it cut off; ``unreadable`` maps a file to what was wrong
    with lines of it that were skipped, filled while reading.
    """

    def __init__(self, recordings: Path) -> None:
        self.directory = files.journal_directory(recordings)
        self.torn: list[TornLine] = []
        self.unreadable: dict[Path, list[str]] = {}

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
        for record in self._records(files.segments(self.directory, session), _RECORDING):
            if isinstance(record, Recording):
                yield record

    def search(self, query: Callable[[Mapping[str, Any]], bool]) -> Iterator[Recording]:
        """The recordings for which a TinyDB query holds: ``journal.search(where("code") == "ONCRMDEALADD")``.

        A query sees ``id``, ``session``, ``code``, ``data``, ``auth``, ``ts``, ``received_at``, ``method``,
        ``target``, ``source``, ``verdict``, ``portal``, ``remote`` and ``fields`` (the whole parsed body).
        """
        return (recording for recording in self.recordings() if query(Document(recording)))

    def get(self, recording_id: str) -> Recording | None:
        """The recording with this id, or None."""
        parsed = parse_id(recording_id)
        if parsed is None:
            return None
        own = files.segments(self.directory, parsed[0])
        for record in self._records(own, _RECORDING, f'"id":"{recording_id}"'.encode()):
            if isinstance(record, Recording) and record.id == recording_id:
                return record
        return None

    def these(self, ids: Iterable[str]) -> Iterator[Recording]:
        """The recordings with these ids in the order in which they came; each session is read once."""
        wanted = set(ids)
        sessions = {parsed[0] for recording_id in wanted if (parsed := parse_id(recording_id))}
        for session in sorted(sessions):
            yield from (r for r in self.recordings(session) if r.id in wanted)

    def attempts(self, recording_id: str) -> list[Attempt]:
        """All attempts with this recording, in the order in which they were made."""
        parsed = parse_id(recording_id)
        if parsed is None:
            return []
        # A session that began earlier may still run and replay, so all files are looked at.
        marker = f'"recording":"{recording_id}"'.encode()
        found = [
            record
            for record in self._records(files.segments(self.directory), _ATTEMPT, marker)
            if isinstance(record, Attempt) and record.recording == recording_id
        ]
        return sorted(found, key=attrgetter("started_at"))

    def last(self, count: int) -> list[Recording]:
        """The last ``count`` recordings, oldest first, read from the end of the files."""
        found: list[Recording] = []
        for segment in reversed(files.segments(self.directory)):
            for line in self._lines_from_end(segment):
                if len(found) >= count:
                    break
                if line.startswith(_KNOWN) and not line.startswith(_RECORDING):
                    continue
                record = self._read(segment.path, line)
                if isinstance(record, Recording):
                    found.append(record)
        return found[::-1]

    def newest_first(self) -> Iterator[History]:
        """Every recording with its attempts, newest first, read from the end of the files."""
        attempts: dict[str, list[Attempt]] = {}
        for segment in reversed(files.segments(self.directory)):
            for line in self._lines_from_end(segment):
                record = self._read(segment.path, line)
                if isinstance(record, Attempt):
                    attempts.setdefault(record.recording, []).append(record)
                elif isinstance(record, Recording):
                    yield History(record, tuple(sorted(attempts.pop(record.id, []), key=attrgetter("started_at"))))

    def pending(self) -> list[str]:
        """Ids of recordings that an ended session was to forward and that no handler was reached with.

        Sessions that still run, only recorded, or ended with nothing pending are passed over.
        """
        open_ids: dict[str, None] = {}
        for _, grouped in groupby(files.segments(self.directory), key=attrgetter("session")):
            own = list(grouped)
            start = self._start(own[0])
            listening = (
                start is not None
                and start.forward is not None
                and not self._ended_with_nothing_pending(own[-1])
                and not self._is_live(own[-1])
            )
            if not (listening or open_ids):
                continue
            for record in self._records(own):
                if isinstance(record, Attempt) and record.delivered:
                    open_ids.pop(record.recording, None)
                elif listening and isinstance(record, Recording):
                    open_ids[record.id] = None
        return list(open_ids)

    def _is_live(self, last: Segment) -> bool:
        """Whether a process writes this session, also where it has gone on to a new segment meanwhile."""
        if files.is_being_written(last.path):
            return True
        return files.segments(self.directory, last.session)[-1:] != [last]

    def _start(self, segment: Segment) -> SessionStart | None:
        record = next(self._records([segment]), None)
        return record if isinstance(record, SessionStart) else None

    def _ended_with_nothing_pending(self, segment: Segment) -> bool:
        line = next(self._lines_from_end(segment), None)
        record = self._read(segment.path, line) if line else None
        return isinstance(record, SessionEnd) and record.pending == 0

    def _records(self, chosen: list[Segment], *markers: bytes) -> Iterator[Record]:
        """The records of these segments in order; with markers, only lines that hold each of them.

        A line that does not begin as ours do is always looked at, so that it is noted as unreadable.
        """
        for segment in chosen:
            with files.reading(segment.path), segment.path.open("rb") as file:
                for line in file:
                    if not line.endswith(b"\n"):
                        break  # being written, or torn: not acknowledged either way
                    if not line.startswith(_KNOWN) or all(marker in line for marker in markers):
                        record = self._read(segment.path, line)
                        if record is not None:
                            yield record

    def _lines_from_end(self, segment: Segment) -> Iterator[bytes]:
        with files.reading(segment.path):
            yield from files.lines_from_end(segment.path)

    def _read(self, path: Path, line: bytes) -> Record | None:
        try:
            return from_line(line)
        except UnreadableRecord as error:
            problems = self.unreadable.setdefault(path, [])
            if str(error) not in problems and len(problems) < 10:
                problems.append(str(error))
            return None


class Document(Mapping[str, Any]):
    """A recording as a TinyDB query sees it; its body is parsed only when a query asks for what is in it."""

    _PLAIN = ("id", "session", "code", "received_at", "method", "target", "source", "verdict", "portal", "remote")
    _PARSED = ("data", "auth", "ts", "fields")

    def __init__(self, recording: Recording) -> None:
        self._recording = recording

    def __getitem__(self, key: str) -> Any:
        if key in self._PLAIN:
            return getattr(self._recording, key)
        if key in self._PARSED:
            return getattr(self._recording.event, key)
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._PLAIN + self._PARSED)

    def __len__(self) -> int:
        return len(self._PLAIN) + len(self._PARSED)

"""Checking the journal: what is in each file, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from b24tunnel.journal import files, lines
from b24tunnel.journal.files import Segment
from b24tunnel.journal.marks import Marks
from b24tunnel.recording import Attempt, Recording, SessionStart, UnreadableRecord, from_line, parse_id

_MOST_PROBLEMS = 20


@dataclass(frozen=True)
class Problem:
    """Something wrong with a file, without any of its contents. ``line`` counts from 1; None: all of it."""

    line: int | None
    what: str

    def __str__(self) -> str:
        return self.what if self.line is None else f"line {self.line}: {self.what}"


@dataclass
class Checked:
    """What one file of the journal holds. ``size`` is bytes.

    ``problems`` names the first 20; ``problem_count`` counts all. ``being_written``: by a living process.
    """

    session: int
    path: Path
    size: int = 0
    recordings: int = 0
    attempts: int = 0
    being_written: bool = False
    problems: list[Problem] = field(default_factory=list)
    problem_count: int = 0

    def add(self, what: str, line: int | None = None) -> None:
        """Note a problem."""
        self.problem_count += 1
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(Problem(line, what))


def check(directory: Path) -> Iterator[Checked]:
    """Check every file of the journal in this directory, in order; raises `JournalUnreadable`.

    Memory is about a byte for each recording: that is how an id is known to have come before.
    """
    seen = Marks()
    for segment in files.segments(directory):
        checked = Checked(segment.session, segment.path)
        with files.reading(segment.path):
            _check(segment, checked, seen)
            yield checked


def _check(segment: Segment, checked: Checked, seen: Marks) -> None:
    with segment.path.open("rb", buffering=files.BUFFER) as file:
        later = files.later_format_of(file, segment.path)
        file.seek(0)
        if later is not None:
            checked.add(later.problem)
            checked.size = segment.path.stat().st_size
            return
        for number, line in enumerate(file, 1):
            checked.size += len(line)
            if not line.endswith(b"\n"):
                checked.being_written = files.is_being_written(segment.path)
                if not checked.being_written:
                    checked.add("its end is missing", number)
                return
            try:
                record = from_line(line)
            except UnreadableRecord as error:
                checked.add(lines.spoiled(line, error), number)
                continue
            if number == 1 and not isinstance(record, SessionStart):
                checked.add("the file does not begin with its session", number)
            if isinstance(record, Attempt):
                checked.attempts += 1
            elif isinstance(record, Recording):
                checked.recordings += 1
                place = parse_id(record.id)
                if place is None:
                    checked.add("a recording whose id is none", number)
                elif seen[place]:
                    checked.add(f"a second recording with the id {record.id}", number)
                else:
                    seen[place] = 1
    checked.being_written = files.is_being_written(segment.path)

"""What became of one sending."""

from __future__ import annotations

from dataclasses import dataclass

from b24tunnel.difference import Difference
from b24tunnel.recording import Attempt, Recording
from b24tunnel.redact import Masker


@dataclass(frozen=True)
class Result:
    """One recording as it was sent, what the handler answered, and what is wrong with that.

    ``number`` is its place in the run, from 1. ``original`` is the recording as it was recorded, where it was not
    sent so. ``problems`` are sentences without a full stop, such as ``answered
    500, expected 2xx``; ``differences`` stand beside the answer that it was compared with. ``late_ms``: how many
    milliseconds after its time it was sent, where the run had a pace.
    """

    number: int
    recording: Recording
    attempt: Attempt
    problems: tuple[str, ...] = ()
    differences: tuple[Difference, ...] = ()
    late_ms: float = 0.0
    original: Recording | None = None

    @property
    def ok(self) -> bool:
        """The answer is as it was wanted."""
        return not self.problems and not self.differences

    @property
    def masker(self) -> Masker:
        """What takes secrets out of a text: those of the recording as it was sent, and as it was recorded."""
        return Masker.of(self.recording, *(() if self.original is None else (self.original,)))

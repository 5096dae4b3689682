"""What a journal held at one moment, in few numbers, so that it can be told again later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True)
class Through:
    """Every recording that there was when the clock showed ``at`` (aware UTC); the clock decides nothing.

    ``session`` is the newest session that there was, 0 where there was none. ``numbers`` has, for each session
    that was being written, the number of its last recording, 0 where it had none; of all others up to the newest
    every recording is included. `Journal.through` makes one.
    """

    at: datetime
    session: int
    numbers: Mapping[int, int] = field(default_factory=dict, hash=False)

    def includes(self, session: int, number: int) -> bool:
        """Whether the recording with this number in this session was there."""
        if session > self.session:
            return False
        last = self.numbers.get(session)
        return last is None or number <= last

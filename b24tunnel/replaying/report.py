"""What a replay did, counted as it goes, so that it is true at any moment."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field
from operator import attrgetter

from b24tunnel.recording import Attempt
from b24tunnel.replaying.latency import Latency
from b24tunnel.replaying.result import Result


@dataclass
class Report:
    """The results of a run, and what they come to.

    ``keep`` bounds how many results are held (None: all of them): everything else is counted, so that memory does
    not grow with the run. ``wrong`` are those that are not `Result.ok`: among them ``differing``, by a comparison,
    ``unreached``, of which the handler has seen nothing, and ``cut_off``, before it had answered. ``seconds`` is
    how long the run took. ``interrupted``: it was asked to stop or could not go on; ``stopped``: it ended at the
    first wrong answer; ``unsent``: so there are recordings that were not sent.
    ``seed`` is what chance began with. ``paced``: it had a schedule, and ``late`` says how well that was kept.
    """

    keep: int | None = None
    # Not in the repr, which asyncio makes of a task's result: there may be very many.
    results: list[Result] = field(default_factory=list, repr=False)
    sent: int = 0
    wrong: int = 0
    unreached: int = 0
    differing: int = 0
    cut_off: int = 0
    seconds: float = 0.0
    interrupted: bool = False
    stopped: bool = False
    unsent: bool = False
    seed: int | None = None
    paced: bool = False
    latency: Latency = field(default_factory=Latency, repr=False)
    late: Latency = field(default_factory=Latency, repr=False)

    def add(self, result: Result) -> None:
        """Count one result, and hold it where there is room."""
        self.sent += 1
        attempt = result.attempt
        if not result.ok:
            self.wrong += 1
            self.differing += bool(result.differences)
        if attempt.delivered:
            self.latency.add(attempt.duration_ms)
        elif attempt.cut_off:
            self.cut_off += 1
        else:
            self.unreached += 1
        if self.paced:
            self.late.add(result.late_ms)
        if self.keep is None or len(self.results) < self.keep:
            insort(self.results, result, key=attrgetter("number"))

    @property
    def ok(self) -> bool:
        """Every answer was as it was wanted, and at least one recording was sent, and none was left unsent."""
        return self.sent > 0 and self.wrong == 0 and not self.unsent

    @property
    def undelivered(self) -> int:
        """How many of those sent the handler may not have."""
        return self.unreached + self.cut_off

    @property
    def attempts(self) -> list[Attempt]:
        """The attempts of the results that are held, in the order in which the recordings were given."""
        return [result.attempt for result in self.results]

    @property
    def failed(self) -> list[Attempt]:
        """Those of them that were not answered as it was wanted."""
        return [result.attempt for result in self.results if not result.ok]

"""How well a replay keeps the recorded gaps of a burst."""

from __future__ import annotations

from collections.abc import Iterator

from going import Going
from processes import python
from table import Goal, Row, Samples

_GOAL = Goal("≤", 0.005, "s")
_SECONDS_AT_MOST = 120

NAMES = ("replay-pace",)


def measure(going: Going) -> Iterator[Row]:
    """By how much a gap differs at the handler, at the median of each round."""
    if not going.wants("replay-pace"):
        return
    count = going.settings.paced
    command = python("clients/replaying_pace.py", "--count", str(count))
    rounds = []
    for number in range(going.settings.rounds):
        found = going.processes.run_json(command, _SECONDS_AT_MOST)
        rounds.append(found)
        going.say(f"replay at its own pace, {number + 1}: {found['median'] * 1000:.2f} ms at the median")
    medians = tuple(found["median"] for found in rounds)
    worst = f"{max(found['p99'] for found in rounds) * 1000:.1f} ms at 99 %"
    what = f"error of a gap at --speed 1, {count:,} events 1 to 9 ms apart"
    yield Row("replay-pace", what, Samples(medians, "s", worst), goal=_GOAL)

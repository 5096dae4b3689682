"""Replays a recorded burst at its own pace and prints how far the gaps at the handler are from the recorded."""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from b24tunnel import Recording, replay
from b24tunnel.replaying import OriginalPace

_SERVER = Path(__file__).parent.parent / "servers" / "arriving.py"
_GAPS_MS = (1, 9)


def burst(count: int) -> list[Recording]:
    """So many recordings, some milliseconds apart, the same ones each time."""
    chance = random.Random(1)
    moment = datetime(2026, 1, 5, 9, 30, tzinfo=UTC)
    recordings = []
    for number in range(count):
        recordings.append(
            Recording(f"1-{number + 1}", moment, "POST", "/", (), b"event=X&n=%d" % number, code="X")
        )
        moment += timedelta(milliseconds=chance.uniform(*_GAPS_MS))
    return recordings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    recordings = burst(parser.parse_args().count)
    command = [sys.executable, str(_SERVER)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        url = f"http://127.0.0.1:{json.loads(server.stdout.readline())['port']}/"
        report = replay(recordings, url, pace=OriginalPace())
        server.stdin.close()
        arrivals = sorted(json.loads(server.stdout.readline()))
    if not report.ok or [number for number, _ in arrivals] != list(range(len(recordings))):
        sys.exit(f"{report.wrong} of {report.sent} were not answered, {len(arrivals)} arrived")
    errors = []
    for place in range(1, len(recordings)):
        recorded = (recordings[place].received_at - recordings[place - 1].received_at).total_seconds()
        errors.append(abs(arrivals[place][1] - arrivals[place - 1][1] - recorded))
    print(json.dumps({"median": statistics.median(errors), "p99": statistics.quantiles(errors, n=100)[98]}))


if __name__ == "__main__":
    main()

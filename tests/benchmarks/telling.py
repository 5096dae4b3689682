"""What the soaks say in the end."""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
from dataclasses import asdict
from typing import Any

_MOST_TOLD = 50


def options(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The command line's options, those that both soaks take among them; the seed is told at once."""
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no program is left behind
    print(f"seed {chosen.seed}", file=sys.stderr, flush=True)
    return chosen


def tell(summary: Any, chosen: argparse.Namespace) -> int:
    """Print a summary (a dataclass with ``wrong`` and ``directory``); the exit code."""
    if chosen.json:
        print(json.dumps({"seed": chosen.seed, **asdict(summary)}))
        return 1 if summary.wrong else 0
    for name, value in asdict(summary).items():
        if name not in ("wrong", "directory"):
            print(f"{name.replace('_', ' ')}: {value}")
    print("all holds" if not summary.wrong else f"{len(summary.wrong)} things are wrong:")
    for wrong in summary.wrong[:_MOST_TOLD]:
        print(f"  {wrong}")
    if summary.directory:
        print(f"kept for a look: {summary.directory}")
    return 1 if summary.wrong else 0

"""Short runs of the two soaks: `kill -9` under load, and mixed load while faults come and go."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from programs import Programs

SOAKS = Path(__file__).parent / "benchmarks"


def summary_of(programs: Programs, script: str, *options: str) -> dict[str, Any]:
    """What a soak came to, after all of it held."""
    soak = programs.start(sys.executable, str(SOAKS / script), "--json", *options)
    assert soak.wait(150) == 0, str(soak)
    summary: dict[str, Any] = json.loads(soak.lines[-1])
    assert summary["wrong"] == []
    return summary


def test_kills_under_load_lose_nothing_that_was_acknowledged(programs: Programs) -> None:
    summary = summary_of(programs, "kills.py", "--rounds", "10", "--seed", "1")
    assert (summary["rounds"], summary["missing"], summary["unreadable"]) == (10, 0, 0)
    assert summary["acknowledged"] > 300
    assert summary["handed_over"] >= summary["recorded"]
    assert len(summary["variants"]) == 6, "each way of killing was tried"


def test_everything_adds_up_after_mixed_load_and_faults(programs: Programs) -> None:
    summary = summary_of(programs, "faults.py", "--minutes", "0.2", "--seed", "2")
    assert summary["missing"] == 0
    assert summary["acknowledged"] > 300
    assert summary["refused"] > 0, "the disk's faults were felt"
    assert summary["descriptors_after"] <= summary["descriptors_before"] + 4
    assert 0 < summary["memory_last_quarter_mib"] < summary["memory_first_quarter_mib"] + 30

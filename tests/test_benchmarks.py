"""The benchmark of tests/benchmarks runs every row to its end. How fast anything is, no test asserts."""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import signal
import sys
from pathlib import Path

import pytest
from programs import Programs, wait_until

BENCHMARKS = Path(__file__).parent / "benchmarks"
SECONDS = 170.0  # it takes about 20, and more where the tests beside it take the processor
BY_WRK = {
    *("acknowledged-64", "acknowledged-16", "against-tinydb", "against-php", "memory-dead", "memory-fast"),
}
ROWS = {
    *("answer-none", "answer-fast", "answer-sleeping", "answer-dead"),
    *("replay-8", "replay-8-noted", "replay-64", "replay-64-noted"),
    *("last-50", "memory-of-last-50", "list-last-50", "filter", "memory-of-filter", "list-code"),
    *("memory-replay", "replay-pace"),
    *("start-up", "against-mitmdump", "acknowledged-64-uvloop", "acknowledged-16-uvloop"),
    *BY_WRK,
}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmark reads Linux's /proc")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Where the benchmark is to make its temporary directory."""
    directory = tmp_path / "work"
    directory.mkdir()
    return directory


def processes_in(directory: Path) -> list[str]:
    """The processes that work below a directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink().is_relative_to(directory):
                found.append((process / "cmdline").read_text(encoding="utf-8", errors="replace"))
        except OSError:
            continue  # it has ended meanwhile
    return found


def arguments(work: Path, *more: str) -> list[str]:
    return [
        sys.executable,
        str(BENCHMARKS),
        "--directory",
        str(work),
        "--cache",
        str(work.parent / "cache"),
        *more,
    ]


def test_every_row_is_measured_or_says_why_not_and_nothing_is_left_behind(programs: Programs, work: Path) -> None:
    program = programs.start(*arguments(work, "--quick", "--json", "--without", "mitmdump"))
    assert program.wait(SECONDS) == 0, str(program)
    result = json.loads("".join(program.lines))
    rows = {row["name"]: row for row in result["rows"]}
    assert set(rows) == ROWS
    assert "cores" in result["machine"]
    for name, row in rows.items():
        assert row["failed"] is None, row
        if row["not_measured"] is None:
            assert row["measured"], row
            assert all(math.isfinite(value) for value in row["measured"]), row
        elif name == "against-mitmdump":
            assert row["not_measured"] in ("--without mitmdump", "wrk is not installed")
        elif name.endswith("-uvloop"):
            assert row["not_measured"] in ("uvloop is not installed", "wrk is not installed")
        else:
            tools = {"wrk"} if name in BY_WRK else set()
            tools |= {"php"} if name == "against-php" else set()
            missing = {tool for tool in tools if shutil.which(tool) is None}
            assert row["not_measured"] in {f"{tool} is not installed" for tool in missing}, row
            assert not os.environ.get("CI"), f"CI has to install what {name} needs: {row['not_measured']}"
    assert list(work.iterdir()) == []
    assert processes_in(work) == []


def test_the_table_for_the_readme_is_headed_by_the_machine_without_its_name(
    programs: Programs, work: Path
) -> None:
    program = programs.start(*arguments(work, "--quick", "--markdown", "--only", "start-up"))
    assert program.wait(SECONDS) == 0, str(program)
    machine, _, head, rule, row, *_ = [line.rstrip("\n") for line in program.lines]
    assert f"Linux {platform.release()}" in machine
    assert platform.node() not in machine.split()
    assert str(work) not in machine
    assert head == "| what | measured | peer | ratio | goal | reached? |"
    assert rule.count("---") == 6
    assert row.startswith("| b24tunnel --help | ")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_in_the_middle_it_ends_all_processes_and_removes_its_files(
    programs: Programs, work: Path, number: signal.Signals, code: int
) -> None:
    program = programs.start(*arguments(work, "--only", "answer-sleeping", "--seconds", "100"))
    wait_until(lambda: any("steady.py" in found for found in processes_in(work)), "the load has begun")
    program.send_signal(number)
    assert program.wait() == code, str(program)
    assert processes_in(work) == []
    assert list(work.iterdir()) == []


def test_a_row_that_does_not_exist_is_a_usage_error_with_the_names_of_those_that_do(
    programs: Programs, work: Path
) -> None:
    program = programs.start(*arguments(work, "--only", "speed"))
    assert program.wait() == 2
    assert "acknowledged-64" in program.errors[-1]

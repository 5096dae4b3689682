"""How a command that runs until it is stopped takes signals: in a process of its own, for they are sent to it."""

from __future__ import annotations

import sys

import pytest
from programs import Programs

# Sends itself the named signals, one by one, each taken before the next; its own `stop` may be set before.
PROGRAM = """
import asyncio, os, signal, sys
from b24tunnel.cli.stopping import run_until_stopped

async def main(stop):
    for name in sys.argv[1:]:
        if name == "stop":
            stop.set()
            continue
        os.kill(os.getpid(), getattr(signal, name))
        for _ in range(100):  # rounds of the event loop, which looks for signals in each
            await asyncio.sleep(0)
        assert stop.is_set()
    print("ended in order")

run_until_stopped(main, "left at once")
"""


@pytest.mark.parametrize(
    ("signals", "in_order"),
    [
        ("SIGINT", True),
        ("SIGTERM", True),
        ("SIGHUP", True),
        ("stop SIGHUP", True),  # the closed terminal was noticed first by what is printed there
        ("stop SIGINT", True),
        ("SIGHUP SIGHUP", True),  # from the kernel and from the shell that ends
        ("SIGTERM SIGHUP", True),  # as systemd ends a session
        ("SIGINT SIGINT", False),
        ("SIGTERM SIGTERM", False),
        ("stop SIGINT SIGINT", False),
    ],
)
def test_only_who_asks_twice_makes_it_leave_at_once(programs: Programs, signals: str, in_order: bool) -> None:
    program = programs.start(sys.executable, "-c", PROGRAM, *signals.split())
    assert program.wait() == (0 if in_order else 130)
    assert program.lines == (["ended in order\n"] if in_order else [])
    assert program.errors == ([] if in_order else ["left at once\n"])

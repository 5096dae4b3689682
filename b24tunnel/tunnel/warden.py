"""Ends a program when the process that started it is gone, however that went; also a program of its own.

A process that is killed with ``kill -9`` cannot end its children. The warden can: it waits at a pipe whose
other end closes with that process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

_DONE = b"done"
_END_SECONDS = 2.0


class Warden:
    """Watches over one child, which leads a process group of its own (on Windows: over the child alone)."""

    def __init__(self, pid: int) -> None:
        # Not `-m`: the warden needs nothing of this package, so it takes little memory and starts at once.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(pid), _mark(pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def release(self) -> None:
        """The child has ended or has been handed over: there is nothing to watch any more."""
        stdin = self._process.stdin
        if stdin is not None and not stdin.closed:
            with contextlib.suppress(OSError):  # somebody has killed the warden
                stdin.write(_DONE)
                stdin.close()
        self._process.wait()


def _mark(pid: int) -> str:
    """When the process began, in clock ticks since boot, so that a later one with its pid is told from it.

    Empty where the system does not say (proc(5), field 22 of ``stat``).
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] in ("Z", "X") else fields[19]


def _end(pid: int, mark: str) -> None:
    # Once the child is gone its number is still that of its group, for as long as there is anybody in it.
    if _mark(pid) not in (mark, ""):
        return
    send = getattr(os, "killpg", os.kill)
    with contextlib.suppress(OSError):
        send(pid, signal.SIGTERM)
        end = time.monotonic() + _END_SECONDS
        while time.monotonic() < end:
            send(pid, 0)  # raises once nobody is left of the group
            time.sleep(0.02)
        send(pid, getattr(signal, "SIGKILL", signal.SIGTERM))


def _watch() -> None:
    pid, mark = int(sys.argv[1]), sys.argv[2]
    if sys.stdin.buffer.read() != _DONE:
        _end(pid, mark)


if __name__ == "__main__":
    _watch()

"""Programs as child processes: started, waited for by what they print or do, and ended."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

DEADLINE = 30.0


def wait_until(condition: Callable[[], Any], what: str, seconds: float = DEADLINE) -> Any:
    """The condition's value once it is true; fails after ``seconds`` with what was waited for."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.01)
    return value


def free_port() -> int:
    """A port that was free a moment ago, for programs that cannot take port 0 and tell."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Program:
    """One child process whose output is read as it comes."""

    def __init__(self, arguments: Sequence[str], directory: Path, env: dict[str, str] | None = None) -> None:
        self.arguments = arguments
        self.lines: list[str] = []
        self.errors: list[str] = []
        self._unread: queue.Queue[str] = queue.Queue()
        self.process = subprocess.Popen(
            arguments,
            cwd=directory,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="surrogateescape",
            start_new_session=True,
        )
        self._readers = [
            threading.Thread(target=self._read, args=(self.process.stdout, self.lines, self._unread), daemon=True),
            threading.Thread(target=self._read, args=(self.process.stderr, self.errors, None), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: Any, into: list[str], unread: queue.Queue[str] | None) -> None:
        for line in stream:
            into.append(line)
            if unread is not None:
                unread.put(line)

    def next_json(self, kind: str | None = None, seconds: float = DEADLINE) -> dict[str, Any]:
        """The next JSON object on standard output, or the next whose ``type`` is ``kind``."""
        end = time.monotonic() + seconds
        while True:
            over = not self._readers[0].is_alive()  # looked at before the queue: then nothing comes after it
            try:
                line = self._unread.get(timeout=0.05)
            except queue.Empty:
                if not over and time.monotonic() < end:
                    continue
                raise AssertionError(f"no {kind or 'object'} within {seconds:.0f} s. {self}") from None
            value: dict[str, Any] = json.loads(line)
            if kind is None or value.get("type") == kind:
                return value

    def send_signal(self, number: int) -> None:
        """Send a signal to the program alone."""
        self.process.send_signal(number)

    def stop(self, seconds: float = DEADLINE) -> int:
        """Ctrl-C, and the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.wait(seconds)

    def wait(self, seconds: float = DEADLINE) -> int:
        """The exit code, once the program has ended and all its output is read."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"did not end within {seconds:.0f} s. {self}") from None
        for reader in self._readers:
            reader.join(seconds)
        return code

    def kill(self) -> None:
        """``kill -9`` to the program and its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(DEADLINE)
        for reader in self._readers:
            reader.join(DEADLINE)

    def __str__(self) -> str:
        return f"{' '.join(self.arguments)}\nstdout: {''.join(self.lines)}\nstderr: {''.join(self.errors)}"


class Programs:
    """Starts programs in one directory and ends them all."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._all: list[Program] = []

    def start(self, *arguments: str, env: dict[str, str] | None = None) -> Program:
        """Start any program."""
        program = Program(arguments, self.directory, env)
        self._all.append(program)
        return program

    def b24tunnel(self, *arguments: str, env: dict[str, str] | None = None) -> Program:
        """Start the command that is being tested."""
        return self.start(sys.executable, "-m", "b24tunnel", *arguments, env=env)

    def run(self, *arguments: str, env: dict[str, str] | None = None) -> Program:
        """Run the command that is being tested to its end."""
        program = self.b24tunnel(*arguments, env=env)
        program.wait()
        return program

    def end_all(self) -> None:
        """Nothing that was started here survives."""
        for program in self._all:
            program.kill()
            for stream in (program.process.stdout, program.process.stderr):
                if stream is not None:
                    stream.close()

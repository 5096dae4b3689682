"""Servers and clients as processes: started, waited for by what they say, and ended, whatever happens."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
_START_SECONDS = 30.0
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_LISTEN = "0A"  # in /proc/net/tcp


class Unmeasured(Exception):
    """There is nothing to put into a row; the text says why."""


class NotMeasured(Unmeasured):
    """It cannot be measured here."""


class Failed(Unmeasured):
    """Something that is measured did not do what it should."""


def python(script: str, *arguments: str) -> list[str]:
    """The command that runs one of the scripts beside this file."""
    return [sys.executable, str(HERE / script), *arguments]


class Process:
    """One running process, whose output goes to a file."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes], output: Path) -> None:
        self.name = name
        self.popen = popen
        self.output = output

    def said(self) -> str:
        """What it has printed so far."""
        return self.output.read_text(encoding="utf-8", errors="replace")

    def last_word(self) -> str:
        """The last line that it has printed."""
        return self.said().strip().rpartition("\n")[2]

    def wait_for_port(self, pattern: str = r"^port (\d+)$") -> int:
        """The port that it says it listens on."""
        end = time.monotonic() + _START_SECONDS
        while not (match := re.search(pattern, self.said(), re.MULTILINE)):
            self._must_go_on(end)
        return int(match[1])

    def wait_until_it_listens(self) -> int:
        """The port on which it takes connections, for a program that does not say it."""
        end = time.monotonic() + _START_SECONDS
        while (port := self._listening_port()) is None:
            self._must_go_on(end)
        return port

    def _listening_port(self) -> int | None:
        own = set()
        with contextlib.suppress(FileNotFoundError):  # it ended, or closed one, while we looked
            own = {str(entry.readlink()) for entry in Path(f"/proc/{self.popen.pid}/fd").iterdir()}
        for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTEN and f"socket:[{fields[9]}]" in own:
                return int(fields[1].rpartition(":")[2], 16)
        return None

    def _must_go_on(self, end: float) -> None:
        if self.popen.poll() is not None or time.monotonic() > end:
            raise Failed(f"{self.name} did not start: {self.last_word()}")
        time.sleep(0.01)

    def cpu_seconds(self) -> float:
        """The processor time that it has used."""
        fields = Path(f"/proc/{self.popen.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def resident(self) -> int:
        """The bytes that it has in memory."""
        return int(Path(f"/proc/{self.popen.pid}/statm").read_text().split()[1]) * _PAGE

    def kill(self) -> None:
        """``kill -9`` to it and its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()


class Processes:
    """Starts processes that work in one directory, and ends all that are left."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._running: list[Process] = []
        self._count = 0
        self._environment = {**os.environ, "B24TUNNEL_HOME": str(directory / "home")}

    def start(self, arguments: Sequence[str], env: Mapping[str, str] | None = None) -> Process:
        """Start a process in a group of its own, so that Ctrl-C reaches only us, who end it."""
        self._count += 1
        output = self.directory / f"process-{self._count}.log"
        environment = {**self._environment, **(env or {})}
        if Path(arguments[1]).parent.parent == HERE:
            environment["PYTHONPATH"] = str(HERE)
        with output.open("wb") as file:
            popen = subprocess.Popen(
                arguments,
                cwd=self.directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        process = Process(" ".join(Path(part).name for part in arguments[:3]), popen, output)
        self._running.append(process)
        return process

    @contextlib.contextmanager
    def running(self, arguments: Sequence[str], env: Mapping[str, str] | None = None) -> Iterator[Process]:
        """A process that is ended with the block."""
        process = self.start(arguments, env)
        try:
            yield process
        finally:
            self._end(process)

    def run(self, arguments: Sequence[str], seconds: float, env: Mapping[str, str] | None = None) -> str:
        """Run a process to its end and give what it printed; raises `Failed` where it failed or took longer."""
        with self.running(arguments, env) as process:
            # Waiting with a time-out looks only now and then, which would be measured too.
            timer = threading.Timer(seconds, process.kill)
            timer.daemon = True
            timer.start()
            try:
                code = process.popen.wait()
            finally:
                timer.cancel()
            if code == -signal.SIGKILL:
                raise Failed(f"{process.name} did not end within {seconds:.0f} s")
            if code != 0:
                raise Failed(f"{process.name} ended with {code}: {process.last_word()}")
            return process.said()

    def run_json(self, arguments: Sequence[str], seconds: float) -> dict[str, Any]:
        """`run` a process whose last line is a JSON object."""
        result: dict[str, Any] = json.loads(self.run(arguments, seconds).splitlines()[-1])
        return result

    def end_all(self) -> None:
        """Nothing that was started here goes on."""
        for process in list(self._running):
            self._end(process)

    def _end(self, process: Process) -> None:
        process.kill()
        process.output.unlink(missing_ok=True)
        self._running.remove(process)

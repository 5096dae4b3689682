"""A stand-in as a tunnel provider's program, what its runs have noted, and what is left of them."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from programs import wait_until

TESTS = Path(__file__).parent


class TunnelProgram:
    """The program ``binary``, which runs ``standin`` and leaves notes; and what is left of its runs."""

    def __init__(self, directory: Path, name: str, standin: str, notes_variable: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.binary = directory / name
        self.binary.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{TESTS / standin}" "$@"\n')
        self.binary.chmod(0o755)
        self.notes_directory = directory / "notes"
        self.notes_directory.mkdir()
        self.environment = {notes_variable: str(self.notes_directory)}
        self._children_before = children()

    def runs(self) -> list[dict[str, Any]]:
        """What each run has noted, the first first."""
        notes = sorted(self.notes_directory.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        return [json.loads(path.read_text()) for path in notes]

    def run(self) -> dict[str, Any]:
        """What the only run has noted, once it has."""
        wait_until(self.runs, "the program's notes")
        [run] = self.runs()
        return run

    def assert_nothing_is_left(self) -> None:
        """No run, no child of a run, no zombie, no warden."""
        pids = [run[name] for run in self.runs() for name in ("pid", "child") if name in run]
        try:
            wait_until(lambda: not any(map(exists, pids)), f"the end of {pids}")
        finally:
            for pid in filter(exists, pids):
                os.kill(pid, signal.SIGKILL)
        assert children() <= self._children_before


def exists(pid: int) -> bool:
    """Whether there is such a process, if only as a zombie of this one; somebody else's zombie is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return fields[0] != "Z" or int(fields[1]) == os.getpid()


def children() -> set[int]:
    """The processes that this one has started, ended or not."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == os.getpid():
            found.add(int(stat.parent.name))
    return found


def arguments_of_all() -> str:
    """Every process's arguments, as `ps` shows them to everybody."""
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(line.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return "\n".join(found)


class LocalServer:
    """A server at a free port of 127.0.0.1 that keeps what is posted to it."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        application = web.Application()
        application.router.add_post("/{path:.*}", self._take)
        self._server = TestServer(application, host="127.0.0.1")

    async def __aenter__(self) -> LocalServer:
        await self._server.start_server()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server.port is not None
        return self._server.port

    async def _take(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.read())
        return web.Response(text="taken")


async def post(url: str, body: bytes) -> str:
    """Deliver it, and give the answer's text."""
    async with ClientSession() as http, http.post(url, data=body) as answer:
        answer.raise_for_status()
        return await answer.text()


def no_users_home(monkeypatch: pytest.MonkeyPatch, directory: Path) -> Path:
    """An empty home, and an environment without tokens and proxies, so that no test sees the user's own."""
    directory.mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv("HOME", str(directory))
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("NGROK_", "TUNNEL_", "PYNGROK_")):
            monkeypatch.delenv(name)
    for name in ("XDG_CONFIG_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    return directory

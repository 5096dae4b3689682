"""A `listen` of its own process, what it uses, and a sender that waits for it only so long."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from programs import Program, Programs
from raw_server import delivery

from b24tunnel.journal import Journal

MEBIBYTE = 1024 * 1024


def listening(programs: Programs, *options: str) -> tuple[Program, str]:
    """A `listen` that binds nothing and is ready, and its handler URL."""
    listen = programs.b24tunnel("listen", "--no-bind", "--tunnel", "local", "--output", "json", *options)
    return listen, listen.next_json("ready")["handler_url"]


def status_of(url: str, body: bytes, seconds: float) -> int:
    """Deliver it and insist on the beginning of an answer within so many seconds from the last byte."""
    parts = urlsplit(url)
    address: Any = (parts.hostname, parts.port)
    with socket.create_connection(address, timeout=seconds) as connection:
        connection.sendall(delivery(url, body))
        answer = b""
        while len(answer) < 12:
            piece = connection.recv(4096)
            assert piece, f"hung up after {answer!r}"
            answer += piece
    return int(answer[9:12])


def memory_of(program: Program, what: str = "VmRSS") -> int:
    """Bytes that the process has in memory now (VmRSS) or had at most (VmHWM)."""
    try:
        status = Path(f"/proc/{program.process.pid}/status").read_text()
    except FileNotFoundError:
        pytest.skip("this system has no /proc to look at a process's memory")
    [line] = [line for line in status.splitlines() if line.startswith(f"{what}:")]
    return int(line.split()[1]) * 1024


def recorded_bodies(programs: Programs) -> list[bytes]:
    """The bodies in the journal, in order."""
    return [recording.body for recording in Journal.open(programs.directory / "recordings").recordings()]

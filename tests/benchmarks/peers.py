"""Who is measured: our recorder as users run it, and what others would put in its place."""

from __future__ import annotations

import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

from filelock import FileLock
from going import Going
from processes import Failed, NotMeasured, Process, python

from b24tunnel.handler_path import handler_segment

Loop = Literal["asyncio", "uvloop"]

# A handler's address where nothing listens: the discard service's port, which takes root to use.
DEAD = "http://127.0.0.1:9/b24/handler"

_INSTALL_SECONDS = 600


class Peer(NamedTuple):
    """A server that runs. ``recorded`` counts the deliveries that it has written, for those that can be asked."""

    process: Process
    url: str
    recorded: Callable[[], int] | None = None
    closes: bool = False  # each connection after its answer


def _on_loop(loop: Loop) -> list[str]:
    """The `b24tunnel` command on this event loop. It takes uvloop by itself where that can be imported."""
    if loop == "uvloop":
        check_uvloop()
        return [sys.executable, "-m", "b24tunnel"]
    hidden = "import sys; sys.modules['uvloop'] = None; from b24tunnel.__main__ import main; main()"
    return [sys.executable, "-c", hidden]


def check_uvloop() -> None:
    """Raise `NotMeasured` where uvloop is not installed."""
    if find_spec("uvloop") is None:
        raise NotMeasured("uvloop is not installed")


@contextmanager
def recorder(going: Going, *, forward: str | None = None, loop: Loop = "asyncio") -> Iterator[Peer]:
    """Our `listen` as a process, on an empty journal. ``forward`` is the handler's URL."""
    with going.fresh() as directory:
        path = f"/b24/{handler_segment(directory)}"
        handler = ["--forward", forward] if forward else []
        listen = ("listen", "--no-bind", "--tunnel", "local", "--output", "quiet", "--recordings", str(directory))
        with going.processes.running([*_on_loop(loop), *listen, *handler]) as process:
            port = process.wait_until_it_listens()
            count = partial(_lines, directory / "journal", "*.jsonl", b'"kind":"recording"')
            yield Peer(process, f"http://127.0.0.1:{port}{path}", count)


@contextmanager
def empty(going: Going, *, loop: Loop = "asyncio") -> Iterator[Peer]:
    """aiohttp with an empty handler."""
    if loop == "uvloop":
        check_uvloop()
    with _application(going, "servers/answering.py", *(["--uvloop"] if loop == "uvloop" else [])) as peer:
        yield peer


@contextmanager
def sleeping(going: Going, seconds: float) -> Iterator[Peer]:
    """aiohttp with a handler that sleeps before it answers."""
    with _application(going, "servers/answering.py", "--sleep", str(seconds)) as peer:
        yield peer


@contextmanager
def tinydb(going: Going) -> Iterator[Peer]:
    """aiohttp with a handler that inserts the parsed body into a default TinyDB."""
    with (
        going.fresh() as directory,
        _application(going, "servers/inserting.py", str(directory / "db.json")) as peer,
    ):
        yield peer


@contextmanager
def php(going: Going) -> Iterator[Peer]:
    """PHP's built-in server with a logger as in the documentation's example for event handlers."""
    arguments = (going.find("php"), "-S", "127.0.0.1:0", python("servers/log.php")[1])
    with going.fresh() as directory:
        log = directory / "deliveries.log"
        env = {"DELIVERIES_LOG": str(log)}
        with going.processes.running(arguments, env) as process:
            port = process.wait_for_port(r"\(http://127\.0\.0\.1:(\d+)\) started")
            count = partial(_lines, directory, log.name, b"[event] => ")
            yield Peer(process, f"http://127.0.0.1:{port}/b24/handler", count, closes=True)


@contextmanager
def mitmdump(going: Going) -> Iterator[Peer]:
    """mitmdump in reverse mode before aiohttp with an empty handler, writing its flow file."""
    program = _mitmdump(going)
    with going.fresh() as directory, empty(going) as behind:
        arguments = (
            *(program, "--mode", f"reverse:{behind.url.removesuffix('/b24/handler')}/"),
            *("--listen-host", "127.0.0.1", "--listen-port", "0", "-w", str(directory / "flows")),
            *("--set", "flow_detail=0", "--set", f"confdir={directory / 'configuration'}"),
        )
        with going.processes.running(arguments) as process:
            port = process.wait_for_port(r"listening at 127\.0\.0\.1:(\d+)")
            yield Peer(process, f"http://127.0.0.1:{port}/b24/handler")


@contextmanager
def _application(going: Going, script: str, *arguments: str) -> Iterator[Peer]:
    with going.processes.running(python(script, *arguments)) as process:
        port = process.wait_for_port()
        yield Peer(process, f"http://127.0.0.1:{port}/b24/handler")


def _lines(directory: Path, files: str, mark: bytes) -> int:
    """How many lines of the files have ``mark`` near their beginning."""
    count = 0
    for path in directory.glob(files):
        with path.open("rb") as file:
            count += sum(1 for line in file if mark in line[:60])
    return count


def _mitmdump(going: Going) -> str:
    """The program from PyPI, installed once into an environment of its own below the cache."""
    going.check_not_left_out("mitmdump")
    environment = going.settings.cache / f"mitmproxy-python{sys.version_info.major}.{sys.version_info.minor}"
    program, done = environment / "bin" / "mitmdump", environment / "installed"
    going.settings.cache.mkdir(parents=True, exist_ok=True)
    with FileLock(environment.with_name(f"{environment.name}.lock")):
        if not done.exists():
            going.say("installing mitmproxy into an environment of its own")
            log = environment.with_name(f"{environment.name}-pip.log")
            try:
                venv.create(environment, with_pip=True, clear=True)
                pip = (str(environment / "bin" / "python"), "-m", "pip", "install", "--no-input", "mitmproxy")
                log.write_text(going.processes.run(pip, _INSTALL_SECONDS))
            except (Failed, OSError, subprocess.CalledProcessError) as error:
                log.write_text(str(error))
                raise NotMeasured(f"mitmproxy could not be installed (see {log.name} in the cache)") from error
            done.touch()
    return str(program)

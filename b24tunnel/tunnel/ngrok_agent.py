"""One run of the ngrok agent through pyngrok's asyncio interface, with an end to it whatever the agent does.

pyngrok starts the agent in a thread that reads its output line by line: no time-out of pyngrok's ends it while
the agent says nothing, and its own way of ending the agent waits for that start. So the agent is ended here.
pyngrok is imported with this module.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from pyngrok import aio, installer, process
from pyngrok.conf import PyngrokConfig
from pyngrok.exception import PyngrokError, PyngrokNgrokHTTPError
from pyngrok.log import NgrokLog

from b24tunnel.tunnel.ngrok_errors import code_in, concerns_tunnel, failure_for
from b24tunnel.tunnel.ngrok_log import AgentLog
from b24tunnel.tunnel.ngrok_token import no_other_token_inherited
from b24tunnel.tunnel.provider import TunnelFailed
from b24tunnel.tunnel.warden import Warden

_TICK = 0.02
_WATCH_SECONDS = 0.25
_TERMINATE_SECONDS = 1.2
_END_SECONDS = 1.0
_READ_SECONDS = 0.3
_KILL = getattr(signal, "SIGKILL", signal.SIGTERM)

# Its records hold what the agent prints, the token included. Without a handler the worse ones go to stderr.
logging.getLogger("pyngrok").addHandler(logging.NullHandler())
logging.getLogger("pyngrok").propagate = False

# One start at a time: while it runs, pyngrok keeps every other one waiting at a lock of its own.
_starting = threading.Lock()
_paths_in_use: set[str] = set()


class _Config(PyngrokConfig):
    """Tells its agent when pyngrok has started the process: the next thing it does is to read the time-out."""

    agent: Agent | None = None

    @property
    def startup_timeout(self) -> int:
        if self.agent is not None:
            self.agent.note_process()
        return self._startup_timeout

    @startup_timeout.setter
    def startup_timeout(self, seconds: int) -> None:
        self._startup_timeout = seconds


class Agent:
    """The agent's process from its start to its end; to be used once."""

    def __init__(self, binary: str, config: Path, token: str, seconds: float) -> None:
        """``config``: the agent's configuration file, which holds the ``token``; ``seconds``: until an address."""
        self._seconds = seconds
        self._end_of_time = 0.0
        self._token = token
        self._log = AgentLog(token)
        self._path = _path_of_its_own(binary)
        self._config = _Config(
            ngrok_path=self._path,
            config_path=str(config),
            log_event_callback=self._take_log,
            startup_timeout=int(seconds) + 5,  # ours comes first
            start_new_session=True,
        )
        # From the environment, and it would go into the agent's arguments, which `ps` shows to everybody.
        self._config.auth_token = None
        self._config.agent = self
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._calls: set[asyncio.Task[Any]] = set()
        self._process: process.NgrokProcess | None = None
        self._warden: Warden | None = None
        self._given_up = False
        self._started = False

    async def start(self) -> None:
        """Start the agent and wait for its session; raises `TunnelFailed`, after which `end` is still due."""
        _keep_loopback_from_proxies()
        while not _starting.acquire(blocking=False):  # noqa: ASYNC110 - another thread's event loop may hold it
            await asyncio.sleep(_TICK)
        self._end_of_time = time.monotonic() + self._seconds
        with no_other_token_inherited(self._token):
            call = self._call(aio.get_ngrok_process(self._config))
            call.add_done_callback(lambda _: _starting.release())
            await self._result_of(call)
        self._started = True

    async def connect(self, port: int, domain: str | None) -> str:
        """Have the agent lead an address, or this domain, to the port; returns it. Raises `TunnelFailed`."""
        api = self._process.api_url if self._process is not None else None
        endpoint: dict[str, Any] = {
            "name": f"b24tunnel-{port}",
            "upstream": {"url": f"http://127.0.0.1:{port}"},
        }
        if domain is not None:
            endpoint["url"] = f"https://{domain}"
        left = max(self._end_of_time - time.monotonic(), _TICK)
        # Not `aio.connect`: that starts another agent when this one has ended.
        call = self._call(aio.api_request(f"{api}/api/endpoints", "POST", endpoint, timeout=left))
        answer = await self._result_of(call)
        url = answer.get("public_url", answer.get("url")) if isinstance(answer, dict) else None
        if not isinstance(url, str) or not re.fullmatch(r"https?://[^\s/?#@]+/?", url):
            raise TunnelFailed(
                "The ngrok agent has a tunnel but tells no address for it: run `ngrok update`.", permanent=True
            )
        return url.rstrip("/")

    async def ended(self) -> str:
        """Wait until the agent ends or says that there is no tunnel any more; returns why, in one sentence."""
        while True:
            running = self._process
            code = running.proc.poll() if running is not None else None
            if running is not None and code is not None:
                await self._exit_code_of(running)
            if self._log.failed:
                return str(self._log.failure(self._seconds))
            if code is not None:
                return f"The ngrok agent has ended with exit code {code}{self._log.last_words()}."
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_WATCH_SECONDS):
                    await self._news.wait()

    async def end(self) -> None:
        """End the agent and whatever waits for it, within 3 seconds. May be called again when it was cancelled."""
        self._given_up = True
        # Asked first: so it gives back its session and its domain, which count at the service for a while.
        patience = time.monotonic() + (_TERMINATE_SECONDS if self._started else 0.0)
        end = patience + _END_SECONDS
        asked = False
        while time.monotonic() < end:
            running = self._found()
            if running is None:
                if self._idle(running):
                    break
            elif running.proc.poll() is not None:
                _signal(running.proc, _KILL)  # what is left of its group, too
                if self._idle(running):
                    break
            elif time.monotonic() >= patience:
                _signal(running.proc, _KILL)
            elif not asked:
                asked = True
                _signal(running.proc, signal.SIGTERM)
            await asyncio.sleep(_TICK)
        self._forget()

    def note_process(self) -> None:
        """Called in pyngrok's threads: once the process is there, see to it that it does not outlive this one."""
        running = process._current_processes.get(self._path)
        if running is None or self._process is not None:
            return
        self._process = running
        if self._given_up:
            _signal(running.proc, _KILL)
            return
        # The agent writes UTF-8 whatever this system's encoding is, and a wrong byte would end the reading.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            running.proc.stdout.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
        self._warden = Warden(running.proc.pid)

    def _take_log(self, log: NgrokLog) -> None:
        self.note_process()
        if self._log.feed(log.line):
            with contextlib.suppress(RuntimeError):  # the event loop is closed
                self._loop.call_soon_threadsafe(self._news.set)

    def _call(self, coroutine: Any) -> asyncio.Task[Any]:
        call: asyncio.Task[Any] = asyncio.ensure_future(coroutine)
        self._calls.add(call)
        # So that nothing is said about the error of a call that nobody waits for any more.
        call.add_done_callback(lambda done: done.cancelled() or done.exception())
        return call

    async def _result_of(self, call: asyncio.Task[Any]) -> Any:
        """What a call gives, unless time is up or the agent says before that it comes to nothing."""
        while not call.done():
            self._news.clear()
            left = self._end_of_time - time.monotonic()
            if self._log.failed or left <= 0:
                raise self._log.failure(self._seconds)
            news = asyncio.ensure_future(self._news.wait())
            try:
                await asyncio.wait({call, news}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            finally:
                news.cancel()
        try:
            return call.result()
        except (PyngrokError, OSError, ValueError, http.client.HTTPException) as error:
            raise await self._failure_after(error) from None  # its text may hold the token

    async def _failure_after(self, error: Exception) -> TunnelFailed:
        running = self._found()
        exit_code = None
        if running is not None and not isinstance(error, PyngrokNgrokHTTPError):
            exit_code = await self._exit_code_of(running)
        if self._log.failed:
            return self._log.failure(self._seconds)
        if isinstance(error, PyngrokNgrokHTTPError):
            code = code_in(error.body)
            if code is not None and concerns_tunnel(code):
                return failure_for(code)
            if error.status_code == 404:
                return TunnelFailed("This ngrok agent is too old: run `ngrok update`.", permanent=True)
            return TunnelFailed(
                f"The ngrok agent refuses the tunnel ({self._log.shown(error.body)}): see what it says.",
                permanent=True,
            )
        if exit_code is not None:
            return TunnelFailed(
                f"The ngrok agent has ended with exit code {exit_code} before there was a tunnel"
                f"{self._log.last_words()}."
            )
        if time.monotonic() < self._end_of_time:
            return TunnelFailed(f"The ngrok agent cannot be used ({self._log.shown(str(error))}): try again.")
        return self._log.failure(self._seconds)

    async def _exit_code_of(self, running: process.NgrokProcess) -> int | None:
        """The exit code if it is ending at the moment, with all that it has left to be read.

        pyngrok reads no further once the process has ended, and the reason comes last. Only for so long: somebody
        whom the agent started may hold the pipe open.
        """

        def read() -> None:
            with contextlib.suppress(OSError, ValueError):
                for line in running.proc.stdout or ():
                    self._log.feed(line)

        end = time.monotonic() + _READ_SECONDS
        reader: threading.Thread | None = None
        while time.monotonic() < end and (reader is None or reader.is_alive()):
            if reader is None and running.proc.poll() is not None and self._idle(running):
                reader = threading.Thread(target=read, daemon=True)
                reader.start()
            await asyncio.sleep(_TICK)
        return running.proc.poll()

    def _found(self) -> process.NgrokProcess | None:
        return self._process or process._current_processes.get(self._path)

    def _idle(self, running: process.NgrokProcess | None) -> bool:
        """Whether no thread of pyngrok's is at work for this agent."""
        monitor = running._monitor_thread if running is not None else None
        return all(call.done() for call in self._calls) and (monitor is None or not monitor.is_alive())

    def _forget(self) -> None:
        """Leave nothing of this run in pyngrok's state; its exit handler finds an ended process."""
        running = self._found()
        if running is not None:
            running.stop_monitor_thread()
            if process._current_processes.get(self._path) is running:
                process._current_processes.pop(self._path, None)
            if self._idle(running):  # else closing would wait for whoever reads
                with contextlib.suppress(OSError, ValueError):
                    running.proc.stdout.close()  # type: ignore[union-attr]
        installer._config_cache.pop(str(self._config.config_path), None)
        warden, self._warden = self._warden, None
        if warden is not None:
            warden.release()
        if self._idle(running):
            _paths_in_use.discard(self._path)


def _path_of_its_own(binary: str) -> str:
    """A spelling of the path that nobody uses at the moment: pyngrok has one agent for each spelling."""
    directory, name = os.path.split(binary)
    path = binary
    while path == binary or path in _paths_in_use or path in process._current_processes:
        directory = os.path.join(directory, ".")  # noqa: PTH118 - a Path would take the dot away
        path = os.path.join(directory, name)  # noqa: PTH118
    _paths_in_use.add(path)
    return path


def _keep_loopback_from_proxies() -> None:
    """pyngrok talks to its agent by `urllib`, which would ask the user's proxy for 127.0.0.1."""
    if urllib.request.getproxies_environment() and not urllib.request.proxy_bypass("127.0.0.1"):
        known = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
        os.environ["no_proxy"] = ",".join(filter(None, [known, "127.0.0.1"]))


def _signal(proc: subprocess.Popen[str], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if sys.platform == "win32":
            proc.send_signal(number)
        else:
            os.killpg(proc.pid, number)

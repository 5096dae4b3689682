"""Cloudflare's tunnels through its program cloudflared: a quick one without account, or one with a name."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from b24tunnel.errors import WrongUsage
from b24tunnel.redact import Masker
from b24tunnel.tunnel.child import Child
from b24tunnel.tunnel.cloudflared_lines import EDGE, CloudflaredReader, quick_host
from b24tunnel.tunnel.provider import Lost, Say, TunnelFailed, never
from b24tunnel.tunnel.url import UrlTunnel

_DEADLINE = 40.0
_ASK_SECONDS = 0.5
_ANSWER_SECONDS = 3.0
_TOKEN = "TUNNEL_TOKEN"
# Variables that turn a quick tunnel into another kind of tunnel, or its log off.
_CHANGES_KIND = (_TOKEN, "TUNNEL_TOKEN_FILE", "TUNNEL_NAME", "TUNNEL_HOSTNAME", "TUNNEL_CRED_FILE")
_CHANGES_LOG = ("TUNNEL_LOGLEVEL", "TUNNEL_LOGFILE", "TUNNEL_METRICS")
_SHORT = 200


@dataclass(frozen=True)
class CloudflaredSettings:
    """How cloudflared is run.

    ``hostname``: a named tunnel's public host or http(s) address; without it a quick tunnel is opened.
    ``token``: the named tunnel's, else that of TUNNEL_TOKEN. ``binary``: the program's name or path.
    ``protocol``: how it talks to Cloudflare (``quic``, ``http2``, ``auto``).
    """

    hostname: str | None = None
    token: str | None = None
    binary: str | None = None
    protocol: str | None = None


class CloudflaredTunnel:
    """A quick tunnel with an address that is new each time, or a named tunnel of the user's account."""

    name = "cloudflared"
    probe_seconds = 30.0

    def __init__(self, settings: CloudflaredSettings, home: Path, *, deadline: float = _DEADLINE) -> None:
        """``home`` is where a configuration file lies meanwhile; ``deadline``: seconds for `open`.

        Raises `WrongUsage` when the settings do not fit together.
        """
        self._settings = settings
        self._home = home
        self._deadline = deadline
        self._address: str | None = None
        self._token = ""
        if settings.hostname is not None:
            given = settings.hostname if "://" in settings.hostname else f"https://{settings.hostname}"
            UrlTunnel(given)  # says what is wrong with it
            self._address = given.rstrip("/")
            self._token = (settings.token or os.environ.get(_TOKEN, "")).strip()
        elif settings.token:
            raise WrongUsage("A token belongs to a named tunnel of cloudflared: give its public hostname, too.")
        self._reader = CloudflaredReader()
        self._news = asyncio.Event()
        self._child: Child | None = None
        self._config = home / "cloudflared.yml"

    async def open(self, port: int, say: Say) -> str:
        """Start cloudflared and wait until it is connected to Cloudflare; see `Tunnel.open`."""
        if self._address is not None and not self._token:
            raise TunnelFailed(
                "The named tunnel of cloudflared needs its token: put it into the environment variable "
                "TUNNEL_TOKEN.",
                permanent=True,
            )
        await self.close()
        self._reader = CloudflaredReader()
        self._news = asyncio.Event()
        try:
            self._write_config()
            self._child = await Child.start(self._arguments(port), self._take, self._environment())
            url = await self._ready(self._child)
        except TunnelFailed:
            await self.close()
            raise
        if self._address is not None:
            say(
                f"If Cloudflare's dashboard leads {self._address} to a service, that service has to be "
                f"http://127.0.0.1:{port}."
            )
        return url

    async def lost(self) -> Lost:
        """Wait until cloudflared ends: it goes on trying to connect for as long as it runs."""
        if self._child is None:
            return await never()
        code = await self._child.wait()
        return Lost(f"cloudflared has ended with exit code {code}{self._last_words(self._child)}.")

    async def close(self) -> None:
        """End cloudflared; see `Tunnel.close`."""
        child = self._child
        if child is not None:
            await child.end()  # before it is forgotten: who is cancelled meanwhile closes once more
        if self._child is child:
            self._child = None

    def _write_config(self) -> None:
        # With the user's own configuration its ingress rules would win over --url, and answer 404 to everything.
        try:
            self._home.mkdir(parents=True, exist_ok=True)
            if not self._config.exists():
                # Whole at once: another start may read it. It is the same for all, so it stays.
                descriptor, path = tempfile.mkstemp(dir=self._home)
                with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                    file.write("{}\n")
                Path(path).replace(self._config)
        except OSError as error:
            raise TunnelFailed(
                f"No configuration file for cloudflared can be written below {self._home} ({error.strerror})."
            ) from error

    def _arguments(self, port: int) -> list[str]:
        # Port 0: the program takes a free port and prints it.
        program = str(Path(self._settings.binary or "cloudflared").expanduser())
        arguments = [program, "tunnel", "--no-autoupdate", "--config"]
        arguments += [str(self._config), "--metrics", "127.0.0.1:0", "--loglevel", "info"]
        if self._settings.protocol:
            arguments += ["--protocol", self._settings.protocol]
        if self._address is not None:
            arguments.append("run")
        return [*arguments, "--url", f"http://127.0.0.1:{port}"]

    def _environment(self) -> dict[str, str]:
        environment = {
            name: value for name, value in os.environ.items() if name not in (*_CHANGES_KIND, *_CHANGES_LOG)
        }
        if self._address is not None:
            environment[_TOKEN] = self._token  # not an argument: `ps` shows those to everybody
        return environment

    def _take(self, line: str) -> None:
        self._reader.feed(line)
        self._news.set()

    async def _ready(self, child: Child) -> str:
        ended = asyncio.ensure_future(child.wait())
        asking = asyncio.ensure_future(self._ask())
        try:
            async with asyncio.timeout(self._deadline):
                while True:
                    if self._reader.failure is not None:
                        raise self._reader.failure
                    url = self._address or self._reader.url
                    if url is not None and self._reader.registered:
                        return url
                    if ended.done():
                        raise self._ended_early(child, ended.result())
                    self._news.clear()
                    waiting = asyncio.ensure_future(self._news.wait())
                    try:
                        await asyncio.wait({waiting, ended}, return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        waiting.cancel()
        except TimeoutError:
            raise self._too_late(child) from None
        finally:
            for task in (ended, asking):
                task.cancel()
            await asyncio.gather(ended, asking, return_exceptions=True)

    async def _ask(self) -> None:
        """Ask the program's own status server for what the log may say in other words one day."""
        import aiohttp

        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ANSWER_SECONDS)) as http:
            while True:
                await asyncio.sleep(_ASK_SECONDS)
                if (metrics := self._reader.metrics) is None:
                    continue
                with contextlib.suppress(aiohttp.ClientError, TimeoutError, ValueError):
                    if self._address is None and self._reader.url is None:
                        async with http.get(f"http://{metrics}/quicktunnel") as answer:
                            found = await answer.json(content_type=None)
                            if isinstance(found, dict):
                                self._reader.url = quick_host(found.get("hostname"))
                    async with http.get(f"http://{metrics}/ready") as answer:
                        self._reader.registered |= answer.status == 200
                    self._news.set()

    def _ended_early(self, child: Child, code: int) -> TunnelFailed:
        if self._reader.edge_trouble:
            return TunnelFailed(EDGE)
        return TunnelFailed(
            f"cloudflared has ended with exit code {code} before there was a tunnel{self._last_words(child)}."
        )

    def _too_late(self, child: Child) -> TunnelFailed:
        if self._reader.edge_trouble:
            return TunnelFailed(EDGE)
        return TunnelFailed(
            f"cloudflared gave no tunnel within {self._deadline:g} seconds{self._last_words(child)}: try "
            "again, or take another tunnel."
        )

    def _last_words(self, child: Child) -> str:
        if not child.last_lines:
            return ""
        last = Masker([self._token]).text(child.last_lines[-1])
        return f" (it last said: {last[:_SHORT].rstrip('. ')})"

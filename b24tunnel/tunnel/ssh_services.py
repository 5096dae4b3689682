"""Public services that give an https address to an SSH forwarding, without a program of their own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from b24tunnel.tunnel.provider import Lost, Say, TunnelFailed, never
from b24tunnel.tunnel.ssh_announcements import (
    localhost_run_address,
    localhost_run_failure,
    never_fails,
    no_remark,
    pinggy_address,
    pinggy_failure,
    pinggy_remark,
    serveo_address,
    srv_us_address,
)

if TYPE_CHECKING:
    from b24tunnel.tunnel.ssh_service_session import ServiceSession

_DEADLINE = 20.0
_KEEPALIVE = 15.0
_LAST_WORDS_SECONDS = 1.0
_LONGEST_QUOTE = 200


@dataclass(frozen=True)
class SshService:
    """How to talk to one service, and how to read it.

    ``listen_port`` None: the number that the tunnel's slot is. ``command``: what the session runs, if not the
    service's own greeting. ``own_key``: log in with this tool's key, else with none. ``token_host``: where to
    log in with a token, which is the user name then; None: the service knows none. ``takes_name``: a wanted name
    is asked for as the host to listen at. ``moves``: a later address takes the place of the first, and is not
    another name for it. ``address_in``, ``failure_in`` and ``remark_in`` (with whether a token was sent) read
    one clean line each.
    """

    name: str
    host: str
    user: str
    address_in: Callable[[str], str | None]
    port: int = 22
    listen_port: int | None = 80
    command: str | None = None
    own_key: bool = False
    token_host: str | None = None
    takes_name: bool = False
    moves: bool = False
    failure_in: Callable[[str], TunnelFailed | None] = never_fails
    remark_in: Callable[[str, bool], str | None] = no_remark


SSH_SERVICES: dict[str, SshService] = {
    service.name: service
    for service in (
        # "nomatch" keeps it from looking the key up at GitHub and GitLab and adding addresses with their names.
        SshService("srv.us", "srv.us", "nomatch", srv_us_address, listen_port=None, own_key=True),
        SshService(
            "localhost.run",
            "localhost.run",
            "nokey",
            localhost_run_address,
            command="--output json",
            moves=True,
            failure_in=localhost_run_failure,
        ),
        SshService("serveo", "serveo.net", "b24tunnel", serveo_address, own_key=True, takes_name=True, moves=True),
        SshService(
            "pinggy",
            "free.pinggy.io",
            "b24tunnel",
            pinggy_address,
            port=443,
            listen_port=0,
            token_host="pro.pinggy.io",
            failure_in=pinggy_failure,
            remark_in=pinggy_remark,
        ),
    )
}


@dataclass(frozen=True)
class ServiceSettings:
    """``token``: of an account with the service. ``domain``: the name to ask it for."""

    token: str | None = None
    domain: str | None = None


class SshServiceTunnel:
    """An address of such a service, for as long as the session with it lasts. ``name`` is the service's."""

    # They are free of charge, and some are slow.
    probe_seconds = 60.0

    def __init__(
        self,
        service: SshService,
        settings: ServiceSettings,
        home: Path,
        *,
        slot: int = 1,
        deadline: float = _DEADLINE,
        keepalive: float = _KEEPALIVE,
    ) -> None:
        """``home`` keeps this tool's key and the services' host keys.

        ``slot``, 1 to 65535: which of the addresses that belong to the key, where there are several. ``deadline``:
        seconds until there has to be an address; ``keepalive``: seconds between signs of life, three of which may
        stay unanswered.
        """
        self.name = service.name
        self._service = service
        self._token = settings.token or None
        self._domain = settings.domain or None
        self._home = home
        self._slot = slot
        self._deadline = deadline
        self._keepalive = keepalive
        self._session: ServiceSession | None = None
        self._heard: _Heard | None = None

    async def open(self, port: int, say: Say) -> str:
        """Log in, ask for the forwarding, and wait for the service to name the address. See `Tunnel.open`."""
        from b24tunnel.tunnel.ssh_service_session import ServiceSession

        self._check_settings()
        heard = self._heard = _Heard(self._service, self._token, say)
        session = self._session = ServiceSession(
            self.name, self._home, on_line=heard.take, on_end=heard.end_with, keepalive=self._keepalive
        )
        try:
            async with asyncio.timeout(self._deadline):
                await self._start(session, heard, port, say)
                url = await heard.first_address()
        except TimeoutError as error:
            await self.close()
            raise TunnelFailed(
                f"{self.name} gave no address within {self._deadline:g} s{heard.last_words}."
            ) from error
        except TunnelFailed:
            await self.close()
            raise
        except BaseException:
            session.abort()
            raise
        self._compare(url, say)
        return url

    async def lost(self) -> Lost:
        """Wait until the session ends or the service names another address."""
        return await never() if self._heard is None else await self._heard.lost()

    async def close(self) -> None:
        """Log out."""
        self._heard = None
        session, self._session = self._session, None
        if session is not None:
            await session.end()

    def _check_settings(self) -> None:
        """Raises `TunnelFailed` for what this service does not have."""
        if self._token is not None and self._service.token_host is None:
            raise TunnelFailed(f"{self.name} knows no tokens: leave the token out.", permanent=True)
        if self._domain is not None and not self._service.takes_name:
            raise TunnelFailed(f"{self.name} gives no name of one's own: leave it out.", permanent=True)
        if not 1 <= self._slot <= 65535:
            raise TunnelFailed(f"The slot {self._slot} is none: it is a number from 1 to 65535.", permanent=True)

    async def _start(self, session: ServiceSession, heard: _Heard, port: int, say: Say) -> None:
        service = self._service
        token = self._token
        host = service.token_host if token and service.token_host else service.host
        listen_host = self._domain or "localhost"
        listen_port = self._slot if service.listen_port is None else service.listen_port
        await session.log_in(host, service.port, token or service.user, say, own_key_sent=service.own_key)
        try:
            await session.forward(listen_host, listen_port, port, service.command)
        except TunnelFailed as failure:
            # It may just be about to say why, which is worth more than what we saw of it.
            with contextlib.suppress(TimeoutError, TunnelFailed):
                async with asyncio.timeout(_LAST_WORDS_SECONDS):
                    await heard.first_address()
            reason = str(failure).rstrip(".")
            if self._domain is not None:
                reason = f"{reason} (the name {self._domain!r} may be taken, or need an account)"
            raise heard.failure or TunnelFailed(f"{reason}{heard.last_words}.") from failure

    def _compare(self, url: str, say: Say) -> None:
        wanted = self._domain
        if wanted is not None and not f"{urlsplit(url).hostname}.".startswith(f"{wanted.lower()}."):
            say(f"{self.name} did not give the name {wanted!r} but {url}: it may be taken, or need an account.")


class _Heard:
    """What a service has said so far in one session; ``failure`` if it said that there will be no address."""

    def __init__(self, service: SshService, token: str | None, say: Say) -> None:
        self.failure: TunnelFailed | None = None
        self._service = service
        self._token = token
        self._say = say
        self._said: set[str] = set()
        self._changed = asyncio.Event()
        self._announced: str | None = None
        self._told: str | None = None
        self._end: str | None = None
        self._last = ""

    @property
    def last_words(self) -> str:
        """The last that it said, to be put behind a sentence; empty when it said nothing."""
        return f"; the last it said was: {self._last}" if self._last else ""

    def take(self, line: str) -> None:
        """One clean line."""
        if self._token:
            line = line.replace(self._token, "TOKEN")
        if any(character.isalnum() for character in line):
            self._last = line[:_LONGEST_QUOTE].strip().rstrip(".")
        if (remark := self._service.remark_in(line, self._token is not None)) and remark not in self._said:
            self._said.add(remark)
            self._say(remark)
        self.failure = self.failure or self._service.failure_in(line)
        address = self._service.address_in(line)
        if address is not None and (self._announced is None or self._service.moves):
            self._announced = address
        self._changed.set()

    def end_with(self, reason: str) -> None:
        """The session or the connection is over; the first reason is the right one."""
        self._end = self._end or reason
        self._changed.set()

    async def first_address(self) -> str:
        """Wait for it; raises `TunnelFailed` when it cannot come any more."""
        while True:
            if self.failure is not None:
                raise self.failure
            if self._end is not None:
                raise TunnelFailed(f"{self._service.name} gave no address: {self._end}{self.last_words}.")
            if self._announced is not None:
                self._told = self._announced
                return self._announced
            await self._change()

    async def lost(self) -> Lost:
        """Wait for an end or for another address than the one that was given last."""
        while True:
            if self._end is not None:
                return Lost(f"{self._service.name} gives the address no more: {self._end}.")
            if self._announced != self._told:
                self._told = self._announced
                return Lost(f"{self._service.name} has changed the address.", self._announced)
            await self._change()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

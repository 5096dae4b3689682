"""The user's own SSH server: a port there leads here, as with ``ssh -R``."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh

from b24tunnel.errors import WrongUsage
from b24tunnel.tunnel.provider import Lost, Say, TunnelFailed, never
from b24tunnel.tunnel.ssh_connection import (
    DEADLINE,
    KEEPALIVE,
    KEEPALIVES_UNANSWERED,
    Login,
    clause,
    end,
    failure,
    forward,
    unreadable,
)
from b24tunnel.tunnel.ssh_host_keys import SSH_PORT, kinds_to_ask_for, read_known_hosts
from b24tunnel.tunnel.url import UrlTunnel

_BIND = re.compile(r"(?:(?P<host>\*|[^\s:\[\]]*|\[[0-9A-Fa-f:.]+\]):)?(?P<port>[0-9]{1,5})")
_MOST_JUMPS = 8


@dataclass(frozen=True)
class SshSettings:
    """Where the user's server is and what it is to do.

    ``host`` may be an alias in ``~/.ssh/config``, which is read as ssh does; ``port`` 22 and no ``user`` leave
    both to it. ``listen``: the address there that leads here, "HOST:PORT" as ``ssh -R`` takes it; with port 0
    the server chooses, which is the default. ``public_url``: what leads to that address, such as a reverse proxy;
    without it the address is ``http://HOST:PORT`` with the port that the server gave. ``key`` and ``known_hosts``
    are files; without them those that ssh would take.
    """

    host: str
    port: int = SSH_PORT
    user: str | None = None
    listen: str | None = None
    public_url: str | None = None
    key: str | None = None
    known_hosts: str | None = None

    def __post_init__(self) -> None:
        if not self.host or self.host.startswith("-") or not 1 <= self.port <= 65535:
            raise WrongUsage(f"{self.host}:{self.port} is no address of an SSH server: give its name and port.")
        if self.public_url is not None:
            UrlTunnel(self.public_url)  # says what is wrong with it
        self.bind_address()

    def bind_address(self) -> tuple[str, int]:
        """Host and port of ``listen``, as the server is asked for them. Raises `WrongUsage`."""
        listen = self.listen
        if listen is None:
            listen = "*:0" if self.public_url is None else "localhost:0"
        match = _BIND.fullmatch(listen)
        if not match or int(match["port"]) > 65535:
            raise WrongUsage(f"{listen!r} is no address to listen at: give HOST:PORT, such as localhost:9000.")
        # As ssh does: no host at all is "localhost", and "*" or nothing before the colon is everywhere.
        host = "localhost" if match["host"] is None else match["host"].strip("[]")
        return ("" if host == "*" else host), int(match["port"])


class SshTunnel:
    """A remote port forwarding, with the keys, the agent and the configuration that ssh would use.

    The server's host key has to be known already, as nobody is asked.
    """

    name = "ssh"
    probe_seconds = 30.0

    def __init__(self, settings: SshSettings, *, deadline: float = DEADLINE, keepalive: float = KEEPALIVE) -> None:
        """``deadline``: seconds until there has to be a port. ``keepalive``: seconds between signs of life."""
        self._settings = settings
        self._deadline = deadline
        self._keepalive = keepalive
        self._connections: list[asyncssh.SSHClientConnection] = []
        self._login: Login | None = None
        self._place = f"{settings.host}:{settings.port}"  # until the configuration says otherwise

    @property
    def _server(self) -> str:
        return f"The SSH server {self._place}"

    async def open(self, port: int, say: Say) -> str:
        """Log in, ask for the port there, and return the address that leads to it. See `Tunnel.open`."""
        settings = self._settings
        host, wanted = settings.bind_address()
        try:
            async with asyncio.timeout(self._deadline):
                connection = await self._log_in(settings.host, settings.port, settings.user, None, _MOST_JUMPS)
                allotted = await self._forward(connection, host, wanted, port)
        except TimeoutError as error:
            await self.close()
            raise TunnelFailed(
                f"{self._server} did not answer within {self._deadline:g} s: check the address and the network."
            ) from error
        except TunnelFailed:
            await self.close()
            raise
        except BaseException:
            self._abort()
            raise
        if settings.public_url is not None:
            # sshd says success even when a program of the server holds the IPv4 side of the wanted port and only
            # the IPv6 side is ours: the public address then leads to that program, and only a probe can see it.
            if not wanted:
                say(
                    f"The server chose its port {allotted}: have {settings.public_url} lead there, and name a"
                    " port in 'listen' that stays the same."
                )
            return settings.public_url.rstrip("/")
        name = str(connection.get_extra_info("host") or settings.host)
        url = f"http://[{name}]:{allotted}" if ":" in name else f"http://{name}:{allotted}"
        # Nor does sshd say that it listens at loopback only, whatever it was asked for.
        say(
            f"{url} leads here from outside only if 'GatewayPorts' in the server's sshd_config allows it;"
            " otherwise have a reverse proxy there lead to the port, and name the proxy's address with public_url."
        )
        return url

    async def lost(self) -> Lost:
        """Wait for the end of the connection, which unanswered signs of life bring about, too."""
        if self._login is None:
            return await never()
        login = self._login
        await login.ended.wait()
        return Lost(f"The connection to {self._place} ended: {login.end}.")

    async def close(self) -> None:
        """Log out; the server then frees the port."""
        self._login = None
        while self._connections:
            await end(self._connections.pop())

    def _abort(self) -> None:
        """Like `close` where nothing can be awaited any more."""
        self._login = None
        while self._connections:
            self._connections.pop().abort()

    async def _forward(self, connection: asyncssh.SSHClientConnection, host: str, wanted: int, port: int) -> int:
        assert self._login is not None
        try:
            listener = await forward(connection, self._login, host, wanted, port)
        except asyncssh.ChannelListenError as error:
            if self._login.ended.is_set():
                raise TunnelFailed(f"{self._server} hung up after the login: {self._login.end}.") from error
            raise TunnelFailed(
                f"{self._server} does not give the port {wanted}: it is taken (perhaps by a"
                " connection that broke off, which 'ClientAliveInterval 15' in its sshd_config ends sooner) or not"
                " allowed; wait, or choose another port."
            ) from error
        except Exception as error:
            raise failure(error, self._server, "") from error
        return listener.get_port()

    async def _log_in(
        self, host: str, port: int, user: str | None, via: asyncssh.SSHClientConnection | None, jumps: int
    ) -> asyncssh.SSHClientConnection:
        """Connect as ssh would, through the hosts that its configuration says. Raises `TunnelFailed`."""
        server = f"The SSH server {host}:{port}"
        if not jumps:
            raise TunnelFailed(
                f"ProxyJump in ~/.ssh/config leads in a circle at {host}: correct it.", permanent=True
            )
        arguments: dict[str, Any] = {
            "config": (),  # which is ~/.ssh/config, if there is one
            "host": host,
            # Not given, so that the configuration may say otherwise, as with ssh.
            "port": () if port == SSH_PORT else port,
            "username": () if user is None else user,
            "client_keys": () if self._settings.key is None else [self._settings.key],
            "ignore_encrypted": True,
            "keepalive_interval": self._keepalive,
            "keepalive_count_max": KEEPALIVES_UNANSWERED,
            # Ours is the only deadline.
            "connect_timeout": None,
            "login_timeout": 0,
        }
        options = await self._options(arguments, server)
        server = f"The SSH server {host}:{options.port}"
        if via is None and jumps == _MOST_JUMPS:
            self._place = f"{host}:{options.port}"
        known = self._known_hosts(options)
        if via is None and isinstance(options.tunnel, str):
            # asyncssh would go through them by itself, but take "UserKnownHostsFile none" for: no checking.
            for step in options.tunnel.split(","):
                jump_user, jump_host, jump_port = _jump(step)
                via = await self._log_in(jump_host, jump_port, jump_user, via, jumps - 1)
        login = Login(known)
        name = options.host_key_alias or options.host
        if not options.config.get("HostKeyAlgorithms"):
            arguments["server_host_key_algs"] = kinds_to_ask_for(known, name, options.port)
        try:
            connection = await asyncssh.connect(
                tunnel=via, known_hosts=known, client_factory=lambda: login, **arguments
            )
        except asyncssh.HostKeyNotVerifiable as error:
            raise self._untrusted(error, login, host, options) from error
        except Exception as error:
            raise failure(error, server, _hint(options.username)) from error
        self._connections.append(connection)
        self._login = login
        return connection

    async def _options(self, arguments: dict[str, Any], server: str) -> asyncssh.SSHClientConnectionOptions:
        """What asyncssh makes of the settings, the configuration and the key files."""
        try:
            options: asyncssh.SSHClientConnectionOptions = await asyncssh.SSHClientConnectionOptions.construct(
                **arguments
            )
        except OSError as error:
            if error.filename:
                raise unreadable(error.filename, error) from error
            raise failure(error, server, "") from error
        except (asyncssh.Error, ValueError) as error:
            where = f"The key {self._settings.key} or ~/.ssh/config" if self._settings.key else "~/.ssh/config"
            raise TunnelFailed(
                f"{where} is of no use to SSH ({clause(error)}): correct it.", permanent=True
            ) from error
        if self._settings.key and not options.client_keys and not options.agent_path:
            raise TunnelFailed(
                f"The key {self._settings.key} is protected by a passphrase and no agent runs that could hold it:"
                " start one and run 'ssh-add' with it, or use a key without a passphrase.",
                permanent=True,
            )
        return options

    def _known_hosts(self, options: asyncssh.SSHClientConnectionOptions) -> asyncssh.SSHKnownHosts:
        """The host keys that ssh would trust. Never nothing at all, which asyncssh takes for: trust any."""
        named = self._settings.known_hosts
        listed = [named] if named is not None else options.known_hosts
        files = [Path(file) for file in listed] if isinstance(listed, list) and listed else []
        if not files:
            files = [Path("~/.ssh/known_hosts"), Path("/etc/ssh/ssh_known_hosts")]
        try:
            return read_known_hosts(files)
        except OSError as error:
            raise unreadable(error.filename or files[0], error) from error

    def _untrusted(
        self, error: Exception, login: Login, host: str, options: asyncssh.SSHClientConnectionOptions
    ) -> TunnelFailed:
        """The sentence for a host key that is unknown, changed, or revoked."""
        server = f"{host}:{options.port}"
        if login.unvouched is None:
            return failure(error, f"The SSH server {server}", "")
        fingerprint = login.unvouched.get_fingerprint()
        file = f" -o UserKnownHostsFile={self._settings.known_hosts}" if self._settings.known_hosts else ""
        number = "" if options.port == SSH_PORT else f" -p {options.port}"
        command = f"ssh{file}{number} {options.username}@{host}"
        if login.changed:
            return TunnelFailed(
                f"WARNING: the host key of {server} is not the one that is known ({fingerprint} now): somebody may"
                f" be in between; find out why it changed before you remove the old one, and then run '{command}'"
                " once to check and accept the new one.",
                permanent=True,
            )
        return TunnelFailed(
            f"The host key of {server} is not known yet ({fingerprint}): run '{command}' once to check and accept"
            " it.",
            permanent=True,
        )


def _hint(user: str) -> str:
    return (
        f"check the user name ({user}) and that the server knows the key; a key with a passphrase has to be in the"
        " agent ('ssh-add')"
    )


def _jump(step: str) -> tuple[str | None, str, int]:
    """User, host and port of one host that ProxyJump names: "[user@]host[:port]"."""
    user, at, place = step.strip().rpartition("@")
    place = place.removeprefix("ssh://")
    host, colon, port = place.rpartition(":")
    if not colon or not port.isdigit() or ("]" not in host and ":" in host):
        host, port = place, str(SSH_PORT)
    return (user.removeprefix("ssh://") if at else None), host.strip("[]"), int(port)

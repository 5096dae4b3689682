"""A login at a tunnel service, with the forwarding and, beside it, the session in which the service speaks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import asyncssh

from b24tunnel.tunnel.lines import Lines
from b24tunnel.tunnel.provider import Say, TunnelFailed
from b24tunnel.tunnel.ssh_connection import KEEPALIVES_UNANSWERED, Login, clause, end, failure, forward, unreadable
from b24tunnel.tunnel.ssh_host_keys import entry_name, keep, kinds_to_ask_for, lines_of, read_known_hosts
from b24tunnel.tunnel.ssh_key import own_key

KNOWN_HOSTS = "known_hosts"


class ServiceSession:
    """One login.

    A service's host key is kept at the first login and has to be the same ever after. The user's own keys, agent,
    configuration and known hosts have no part in it.
    """

    def __init__(
        self,
        name: str,
        home: Path,
        *,
        on_line: Callable[[str], None],
        on_end: Callable[[str], None],
        keepalive: float,
    ) -> None:
        """``name`` is the service's; ``keepalive``: seconds between signs of life.

        ``on_line`` gets each clean line that it says, on whichever stream; ``on_end`` why the session ended, or
        the connection, or first the one and then the other.
        """
        self._name = name
        self._home = home
        self._on_line = on_line
        self._on_end = on_end
        self._keepalive = keepalive
        self._connection: asyncssh.SSHClientConnection | None = None
        self._login: Login | None = None

    async def log_in(self, host: str, port: int, user: str, say: Say, *, own_key_sent: bool) -> None:
        """Connect and log in; raises `TunnelFailed`."""
        file = self._home / KNOWN_HOSTS
        key = await asyncio.to_thread(own_key, self._home) if own_key_sent else None
        try:
            known = read_known_hosts([file])
        except OSError as error:
            raise unreadable(file, error) from error
        login = Login(known, accept_new=True, on_banner=self._banner, on_end=lambda: self._on_end(login.end))
        server = f"{self._name} ({host}:{port})"
        try:
            connection = await asyncssh.connect(
                host,
                port,
                config=None,
                username=user,
                client_keys=None if key is None else [key],
                agent_path=None,
                gss_host=None,
                x509_trusted_certs=None,
                x509_trusted_cert_paths=[],
                known_hosts=known,
                server_host_key_algs=kinds_to_ask_for(known, host, port),
                client_factory=lambda: login,
                keepalive_interval=self._keepalive,
                keepalive_count_max=KEEPALIVES_UNANSWERED,
                # Ours is the only deadline.
                connect_timeout=None,
                login_timeout=0,
            )
        except asyncssh.HostKeyNotVerifiable as error:
            raise self._untrusted(error, login, file, entry_name(host, port), server) from error
        except Exception as error:
            raise failure(error, server, "it may want an account or a token now; try another tunnel") from error
        self._connection, self._login = connection, login
        if login.unvouched is not None:
            self._remember(login.unvouched, file, entry_name(host, port), say)

    async def forward(self, listen_host: str, listen_port: int, port: int, command: str | None) -> None:
        """Open the session and ask for the forwarding to ``port`` of 127.0.0.1; raises `TunnelFailed`.

        Both at once: srv.us grants a forwarding only once there is a session, and ends a session that has none
        after a second.
        """
        assert self._connection is not None
        assert self._login is not None
        try:
            await asyncio.gather(
                # Without a terminal, for which pinggy would draw a screen.
                self._connection.create_session(
                    lambda: _Session(self._on_line, self._on_end),
                    command,
                    encoding=None,
                    request_pty=False,
                ),
                forward(self._connection, self._login, listen_host, listen_port, port),
            )
        except asyncssh.ChannelListenError as error:
            if self._login.ended.is_set():
                raise TunnelFailed(f"{self._name} hung up after the login: {self._login.end}.") from error
            raise TunnelFailed(f"{self._name} does not grant the forwarding: try again later.") from error
        except Exception as error:
            raise TunnelFailed(f"{self._name} does not open a session ({clause(error)}).") from error

    async def end(self) -> None:
        """Log out, within about a second."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await end(connection)

    def abort(self) -> None:
        """Like `end` where nothing can be awaited."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    def _banner(self, text: str) -> None:
        lines = Lines()
        for line in [*lines.feed(text.encode("utf-8", "replace")), *lines.finish()]:
            self._on_line(line)

    def _remember(self, key: asyncssh.SSHKey, file: Path, name: str, say: Say) -> None:
        """Only after the login, when the server has proven that the key is its own."""
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            keep(file, name, key)
        except OSError as error:
            raise TunnelFailed(
                f"The host key of {self._name} cannot be kept in {file} ({error.strerror or error}), and without"
                " it nobody would notice another server in its place.",
                permanent=True,
            ) from error
        say(f"{self._name} is new here: its host key {key.get_fingerprint()} is trusted from now on ({file}).")

    def _untrusted(self, error: Exception, login: Login, file: Path, name: str, server: str) -> TunnelFailed:
        if login.unvouched is None:
            return failure(error, server, "")
        numbers = lines_of(file, name)
        where = (
            f"line{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}" if numbers else f"the key of {name}"
        )
        return TunnelFailed(
            f"WARNING: the host key of {server} has changed (it is {login.unvouched.get_fingerprint()} now):"
            " somebody may be in between; if the service itself says that it has a new key, remove"
            f" {where} from {file}.",
            permanent=True,
        )


class _Session(asyncssh.SSHClientSession[bytes]):
    """Reads whatever comes, on both streams, for as long as it comes."""

    def __init__(self, on_line: Callable[[str], None], on_end: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._on_end = on_end
        self._streams: dict[int | None, Lines] = {}
        self._status: int | None = None

    def data_received(self, data: bytes, datatype: int | None) -> None:
        for line in self._streams.setdefault(datatype, Lines()).feed(data):
            self._on_line(line)

    def eof_received(self) -> bool:
        """What it says may be over; the forwarding is not."""
        return True

    def exit_status_received(self, status: int) -> None:
        self._status = status

    def connection_lost(self, exc: Exception | None) -> None:
        for lines in self._streams.values():
            for line in lines.finish():
                self._on_line(line)
        status = "" if self._status is None else f" with status {self._status}"
        self._on_end(f"the service ended the session{status}" if exc is None else clause(exc))

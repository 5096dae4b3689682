"""What every tunnel over SSH needs: a login that looks at the host key, its end, and sentences for failures."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import cast

import asyncssh
from asyncssh.saslprep import SASLPrepError

from b24tunnel.tunnel.lines import clean
from b24tunnel.tunnel.provider import TunnelFailed
from b24tunnel.tunnel.ssh_host_keys import has_keys

DEADLINE = 20.0
KEEPALIVE = 15.0
KEEPALIVES_UNANSWERED = 3
_CLOSE_SECONDS = 1.0

# What asyncssh has to say is said by exceptions; its log would come out between the program's own lines.
logging.getLogger("asyncssh").addHandler(logging.NullHandler())
asyncssh.set_log_level(logging.WARNING)


class Login(asyncssh.SSHClient):
    """Looks at the server's key while a connection is made, and afterwards tells when it ends.

    ``unvouched``: the key that the server showed and the known hosts do not hold. ``changed``: they hold
    another one for it. ``ended`` is set when the connection is gone, ``end`` then says why, in one clause.
    """

    def __init__(
        self,
        known: asyncssh.SSHKnownHosts,
        *,
        accept_new: bool = False,
        on_banner: Callable[[str], None] = lambda text: None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        """``accept_new``: a server of which no key is known may show any, for the caller to keep."""
        self.unvouched: asyncssh.SSHKey | None = None
        self.changed = False
        self.ended = asyncio.Event()
        self.end = ""
        self._known = known
        self._accept_new = accept_new
        self._on_banner = on_banner
        self._on_end = on_end

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Asked by asyncssh about a key that the known hosts do not hold."""
        self.unvouched = key
        self.changed = has_keys(self._known, host, addr, port)
        return self._accept_new and not self.changed

    def auth_banner_received(self, msg: str, lang: str) -> None:
        """What the server says before the login."""
        self._on_banner(msg)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self.end = "the server closed the connection" if exc is None else clause(exc)
        self.ended.set()
        self._on_end()


def clause(error: BaseException) -> str:
    """What an exception of asyncssh or the system says, in one line without a full stop."""
    if isinstance(error, asyncssh.DisconnectError) and error.code == asyncssh.DISC_CONNECTION_LOST:
        if "keepalive" in error.reason:
            return "the server answers no more"
        return "the connection broke off"
    if isinstance(error, OSError) and error.strerror:
        return clean(error.strerror)
    return clean(" ".join(str(error).split())).rstrip(".") or type(error).__name__


def failure(error: Exception, server: str, hint: str) -> TunnelFailed:
    """The sentence for a connection or a login that failed, other than by the host's key.

    ``server`` is the host and port as the user knows them; ``hint`` is what to do when nobody is let in.
    """
    said = clause(error)
    if isinstance(error, asyncssh.PermissionDenied):
        return TunnelFailed(f"{server} does not let this user in: {hint}.", permanent=True)
    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        return TunnelFailed(f"The host key of {server} is refused ({said}).", permanent=True)
    if isinstance(error, socket.gaierror):
        return TunnelFailed(f"{server} cannot be looked up ({said}): check the name and the network.")
    if isinstance(error, (asyncssh.ChannelOpenError, OSError)):
        return TunnelFailed(f"{server} cannot be reached ({said}): check the address and the network.")
    if isinstance(error, asyncssh.KeyExchangeFailed):
        return TunnelFailed(f"{server} and this program find no common way to encrypt ({said}).")
    # A host or a user that cannot be put into a message; what cannot be decoded comes from the server.
    if isinstance(error, (UnicodeError, SASLPrepError)) and not isinstance(error, UnicodeDecodeError):
        return TunnelFailed(
            f"{server} cannot be tried with these settings ({said}): correct them.", permanent=True
        )
    # Whatever asyncssh makes of what the server sends, which may be anything.
    return TunnelFailed(f"{server} answered, but no SSH login came about: {said}.")


async def forward(
    connection: asyncssh.SSHClientConnection, login: Login, host: str, listen_port: int, port: int
) -> asyncssh.SSHListener:
    """Have the server listen at ``host`` and ``listen_port`` and lead what comes to ``port`` of 127.0.0.1.

    Raises `asyncssh.ChannelListenError` when it refuses, and when the connection ends meanwhile.
    """

    async def lead_here(origin: str, origin_port: int) -> asyncssh.SSHTCPSession[bytes]:
        there = await connection.forward_connection("127.0.0.1", port)
        if login.ended.is_set():
            # asyncssh would forget it, and the receiver keep a connection that nobody will ever use.
            there.close()
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "the tunnel is closed")
        return cast("asyncssh.SSHTCPSession[bytes]", there)

    return await connection.create_server(lead_here, host, listen_port)


async def end(connection: asyncssh.SSHClientConnection) -> None:
    """Close a connection whatever the server does; done within about a second."""
    connection.close()
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await connection.wait_closed()
    except TimeoutError:
        connection.abort()
    # asyncssh takes its listeners down in tasks, which end at once without a connection.
    await asyncio.sleep(0)


def unreadable(file: Path | str, error: OSError) -> TunnelFailed:
    """The sentence for a file that has to be read and cannot be."""
    return TunnelFailed(f"The file {file} cannot be read ({error.strerror or error}).", permanent=True)

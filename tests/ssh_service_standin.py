"""A stand-in for tunnel services over SSH: a server on a loopback port that forwards and speaks as they do."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

import asyncssh
from tcp_relay import port_of


@dataclass
class Manners:
    """How a service behaves.

    ``greeting`` is said before the login, ``says`` in the session once the forwarding is there, ``grumbles`` on
    its second stream. ``wants_key``: nobody gets in without one; ``refuses``: nobody gets in at all.
    ``session_first``: a forwarding is granted only once there is a session, and a session that has none within
    ``patience`` seconds is ended, as srv.us does. ``grants``: whether there are forwardings at all. A reason in
    ``last_words`` is said before the session is ended without one. ``silent`` ones take a connection and no more.
    """

    greeting: str = ""
    says: bytes = b""
    grumbles: bytes = b""
    wants_key: bool = False
    refuses: bool = False
    session_first: bool = False
    patience: float = 1.0
    grants: bool = True
    last_words: bytes = b""


@dataclass
class Client:
    """One connection as the service sees it."""

    user: str = ""
    key: str | None = None
    command: str | None = None
    terminal: bool = False
    says_no_more: bool = False
    asked_for: tuple[str, int] | None = None
    public_port: int = 0
    connection: asyncssh.SSHServerConnection | None = None
    channel: asyncssh.SSHServerChannel[bytes] | None = None
    session: asyncio.Event = field(default_factory=asyncio.Event)
    forwarding: asyncio.Event = field(default_factory=asyncio.Event)


class SshServiceStandin:
    """Serves at ``port`` of ``host`` between `start` and `stop`; ``clients`` are all there have been."""

    host = "127.0.0.1"

    def __init__(self, manners: Manners) -> None:
        self.manners = manners
        self.clients: list[Client] = []
        self.port = 0
        self.change_host_key()
        self._acceptor: asyncssh.SSHAcceptor | None = None

    def change_host_key(self, kind: str = "ssh-ed25519") -> None:
        """Another host key, from the next start on."""
        self._key = asyncssh.generate_private_key(kind)
        self.fingerprint = self._key.get_fingerprint()

    @property
    def client(self) -> Client:
        """The latest."""
        return self.clients[-1]

    async def start(self) -> None:
        """Listen, at the same port as before if there was one."""
        self._acceptor = await asyncssh.listen(
            self.host,
            self.port,
            server_host_keys=[self._key],
            server_factory=lambda: _Server(self),
            encoding=None,
            login_timeout=0,
        )
        self.port = self._acceptor.get_port()

    async def stop(self) -> None:
        """Break all connections off and listen no more."""
        if self._acceptor is not None:
            self._acceptor.close()
            await self._acceptor.wait_closed()
            self._acceptor = None
        for client in self.clients:
            if client.connection is not None:
                client.connection.abort()
                await client.connection.wait_closed()

    def say(self, text: bytes) -> None:
        """Something more, in the latest session."""
        assert self.client.channel is not None
        self.client.channel.write(text)

    def end_output(self) -> None:
        """Say that there is nothing more to come in the latest session, which goes on."""
        assert self.client.channel is not None
        self.client.channel.write_eof()

    def end_session(self, status: int = 0) -> None:
        """End the latest session; its connection stays."""
        assert self.client.channel is not None
        self.client.channel.exit(status)

    def freeze(self) -> None:
        """Read nothing more of the latest connection, which stays open."""
        assert self.client.connection is not None
        self.client.connection._transport.pause_reading()

    def break_off(self) -> None:
        """Drop the latest connection without a word."""
        assert self.client.connection is not None
        self.client.connection.abort()


class _Server(asyncssh.SSHServer):
    def __init__(self, standin: SshServiceStandin) -> None:
        self._manners = standin.manners
        self._client = Client()
        standin.clients.append(self._client)

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._client.connection = conn

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.session.set()
        self._client.forwarding.set()

    def begin_auth(self, username: str) -> bool:
        self._client.user = username
        if self._manners.greeting:
            assert self._client.connection is not None
            self._client.connection.send_auth_banner(self._manners.greeting)
        return self._manners.wants_key or self._manners.refuses

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        self._client.key = key.get_fingerprint()
        return not self._manners.refuses

    def session_requested(self) -> asyncssh.SSHServerSession[bytes]:
        return _Session(self._client, self._manners)

    async def server_requested(self, listen_host: str, listen_port: int) -> asyncssh.SSHListener | bool:
        client = self._client
        assert client.connection is not None
        client.asked_for = (listen_host, listen_port)
        if self._manners.session_first:
            await client.session.wait()
        if not self._manners.grants:
            if client.channel is not None and self._manners.last_words:
                client.channel.write(self._manners.last_words)
            return False
        # Its port is any free one; the channels name the one that was asked for, as the services' do.
        listener = await client.connection.forward_local_port("127.0.0.1", 0, listen_host, listen_port)
        client.public_port = listener.get_port()
        client.forwarding.set()
        return listener


class _Session(asyncssh.SSHServerSession[bytes]):
    def __init__(self, client: Client, manners: Manners) -> None:
        self._client = client
        self._manners = manners
        self._speaking: asyncio.Task[None] | None = None

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self._client.channel = chan

    def pty_requested(self, term_type: str, term_size: object, term_modes: object) -> bool:
        self._client.terminal = True
        return True

    def shell_requested(self) -> bool:
        return True

    def exec_requested(self, command: str) -> bool:
        self._client.command = command
        return True

    def eof_received(self) -> bool:
        self._client.says_no_more = True
        return True

    def session_started(self) -> None:
        self._client.session.set()
        self._speaking = asyncio.create_task(self._speak())

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.channel = None
        if self._speaking is not None:
            self._speaking.cancel()

    async def _speak(self) -> None:
        channel = self._client.channel
        assert channel is not None
        patience = self._manners.patience if self._manners.session_first else None
        try:
            async with asyncio.timeout(patience):
                await self._client.forwarding.wait()
        except TimeoutError:
            channel.exit(1)
            return
        with contextlib.suppress(OSError):
            channel.write_stderr(self._manners.grumbles)
            # In pieces, as a network delivers them.
            for start in range(0, len(self._manners.says), 7):
                channel.write(self._manners.says[start : start + 7])
                await asyncio.sleep(0)


async def silent_server() -> tuple[asyncio.Server, int]:
    """A server that takes connections and says nothing, and its port."""

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(wait, SshServiceStandin.host, 0)
    return server, port_of(server)

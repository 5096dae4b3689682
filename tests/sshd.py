"""A real OpenSSH server on a loopback port, as the user who runs the tests, with keys of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import asyncssh
from programs import DEADLINE, free_port, wait_until

PROGRAM = shutil.which("sshd", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin")))
# sshd wants it when root starts it, and makes it nowhere itself.
_PRIVILEGE_SEPARATION = Path("/run/sshd")


class Sshd:
    """A server that may die, stop, and come back with another host key. All its files are in ``directory``.

    ``key`` is a private key file that it accepts, ``known_hosts`` one that holds its host key, ``user`` who may
    log in. It forwards ports and gives no shell worth having.
    """

    host = "127.0.0.1"

    def __init__(self, directory: Path, *options: str) -> None:
        """``options`` are lines of sshd_config that go before those of the server."""
        assert PROGRAM is not None
        self.directory = directory
        self.user = asyncssh.SSHClientConnectionOptions(config=None, client_keys=None).username
        self.port = free_port()
        self.key = directory / "id_ed25519"
        self.known_hosts = directory / "known_hosts"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._log = directory / "log"
        key = asyncssh.generate_private_key("ssh-ed25519")
        write_key(self.key, key.export_private_key())
        (directory / "authorized_keys").write_bytes(key.export_public_key())
        self.change_host_key()
        self.learn_host_key()

    def change_host_key(self, kind: str = "ssh-ed25519") -> None:
        """Another host key, from the next start on."""
        key = asyncssh.generate_private_key(kind)
        write_key(self.directory / "host_key", key.export_private_key())
        self._host_key = key.export_public_key().decode().strip()
        self.fingerprint = key.get_fingerprint()

    def learn_host_key(self) -> None:
        """Write the present host key to ``known_hosts``."""
        self.known_hosts.write_text(f"[{self.host}]:{self.port} {self._host_key}\n")

    def start(self) -> None:
        """Start it, and wait until it listens."""
        assert PROGRAM is not None
        if os.getuid() == 0 and not _PRIVILEGE_SEPARATION.exists():
            with contextlib.suppress(FileExistsError):  # of a test that runs beside this one
                _PRIVILEGE_SEPARATION.mkdir(mode=0o755)
        config = self.directory / "sshd_config"
        config.write_text("\n".join((*self._options, *self._lines())) + "\n")
        # In a session of its own; its children, one a connection, start sessions of their own in turn.
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [PROGRAM, "-D", "-e", "-f", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(self._listens, f"sshd listens: {self.log}")

    def kill(self) -> None:
        """``kill -9`` to it and to the children that hold connections; fine when it is dead."""
        if self._process is None:
            return
        _signal(self._process.pid, signal.SIGSTOP)  # it has no more children from here on
        for pid in (*self._children(), self._process.pid):
            _signal(pid, signal.SIGKILL)
        self._process.wait(DEADLINE)
        self._process = None

    def restart(self) -> None:
        """Kill it and start it at the same port."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        """Stop it with its children: connections stay open, and nothing is answered any more."""
        assert self._process is not None
        for pid in (self._process.pid, *self._children()):
            _signal(pid, signal.SIGSTOP)

    @property
    def log(self) -> str:
        """What it has printed, for failure messages."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    @property
    def connections(self) -> int:
        """How many clients it serves."""
        return len(self._children())

    def _lines(self) -> tuple[str, ...]:
        return (
            f"Port {self.port}",
            f"ListenAddress {self.host}",
            # Else a port that it chooses may be ours on IPv6 and somebody else's on IPv4, as it says nothing of.
            "AddressFamily inet",
            f"HostKey {self.directory / 'host_key'}",
            f"AuthorizedKeysFile {self.directory / 'authorized_keys'}",
            f"PidFile {self.directory / 'pid'}",
            "StrictModes no",
            "UsePAM no",
            "PermitRootLogin prohibit-password",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "AllowTcpForwarding remote",
            "MaxStartups 100",
            "UseDNS no",
            "LogLevel VERBOSE",
        )

    def _listens(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"sshd ended: {self.log}")
        with socket.socket() as probe:
            probe.settimeout(1.0)
            return probe.connect_ex((self.host, self.port)) == 0

    def _children(self) -> list[int]:
        """Every process that descends from it."""
        assert self._process is not None
        output = subprocess.run(
            ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
        ).stdout
        parents = {int(pid): int(parent) for pid, parent in (line.split() for line in output.splitlines())}
        found = [self._process.pid]
        for pid in found:  # grows meanwhile
            found.extend(child for child, parent in parents.items() if parent == pid)
        return found[1:]


def write_key(file: Path, content: bytes) -> None:
    """A private key, as only its owner may read it."""
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(content)


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)

"""Which host keys are known, and how a new one is kept: files in the format of OpenSSH's known_hosts."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import asyncssh

SSH_PORT = 22
_KINDS = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
)


def entry_name(host: str, port: int) -> str:
    """The name that known_hosts has for a server: the host alone, or ``[host]:port`` (sshd(8))."""
    return host if port == SSH_PORT else f"[{host}]:{port}"


def read_known_hosts(files: Iterable[Path]) -> asyncssh.SSHKnownHosts:
    """What the files that exist hold; lines that make no sense are passed over, as ssh does.

    Raises `OSError` for a file that exists and cannot be read.
    """
    known = asyncssh.SSHKnownHosts()
    for file in files:
        try:
            text = file.expanduser().read_bytes().decode("utf-8", "replace")
        except FileNotFoundError:
            continue
        for line in text.splitlines():
            try:
                known.load(line)
            except ValueError:
                continue
    return known


def has_keys(known: asyncssh.SSHKnownHosts, host: str, address: str, port: int) -> bool:
    """Whether any host key is known for the server, so that another one means a changed key."""
    return bool(known.match(host, address, None if port == SSH_PORT else port)[0])


def kinds_to_ask_for(known: asyncssh.SSHKnownHosts, host: str, port: int) -> tuple[str, ...]:
    """The kinds of host key to ask a server for: first those that are known for it, then all others.

    asyncssh alone would ask for the known kinds only, and a server that has changed its key for one of another
    kind could not even show it. Empty, which leaves it to asyncssh, when certificates may come into it.
    """
    keys, authorities, *_ = known.match(host, "", None if port == SSH_PORT else port)
    if authorities:
        return ()
    kinds = [kind.decode() for key in keys for kind in key.sig_algorithms]
    return tuple(dict.fromkeys([*kinds, *_KINDS]))


def keep(file: Path, name: str, key: asyncssh.SSHKey) -> None:
    """Add a key to the file, which only the user may read; raises `OSError`.

    One write, so that two processes that do it at once both leave whole lines.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        broken_off = False
        if size:
            os.lseek(descriptor, size - 1, os.SEEK_SET)
            broken_off = os.read(descriptor, 1) != b"\n"
        line = f"{name} ".encode() + key.export_public_key("openssh").strip() + b"\n"
        os.write(descriptor, b"\n" * broken_off + line)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lines_of(file: Path, name: str) -> list[int]:
    """The numbers, from 1, of the lines that hold keys of this name; empty when the file cannot be read."""
    try:
        lines = file.read_bytes().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    return [number for number, line in enumerate(lines, 1) if name in line.partition(" ")[0].split(",")]

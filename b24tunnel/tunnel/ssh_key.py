"""The key that this tool shows to tunnel services: made once, and the same ever after."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import asyncssh

from b24tunnel.durable import sync_directory
from b24tunnel.tunnel.provider import TunnelFailed

NAME = "tunnel_key"


def own_key(home: Path) -> asyncssh.SSHKey:
    """The ed25519 key in ``home``, made when there is none; processes that do it at once get the same one.

    Raises `TunnelFailed` when it can be neither read nor made.
    """
    file = home / NAME
    try:
        home.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            _make(file)
        return asyncssh.import_private_key(file.read_bytes())
    except OSError as error:
        raise TunnelFailed(
            f"The key for tunnel services, {file}, can be neither read nor made ({error.strerror or error}).",
            permanent=True,
        ) from error
    except ValueError as error:  # asyncssh.KeyImportError is one
        raise TunnelFailed(
            f"The file {file} holds no usable key: remove it to get a new one, and with it new addresses.",
            permanent=True,
        ) from error


def _make(file: Path) -> None:
    """Write a new key beside the file and give it the file's name, unless somebody else has been faster."""
    text = asyncssh.generate_private_key("ssh-ed25519").export_private_key("openssh")
    descriptor, beside = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        with contextlib.suppress(FileExistsError):
            _give_name(beside, file)
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(beside).unlink()
    sync_directory(file.parent)


def _give_name(beside: str, file: Path) -> None:
    """Like a rename that does not replace. Raises `FileExistsError`."""
    try:
        os.link(beside, file)
    except FileExistsError:
        raise
    except OSError:
        # A file system without hard links. Only Windows refuses to rename onto a file; elsewhere the last wins,
        # and what is read afterwards is the same for all.
        Path(beside).rename(file)

"""A TinyDB storage that a crash cannot tear: the file is replaced as a whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from tinydb.storages import Storage

from b24tunnel.durable import sync_directory
from b24tunnel.errors import OutsideFailure

VERSION = 1

Tables = dict[str, dict[str, Any]]


class StateDamaged(OutsideFailure):
    """The state file is there but is not what this tool writes. It is left exactly as it is."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(
            f"the state file {path} is damaged ({what}); it was left as it is: repair it, or move it away "
            "and store your portals again"
        )
        self.path = path


class StateFromNewerVersion(OutsideFailure):
    """The state file was written by a later version of this tool."""

    def __init__(self, path: Path, version: int) -> None:
        super().__init__(
            f"the state file {path} has format {version}, and this b24tunnel reads up to {VERSION}; "
            "upgrade b24tunnel, or point B24TUNNEL_HOME at another directory"
        )
        self.path = path


class StateUnusable(OutsideFailure):
    """The state file cannot be read or written: permissions, a full disk, a directory in its place."""

    def __init__(self, path: Path, verb: str, error: OSError) -> None:
        super().__init__(
            f"the state file {path} cannot be {verb} ({error.strerror or type(error).__name__}); "
            "check the directory's permissions and the free space on its disk"
        )
        self.path = path


class AtomicStorage(Storage):
    """TinyDB's view of the state file: read once, changed in memory, written by ``commit``.

    ``read`` answers None for a file that does not exist; ``commit`` writes nothing when nothing changed.
    An object serves one transaction, during which its owner holds the lock.
    """

    def __init__(self, path: Path) -> None:
        # A symbolic link (people keep their configuration elsewhere) stays one.
        self.path = Path(os.path.realpath(path))
        self._tables: Tables | None = None
        self._loaded = False
        self._changed = False

    def read(self) -> Tables | None:
        """The tables; raises ``StateDamaged``, ``StateFromNewerVersion`` or ``StateUnusable``."""
        if not self._loaded:
            self._tables = load(self.path)
            self._loaded = True
        return self._tables

    def write(self, data: Tables) -> None:
        """Keep ``data`` for ``commit``."""
        self._tables = data
        self._loaded = self._changed = True

    def commit(self, *, always: bool = False) -> None:
        """Write the tables if they changed (or ``always``); when this returns, they are on the disk."""
        if self._changed or always:
            store(self.path, self.read() or {})
            self._changed = False


def load(path: Path) -> Tables | None:
    """The tables in the file ``path``, or None if there is no such file."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateUnusable(path, "read", error) from error
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        # No "from": a decoding error carries the file's text, and with it the tokens.
        raise StateDamaged(path, f"no JSON: {_where(error)}") from None
    if not isinstance(document, dict) or not isinstance(document.get("version"), int):
        raise StateDamaged(path, "no format version")
    if document["version"] > VERSION:
        raise StateFromNewerVersion(path, document["version"])
    tables = document.get("tables")
    if not isinstance(tables, dict) or not all(_is_table(table) for table in tables.values()):
        raise StateDamaged(path, "no tables")
    return tables


def store(path: Path, tables: Tables) -> None:
    """Replace the file ``path`` (mode 0600) by one with ``tables``; synced; old or new, never a part.

    The caller holds the lock.
    """
    # Serialised before a file is touched: a value that is no JSON must not cost anything.
    text = json.dumps({"version": VERSION, "tables": tables}, ensure_ascii=False, indent=1)
    payload = text.encode("utf-8", "surrogatepass") + b"\n"
    # One name, because only the holder of the lock writes: what a killed process left is written over.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        _replace(temporary, path)
        sync_directory(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StateUnusable(path, "written", error) from error


def _replace(source: Path, target: Path) -> None:
    deadline = time.monotonic() + 2
    while True:
        try:
            source.replace(target)
            return
        except PermissionError:
            # Windows refuses while a reader (or a virus scanner) has the file open, which passes.
            if sys.platform != "win32" or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _is_table(table: object) -> bool:
    return isinstance(table, dict) and all(
        key.isdecimal() and isinstance(document, dict) for key, document in table.items()
    )


def _where(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} in line {error.lineno}"
    return type(error).__name__

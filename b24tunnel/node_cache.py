"""Bitrix24's lists of nodes as they were last read: one file, replaced as a whole."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_FILE = "bitrix24-nodes.json"
_VERSION = 1
_LARGEST = 4 * 1024 * 1024
_LATEST = 1e12  # seconds, after which there is no year that a clock shows


@dataclass(frozen=True)
class NodeList:
    """Addresses and networks as texts, and when they were read, in seconds since 1970."""

    read_at: float
    nodes: tuple[str, ...]


def load_cache(home: Path) -> dict[str, NodeList]:
    """Each list by its address; nothing where there is no file, or one that holds anything else."""
    try:
        with (home / _FILE).open("rb") as file:
            content = file.read(_LARGEST + 1)
        document = json.loads(content) if len(content) <= _LARGEST else None
    except (OSError, ValueError, RecursionError):
        return {}  # it is only a cache: what is not in it is loaded again
    if not isinstance(document, dict) or document.get("version") != _VERSION:
        return {}
    lists = document.get("lists")
    if not isinstance(lists, dict):
        return {}
    return {url: known for url, entry in lists.items() if (known := _list(entry)) is not None}


def _list(entry: object) -> NodeList | None:
    if not isinstance(entry, dict):
        return None
    read_at, nodes = entry.get("read_at"), entry.get("nodes")
    if isinstance(read_at, bool) or not isinstance(read_at, int | float) or not 0 <= read_at < _LATEST:
        return None
    if not isinstance(nodes, list) or not all(isinstance(node, str) for node in nodes):
        return None
    return NodeList(read_at, tuple(nodes))


def store_cache(home: Path, lists: Mapping[str, NodeList]) -> None:
    """Replace the file (mode 0600). Raises `OSError`, and then the old one is still there."""
    document = {
        "version": _VERSION,
        "lists": {url: {"read_at": known.read_at, "nodes": list(known.nodes)} for url, known in lists.items()},
    }
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{_FILE}.", suffix=".tmp", dir=home)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(document, file)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(home / _FILE)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise

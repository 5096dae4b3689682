"""The settings' files: where they are, whether they may be trusted, and that no secret gets committed with one."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from b24tunnel.errors import OutsideFailure, WrongUsage

PROJECT_FILE = "b24tunnel.toml"
USER_FILE = "settings.toml"
_LARGEST = 1024 * 1024
_SECRETS = ("token", "secret", "password")
# A user with a password in an address, also in one among the arguments of a program.
_PASSWORD = re.compile(r"://[^/?#\s]*:[^/?#\s]*@")


def nearest_file(directory: Path) -> Path | None:
    """The project's file in ``directory``, or the nearest above it."""
    directory = directory.absolute()
    for above in (directory, *directory.parents):
        if (file := above / PROJECT_FILE).is_file():
            return file
    return None


def check_owner(file: Path) -> None:
    """Raise `WrongUsage` for a file of another user's.

    It can name programs to run, so it must not be a trap that somebody else has laid above the project.
    """
    if os.name == "posix" and file.stat().st_uid not in (os.getuid(), 0):
        raise WrongUsage(
            f"{file} belongs to another user, and it could name programs to run: make it yours (chown), or work "
            "in another directory."
        )


def read_toml(file: Path) -> dict[str, Any]:
    """What the file holds, nothing where there is none.

    Raises `WrongUsage` for what is no TOML or far too large, `OutsideFailure` for a file that cannot be read.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(_LARGEST + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise OutsideFailure(f"The settings in {file} cannot be read ({error.strerror}).") from error
    if len(content) > _LARGEST:
        raise WrongUsage(f"{file} has more than {_LARGEST:,} bytes, which are no settings.")
    try:
        return tomllib.loads(content.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WrongUsage(f"{file} is no TOML: {error}.") from error


def check_no_secrets(project: Mapping[str, Any], file: Path, home: Path) -> None:
    """Raise `WrongUsage` where the project's file holds a token, a secret, or an address with a password in it."""
    for name, table in project.get("tunnels", {}).items():
        for key in table:
            if key.lower().endswith(_SECRETS):
                raise _secret(f"{key} in [tunnels.{name}]", file, home)
    for place, text in _texts(project, ""):
        if _PASSWORD.search(text):
            raise _secret(f"a password in the address at {place}", file, home)


def _secret(what: str, file: Path, home: Path) -> WrongUsage:
    return WrongUsage(
        f"{file} holds a secret ({what}) and is in the project, where it gets committed: move it to "
        f"{home / USER_FILE}, which has the same form."
    )


def _texts(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """Every text of a document with its place, ``tunnels.ssh.public_url``."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(inner, f"{place}.{key}" if place else key)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, place)

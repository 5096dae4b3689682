"""What a project and its user have settled once: ``b24tunnel.toml`` in the project, ``settings.toml`` in the home.

Both have the same form; where they say different things the project's holds. Secrets belong into the user's
file, because the project's is committed.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from b24tunnel.errors import OutsideFailure, WrongUsage

PROJECT_FILE = "b24tunnel.toml"
USER_FILE = "settings.toml"
_LARGEST = 1024 * 1024
_SECRETS = ("token", "secret", "password")

_T = TypeVar("_T")


@dataclass(frozen=True)
class ProjectSettings:
    """``tunnel``: which provider is to be used. ``tunnels``: for each by name what its table holds, unchecked."""

    tunnel: str | None = None
    tunnels: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sources: tuple[Path, ...] = ()

    def section(self, name: str, kind: type[_T], **more: Any) -> _T:
        """The table ``[tunnels.NAME]`` as a dataclass of this ``kind``; ``more`` goes before what it holds.

        Raises `WrongUsage` for a key that ``kind`` does not have, a value of another type, or one that lacks.
        """
        given = {**self.tunnels.get(name, {}), **{key: value for key, value in more.items() if value is not None}}
        return _build(kind, given, f"[tunnels.{name}]", self.sources)


def read_settings(directory: Path, home: Path) -> ProjectSettings:
    """The settings that hold in ``directory``; none where there are no files.

    The project's file is the nearest one in the directory or above it. Raises `WrongUsage` for what is no TOML or
    has other keys than these settings know, `OutsideFailure` for a file that cannot be read.
    """
    user = _read(home / USER_FILE)
    project_file = _nearest(directory)
    project = _read(project_file) if project_file is not None else {}
    if project_file is not None:
        _check_no_secrets(project, project_file, home)
    tunnels = {
        name: {**user.get("tunnels", {}).get(name, {}), **project.get("tunnels", {}).get(name, {})}
        for name in {**user.get("tunnels", {}), **project.get("tunnels", {})}
    }
    sources = [file for file, found in ((home / USER_FILE, user), (project_file, project)) if file and found]
    return ProjectSettings(project.get("tunnel", user.get("tunnel")), tunnels, tuple(sources))


def _nearest(directory: Path) -> Path | None:
    directory = directory.absolute()
    for above in (directory, *directory.parents):
        if (file := above / PROJECT_FILE).is_file():
            _check_owner(file)
            return file
    return None


def _check_owner(file: Path) -> None:
    """It can name programs to run, so it must not be a trap that somebody else has laid above the project."""
    if os.name == "posix" and file.stat().st_uid not in (os.getuid(), 0):
        raise WrongUsage(
            f"{file} belongs to another user, and it could name programs to run: make it yours (chown), or work "
            "in another directory."
        )


def _read(file: Path) -> dict[str, Any]:
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
        found = tomllib.loads(content.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WrongUsage(f"{file} is no TOML: {error}.") from error
    _check_keys(found, ("tunnel", "tunnels"), f"{file}")
    if not isinstance(found.get("tunnel", ""), str):
        raise WrongUsage(f'{file}: tunnel is the name of a provider, such as tunnel = "ngrok".')
    tunnels = found.get("tunnels", {})
    if not isinstance(tunnels, dict) or not all(isinstance(table, dict) for table in tunnels.values()):
        raise WrongUsage(f"{file}: below tunnels there are tables, such as [tunnels.ngrok].")
    return found


def _check_no_secrets(project: Mapping[str, Any], file: Path, home: Path) -> None:
    for name, table in project.get("tunnels", {}).items():
        for key in table:
            if key.lower().endswith(_SECRETS):
                raise WrongUsage(
                    f"{file} holds a secret ({key} in [tunnels.{name}]) and is in the project, where it gets "
                    f"committed: move it to {home / USER_FILE}, which has the same form."
                )


def _check_keys(found: Mapping[str, Any], known: typing.Iterable[str], where: str) -> None:
    known = list(known)
    for key in found:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}."
            raise WrongUsage(f"{where} knows no {key!r}: {hint}")


def _build(kind: type[_T], given: Mapping[str, Any], where: str, sources: tuple[Path, ...]) -> _T:
    files = " or ".join(str(file) for file in sources) or f"{PROJECT_FILE}"
    where = f"{where} in {files}"
    fields = {known.name: known for known in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(kind)
    _check_keys(given, fields, where)
    values = {}
    for name, value in given.items():
        wanted = hints[name]
        if typing.get_origin(wanted) is tuple and isinstance(value, list | tuple):
            value = tuple(value)
            fits = all(isinstance(item, str) for item in value)
        else:
            kinds = tuple(part for part in _parts(wanted) if isinstance(part, type))
            fits = isinstance(value, kinds) and not (isinstance(value, bool) and bool not in kinds)
        if not fits:
            raise WrongUsage(f"{where}: {name} cannot be {value!r}; it is {_described(wanted)}.")
        values[name] = value
    for name, known in fields.items():
        if name not in values and known.default is known.default_factory:  # both missing
            raise WrongUsage(f"{where} lacks {name}, {_described(hints[name])}.")
    try:
        return kind(**values)
    except WrongUsage as error:
        raise WrongUsage(f"{where}: {error}") from error


def _parts(wanted: Any) -> tuple[Any, ...]:
    if isinstance(wanted, types.UnionType) or typing.get_origin(wanted) is typing.Union:
        return tuple(part for part in typing.get_args(wanted) if part is not type(None))
    return (wanted,)


def _described(wanted: Any) -> str:
    if typing.get_origin(wanted) is tuple:
        return "a list of texts"
    names = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
    return " or ".join(names.get(part, str(part)) for part in _parts(wanted))

"""What holds in a project: its own file over the user's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from b24tunnel.errors import WrongUsage
from b24tunnel.routes import Route, read_routes
from b24tunnel.senders import check_list_url, parse_senders
from b24tunnel.settings.files import USER_FILE, check_no_secrets, check_owner, nearest_file, read_toml
from b24tunnel.settings.tables import build, check_keys

_KEYS = ("tunnel", "listen", "tunnels", "routes", "origin")
# Where the tunnel comes from: one of the two files says all of it.
_WAY = ("public-url", "domain")

_T = TypeVar("_T")


@dataclass(frozen=True)
class Settled:
    """A ``value`` as it stands in a ``file``; ``of_project`` is whether that is the project's."""

    value: Any
    file: Path
    of_project: bool = True


@dataclass(frozen=True)
class OriginSettings:
    """``senders``: addresses and networks that may send besides Bitrix24's own servers.

    ``lists``: where the addresses of those are read; without it what Bitrix24 publishes holds. Raises `WrongUsage`
    for what is no address or network, and for a list that cannot be read by https.
    """

    senders: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        parse_senders(self.senders)
        for url in self.lists:
            check_list_url(url)


@dataclass(frozen=True)
class ProjectSettings:
    """``tunnel``: which provider is to be used. ``tunnels``: for each by name what its table holds, unchecked.

    ``listen``: what ``[listen]`` holds under its options' names (``max-body``), unchecked too, each with its file.
    ``routes``: which events go to which handlers. ``sources``: the files that all this is from.
    """

    tunnel: str | None = None
    tunnels: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sources: tuple[Path, ...] = ()
    listen: Mapping[str, Settled] = field(default_factory=dict)
    routes: tuple[Route, ...] = ()
    origin: OriginSettings = OriginSettings()

    def section(self, name: str, kind: type[_T], **more: Any) -> _T:
        """The table ``[tunnels.NAME]`` as a dataclass of this ``kind``; ``more`` goes before what it holds.

        Raises `WrongUsage` for a key that ``kind`` does not have, a value of another type, or one that lacks.
        """
        given = {**self.tunnels.get(name, {}), **{key: value for key, value in more.items() if value is not None}}
        files = " or ".join(str(file) for file in self.sources) or "the settings"
        return build(kind, given, f"[tunnels.{name}] in {files}")


def read_settings(directory: Path, home: Path) -> ProjectSettings:
    """The settings that hold in ``directory``; none where there are no files.

    The project's file is the nearest one in the directory or above it. Raises `WrongUsage` for what is no TOML or
    has other keys than these settings know, `OutsideFailure` for a file that cannot be read.
    """
    user_file = home / USER_FILE
    user = _File(user_file, read_toml(user_file), of_project=False)
    project_file = nearest_file(directory)
    if project_file is None:
        return _merged(user, _File(directory, {}))
    check_owner(project_file)
    found = read_toml(project_file)
    project = _File(project_file, found)
    check_no_secrets(found, project_file, home)
    return _merged(user, project)


class _File:
    """One file's tables, each checked as far as it can be without the other file."""

    def __init__(self, path: Path, found: dict[str, Any], *, of_project: bool = True) -> None:
        self.path = path
        self.found = found
        check_keys(found, _KEYS, f"{path}", "; the options of listen belong below [listen]")
        if not isinstance(found.get("tunnel", ""), str):
            raise WrongUsage(f'{path}: tunnel is the name of a provider, such as tunnel = "ngrok".')
        self.tunnel: str | None = found.get("tunnel")
        tunnels = found.get("tunnels", {})
        if not isinstance(tunnels, dict) or not all(isinstance(table, dict) for table in tunnels.values()):
            raise WrongUsage(f"{path}: below tunnels there are tables, such as [tunnels.ngrok].")
        self.tunnels: dict[str, dict[str, Any]] = tunnels
        self.listen = {
            key: Settled(value, path, of_project) for key, value in _options(self._table("listen"), path).items()
        }
        self.routes = read_routes(found["routes"], f"{path}") if "routes" in found else None
        self.origin = self._table("origin")
        build(OriginSettings, self.origin, f"[origin] in {path}")

    def _table(self, name: str) -> dict[str, Any]:
        table = self.found.get(name, {})
        if not isinstance(table, dict):
            raise WrongUsage(f"{self.path}: {name} is a table, which begins with [{name}].")
        return table


def _options(table: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """What a table holds, by the names of its options. TOML's own custom is an underscore, which is fine too."""
    options: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("_", "-")
        if name == "tunnel":
            raise WrongUsage(f"{file}: tunnel stands above the first table, not in [listen]: move it there.")
        if name in options:
            raise WrongUsage(f"{file}: [listen] has {name} twice, with - and with _: leave one of them out.")
        options[name] = value
    return options


def _merged(user: _File, project: _File) -> ProjectSettings:
    tunnel, of_user = user.tunnel, user.listen
    if project.tunnel is not None or "public-url" in project.listen:
        tunnel, of_user = project.tunnel, {key: value for key, value in of_user.items() if key not in _WAY}
    names = {**user.tunnels, **project.tunnels}
    routes = project.routes if project.routes is not None else user.routes
    return ProjectSettings(
        tunnel=tunnel,
        tunnels={name: {**user.tunnels.get(name, {}), **project.tunnels.get(name, {})} for name in names},
        sources=tuple(file.path for file in (user, project) if file.found),
        listen={**of_user, **project.listen},
        routes=routes or (),
        origin=build(OriginSettings, {**user.origin, **project.origin}, f"[origin] in {project.path}"),
    )

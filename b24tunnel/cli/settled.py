"""A command whose options can also be set in the settings' files and in the environment.

It goes over the command's own parameters, so that each option is settable as soon as it is there.
"""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from b24tunnel.errors import WrongUsage

if TYPE_CHECKING:
    from b24tunnel.settings import ProjectSettings, Settled

_META = "b24tunnel.settings"


class SettledCommand(click.Command):
    """Takes what the command line and the environment leave open from the table of the command's own name.

    Flags go before variables (``B24TUNNEL_LISTEN_MAX_BODY``), those before the project's file, that before the
    user's. ``--help`` reads no file.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for key, parameter in settable(self).items():
            parameter.envvar = f"B24TUNNEL_{self.name}_{key}".upper().replace("-", "_")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Raises what `read_settings` does, and names the file or the variable that a wrong value is from."""
        if not ctx.resilient_parsing:  # while a shell completes a line there is nobody to tell what is wrong
            ctx.default_map = _Defaults(lambda: defaults_of(self, settings_of(ctx)))
        try:
            return super().parse_args(ctx, args)
        except click.BadParameter as error:
            _name_source(ctx, error)
            raise

    def get_help(self, ctx: click.Context) -> str:
        """The help as it is everywhere: its defaults are the command's own."""
        ctx.default_map = None
        return super().get_help(ctx)


def settings_of(ctx: click.Context) -> ProjectSettings:
    """The settings that hold in the working directory, read once an invocation."""
    if _META not in ctx.meta:
        from b24tunnel.portal import State
        from b24tunnel.settings import read_settings

        ctx.meta[_META] = read_settings(Path.cwd(), State.open().home)
    found: ProjectSettings = ctx.meta[_META]
    return found


def settled_recordings() -> Path:
    """Where `listen` keeps recordings by the settings and the environment, for commands that read them.

    Raises what `read_settings` does, and `WrongUsage` for what `listen` would not take.
    """
    from b24tunnel.cli.listen import listen_command

    try:
        found: Path = listen_command.make_context("listen", []).params["recordings"]
    except click.UsageError as error:
        # Its own form has the usage of `listen` before it, which nobody called.
        raise WrongUsage(error.format_message()) from error
    return found


def settable(command: click.Command) -> dict[str, click.Parameter]:
    """What can be set, by its name in the settings: ``max-body`` for ``--max-body``, an argument's own."""
    return {_key(parameter): parameter for parameter in command.params if parameter.expose_value}


def expected(parameter: click.Parameter) -> str:
    """What a parameter's value is in a settings file, in a few words."""
    if parameter.nargs != 1 or getattr(parameter, "multiple", False):
        return "a list of texts"
    if isinstance(parameter.type, click.types.BoolParamType):
        return "true or false"
    if isinstance(parameter.type, click.types.IntParamType):
        return "a whole number"
    if isinstance(parameter.type, click.types.FloatParamType):
        return "a number"
    return "a text"


class _Defaults(UserDict[str, Any]):
    """What the files say, read when it is first asked for: not for ``--help``, which has to work without them."""

    def __init__(self, load: Callable[[], dict[str, Any]]) -> None:
        self._load = load

    @cached_property
    def data(self) -> dict[str, Any]:  # type: ignore[override]
        return self._load()


def defaults_of(command: click.Command, settings: ProjectSettings) -> dict[str, Any]:
    """The values for each of the command's parameters that a file sets, by the parameter's name."""
    from b24tunnel.settings.tables import check_keys

    known = settable(command)
    below = [name for name in known if name != "tunnel"]  # that one stands above the tables
    values: dict[str, Any] = {}
    for key, settled in settings.listen.items():
        check_keys({key: settled.value}, below, f"[{command.name}] in {settled.file}")
        parameter = known[key]
        where = f"[{command.name}] in {settled.file}: {key}"
        if not _fits(settled.value, expected(parameter)):
            raise WrongUsage(f"{where} is {expected(parameter)}.")
        values[str(parameter.name)] = _path(settled, where) if _is_path(parameter) else settled.value
    return values


def _fits(value: Any, wanted: str) -> bool:
    if wanted == "a list of texts":
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if wanted == "true or false":
        return isinstance(value, bool)
    if wanted == "a whole number":
        return isinstance(value, int) and not isinstance(value, bool)
    if wanted == "a number":
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, str)


def _is_path(parameter: click.Parameter) -> bool:
    return isinstance(parameter.type, click.Path)


def _path(settled: Settled, where: str) -> str:
    """In the project's file a path is relative to the file; in the user's it is one in each project."""
    try:
        path: Path | None = Path(settled.value).expanduser()
    except RuntimeError:
        path = None  # ~NAME, and there is nobody of this name
    if path is None or "\0" in settled.value:
        raise WrongUsage(f"{where} is no directory that there can be.")
    return str(settled.file.parent / path if settled.of_project else path)


def _key(parameter: click.Parameter) -> str:
    """``max-body`` for ``--max-body``, ``events`` for the argument."""
    long = [spelling for spelling in parameter.opts if spelling.startswith("--")]
    return (long[0] if long else str(parameter.name)).lstrip("-").replace("_", "-")


def _name_source(ctx: click.Context, error: click.BadParameter) -> None:
    """Say of a value that nobody has typed now where it is from."""
    parameter = error.param
    if parameter is None or parameter.name is None:
        return
    source = ctx.get_parameter_source(parameter.name)
    if source is ParameterSource.ENVIRONMENT:
        error.param_hint = f"the variable {parameter.envvar}"
    elif source is ParameterSource.DEFAULT_MAP:
        key = _key(parameter)
        error.param_hint = f"{key} below [{ctx.command.name}] in {settings_of(ctx).listen[key].file}"

"""`b24tunnel init`: a settings file in which everything that can be set stands, commented out."""

from __future__ import annotations

import itertools
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from b24tunnel.cli.settled import expected, settable

_WIDTH = 100
_HEAD = """\
Settings of b24tunnel for this project, which hold in this directory and below it. A line that begins with # and
no space after it sets something once the # is removed; what it shows is the default, or an example where there
is none. Flags and variables of the environment (B24TUNNEL_LISTEN_FORWARD) go before this file, this file before
settings.toml in the directory of b24tunnel's state, which has the same form. Tokens belong there: this file gets
committed."""
_LISTEN = "The options of 'b24tunnel listen'."
_ARGUMENT = "The EVENTs where none is named, to be bound on the portal; 'b24tunnel events' lists all."
_ORIGIN = """\
Who may send besides Bitrix24's own servers, for listen with --only-from-bitrix24: addresses or networks, of a
portal on premises that sends by itself."""
_LISTS = "Where the addresses of Bitrix24's servers are read, in place of what Bitrix24 publishes."
_ROUTES = """\
Which events go to which handlers, by code or glob, in any number of such tables. Every route that fits gets the
event."""
_TO = 'A handler\'s URL, or several: to = ["http://127.0.0.1:8001/", "http://127.0.0.1:8002/"].'
_TUNNELS = "What a tunnel needs to know: a table for each. 'b24tunnel tunnels' lists them."
# The tables of tunnels are open: each provider has keys of its own, and a program of the user's any name.
_TUNNEL_TABLES = """\
[tunnels.ssh]
host = "vps.example.org"
user = "tunnel"
listen = "localhost:9000"
public_url = "https://hooks.example.org"

[tunnels.ngrok]
domain = "name.ngrok-free.app"

[tunnels.mine]
command = "mytunnel http {port}"
url = 'ready at (https?://\\S+)'"""
# What to show for options without a default. For others than these it follows from what they take.
_EXAMPLES: dict[str, Any] = {
    "events": ["ONCRMDEALADD", "ONCRMDEALUPDATE"],
    "forward": "http://127.0.0.1:8000/handler",
    "portal": "sandbox",
    "tunnel": "auto",
    "recordings": "recordings",
    "domain": "name.ngrok-free.app",
    "public-url": "https://hooks.example.org",
    "output": "plain",
}


@click.command("init", epilog="\b\nExample:\n  b24tunnel init")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
def init_command(force: bool) -> None:
    """Write a b24tunnel.toml into this directory, with all that can be set in it, commented out."""
    from b24tunnel.errors import OutsideFailure, WrongUsage
    from b24tunnel.settings import PROJECT_FILE, nearest_file

    here = Path.cwd()
    file = here / PROJECT_FILE
    held = nearest_file(here)
    try:
        with file.open("w" if force else "x", encoding="utf-8") as opened:
            opened.write(template())
    except FileExistsError:
        raise WrongUsage(f"{file} is there already: --force writes over it.") from None
    except OSError as error:
        raise OutsideFailure(f"{file} cannot be written ({error.strerror}).") from error
    click.echo(f"Wrote {file}.")
    if held not in (None, file):
        click.echo(
            f"Note: {held} held here until now; in this directory and below it the new file takes its place.",
            err=True,
        )
    click.echo(
        "Next: open it, remove the # before what you want to set (such as forward and events below [listen]), and "
        "start: b24tunnel listen"
    )


def template() -> str:
    """The file's text: every key that there is, with what it does and its default."""
    from b24tunnel.cli.listen import listen_command
    from b24tunnel.senders import NODE_LISTS

    options = settable(listen_command)
    lines = [*_prose(_HEAD), ""]
    lines += [*_setting("tunnel", options["tunnel"])]
    lines += [*_prose(_LISTEN), "[listen]"]
    for key, parameter in options.items():
        if key != "tunnel":
            lines += _setting(key, parameter)
    lines += [*_prose(_ROUTES), "#[[routes]]", '#events = ["ONCRM*", "ONTASKADD"]']
    lines += [*_prose(_TO), '#to = "http://127.0.0.1:8001/crm"', ""]
    lines += ["[origin]", *_prose(_ORIGIN), '#senders = ["192.0.2.0/24", "198.51.100.7"]']
    lines += [*_prose(_LISTS), f"#lists = {_value(list(NODE_LISTS))}", ""]
    lines += [*_prose(_TUNNELS), *(f"#{line}" if line else "" for line in _TUNNEL_TABLES.splitlines())]
    return "\n".join(lines) + "\n"


def _setting(key: str, parameter: click.Parameter) -> Iterator[str]:
    """What an option does, and the line that sets it to its default."""
    about = getattr(parameter, "help", None) or _ARGUMENT
    bounds = _bounds(parameter)
    yield from _prose(f"{about} {bounds}" if bounds else about)
    default = _default(parameter)
    shown = _EXAMPLES.get(key, _example(parameter)) if default is None else default
    yield f"#{key} = {_value(shown)}"
    yield ""


def _default(parameter: click.Parameter) -> Any:
    """The default as a file has it, None where there is none."""
    default = parameter.to_info_dict()["default"]
    if isinstance(default, Path):
        return str(default)
    return default if isinstance(default, str | int | float | bool) else None


def _example(parameter: click.Parameter) -> Any:
    if isinstance(parameter.type, click.Choice):
        return next(iter(parameter.type.choices))
    text = "http://127.0.0.1:8000" if parameter.metavar == "URL" else "name"
    return {
        "a list of texts": [text],
        "true or false": False,
        "a whole number": 1,
        "a number": 1.0,
    }.get(expected(parameter), text)


def _bounds(parameter: click.Parameter) -> str:
    kind = parameter.type
    if isinstance(kind, click.Choice):
        return f"One of {', '.join(kind.choices)}."
    if isinstance(kind, click.IntRange | click.FloatRange):
        return f"{kind.min:,} to {kind.max:,}."
    return ""


def _value(value: Any) -> str:
    """A value as TOML, which texts, lists of texts, numbers and booleans are in the same way as in JSON."""
    return json.dumps(value, ensure_ascii=False)


def _prose(text: str) -> Iterator[str]:
    """Text as comments with a space after the #, which is how they differ from settings."""
    return itertools.chain.from_iterable(
        textwrap.wrap(paragraph, _WIDTH, initial_indent="# ", subsequent_indent="# ")
        for paragraph in text.replace("\n", " ").split("\n\n")
    )

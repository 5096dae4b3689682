"""The command line: a module a noun; commands parse, call and print."""

from __future__ import annotations

import errno
import importlib
from typing import Any

import click

from b24tunnel.errors import OutsideFailure, UserError

# Command: the module that has it under the same name. A module is imported when its command is needed.
_COMMANDS = {
    "demo": "demo",
    "init": "init",
    "listen": "listen",
    "list": "recordings",
    "show": "recordings",
    "follow": "recordings",
    "replay": "replay",
    "diff": "diff",
    "prune": "prune",
    "events": "events",
    "portal": "portal",
    "bindings": "bindings",
    "tunnels": "tunnels",
    "doctor": "doctor",
    "sandbox": "sandbox",
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module = importlib.import_module(f"b24tunnel.cli.{_COMMANDS[name]}")
        command: click.Command = getattr(module, f"{name}_command")
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            _show(error)
            ctx.exit(error.exit_code)
        except (KeyboardInterrupt, click.Abort):  # Abort: at a question
            _show("interrupted.")
            ctx.exit(130)
        except OSError as error:
            if error.errno == errno.EPIPE:  # the reader has gone, which is no failure: click ends quietly
                raise
            _show(f"The system refused ({error.strerror}): is there room for the output?")
            ctx.exit(OutsideFailure.exit_code)


def _show(error: UserError | str) -> None:
    """A user's error as one sentence on standard error, with what was noted about it."""
    text = "\n".join([str(error), *getattr(error, "__notes__", ())])
    if "." not in text.partition(" ")[0].rstrip(".,:;"):  # not app.info, srv.us and other names
        text = text[:1].upper() + text[1:]
    click.echo(f"Error: {text}", err=True)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="b24tunnel")
def cli() -> None:
    """Receive, record, forward and replay Bitrix24 events on your laptop.

    \b
    Try it with no account:   b24tunnel demo
    Then, in two terminals:   b24tunnel sandbox
                              b24tunnel listen ONCRMDEALUPDATE --portal sandbox
    """

"""The options by which a command is told a portal's secrets: where they lie, never what they are."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from b24tunnel.portal import Portal

_Command = TypeVar("_Command", bound=Callable[..., Any])


def secret_options(command: _Command) -> _Command:
    """``--client-secret-file``, ``--client-secret-env`` and the same for the application_token."""
    for secret, what in (
        ("application-token", "the events' token"),
        ("client-secret", "the application's secret"),
    ):
        command = click.option(
            f"--{secret}-env", metavar="NAME", help=f"The environment variable with {what}, read at each use."
        )(command)
        command = click.option(
            f"--{secret}-file",
            metavar="FILE",
            help=f"The file with {what}, read at each use; - stores what standard input says.",
        )(command)
    return command


class GivenSecrets:
    """What the options say: ``values`` read from standard input, ``references`` to what lies elsewhere."""

    def __init__(self, **options: str | None) -> None:
        """``options`` are all four by their parameters' names. Raises `WrongUsage`, and `click.UsageError`."""
        from b24tunnel.portal.credentials import read_stream, refer_to_file, refer_to_variable

        self.values: dict[str, str] = {}
        self.references: dict[str, str] = {}
        for secret in ("client_secret", "application_token"):
            file, variable = options[f"{secret}_file"], options[f"{secret}_env"]
            option = f"--{secret.replace('_', '-')}"
            if file is not None and variable is not None:
                raise click.UsageError(f"{option}-file and {option}-env exclude each other: give one of them.")
            if file == "-":
                if self.values:
                    raise click.UsageError("Standard input has one secret: name a file for the other.")
                self.values[secret] = read_stream(sys.stdin, f"the {secret} on standard input")
            elif file is not None:
                self.references[f"{secret}_from"] = refer_to_file(Path(file))
            elif variable is not None:
                self.references[f"{secret}_from"] = refer_to_variable(variable, f"{option}-env")

    def __contains__(self, secret: str) -> bool:
        return secret in self.values or f"{secret}_from" in self.references

    def __bool__(self) -> bool:
        return bool(self.values or self.references)

    def into(self, portal: Portal) -> Portal:
        """The portal with these secrets in the place of those that it had."""
        changes: dict[str, Any] = {f"{secret}_from": "" for secret in self.values} | self.values | self.references
        return dataclasses.replace(portal, **changes)


def on_terminal() -> bool:
    """Whether a person can be asked."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()


def warn_of_open_files(portal: Portal) -> None:
    """Say on standard error which files of secrets others can read."""
    from b24tunnel.portal.credentials import too_open

    for sentence in too_open(portal):
        click.echo(f"Warning: {sentence}", err=True)

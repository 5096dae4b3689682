"""What a user may settle of a tunnel that is a program: one whose output is known, or one of their own."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass

from b24tunnel.errors import WrongUsage
from b24tunnel.tunnel.preset import Failure, Invocation, Preset
from b24tunnel.tunnel.url import UrlTunnel

_LONGEST_PATTERN = 500
_SECONDS = (1, 600)
_PROBE_SECONDS = (5, 3600)


@dataclass(frozen=True)
class PresetSettings:
    """``domain``: the fixed name to ask for; ``public_url``: the address, of a program that never prints it.

    ``binary``: the program's name or path; ``options``: more arguments, ``{port}`` in them is the receiver's port.
    """

    domain: str | None = None
    public_url: str | None = None
    binary: str | None = None
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class CommandSettings:
    """A program of the user's own.

    ``command``: it with its arguments, quoted as in a shell but run without one; ``{port}`` stands for the
    receiver's port. ``url``: a regular expression with one group or none that finds the address (with http or
    https, or HOST:PORT for http) in a line. A program that never prints it needs ``public_url``, the address,
    and ``ready``, the pattern of the line that says that it works; where both ``url`` and ``public_url`` are
    given, the address is ``public_url`` and ``url`` finds that line.

    ``failures``: patterns of lines that say that there is no tunnel (any more). ``seconds``: how long it may take
    until the address comes, 1 to 600. ``probe_seconds``: how far apart probes are at least, 5 to 3600.

    Raises `WrongUsage` for what does not fit.
    """

    command: str
    url: str | None = None
    ready: str | None = None
    public_url: str | None = None
    failures: tuple[str, ...] = ()
    seconds: int = 30
    probe_seconds: int = 30

    def __post_init__(self) -> None:
        if not self.arguments() or "{port}" not in self.command:
            raise WrongUsage(
                f"The command {self.command!r} does not tell the program where to lead to: it is a program with "
                "arguments, one of which holds {port}."
            )
        for name, pattern in (
            ("url", self.url),
            ("ready", self.ready),
            *(("failures", it) for it in self.failures),
        ):
            if pattern is not None:
                _check_pattern(name, pattern)
        if self.url is not None and re.compile(self.url).groups > 1:
            raise WrongUsage(f"url is {self.url!r}: put at most one group into it, the one that is the address.")
        if self.public_url is not None:
            UrlTunnel(self.public_url)  # says what is wrong with it
        if self.public_url is None and self.ready is not None:
            raise WrongUsage("ready belongs to a program that does not print its address: give public_url, too.")
        if self.url is None and self.ready is None:
            # The first address in the output is as likely one of documentation, terms or a dashboard.
            raise WrongUsage(
                f"The command {self.command!r} needs url, a pattern that finds the address in what it prints, "
                r"such as url = 'Forwarding (https://\S+)'; or ready and public_url if it never prints it."
            )
        for what, value, (low, high) in (
            ("seconds", self.seconds, _SECONDS),
            ("probe_seconds", self.probe_seconds, _PROBE_SECONDS),
        ):
            if not low <= value <= high:
                raise WrongUsage(f"{what} is {value}: give a number from {low} to {high}.")

    def arguments(self) -> tuple[str, ...]:
        """The program and its arguments. Raises `WrongUsage` when a quote is not closed."""
        try:
            if os.name != "nt":
                return tuple(shlex.split(self.command))
            # There a backslash is part of a path.
            parts = shlex.split(self.command, posix=False)
        except ValueError as error:
            raise WrongUsage(f"The command {self.command!r} cannot be split into arguments ({error}).") from error
        return tuple(
            part[1:-1] if len(part) > 1 and part[0] == part[-1] and part[0] in "\"'" else part for part in parts
        )

    def as_preset(self, name: str) -> Preset:
        """The same as what is known of other programs."""
        advice = "put it right, or take another tunnel"
        binary, *arguments = self.arguments()
        printed = () if self.url is None or self.public_url is not None else (self.url,)
        return Preset(
            name=name,
            invocations=(Invocation(binary, tuple(arguments)),),
            patterns=printed,
            scheme="http",
            ready=None if self.public_url is None else self.ready or self.url,
            failures=tuple(Failure(pattern, advice, ends=True) for pattern in self.failures),
            loopback=True,  # the user's own pattern has found it
            seconds=self.seconds,
            probe_seconds=self.probe_seconds,
            setup=f"look at command in [tunnels.{name}] of your settings",
            unheard=f"look whether url in [tunnels.{name}] of your settings fits to what it prints",
        )


def _check_pattern(name: str, pattern: str) -> None:
    if len(pattern) > _LONGEST_PATTERN:
        raise WrongUsage(f"A pattern of {name} has more than {_LONGEST_PATTERN} characters: give a shorter one.")
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise WrongUsage(f"{name} is {pattern!r}, which is no regular expression: {error}.") from error
    if compiled.search(""):
        raise WrongUsage(f"{name} is {pattern!r}, which fits to every line: give one that says more.")

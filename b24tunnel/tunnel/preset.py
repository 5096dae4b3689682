"""What is known of a program that opens a tunnel: how it is called, what it prints, what it may lack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

OPTIONS = "{options}"


@dataclass(frozen=True)
class Failure:
    """A line that says that there is no tunnel. ``pattern`` is a regular expression, searched in one clean line.

    ``advice``: what to do, a clause without full stop. ``permanent`` and ``pause`` (seconds) as in `TunnelFailed`.
    ``ends``: it ends an open tunnel, too; what a program gets over by itself does not. What is permanent does.
    """

    pattern: str
    advice: str
    permanent: bool = False
    pause: float = 0.0
    ends: bool = False


@dataclass(frozen=True)
class Note:
    """A line that the user should hear of though the tunnel goes on: its pattern, and one sentence."""

    pattern: str
    sentence: str


@dataclass(frozen=True)
class Invocation:
    """How one program is called. ``{port}`` stands for the receiver's port, ``{options}`` for the user's own.

    ``named`` takes the place of ``arguments`` when a fixed name is asked for: ``{label}`` is its first label,
    ``{host}`` all of it with the service's suffix, ``{domain}`` what the user wrote. ``custom``: the same for a
    host outside of the service's suffix. None: there is no such call.
    """

    binary: str
    arguments: tuple[str, ...]
    named: tuple[str, ...] | None = None
    custom: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Preset:
    """A program whose output is known.

    ``invocations``: the programs that it may be, the first installed one is taken. ``suffix``: what a name that
    is asked for ends in when the address has come, ``""`` if it varies.

    ``patterns``: regular expressions whose only group is the address, or its host (then ``scheme`` goes before
    it); ``{port}`` in them stands for the receiver's port. With ``after`` the address counts only once a line
    matching that has come, up to one matching ``until``. ``ready``: the line that says that all is well, of a
    program that never prints its address. ``json_key``: where lines that are JSON objects keep their text.
    ``loopback``: whether an address of this machine may be meant.

    ``environment`` is added to the program's, ``removed`` names (in any case) are taken out of it. ``forbidden``:
    options that may not be among the user's own, and why. ``compared``: whether an address holds the name that
    was asked for. ``seconds``: how long it may take until the address comes. ``silence``: what it means if nothing
    comes at all. ``setup``: how to get the program usable.

    ``automatic``: whether it may be tried unasked once it is installed.
    """

    name: str
    invocations: tuple[Invocation, ...]
    patterns: tuple[str, ...] = ()
    setup: str = ""
    suffix: str = ""
    scheme: str = "https"
    after: str | None = None
    until: str | None = None
    ready: str | None = None
    json_key: str | None = None
    loopback: bool = False
    compared: bool = True
    failures: tuple[Failure, ...] = ()
    notes: tuple[Note, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    removed: tuple[str, ...] = ()
    forbidden: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 30.0
    probe_seconds: float = 30.0
    silence: str = ""
    unheard: str = "try again, or take another tunnel"
    automatic: bool = False

    @property
    def binaries(self) -> tuple[str, ...]:
        """The programs that it may be, the best first."""
        return tuple(invocation.binary for invocation in self.invocations)

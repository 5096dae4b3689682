"""What a walk over the path is to look at, and what it finds at each step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from b24tunnel.errors import CheckFailed, UserError
from b24tunnel.routes import Route
from b24tunnel.settings import ProjectSettings
from b24tunnel.tunnel.supervisor import Pace

StepState = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True)
class Plan:
    """What is to be examined. All ``…seconds`` and ``timeout`` (for the whole walk) are seconds.

    ``directory``: where the project's settings are looked for, in it or above it; ``home``: where the state
    lies, by default where `State.open` looks. ``events`` are those that the portal shall send; ``forward`` is the
    handler's URL, ``routes`` are for further ones, those of the settings' files where none are given.
    ``pass_through``: the application that other paths are carried to. ``catch_up``: whether offline events are
    wanted too, which takes an administrator. ``handler_seconds`` is for one answer of a handler,
    ``portal_seconds`` for one of the portal, ``delivery_seconds`` for the test event to come back. The others are
    as in `Wish` and the session's settings.

    ``of_listen`` gives what the files settle for `listen`, checked, by the names that its parameters have in
    Python; it stands in for what is None or empty here.
    """

    directory: Path
    recordings: Path | None = None
    events: tuple[str, ...] = ()
    portal: str | None = None
    forward: str | None = None
    routes: tuple[Route, ...] = ()
    tunnel: str | None = None
    domain: str | None = None
    public_url: str | None = None
    port: int | None = None
    probe: bool = True
    catch_up: bool = False
    pass_through: str | None = None
    home: Path | None = None
    timeout: float = 60.0
    handler_seconds: float = 10.0
    portal_seconds: float = 15.0
    delivery_seconds: float = 30.0
    pace: Pace = field(default_factory=Pace)
    of_listen: Callable[[ProjectSettings], Mapping[str, Any]] = lambda settings: {}


@dataclass(frozen=True)
class Step:
    """One step of the walk: ``message`` is a sentence with what was found, ``advice`` one with what to do.

    ``advice`` is ``""`` where nothing is to be done. ``ms``: how long the step took.
    """

    name: str
    state: StepState
    message: str
    advice: str
    ms: float


@dataclass(frozen=True)
class Result:
    """The walk as a whole: its steps in order, the last of which may have failed.

    ``exit_code``: 0 when all held (warnings included), 1 a check failed, 2 the call or the settings are wrong,
    3 the world outside failed (tunnel, portal, network, disk).
    """

    steps: tuple[Step, ...]
    exit_code: int
    ms: float

    @property
    def ok(self) -> bool:
        """Whether no step failed."""
        return self.failed is None

    @property
    def failed(self) -> Step | None:
        """The step that failed, after which none was walked."""
        return next((step for step in self.steps if step.state == "failed"), None)


@dataclass(frozen=True)
class Found:
    """What a step found, before it has a name; ``exit_code`` is the walk's where it failed."""

    state: StepState
    message: str
    advice: str = ""
    exit_code: int = 0


class Wrong(Exception):
    """A step has failed, found out deep inside of it."""

    def __init__(self, found: Found) -> None:
        super().__init__(found.message)
        self.found = found


def ok(message: str, advice: str = "") -> Found:
    """It holds; ``advice`` may be a hint."""
    return Found("ok", message, advice)


def warning(message: str, advice: str) -> Found:
    """It holds, with something to know."""
    return Found("warning", message, advice)


def skipped(message: str, advice: str = "") -> Found:
    """There is nothing to look at."""
    return Found("skipped", message, advice)


def failed(message: str, advice: str, exit_code: int = CheckFailed.exit_code) -> Found:
    """It does not hold."""
    return Found("failed", message, advice, exit_code)


def of_error(error: UserError, advice: str, exit_code: int | None = None) -> Found:
    """A user's error as what a step found.

    Most sentences say what to do behind their last semicolon; ``advice`` is for those that do not.
    """
    what, _, to_do = str(error).rpartition("; ")
    message, advice = (what, to_do) if what else (to_do, advice)
    notes = getattr(error, "__notes__", ())
    return failed(" ".join([sentence(message), *map(sentence, notes)]), advice, exit_code or error.exit_code)


def sentence(text: str) -> str:
    """``text`` with a full stop at its end, if it has none, and a capital at its beginning."""
    text = text.strip()
    end = "" if not text or text.endswith((".", "?", "!", "…")) else "."
    return text[:1].upper() + text[1:] + end

"""What happens while `listen` runs, as values: a session emits them, a renderer prints them."""

from __future__ import annotations

from dataclasses import dataclass

from b24tunnel.recording import Attempt, Recording
from b24tunnel.tunnel.supervisor import TunnelState


@dataclass(frozen=True)
class Ready:
    """The address is up and bound; deliveries are recorded from now on.

    ``routes``: codes and globs with the URL of the handler that gets them, beside ``forward``, which gets all.
    """

    session: int
    handler_url: str
    port: int
    tunnel: str
    events: tuple[str, ...]
    portal: str | None
    forward: str | None
    recordings: str
    routes: tuple[tuple[tuple[str, ...], str], ...] = ()
    pass_through: str | None = None


@dataclass(frozen=True)
class TunnelProbed:
    """How the public address is, after each probe; ``asked`` where a person wants to see it."""

    state: TunnelState
    asked: bool = False


@dataclass(frozen=True)
class Bound:
    """The events go to another address now, because the public one has changed."""

    handler_url: str
    events: tuple[str, ...]
    portal: str


@dataclass(frozen=True)
class Installed:
    """The portal has confirmed an installation: its tokens and its application_token are stored."""

    portal: str
    code: str


@dataclass(frozen=True)
class Recorded:
    """A delivery is on disk."""

    recording: Recording


@dataclass(frozen=True)
class Attempted:
    """A handler was tried."""

    attempt: Attempt


@dataclass(frozen=True)
class Note:
    """Something to know; nothing is wrong."""

    message: str


@dataclass(frozen=True)
class Trouble:
    """Something went wrong; the session goes on."""

    message: str


@dataclass(frozen=True)
class Pending:
    """Recordings of earlier sessions that no handler was reached with; ``resumed``: they are handed over now."""

    recordings: tuple[str, ...]
    resumed: bool


@dataclass(frozen=True)
class Stopped:
    """The session is over: the sum of it.

    ``refused`` are deliveries that could not be recorded, ``rejected`` requests that were no deliveries.
    ``tunnel``: how the public address was in the end.
    """

    session: int
    recorded: int
    answered: int
    failed: int
    pending: int
    refused: int
    rejected: int = 0
    tunnel: TunnelState | None = None


Happening = Ready | TunnelProbed | Bound | Installed | Recorded | Attempted | Note | Trouble | Pending | Stopped

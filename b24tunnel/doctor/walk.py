"""The walk itself: one step after the other until one fails, and everything taken back at the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from b24tunnel.doctor.step import Found, Plan, Step, Wrong

if TYPE_CHECKING:
    from b24tunnel.doctor.listening import Listening
    from b24tunnel.portal import Portal, RestClient, State
    from b24tunnel.tunnel.supervisor import Candidate


@dataclass
class Walk:
    """What the steps so far have learned, for those that follow; what ``stack`` holds ends with the walk."""

    plan: Plan
    stack: AsyncExitStack
    tell: Callable[[Step], None]
    deadline: float
    events: tuple[str, ...] = ()
    portal: Portal | None = None
    state: State = field(init=False)  # these are set by the step that makes them
    recordings: Path = field(init=False)
    tunnels: tuple[Candidate, ...] = field(init=False)
    listening: Listening = field(init=False)
    client: RestClient = field(init=False)
    info: dict[str, Any] = field(init=False)
    user: dict[str, Any] = field(init=False)

    @property
    def has_application(self) -> bool:
        """Whether the portal has an application, and is not only known for its outgoing webhook."""
        portal = self.portal
        if portal is None or portal.kind == "webhook":
            return False
        return bool(portal.kind or portal.access_token or portal.refresh_token or portal.client_id)

    @asynccontextmanager
    async def waiting(self, seconds: float, in_vain: Found) -> AsyncIterator[None]:
        """The block has to end within ``seconds`` and the walk's own time; else the step has found ``in_vain``."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(min(self.deadline, loop.time() + seconds)):
                yield
        except TimeoutError:
            raise Wrong(in_vain) from None


Look = Callable[[Walk], Awaitable[Found]]


def milliseconds_since(began: float) -> float:
    """Milliseconds since ``began``, of `time.perf_counter`."""
    return (time.perf_counter() - began) * 1000

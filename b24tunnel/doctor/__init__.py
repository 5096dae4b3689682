"""Walks the whole path of an event, step by step, and stops at the first thing that is wrong, with what to do.

result = await examine(Plan(Path("."), Path("recordings"), portal="sandbox", forward=URL), print)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

from b24tunnel.doctor import handlers, listening, portal, settled
from b24tunnel.doctor.delivery import delivery
from b24tunnel.doctor.step import Found, Plan, Result, Step, StepState, Wrong, failed, of_error, skipped
from b24tunnel.doctor.walk import Look, Walk, milliseconds_since
from b24tunnel.errors import OutsideFailure, UserError

__all__ = ["STEPS", "Plan", "Result", "Step", "StepState", "examine"]

# In order. Those of an application do not apply to a portal that is known for its outgoing webhook only.
_STEPS: tuple[tuple[str, Look], ...] = (
    ("settings", settled.settings),
    ("handler", handlers.handlers),
    ("tunnel", listening.tunnel),
    ("portal", portal.reachable),
)
_OF_APPLICATION: tuple[tuple[str, Look], ...] = (
    ("token", portal.token),
    ("installation", portal.installation),
    ("scopes", portal.scopes),
    ("administrator", portal.administrator),
    ("bindings", portal.bindings),
    ("delivery", delivery),
)
STEPS = tuple(name for name, _ in _STEPS + _OF_APPLICATION)
_GRACE_SECONDS = 1.0


async def examine(plan: Plan, tell: Callable[[Step], None]) -> Result:
    """Walk until a step fails; ``tell`` gets each step when it is done.

    Raises nothing that a user can cause. Whatever it opened is closed and whatever it bound is unbound when it
    returns, is cancelled, or ``tell`` raises.
    """
    began = time.perf_counter()
    steps: list[Step] = []
    exit_code = 0
    async with AsyncExitStack() as stack:
        walk = Walk(plan, stack, tell, asyncio.get_running_loop().time() + plan.timeout)
        for name, look in _STEPS + _OF_APPLICATION:
            applies = walk.has_application or (name, look) in _STEPS
            step_began = time.perf_counter()
            found = await _looked(walk, look) if applies else _of_no_application(name)
            step = Step(name, found.state, found.message, found.advice, milliseconds_since(step_began))
            steps.append(step)
            tell(step)
            if found.state == "failed":
                exit_code = found.exit_code
                break
    return Result(tuple(steps), exit_code, milliseconds_since(began))


async def _looked(walk: Walk, look: Look) -> Found:
    try:
        # The steps know the deadline and say what they waited for; this is for what nobody thought of.
        async with asyncio.timeout_at(walk.deadline + _GRACE_SECONDS):
            return await look(walk)
    except Wrong as wrong:
        return wrong.found
    except TimeoutError:
        return failed(
            f"The step was not done within the {walk.plan.timeout:g} s of the whole walk.",
            "Give it more with --timeout.",
            OutsideFailure.exit_code,
        )
    except UserError as error:
        return of_error(error, "Correct what is named there, and try again.")


def _of_no_application(name: str) -> Found:
    message = "The portal is known for its outgoing webhook only, which has no tokens."
    if name != "delivery":
        return skipped(message)
    return skipped(
        message,
        "Run 'b24tunnel listen --no-bind --portal NAME', paste the address that it shows into the outgoing "
        "webhook on the portal, and change an object there, such as a deal: a line has to appear.",
    )

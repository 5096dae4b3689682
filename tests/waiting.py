"""Waiting, in a test's event loop, for a condition that nothing signals."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from programs import DEADLINE


async def until(condition: Callable[[], Any], seconds: float = DEADLINE) -> Any:
    """The condition's value once it is true; raises ``TimeoutError`` after ``seconds``."""
    async with asyncio.timeout(seconds):
        while not (value := condition()):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    return value

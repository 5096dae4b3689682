"""A disk whose sync can be held up and made to fail."""

from __future__ import annotations

import asyncio
import os
import threading

from programs import DEADLINE


class Disk:
    """Takes the place of the sync: it waits while the gate is shut, and fails when told to."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.syncs = 0
        self.failures: list[OSError] = []

    def sync(self, descriptor: int) -> None:
        self.entered.set()
        assert self.gate.wait(DEADLINE)
        if self.failures:
            raise self.failures.pop(0)
        os.fsync(descriptor)
        self.syncs += 1

    def shut(self) -> None:
        self.entered.clear()
        self.gate.clear()

    async def reached(self) -> None:
        """Return when a sync is under way."""
        assert await asyncio.to_thread(self.entered.wait, DEADLINE)

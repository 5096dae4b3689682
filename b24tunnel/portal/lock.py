"""A lock between processes: held by whoever has the lock file locked, and let go when that process dies."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import filelock

from b24tunnel.errors import OutsideFailure

# Seconds between two looks at a lock that somebody else holds.
_PAUSE = 0.01


class LockTimeout(OutsideFailure):
    """Another process kept the lock for longer than this one was willing to wait."""

    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__(
            f"another b24tunnel process has held {path} for more than {seconds:g} s; "
            "wait for it to finish, or end it, and try again"
        )
        self.path = path


class FileLock:
    """One acquisition of the lock on ``path``; make a new object for each.

    Two objects exclude each other in one process (threads, tasks) as they do between processes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Not bound to a thread: it is taken in one and may be let go in another.
        self._lock = filelock.FileLock(path, mode=0o600, thread_local=False)

    def try_acquire(self) -> bool:
        """Take the lock if it is free; never waits. Raises ``OutsideFailure`` if the file does not open."""
        return self._take(0)

    def acquire(self, timeout: float) -> None:
        """Take the lock, waiting up to ``timeout`` seconds (blocks the thread); raises ``LockTimeout``."""
        if not self._take(timeout):
            raise LockTimeout(self.path, timeout)

    async def acquire_async(self, timeout: float) -> None:
        """As ``acquire``, but other tasks go on while this one waits; raises ``LockTimeout``."""
        deadline = time.monotonic() + timeout
        while not self.try_acquire():
            if time.monotonic() >= deadline:
                raise LockTimeout(self.path, timeout)
            await asyncio.sleep(_PAUSE)

    def release(self) -> None:
        """Let the lock go; harmless when it is not held."""
        self._lock.release()

    def _take(self, timeout: float) -> bool:
        if self._lock.is_locked:
            raise RuntimeError("this FileLock is held already")
        try:
            self._lock.acquire(timeout=timeout, poll_interval=_PAUSE)
        except filelock.Timeout:
            return False
        except OSError as error:
            raise OutsideFailure(
                f"the lock file {self.path} cannot be opened ({error.strerror}); "
                "make its directory writable, or set B24TUNNEL_HOME to one that is"
            ) from error
        return True

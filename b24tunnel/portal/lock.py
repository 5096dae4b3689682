"""A lock between processes: held by whoever has the lock file locked, and let go when that process dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
import time
from pathlib import Path

from b24tunnel.errors import OutsideFailure

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


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

    Two objects exclude each other in one process (threads, tasks) as they do between processes, because
    each opens the file for itself. The file stays where it is after release: removing it would let a waiting
    process lock a file that nobody else sees any more.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    def try_acquire(self) -> bool:
        """Take the lock if it is free; never waits. Raises ``OutsideFailure`` if the file does not open."""
        if self._fd is not None:
            raise RuntimeError("this FileLock is held already")
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise OutsideFailure(
                f"the lock file {self.path} cannot be opened ({error.strerror}); "
                "make its directory writable, or set B24TUNNEL_HOME to one that is"
            ) from error
        try:
            taken = _lock(fd)
        except BaseException:
            os.close(fd)
            raise
        if taken:
            self._fd = fd
        else:
            os.close(fd)
        return taken

    def acquire(self, timeout: float) -> None:
        """Take the lock, waiting up to ``timeout`` seconds (blocks the thread); raises ``LockTimeout``."""
        deadline = time.monotonic() + timeout
        while not self.try_acquire():
            if time.monotonic() >= deadline:
                raise LockTimeout(self.path, timeout)
            time.sleep(_pause())

    async def acquire_async(self, timeout: float) -> None:
        """As ``acquire``, but other tasks go on while this one waits; raises ``LockTimeout``."""
        deadline = time.monotonic() + timeout
        while not self.try_acquire():
            if time.monotonic() >= deadline:
                raise LockTimeout(self.path, timeout)
            await asyncio.sleep(_pause())

    def release(self) -> None:
        """Let the lock go; harmless when it is not held."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            try:
                _unlock(fd)
            finally:
                os.close(fd)


def _pause() -> float:
    # Uneven, so that processes which wait for the same lock do not ask in step for ever.
    return random.uniform(0.002, 0.02)


if sys.platform == "win32":

    def _lock(fd: int) -> bool:
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(fd: int) -> None:
        os.lseek(fd, 0, os.SEEK_SET)
        # Closing the file lets the lock go as well; an error here changes nothing.
        with contextlib.suppress(OSError):
            msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)

else:

    def _lock(fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_UN)

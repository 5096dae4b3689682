"""The mark that a living process writes a file: a lock, which ends with the process however that ends."""

from __future__ import annotations

import sys
from typing import BinaryIO

if sys.platform == "win32":
    # Windows has no flock: there every file counts as being written, so none is repaired and nothing is pending.

    def mark_as_written(descriptor: int) -> None:
        """Nothing to mark with."""

    def nobody_writes(file: BinaryIO, *, shared: bool = False) -> bool:
        """Never known."""
        return False

else:
    import fcntl

    def mark_as_written(descriptor: int) -> None:
        """Mark an open file as being written by this process, until it is closed."""
        fcntl.flock(descriptor, fcntl.LOCK_EX)

    def nobody_writes(file: BinaryIO, *, shared: bool = False) -> bool:
        """Whether no process writes the file; it stays so while ``file`` is open.

        ``shared``: others may look at the same time; without it, the caller may change the file.
        """
        try:
            fcntl.flock(file.fileno(), (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

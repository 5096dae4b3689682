"""Names that survive a crash of the machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def sync_directory(directory: Path) -> None:
    """Make what was created in or moved into ``directory`` durable; raises `OSError`."""
    if sys.platform == "win32":
        # Windows cannot sync a directory; NTFS keeps the change in its own journal.
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

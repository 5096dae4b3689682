"""How this process's memory allocator treats what is freed, for the sake of asyncio's reads."""

from __future__ import annotations

import ctypes
import sys

# <malloc.h> of the GNU C library.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT = 4 * 1024 * 1024
_LARGE = 1024 * 1024


def keep_what_is_freed() -> None:
    """Let the process keep up to 4 MiB that it has freed, where the C library is GNU's; elsewhere nothing happens.

    asyncio's own event loop reads each piece into a buffer of 256 KiB. To give it back to the system and ask for
    it again with every read costs some 15 µs. It is a setting of the whole process, so only a program does it.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
        mallopt(_M_MMAP_THRESHOLD, _LARGE)

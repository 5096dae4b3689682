"""Is the process that wrote this still running? A pid alone does not say: pids are used again."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_PROC = Path("/proc")


def start_mark(pid: int) -> str:
    """What tells this process from a later one with the same pid, or ``""`` where the system does not say.

    On Linux: the boot's id and the start time in clock ticks since boot (proc(5), field 22 of ``stat``).
    """
    fields = _stat(pid)
    if fields is None:
        return ""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        boot = ""
    return f"{boot}:{fields[19]}"


def is_running(pid: int, mark: str = "") -> bool:
    """Whether the process ``pid``, started as ``mark`` says (see ``start_mark``), still runs."""
    if not 0 < pid < 1 << 31:  # no system gives other numbers
        return False
    fields = _stat(pid)
    if fields is not None:
        # A zombie has ended; it only waits for its parent to notice.
        if fields[0] in ("Z", "X"):
            return False
        return not mark or mark == start_mark(pid)
    return _exists(pid)


def _stat(pid: int) -> list[str] | None:
    """The fields of ``/proc/PID/stat`` from the third (state) on, or None without such a file."""
    try:
        text = (_PROC / str(pid) / "stat").read_text("utf-8", "replace")
    except OSError:
        return None
    # The second field is the program's name in brackets and may itself hold spaces and brackets.
    fields = text.rpartition(")")[2].split()
    return fields if len(fields) > 19 else None


if sys.platform == "win32":
    import ctypes

    def _exists(pid: int) -> bool:
        # os.kill(pid, 0) would send a console event on Windows, so the system is asked directly.
        query_limited_information, still_active, access_denied = 0x1000, 259, 5
        kernel = ctypes.WinDLL("kernel32", use_last_error=True)
        kernel.OpenProcess.restype = ctypes.c_void_p
        handle = kernel.OpenProcess(query_limited_information, False, pid)
        if not handle:
            return ctypes.get_last_error() == access_denied
        try:
            code = ctypes.c_ulong()
            known = kernel.GetExitCodeProcess(ctypes.c_void_p(handle), ctypes.byref(code))
            return not known or code.value == still_active
        finally:
            kernel.CloseHandle(ctypes.c_void_p(handle))

else:

    def _exists(pid: int) -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True

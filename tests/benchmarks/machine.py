"""What the numbers were measured on, without the machine's name or any path."""

from __future__ import annotations

import os
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path


def describe(directory: Path) -> str:
    """One sentence on the machine and on the disk that holds ``directory``."""
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    return (
        f"Measured on {_processor()}, {cores} cores, {memory:.0f} GB of memory; {_disk(directory)}, where an "
        f"append of 1 kB with its fdatasync takes {_sync_seconds(directory) * 1e6:.0f} µs (median); "
        f"Linux {platform.release()}, {platform.python_implementation()} {platform.python_version()}, "
        f"aiohttp {version('aiohttp')}; load average before the start {os.getloadavg()[0]:.1f}."
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _disk(directory: Path) -> str:
    """The file system and the kind of disk under it."""
    number = directory.stat().st_dev
    kind = f"{os.major(number)}:{os.minor(number)}"
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        place, _, source = line.partition(" - ")
        if place.split()[2] == kind:
            system, device = source.split()[:2]
            break
    else:
        return "a file system of an unknown kind"
    name = Path(device).name
    queue = Path("/sys/dev/block") / kind / "queue"
    if not queue.exists():  # a partition
        queue = Path("/sys/dev/block") / kind / ".." / "queue"
    if not queue.exists():
        return f"{system} on no disk of its own"
    if name.startswith("vd"):
        return f"{system} on a virtual (virtio) disk"
    if name.startswith("nvme"):
        return f"{system} on an NVMe disk"
    rotates = (queue / "rotational").read_text().strip() == "1"
    return f"{system} on a {'spinning disk' if rotates else 'solid-state disk'}"


def _sync_seconds(directory: Path, times: int = 100) -> float:
    path = directory / "sync"
    took = []
    with path.open("ab", buffering=0) as file:
        for _ in range(times):
            start = time.perf_counter()
            file.write(b"x" * 1000)
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - start)
    path.unlink()
    return statistics.median(took)

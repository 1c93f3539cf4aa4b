"""Spare resources of this machine: cores, memory, disk."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

CORES_A_BUILD: Final = 4
"""Go keeps this many cores busy through most of a build; fewer builds at a time than cores / this only queue."""

LINK_BYTES: Final = 1_800_000_000
"""Memory that linking the largest of the tools takes."""

_CGROUP: Final = Path("/sys/fs/cgroup")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def builds_at_a_time(cores: int, memory: int) -> int:
    """How many builds neither the cores nor `memory` bytes refuse; one is always tried."""
    return max(1, min(cores // CORES_A_BUILD, memory // LINK_BYTES))


def memory(cgroup: Path = _CGROUP) -> int:
    """Bytes that programs may still take: of the machine, or of the container where that is less."""
    available = int(psutil.virtual_memory().available)
    with suppress(OSError, ValueError):  # no container, or one without a limit (`max`)
        limit = int((cgroup / "memory.max").read_text(encoding="utf-8"))
        used = int((cgroup / "memory.current").read_text(encoding="utf-8"))
        return max(0, min(available, limit - used))
    return available


def disk(folder: Path) -> int:
    """Bytes that are free where `folder` is, or will be."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(there).free


def busy() -> bool:
    """Whether more programs are ready to run than there are cores."""
    return os.getloadavg()[0] > 1.5 * cores()

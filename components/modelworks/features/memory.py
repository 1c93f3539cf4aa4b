"""How much memory this process may still take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

_GROUPS = Path("/proc/self/cgroup")
_MOUNTS = Path("/sys/fs/cgroup")


def available_bytes(groups: Path = _GROUPS, mounts: Path = _MOUNTS) -> int:
    """Bytes that are free on the machine, or below the limit of this process's container where that is less.

    Args:
        groups: The control groups of the process, as Linux lists them.
        mounts: Where control groups are mounted: those of version 2, or `memory` of version 1 below it.
    """
    free = int(psutil.virtual_memory().available)
    used = int(psutil.Process().memory_info().rss)
    return max(0, min([free, *(limit - used for limit in _limits(groups, mounts))]))


def _limits(groups: Path, mounts: Path) -> Iterator[int]:
    try:
        lines = groups.read_text(encoding="utf-8").splitlines()
    except OSError:
        return  # no Linux
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            file, top = "memory.max", mounts
        elif controllers == "memory":
            file, top = "memory.limit_in_bytes", mounts / "memory"
        else:
            continue
        # A container sees its own group at the top, and one without a namespace of its own its path.
        for folder in dict.fromkeys((top / group.lstrip("/"), top)):
            try:
                yield int((folder / file).read_text(encoding="ascii"))
            except (OSError, ValueError):  # not there, or no limit (`max`)
                continue

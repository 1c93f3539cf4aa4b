"""CPU and memory that containers use: read from /proc, and from their control groups where they have one."""

from __future__ import annotations

import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from modelworks.laptop.agent import cgroup
from modelworks.laptop.agent.sandbox import Marked

SECONDS = 10.0
"""Between two readings: how often a kubelet reads its containers (cAdvisor's housekeeping interval)."""
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Usage:
    """CPU and memory that something used."""

    at: float
    """When it was read (Unix seconds)."""
    window: float
    """Seconds before `at` that `cores` is the average of."""
    cores: float
    memory: int
    """Bytes at `at`."""


@dataclass(frozen=True)
class Measured:
    """The processes of one run of a container."""

    shim: Marked
    """The process above all of them."""
    group: Path | None
    """Their memory control group, where they have one."""


@dataclass(frozen=True)
class _Row:
    """A process: its parent, when it started, and the CPU seconds of it and of its children that were waited for."""

    parent: int
    started: str
    seconds: float


@dataclass
class Meter:
    """The usage of every container and of the machine, as of the last two readings."""

    containers: dict[str, Usage] = field(default_factory=dict)
    """By the key that `read` was given; there is none before the second reading."""
    machine: Usage | None = None
    _before: dict[str, tuple[float, float]] = field(default_factory=dict)
    """CPU seconds so far, and when that was read, by key; that of the machine is empty."""

    def read(self, measured: Mapping[str, Measured]) -> None:
        """Read all of them again; what is not named any more is forgotten."""
        rows = _processes()
        children = _children(rows)
        seen: dict[str, Usage | None] = {}
        before, self._before = self._before, {}
        for key, one in measured.items():
            tree = list(_tree(one.shim, rows, children))
            if tree:
                seconds = sum(rows[pid].seconds for pid in tree)
                seen[key] = self._usage(key, before, seconds, _memory(one.group, tree))
        self.containers = {key: usage for key, usage in seen.items() if usage is not None}
        machine = psutil.virtual_memory()
        self.machine = self._usage("", before, _busy(), machine.total - machine.available)

    def _usage(self, key: str, before: Mapping[str, tuple[float, float]], seconds: float, memory: int) -> Usage | None:
        now = time.time()
        self._before[key] = (seconds, now)
        if key not in before or now <= before[key][1]:
            return None
        window = now - before[key][1]
        # A child that nobody waited for takes what it used with it.
        return Usage(now, window, max(0.0, seconds - before[key][0]) / window, memory)


def trees(measured: Mapping[str, Measured]) -> dict[str, list[int]]:
    """The ids of the processes of each run, as of now."""
    rows = _processes()
    children = _children(rows)
    return {key: list(_tree(one.shim, rows, children)) for key, one in measured.items()}


def _children(rows: Mapping[int, _Row]) -> dict[int, list[int]]:
    children = defaultdict(list)
    for pid, row in rows.items():
        children[row.parent].append(pid)
    return children


def _processes() -> dict[int, _Row]:
    rows = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - thousands of names, a few hundred of them processes
        if name.isdecimal():
            # It may have ended since it was listed.
            with contextlib.suppress(OSError, ValueError, IndexError):
                line = Path(f"/proc/{name}/stat").read_text(encoding="utf-8", errors="replace")
                fields = line.rpartition(")")[2].split()
                used = sum(int(ticks) for ticks in fields[11:15])  # utime stime cutime cstime, of proc(5)
                rows[int(name)] = _Row(int(fields[1]), fields[19], used / _TICKS)
    return rows


def _tree(root: Marked, rows: Mapping[int, _Row], children: Mapping[int, list[int]]) -> Iterator[int]:
    if root.pid not in rows or rows[root.pid].started != root.started:
        return
    waiting = [root.pid]
    while waiting:
        pid = waiting.pop()
        yield pid
        waiting += children.get(pid, [])


def _memory(group: Path | None, tree: list[int]) -> int:
    if group is not None:
        with contextlib.suppress(OSError, ValueError, KeyError):
            return cgroup.working_set(group)
    return sum(_share(pid) for pid in tree)


def _share(pid: int) -> int:
    """Bytes of a process; of pages that it shares with others, its share: workers that were forked count once."""
    with contextlib.suppress(OSError):  # it ended, or may not be looked into
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE
    return 0


def _busy() -> float:
    """CPU seconds of the machine so far; those of guests are counted in its own."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq + times.steal)

"""Memory limits, where the kernel lets the agent make control groups (version 1 or 2)."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Memory:
    """The control group that the containers of one place live under."""

    base: Path
    version: int

    @classmethod
    def detect(cls, place: Path, mounts: str = "/proc/self/mountinfo", own: str = "/proc/self/cgroup") -> Memory | None:
        """The group for `place`, made if need be; None where the kernel or its owner does not allow that."""
        name = _name(place)
        for version, parent in _parents(
            Path(mounts).read_text(encoding="utf-8"), Path(own).read_text(encoding="utf-8")
        ):
            base = parent / name
            try:
                memory = cls(base, version)
                trial = memory.limited("trial", 64 * 2**20)
                memory.remove(trial)
            except OSError as error:
                log.info("no memory limits below %s: %s", parent, error.strerror)
                with contextlib.suppress(OSError):
                    base.rmdir()
            else:
                return memory
        return None

    def limited(self, name: str, limit: int) -> Path:
        """A new group whose processes share `limit` bytes; beyond that the kernel ends one or all of them.

        Raises:
            OSError: The kernel refused.
        """
        folder = self.base / name
        if not self.base.exists():
            self.base.mkdir()
            if self.version == 2:
                (self.base / "cgroup.subtree_control").write_text("+memory", encoding="ascii")
        folder.mkdir(exist_ok=True)
        if self.version == 2:
            (folder / "memory.max").write_text(str(limit), encoding="ascii")
            (folder / "memory.oom.group").write_text("1", encoding="ascii")
            with contextlib.suppress(OSError):
                (folder / "memory.swap.max").write_text("0", encoding="ascii")
        else:
            (folder / "memory.limit_in_bytes").write_text(str(limit), encoding="ascii")
            with contextlib.suppress(OSError):  # no swap accounting in this kernel
                (folder / "memory.memsw.limit_in_bytes").write_text(str(limit), encoding="ascii")
        return folder

    def killed(self, folder: Path) -> bool:
        """Whether the kernel ended a process of the group for lack of memory."""
        file = folder / ("memory.events" if self.version == 2 else "memory.oom_control")
        try:
            lines = dict(line.split() for line in file.read_text(encoding="ascii").splitlines())
        except (OSError, ValueError):
            return False
        return int(lines.get("oom_kill", 0)) > 0

    def remove(self, folder: Path) -> None:
        """Remove a group whose processes have ended, and the place's own when that was the last."""
        for _ in range(10):
            try:
                folder.rmdir()
            except FileNotFoundError:
                break
            except OSError:
                time.sleep(0.005)  # its last process is just leaving
            else:
                break
        with contextlib.suppress(OSError):
            self.base.rmdir()

    @classmethod
    def wipe(cls, place: Path) -> None:
        """Remove every group of a place whose processes have ended: what `down` does when no agent is left to do it."""
        for root in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory")):
            for base in root.glob(f"**/{_name(place)}"):
                memory = cls(base, 1)
                for group in [path for path in base.iterdir() if path.is_dir()]:
                    memory.remove(group)
                with contextlib.suppress(OSError):
                    base.rmdir()


def working_set(group: Path) -> int:
    """Bytes that a group uses and the kernel cannot reclaim at once: the kubelet's `working set`.

    Raises:
        OSError: There is no such group, or it has ended.
    """
    version_2 = (group / "memory.current").exists()
    used = int((group / ("memory.current" if version_2 else "memory.usage_in_bytes")).read_text(encoding="ascii"))
    lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
    inactive = dict(line.split() for line in lines)["inactive_file" if version_2 else "total_inactive_file"]
    return max(0, used - int(inactive))


def _name(place: Path) -> str:
    return "modelworks-" + hashlib.sha256(str(place).encode()).hexdigest()[:12]


def _parents(mounts: str, own: str) -> list[tuple[int, Path]]:
    """Where a group may be made: version and folder, the likeliest first."""
    groups = {line.split(":")[1]: line.split(":", 2)[2] for line in own.splitlines()}
    found: list[tuple[int, Path]] = []
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        path, kind, options = Path(before.split()[4]), after.split()[0], after.split()[2]
        if kind == "cgroup2" and "memory" in _controllers(path):
            # A group with processes of its own may have no limited ones below it, hence the root's or the parent's.
            mine = path / groups.get("", "/").lstrip("/")
            found += [(2, path)] if os.geteuid() == 0 else [(2, mine.parent), (2, mine.parent.parent)]
        elif kind == "cgroup" and "memory" in options.split(","):
            found.append((1, path / groups.get("memory", "/").lstrip("/")))
    return found


def _controllers(path: Path) -> list[str]:
    try:
        return (path / "cgroup.controllers").read_text(encoding="ascii").split()
    except OSError:
        return []

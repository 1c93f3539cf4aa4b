"""The end of a laptop cloud: its processes, its mounts and its files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

from modelworks.errors import ModelworksError
from modelworks.laptop import supervisor
from modelworks.laptop.agent.cgroup import Memory
from modelworks.laptop.state_dir import StateDir


def end(place: StateDir, *, keep: bool) -> None:
    """End everything of a place, and wipe it or keep its files.

    Raises:
        ModelworksError: A process or file withstands.
    """
    supervisor.stop(place, grace=8 if keep else 1.5)
    if left := supervisor.leftovers(place):
        pids = ", ".join(str(process.pid) for process in left)
        raise ModelworksError(f"these processes of the laptop cloud withstand SIGKILL: {pids}", fix="End them as root.")
    _unmount(place)
    Memory.wipe(place.root)
    if place.claimed and not keep:
        _wipe(place)


def _wipe(place: StateDir) -> None:
    """Delete the folder, its mark last: whatever ends this half-way, the next `down` continues."""
    place.mark.touch()
    for attempt in range(6):
        if attempt:
            time.sleep(0.1)  # a process that was killed may still have been writing
        refused: list[OSError] = []
        for path in [path for path in place.root.iterdir() if path != place.mark]:
            try:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            except OSError as error:
                refused.append(error)
        if not refused:
            shutil.rmtree(place.root)
            return
    raise ModelworksError(
        f"cannot remove {refused[0].filename or place.root}: {refused[0].strerror}", fix="Remove it as its owner."
    ) from refused[0]


def _unmount(place: StateDir) -> None:
    prefix = str(place.root) + os.sep
    fields = [line.split(b" ")[4] for line in Path("/proc/self/mountinfo").read_bytes().splitlines()]
    # The kernel writes blanks, line ends and backslashes in octal.
    mounts = [os.fsdecode(re.sub(rb"\\(\d{3})", lambda octal: bytes([int(octal[1], 8)]), field)) for field in fields]
    for target in sorted(mounts, reverse=True):
        if target.startswith(prefix):
            subprocess.run(["umount", "-l", target], capture_output=True, timeout=10, check=False)

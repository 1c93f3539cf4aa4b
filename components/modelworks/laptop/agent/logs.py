"""Logs of containers: one file a run, rotated by cutting its head off while it is written."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

LIMIT = 10 * 2**20
"""Bytes after which a log is rotated: the kubelet's default. One older part, `N.log.1`, is kept."""
CHECK_SECONDS = 30.0
KEPT = 50
"""How many pods' logs are kept, those of pods that are gone included."""
_BLOCK = 2**20
"""Heads are cut in whole multiples of this: file systems cut whole blocks only, and none has larger ones."""


async def rotate_for_ever(folder: Path, alive: Callable[[], set[str]]) -> None:
    """Keep the logs below `folder` within bounds; `alive` names the folders of pods that are there."""
    while True:
        await asyncio.sleep(CHECK_SECONDS)
        await asyncio.to_thread(rotate_all, folder)
        await asyncio.to_thread(forget, folder, alive())


def rotate_all(folder: Path, limit: int = LIMIT) -> None:
    """Rotate each log below `folder` that is longer than `limit` bytes."""
    for path in folder.glob("*/*/*.log"):
        try:
            if path.stat().st_size > limit:
                rotate(path)
        except OSError as error:
            log.warning("log %s cannot be rotated: %s", path, error)


def rotate(path: Path) -> None:
    """Move all but the end of a log to `PATH.1`, while its process goes on appending.

    Where the file system can take the head off a file (ext4, xfs), not a byte is lost. Elsewhere what is written
    between copying and cutting is, as with any copy-and-truncate.
    """
    length = path.stat().st_size // _BLOCK * _BLOCK
    older = path.with_name(path.name + ".1")
    partial = path.with_name(path.name + ".1.tmp")
    with path.open("rb") as source, partial.open("wb") as target:
        left = length
        while left and (chunk := source.read(min(left, _BLOCK))):
            target.write(chunk)
            left -= len(chunk)
        if not _cut(path, length):
            shutil.copyfileobj(source, target)
            os.truncate(path, 0)
    partial.replace(older)


def _cut(path: Path, length: int) -> bool:
    if not length or not (tool := shutil.which("fallocate")):
        return False
    argv = [tool, "--collapse-range", "--offset", "0", "--length", str(length), str(path)]
    return subprocess.run(argv, capture_output=True, timeout=60, check=False).returncode == 0


def forget(folder: Path, alive: set[str]) -> None:
    """Delete the logs of pods that are gone, but for the newest: `alive` are names of pods' folders to keep anyway."""
    gone = sorted((p for p in folder.iterdir() if p.name not in alive), key=lambda p: p.stat().st_mtime, reverse=True)
    for path in gone[KEPT:]:
        shutil.rmtree(path, ignore_errors=True)


def tail(path: Path, *, lines: int, limit: int) -> str:
    """The last `lines` lines of a file, no more than `limit` bytes."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - limit))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])

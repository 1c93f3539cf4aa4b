"""Logs of containers: one file a run, rotated by cutting its head off while it is written.

A process writes its log itself, so it continues without an agent, and writes no times. The agent records its length
every half second: from this, `kubectl logs --timestamps` and `--since` work.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import subprocess
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from modelworks._files import write_whole

log = logging.getLogger(__name__)

LIMIT = 10 * 2**20
"""Bytes after which a log is rotated: the kubelet's default. One older part, `N.log.1`, is kept."""
CHECK_SECONDS = 30.0
KEPT = 50
"""How many pods' logs are kept, those of pods that are gone included."""
NOTE_SECONDS = 0.5
"""Between looks at how far logs have come."""
_BLOCK = 2**20
"""Heads are cut in whole multiples of this: file systems cut whole blocks only, and none has larger ones."""


class Times:
    """When what is in a log was written.

    Args:
        marks: Length of the log and Unix time, oldest first: up to there it was written by then.
    """

    def __init__(self, marks: Sequence[tuple[int, float]]) -> None:
        self._lengths = [length for length, _ in marks]
        self._moments = [moment for _, moment in marks]

    @classmethod
    def of(cls, path: Path) -> Times:
        """Those that were noted of a log."""
        try:
            lines = _times_path(path).read_text("ascii").splitlines()
        except FileNotFoundError:
            lines = []
        return cls([(int(length), float(moment)) for length, moment in (line.split() for line in lines)])

    def at(self, offset: int) -> float | None:
        """When the byte at `offset` was written (Unix seconds); None if it was after the last note."""
        index = bisect_right(self._lengths, offset)
        return self._moments[index] if index < len(self._moments) else None

    def since(self, moment: float) -> int:
        """How much had been written before `moment`."""
        index = bisect_left(self._moments, moment)
        return self._lengths[index - 1] if index else 0

    def cut(self, path: Path, length: int) -> None:
        """Note of the log at `path` that its first `length` bytes are gone."""
        marks = [(at - length, moment) for at, moment in zip(self._lengths, self._moments, strict=True) if at > length]
        write_whole(_times_path(path), "".join(f"{at} {moment:.3f}\n" for at, moment in marks))


async def note_times_for_ever(written: Callable[[], Iterable[Path]]) -> None:
    """Note again and again how far the logs have come that `written` names."""
    lengths: dict[Path, int] = {}
    while True:
        paths = list(written())
        lengths = {path: note_time(path, lengths.get(path, 0)) for path in paths}
        await asyncio.sleep(NOTE_SECONDS)


def note_time(path: Path, before: int) -> int:
    """Note of a log that was `before` bytes long what has come since; returns its length now."""
    try:
        length = path.stat().st_size
    except FileNotFoundError:
        return 0
    if length > before:
        with _times_path(path).open("a", encoding="ascii") as file:
            file.write(f"{length} {time.time():.3f}\n")
    return length


def _times_path(path: Path) -> Path:
    return path.with_name(path.name + ".times")


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
    """Move all but the end of a log to `PATH.1`, while its process keeps appending.

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
            length = source.tell()
            os.truncate(path, 0)
    Times.of(path).cut(path, length)
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

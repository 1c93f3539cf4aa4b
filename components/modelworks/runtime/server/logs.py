"""Structured logs: one JSON object a line on standard output, never at the cost of a request.

Lines are handed to a thread that writes them. When whoever reads them is too slow, lines are dropped and counted.
Losses are counted by reason and reported at most once a minute.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

_WAITING_BYTES = 4 << 20
"""Most bytes of lines that wait for their reader."""
_WAKE_LINES = 1000
"""So many lines are not kept waiting for the next `kick`."""
_SAY_SECONDS = 1.0
"""How long a line may keep its own process waiting; then it is lost."""
_REPORT_SECONDS = 60.0
_LIMIT_SECONDS = 1.0

Say = Callable[..., object]
"""Logs: level, message and fields."""


class Scribe:
    """A thread that writes the log lines of an event loop."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque()
        self._bytes = self._reported = 0
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._work, name="scribe", daemon=True)
        self.dropped = 0
        """Lines that nobody will read."""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def add(self, text: bytes) -> None:
        """Write this line soon. Never blocks; wakes nobody until `kick`."""
        with self._lock:
            if self._bytes + len(text) > _WAITING_BYTES:
                self.dropped += 1
                return
            self._bytes += len(text)
            self._lines.append(text)
        if len(self._lines) >= _WAKE_LINES:
            self._wake.set()

    def say(self, level: str, message: str, **fields: Any) -> None:
        """Write one log line soon. Never blocks; any thread may call it."""
        self.add(line(level, message, **fields))
        self.kick()

    def kick(self) -> None:
        """Let the thread work off what has gathered."""
        if self._lines:
            self._wake.set()

    def close(self) -> None:
        """Work off what is left, for at most five seconds, and end."""
        self._ended = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _work(self) -> None:
        while not self._ended or self._lines:
            self._wake.wait(timeout=None if not self._ended else 0)
            self._wake.clear()
            while lines := self._take():
                if not _write(b"".join(lines)):
                    self.dropped += len(lines)
            fresh = self.dropped - self._reported
            if fresh and _write(line("warning", "log lines were dropped: the reader is too slow", count=fresh)):
                self._reported += fresh

    def _take(self) -> list[bytes]:
        """The next lines that are written at once, so that lines of other processes do not come between."""
        with self._lock:
            taken: list[bytes] = []
            size = 0
            while self._lines and (not taken or size + len(self._lines[0]) <= select.PIPE_BUF):
                taken.append(self._lines.popleft())
                size += len(taken[-1])
            self._bytes -= size
        return taken


class Losses:
    """Losses, counted by reason, and reported: at once, then at most once a minute.

    A reason belongs to one thread.

    Args:
        message: Of the log line.
        counts: Of an earlier life.
    """

    def __init__(self, message: str, counts: dict[str, int] | None = None) -> None:
        self._message = message
        self.counts: dict[str, int] = dict(counts or {})
        self._reported = dict(self.counts)
        self._next = 0.0

    def add(self, reason: str, count: int) -> None:
        """Count a loss."""
        self.counts[reason] = self.counts.get(reason, 0) + count

    def report(self, say: Say, *, last: bool = False) -> None:
        """Log what was lost since the last report, if it is time for one."""
        counts, now = dict(self.counts), time.monotonic()
        if counts == self._reported or (now < self._next and not last):
            return
        fresh = {reason: count - self._reported.get(reason, 0) for reason, count in counts.items()}
        say("error", self._message, **{reason: count for reason, count in fresh.items() if count})
        self._reported, self._next = counts, now + _REPORT_SECONDS


class Limiter:
    """Lines of each kind, at most one a second: the first is written as it is, those after it are counted.

    Pure: the caller passes the time, in seconds.
    """

    def __init__(self) -> None:
        self._next: dict[int, float] = {}
        """When a kind may have its next line."""
        self._counts: dict[int, int] = {}
        """Of a kind, those since its last line."""

    def admits(self, kind: int, now: float) -> bool:
        """Whether this one has its own line; if not, it is counted."""
        if kind in self._counts or now < self._next.get(kind, now):
            self._counts[kind] = self._counts.get(kind, 0) + 1
            return False
        self._next[kind] = now + _LIMIT_SECONDS
        return True

    def due(self, now: float, *, last: bool = False) -> list[tuple[int, int]]:
        """Kinds for whose counts it is time, and these; all of them at the `last` time."""
        kinds = [kind for kind in self._counts if last or now >= self._next[kind]]
        self._next.update(dict.fromkeys(kinds, now + _LIMIT_SECONDS))
        return [(kind, self._counts.pop(kind)) for kind in kinds]


def line(level: str, message: str, **fields: Any) -> bytes:
    """One log line: time, level, message, and further fields."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return msgspec.json.encode({"time": now, "level": level, "message": message, **fields}) + b"\n"


def say(level: str, message: str, **fields: Any) -> None:
    """Write one log line now, or lose it if nobody reads. For where there is no event loop to keep waiting."""
    _write(line(level, message, **fields), _SAY_SECONDS)


def place(error: BaseException) -> str:
    """The type of an error, and where it was raised. Never its message, which may quote values of a request."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" in {frames[-1].name}, {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"


def _write(data: bytes, seconds: float | None = None) -> bool:
    """Whether standard output took it, within `seconds` or whenever it does."""
    rest = memoryview(data)
    try:
        descriptor = sys.stdout.fileno()
        writable = select.poll()
        writable.register(descriptor, select.POLLOUT)
        while rest:
            if not writable.poll(None if seconds is None else 1000 * seconds):
                return False
            # What poll promises room for: more would block in a pipe that nobody reads.
            rest = rest[os.write(descriptor, rest[: select.PIPE_BUF]) :]
    except BlockingIOError:
        return _write(bytes(rest), seconds)
    except OSError:
        return False  # nobody reads any more; serving matters more
    return True

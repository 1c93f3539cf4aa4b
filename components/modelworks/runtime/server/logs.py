"""Structured logs: one JSON object a line on standard output, never at the cost of a request.

Lines are handed to a thread that writes them. When whoever reads them is too slow, lines are dropped and counted.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

_MAX_LINES = 10_000


class Scribe:
    """A thread that does the writing for an event loop: log lines, and any other small job that may block."""

    def __init__(self) -> None:
        self._jobs: deque[bytes | Callable[[], object]] = deque()
        self._wake = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._work, name="scribe", daemon=True)
        self.dropped = 0

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def add(self, job: bytes | Callable[[], object]) -> None:
        """Write this line, or call this function, soon. Never blocks; wakes nobody until `kick`."""
        if len(self._jobs) >= _MAX_LINES:
            self.dropped += 1
        else:
            self._jobs.append(job)

    def say(self, level: str, message: str, **fields: Any) -> None:
        """Write one log line soon. Never blocks; any thread may call it."""
        self.add(line(level, message, **fields))
        self.kick()

    def kick(self) -> None:
        """Let the thread work off what has gathered."""
        if self._jobs:
            self._wake.set()

    def close(self) -> None:
        """Work off what is left, for at most five seconds, and end."""
        self._ended = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _work(self) -> None:
        while not self._ended or self._jobs:
            self._wake.wait(timeout=None if not self._ended else 0)
            self._wake.clear()
            lines = []
            for _ in range(len(self._jobs)):
                job = self._jobs.popleft()
                if isinstance(job, bytes):
                    lines.append(job)
                else:
                    job()
            if self.dropped:
                lines.append(line("warning", "log lines were dropped: the reader is too slow", count=self.dropped))
                self.dropped = 0
            _write(b"".join(lines))


def line(level: str, message: str, **fields: Any) -> bytes:
    """One log line: time, level, message, and further fields."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return msgspec.json.encode({"time": now, "level": level, "message": message, **fields}) + b"\n"


def say(level: str, message: str, **fields: Any) -> None:
    """Write one log line now. For the beginning and the end, when there is no event loop to keep waiting."""
    _write(line(level, message, **fields))


def _write(data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(sys.stdout.fileno(), rest) :]
        except BlockingIOError:
            continue
        except OSError:
            return  # nobody reads any more; serving matters more

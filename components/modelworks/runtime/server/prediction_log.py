"""The prediction log, where it begins: each request, its answer and its release.

Answers are encoded in small chunks, and a separate thread writes them, at least twice a second, as files of
the spool: one file, whole or not at all. The publisher takes them to S3. A process that is killed loses what it
answered in its last half second; what is in the spool is taken by the next one. Where the disk is slow or S3 is away,
the newest rows are dropped and counted.
"""

from __future__ import annotations

import itertools
import random
import threading
import uuid
from collections import deque
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from modelworks.runtime.manifest import Manifest
from modelworks.runtime.server import spool
from modelworks.runtime.server.logs import Losses
from modelworks.runtime.stored import logged_columns

if TYPE_CHECKING:
    from modelworks.runtime.encoding import Row
    from modelworks.runtime.predictions import Predictions

CHUNK_ROWS = 256
"""Rows that are encoded at once: about 0.2 ms of work."""
_FILE_BYTES = 1 << 20
"""As soon as so much has gathered it is written."""
_WAITING_BYTES = 16 << 20
"""Most that waits in memory for the disk."""
_CLOSE_SECONDS = 5.0


class _File(NamedTuple):
    path: Path
    chunks: list[bytes]
    size: int
    rows: int


class PredictionLog:
    """The writer of the spool.

    Args:
        folder: The spool; created.
        manifest: Which features there are, and which are private.
        sample: Share of requests that are kept, 0 to 1.
    """

    def __init__(self, folder: Path, manifest: Manifest, sample: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._sample = folder, sample
        # A prefix for each process: a file left by an earlier life is never overwritten.
        self._prefix, self._numbers = uuid.uuid4().hex[:8], itertools.count(1)
        self._public = [column.position for column in logged_columns(manifest)]
        self.losses = Losses("rows of the prediction log were lost")
        """By reason: `memory` (the disk is too slow), `spool_full` (S3 is too slow), `disk` (it takes nothing),
        `unfinished` (a process was killed while it wrote them)."""
        self._fresh: list[tuple[str, float, float, list[Row], Predictions]] = []
        self._fresh_rows = 0
        self._day = 0.0
        """The day of what has gathered: when it began, seconds since the epoch."""
        self._chunks: list[bytes] = []
        self._chunk_rows = self._chunk_bytes = 0
        self._added = self._written = 0
        """Bytes that were encoded, and those of them that wait no longer."""
        self._files: deque[_File] = deque()
        self._stored = spool.stored_bytes(folder)
        self._wake, self._ended = threading.Event(), False
        self._thread = threading.Thread(target=self._work, name="prediction-log", daemon=True)
        if unfinished := spool.sweep(folder, older_than=0):
            self.losses.add("unfinished", unfinished)

    def start(self) -> None:
        """Start the thread that writes."""
        self._thread.start()

    def add(self, request_id: str, at: float, latency_ms: float, rows: list[Row], predictions: Predictions) -> None:
        """Keep this answer, if it is its turn. Never blocks.

        Args:
            request_id: As answered.
            at: When it was answered, seconds since the epoch.
            latency_ms: How long it took.
            rows: The rows as they are logged.
            predictions: Their answers.
        """
        if self._sample < 1 and random.random() >= self._sample:  # noqa: S311 - sampling is no secret
            return
        if self._added - self._written > _WAITING_BYTES:
            self.losses.add("memory", len(rows))
            return
        if not self._day <= at < self._day + spool.DAY_SECONDS:
            self.flush()  # a file, and an object in S3, has rows of one day
            self._day = spool.start_of_day(at)
        self._fresh.append((request_id, at, latency_ms, rows, predictions))
        self._fresh_rows += len(rows)
        if self._fresh_rows >= CHUNK_ROWS:
            self._encode_fresh()
            if self._chunk_bytes >= _FILE_BYTES:
                self.flush()

    def flush(self) -> None:
        """Let the thread write what has gathered."""
        self._encode_fresh()
        if not self._chunks:
            return
        name = spool.file_name(self._day, f"{self._prefix}-{next(self._numbers)}", self._chunk_rows)
        self._files.append(_File(self._folder / name, self._chunks, self._chunk_bytes, self._chunk_rows))
        self._chunks, self._chunk_rows, self._chunk_bytes = [], 0, 0
        self._wake.set()

    def waiting_rows(self) -> int:
        """Rows that are not in S3 yet."""
        queued = sum(file.rows for file in list(self._files))
        return self._fresh_rows + self._chunk_rows + queued + spool.waiting_rows(self._folder)

    def close(self) -> None:
        """Write what is left, for at most five seconds; the rest is lost, and counted."""
        self.flush()
        self._ended = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_SECONDS)
        if unwritten := sum(file.rows for file in list(self._files)):
            self.losses.add("memory", unwritten)

    def _encode_fresh(self) -> None:
        if not self._fresh:
            return
        ids, times, latencies, rows, predictions = zip(*self._fresh, strict=True)
        columns = list(zip(*chain.from_iterable(rows), strict=True))
        chunk = spool.chunk_bytes(
            (
                ids,
                times,
                latencies,
                [len(some) for some in rows],
                [columns[number] for number in self._public],
                list(chain.from_iterable([some.values for some in predictions])),
                list(chain.from_iterable([some.labels for some in predictions])),
            )
        )
        self._chunks.append(chunk)
        self._chunk_rows += self._fresh_rows
        self._chunk_bytes += len(chunk)
        self._added += len(chunk)
        self._fresh, self._fresh_rows = [], 0

    # -- In the thread -------------------------------------------------------------------------------------------
    def _work(self) -> None:
        while not self._ended or self._files:
            self._wake.wait()
            self._wake.clear()
            while self._files:
                file = self._files[0]
                if reason := self._store(file):
                    self.losses.add(reason, file.rows)
                self._files.popleft()  # only now: a file in the hands of a disk that hangs still waits
                self._written += file.size

    def _store(self, file: _File) -> str:
        """Write a file; returns why its rows are lost, or nothing."""
        if self._stored + file.size > spool.SPOOL_BYTES:
            self._stored = spool.stored_bytes(self._folder)  # without what was taken away meanwhile
            if self._stored + file.size > spool.SPOOL_BYTES:
                return "spool_full"
        unfinished = file.path.with_suffix(".part")
        try:
            unfinished.write_bytes(b"".join(file.chunks))
            unfinished.rename(file.path)
        except OSError:  # the disk is full or gone; serving goes on, and the count says so
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
            return "disk"
        self._stored += file.size
        return ""

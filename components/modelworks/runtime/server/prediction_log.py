"""The prediction log: each request, its answer and its release.

A worker encodes what it answered in small chunks and leaves them, every second, in a spool folder: one file, whole or
not at all. The companion process gathers these files into Parquet and takes it to S3. A process that is killed loses
what it answered in the last second; what is in the spool is taken by the next one. When S3 is away the spool fills up
to its bound, and then the newest rows are dropped and counted.
"""

from __future__ import annotations

import os
import random
import shutil
import struct
import time
import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from modelworks.runtime.manifest import Manifest
from modelworks.runtime.stored import logged_columns

if TYPE_CHECKING:
    from modelworks.runtime.encoding import Row
    from modelworks.runtime.predictor import Predictions
    from modelworks.runtime.server.logs import Scribe

CHUNK_ROWS = 256
"""Rows that are encoded at once: about 0.2 ms of work."""
SPOOL_BYTES = 64 << 20
"""Most that waits on disk for S3."""
_WAITING_ROWS = 20_000
"""Most rows that wait in memory for the disk."""
BATCH_BYTES = 4 << 20
"""About as much as one Parquet file is made of: what bounds the companion's memory."""

_LENGTH = struct.Struct(">I")


class Chunk(msgspec.Struct, frozen=True, array_like=True):
    """Some answered requests, column by column: cheaper to write and to read than row by row."""

    ids: list[str]
    """Of the requests; these first four have an entry a request, the others one a row."""
    times: list[float]
    """When they were answered, seconds since the epoch."""
    latencies: list[float]
    """How long they took, in milliseconds."""
    counts: list[int]
    """How many rows each has."""
    features: list[list[Any]]
    """One list for each of `logged_columns`."""
    values: list[float]
    labels: list[int]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Chunk).decode


class PredictionLog:
    """The worker's side.

    Args:
        spool: Folder for finished files; created.
        manifest: Which features there are, and which are private.
        sample: Share of requests that are kept, 0 to 1.
        scribe: Who writes the files.
        name: Distinguishes this worker's files from others'.
    """

    def __init__(self, spool: Path, manifest: Manifest, sample: float, scribe: Scribe, name: str) -> None:
        spool.mkdir(parents=True, exist_ok=True)
        self._spool, self._sample, self._scribe = spool, sample, scribe
        # A process of its own name each: a file left by an earlier life is never overwritten.
        self._prefix = f"{name}-{uuid.uuid4().hex[:8]}"
        self._files = 0
        self._public = [column.position for column in logged_columns(manifest)]
        self._fresh: list[tuple[str, float, float, list[Row], Predictions]] = []
        self._fresh_rows = 0
        self._chunks: list[bytes] = []
        self._waiting_rows = 0
        self.dropped = 0
        """Rows that were dropped for lack of space."""

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
        count = len(rows)
        if self._waiting_rows + count > _WAITING_ROWS:
            self.dropped += count
            return
        self._waiting_rows += count
        self._fresh.append((request_id, at, latency_ms, rows, predictions))
        self._fresh_rows += count
        if self._fresh_rows >= CHUNK_ROWS:
            self._encode_fresh()

    def flush(self) -> None:
        """Hand what has gathered to the scribe."""
        self._encode_fresh()
        if not self._chunks:
            return
        chunks, rows = self._chunks, self._waiting_rows
        self._chunks, self._waiting_rows = [], 0
        self._files += 1
        path = self._spool / f"{time.time_ns():020d}-{self._prefix}-{self._files}.rows"
        self._scribe.add(lambda: self._write(path, chunks, rows))

    def _encode_fresh(self) -> None:
        if not self._fresh:
            return
        ids, times, latencies, rows, predictions = zip(*self._fresh, strict=True)
        columns = list(zip(*chain.from_iterable(rows), strict=True))
        chunk = _encode(
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
        self._fresh, self._fresh_rows = [], 0
        self._chunks.append(_LENGTH.pack(len(chunk)) + chunk)

    def _write(self, path: Path, chunks: list[bytes], rows: int) -> None:
        try:
            if spooled_bytes(self._spool) > SPOOL_BYTES:
                self.dropped += rows
                return
            unfinished = path.with_suffix(".part")
            unfinished.write_bytes(b"".join(chunks))
            unfinished.rename(path)
        except OSError:  # the disk is full or gone; serving goes on, and the count says so
            self.dropped += rows


def spooled_bytes(spool: Path) -> int:
    """The content of the spool."""
    total = 0
    for folder, _, names in os.walk(spool):
        for name in names:
            try:
                total += (Path(folder) / name).stat().st_size
            except FileNotFoundError:  # taken away meanwhile
                continue
    return total


# -- The companion's side --------------------------------------------------------------------------------------------
class Batch(msgspec.Struct, frozen=True):
    """Files that become one Parquet object.

    Claimed by moving them into a folder of their own, whose name is the object's: however often it is tried, by
    whichever process, the same rows end under the same key.
    """

    folder: Path
    key: str

    def remove(self) -> None:
        """Forget the files: their rows are in S3."""
        # In one step: half a batch, taken for a whole one, would overwrite the object.
        done = self.folder.rename(self.folder.with_suffix(".done"))
        shutil.rmtree(done, ignore_errors=True)

    def set_aside(self) -> None:
        """Keep the files for a person to look at: they cannot be read."""
        self.folder.rename(self.folder.with_suffix(".unreadable"))


def batches(spool: Path, pod: str, release: str) -> Iterator[Batch]:
    """Batches to upload, oldest first: batches left from before, then a new one of the files in the spool."""
    for folder in spool.glob("*.done"):
        shutil.rmtree(folder, ignore_errors=True)
    for folder in sorted(spool.glob("*.batch")):
        yield _batch(folder)
    while True:
        files = sorted(spool.glob("*.rows"))
        if not files:
            return
        taken: list[Path] = []
        size = 0
        for path in files:
            size += path.stat().st_size
            if taken and size > BATCH_BYTES:
                break
            taken.append(path)
        day = datetime.fromtimestamp(int(taken[0].name[:20]) / 1e9, UTC).date()
        folder = spool / f"{day.isoformat()}_{pod}-{release}-{taken[0].name[:20]}-{uuid.uuid4().hex[:8]}.batch"
        folder.mkdir()
        for path in taken:
            path.rename(folder / path.name)
        yield _batch(folder)


def _batch(folder: Path) -> Batch:
    day, _, name = folder.name.removesuffix(".batch").partition("_")
    return Batch(folder, f"dt={day}/{name}.parquet")


def parquet(batch: Batch, manifest: Manifest, release: str) -> bytes:
    """The batch as a Parquet file.

    Columns: `request_id`, `row` (position in the request), `time`, `latency_ms`, `model`, `version` (the release),
    `label` and `score`, or `value` for a regression, and `feature_<name>` for each feature that is not private. With
    stored features also `key_<name>` for their keys, `time_<view>`, the event time of the values that were read, and
    `read_at`, when they were.
    """
    import numpy as np  # these take forty megabytes, and only this process pays for them
    import pyarrow as pa
    import pyarrow.parquet as pq

    chunks = [chunk for path in sorted(batch.folder.iterdir()) for chunk in read_chunks(path)]

    def joined(lists: Iterable[list[Any]], kind: Any = None) -> Any:
        return pa.array(list(chain.from_iterable(lists)), kind)

    counts = np.concatenate([chunk.counts for chunk in chunks])
    request = np.repeat(np.arange(len(counts)), counts)
    """For each row the request it belongs to."""
    row = np.arange(len(request)) - np.repeat(np.cumsum(counts) - counts, counts)
    times = joined((chunk.times for chunk in chunks), pa.float64()).to_numpy()
    columns: dict[str, Any] = {
        "request_id": joined((chunk.ids for chunk in chunks), pa.string()).take(request),
        "row": pa.array(row, pa.int32()),
        "time": pa.array((times * 1000).astype(np.int64), pa.timestamp("ms", tz="UTC")).take(request),
        "latency_ms": joined((chunk.latencies for chunk in chunks), pa.float32()).take(request),
        "model": pa.repeat(pa.scalar(manifest.model), len(request)),
        "version": pa.repeat(pa.scalar(release), len(request)),
    }
    values = joined((chunk.values for chunk in chunks), pa.float64())
    if manifest.kind == "regression":
        columns["value"] = values
    else:
        names = [str(label).lower() if isinstance(label, bool) else str(label) for label in manifest.classes]
        columns["label"] = pa.array(names, pa.string()).take(joined(chunk.labels for chunk in chunks))
        columns["score"] = values
    logged = logged_columns(manifest)
    for index, column in enumerate(logged):
        values = joined((chunk.features[index] for chunk in chunks), _arrow_type(pa, column.type))
        columns[column.name] = _moments(pa, values) if column.type == "time" else values
    # A dictionary of numbers that hardly repeat takes longer to make and more room than the numbers.
    repeating = ["model", "version", "label", *(each.name for each in logged if each.type == "string")]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, compression="zstd", use_dictionary=repeating)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def read_chunks(path: Path) -> Iterator[Chunk]:
    """The rows of a finished file of the spool."""
    data = memoryview(path.read_bytes())
    while data:
        end = _LENGTH.size + _LENGTH.unpack_from(data)[0]
        yield _decode(data[_LENGTH.size : end])
        data = data[end:]


def _arrow_type(pa: Any, kind: str) -> Any:
    types = {"integer": pa.int64(), "string": pa.string(), "boolean": pa.bool_()}
    return types.get(kind, pa.float64())


def _moments(pa: Any, seconds: Any) -> Any:
    """Seconds since the epoch as times, to the microsecond: a TTL is measured with them."""
    whole = [None if each is None else round(each * 1_000_000) for each in seconds.to_pylist()]
    return pa.array(whole, pa.timestamp("us", tz="UTC"))

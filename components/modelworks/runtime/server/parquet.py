"""A batch of the prediction log as Parquet.

Row groups are made one after the other: what is in memory at a time is one of them, and what was compressed so far.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from modelworks.runtime.manifest import Manifest, class_name
from modelworks.runtime.server.spool import Batch, Chunk, read_chunks
from modelworks.runtime.stored import LOGGED_STORED, Column, LoggedStored, logged_columns

_GROUP_ROWS = 16_384
"""A row group is closed as soon as it has so many."""


def parquet(
    batch: Batch, manifest: Manifest, release: str, unreadable: Callable[[Path, Exception], None]
) -> bytes | None:
    """The batch as a Parquet file; None if no row of it can be read.

    Columns: `request_id`, `row` (position in the request), `time`, `latency_ms`, `model`, `version` (the release),
    `label` and `score`, or `value` for a regression, and `feature_<name>` for each feature that is not private. With
    stored features also `key_<name>` for their keys, `time_<view>`, the event time of the values that were read, and
    `read_at`, when they were; the file's metadata has the definitions.

    Args:
        batch: Its files.
        manifest: Of the bundle.
        release: The release's short digest.
        unreadable: Called for a file that cannot be read; the others go on.
    """
    import pyarrow as pa  # forty megabytes, which only the publisher pays for
    import pyarrow.parquet as pq

    # The other pools keep what they once had.
    pa.set_memory_pool(pa.system_memory_pool())
    logged = logged_columns(manifest)
    # A dictionary of numbers that hardly repeat takes longer to make and more room than the numbers.
    repeating = ["model", "version", "label", *(column.name for column in logged if column.type == "string")]
    stored = LoggedStored.of(manifest)
    metadata = {LOGGED_STORED: msgspec.json.encode(stored)} if stored else None
    sink, writer = pa.BufferOutputStream(), None
    for chunks in _groups(_readable(batch, len(logged), unreadable)):
        table = pa.table(_columns(pa, chunks, manifest, release, logged), metadata=metadata)
        if writer is None:
            writer = pq.ParquetWriter(sink, table.schema, compression="zstd", use_dictionary=repeating)
        writer.write_table(table)
    if writer is None:
        return None
    writer.close()
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def _readable(batch: Batch, features: int, unreadable: Callable[[Path, Exception], None]) -> Iterator[list[Chunk]]:
    for path in batch.files():
        try:
            chunks = list(read_chunks(path))
        except (msgspec.MsgspecError, struct.error) as error:
            unreadable(path, error)
            continue
        if any(len(chunk.features) != features for chunk in chunks):
            unreadable(path, ValueError(f"it has other features than the {features} of this model"))
        else:
            yield chunks


def _groups(files: Iterable[list[Chunk]]) -> Iterator[list[Chunk]]:
    group: list[Chunk] = []
    rows = 0
    for chunk in chain.from_iterable(files):
        group.append(chunk)
        rows += len(chunk.values)
        if rows >= _GROUP_ROWS:
            yield group
            group, rows = [], 0
    if rows:
        yield group


def _columns(pa: Any, chunks: list[Chunk], manifest: Manifest, release: str, logged: list[Column]) -> dict[str, Any]:
    import numpy as np

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
        names = [class_name(label) for label in manifest.classes]
        columns["label"] = pa.array(names, pa.string()).take(joined(chunk.labels for chunk in chunks))
        columns["score"] = values
    for index, column in enumerate(logged):
        found = joined((chunk.features[index] for chunk in chunks), _arrow_type(pa, column.type))
        columns[column.name] = _moments(pa, found) if column.type == "time" else found
    return columns


def _arrow_type(pa: Any, kind: str) -> Any:
    types = {"integer": pa.int64(), "string": pa.string(), "boolean": pa.bool_()}
    return types.get(kind, pa.float64())


def _moments(pa: Any, seconds: Any) -> Any:
    """Seconds since the epoch as times, to the microsecond: a TTL is measured with them."""
    whole = [None if each is None else round(each * 1_000_000) for each in seconds.to_pylist()]
    return pa.array(whole, pa.timestamp("us", tz="UTC"))

"""The spool: predictions on their way from the server to S3, as files on disk.

The server leaves files, whole or not at all; the publisher claims some of them at a time, makes one Parquet object of
them and removes them. A file holds answers of one day (UTC), and its name how many, so that what is lost can be counted
without reading it.
"""

from __future__ import annotations

import os
import shutil
import struct
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

SPOOL_BYTES = 64 << 20
"""Most that waits on disk for S3."""
BATCH_BYTES = 8 << 20
"""About as much as one Parquet object is made of; as soon as so much waits, it is written."""
DAY_SECONDS = 86_400
_UNFINISHED_SECONDS = 60.0
"""A file that is not finished after this never will be."""
_KEPT_ASIDE = 8
"""Unreadable files and refused batches that are kept for a person to look at: the newest."""

_FILES = "[0-9]*-[0-9]*-[0-9]*_[0-9]*_[0-9]*.rows"
"""Matches the names of `file_name`."""

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
    """One list for each of `stored.logged_columns`."""
    values: list[float]
    labels: list[int]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Chunk).decode


def chunk_bytes(columns: tuple[Any, ...]) -> bytes:
    """The fields of a `Chunk` as a part of a file."""
    chunk = _encode(columns)
    return _LENGTH.pack(len(chunk)) + chunk


def read_chunks(path: Path) -> Iterator[Chunk]:
    """The content of a finished file."""
    data = memoryview(path.read_bytes())
    while data:
        end = _LENGTH.size + _LENGTH.unpack_from(data)[0]
        yield _decode(data[_LENGTH.size : end])
        data = data[end:]


# -- Names -----------------------------------------------------------------------------------------------------------
def file_name(day: float, unique: str, rows: int) -> str:
    """Name of a file of `rows` answers of the day that begins at `day`, seconds since the epoch. Names sort by age."""
    date = datetime.fromtimestamp(day, UTC).date().isoformat()
    return f"{date}_{time.time_ns():020d}-{unique}_{rows}.rows"


def rows_in(path: Path) -> int:
    """Rows in a file or batch, as its names have it; a file of another making has none."""
    if path.suffix == ".batch":
        return sum(map(rows_in, path.glob("*.rows")))
    count = path.stem.rpartition("_")[2]
    return int(count) if count.isascii() and count.isdigit() else 0


def start_of_day(at: float) -> float:
    """When the day (UTC) of this time began; both in seconds since the epoch."""
    return at - at % DAY_SECONDS


# -- What is there ---------------------------------------------------------------------------------------------------
def stored_bytes(spool: Path) -> int:
    """Bytes of everything in the spool."""
    total = 0
    for folder, _, names in os.walk(spool):
        for name in names:
            with suppress(FileNotFoundError):  # taken away meanwhile
                total += (Path(folder) / name).stat().st_size
    return total


def finished_bytes(spool: Path) -> int:
    """Bytes of the files that are not claimed yet."""
    total = 0
    for path in spool.glob(_FILES):
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def waiting_rows(spool: Path) -> int:
    """Rows in finished files, claimed or not."""
    return sum(rows_in(Path(name)) for _, _, names in os.walk(spool) for name in names if name.endswith(".rows"))


def sweep(spool: Path, older_than: float = _UNFINISHED_SECONDS) -> int:
    """Remove files that were never finished, and what is left of batches that are in S3. Returns the rows lost so."""
    lost = 0
    for folder in spool.glob("*.done"):
        shutil.rmtree(folder, ignore_errors=True)
    for path in spool.glob("*.part"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime >= older_than:
                path.unlink()
                lost += rows_in(path)
    return lost


# -- Batches ---------------------------------------------------------------------------------------------------------
class Batch(msgspec.Struct, frozen=True):
    """Files that become one Parquet object.

    Claimed by moving them into a folder of their own, whose name is the object's: however often it is tried, by
    whichever process, the same rows end under the same key.
    """

    folder: Path
    key: str

    def files(self) -> list[Path]:
        """Its files, oldest first."""
        return sorted(self.folder.iterdir())

    def remove(self) -> None:
        """Forget the files: their rows are in S3."""
        # In one step: half a batch, taken for a whole one, would overwrite the object.
        done = self.folder.rename(self.folder.with_suffix(".done"))
        shutil.rmtree(done, ignore_errors=True)


def batches(spool: Path, pod: str, release: str) -> Iterator[Batch]:
    """Batches to upload, oldest first: those left from before, then new ones of the files in the spool."""
    for folder in sorted(spool.glob("*.batch")):
        yield _batch(folder)
    while files := sorted(spool.glob(_FILES)):
        day = _day(files[0])
        taken: list[Path] = []
        size = 0
        for path in files:
            size += path.stat().st_size
            if taken and (size > BATCH_BYTES or _day(path) != day):
                break
            taken.append(path)
        stamp = files[0].name.partition("_")[2][:20]
        folder = spool / f"{day}_{pod}-{release}-{stamp}-{uuid.uuid4().hex[:8]}.batch"
        folder.mkdir()
        for path in taken:
            path.rename(folder / path.name)
        yield _batch(folder)


def _batch(folder: Path) -> Batch:
    day, _, name = folder.name.removesuffix(".batch").partition("_")
    return Batch(folder, f"dt={day}/{name}.parquet")


def _day(path: Path) -> str:
    return path.name.partition("_")[0]


def set_aside(path: Path, aside: Path) -> Path:
    """Keep a file or a batch that nobody can use for a person to look at, in place of older ones. Returns where."""
    aside.mkdir(exist_ok=True)
    kept = path.rename(aside / f"{time.time_ns():020d}-{path.name}")
    for old in sorted(aside.iterdir())[:-_KEPT_ASIDE]:
        if old.is_dir():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.unlink(missing_ok=True)
    return kept

"""Files written whole or not at all, and their digests."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from modelworks.contract import Digest
from modelworks.errors import ModelworksError


def write_whole(path: Path, content: bytes | str, *, mode: int = 0o600) -> None:
    """Write `content` to `path` whole or not at all: a temporary file beside it, then a rename.

    A missing folder is made, for the user alone where the file is.

    Raises:
        ModelworksError: The disk is full or the folder cannot be written; the old content is untouched.
    """
    data = content.encode() if isinstance(content, str) else content
    with put_whole(path.parent, path.name, mode=mode) as (file, place):
        file.write(data)
        place(path)


@contextmanager
def put_whole(folder: Path, name: str, *, mode: int = 0o600) -> Iterator[tuple[IO[bytes], Callable[[Path], None]]]:
    """A temporary file in `folder`, and a function that puts it in its place once it is written; else it is removed.

    Raises:
        ModelworksError: As `write_whole`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o777 if mode & 0o077 else 0o700)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{name}.")
        try:
            with os.fdopen(handle, "w+b") as file:

                def place(path: Path) -> None:
                    file.flush()
                    os.fsync(file.fileno())
                    Path(temporary).chmod(mode)
                    Path(temporary).replace(path)

                yield file, place
        finally:
            Path(temporary).unlink(missing_ok=True)
    except OSError as error:
        raise ModelworksError(
            f"cannot write {folder / name}: {error.strerror}", fix="Free space or fix the folder's permissions."
        ) from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for one process at a time. The lock is on the folder itself: no lock file is left over.

    Raises:
        ModelworksError: The folder cannot be opened.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ModelworksError(f"cannot open {folder}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_json(path: Path, facts: Any) -> None:
    """Write `facts` as JSON, keys sorted, whole or not at all. NaN and infinity become null: JSON has neither."""
    write_whole(path, json.dumps(plain(facts), indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The content of `path`.

    Raises:
        ModelworksError: It is not there or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelworksError(f"{path} is not there", fix="Run the step that writes it again.") from error
    except ValueError as error:
        raise ModelworksError(f"{path} is not JSON: {error}", fix="Delete it and run its step again.") from error


def plain(value: Any) -> Any:
    """`value` in JSON's own types: numpy scalars and arrays, timestamps, tuples and paths included."""
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each) for each in value]
    if hasattr(value, "tolist"):  # numpy
        return plain(value.tolist())
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None  # noqa: PLR0124 - NaN differs from itself
    if value is None or isinstance(value, int | bool):
        return value
    return str(value)


def digest_of(data: bytes) -> Digest:
    """`sha256:` and the hex digest of `data`."""
    return Digest(f"sha256:{hashlib.sha256(data).hexdigest()}")


def digest_of_file(path: Path) -> Digest:
    """`sha256:` and the hex digest of the file's bytes."""
    with path.open("rb") as file:
        return Digest(f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}")


def digest_of_facts(facts: Any) -> Digest:
    """The digest of `facts` as canonical JSON."""
    return digest_of(json.dumps(plain(facts), sort_keys=True, separators=(",", ":"), allow_nan=False).encode())

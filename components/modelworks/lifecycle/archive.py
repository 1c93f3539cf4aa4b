"""Canonical bytes: an archive and a skops file that are the same wherever, whenever and by whomever written."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from modelworks.errors import ModelworksError

GZIP_HEADER = bytes([0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 255])
"""No name, no time, unknown system."""
STORED_BLOCK = 65_535
"""Most bytes in one stored block of deflate (RFC 1951, 3.2.4)."""
ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time a zip entry can have."""


def pack(folder: Path, only: Collection[str] = ()) -> bytes:
    """A `.tar.gz` of what is in `folder`: sorted paths, fixed times, owners and modes.

    The gzip layer stores without compressing, because compressed bytes depend on the installed zlib and these must not.

    Args:
        folder: The folder.
        only: Names of the files and folders in it that are packed. Default: all.

    Raises:
        ModelworksError: There is a link or a device in the folder.
    """
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(folder.rglob("*"), key=lambda each: each.relative_to(folder).as_posix()):
            name = path.relative_to(folder).as_posix()
            if only and name.partition("/")[0] not in only:
                continue
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise ModelworksError(f"{name} is neither a file nor a folder, and an archive holds nothing else")
            info = tarfile.TarInfo(name)
            info.mtime = 0
            if path.is_dir():
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(info)
            else:
                data = path.read_bytes()
                info.size, info.mode = len(data), 0o755 if path.suffix == ".sh" else 0o644
                archive.addfile(info, io.BytesIO(data))
    return _gzip_stored(stream.getvalue())


def canonical_skops(data: bytes) -> bytes:
    """A skops file with its entries renamed and rewritten so that equal objects give equal bytes.

    skops names arrays and refers to shared objects by their address in memory. Both become the order in which the
    schema mentions them.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        entries = {name: source.read(name) for name in source.namelist()}
    schema = json.loads(entries.pop("schema.json"))
    numbers: dict[int, int] = {}
    names: dict[str, str] = {}

    def walk(node: object) -> None:
        if isinstance(node, dict):
            identity = node.get("__id__")
            if isinstance(identity, int):
                node["__id__"] = numbers.setdefault(identity, len(numbers) + 1)
            file = node.get("file")
            if isinstance(file, str) and file in entries:
                node["file"] = names.setdefault(file, f"{len(names) + 1}{PurePosixPath(file).suffix}")
            for each in node.values():
                walk(each)
        elif isinstance(node, list):
            for each in node:
                walk(each)

    walk(schema)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as target:
        named = {names[name]: content for name, content in entries.items() if name in names}
        named["schema.json"] = json.dumps(schema, separators=(",", ":")).encode()
        for name in sorted(named):
            info = zipfile.ZipInfo(name, ZIP_EPOCH)
            info.create_system, info.external_attr = 3, 0o644 << 16
            target.writestr(info, named[name])
    return stream.getvalue()


def _gzip_stored(data: bytes) -> bytes:
    blocks = [data[start : start + STORED_BLOCK] for start in range(0, len(data), STORED_BLOCK)] or [b""]
    body = b"".join(
        bytes([index == len(blocks) - 1]) + struct.pack("<HH", len(block), len(block) ^ 0xFFFF) + block
        for index, block in enumerate(blocks)
    )
    return GZIP_HEADER + body + struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)

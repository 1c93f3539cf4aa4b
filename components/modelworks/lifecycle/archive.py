"""Canonical bytes: an archive and a skops file that are the same wherever, whenever and by whomever written."""

from __future__ import annotations

import io
import json
import pickletools
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from modelworks.errors import ModelworksError

GZIP_HEADER = bytes([0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 255])
"""No name, no time, unknown system."""
STORED_BLOCK = 65_535
"""Most bytes in one stored block of deflate (RFC 1951, 3.2.4)."""
ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time a zip entry can have."""
PICKLE_SUFFIXES = {".pkl", ".pickle", ".joblib", ".dill", ".cloudpickle", ".pt", ".pth"}


def pack(folder: Path) -> bytes:
    """A `.tar.gz` of everything in `folder`: sorted paths, fixed times, owners and modes.

    The gzip layer stores without compressing, because compressed bytes depend on the installed zlib and these must not.

    Raises:
        ModelworksError: There is a link or a device in the folder.
    """
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(folder.rglob("*"), key=lambda each: each.relative_to(folder).as_posix()):
            name = path.relative_to(folder).as_posix()
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


def refuse_pickles(folder: Path) -> None:
    """Look into every file of an unpacked bundle, and into archives in it, for a pickle.

    Unpickling runs code; no file in a bundle may need it, whatever its name.

    Raises:
        ModelworksError: There is one.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            _refuse_pickle(path.relative_to(folder).as_posix(), path.read_bytes())


def _refuse_pickle(name: str, data: bytes, depth: int = 0) -> None:
    if PurePosixPath(name).suffix.lower() in PICKLE_SUFFIXES or is_pickle(data):
        raise ModelworksError(
            f"the bundle holds a pickle: {name}",
            fix="Keep the model as skops or ONNX; loading a pickle would run whatever code is in it.",
        )
    if data[:4] == b"PK\x03\x04" and depth < 3:
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                for each in archive.namelist():
                    _refuse_pickle(f"{name}!{each}", archive.read(each), depth + 1)
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
            raise ModelworksError(f"the bundle holds a damaged archive: {name}: {error}") from error
    if data[:6] == b"\x93NUMPY" and _npy_holds_objects(data):
        raise ModelworksError(f"the bundle holds a pickle: {name} is an array of Python objects")


def is_pickle(data: bytes) -> bool:
    """Whether the bytes begin with a complete pickle that builds more than a plain constant."""
    if data[:1] == b"\x80" and len(data) > 1 and data[1] <= 5:
        return True
    # Protocols 0 and 1 have no signature, and what follows a pickle is not read. What is dangerous is a call.
    calls = False
    try:
        for opcode, _, _ in pickletools.genops(data):
            calls = calls or opcode.name in {"GLOBAL", "INST", "REDUCE", "BUILD", "OBJ"}
    except (ValueError, IndexError, UnicodeDecodeError, struct.error):
        return False
    return calls


def _npy_holds_objects(data: bytes) -> bool:
    return b"'descr': '|O'" in data[:512] or b"|O" in data[10:256].split(b"}")[0]


def _gzip_stored(data: bytes) -> bytes:
    blocks = [data[start : start + STORED_BLOCK] for start in range(0, len(data), STORED_BLOCK)] or [b""]
    body = b"".join(
        bytes([index == len(blocks) - 1]) + struct.pack("<HH", len(block), len(block) ^ 0xFFFF) + block
        for index, block in enumerate(blocks)
    )
    return GZIP_HEADER + body + struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)

"""The files that a bundle may hold: text, and the artifacts that its manifest names.

Loading a pickle runs whatever code is in it. A bundle has no place for one, compressed or not: what is no text is an
artifact, and each kind of artifact is read by a library that runs no code of the file's. The exception is a bundle with
code of its project (`Code`): that code alone reads its files, whatever they are.
"""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from modelworks.errors import ModelworksError
from modelworks.runtime.manifest import Manifest

PICKLE_SUFFIXES = {".pkl", ".pickle", ".joblib", ".dill", ".cloudpickle", ".pt", ".pth"}
BYTES = ".bin"
"""Entry of a skops file with bytes that an object holds as they are."""
_CALLS = {"GLOBAL", "INST", "REDUCE", "BUILD", "OBJ"}


def refuse_other_files(bento: Path, manifest: Manifest) -> None:
    """Look at every file of an unpacked bundle.

    Raises:
        ModelworksError: One is neither text nor an artifact, or may be a pickle.
    """
    code = manifest.code.files if manifest.code else {}
    artifacts = {f"src/{path}" for path in manifest.artifacts if path not in code or not path.endswith(".py")}
    for path in sorted(bento.rglob("*")):
        name = path.relative_to(bento).as_posix()
        if path.is_file() and name not in artifacts:
            _refuse_other_than_text(name, path.read_bytes())
    if manifest.skops is not None:
        file = bento / "src" / manifest.skops.path
        if file.is_file():  # one that is missing is reported by who loads it
            _refuse_other_than_arrays(f"src/{manifest.skops.path}", file.read_bytes())


def _refuse_other_than_text(name: str, data: bytes) -> None:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ModelworksError(
            f"the bundle holds {name}, which is neither text nor an artifact of its manifest",
            fix="Build it again: a bundle holds the model as skops or ONNX, and text.",
        )
    if PurePosixPath(name).suffix.lower() in PICKLE_SUFFIXES or _is_text_pickle(data):
        raise _pickle(name)


def _refuse_other_than_arrays(name: str, data: bytes) -> None:
    """Look into a skops file, and into the files of sparse arrays in it."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = {entry: archive.read(entry) for entry in archive.namelist()}
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise ModelworksError(f"the bundle holds a damaged archive: {name}: {error}") from error
    for entry, content in entries.items():
        where, suffix = f"{name}!{entry}", PurePosixPath(entry).suffix
        if suffix == ".npz":
            _refuse_other_than_arrays(where, content)
        elif suffix == ".npy":
            if _holds_objects(content):
                raise _pickle(where)
        elif entry != "schema.json" and suffix != BYTES:
            raise ModelworksError(f"the bundle holds {where}, which no skops file has")


def _holds_objects(npy: bytes) -> bool:
    """Whether an `.npy` file is anything but an array of plain values: the objects in one are a pickle."""
    from numpy.lib import format as npy_format  # most bundles hold none, and a service of its own may need no NumPy

    # The versions that NumPy writes for arrays without names beyond Latin-1.
    headers = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}
    file = io.BytesIO(npy)
    try:
        _, _, dtype = headers[npy_format.read_magic(file)](file)
    except (ValueError, KeyError):
        return True
    return bool(dtype.hasobject)


def _pickle(name: str) -> ModelworksError:
    return ModelworksError(
        f"the bundle holds a pickle: {name}",
        fix="Keep the model as skops or ONNX; loading a pickle would run whatever code is in it.",
    )


def _is_text_pickle(data: bytes) -> bool:
    """Whether text begins with a complete pickle that builds more than a plain constant.

    Protocols 0 and 1 have no signature, and what follows a pickle is not read. Only a call is dangerous.
    """
    calls = False
    try:
        for opcode, _, _ in pickletools.genops(data):
            calls = calls or opcode.name in _CALLS
    except (ValueError, IndexError, UnicodeDecodeError, struct.error):
        return False
    return calls

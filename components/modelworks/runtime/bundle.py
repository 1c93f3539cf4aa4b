"""A bundle's way onto this machine: verified as bytes first, unpacked second, loaded last."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

from modelworks.contract import Digest
from modelworks.errors import ModelworksError
from modelworks.runtime.bento import read_manifest
from modelworks.runtime.contents import refuse_other_files
from modelworks.runtime.manifest import Manifest
from modelworks.runtime.signature import verify

_MAX_UNPACKED_BYTES = 8 << 30
"""A bundle that unpacks to more is refused: no real model is near, an archive bomb is."""


def open_bundle(
    archive: Path, digest: Digest, model: str, destination: Path, *, trusted_keys: Path | None = None
) -> Manifest:
    """Verify the archive, unpack it into `destination` and read its manifest.

    Args:
        archive: The `.bento` file. Its signature is expected beside it, with `.sig` appended.
        digest: `sha256:…` that the release names.
        model: Name that the release names.
        destination: A folder of its own; created.
        trusted_keys: Folder of public keys. When given, a signature by one of them is required.

    Raises:
        ModelworksError: Digest, signature, archive, manifest or a file is not what it should be. Nothing was loaded.
    """
    found = digest_of(archive)
    if found != digest:
        raise ModelworksError(
            f"the bundle of {model} is not the one released: its bytes are {found}, the release has {digest}",
            fix="Someone or something changed the object in the bundle store. Build and release it again.",
        )
    if trusted_keys is not None:
        beside = archive.with_name(archive.name + ".sig")
        if not beside.is_file():
            raise ModelworksError(
                f"the bundle of {model} {digest} has no signature, and this environment requires one",
                fix="Release a bundle that this environment's pipeline signed.",
            )
        verify(model, digest, beside.read_bytes(), trusted_keys)
    unpack(archive, destination)
    manifest = read_manifest(destination)
    if manifest.model != model:
        raise ModelworksError(f"the bundle holds the model {manifest.model!r}, the release names {model!r}")
    refuse_other_files(destination, manifest)
    return manifest


def digest_of(path: Path) -> Digest:
    """`sha256:…` of a file's bytes.

    Raises:
        ModelworksError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return Digest("sha256:" + hashlib.file_digest(file, "sha256").hexdigest())
    except OSError as error:
        raise ModelworksError(f"{path} cannot be read: {error.strerror}") from error


def unpack(archive: Path, destination: Path, what: str = "the bundle") -> None:
    """Unpack an archive: plain files and folders that stay inside `destination`, nothing else.

    Args:
        archive: The file.
        destination: A folder of its own; created.
        what: The name of the archive, for messages.

    Raises:
        ModelworksError: The archive is broken, holds links or devices, leaves its folder, or is too large.
    """
    destination.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(archive) as tar:
            size = 0
            for member in tar:
                if not (member.isreg() or member.isdir()):
                    raise ModelworksError(f"{what} holds {member.name!r}, which is neither a file nor a folder")
                size += member.size
                if size > _MAX_UNPACKED_BYTES:
                    raise ModelworksError(f"{what} unpacks to more than {_MAX_UNPACKED_BYTES >> 30} GiB")
                tar.extract(member, destination, filter="data")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ModelworksError(f"{what} cannot be unpacked: {error}") from error

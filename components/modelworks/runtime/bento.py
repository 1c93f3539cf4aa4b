"""An unpacked Bento: its manifest, and the model's files checked against it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from modelworks.errors import ModelworksError
from modelworks.runtime.manifest import PATH_IN_BENTO, Manifest, decode


def read_manifest(bento: Path) -> Manifest:
    """The manifest of an unpacked Bento.

    Raises:
        ModelworksError: There is none, or it is not sound.
    """
    try:
        data = (bento / PATH_IN_BENTO).read_bytes()
    except OSError as error:
        raise ModelworksError(
            f"the bundle has no {PATH_IN_BENTO}: it was not built by modelworks",
            fix="Build it with `modelworks bundle`.",
        ) from error
    return decode(data)


def read_artifact(bento: Path, path: str, sha256: str) -> bytes:
    """The bytes of one file of the model, checked against the manifest.

    Raises:
        ModelworksError: It is missing or has other bytes.
    """
    try:
        data = (bento / "src" / path).read_bytes()
    except OSError as error:
        raise ModelworksError(f"the bundle lacks {path}, which its manifest names") from error
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise ModelworksError(f"{path} in the bundle has sha256 {found}, its manifest has {sha256}")
    return data

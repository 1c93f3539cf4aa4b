"""The packages of this environment, against those that a bundle was judged with."""

from __future__ import annotations

import importlib.metadata

from modelworks.errors import ModelworksError
from modelworks.runtime.manifest import Manifest


def other_versions(manifest: Manifest) -> dict[str, str]:
    """The packages that a bundle was judged with in another version, each with both versions.

    Raises:
        ModelworksError: One is not installed.
    """
    installed = {name: _version(name) for name in manifest.packages}
    if missing := [f"{name} {manifest.packages[name]}" for name, version in installed.items() if not version]:
        raise ModelworksError(
            f"the bundle of {manifest.model} is served with {' and '.join(missing)}, which this image does not have",
            fix='State them as an extra of pyproject.toml, and build the image with it: EXTRAS="runtime ...".',
        )
    return {
        name: f"{version}, judged with {manifest.packages[name]}"
        for name, version in installed.items()
        if version != manifest.packages[name]
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""

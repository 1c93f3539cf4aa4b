"""The project that a command runs in: the folder of the nearest `Pulumi.yaml`."""

from __future__ import annotations

from pathlib import Path

from modelworks.errors import ModelworksError


def project_root(start: Path | None = None) -> Path:
    """The folder of the nearest `Pulumi.yaml`, from `start` (default: the working directory) upwards.

    Raises:
        ModelworksError: There is none.
    """
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / "Pulumi.yaml").is_file():
            return folder
    raise ModelworksError(f"no Pulumi.yaml in {start} or above it", fix="Run this inside a Pulumi project.")

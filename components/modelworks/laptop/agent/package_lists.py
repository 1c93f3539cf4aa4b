"""The packages that images of modelworks have, compared with those of the environment that runs them here.

Images without a folder in a project run with the environment that modelworks is installed in. Their Dockerfiles install
extras of modelworks, by the `uv.lock` beside `images`.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

from modelworks.errors import ModelworksError

EXTRAS: Final[Mapping[str, tuple[str, ...]]] = {
    "features": ("features",),
    "registry": ("registry",),
    "runtime": ("runtime",),
    "training": ("features", "models"),
}
"""The extras that `images/NAME/Dockerfile` installs, by name. An image of the runtime may be built with more."""


def refuse_other_packages(image: str, lock: Path | None) -> None:
    """Check that this environment has the packages that an image of modelworks has; others are not known here.

    Those are what its extras require: Dockerfiles prune what modelworks itself does, for Pulumi programs.

    Args:
        image: Name of the image: the last part, without tag and digest.
        lock: The `uv.lock` that the image is built by: the versions of all packages are its own. None where there is
            none: the packages that modelworks itself requires are.

    Raises:
        ModelworksError: One is missing or has another version, or the lock cannot be read.
    """
    if not (extras := EXTRAS.get(image)):
        return
    package = f"modelworks[{','.join(extras)}]"
    if lock:
        stat = lock.stat()
        _refuse_other_versions(image, package, lock, (stat.st_mtime_ns, stat.st_size))
    elif wrong := sorted(_wrong(extras)):
        raise ModelworksError(
            f"image {image} has the packages of {package}, and this environment differs: {', '.join(wrong)}",
            fix=f"Run `uv pip install '{package}'`.",
        )


@functools.lru_cache
def _refuse_other_versions(image: str, package: str, lock: Path, _stamp: tuple[int, int]) -> None:
    """Once for each content of a lock: a large one takes a second to read, on a machine with nothing else to do."""
    # Most laptops are not strict, and an agent needs no more of the lifecycle than this.
    from modelworks.lifecycle.lockfile import read_lock

    try:
        locked = read_lock(lock)
        locked.refuse_other_versions(locked.of_extras("modelworks", EXTRAS[image]))
    except ModelworksError as error:
        raise ModelworksError(f"image {image} has the packages of {package}: {error.message}", fix=error.fix) from error


def _wrong(extras: tuple[str, ...]) -> Iterator[str]:
    for text in importlib.metadata.requires("modelworks") or ():
        need = Requirement(text)
        if need.marker is None or not any(need.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        if need.name == "modelworks":
            yield from _wrong(tuple(need.extras))
            continue
        try:
            version = importlib.metadata.version(need.name)
        except PackageNotFoundError:
            yield f"{need.name} is missing"
        else:
            if not need.specifier.contains(version, prereleases=True):
                yield f"{need.name} is {version}, not {need.specifier}"

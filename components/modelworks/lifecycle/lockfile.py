"""The packages of a bundle: exact versions and hashes out of `uv.lock`, for the platform that serves."""

from __future__ import annotations

import importlib.metadata
import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.markers import Marker
from packaging.version import Version

from modelworks._files import digest_of
from modelworks.errors import ModelworksError

SERVING = ("bentoml", "msgspec", "numpy", "onnxruntime", "pandas", "scikit-learn", "skops")
"""The imports of a bundle's standard service."""
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
"""The Python that serves: the minor version that trains."""
PLATFORM = {
    "python_version": PYTHON, "python_full_version": f"{PYTHON}.0", "implementation_name": "cpython",
    "platform_python_implementation": "CPython", "sys_platform": "linux", "platform_system": "Linux",
    "os_name": "posix",
    "platform_machine": "x86_64", "extra": "",
}  # fmt: skip
"""The environment that markers are evaluated for: the serving image, wherever the bundle is built."""


@dataclass(frozen=True)
class Lock:
    """A `uv.lock`."""

    file: Path
    digest: str
    packages: dict[str, dict[str, Any]]

    def closure(self, roots: tuple[str, ...]) -> dict[str, dict[str, Any]]:
        """Locked packages that installing `roots` needs, sorted by name.

        Raises:
            ModelworksError: One is not locked.
        """
        found: dict[str, dict[str, Any]] = {}
        wanted: list[tuple[str, tuple[str, ...]]] = [(root, ()) for root in roots]
        seen: set[tuple[str, tuple[str, ...]]] = set()
        while wanted:
            name, extras = wanted.pop()
            if (name, extras) in seen:
                continue
            seen.add((name, extras))
            if name not in self.packages:
                raise ModelworksError(
                    f"{name} is not in {self.file}",
                    fix=f"Add it with `uv add {name}`, so that its version and hash are known.",
                )
            package = found[name] = self.packages[name]
            needs = list(package.get("dependencies", []))
            for extra in extras:
                needs += package.get("optional-dependencies", {}).get(extra, [])
            wanted += [
                (need["name"], tuple(sorted(need.get("extra", []))))
                for need in needs
                if "marker" not in need or Marker(need["marker"]).evaluate(PLATFORM)
            ]
        return dict(sorted(found.items()))

    def requirements(self, roots: tuple[str, ...]) -> str:
        """`requirements.txt` with a hash for every file of every package, fit for `pip install --require-hashes`."""
        lines = []
        for name, package in self.closure(roots).items():
            files = [*package.get("wheels", []), *([package["sdist"]] if "sdist" in package else [])]
            hashes = sorted({each["hash"] for each in files if "hash" in each})
            if not hashes:
                raise ModelworksError(f"{name} has no hashes in {self.file}: it is not from a package index")
            lines.append(" \\\n    ".join([f"{name}=={package['version']}", *(f"--hash={each}" for each in hashes)]))
        return "\n".join(lines) + "\n"

    def refuse_other_versions(self, roots: tuple[str, ...]) -> None:
        """Check that the installed packages match the lock.

        Raises:
            ModelworksError: It is not: what this environment trains would not be what the lock describes.
        """
        wrong = []
        for name, package in self.closure(roots).items():
            try:
                installed = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                installed = "missing"
            if installed != package["version"]:
                wrong.append(f"{name} {installed} (locked: {package['version']})")
        if wrong:
            raise ModelworksError(
                f"this environment differs from {self.file}: {', '.join(wrong[:5])}",
                fix="Run `uv sync` with the extras of the project, then train again.",
            )


def find_lock(start: Path) -> Lock:
    """The nearest `uv.lock` from `start` upwards.

    Raises:
        ModelworksError: There is none, or it cannot be read.
    """
    for folder in (start, *start.parents):
        file = folder / "uv.lock"
        if file.is_file():
            return _read(file)
    raise ModelworksError(
        f"no uv.lock in {start} or above it",
        fix="Run `uv lock`: a model can be trained again only with known packages.",
    )


def _read(file: Path) -> Lock:
    data = file.read_bytes()
    try:
        entries = tomllib.loads(data.decode())["package"]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError) as error:
        raise ModelworksError(f"{file} is not a uv.lock: {error}", fix="Write it again with `uv lock`.") from error
    packages: dict[str, dict[str, Any]] = {}
    for entry in entries:
        markers = entry.get("resolution-markers", [])
        fits = not markers or any(Marker(each).evaluate(PLATFORM) for each in markers)
        name = re.sub(r"[-_.]+", "-", entry["name"]).lower()
        if fits and (name not in packages or Version(entry["version"]) > Version(packages[name]["version"])):
            packages[name] = entry
    return Lock(file, digest_of(data), packages)

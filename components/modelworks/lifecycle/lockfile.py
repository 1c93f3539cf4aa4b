"""The packages of a run and of its bundle: exact versions and hashes out of `uv.lock`, for the platform that serves."""

from __future__ import annotations

import functools
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.version import Version

from modelworks._files import digest_of_facts
from modelworks.contract import Digest
from modelworks.errors import ModelworksError
from modelworks.lifecycle.model_project import LOCK, imports, imports_of, lock_file

if TYPE_CHECKING:
    from modelworks.lifecycle.spec import ModelSpec

SERVING = ("bentoml", "msgspec", "numpy", "onnxruntime", "pandas", "scikit-learn", "skops")
"""The imports of a bundle's standard service."""
TRAINING = ("pandas", "pandera", "pyarrow", "skl2onnx")
"""Further packages that decide the bytes of rows, of a model and of its graph."""
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
class Lockfile:
    """A `uv.lock`."""

    file: Path
    packages: dict[str, dict[str, Any]]

    def digest(self, roots: tuple[str, ...]) -> Digest:
        """The digest of the packages that installing `roots` needs, and of the Python that they are for.

        Other packages of the lock do not count.

        Raises:
            ModelworksError: One is not locked, or its version does not decide its content.
        """
        packages = {name: self._identity(name, package) for name, package in self.closure(roots).items()}
        return digest_of_facts({"python": PYTHON, "packages": packages})

    def _identity(self, name: str, package: dict[str, Any]) -> Any:
        source = package.get("source", {})
        if folder := next((source[kind] for kind in ("editable", "directory", "virtual") if kind in source), None):
            raise ModelworksError(
                f"{self.file} installs {name} from the folder {folder!r}, so that its version does not decide its code",
                fix="Move what the model needs of it into the folder of model.py, or publish it as a package.",
            )
        return [package["version"], source.get("git", ""), *_hashes(package)]

    def closure(self, roots: tuple[str, ...]) -> dict[str, dict[str, Any]]:
        """Locked packages that installing `roots` needs, which may have extras (`mlflow[auth]`), sorted by name.

        Raises:
            ModelworksError: One is not locked.
        """
        found: dict[str, dict[str, Any]] = {}
        wanted = [(root.name, tuple(sorted(root.extras))) for root in map(Requirement, roots)]
        seen: set[tuple[str, tuple[str, ...]]] = set()
        while wanted:
            name, extras = wanted.pop()
            if (name, extras) in seen:
                continue
            seen.add((name, extras))
            package = found[name] = self._package(name)
            wanted += _needs(package.get("dependencies", []))
            for extra in extras:
                wanted += _needs(package.get("optional-dependencies", {}).get(extra, []))
        return dict(sorted(found.items()))

    def of_extras(self, name: str, extras: tuple[str, ...]) -> tuple[str, ...]:
        """Requirements of the extras of a locked package, for `closure`, without those of the package itself.

        Raises:
            ModelworksError: The package is not locked.
        """
        optional = self._package(name).get("optional-dependencies", {})
        needs = [need for extra in extras for need in _needs(optional.get(extra, []))]
        return tuple(f"{needed}[{','.join(its_extras)}]" for needed, its_extras in needs)

    def _package(self, name: str) -> dict[str, Any]:
        if name not in self.packages:
            raise ModelworksError(
                f"{name} is not in {self.file}",
                fix=f"Add it with `uv add {name}`, so that its version and hash are known.",
            )
        return self.packages[name]

    def versions(self, names: tuple[str, ...]) -> dict[str, str]:
        """The locked version of each of these packages."""
        return {name: self.packages[name]["version"] for name in names}

    def requirements(self, roots: tuple[str, ...]) -> str:
        """`requirements.txt` with a hash for every file of every package, fit for `pip install --require-hashes`."""
        lines = []
        for name, package in self.closure(roots).items():
            hashes = _hashes(package)
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
                fix="Run `uv sync` with the extras of the project, then try again.",
            )


def _needs(entries: Iterable[Mapping[str, Any]]) -> list[tuple[str, tuple[str, ...]]]:
    """Names and extras of those among a package's requirements that this platform has."""
    return [
        (entry["name"], tuple(sorted(entry.get("extra", []))))
        for entry in entries
        if "marker" not in entry or Marker(entry["marker"]).evaluate(PLATFORM)
    ]


def serving_packages(spec: ModelSpec) -> tuple[str, ...]:
    """Packages that a bundle of this model is served with."""
    onnx = ("onnxruntime",) if spec.service.onnx else ()
    standard = tuple(each for each in SERVING if each not in {"onnxruntime", "pandas"})
    frame = ("pandas",) if spec.input == "frame" else ()
    stored = ("botocore",) if spec.stored else ()
    return tuple(sorted({*standard, *onnx, *frame, *stored, *spec.service.packages}))


def loaded_packages(spec: ModelSpec) -> tuple[str, ...]:
    """Those of them that our server imports: BentoML runs only a service of the model's own."""
    return tuple(name for name in serving_packages(spec) if name != "bentoml" or spec.service.code)


def run_packages(spec: ModelSpec) -> tuple[str, ...]:
    """Packages that decide what a run of this model holds: those that serve, train, and are imported by its code."""
    used = {found for name in imports(spec.folder) if (found := package_of(name))}
    return tuple(sorted({*serving_packages(spec), *TRAINING, *used}))


def refuse_other_imports(spec: ModelSpec, files: Sequence[Path]) -> None:
    """Refuse code of a bundle that imports a package which is not served with it.

    Args:
        spec: The model.
        files: Python files of its project.

    Raises:
        ModelworksError: With file and line.
    """
    served = find_lock(spec.folder).closure(serving_packages(spec))
    for file in files:
        for module, line in imports_of(file):
            package = package_of(module)
            if module == "modelworks" or (package is not None and package not in served):
                fix = f"Name it: Service(packages=({package!r},)); the server's image must hold it too."
                raise ModelworksError(
                    f"{file}:{line}: {module} is imported by code that the server runs, and the bundle is served "
                    "without it",
                    fix=fix if package else "Leave modelworks out of that file.",
                )


@functools.cache
def package_of(module: str) -> str | None:
    """The installed package that brings a top-level module; None for ours, Python's own and those of a project."""
    if module in sys.stdlib_module_names or module == "modelworks":
        return None
    try:
        return _normal(importlib.metadata.distribution(module).metadata["Name"])
    except (importlib.metadata.PackageNotFoundError, ValueError):
        pass
    # Its files are searched as text: parsed, those of a few hundred packages take seconds.
    brought = re.compile(rf"^{re.escape(module)}(/|\.py,|\.[^/,]*\.so,)", re.MULTILINE)
    for each in importlib.metadata.distributions():
        if brought.search(each.read_text("RECORD") or ""):
            return _normal(each.metadata["Name"])
    return None


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _hashes(package: Mapping[str, Any]) -> list[str]:
    files = [*package.get("wheels", []), *([package["sdist"]] if "sdist" in package else [])]
    return sorted({each["hash"] for each in files if "hash" in each})


def find_lock(start: Path) -> Lockfile:
    """The nearest `uv.lock` from `start` upwards.

    Raises:
        ModelworksError: There is none, or it cannot be read.
    """
    return read_lock(find_lock_file(start))


def find_lock_file(start: Path) -> Path:
    """The file of the nearest `uv.lock` from `start` upwards.

    Raises:
        ModelworksError: There is none.
    """
    if file := lock_file(start):
        return file
    raise ModelworksError(
        f"no {LOCK} in {start} or above it",
        fix="Run `uv lock`: a model can be trained again only with known packages.",
    )


def read_lock(file: Path) -> Lockfile:
    """The lock in a file.

    Raises:
        ModelworksError: It is not there, or is none.
    """
    try:
        entries = tomllib.loads(file.read_text(encoding="utf-8"))["package"]
    except OSError as error:
        raise ModelworksError(f"{file} cannot be read: {error.strerror}", fix="Write it with `uv lock`.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError) as error:
        raise ModelworksError(f"{file} is not a uv.lock: {error}", fix="Write it again with `uv lock`.") from error
    packages: dict[str, dict[str, Any]] = {}
    for entry in entries:
        markers = entry.get("resolution-markers", [])
        fits = not markers or any(Marker(each).evaluate(PLATFORM) for each in markers)
        name = _normal(entry["name"])
        if fits and (name not in packages or Version(entry["version"]) > Version(packages[name]["version"])):
            packages[name] = entry
    return Lockfile(file, packages)

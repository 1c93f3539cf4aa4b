"""The code of a model's project, where a bundle carries it: imported under a name of its own, from the bundle alone.

The package is named after its content, so that two versions of a model live in one process, and a skops file names
the code of its classes. Nothing is added to `sys.path`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.abc import SourceLoader
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from modelworks.errors import ModelworksError
from modelworks.runtime.bento import read_artifact
from modelworks.runtime.manifest import Code

FOLDER = "project"
"""Where the code lies, below `src/`."""
PACKAGE = "modelworks_project_"
"""How a package of a project's code is called, before the digits of its digest."""


def import_code(bento: Path, code: Code) -> None:
    """Have the code of a bundle importable under its name, checked against the manifest.

    Args:
        bento: Folder of the unpacked bundle.
        code: The code, as its manifest states it.

    Raises:
        ModelworksError: A file is missing, or has other bytes.
    """
    source = bento / "src"
    contents = {str(source / path): read_artifact(bento, path, sha256) for path, sha256 in code.files.items()}
    if code.package not in sys.modules:
        package = ModuleType(code.package)
        package.__path__ = [str(source / FOLDER)]
        sys.modules[code.package] = package
        sys.meta_path.insert(0, _Modules(code.package, source / FOLDER, contents))


class _Modules(SourceLoader):
    """Modules of a bundle's code, made of the bytes that were checked.

    Python's own finder reads the bytecode next to a file, whoever wrote it, and writes its own into the bundle,
    which then holds a file of no manifest.
    """

    def __init__(self, package: str, folder: Path, contents: Mapping[str, bytes]) -> None:
        self._package = package
        self._folder = folder
        self._contents = contents

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(f"{self._package}."):
            return None
        if file := self._file(fullname):
            inner = [str(file.parent)] if file.name == "__init__.py" else None
            return spec_from_file_location(fullname, file, loader=self, submodule_search_locations=inner)
        folder = f"{self._folder.joinpath(*fullname.split('.')[1:])}/"
        if any(name.startswith(folder) for name in self._contents):
            return ModuleSpec(fullname, None, is_package=True)  # a folder without __init__.py
        return None

    def _file(self, fullname: str) -> Path | None:
        stem = self._folder.joinpath(*fullname.split(".")[1:])
        files = (stem / "__init__.py", stem.with_name(f"{stem.name}.py"))
        return next((file for file in files if str(file) in self._contents), None)

    def get_filename(self, fullname: str) -> str:
        if (file := self._file(fullname)) is None:
            raise ImportError(f"the bundle has no module {fullname}")
        return str(file)

    def get_data(self, path: str | bytes) -> bytes:
        if (content := self._contents.get(os.fsdecode(path))) is None:
            raise OSError(f"{os.fsdecode(path)} is not of the bundle's code")
        return content


def find(package: str, name: str) -> Any:
    """A function or class of the project's code.

    Args:
        package: The package, which is importable.
        name: `module:name`, the module below the package.

    Raises:
        ModelworksError: It cannot be imported, or is not there.
    """
    module, _, attribute = name.partition(":")
    try:
        return getattr(import_module(f"{package}.{module}"), attribute)
    except Exception as error:
        raise ModelworksError(
            f"{FOLDER}/{module.replace('.', '/')}.py in the bundle: {type(error).__name__}: {error}",
            fix="What it imports must be in the server: name its packages in Service(packages=...), and its files in "
            "Service(files=...).",
        ) from error


def is_of(package: str, name: str) -> bool:
    """Whether a class or function, by its full name, is one of the project's code."""
    return bool(package) and name.startswith(f"{package}.")

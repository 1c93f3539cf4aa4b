"""The code of a model's project, where a bundle carries it: imported under a name of its own, from the bundle alone.

The package is named after its content, so that two versions of a model live in one process, and a skops file names
the code of its classes. Nothing is added to `sys.path`.
"""

from __future__ import annotations

import sys
from importlib import import_module
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
    for path, sha256 in code.files.items():
        read_artifact(bento, path, sha256)
    if code.package not in sys.modules:
        package = ModuleType(code.package)
        package.__path__ = [str(bento / "src" / FOLDER)]
        sys.modules[code.package] = package


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

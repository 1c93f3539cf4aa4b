"""Reading the spec that a model project exports, by importing its `model.py`."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import sys
from collections.abc import Mapping
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, ExtensionFileLoader, FileFinder, SourceFileLoader
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelworks.errors import ModelworksError
from modelworks.lifecycle.model_project import find_model
from modelworks.lifecycle.project_errors import project_error
from modelworks.lifecycle.spec import READING, ModelSpec

if TYPE_CHECKING:
    from _typeshed.importlib import PathEntryFinderProtocol


def load_spec(name: str | Path, package: str = "") -> ModelSpec:
    """The spec that a model project exports.

    Args:
        name: Name of the model, its folder, or its `model.py`.
        package: The package to import the project's code as. Default: one by the path of the file.

    Raises:
        ModelworksError: It cannot be found, its code raises, or it states something wrong; with file and line.
    """
    file = find_model(str(name))
    # One module name a file, so that two projects with a model.py each never meet.
    module_name = package or f"_modelworks_model_{hashlib.sha256(str(file).encode()).hexdigest()[:12]}"
    for stale in [each for each in sys.modules if each.startswith(f"{module_name}.")]:
        del sys.modules[stale]  # what an earlier version of the model imported beside itself
    loader = _TextLoader(module_name, str(file))
    found = importlib.util.spec_from_file_location(
        module_name, file, loader=loader, submodule_search_locations=[str(file.parent)]
    )
    if found is None:  # pragma: no cover - a file with a loader has a spec
        raise ModelworksError(f"{file} cannot be imported")
    module = importlib.util.module_from_spec(found)
    sys.modules[module_name] = module
    _find_by_text(file.parent)
    reading = READING.set((file, module_name))
    try:
        loader.exec_module(module)
    except ModelworksError:
        raise
    except (Exception, SystemExit) as error:
        raise project_error(error, file.parent, "is read") from error
    finally:
        READING.reset(reading)
    spec = getattr(module, "spec", None)
    if not isinstance(spec, ModelSpec):
        raise ModelworksError(
            f"{file}: exports no spec, found {type(spec).__name__}", fix="End it with `spec = ModelSpec(...)`."
        )
    return spec


class _TextLoader(SourceFileLoader):
    """Loads a module from its text as it stands, never from bytecode.

    Python distinguishes versions of a file by second and size, so of two quick edits the first would run under the name
    of the second.
    """

    def path_stats(self, path: str) -> Mapping[str, Any]:
        """Nothing, which is how a loader shows that its files cannot be compared with their bytecode."""
        raise OSError(f"{path} is read as text")


@functools.cache
def _find_by_text(folder: Path) -> None:
    """Have every module below a folder loaded from its text."""
    finder = FileFinder.path_hook((ExtensionFileLoader, EXTENSION_SUFFIXES), (_TextLoader, SOURCE_SUFFIXES))

    def hook(path: str) -> PathEntryFinderProtocol:
        if not Path(path).is_relative_to(folder):
            raise ImportError(f"{path} is not in {folder}")
        return finder(path)

    sys.path_hooks.insert(0, hook)
    sys.path_importer_cache.clear()

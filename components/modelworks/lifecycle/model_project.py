"""A model project as files: what counts in a run, what the run keeps, and what is sent to an environment.

These three are one: the files of the model's folder, the lock above it, and the features that are defined beside it.
Hidden files, caches, tests and the `README.md` are left out: they do not make the model. A copy is a folder with
`uv.lock`, and below `models/` one model and `features.json`.
"""

from __future__ import annotations

import ast
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Collection, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

from modelworks._files import digest_of_facts, digest_of_file
from modelworks.contract import Digest
from modelworks.errors import ModelworksError
from modelworks.feature_manifest import PATH as FEATURES

LOCK = "uv.lock"
MAX_BYTES = 100_000_000
"""A model project is code and small files beside it; what is larger is data, which has a store of its own."""
_PACKAGES = {"site-packages", "dist-packages"}
_FOLDERS = {"__pycache__", "node_modules", "tests", *_PACKAGES}


def find_model(name: str, start: Path | None = None) -> Path:
    """The `model.py` that `name` means: a file, a folder, or a name that is looked up in `models/` upwards.

    Raises:
        ModelworksError: There is none; the message lists the models that are there.
    """
    path = Path(name)
    for candidate in (path, path / "model.py"):
        if candidate.suffix == ".py" and candidate.is_file():
            return candidate.resolve()
    start = (start or Path.cwd()).resolve()
    known: list[str] = []
    for folder in (start, *start.parents):
        models = folder / "models"
        found = models / name.replace("-", "_") / "model.py"
        if found.is_file():
            return found
        known += [each.parent.name.replace("_", "-") for each in sorted(models.glob("*/model.py"))]
    raise ModelworksError(
        f"there is no model {name!r} in models/ here or above; there is: {', '.join(known) or 'none'}",
        fix=f"Give the folder of its model.py, or start one with `modelworks new {path.name}`.",
    )


def source_files(folder: Path) -> list[Path]:
    """The files of a model project, sorted: all in its folder but hidden files, caches, tests and `README.md`.

    Folders of packages are left out too: virtual environments, whatever they are called, and `node_modules`.
    """
    found: list[Path] = []
    for place, folders, files in os.walk(folder, onerror=_refuse):
        here = Path(place)
        links = [name for name in folders if (here / name).is_symlink()]
        folders[:] = [name for name in folders if name not in links and not _is_left_out(here / name)]
        found += [path for name in (*files, *links) if _counts(path := here / name, folder)]
    return sorted(found, key=lambda each: each.relative_to(folder).as_posix())


def _refuse(error: OSError) -> None:
    raise ModelworksError(
        f"{error.filename} cannot be read: {error.strerror}", fix="Make it readable for you, or move it elsewhere."
    ) from error


def _is_left_out(folder: Path) -> bool:
    return _has_no_place(folder.name) or (folder / "pyvenv.cfg").is_file()


def _has_no_place(name: str) -> bool:
    return name.startswith(".") or name in _FOLDERS


def _counts(path: Path, project: Path) -> bool:
    if _has_no_place(path.name):
        return False
    if path == project / "README.md":
        return False  # it may show the card of a run, which would be another run then
    return not (path.suffix == ".py" and (path.name.startswith("test_") or path.name == "conftest.py"))


def code_digest(folder: Path) -> Digest:
    """The digest of a project's files."""
    return digest_of_facts(_digests(folder))


def changed_files(folder: Path, other: Path) -> list[str]:
    """Names of the files that are in only one of two projects, or differ."""
    one, two = _digests(folder), _digests(other)
    return sorted(name for name in one.keys() | two.keys() if one.get(name) != two.get(name))


def _digests(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): digest_of_file(path) for path in source_files(folder)}


def lock_file(start: Path) -> Path | None:
    """The nearest `uv.lock` from `start` upwards, if there is one."""
    return next((folder / LOCK for folder in (start, *start.parents) if (folder / LOCK).is_file()), None)


def copy_project(folder: Path, into: Path) -> Path:
    """Copy a project, its lock and the manifest of features, and return the copy's `model.py`.

    Args:
        folder: The project's.
        into: A folder, made if it is missing.

    Raises:
        ModelworksError: The project is too large, or holds links.
    """
    files = source_files(folder)
    if links := [path for path in files if path.is_symlink() or not path.is_file()]:
        raise ModelworksError(
            f"{links[0]} is neither a file nor a folder, and a model project holds nothing else",
            fix="Put the file itself there, or let data.load fetch it.",
        )
    if closed := [path for path in files if not os.access(path, os.R_OK)]:
        raise ModelworksError(
            f"{closed[0]} cannot be read, and a run keeps every file of its project",
            fix="Make it readable for you, or move it elsewhere.",
        )
    size = sum(path.stat().st_size for path in files)
    if size > MAX_BYTES:
        raise ModelworksError(
            f"{folder} holds {size / 1e6:.0f} MB, and a run keeps a project of up to {MAX_BYTES / 1e6:.0f} MB",
            fix="Keep data out of it: let data.load fetch it.",
        )
    copy = into / "models" / folder.name
    for path in files:
        target = copy / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    if lock := lock_file(folder):
        shutil.copyfile(lock, into / LOCK)
    if (features := folder.parent / FEATURES.name).is_file():
        shutil.copyfile(features, into / FEATURES)
    return copy / "model.py"


def model_file(root: Path) -> Path:
    """The `model.py` of a copied project.

    Raises:
        ModelworksError: It is not there, or not the only one.
    """
    models = sorted(root.glob("models/*/model.py"))
    if len(models) != 1:
        raise ModelworksError(f"{root} holds {len(models)} models, not one")
    return models[0]


def keep_project(copy: Path, root: Path) -> None:
    """Have the copied project at `root`, whole or not at all; one with the same files is left as it is.

    Raises:
        OSError: The disk is full, or the folder cannot be written.
    """
    code = code_digest(model_file(copy).parent)
    kept = sorted(root.glob("models/*/model.py"))
    if len(kept) == 1 and code_digest(kept[0].parent) == code and (root / LOCK).is_file():
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}.", dir=root.parent) as scratch:
        whole = shutil.copytree(copy, Path(scratch) / root.name)
        shutil.rmtree(root, ignore_errors=True)
        whole.rename(root)


# -- What a project imports ------------------------------------------------------------------------------------------
def imports(folder: Path) -> dict[str, str]:
    """Top-level names of the modules that a project's code imports, wherever in it, each with its file and line."""
    found: dict[str, str] = {}
    for path in source_files(folder):
        for name, line in imports_of(path) if path.suffix == ".py" else ():
            found.setdefault(name, f"{path}:{line}")
    return found


def imports_of(path: Path) -> list[tuple[str, int]]:
    """Top-level names of the modules that a file imports by name, each with its line."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return []  # whoever imports it is shown the error
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(each.name.partition(".")[0], node.lineno) for each in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.append((node.module.partition(".")[0], node.lineno))
    return found


def module_files(folder: Path, modules: Collection[str]) -> list[Path]:
    """The files of a project that importing some of its modules reads: theirs, and those they import relatively.

    Args:
        folder: The project's.
        modules: Names of modules below it, with dots.

    Raises:
        ModelworksError: One imports `model.py`, with file and line.
    """
    found: dict[Path, None] = {}
    wanted = [(name, "") for name in modules]
    while wanted:
        name, where = wanted.pop()
        path = _file_of(folder, name)
        if path is None:
            continue
        if path == folder / "model.py":
            raise ModelworksError(
                f"{where}: it imports model.py, which is not in the bundle: that imports what no server has",
                fix="Move what it needs into a file of its own.",
            )
        if path in found:
            continue
        found[path] = None
        wanted += [(each, f"{path}:{line}") for each, line in _relative_imports(path, folder)]
        wanted += [(name.rpartition(".")[0], where)] if "." in name else []
    return sorted(found)


def _file_of(folder: Path, module: str) -> Path | None:
    path = folder.joinpath(*module.split(".")) if module else folder
    return next((each for each in (path.with_suffix(".py"), path / "__init__.py") if each.is_file()), None)


def _relative_imports(file: Path, folder: Path) -> Iterator[tuple[str, int]]:
    """Modules below `folder` that a file of it may import relatively, each with its line."""
    package = file.relative_to(folder).parent.parts
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*package[: len(package) - node.level + 1], *(node.module.split(".") if node.module else [])]
            yield ".".join(base), node.lineno
            yield from ((".".join([*base, each.name]), node.lineno) for each in node.names)


def sibling_imports(file: Path, folder: Path) -> list[tuple[str, int]]:
    """Modules of `folder` that a file imports, relatively or by name: each name with its line."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return []  # whoever imports it is shown the error
    relative = [
        ("." * node.level + (node.module or ""), node.lineno)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    beside = {path.stem if path.is_file() else path.name for path in folder.iterdir() if path.name[0] not in "._"}
    return relative + [(name, line) for name, line in imports_of(file) if name in beside]


def refuse_imports_from_outside(folder: Path, before: Collection[str]) -> None:
    """Refuse a project whose code lies elsewhere too: neither its digest nor its run would have that code.

    Args:
        folder: The project's.
        before: Names of the modules that were imported before the project's.

    Raises:
        ModelworksError: A module was imported that is neither the project's nor Python's, a package's or ours.
    """
    for name, module in sorted(sys.modules.items()):
        # Packages make modules too, without a spec, whose `__file__` is no file: `torch.classes` has one.
        spec = getattr(module, "__spec__", None)
        file = spec.origin if isinstance(spec, ModuleSpec) and spec.has_location else None
        if name in before or not file or _belongs(Path(file), folder):
            continue
        top = name.partition(".")[0]
        where = imports(folder).get(top, str(folder / "model.py"))
        raise ModelworksError(
            f"{where}: {name} is imported from {file}, which is not in the model's folder: no run would keep it",
            fix="Move it into the folder of model.py (`from .features import x`), or install it as a package of "
            "uv.lock that is not editable.",
        )


def _belongs(file: Path, folder: Path) -> bool:
    library = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")]
    ours = Path(__file__).parents[1]
    return bool(_PACKAGES & set(file.parts)) or any(file.is_relative_to(each) for each in (folder, ours, *library))

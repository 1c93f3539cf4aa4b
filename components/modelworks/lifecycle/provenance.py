"""The origin of a run and a bundle: a project's code, its commit, and our own code that decides bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from modelworks._files import digest_of, digest_of_facts
from modelworks._git import git
from modelworks.errors import ModelworksError

TRAINING = (
    "lifecycle/archive.py", "lifecycle/child.py", "lifecycle/child_process.py", "lifecycle/data.py",
    "lifecycle/metrics.py", "lifecycle/rows.py", "lifecycle/scores.py", "lifecycle/spec.py", "runtime/encoding.py",
)  # fmt: skip
"""Modules that decide what a run holds: the model's bytes, its metrics and its slices."""
SERVICE = (
    "errors.py", "runtime/bento.py", "runtime/encoding.py", "runtime/manifest.py", "runtime/predictor.py",
    "runtime/schema.py",
)  # fmt: skip
"""Modules that go into a bundle, because its standard service imports them."""
BUILDING = (
    "lifecycle/archive.py", "lifecycle/bento_service.py", "lifecycle/build_bundle.py", "lifecycle/edge_cases.py",
    "lifecycle/lockfile.py", "lifecycle/model_card.py", "lifecycle/rows.py", "lifecycle/scores.py",
    "lifecycle/spec.py", "lifecycle/trust.py", *SERVICE,
)  # fmt: skip
"""Modules that decide a bundle's bytes besides those of its run."""


def code_digest(folder: Path) -> str:
    """The digest of a project's Python files, tests aside."""
    files = [
        path
        for path in source_files(folder)
        if path.suffix == ".py" and not path.name.startswith("test_") and "tests" not in path.relative_to(folder).parts
    ]
    return digest_of_facts({path.relative_to(folder).as_posix(): digest_of(path.read_bytes()) for path in files})


def source_files(folder: Path) -> list[Path]:
    """The files of a model project, sorted: every file in its folder that is neither hidden nor a cache."""
    return [
        path
        for path in sorted(folder.rglob("*"), key=lambda each: each.relative_to(folder).as_posix())
        if not path.is_dir()
        and not any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(folder).parts)
    ]


def engine_digest() -> str:
    """The digest of the code of modelworks that a run's bytes depend on."""
    return _digest_of_modules(TRAINING)


def builder_digest() -> str:
    """The digest of the code of modelworks that makes a bundle out of a run."""
    return _digest_of_modules(BUILDING)


def _digest_of_modules(paths: Sequence[str]) -> str:
    package = Path(__file__).parents[1]
    return digest_of_facts({path: digest_of((package / path).read_bytes()) for path in paths})


def source_of(folder: Path, lock: Path) -> tuple[str, bool]:
    """The commit that `folder` is at, and whether project, lock or modelworks itself differ from it.

    Without git there is no commit, and the tree counts as dirty.
    """
    package = Path(__file__).parent.parent
    try:
        top = git(folder, "rev-parse", "--show-toplevel").decode().strip()
        commit = git(folder, "rev-parse", "HEAD").decode().strip()
        paths = [str(path) for path in (folder, lock, package) if path.is_relative_to(top)]
        return commit, bool(git(folder, "status", "--porcelain", "--", *paths).strip())
    except ModelworksError:
        return "", True

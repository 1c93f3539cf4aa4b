"""The origin of a run and a bundle: the commit of a project, and our own code that decides bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from modelworks._files import digest_of, digest_of_facts
from modelworks._git import git
from modelworks.contract import Digest
from modelworks.errors import ModelworksError
from modelworks.feature_manifest import PATH as FEATURES
from modelworks.lifecycle.model_project import source_files

TRAINING = (
    "lifecycle/archive.py", "lifecycle/child.py", "lifecycle/child_process.py", "lifecycle/data.py",
    "lifecycle/fitted.py", "lifecycle/metrics.py", "lifecycle/rows.py", "lifecycle/scores.py", "lifecycle/spec.py",
    "lifecycle/spec_data.py", "lifecycle/spec_features.py", "lifecycle/spec_gates.py", "lifecycle/spec_loader.py",
    "lifecycle/splits.py", "lifecycle/stored_features.py", "runtime/encoding.py", "runtime/on_demand.py",
    "runtime/predictor.py", "runtime/stored.py",
)  # fmt: skip
"""Modules that decide what a run holds: the model's bytes, its metrics and its slices."""
SERVICE = (
    "contract.py", "errors.py", "feature_items.py", "runtime/bento.py", "runtime/encoding.py", "runtime/manifest.py",
    "runtime/feature_tables.py", "runtime/feature_vectors.py", "runtime/on_demand.py", "runtime/online.py",
    "runtime/online_engine.py", "runtime/predictions.py", "runtime/predictor.py", "runtime/project_code.py",
    "runtime/schema.py", "runtime/stored.py", "runtime/trust.py",
)  # fmt: skip
"""Modules that go into a bundle, because its standard service imports them."""
BUILDING = (
    "lifecycle/archive.py", "lifecycle/bento_service.py", "lifecycle/build_bento.py", "lifecycle/build_bundle.py",
    "lifecycle/edge_cases.py", "lifecycle/fitted.py", "lifecycle/lockfile.py", "lifecycle/model_card.py",
    "lifecycle/onnx_conversion.py", "lifecycle/rows.py", "lifecycle/scores.py", "lifecycle/spec.py",
    "lifecycle/spec_data.py", "lifecycle/spec_features.py", "lifecycle/spec_gates.py", "lifecycle/splits.py",
    "lifecycle/stored_features.py", "lifecycle/trust.py", *SERVICE,
)  # fmt: skip
"""Modules that decide a bundle's bytes besides those of its run."""


def engine_digest() -> Digest:
    """The digest of the code of modelworks that a run's bytes depend on."""
    return _digest_of_modules(TRAINING)


def builder_digest() -> Digest:
    """The digest of the code of modelworks that makes a bundle out of a run."""
    return _digest_of_modules(BUILDING)


def _digest_of_modules(paths: Sequence[str]) -> Digest:
    package = Path(__file__).parents[1]
    return digest_of_facts({path: digest_of((package / path).read_bytes()) for path in paths})


def source_of(folder: Path, lock: Path) -> tuple[str, bool]:
    """The commit that `folder` is at, and whether project, lock, features or modelworks itself differ from it.

    A file of the project that git ignores is a difference too. Without git there is no commit, and the tree counts as
    dirty.
    """
    package = Path(__file__).parent.parent
    try:
        top = git(folder, "rev-parse", "--show-toplevel").decode().strip()
        commit = git(folder, "rev-parse", "HEAD").decode().strip()
        counted = (folder, lock, package, folder.with_name(FEATURES.name))
        paths = [str(path) for path in counted if path.is_relative_to(top)]
        tracked = set(git(folder, "ls-files", "-z").decode().split("\0"))
        unknown = any(path.relative_to(folder).as_posix() not in tracked for path in source_files(folder))
        return commit, unknown or bool(git(folder, "status", "--porcelain", "--", *paths).strip())
    except ModelworksError:
        return "", True

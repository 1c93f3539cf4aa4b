"""Training as a function of data, code, parameters, seed and lock.

Everything a user's code does happens in a child process (`modelworks.lifecycle.child`), which leaves its results in the
run's folder. A run that was killed continues where it stopped.
"""

from __future__ import annotations

from pathlib import Path

from modelworks._files import read_json
from modelworks.lifecycle.checks import CheckReport
from modelworks.lifecycle.child_process import Progress, work
from modelworks.lifecycle.lockfile import SERVING, find_lock
from modelworks.lifecycle.provenance import code_digest, engine_digest, source_of
from modelworks.lifecycle.runs import Home, TrainedModel, with_origin
from modelworks.lifecycle.spec import ModelSpec


def check_data(
    spec: ModelSpec, home: Home, *, save_baseline: bool = False, progress: Progress | None = None
) -> CheckReport:
    """Load the model's data, keep it by digest, and run every check of the spec on it.

    Args:
        spec: The model.
        home: Where data and reports are kept.
        save_baseline: Also write the distributions to the spec's baseline file, to be compared with from now on.
        progress: Called at every step.

    Raises:
        ModelworksError: The data cannot be loaded or kept. Findings are in the report: see `CheckReport.require`.
    """
    folder = home.checks(spec.name)
    work(spec, home, {"verb": "check", "folder": str(folder), "save_baseline": save_baseline}, progress)
    return CheckReport.from_facts(read_json(folder / "checks.json"))


def train(spec: ModelSpec, home: Home, *, data: str = "", progress: Progress | None = None) -> TrainedModel:
    """Check the data, train, and evaluate on the hold-out.

    Args:
        spec: The model.
        home: Where data and runs are kept.
        data: Digest of a snapshot to train on again, instead of loading.
        progress: Called at every step.

    Raises:
        ModelworksError: The environment is not the lock's, the data has errors, or the spec's code raises.
    """
    source = source_of(spec.folder, find_lock(spec.folder).file)
    return with_origin(make_run(spec, home, data=data, progress=progress), *source)


def make_run(
    spec: ModelSpec, home: Home, *, data: str = "", progress: Progress | None = None, shown: bool = False
) -> Path:
    """A finished run without its origin, which is its caller's: `train` on a machine without git and user.

    Args:
        spec: The model.
        home: Where data and runs are kept.
        data: Digest of a snapshot to train on again, instead of loading.
        progress: Called at every step.
        shown: Let what the model's code prints appear where this process prints, and not in a log file.

    Returns:
        The run's folder.

    Raises:
        ModelworksError: As `train`.
    """
    lock = find_lock(spec.folder)
    lock.refuse_other_versions(roots(spec))
    job = {
        "verb": "train",
        "data": data,
        "lock": lock.digest,
        "code": code_digest(spec.folder),
        "engine": engine_digest(),
    }
    run: str = work(spec, home, job, progress, shown=shown)["run"]
    return home.runs(spec.name) / run


def roots(spec: ModelSpec) -> tuple[str, ...]:
    """Packages that a bundle of this model is made of and served with."""
    onnx = ("onnxruntime",) if spec.service.onnx else ()
    standard = tuple(each for each in SERVING if each not in {"onnxruntime", "pandas"})
    frame = ("pandas",) if spec.input == "frame" else ()
    return tuple(sorted({*standard, *onnx, *frame, *spec.service.packages}))

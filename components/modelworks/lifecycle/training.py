"""Training as a function of data, project, parameters, seed and locked packages.

Everything a user's code does happens in a child process (`modelworks.lifecycle.child`), which leaves its results in the
run's folder. A run that was killed continues where it stopped.
"""

from __future__ import annotations

from pathlib import Path

from modelworks._files import read_json
from modelworks.contract import Digest, RunId
from modelworks.lifecycle.checks import CheckReport
from modelworks.lifecycle.child_process import Progress, work
from modelworks.lifecycle.lockfile import find_lock_file
from modelworks.lifecycle.model_project import code_digest
from modelworks.lifecycle.provenance import source_of
from modelworks.lifecycle.runs import Home, TrainedModel, open_run, with_origin
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
    job = {"verb": "check", "folder": str(folder), "save_baseline": str(spec.folder) if save_baseline else ""}
    work(spec.folder, spec.name, home, job, progress)
    return CheckReport.from_facts(read_json(folder / "checks.json"))


def train(spec: ModelSpec, home: Home, *, data: Digest | None = None, progress: Progress | None = None) -> TrainedModel:
    """Check the data, train, and evaluate on the hold-out.

    Args:
        spec: The model.
        home: Where data and runs are kept.
        data: Digest of a snapshot to train on again, instead of loading.
        progress: Called at every step.

    Raises:
        ModelworksError: The environment is not the lock's, the data has errors, or the spec's code raises.
    """
    code, (commit, dirty) = code_digest(spec.folder), source_of(spec.folder, find_lock_file(spec.folder))
    run = make_run(spec.folder, spec.name, home, data=data, progress=progress)
    # An edit between the two is in the run, and not known to that commit.
    return with_origin(run, commit, dirty or open_run(run).inputs["code"] != code)


def make_run(
    folder: Path,
    model: str,
    home: Home,
    *,
    data: Digest | None = None,
    progress: Progress | None = None,
    shown: bool = False,
) -> Path:
    """A finished run without its origin, which is its caller's: `train` on a machine without git and user.

    Args:
        folder: The model project's.
        model: Its name.
        home: Where data and runs are kept.
        data: Digest of a snapshot to train on again, instead of loading.
        progress: Called at every step.
        shown: Let what the model's code prints appear where this process prints, and not in a log file.

    Returns:
        The run's folder.

    Raises:
        ModelworksError: As `train`.
    """
    made = work(folder, model, home, {"verb": "train", "data": data}, progress, shown=shown)
    return home.runs(model) / RunId(made["run"])

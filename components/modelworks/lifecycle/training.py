"""Training as a function of data, project, parameters, seed and locked packages.

Everything a user's code does happens in a child process (`modelworks.lifecycle.child`), which leaves its results in the
run's folder. A run that was killed continues where it stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from modelworks._files import read_json
from modelworks.contract import Digest, RunId
from modelworks.lifecycle.checks import CheckReport
from modelworks.lifecycle.child_process import Progress, work
from modelworks.lifecycle.lockfile import find_lock_file
from modelworks.lifecycle.model_project import code_digest, find_model
from modelworks.lifecycle.provenance import source_of
from modelworks.lifecycle.runs import Home, TrainedModel, open_run, with_origin


class Project(Protocol):
    """A model project: a spec, or one whose code this process does not run."""

    @property
    def folder(self) -> Path:
        """The folder of `model.py`."""

    @property
    def name(self) -> str:
        """The model's name; empty where it is not known yet."""


@dataclass(frozen=True)
class Unread:
    """A project of which only the child process reads `model.py`."""

    folder: Path
    name: str = ""


@dataclass(frozen=True)
class Described:
    """A project, with what its spec states about a run."""

    folder: Path
    name: str
    packages: tuple[str, ...]
    """Packages that decide what a run holds."""
    inputs: dict[str, Any]
    """Parameters, seed, and the digest of stored features."""
    reads_features: bool = False
    """Whether it reads features from a feature store."""
    makes_history: bool = False
    """Whether it writes the history of those features itself."""


def project_at(model: str) -> Unread:
    """The project of that name, or in that folder.

    Raises:
        ModelworksError: There is none.
    """
    return Unread(find_model(model).parent)


def describe(project: Project, home: Home) -> Described:
    """Read a project's spec in the child process.

    Raises:
        ModelworksError: It states something wrong, with file and line.
    """
    told = work(project.folder, project.name, home, {"verb": "describe"})
    return Described(
        project.folder,
        told["model"],
        tuple(told["packages"]),
        told["inputs"],
        reads_features=told["reads_features"],
        makes_history=told["makes_history"],
    )


def check_data(
    spec: Project, home: Home, *, save_baseline: bool = False, progress: Progress | None = None
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
    job = {"verb": "check", "save_baseline": str(spec.folder) if save_baseline else ""}
    checked = work(spec.folder, spec.name, home, job, progress)
    return CheckReport.from_facts(read_json(home.checks(checked["model"]) / "checks.json"))


def train(
    spec: Project,
    home: Home,
    *,
    data: Digest | None = None,
    history: Path | None = None,
    progress: Progress | None = None,
) -> TrainedModel:
    """Check the data, train, and evaluate on the hold-out.

    Args:
        spec: The model.
        home: Where data and runs are kept.
        data: Digest of a snapshot to train on again, instead of loading.
        history: Folder for the history of features that the project makes, where others need it too: it is whole when
            the step `write history` is done.
        progress: Called at every step.

    Raises:
        ModelworksError: The environment is not the lock's, the data has errors, or the spec's code raises.
    """
    code, (commit, dirty) = code_digest(spec.folder), source_of(spec.folder, find_lock_file(spec.folder))
    run = make_run(spec.folder, spec.name, home, data=data, history=history, progress=progress)
    # An edit between the two is in the run, and not known to that commit.
    return with_origin(run, commit, dirty or open_run(run).inputs["code"] != code)


def make_run(
    folder: Path,
    model: str,
    home: Home,
    *,
    data: Digest | None = None,
    history: Path | None = None,
    progress: Progress | None = None,
    shown: bool = False,
) -> Path:
    """A finished run without its origin, which is its caller's: `train` on a machine without git and user.

    Args:
        folder: The model project's.
        model: Its name. Empty: the one that its spec states.
        home: Where data and runs are kept.
        data: Digest of a snapshot to train on again, instead of loading.
        history: As for `train`.
        progress: Called at every step.
        shown: Let what the model's code prints appear where this process prints, and not in a log file.

    Returns:
        The run's folder.

    Raises:
        ModelworksError: As `train`.
    """
    job = {"verb": "train", "data": data, "history": str(history or "")}
    made = work(folder, model, home, job, progress, shown=shown)
    return home.runs(made["model"]) / RunId(made["run"])

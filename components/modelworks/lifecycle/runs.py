"""Runs: what went into a training, the folder with what came out, and where both are kept.

A run is called after the digest of its inputs: the same inputs find the same run again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modelworks._files import digest_of_facts, read_json, write_json, write_whole
from modelworks.contract import MODEL_NAME, RunId
from modelworks.errors import ModelworksError
from modelworks.lifecycle.checks import CheckReport
from modelworks.lifecycle.identity import person
from modelworks.lifecycle.model_project import code_digest, model_file

PROJECT = "project"
"""In a run's folder: the project that it was made from, with its lock."""
SPLIT = "split.npy"
"""In a run's folder: which rows trained, validated and were held out."""


FILES = frozenset(
    {
        "inputs.json", "checks.json", "checks.html", "model.skops", "graph.onnx", "loader.json", "artifacts",
        "metrics.json", "slices.json", "plots", PROJECT, SPLIT,
    }
)  # fmt: skip
"""The files of a training in its run's folder. Bundle, verdicts and origin are added by who judges and releases it."""
MADE_OF = ("inputs.json", "metrics.json", PROJECT, SPLIT)
"""Of a run's folder: what its bundle is judged by, the same bytes wherever the run was made."""


@dataclass(frozen=True)
class Home:
    """Where runs, data and the signing key are kept on this machine. No command deletes it."""

    root: Path
    data_store: str = ""
    """`s3://bucket/prefix` behind the local folder, or empty."""
    artifact_bucket: str = ""
    """Bucket where finished runs are looked for that are not here, or empty."""

    @property
    def data(self) -> Path:
        """Snapshots by digest."""
        return self.root / "data"

    def runs(self, model: str) -> Path:
        """Runs of one model.

        Raises:
            ModelworksError: `model` is no name of one.
        """
        if not MODEL_NAME.fullmatch(model):
            raise ModelworksError(f"the name of a model is lower-case letters, digits and dashes, got {model!r}")
        return self.root / "runs" / model

    def checks(self, model: str) -> Path:
        """The last check of a model's data outside of a run."""
        return self.root / "checks" / model


def make_home(root: Path) -> Path:
    """Make the folder of a home, for the user alone and ignored by git: it holds data and a private key.

    Raises:
        ModelworksError: It cannot be made.
    """
    if not (root / ".gitignore").is_file():
        write_whole(root / ".gitignore", "*\n")
    return root


@dataclass(frozen=True)
class TrainedModel:
    """One run: what went in, and the folder with what came out."""

    model: str
    run: RunId
    """First 16 hex digits of the digest of its inputs."""
    folder: Path
    inputs: dict[str, Any]
    """Digests of `data`, `code` (the project's files), `engine` and `lock` (the packages it needs); `parameters` and
    `seed`."""
    metrics: dict[str, float]
    """On the hold-out."""
    origin: dict[str, Any]
    """`commit`, `dirty`, `by`, `at`: who trained it from what. Never part of a digest."""

    @property
    def scores(self) -> dict[str, dict[str, float | None]]:
        """Metrics on the rows that a person may tune by: `train` and `validation`."""
        found = read_json(self.folder / "metrics.json")
        return {part: found[part] for part in ("train", "validation")}

    @property
    def metric(self) -> str:
        """Name of the metric that decides."""
        return str(read_json(self.folder / "metrics.json").get("metric", ""))

    @property
    def checks(self) -> CheckReport:
        """The data checks this run passed."""
        return CheckReport.from_facts(read_json(self.folder / "checks.json"))

    def project(self) -> Path:
        """The folder of the model project that it was made from: its own copy, verified.

        Raises:
            ModelworksError: It is not there, or was changed.
        """
        root = self.folder / PROJECT
        folder = model_file(root).parent if root.is_dir() else root
        if not root.is_dir() or code_digest(folder) != self.inputs["code"]:
            raise ModelworksError(
                f"{folder} is not what the run {self.run} was made from: it was changed or removed",
                fix=f"Remove {self.folder} and train again.",
            )
        return folder


def with_origin(folder: Path, commit: str, dirty: bool) -> TrainedModel:
    """The finished run in `folder`, from now on known to be trained from that source, by this user.

    Args:
        folder: The run's.
        commit: See `source_of`.
        dirty: The same.

    Raises:
        ModelworksError: It was not finished.
    """
    path = folder / "origin.json"
    known = read_json(path) if path.is_file() else {}
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    # The same inputs found again in a clean tree are from then on known by that commit.
    if not known or (known["dirty"] and not dirty):
        known = {"commit": commit, "dirty": dirty, "by": person(), "at": now}
    write_json(path, {**known, "last": now})
    return open_run(folder)


def open_run(folder: Path) -> TrainedModel:
    """The finished run in `folder`, which is called after it.

    Raises:
        ModelworksError: It is not there, was not finished, or is another run.
    """
    if not (folder / "metrics.json").is_file():
        raise ModelworksError(f"there is no finished run in {folder}", fix="Run `modelworks train` first.")
    inputs, metrics = read_json(folder / "inputs.json"), read_json(folder / "metrics.json")
    if run_id(inputs) != folder.name:
        raise ModelworksError(f"{folder} holds the run {run_id(inputs)}, not {folder.name}: it was changed")
    origin = read_json(folder / "origin.json") if (folder / "origin.json").is_file() else {}
    return TrainedModel(inputs["model"], run_id(inputs), folder, inputs, metrics["holdout"], origin)


def has_runs(model: str, home: Home) -> bool:
    """Whether `model` is the name of a model that was trained here."""
    return bool(MODEL_NAME.fullmatch(model)) and home.runs(model).is_dir()


def latest_run(model: str, home: Home) -> TrainedModel:
    """The run of `model` that was trained last.

    Raises:
        ModelworksError: There is none.
    """
    finished = sorted(home.runs(model).glob("*/metrics.json"), key=_trained_at)
    if not finished:
        raise ModelworksError(f"{model} was never trained here", fix=f"Run `modelworks train {model}`.")
    run = open_run(finished[-1].parent)
    if run.model != model:
        raise ModelworksError(f"{run.folder} holds a run of {run.model}, not of {model}: it was changed")
    return run


def _trained_at(path: Path) -> tuple[str, float]:
    origin = path.parent / "origin.json"
    return (read_json(origin).get("last", "") if origin.is_file() else "", path.stat().st_mtime)


def run_id(inputs: dict[str, Any]) -> RunId:
    """The name of a run with these inputs."""
    return RunId(digest_of_facts(inputs).hex[:16])

"""`train --env`: train a model as a Job of an environment, and fetch its run."""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.markup import escape

from modelworks._files import read_json
from modelworks.cli.console import err, say
from modelworks.cli.exit_codes import ExitCode
from modelworks.cluster import training_job
from modelworks.cluster.client import KubernetesClient, RefusedError
from modelworks.contract import Digest
from modelworks.errors import ModelworksError
from modelworks.lifecycle import provenance, runs
from modelworks.lifecycle.artifacts import Artifacts, Made
from modelworks.lifecycle.data import StoreError
from modelworks.lifecycle.identity import person
from modelworks.lifecycle.lockfile import find_lock_file, read_lock
from modelworks.lifecycle.model_project import LOCK, code_digest, copy_project
from modelworks.lifecycle.pod import count_run

if TYPE_CHECKING:
    from modelworks.cli.context import EnvironmentContext
    from modelworks.lifecycle.child_process import Progress
    from modelworks.lifecycle.runs import Home, TrainedModel
    from modelworks.lifecycle.training import Described


def train_in(
    target: EnvironmentContext, spec: Described, home: Home, data: Digest | None, tell: Progress
) -> tuple[TrainedModel, str]:
    """Train a model in an environment, and bring the run here as if it had been trained here.

    Args:
        target: The environment.
        spec: The model's project.
        home: Where data and runs are kept on this machine.
        data: Digest of a snapshot to train on again. None: the run loads its data.
        tell: Called at every step.

    Returns:
        The run, and its id in the environment's MLflow.

    Raises:
        ModelworksError: The environment has no place for runs, or the run failed; its exit code is the Job's.
        typer.Exit: Ctrl-C: the Job is cancelled.
    """
    place = training_job.TrainingEnvironment.of(target.output("training"))
    artifacts, cluster = Artifacts(place.artifact_bucket, target.session), target.cluster(place.namespace)
    commit, dirty = provenance.source_of(spec.folder, find_lock_file(spec.folder))
    with _step(tell, "send the project"):
        source, sent = _send(spec, artifacts)
        if data:
            artifacts.snapshots(home.data).share(data)
    order = training_job.Order(
        environment=target.environment,
        model=spec.name,
        source=source,
        engine=sent["engine"],
        commit=commit + ("-dirty" if dirty else ""),
        by=person(),
        data=data,
    )
    name = job_name(spec.name)
    made = _watched(target, cluster, artifacts, place, order, name)
    folder = home.runs(spec.name) / made.run
    with _step(tell, "bring the run home"):
        artifacts.take_over(name, made, spec.name, folder)
        inputs = read_json(folder / "inputs.json")
        if other := [what for what, value in sent.items() if inputs[what] != value]:
            raise ModelworksError(f"the run {folder.name} that came back has another {', '.join(other)} than was sent")
        artifacts.snapshots(home.data).get(Digest(inputs["data"]))
    run = runs.with_origin(folder, commit, dirty)
    with _step(tell, "log to MLflow"):
        return run, target.registry.track(run)


def _send(spec: Described, artifacts: Artifacts) -> tuple[Digest, dict[str, Any]]:
    """Send a copy of the project; returns where it is, and the inputs that the run must come back with."""
    with tempfile.TemporaryDirectory(prefix="modelworks-source-") as scratch:
        copy = copy_project(spec.folder, Path(scratch)).parent
        sent = {
            "model": spec.name,
            "code": code_digest(copy),
            "engine": provenance.engine_digest(),
            "lock": read_lock(Path(scratch) / LOCK).digest(spec.packages),
            **spec.inputs,
        }
        return artifacts.send_source(Path(scratch)), sent


def job_name(model: str) -> str:
    """A name for a Job that no other run can guess: it hands its result over under that name."""
    return f"train-{model[:24].rstrip('-')}-{secrets.token_hex(12)}"  # short enough for the names of its pods


def _watched(
    target: EnvironmentContext,
    cluster: KubernetesClient,
    artifacts: Artifacts,
    place: training_job.TrainingEnvironment,
    order: training_job.Order,
    name: str,
) -> Made:
    """Run the Job to its end, and return what it made."""
    try:
        _start(cluster, training_job.manifest(name, place, order))
        err.print(f"  [dim]job {name} in {place.namespace}[/]")
        ending = cluster.follow(name, lambda seen: training_job.ending_of(seen, place), say, _note)
    except KeyboardInterrupt:
        cluster.cancel(name)
        err.print(f"[bold]cancelled:[/] the job {name} is deleted, and nothing of it was kept", soft_wrap=True)
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    if ending.refused:
        cluster.cancel(name)
        raise _failure(order, ending, "")
    note = artifacts.read_note(name)
    if not ending.exit_code:
        if note.made is None:
            raise ModelworksError(f"the job {name} succeeded and left no note of a run", fix="Train again.")
        return note.made
    if not note.counted:
        _count(target, order)
    log = f"`kubectl -n {place.namespace} logs job/{name}` shows its log again."
    raise _failure(order, ending, log, note.error)


def _start(cluster: KubernetesClient, manifest: dict[str, Any]) -> None:
    try:
        cluster.start(manifest)
    except RefusedError as error:
        if "exceeded quota" not in error.message:
            raise
        raise ModelworksError(training_job.quota_text(error.message), fix=training_job.QUOTA_FIX) from error


def _count(target: EnvironmentContext, order: training_job.Order) -> None:
    """Count a run that was killed, so that it could not count itself."""
    try:
        count_run(target.session, target.environment, order.model, failed=True)
    except StoreError as error:
        err.print(f"[yellow]warning:[/] {escape(error.message)}", soft_wrap=True)


def _failure(order: training_job.Order, ending: training_job.Ending, log: str, said: str = "") -> ModelworksError:
    error = ModelworksError(
        f"the run of {order.model} in {order.environment} failed: {said or ending.reason}",
        fix=log if said else ending.fix or log,
    )
    error.exit_code = ending.exit_code
    return error


def _note(line: str) -> None:
    err.print(f"  [dim]{escape(line)}[/]", soft_wrap=True)


@contextmanager
def _step(tell: Progress, name: str) -> Iterator[None]:
    began = time.monotonic()
    tell(name, "start", 0.0)
    yield
    tell(name, "done", time.monotonic() - began)

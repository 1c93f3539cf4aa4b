"""Log a run to an MLflow server: parameters, metrics, curves, plots, digests, commit and reports.

Nothing here changes the run. A run that is logged twice is one run in MLflow.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelworks._files import read_json
from modelworks.errors import ModelworksError

if TYPE_CHECKING:
    from modelworks.lifecycle.bundle import Bundle
    from modelworks.lifecycle.runs import TrainedModel

RUN_TAG = "modelworks.run"


def track(run: TrainedModel, uri: str, bundle: Bundle | None = None) -> str:
    """Log a run to the MLflow server at `uri` and return its MLflow run id.

    A run that is complete in MLflow is left alone; one that was logged in part is logged again.

    Raises:
        ModelworksError: The server does not answer or refuses.
    """
    # A server that is down must be an error within seconds, not after MLflow's seven retries.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    from mlflow.exceptions import MlflowException  # two seconds to import
    from mlflow.tracking import MlflowClient

    try:
        return _tell(MlflowClient(uri), run, bundle)
    except (MlflowException, OSError) as error:
        raise ModelworksError(
            f"MLflow at {uri} did not take the run {run.run} of {run.model}: {str(error).splitlines()[0]}",
            fix="The run itself is kept: start the server or correct MLFLOW_TRACKING_URI, and run this again.",
        ) from error


def _tell(client: Any, run: TrainedModel, bundle: Bundle | None) -> str:
    there = _run_there(client, _experiment(client, run.model), run.run)
    run_id, known = str(there.info.run_id), there.data.tags
    from mlflow.entities import RunTag  # two seconds to import

    tags = [RunTag(name, value) for name, value in _tags(run, bundle).items() if known.get(name) != value]
    if there.info.status != "FINISHED":
        _tell_facts(client, run_id, run, tags)
        client.set_terminated(run_id)
    elif tags:
        client.log_batch(run_id, tags=tags)
    return run_id


def _experiment(client: Any, model: str) -> str:
    """The id of a model's experiment, made by the first who tells of a run."""
    from mlflow.exceptions import MlflowException  # two seconds to import

    if not (found := client.get_experiment_by_name(model)):
        try:
            return str(client.create_experiment(model))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(model)
    return str(found.experiment_id)


def _run_there(client: Any, experiment: str, run: str) -> Any:
    """The one run of that name, made if there is none. Of two who made it at once, the first counts."""

    def first() -> Any:
        order = ["attributes.start_time ASC", "attributes.run_id ASC"]
        found = client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{run}'", max_results=1, order_by=order)
        return found[0] if found else None

    if found := first():
        return found
    made = client.create_run(experiment, tags={RUN_TAG: run}, run_name=run)
    found = first() or made
    if found.info.run_id != made.info.run_id:
        client.delete_run(made.info.run_id)
    return found


def _tell_facts(client: Any, run_id: str, run: TrainedModel, tags: list[Any]) -> None:
    """Log everything in few requests: a server with authentication takes a fifth of a second for each."""
    from mlflow.entities import Metric, Param  # two seconds to import

    told = read_json(run.folder / "metrics.json")
    parameters = {**run.inputs["parameters"], "seed": run.inputs["seed"]}
    # Steps stand for time, so that a run told twice draws the same curve.
    points = [
        Metric(f"{part}.{name}", value, 0, 0)
        for part in ("train", "validation", "holdout")
        for name, value in told[part].items()
        if value is not None
    ] + [
        Metric(name, value, 0, step)
        for name, curve in told["curves"].items()
        for step, value in enumerate(curve)
        if value is not None
    ]
    client.log_batch(run_id, params=[Param(name, str(value)) for name, value in parameters.items()], tags=tags)
    for start in range(0, len(points), 1000):
        client.log_batch(run_id, metrics=points[start : start + 1000])
    with tempfile.TemporaryDirectory(prefix="modelworks-track-") as scratch:
        for name in ("checks.html", "checks.json", "metrics.json", "slices.json"):
            shutil.copyfile(run.folder / name, Path(scratch) / name)
        if (run.folder / "plots").is_dir():
            shutil.copytree(run.folder / "plots", Path(scratch) / "plots")
        client.log_artifacts(run_id, scratch)


def _tags(run: TrainedModel, bundle: Bundle | None) -> dict[str, str]:
    tags = {
        "modelworks.data": run.inputs["data"],
        "modelworks.code": run.inputs["code"],
        "modelworks.lock": run.inputs["lock"],
        "modelworks.commit": run.origin.get("commit", ""),
        "modelworks.dirty": str(run.origin.get("dirty", True)).lower(),
        "modelworks.trained_by": run.origin.get("by", ""),
    }
    if bundle:
        tags |= {"modelworks.bundle": bundle.digest, "modelworks.served": bundle.served}
    return tags

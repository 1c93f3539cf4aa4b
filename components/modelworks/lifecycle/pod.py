"""The program of a training run's pod: `python -m modelworks.lifecycle.pod`.

It fetches a project by digest, trains it as `modelworks train` does, and leaves the run in the artifact bucket. Exit
codes: 0 trained; 1 failed, and would fail again; 75 the bucket did not answer; 143 terminated.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import msgspec

from modelworks import contract
from modelworks._container import end_on_sigterm
from modelworks.contract import Digest, RunId
from modelworks.errors import ModelworksError
from modelworks.lifecycle.artifacts import Artifacts, JobNote, Made
from modelworks.lifecycle.data import StoreError
from modelworks.lifecycle.provenance import engine_digest
from modelworks.lifecycle.runs import Home
from modelworks.lifecycle.training import make_run


def main(arguments: list[str]) -> int:
    """Do what a Job was made for, and return its exit code."""
    import boto3  # who only counts a run has a session already

    order = _parser().parse_args(arguments)
    session = boto3.Session()
    artifacts = Artifacts(order.bucket, session)
    try:
        note = JobNote(made=_train(order, artifacts))
    except ModelworksError as error:
        _say(f"error: {error}")
        if error.exit_code == StoreError.exit_code:
            return error.exit_code
        note = JobNote(error=error.message)
    except Exception as error:  # noqa: BLE001 - whatever ends a run is shown and counted
        traceback.print_exc(file=sys.stdout)
        note = JobNote(error=f"{type(error).__name__}: {error}")
    failed = note.made is None
    try:
        count_run(session, os.environ[contract.ENV_ENVIRONMENT], order.model, failed=failed)
        note = msgspec.structs.replace(note, counted=True)
    except StoreError as error:
        _say(f"warning: {error}")  # who watches the Job counts it instead
    try:
        artifacts.note(order.job, note)
    except StoreError as error:
        _say(f"error: {error}")
        return error.exit_code
    return 1 if failed else 0


def _train(order: argparse.Namespace, artifacts: Artifacts) -> Made:
    """Train, hand the run over, and return what to note of it."""
    if engine_digest() != order.engine:
        raise ModelworksError(
            "this image holds another modelworks than the caller, so the run would differ",
            fix="Build images/training from the commit you train with, and name it in the settings: "
            "cluster.training_image.",
        )
    with tempfile.TemporaryDirectory(prefix="modelworks-run-") as scratch:
        source = Path(scratch) / "source"
        home = Home(Path(scratch) / "home", f"s3://{artifacts.bucket}/{contract.DATA_PREFIX}", artifacts.bucket)
        try:
            project = artifacts.fetch_source(order.source, source).parent
            folder = make_run(project, order.model, home, data=order.data, progress=_progress, shown=True)
        except ModelworksError as error:
            # Files are told as they lie at home.
            error.message = error.message.replace(f"{source}{os.sep}", "")
            raise
        return Made(run=RunId(folder.name), archive=artifacts.hand_over(order.job, folder))


def count_run(session: Any, environment: str, model: str, *, failed: bool) -> None:
    """Publish whether a run failed, for the environment, whose alarm watches it, and for the model.

    Raises:
        StoreError: CloudWatch does not answer, or refuses.
    """
    from botocore.config import Config  # only where there is an account
    from botocore.exceptions import BotoCoreError, ClientError

    everything = [{"Name": contract.DIMENSION_ENVIRONMENT, "Value": environment}]
    data = [
        {"MetricName": contract.METRIC_RUN_FAILED, "Value": float(failed), "Dimensions": dimensions}
        for dimensions in (everything, [*everything, {"Name": contract.DIMENSION_MODEL, "Value": model}])
    ]
    config = Config(connect_timeout=5, read_timeout=15, retries={"total_max_attempts": 3})
    try:
        session.client("cloudwatch", config=config).put_metric_data(
            Namespace=contract.TRAINING_METRIC_NAMESPACE, MetricData=data
        )
    except (BotoCoreError, ClientError) as error:
        raise StoreError(f"CloudWatch did not count the run: {error}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m modelworks.lifecycle.pod", description=__doc__)
    for name, meaning in (
        ("job", "name of the Job, under which it notes what became of it"),
        ("model", "name of the model"),
        ("bucket", "the environment's artifact bucket"),
    ):
        parser.add_argument(f"--{name}", required=True, help=meaning)
    for name, meaning in (
        ("source", "digest of the project's archive"),
        ("engine", "digest of the caller's modelworks"),
    ):
        parser.add_argument(f"--{name}", required=True, type=Digest, help=meaning)
    parser.add_argument("--data", type=Digest, help="digest of a snapshot to train on, instead of loading")
    return parser


def _progress(step: str, state: str, seconds: float) -> None:
    if state != "start":
        _say(f"  {step:<28}{'   kept' if state == 'kept' else f'{seconds:6.1f} s'}")


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    end_on_sigterm()
    sys.exit(main(sys.argv[1:]))

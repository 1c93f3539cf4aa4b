"""The commands around a model: facts as JSON, useful exit codes, no traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import boto3
from moto import mock_aws

from modelworks.cli.json_output import JSON_OUTPUT
from modelworks.lifecycle.data import SnapshotStore


def modelworks(project, *arguments):
    folder = project.folder.parents[1]
    environment = {**os.environ, "MODELWORKS_HOME": str(folder / "state"), "COLUMNS": "200"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-c", "from modelworks.cli import main; main()", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_new_project_passes_its_own_tests(project):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(project.folder)]
    done = subprocess.run(command, cwd=project.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_train_bundle_and_gates_from_the_command_line(project):
    run = json.loads(modelworks(project, "train", "churn", "--json").stdout)
    bundle = json.loads(modelworks(project, "bundle", "churn", "--json").stdout)
    local = modelworks(project, "gates", "churn", "--json")
    prod = modelworks(project, "gates", "churn", "--env", "prod")
    forced = modelworks(project, "gates", "churn", "--env", "prod", "--override", "a rehearsal", "--json")
    assert run["run"] == bundle["run"]
    assert ({*run}, {*bundle}) == ({*JSON_OUTPUT["train"]}, {*JSON_OUTPUT["bundle"]})
    assert (local.returncode, json.loads(local.stdout)["digest"]) == (0, bundle["digest"])
    assert (prod.returncode, "prod refuses churn" in prod.stderr, "Traceback" in prod.stderr) == (1, True, False)
    assert (forced.returncode, json.loads(forced.stdout)["override"]["reason"]) == (0, "a rehearsal")


def test_bundle_before_training_says_what_to_do(project):
    done = modelworks(project, "bundle", "churn")
    assert (done.returncode, "Run `modelworks train churn`." in done.stderr) == (1, True)


def test_data_that_is_wrong_exits_with_one_and_names_the_column(project):
    project.edit('assign(benign=found["target"] == 1)', 'assign(benign=found["target"] == 1, texture=-1.0)')
    done = modelworks(project, "check-data", "churn", "--json")
    assert done.returncode == 1
    assert "texture" in {each["subject"] for each in json.loads(done.stdout)["findings"]}


def test_project_that_is_there_already_is_not_overwritten(project):
    done = modelworks(project, "new", "churn")
    assert (done.returncode, "already exists" in done.stderr) == (1, True)


def test_snapshot_outlives_the_machine_in_a_bucket(tmp_path, monkeypatch):
    import pandas as pd

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="data")
        kept = SnapshotStore(tmp_path / "one", "s3://data/rows").put(pd.DataFrame({"a": [1, 2]}))
        found = SnapshotStore(tmp_path / "two", "s3://data/rows").get(kept.digest)
    assert (found.digest, found.rows) == (kept.digest, 2)

"""Tables that a model's local server reads before there is an environment."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path

import boto3
import botocore.exceptions
import pytest

from modelworks import contract
from modelworks.cli import local_features
from modelworks.cli.local_features import LocalFeatures, provide
from modelworks.features.definitions import read_definitions
from modelworks.features.environment import apply, open_store
from modelworks.features.materialization import materialize
from modelworks.lifecycle import load_spec
from modelworks.lifecycle.stored_features import write_history
from waiting import PATIENCE, eventually

FEATURES = """
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, String

airport = Entity(name="airport", join_keys=["origin"], value_type=ValueType.STRING)
weather = FeatureView(
    name="weather", entities=[airport], schema=[Field(name="wind", dtype=Float64), Field(name="sky", dtype=String)],
    source=FileSource(name="weather", path="weather", timestamp_field="known"),
)
flight = FeatureService(name="flight", features=[weather])
"""
MODEL = """
import pandas as pd
import pandera.pandas as pa

from modelworks.lifecycle import Card, DataSource, Feature, MetricGate, ModelSpec, StoredFeatures


def write(folder):
    (folder / "weather").mkdir(parents=True)
    pd.DataFrame({
        "origin": ["EWR", "EWR", "JFK"],
        "known": pd.to_datetime(["2024-01-01", "2024-01-02", "2024-01-01"], utc=True),
        "wind": [0.1, 0.1 + 0.2, None],
        "sky": ["clear", "rain", "rain"],
    }).to_parquet(folder / "weather" / "2024.parquet", index=False)


spec = ModelSpec(
    name="flights", description="Will the flight be late?", owner="tests", kind="binary", classes=(False, True),
    target="late", data=DataSource(load=lambda: None, description="Made up.", prediction_time="departure"),
    schema=pa.DataFrameSchema({}),
    features=(
        Feature(name="origin", type="string", categories=("EWR", "JFK")),
        Feature(name="wind", type="number", nullable=True),
        Feature(name="sky", type="string", categories=("clear", "rain"), nullable=True),
    ),
    stored=StoredFeatures(service="flight", keys=(), history=write),
    train=lambda data: None, metric="auc",
    gates=(MetricGate(metric="auc", at_least=0.5, because="tests"),), card=Card(intended_use="Tests."),
)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """The folder of a model that makes its history itself."""
    root = tmp_path_factory.mktemp("project")
    model = root / "models" / "flights"
    model.mkdir(parents=True)
    (model / "features.py").write_text(FEATURES)
    (model / "model.py").write_text(MODEL)
    (root / "models" / "features.json").write_text(read_definitions(root).manifest.to_json())
    write_history(load_spec(model), root / "history")
    return model


@pytest.fixture
def begin(tmp_path):
    """Begins local features with the history of a model, and ends them after the test."""
    failures: list[str] = []
    with closing(LocalFeatures(tmp_path / "logs" / "local-features.log", failures.append)) as features:

        def begun(model: Path) -> Future[dict[str, str]]:
            variables: Future[dict[str, str]] = Future()
            features.begin(model, model.parents[1] / "history", variables)
            return variables

        yield features, begun, failures


def client(variables: dict[str, str], **others: str):
    keys = {
        "aws_access_key_id": variables["AWS_ACCESS_KEY_ID"],
        "aws_secret_access_key": variables["AWS_SECRET_ACCESS_KEY"],
    }
    return boto3.client(
        "dynamodb", endpoint_url=variables["AWS_ENDPOINT_URL"], region_name=variables["AWS_REGION"], **keys | others
    )


def items(found, table: str) -> dict[str, dict]:
    return {item["entity_id"]["S"]: item for item in found.scan(TableName=table)["Items"] if "values" in item}


def filled_as_an_environment(project: Path, folder: Path, endpoint: str) -> None:
    """What `modelworks features apply` and `materialize` do, into tables named `environment.VIEW`."""
    store = open_store(
        json.dumps(
            {
                "project": "environment",
                "provider": "local",
                "registry": str(folder / "registry.db"),
                "offline_store": {
                    "type": "modelworks.features.offline.PolarsOfflineStore",
                    "location": str(project.parents[1] / "history"),
                },
                "online_store": {
                    "type": "modelworks.features.online.DynamoDBOnlineStore", "endpoint_url": endpoint,
                },
                "entity_key_serialization_version": 3,
            }
        )
    )  # fmt: skip
    apply(store, read_definitions(project.parents[1]))
    list(materialize(store))


def test_the_tables_hold_the_same_bytes_as_those_of_an_environment(project, begin, tmp_path, monkeypatch):
    _, begun, failures = begin
    variables = begun(project).result(PATIENCE)
    assert failures == []
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, variables[name])
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it keeps the credentials of its first request
    filled_as_an_environment(project, tmp_path, variables["AWS_ENDPOINT_URL"])
    tables = json.loads(variables[contract.ENV_FEATURE_TABLES])
    local = items(client(variables), tables["weather"])
    assert len(local) == 2
    assert local == items(client(variables), "environment.weather")


def test_nobody_else_may_listen_at_the_port_of_the_tables_before_they_are_served(monkeypatch):
    class TriedError(Exception):
        pass

    def meanwhile(account, port, own):
        with pytest.raises(OSError, match="Address already in use"):
            socket.create_server(("127.0.0.1", port))
        raise TriedError

    monkeypatch.setattr("modelworks.laptop.aws.emulate", meanwhile)
    with pytest.raises(TriedError):
        local_features._account()


def test_another_user_of_the_machine_reads_no_table(project, begin):
    _, begun, _ = begin
    variables = begun(project).result(PATIENCE)
    with pytest.raises(botocore.exceptions.ClientError, match="UnrecognizedClient"):
        client(variables, aws_access_key_id="AKIA0000000000000000").list_tables()


def test_the_tables_end_when_they_are_closed(project, begin):
    features, begun, failures = begin
    variables = begun(project).result(PATIENCE)
    features.close()
    with pytest.raises(botocore.exceptions.EndpointConnectionError):
        client(variables).list_tables()
    assert failures == []


def test_a_history_that_cannot_be_read_is_one_sentence_and_gives_no_tables(project, begin, tmp_path):
    root = tmp_path / "project"
    shutil.copytree(project.parents[1], root)
    (root / "history" / "weather" / "2024.parquet").write_bytes(b"no rows")
    features, begun, failures = begin
    variables = begun(root / "models" / "flights")
    eventually(lambda: failures)
    assert not variables.done()
    assert failures == [f"features are read when the environment has them: no local process has; log: {features._log}"]
    assert "correct the source's path" in features._log.read_text()


def test_nothing_begins_after_the_end(project, begin, tmp_path):
    features, begun, _ = begin
    features.close()
    begun(project)
    assert not (tmp_path / "logs").exists()


def test_the_first_who_knows_the_tables_names_them():
    variables: Future[dict[str, str]] = Future()
    provide(variables, {"first": "1"})
    provide(variables, {"second": "2"})
    assert variables.result() == {"first": "1"}


COMMAND = """
import sys, threading
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from modelworks.cli.local_features import LocalFeatures
variables = Future()
features = LocalFeatures(Path(sys.argv[2]), print)
model = Path(sys.argv[1])
features.begin(model, model.parents[1] / "history", variables)
print(features._process.pid, flush=True)
variables.result()
print("filled", flush=True)
threading.Event().wait()
"""


def test_the_tables_of_a_command_that_was_killed_end_too(project, tmp_path):
    argv = [sys.executable, "-c", COMMAND, str(project), str(tmp_path / "log")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as command:
        child = int(command.stdout.readline())
        assert command.stdout.readline() == "filled\n"
        command.send_signal(signal.SIGKILL)
    eventually(lambda: not _runs(child))


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False

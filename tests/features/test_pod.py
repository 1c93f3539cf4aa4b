"""The program of the jobs of a feature store, as a pod runs it: variables and arguments in, exit code and lines out."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import boto3
import polars as pl
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Int64

from modelworks.features import pod

NOW = datetime.now(UTC).replace(microsecond=0)
STORE = """
project: pod{number}
provider: local
registry: {folder}/registry.db
offline_store: {{type: modelworks.features.offline.PolarsOfflineStore, location: {folder}/data}}
online_store: {{type: modelworks.features.online.DynamoDBOnlineStore}}
entity_key_serialization_version: 3
"""


@pytest.fixture
def store(tmp_path, aws, monkeypatch):
    """An applied store with one view, and the variables of its pod."""
    text = STORE.format(folder=tmp_path, number=abs(hash(str(tmp_path))))
    (tmp_path / "feature_store.yaml").write_text(text)
    monkeypatch.setenv("MODELWORKS_FEATURE_STORE", text)
    monkeypatch.setenv("MODELWORKS_ENVIRONMENT", "dev")
    aircraft = Entity(name="aircraft", join_keys=["tail"], value_type=ValueType.STRING)
    view = FeatureView(
        name="delays",
        entities=[aircraft],
        schema=[Field(name="late", dtype=Int64)],
        source=FileSource(name="delays", path="delays", timestamp_field="landed"),
    )
    made = FeatureStore(repo_path=str(tmp_path))
    made.apply([aircraft, view])
    return made


def landed(store, name: str, tail: str, late: int, ago: timedelta):
    folder = store.repo_path / "data" / "delays"
    folder.mkdir(parents=True, exist_ok=True)
    rows = {"tail": [tail], "late": [late], "landed": [NOW - ago]}
    pl.DataFrame(rows, schema_overrides={"landed": pl.Datetime("us", "UTC")}).write_parquet(folder / f"{name}.parquet")


def online(store, tail: str) -> int | None:
    found = store.get_online_features(features=["delays:late"], entity_rows=[{"tail": tail}])
    return found.to_dict()["late"][0]


def test_a_run_writes_the_newest_values_and_publishes_the_lag(store, capsys):
    landed(store, "first", "N1", 7, timedelta(hours=2))
    assert pod.main(["materialize"]) == 0
    assert online(store, "N1") == 7
    assert "delays: 1 written, 0 older, 0 present, lag " in capsys.readouterr().out
    metrics = boto3.client("cloudwatch").list_metrics(Namespace="modelworks/features")["Metrics"]
    assert {"environment": "dev", "view": "delays"} in [
        {each["Name"]: each["Value"] for each in metric["Dimensions"]} for metric in metrics
    ]


def test_a_value_that_arrives_late_is_found_within_the_lookback_alone(store):
    landed(store, "first", "N1", 7, timedelta(hours=2))
    assert pod.main(["materialize"]) == 0
    landed(store, "late", "N2", 9, timedelta(minutes=30))
    assert pod.main(["materialize"]) == 0
    assert online(store, "N2") is None
    assert pod.main(["materialize", "--lookback-seconds=3600"]) == 0
    assert online(store, "N2") == 9


def test_a_view_whose_history_is_missing_fails_with_its_place(store, capsys):
    assert pod.main(["materialize"]) == 1
    assert "error: feature source 'delays' cannot be read from" in capsys.readouterr().out


def test_a_run_without_its_variable_names_it(store, monkeypatch, capsys):
    monkeypatch.delenv("MODELWORKS_FEATURE_STORE")
    assert pod.main(["materialize"]) == 1
    assert "error: MODELWORKS_FEATURE_STORE is not set" in capsys.readouterr().out


def test_a_registry_that_may_not_be_opened_says_what_to_apply(store, monkeypatch, tmp_path, capsys):
    text = STORE.format(folder=tmp_path, number=0).replace(
        f"registry: {tmp_path}/registry.db", "registry: {registry_type: file, path: s3://nowhere/registry.db}"
    )
    monkeypatch.setenv("MODELWORKS_FEATURE_STORE", text)
    assert pod.main(["materialize"]) == 1
    assert "modelworks features apply" in capsys.readouterr().out


def test_a_pod_needs_neither_pulumi_nor_the_command_line():
    script = (
        "import sys, modelworks.features.pod; "
        "print([name for name in ('pulumi', 'typer', 'modelworks.lifecycle') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_a_verb_that_is_none_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        pod.main(["dematerialize"])
    assert ended.value.code == 2
    assert "invalid choice" in capsys.readouterr().err

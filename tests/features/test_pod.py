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
    monkeypatch.setenv(
        "MODELWORKS_ENVIRONMENT", tmp_path.name
    )  # the account is the module's, and keeps what is published
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
    assert {"environment": store.repo_path.name, "view": "delays"} in [
        {each["Name"]: each["Value"] for each in metric["Dimensions"]} for metric in metrics
    ]


def test_a_value_that_arrives_late_is_found_within_the_lookback_alone(store):
    landed(store, "first", "N1", 7, timedelta(hours=2))
    assert pod.main(["materialize"]) == 0
    landed(store, "late", "N2", 9, timedelta(minutes=30))
    assert pod.main(["materialize"]) == 0
    assert online(store, "N2") is None
    assert pod.main(["materialize", "--lookback-seconds=86400"]) == 0
    assert online(store, "N2") == 9


def skew(store) -> list[float]:
    """What was published of the skew of `delays`."""
    found = boto3.client("cloudwatch").get_metric_statistics(
        Namespace="modelworks/features",
        MetricName="feature_skew",
        Dimensions=[{"Name": "environment", "Value": store.repo_path.name}, {"Name": "view", "Value": "delays"}],
        StartTime=NOW - timedelta(hours=1),
        EndTime=NOW + timedelta(days=1),
        Period=90_000,
        Statistics=["Maximum"],
    )
    return [point["Maximum"] for point in found["Datapoints"]]


def test_online_values_that_are_those_of_history_have_no_skew(store, capsys):
    landed(store, "first", "N1", 7, timedelta(hours=2))
    assert pod.main(["materialize"]) == 0
    assert pod.main(["verify"]) == 0
    assert "delays:late: 1 compared, 0 different, 0 missing" in capsys.readouterr().out
    assert skew(store) == [0.0]


def test_the_skew_is_the_share_of_values_that_differ_or_are_missing(store, capsys):
    landed(store, "first", "N1", 7, timedelta(hours=2))
    landed(store, "second", "N2", 8, timedelta(hours=2))
    assert pod.main(["materialize"]) == 0
    landed(store, "late", "N3", 918273, timedelta(hours=1))
    landed(store, "corrected", "N2", 645546, timedelta(hours=1))
    assert pod.main(["verify"]) == 0
    out = capsys.readouterr().out
    assert "delays:late: 3 compared, 1 different, 1 missing" in out
    assert skew(store) == [2 / 3]
    assert "918273" not in out


def test_a_view_that_was_never_materialized_has_no_skew_and_fails_nothing(store, capsys):
    assert pod.main(["verify"]) == 0
    assert "delays: never materialized without a gap, nothing to compare" in capsys.readouterr().out
    assert skew(store) == []


def test_a_view_without_a_table_is_named_by_both_jobs(store, capsys):
    landed(store, "first", "N1", 7, timedelta(hours=2))
    boto3.client("dynamodb").delete_table(TableName=f"{store.project}.delays")
    assert [pod.main([verb]) for verb in ("materialize", "verify")] == [1, 1]
    assert capsys.readouterr().out.count("error: delays: ") == 2


def test_a_view_whose_history_is_missing_fails_with_its_place(store, capsys):
    assert pod.main(["materialize"]) == 1
    assert "error: delays: feature source 'delays' cannot be read from" in capsys.readouterr().out


def test_a_view_that_fails_stops_no_other(store, capsys):
    empty = FeatureView(
        name="before",
        entities=[store.get_entity("aircraft")],
        schema=[Field(name="early", dtype=Int64)],
        source=FileSource(name="before", path="before", timestamp_field="landed"),
    )
    store.apply([empty])
    landed(store, "first", "N1", 7, timedelta(hours=2))
    assert pod.main(["materialize"]) == 1
    assert "error: before: " in capsys.readouterr().out
    assert online(store, "N1") == 7


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

"""What was served, compared with history as of the moment of each read."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import boto3
import msgspec
import polars as pl
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, OnDemandFeatureView, RequestSource, ValueType
from feast.transformation.pandas_transformation import PandasTransformation
from feast.types import Float64, Int64

from modelworks.errors import ModelworksError
from modelworks.features import pod
from modelworks.features.environment import registered_manifest, verify_log
from modelworks.runtime.manifest import Feature, Stored, StoredView
from modelworks.runtime.stored import LOGGED_STORED, LoggedStored

NOW = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=5)
READ = NOW
STORE = """
project: served
provider: local
registry: {folder}/registry.db
offline_store: {{type: modelworks.features.offline.PolarsOfflineStore, location: {folder}/data}}
online_store: {{type: modelworks.features.online.DynamoDBOnlineStore}}
entity_key_serialization_version: 3
"""
BEHIND = timedelta(hours=1)


def ago(**hours) -> datetime:
    return NOW - timedelta(**hours)


@pytest.fixture
def store(tmp_path, aws, monkeypatch):
    """An applied store with one view that is seen for a day, and its history."""
    text = STORE.format(folder=tmp_path)
    (tmp_path / "feature_store.yaml").write_text(text)
    monkeypatch.setenv("MODELWORKS_FEATURE_STORE", text)
    monkeypatch.setenv("MODELWORKS_ENVIRONMENT", tmp_path.name)
    aircraft = Entity(name="aircraft", join_keys=["tail"], value_type=ValueType.STRING)
    view = FeatureView(
        name="delays",
        entities=[aircraft],
        schema=[Field(name="late", dtype=Int64), Field(name="mean", dtype=Float64)],
        ttl=timedelta(days=1),
        source=FileSource(name="delays", path="delays", timestamp_field="landed"),
    )
    made = FeatureStore(repo_path=str(tmp_path))
    made.apply([aircraft, view])
    return made


def history(store, *rows: tuple[str, int | None, datetime], name: str = "1") -> None:
    folder = store.repo_path / "data" / "delays"
    folder.mkdir(parents=True, exist_ok=True)
    schema = {"tail": pl.String, "late": pl.Int64, "landed": pl.Datetime("us", "UTC")}
    frame = pl.DataFrame(rows, schema=schema, orient="row").with_columns(mean=pl.col("late") / 2)
    frame.write_parquet(folder / f"{name}.parquet")


def log(store, *rows: tuple[str, int | None, datetime | None], digest: str = "", default: int | None = None) -> str:
    """A prediction log of one model in S3 with these rows, all read at `READ`, as a server writes it."""
    view = registered_manifest(store).views["delays"]
    stored = Stored(
        service="flight",
        views=(StoredView(name="delays", keys={"tail": "String"}, features=dict(view.features),
                          digest=digest or view.digest, ttl_seconds=86_400),),
        keys=(Feature(name="tail", type="string"),),
        defaults={} if default is None else {"late": default},
    )  # fmt: skip
    features = tuple(
        Feature(name=name, type=kind, maximum=100, nullable=True)
        for name, kind in (("late", "integer"), ("mean", "number"))
    )
    schema = {"key_tail": pl.String, "feature_late": pl.Int64, "time_delays": pl.Datetime("us", "UTC")}
    frame = pl.DataFrame(rows, schema=schema, orient="row").with_columns(
        feature_mean=pl.col("feature_late") / 2, read_at=pl.lit(READ).cast(pl.Datetime("us", "UTC"))
    )
    table = frame.to_arrow()
    table = table.replace_schema_metadata({LOGGED_STORED: msgspec.json.encode(LoggedStored(stored, features))})
    body = io.BytesIO()
    pq.write_table(table, body)
    bucket = f"log-{abs(hash(store.repo_path))}"
    client = boto3.client("s3")
    client.create_bucket(Bucket=bucket)
    client.put_object(Bucket=bucket, Key=f"predictions/flights/dt={READ:%Y-%m-%d}/1.parquet", Body=body.getvalue())
    return f"s3://{bucket}/predictions"


def skew(store, location: str, feature: str = "late"):
    views = store.list_feature_views()
    found = verify_log(store, boto3.client("s3"), location, views, sample=1000, behind=BEHIND)
    return next(each for each in found if each.feature == feature)


def counts(store, location: str) -> tuple[int, int, int, int]:
    found = skew(store, location)
    return found.compared, found.different, found.stale, found.missing


def test_what_history_has_at_the_time_of_the_read_row_is_no_skew(store):
    history(store, ("N1", 7, ago(hours=3)), ("N1", 9, ago(minutes=10)), ("N2", 5, ago(hours=2)))
    location = log(store, ("N1", 7, ago(hours=3)), ("N2", 5, ago(hours=2)), ("N3", None, None))
    assert counts(store, location) == (3, 0, 0, 0)


def test_a_value_that_is_not_that_of_its_row_is_different_and_shown(store):
    history(store, ("N1", 7, ago(hours=3)))
    found = skew(store, log(store, ("N1", 8, ago(hours=3))))
    assert (found.different, found.stale, found.missing) == (1, 0, 0)
    assert found.examples == (f"N1 at {READ:%Y-%m-%dT%H:%M:%SZ}: different, served 8, history 7",)


def test_a_row_that_history_does_not_have_is_different(store):
    history(store, ("N1", 7, ago(hours=3)))
    assert counts(store, log(store, ("N1", 7, ago(hours=2)))) == (1, 1, 0, 0)


def test_an_old_row_is_stale_once_the_newer_one_is_older_than_the_store_may_be_behind(store):
    history(
        store, ("N1", 7, ago(hours=9)), ("N1", 7, ago(hours=3)), ("N2", 5, ago(hours=9)), ("N2", 5, ago(minutes=30))
    )
    assert counts(store, log(store, ("N1", 7, ago(hours=9)), ("N2", 5, ago(hours=9)))) == (2, 0, 1, 0)


def test_nothing_where_history_has_a_value_is_missing_unless_it_is_new_or_expired(store):
    history(store, ("N1", 7, ago(hours=3)), ("N2", 5, ago(minutes=30)), ("N3", 3, ago(hours=25)))
    location = log(store, ("N1", None, None), ("N2", None, None), ("N3", None, None))
    assert counts(store, location) == (3, 0, 0, 1)


def test_a_null_of_history_and_a_value_that_the_model_does_not_accept_are_its_default(store):
    history(store, ("N1", None, ago(hours=3)), ("N2", 1000, ago(hours=3)))
    location = log(store, ("N1", 4, ago(hours=3)), ("N2", 4, ago(hours=3)), default=4)
    assert counts(store, location) == (2, 0, 0, 0)


def test_rows_of_another_definition_are_not_compared(store):
    history(store, ("N1", 7, ago(hours=3)))
    location = log(store, ("N1", 8, ago(hours=3)), digest="sha256:other")
    views = store.list_feature_views()
    assert list(verify_log(store, boto3.client("s3"), location, views, sample=10, behind=BEHIND)) == []


def test_the_function_of_an_on_demand_view_is_not_run_to_compare_what_was_served(store, tmp_path):
    ran = tmp_path / "ran"
    text = f"from pathlib import Path\nPath({str(ran)!r}).touch()\ndef doubled(frame):\n    return frame * 2\n"
    view = OnDemandFeatureView(
        name="twice",
        sources=[RequestSource(name="asked", schema=[Field(name="distance", dtype=Float64)])],
        schema=[Field(name="doubled", dtype=Float64)],
        feature_transformation=PandasTransformation(udf=abs, udf_string=text),
        mode="pandas",
    )
    store.registry.apply_feature_view(view, store.project)
    history(store, ("N1", 7, ago(hours=3)))
    location = log(store, ("N1", 7, ago(hours=3)))
    assert ran.exists(), "Feast runs its text where it lists the view"
    ran.unlink()
    found = counts(store, location)
    assert (found, ran.exists()) == ((1, 0, 0, 0), False)


def test_a_log_that_is_not_there_says_so(store):
    views = store.list_feature_views()
    with pytest.raises(ModelworksError, match=r"the prediction log in s3://nowhere/predictions cannot be read"):
        list(verify_log(store, boto3.client("s3"), "s3://nowhere/predictions", views, sample=10, behind=BEHIND))


def test_the_job_publishes_the_share_of_served_values_that_differ(store, capsys):
    history(store, ("N1", 7, ago(hours=3)), ("N2", 5, ago(hours=3)))
    location = log(store, ("N1", 8, ago(hours=3)), ("N2", 5, ago(hours=3)))
    assert pod.main(["verify", f"--predictions={location}"]) == 0
    printed = capsys.readouterr().out
    assert "flights delays:late: 2 served, 1 different, 0 stale, 0 missing" in printed
    assert "N1" not in printed
    points = boto3.client("cloudwatch").get_metric_statistics(
        Namespace="modelworks/features",
        MetricName="feature_skew",
        Dimensions=[{"Name": "environment", "Value": store.repo_path.name}, {"Name": "view", "Value": "delays"}],
        StartTime=NOW - timedelta(hours=1), EndTime=NOW + timedelta(days=1), Period=90_000, Statistics=["Maximum"],
    )["Datapoints"]  # fmt: skip
    assert [point["Maximum"] for point in points] == [0.5]

"""Materialization into an emulated DynamoDB, and what plain Feast code reads after it."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import boto3
import polars as pl
import pytest
from botocore.exceptions import ClientError
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Int64
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelworks import contract
from modelworks.errors import ModelworksError
from modelworks.features import materialization, offline
from modelworks.features.materialization import cloudwatch, lag, materialize
from waiting import PATIENCE

NOW = datetime.now(UTC).replace(microsecond=0)
HOUR = timedelta(hours=1)
AGO = {hours: NOW - hours * HOUR for hours in range(1, 30)}


@pytest.fixture
def store(tmp_path, aws, request):
    """Views by tail number: `delays` without a TTL, `load` with one of a day. Their sources are folders."""
    project = f"m{abs(hash(request.node.name))}"
    (tmp_path / "feature_store.yaml").write_text(
        f"project: {project}\nprovider: local\nregistry: registry.db\n"
        f"offline_store: {{type: modelworks.features.offline.PolarsOfflineStore, location: {tmp_path}/data}}\n"
        "online_store: {type: modelworks.features.online.DynamoDBOnlineStore, attempts: 1}\n"
        "entity_key_serialization_version: 3\n"
    )
    store = FeatureStore(repo_path=str(tmp_path))
    aircraft = Entity(name="aircraft", join_keys=["tail"], value_type=ValueType.STRING)
    views = [
        FeatureView(
            name=name,
            entities=[aircraft],
            ttl=ttl,
            schema=[Field(name=name[0], dtype=Int64)],
            source=FileSource(name=name, path=name, timestamp_field="event", created_timestamp_column="created"),
        )
        for name, ttl in [("delays", None), ("load", 24 * HOUR)]
    ]
    store.apply([aircraft, *views])
    return store


def history(store, view, *rows, created=NOW):
    """Add rows of tail, event time and value to the history of a view."""
    folder = store.repo_path / "data" / view
    folder.mkdir(parents=True, exist_ok=True)
    tails, events, values = zip(*rows, strict=True)
    frame = pl.DataFrame(
        {"tail": tails, "event": events, "created": [created] * len(rows), view[0]: values},
        schema_overrides={view[0]: pl.Int64, "event": pl.Datetime("us", "UTC"), "created": pl.Datetime("us", "UTC")},
    )
    frame.write_parquet(folder / f"part-{len(list(folder.iterdir())):04}.parquet")


def online(store, view, *tails):
    feature = f"{view}:{view[0]}"
    found = store.get_online_features(features=[feature], entity_rows=[{"tail": tail} for tail in tails])
    return found.to_dict()[view[0]]


def run(store, view="delays", **window):
    (result,) = materialize(store, [view], **window)
    return result


def mark(store, view="delays"):
    return store._get_provider().online_store.mark(store.config, store.get_feature_view(view)).until


def table(store, view="delays"):
    return f"{store.project}.{view}"


@pytest.fixture
def writes(store):
    """Tables and entities that reached DynamoDB, from here on."""
    seen = []
    client = store._get_provider().online_store._client(store.config)
    client.meta.events.register(
        "provide-client-params.dynamodb.PutItem", lambda params, **_: seen.append(params["Item"]["entity_id"]["S"])
    )
    return seen


def test_a_first_run_writes_the_newest_value_of_each_entity(store):
    history(store, "delays", ("a", AGO[3], 1), ("a", AGO[2], 2), ("b", AGO[3], 3), ("a", AGO[4], 4))
    result = run(store)
    assert (result.start, result.written, result.older) == (None, 2, 0)
    assert online(store, "delays", "a", "b", "c") == [2, 3, None]


def test_the_next_run_continues_where_the_last_one_ended(store):
    history(store, "delays", ("a", AGO[3], 1), ("b", AGO[3], 2))
    run(store, end=AGO[2])
    history(store, "delays", ("a", AGO[1], 5))
    result = run(store)
    assert (result.start, result.written) == (AGO[2], 1)
    assert online(store, "delays", "a", "b") == [5, 2]


def test_a_window_holds_both_of_its_ends_and_nothing_else(store):
    history(store, "delays", *((f"t{hours}", AGO[hours], hours) for hours in (5, 4, 3, 2)))
    assert run(store, start=AGO[4], end=AGO[3]).written == 2
    assert online(store, "delays", "t5", "t4", "t3", "t2") == [None, 4, 3, None]


def test_a_run_that_is_repeated_changes_nothing(store):
    history(store, "delays", ("a", AGO[3], 1))
    first = run(store, end=AGO[2])
    before = boto3.client("dynamodb").scan(TableName=table(store))["Items"]
    again = run(store, end=AGO[2])
    assert (first.written, again.written) == (1, 0)
    assert boto3.client("dynamodb").scan(TableName=table(store))["Items"] == before


def test_a_backfill_leaves_newer_values_alone_and_the_mark_where_it_is(store):
    history(store, "delays", ("a", AGO[2], 2))
    run(store, end=AGO[1])
    history(store, "delays", ("a", AGO[9], 1), ("b", AGO[9], 3))
    result = run(store, start=AGO[10], end=AGO[8])
    assert (result.written, result.older) == (1, 1)
    assert online(store, "delays", "a", "b") == [2, 3]
    assert mark(store) == AGO[1]


def test_a_gap_is_not_counted_as_materialized(store):
    history(store, "delays", ("a", AGO[9], 1), ("b", AGO[2], 2))
    assert run(store, start=AGO[3], end=AGO[1]).lag_seconds is None
    assert run(store).start is None
    assert online(store, "delays", "a", "b") == [1, 2]


def test_late_values_are_found_by_looking_back(store):
    history(store, "delays", ("a", AGO[3], 1))
    run(store, end=AGO[2])
    history(store, "delays", ("b", AGO[4], 7))
    run(store, end=AGO[1])
    assert online(store, "delays", "b") == [None]
    assert run(store, lookback=3 * HOUR).start == AGO[4]
    assert online(store, "delays", "b") == [7]


def test_a_correction_with_the_same_event_time_replaces_the_value(store):
    history(store, "delays", ("a", AGO[3], 1), created=AGO[2])
    run(store, end=AGO[2])
    history(store, "delays", ("a", AGO[3], 9), created=AGO[1])
    run(store, lookback=5 * HOUR)
    assert online(store, "delays", "a") == [9]


def test_an_expired_value_is_not_written(store, writes):
    history(store, "load", ("a", AGO[25], 1), ("b", AGO[12], 2))
    assert run(store, "load").written == 1
    assert len(writes) == 1


def test_a_window_that_has_expired_counts_as_materialized(store):
    history(store, "load", ("a", AGO[12], 1))
    run(store, "load", start=AGO[26], end=AGO[25])
    assert run(store, "load").start == AGO[25]
    assert online(store, "load", "a") == [1]


def test_an_interrupted_run_continues_and_writes_only_the_rest(store, writes, monkeypatch):
    monkeypatch.setattr(materialization, "_ROWS_PER_WRITE", 2)
    history(store, "delays", *((f"t{number}", AGO[3], number) for number in range(5)))
    client = store._get_provider().online_store._client(store.config)
    put, calls = client.put_item, iter(range(100))

    def fails_at_the_fourth(**request):
        if next(calls) == 3:
            raise ClientError({"Error": {"Code": "InternalServerError", "Message": "down"}}, "PutItem")
        return put(**request)

    monkeypatch.setattr(client, "put_item", fails_at_the_fourth)
    with pytest.raises(ModelworksError, match="materialized in part") as refused:
        run(store)
    monkeypatch.setattr(client, "put_item", put)
    assert refused.value.fix.startswith("Run the same again")
    assert lag(store, store.get_feature_view("delays")) is None
    done = set(writes)
    writes.clear()
    result = run(store)
    assert not done & set(writes)
    assert (len(done) + len(writes), result.present) == (5, len(done))
    assert online(store, "delays", *(f"t{number}" for number in range(5))) == [0, 1, 2, 3, 4]


def test_two_runs_at_once_end_with_the_newest_values(store, monkeypatch):
    history(store, "delays", *((f"t{number}", AGO[9], 1) for number in range(20)))
    history(store, "delays", *((f"t{number}", AGO[2], 2) for number in range(20)))
    meet = threading.Barrier(2)
    newest = materialization._newest

    def together(*args):
        meet.wait(PATIENCE)
        return newest(*args)

    monkeypatch.setattr(materialization, "_newest", together)
    runs = [
        threading.Thread(target=lambda window=window: run(store, **window))
        for window in ({"end": AGO[8]}, {"end": AGO[1]})
    ]
    for each in runs:
        each.start()
    for each in runs:
        each.join()
    assert online(store, "delays", *(f"t{number}" for number in range(20))) == [2] * 20
    assert mark(store) == AGO[1]


def test_a_run_that_ends_later_does_not_move_the_mark_back(store):
    history(store, "delays", ("a", AGO[9], 1))
    view, engine = store.get_feature_view("delays"), store._get_provider().online_store
    engine.begin(store.config, view, "first", "sha256:1")
    engine.begin(store.config, view, "second", "sha256:1")
    engine.finish(store.config, view, "second", AGO[1], "sha256:1")
    engine.finish(store.config, view, "first", AGO[5], "sha256:1")
    assert mark(store) == AGO[1]


def test_a_feature_that_is_added_gets_the_values_of_all_entities_with_the_next_run(store):
    history(store, "delays", ("a", AGO[9], 1), ("b", AGO[8], 2))
    run(store, end=AGO[1])
    view = store.get_feature_view("delays")
    both = [*view.schema, Field(name="created_by", dtype=Int64)]
    both = [field for field in both if field.name != "tail"]
    store.apply(
        FeatureView(name="delays", entities=[store.get_entity("aircraft")], schema=both, source=view.batch_source)
    )
    folder = store.repo_path / "data" / "delays"
    for part in folder.iterdir():
        pl.read_parquet(part).with_columns(created_by=pl.lit(5)).write_parquet(part)
    assert lag(store, store.get_feature_view("delays")) is None
    result = run(store)
    assert (result.start, result.written) == (None, 2)
    found = store.get_online_features(
        features=["delays:d", "delays:created_by"], entity_rows=[{"tail": "a"}, {"tail": "b"}]
    ).to_dict()
    assert (found["d"], found["created_by"]) == ([1, 2], [5, 5])
    assert run(store).start == result.end


def test_a_changed_view_is_written_whole_also_after_a_run_that_was_interrupted(store, monkeypatch):
    history(store, "delays", ("a", AGO[9], 1))
    run(store, end=AGO[1])
    view = store.get_feature_view("delays")
    renamed = [Field(name="other", dtype=Int64)]
    store.apply(
        FeatureView(name="delays", entities=[store.get_entity("aircraft")], schema=renamed, source=view.batch_source)
    )
    for part in (store.repo_path / "data" / "delays").iterdir():
        pl.read_parquet(part).with_columns(other=pl.lit(7)).write_parquet(part)
    engine = store._get_provider().online_store
    with monkeypatch.context() as patch:
        patch.setattr(engine, "finish", lambda *_: None)
        run(store)
    assert run(store).start is None
    found = store.get_online_features(features=["delays:other"], entity_rows=[{"tail": "a"}]).to_dict()
    assert found["other"] == [7]


def test_a_run_reports_its_lag_as_the_metric_that_the_alarm_watches(store):
    history(store, "delays", ("a", AGO[3], 1))
    client = boto3.client("cloudwatch")
    result = run(store, end=AGO[2], publish=cloudwatch(client, "dev"))
    found = client.get_metric_statistics(
        Namespace=contract.FEATURE_METRIC_NAMESPACE, MetricName=contract.METRIC_FEATURE_LAG,
        Dimensions=[{"Name": "environment", "Value": "dev"}, {"Name": "view", "Value": "delays"}],
        StartTime=NOW - HOUR, EndTime=NOW + 24 * HOUR, Period=90_000, Statistics=["Maximum"],
    )["Datapoints"]  # fmt: skip
    assert max(point["Maximum"] for point in found) == result.lag_seconds >= 7200


def test_all_online_views_are_materialized_by_default(store):
    history(store, "delays", ("a", AGO[3], 1))
    history(store, "load", ("a", AGO[3], 2))
    assert {result.view for result in materialize(store)} == {"delays", "load"}


@pytest.mark.parametrize(
    ("views", "window", "message"),
    [
        (["nothing"], {}, "there is no feature view 'nothing'; there is delays, load"),
        ([], {"start": AGO[1], "end": AGO[2]}, "after its end"),
        ([], {"end": NOW + 24 * HOUR}, "in the future"),
        ([], {"lookback": -HOUR}, "lookback must not be negative"),
    ],
)
def test_a_window_that_is_none_is_refused(store, views, window, message):
    with pytest.raises(ModelworksError, match=message):
        list(materialize(store, views, **window))


def test_a_view_whose_table_is_missing_is_named(store):
    history(store, "delays", ("a", AGO[3], 1))
    boto3.client("dynamodb").delete_table(TableName=table(store))
    with pytest.raises(ModelworksError, match="feature view 'delays' has no table in DynamoDB"):
        run(store)


def test_a_history_that_is_missing_is_named_and_the_mark_stays(store):
    with pytest.raises(ModelworksError, match="feature source 'delays' cannot be read"):
        run(store)
    assert lag(store, store.get_feature_view("delays")) is None


ROWS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(1, 6).map(AGO.get), st.integers(0, 9)), min_size=1, max_size=25
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, size=st.integers(1, 7))
def test_reading_in_batches_gives_what_reading_at_once_gives(rows, size, monkeypatch):
    monkeypatch.setattr(offline, "_BATCH_ROWS", size)
    frame = pl.DataFrame(rows, schema=["tail", "event", "value"], orient="row")
    expected = {tail: value for tail, _, value in sorted(rows, key=lambda row: row[1])}
    found = offline.newest_of(frame.lazy(), ["tail"], ["event"])
    assert dict(found.select("tail", "value").iter_rows()) == expected

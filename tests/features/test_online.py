"""What plain Feast code gets from the online store, on an emulated DynamoDB."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import count

import pandas as pd
import polars as pl
import pytest
from botocore.exceptions import ClientError
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import (
    BoolList,
    BytesList,
    DoubleList,
    FloatList,
    Int32List,
    Int64List,
    StringList,
    Value,
)  # fmt: skip
from feast.types import Int64
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelworks.errors import ModelworksError

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
"""The unit of what expires: hours may pass between reading this file and running a test of it."""


@pytest.fixture
def store(tmp_path, aws, request):
    """A plain Feast store with two views by tail number and one by airport, of 1 h, 2 h and no TTL."""
    project = f"p{abs(hash(request.node.name))}"
    (tmp_path / "feature_store.yaml").write_text(
        f"project: {project}\nprovider: local\nregistry: registry.db\n"
        "offline_store: {type: modelworks.features.offline.PolarsOfflineStore}\n"
        "online_store: {type: modelworks.features.online.DynamoDBOnlineStore, attempts: 2}\n"
        "entity_key_serialization_version: 3\n"
    )
    store = FeatureStore(repo_path=str(tmp_path))
    aircraft = Entity(name="aircraft", join_keys=["tail"], value_type=ValueType.STRING)
    airport = Entity(name="airport", join_keys=["origin"], value_type=ValueType.STRING)
    views = [
        FeatureView(
            name=name,
            entities=[entity],
            ttl=ttl,
            schema=[Field(name=name[0], dtype=Int64)],
            source=FileSource(
                name=name, path=f"{name}.parquet", timestamp_field="event", created_timestamp_column="created"
            ),
        )
        for name, entity, ttl in [("delays", aircraft, DAY), ("load", aircraft, 2 * DAY), ("weather", airport, None)]
    ]
    store.apply([aircraft, airport, *views, FeatureService(name="all", features=views)])
    return store


def write(store, view, value, event, created=NOW, tail="a"):
    key = "origin" if view == "weather" else "tail"
    frame = pd.DataFrame({key: [tail], "event": [event], "created": [created], view[0]: [value]})
    store.write_to_online_store(view, frame)


def read(store, *tails, features=None):
    features = features or store.get_feature_service("all")
    rows = [{"tail": tail, "origin": tail} for tail in tails]
    return store.get_online_features(features=features, entity_rows=rows).to_dict()


def engine(store):
    return store._get_provider().online_store


@pytest.fixture
def requests(store):
    """The requests that reached DynamoDB, by name, from here on."""
    seen = []
    engine(store)._reader(store.config).meta.events.register(
        "before-call.dynamodb", lambda model, **_: seen.append(model.name)
    )
    return seen


def test_all_views_of_a_service_are_read_in_one_round_trip(store, requests):
    for number, view in enumerate(["delays", "load", "weather"]):
        write(store, view, number, NOW)
    requests.clear()
    answer = read(store, "a", "b")
    assert (answer["d"], answer["l"], answer["w"]) == ([0, None], [1, None], [2, None])
    assert requests == ["BatchGetItem"]


def test_more_keys_than_one_request_may_hold_are_read_in_several(store, requests):
    write(store, "load", 7, NOW, tail="79")
    requests.clear()
    assert read(store, *map(str, range(80)))["l"] == [None] * 79 + [7]
    assert requests == ["BatchGetItem"] * 3


def test_a_value_older_than_its_ttl_is_not_read(store):
    for view in ("delays", "load", "weather"):
        write(store, view, 1, NOW - 1.5 * DAY)
    answer = read(store, "a")
    assert (answer["d"], answer["l"], answer["w"]) == ([None], [1], [1])


def test_dynamodb_deletes_a_value_when_its_ttl_is_over(store, aws):
    write(store, "delays", 1, NOW)
    write(store, "weather", 1, NOW)
    table = f"{store.project}.delays"
    assert aws.scan(TableName=table)["Items"][0]["expires_at"]["N"] == str(int((NOW + DAY).timestamp()))
    assert aws.describe_time_to_live(TableName=table)["TimeToLiveDescription"]["AttributeName"] == "expires_at"
    assert "expires_at" not in aws.scan(TableName=f"{store.project}.weather")["Items"][0]


MOMENTS = st.integers(0, 3)
TAILS = (f"tail {number}" for number in count())
# Every example has an entity of its own: the store that they share keeps nothing of another one.
ONE_STORE = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@settings(max_examples=25, suppress_health_check=ONE_STORE)
@given(writes=st.lists(st.tuples(MOMENTS, MOMENTS), min_size=1, max_size=5))
def test_whatever_the_order_of_writes_the_newest_value_stays(store, writes):
    tail = next(TAILS)
    for number, (event, created) in enumerate(writes):
        write(store, "weather", number, NOW + event * DAY, NOW + created * DAY, tail=tail)
    newest = max(range(len(writes)), key=lambda number: (*writes[number], number))
    assert read(store, tail)["w"] == [newest]


def test_of_one_batch_only_the_newest_row_of_an_entity_is_written(store):
    frame = pd.DataFrame({"tail": ["a"] * 3, "event": [NOW, NOW + DAY, NOW], "created": [NOW] * 3, "l": [1, 2, 3]})
    store.write_to_online_store("load", frame)
    assert read(store, "a")["l"] == [2]


NUMBERS = {
    "int32_val": st.integers(-(2**31), 2**31 - 1),
    "int64_val": st.integers(-(2**63), 2**63 - 1),
    "double_val": st.floats(allow_nan=False),
    "float_val": st.floats(width=32, allow_nan=False),
    "bool_val": st.booleans(),
    "string_val": st.text(),
    "bytes_val": st.binary(),
    "unix_timestamp_val": st.integers(-(2**63), 2**63 - 1),
}
LISTS = {
    "int32_list_val": (Int32List, "int32_val"),
    "int64_list_val": (Int64List, "int64_val"),
    "double_list_val": (DoubleList, "double_val"),
    "float_list_val": (FloatList, "float_val"),
    "bool_list_val": (BoolList, "bool_val"),
    "string_list_val": (StringList, "string_val"),
    "bytes_list_val": (BytesList, "bytes_val"),
    "unix_timestamp_list_val": (Int64List, "unix_timestamp_val"),
}
PLAIN = st.one_of(*(values.map(lambda value, name=name: Value(**{name: value})) for name, values in NUMBERS.items()))
LISTED = st.one_of(
    *(
        st.lists(NUMBERS[of], max_size=5).map(lambda values, name=name, kind=kind: Value(**{name: kind(val=values)}))
        for name, (kind, of) in LISTS.items()
    )
)


@settings(max_examples=60, suppress_health_check=ONE_STORE)
@given(value=st.just(Value()) | PLAIN | LISTED)
def test_a_value_of_every_type_is_read_as_it_was_written(store, value):
    view = store.get_feature_view("load")
    key = EntityKey(join_keys=["tail"], entity_values=[Value(string_val="t")])
    engine(store).online_write_batch(store.config, view, [(key, {"l": value}, NOW, None)], None)
    assert engine(store).online_read(store.config, view, [key], ["l"]) == [(NOW, {"l": value})]


def without_answer(store, monkeypatch, answers):
    """Let BatchGetItem answer with each of `answers` in turn."""
    left = iter(answers)

    def answer(RequestItems):  # noqa: N803 - boto3's spelling
        given = next(left)
        if isinstance(given, Exception):
            raise given
        return given(RequestItems)

    monkeypatch.setattr(engine(store)._reader(store.config), "batch_get_item", answer)


def nothing(wanted):
    return {"Responses": {}, "UnprocessedKeys": wanted}


def test_keys_that_dynamodb_left_unread_are_read_again_and_counted(store, monkeypatch):
    write(store, "load", 7, NOW)
    real = engine(store)._reader(store.config).batch_get_item
    without_answer(store, monkeypatch, [nothing, lambda wanted: real(RequestItems=wanted)])
    assert read(store, "a")["l"] == [7]
    assert engine(store).counts == {"repeated": 1}


def test_keys_that_stay_unread_are_an_error_after_the_last_attempt(store, monkeypatch):
    without_answer(store, monkeypatch, [nothing] * 2)
    with pytest.raises(
        ModelworksError, match="online features cannot be read: DynamoDB left keys unread at 2 attempts"
    ):
        read(store, "a")


def test_a_read_is_sent_as_often_as_it_may_whatever_went_wrong(store, monkeypatch):
    throttled = ClientError({"Error": {"Code": "ProvisionedThroughputExceededException"}}, "BatchGetItem")
    without_answer(store, monkeypatch, [throttled, nothing])
    with pytest.raises(ModelworksError, match="left keys unread at 2 attempts"):
        read(store, "a")
    assert engine(store).counts == {"repeated": 1, "failed": 1}


def test_an_outage_is_answered_without_values_where_the_definition_allows_it_and_counted(store, monkeypatch):
    write(store, "load", 7, NOW)
    monkeypatch.setattr(store.config.online_store, "fallback", "missing")
    throttled = ClientError({"Error": {"Code": "ProvisionedThroughputExceededException"}}, "BatchGetItem")
    without_answer(store, monkeypatch, [throttled, throttled])
    assert read(store, "a")["l"] == [None]
    assert engine(store).counts["failed"] == 1


def test_apply_leaves_a_table_that_exists_as_it_is_and_never_deletes_it(store, aws):
    name = f"{store.project}.owned"
    aws.create_table(
        TableName=name,
        KeySchema=[{"AttributeName": "entity_id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "entity_id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
        Tags=[{"Key": "owner", "Value": "pulumi"}],
    )
    before = aws.describe_table(TableName=name)["Table"]
    source = FileSource(name="owned", path="owned.parquet", timestamp_field="event")
    view = FeatureView(
        name="owned", entities=[store.get_entity("aircraft")], schema=[Field(name="o", dtype=Int64)], source=source
    )
    store.apply([view])
    store.apply([], objects_to_delete=[view], partial=False)
    assert aws.describe_table(TableName=name)["Table"] == before


def test_a_table_that_apply_created_goes_with_its_view(store, aws):
    store.apply([], objects_to_delete=[store.get_feature_view("weather")], partial=False)
    assert f"{store.project}.weather" not in aws.list_tables()["TableNames"]
    assert f"{store.project}.load" in aws.list_tables()["TableNames"]


def test_a_backfill_of_an_older_window_leaves_newer_values(store):
    pl.DataFrame(
        {"tail": ["a", "a", "b"], "event": [NOW - DAY, NOW, NOW - DAY], "created": [NOW] * 3, "l": [1, 2, 3]}
    ).write_parquet(store.repo_path / "load.parquet")
    store.materialize(NOW - DAY / 2, NOW, feature_views=["load"])
    store.materialize(NOW - 2 * DAY, NOW - DAY / 2, feature_views=["load"])
    assert read(store, "a", "b")["l"] == [2, 3]
    assert engine(store).counts["older"] == 1

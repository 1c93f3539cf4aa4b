"""What plain Feast code gets from the offline store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from feast import BigQuerySource, FeatureService, FeatureView, Field, FileSource
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.feature_logging import LoggingConfig
from feast.infra.offline_stores.file_source import FileLoggingDestination, SavedDatasetFileStorage
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Int64
from moto.server import ThreadedMotoServer

from modelworks.errors import ModelworksError

DAY = datetime(2013, 1, 1)  # noqa: DTZ001 - what Feast reads as UTC
HOUR = timedelta(hours=1)
VALUES = pl.DataFrame(
    {
        "tail": ["a", "a", "b"],
        "landed": [DAY, DAY + 2 * HOUR, DAY],
        "loaded": [DAY, DAY + 9 * HOUR, DAY],
        "delay": [1, 2, 3],
    }
)
ROWS = pl.DataFrame(
    {
        "tail": ["b", "a", "a", "c", "a"],
        "event_timestamp": [DAY + HOUR * hours for hours in (30, 3, 1, 1, 1)],
        "late": [0, 1, 0, 1, 0],
    }
)


@pytest.fixture
def answer(store):
    """The result of Feast's `get_historical_features` as a Polars frame."""

    def asked(features=("delays:delay",), rows=ROWS, **arguments):
        features = features if isinstance(features, FeatureService) else list(features)
        return pl.from_arrow(store.get_historical_features(entity_df=rows, features=features, **arguments).to_arrow())

    return asked


def test_every_row_comes_back_in_its_place_with_its_features(delays, answer):
    delays(VALUES)
    assert answer().equals(ROWS.with_columns(delay=pl.Series([None, 2, 1, None, 1])))


@pytest.mark.parametrize("rows", [ROWS.to_pandas(), ROWS.to_arrow(), ROWS], ids=["pandas", "arrow", "polars"])
def test_rows_may_be_a_frame_of_pandas_arrow_or_polars(delays, answer, rows):
    delays(VALUES)
    assert answer(rows=rows)["delay"].to_list() == [None, 2, 1, None, 1]


def test_a_row_sees_only_what_was_known_then_if_asked_so(delays, answer):
    delays(VALUES)
    assert answer(filter_by_created_timestamp=True)["delay"].to_list() == [None, 1, 1, None, 1]


def test_a_ttl_of_zero_is_no_limit(delays, answer):
    delays(VALUES, ttl=timedelta(0))
    assert answer()["delay"].to_list() == [3, 2, 1, None, 1]


def test_a_full_feature_name_says_its_view(delays, answer):
    delays(VALUES)
    assert answer(full_feature_names=True).columns[-1] == "delays__delay"


def test_a_source_may_name_every_column_otherwise(store, delays, answer):
    source = FileSource(
        name="raw",
        path=str(store.repo_path / "raw.parquet"),
        timestamp_field="landed",
        created_timestamp_column="loaded",
        field_mapping={"TAILNUM": "tail", "ARR": "landed", "LOADED": "loaded", "DELAY": "delay"},
    )
    VALUES.rename({"tail": "TAILNUM", "landed": "ARR", "loaded": "LOADED", "delay": "DELAY"}).write_parquet(source.path)
    delays(VALUES, name="other")
    delays(VALUES, source=source)
    assert answer()["delay"].to_list() == [None, 2, 1, None, 1]


def test_one_view_serves_two_keys_of_a_row_under_two_names(store, delays, answer):
    view = delays(VALUES)
    service = FeatureService(
        name="both",
        features=[
            view.with_name("this").with_join_key_map({"tail": "tail"}),
            view.with_name("before").with_join_key_map({"tail": "previous"}),
        ],
    )
    store.apply([service])
    rows = pl.DataFrame({"tail": ["a"], "previous": ["b"], "event_timestamp": [DAY + HOUR]})
    assert answer(service, rows, full_feature_names=True).drop(rows.columns).to_dicts() == [
        {"this__delay": 1, "before__delay": 3}
    ]


def test_an_on_demand_view_is_computed_from_what_the_row_saw(store, delays, answer):
    view = delays(VALUES)

    @on_demand_feature_view(sources=[view], schema=[Field(name="twice", dtype=Int64)], mode="python")
    def doubled(inputs):
        return {"twice": [None if delay is None else 2 * delay for delay in inputs["delay"]]}

    store.apply([doubled])
    assert answer(["delays:delay", "doubled:twice"])["twice"].to_list() == [None, 4, 2, None, 2]


def test_a_view_without_an_entity_is_the_same_for_every_row(delays, answer):
    delays(VALUES.drop("tail").tail(1), entities=[])
    assert answer()["delay"].to_list() == [None, 3, 3, 3, 3]


def test_text_and_lists_keep_the_types_that_feast_reads(delays, store):
    frame = VALUES.with_columns(carrier=pl.lit("AA"), legs=pl.lit([1, 2], dtype=pl.List(pl.Int64)))
    delays(frame, schema=[])
    job = store.get_historical_features(entity_df=ROWS, features=["delays:carrier", "delays:legs"])
    assert [job.to_arrow().schema.field(name).type for name in ("tail", "carrier", "legs")] == [
        pa.string(), pa.string(), pa.list_(pa.int64()),
    ]  # fmt: skip


def test_a_folder_of_files_is_one_source(store, delays, answer):
    folder = store.repo_path / "parts"
    folder.mkdir()
    for number in range(3):
        VALUES.slice(number, 1).write_parquet(folder / f"{number}.parquet")
    source = FileSource(name="parts", path=str(folder), timestamp_field="landed", created_timestamp_column="loaded")
    delays(VALUES, name="other")
    delays(VALUES, name="delays", source=source)
    assert answer()["delay"].to_list() == [None, 2, 1, None, 1]


def online(store, tail):
    return store.get_online_features(features=["delays:delay"], entity_rows=[{"tail": tail}]).to_dict()["delay"]


def test_materialization_takes_the_newest_value_of_a_window_with_both_ends(store, delays):
    newest = VALUES.vstack(
        VALUES.with_columns(landed=DAY + 3 * HOUR, loaded=pl.Series([DAY, DAY + HOUR, DAY]), delay=pl.Series([7, 8, 9]))
    )
    delays(newest)
    store.materialize(DAY + 2 * HOUR, DAY + 3 * HOUR)
    assert (online(store, "a"), online(store, "b")) == ([8], [9])


def test_materialization_leaves_out_what_is_before_and_after_its_window(store, delays):
    delays(VALUES)
    tick = timedelta(microseconds=1)
    store.materialize(DAY + tick, DAY + 2 * HOUR - tick)
    assert (online(store, "a"), online(store, "b")) == ([None], [None])


def test_nanoseconds_as_pandas_writes_them_materialize(store, delays):
    view = delays(VALUES)
    VALUES.to_pandas().astype({"landed": "datetime64[ns]", "loaded": "datetime64[ns]"}).to_parquet(
        view.batch_source.path
    )
    store.materialize(DAY - HOUR, DAY + 9 * HOUR)
    assert online(store, "a") == [2]


def test_latest_values_of_a_source_in_another_time_zone_fall_in_the_same_window(store, delays):
    zoned = pl.col("landed", "loaded").dt.replace_time_zone("UTC").dt.convert_time_zone("America/New_York")
    delays(VALUES.with_columns(zoned))
    store.materialize(DAY + 2 * HOUR, DAY + 2 * HOUR)
    assert (online(store, "a"), online(store, "b")) == ([2], [None])


def saved(store, name="training", **arguments):
    job = store.get_historical_features(entity_df=ROWS, features=["delays:delay"])
    storage = SavedDatasetFileStorage(path=str(store.repo_path / "saved.parquet"))
    return store.create_saved_dataset(job, name, storage, **arguments)


def test_a_saved_dataset_comes_back_as_it_was(store, delays):
    delays(VALUES)
    saved(store)
    again = store.get_saved_dataset("training").to_df()
    assert again["delay"].dropna().to_list() == [2, 1, 1]
    assert again["tail"].to_list() == ROWS["tail"].to_list()


def test_a_saved_dataset_replaces_another_only_when_told(store, delays):
    delays(VALUES)
    saved(store)
    with pytest.raises(SavedDatasetLocationAlreadyExists):
        saved(store)
    saved(store, allow_overwrite=True)


MORE = pd.DataFrame({"tail": ["c"], "landed": [DAY], "loaded": [DAY], "delay": [9]})


def test_rows_written_to_the_store_are_read_from_it(store, delays, answer):
    delays(VALUES)
    store.write_to_offline_store("delays", MORE)
    assert answer()["delay"].to_list() == [None, 2, 1, 9, 1]


def test_rows_written_to_a_folder_become_a_file_of_their_own(store, delays, answer):
    folder = store.repo_path / "parts"
    folder.mkdir()
    VALUES.write_parquet(folder / "first.parquet")
    delays(VALUES, source=FileSource(name="parts", path=str(folder), timestamp_field="landed"))
    before = (folder / "first.parquet").read_bytes()
    store.write_to_offline_store("delays", MORE)
    assert answer()["delay"].to_list() == [None, 2, 1, 9, 1]
    assert len(list(folder.iterdir())) == 2
    assert (folder / "first.parquet").read_bytes() == before


def test_served_features_are_logged_and_read_again(store, delays):
    view = delays(VALUES)
    destination = FileLoggingDestination(path=str(store.repo_path / "log"))
    service = FeatureService(name="served", features=[view], logging_config=LoggingConfig(destination=destination))
    store.apply([service])
    now = datetime.now(UTC)
    log = pa.table(
        {
            "tail": ["a"],
            "delays__delay": pa.array([2], pa.int64()),
            "delays__delay__timestamp": pa.array([now], pa.timestamp("us", "UTC")),
            "delays__delay__status": pa.array([1], pa.int32()),
            "__log_timestamp": pa.array([now], pa.timestamp("us", "UTC")),
            "__log_date": pa.array([now.date()]),
            "__request_id": ["one"],
        }
    )
    for _ in range(2):
        store.write_logged_features(log, service)
    job = store._get_provider().retrieve_feature_service_logs(
        service, now - HOUR, now + HOUR, store.config, store.registry
    )
    assert job.to_arrow()["delays__delay"].to_pylist() == [2, 2]


@pytest.fixture
def bucket(monkeypatch):
    """A bucket that the AWS variables of the environment lead to."""
    import boto3

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="features")
    yield "features"
    server.stop()


@pytest.mark.parametrize("path", ["delays.parquet", "delays/"])
def test_a_source_in_s3_is_written_and_read_like_a_local_one(store, delays, answer, bucket, path):
    import boto3

    delays(VALUES)
    key = f"{path}first.parquet" if path.endswith("/") else path
    boto3.client("s3").upload_file(str(store.repo_path / "delays.parquet"), bucket, key)
    source = FileSource(name="remote", path=f"s3://{bucket}/{path}", timestamp_field="landed")
    store.apply(
        [FeatureView(name="remote", entities=[store.get_entity("aircraft")], source=source, ttl=timedelta(days=1))]
    )
    assert answer(["remote:delay"])["delay"].to_list() == [None, 2, 1, None, 1]
    store.write_to_offline_store("remote", MORE)
    assert answer(["remote:delay"])["delay"].to_list() == [None, 2, 1, 9, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": "select 1"}, "takes entity rows, not a query"),
        ({"rows": None, "start_date": DAY, "end_date": DAY + HOUR}, "needs entity rows"),
        ({"rows": ROWS.rename({"event_timestamp": "at"}).with_columns(other="at")}, "have at, other"),
        ({"rows": ROWS.drop("event_timestamp")}, "one column of times, and have none"),
        ({"rows": ROWS.cast({"event_timestamp": pl.String})}, "event_timestamp of the entity rows must hold times"),
    ],
)  # fmt: skip
def test_rows_that_have_no_meaning_are_refused(delays, answer, arguments, message):
    delays(VALUES)
    with pytest.raises(ModelworksError, match=message):
        answer(**arguments)


def test_a_source_that_is_not_there_is_named_with_its_path(delays, store, answer):
    delays(VALUES)
    (store.repo_path / "delays.parquet").unlink()
    with pytest.raises(ModelworksError, match=r"feature source 'delays' cannot be read from .*delays\.parquet"):
        answer()


def test_a_source_of_another_kind_is_refused(store):
    view = FeatureView(
        name="far", entities=[], schema=[Field(name="x", dtype=Int64)], source=BigQuerySource(table="a.b.c")
    )
    with pytest.raises(ModelworksError, match="reads file sources, not BigQuerySource"):
        store._get_provider().offline_store.offline_write_batch(store.config, view, pa.table({}), None)


def test_a_view_whose_entity_was_never_applied_is_refused_and_not_joined_without_a_key(store, delays, answer):
    view = delays(VALUES)
    view.entity_columns = []
    with pytest.raises(ModelworksError, match="feature view 'delays' names the entities aircraft, but has no key"):
        store._get_provider().get_historical_features(
            store.config, [view], ["delays:delay"], ROWS, store.registry, store.project, False
        )

"""Online reads and materialization of three views beside the same by hand, in one run, on an emulated DynamoDB.

Reads: one entity and a hundred, in turns: a raw `BatchGetItem` of the same items, the reader of the server, and Feast's
`get_online_features` on our store. Materialization: the newest row of each key from Parquet, written by our store, and
by a loop of conditional `PutItem` with as many threads, made for these very files, in turns; and the peak memory of a
process that materializes windows of more and more rows of the same keys. moto answers in milliseconds on the same
cores, so that only ratios mean something. Prints JSON, asserts nothing.

Usage: `python benchmarks/online_features.py [ENTITIES] [REPEATS]`
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import polars as pl
from moto.server import ThreadedMotoServer

VIEWS = ("aircraft", "airport", "carrier")
START = datetime.now(UTC).replace(microsecond=0) - timedelta(days=2)
TURNS = 3
"""Of materialization."""
WINDOWS = (10, 100, 1000)
"""Values of each of a thousand entities in a window."""
STORE = """project: {project}
provider: local
registry: {folder}/registry.db
offline_store: {{type: modelworks.features.offline.PolarsOfflineStore, location: {folder}}}
online_store: {{type: modelworks.features.online.DynamoDBOnlineStore, timeout_seconds: 30}}
entity_key_serialization_version: 3
"""


def history(folder: Path, entities: int, values: int = 3) -> None:
    """Some values of each entity in each view."""
    dice = np.random.default_rng(7)
    for view in VIEWS:
        (folder / view).mkdir(parents=True)
        keys = np.tile(np.arange(entities), values)
        seconds = pl.Series(dice.integers(0, 86_400_000_000, len(keys))).cast(pl.Duration("us"))
        columns = {name: dice.normal(size=len(keys)) for name in (f"{view}_mean", f"{view}_share")}
        pl.DataFrame({"id": keys, "event": seconds + START, **columns}).write_parquet(folder / view / "1.parquet")


def applied(folder: Path, project: str) -> Any:
    """A Feast store with three views of one entity."""
    from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
    from feast.types import Float64, Int64

    from modelworks.features.environment import open_store

    store = open_store(STORE.format(folder=folder, project=project))
    entity = Entity(name="one", join_keys=["id"], value_type=ValueType.INT64)
    views = [
        FeatureView(
            name=view,
            entities=[entity],
            ttl=timedelta(days=30),
            schema=[Field(name="id", dtype=Int64)]
            + [Field(name=f"{view}_{name}", dtype=Float64) for name in ("mean", "share")],
            source=FileSource(name=view, path=view, timestamp_field="event"),
        )
        for view in VIEWS
    ]
    store.apply([entity, *views, FeatureService(name="all", features=[*views])])
    return store


def server_reader(project: str) -> Any:
    """The reader of a server, for a model that takes all features of the three views."""
    from modelworks.runtime import feature_tables, online
    from modelworks.runtime.manifest import Feature, Stored, StoredView
    from modelworks.runtime.online_engine import Place

    vars(feature_tables)["TIMEOUT_SECONDS"] = 30  # the emulator of a busy machine is slower than DynamoDB

    class Model:
        model = "bench"
        request_features = (Feature(name="id", type="integer"),)
        stored = Stored(
            service="all",
            views=tuple(
                StoredView(name=view, keys={"id": "Int64"}, digest="sha256:0", ttl_seconds=30 * 86_400,
                           features={f"{view}_mean": "Float64", f"{view}_share": "Float64"})
                for view in VIEWS
            ),
            keys=(Feature(name="id", type="integer"),),
        )  # fmt: skip

    where = Place(tables={view: f"{project}.{view}" for view in VIEWS})
    return online.OnlineFeatures(Model(), where)  # type: ignore[arg-type]


def written_by_hand(folder: Path, tables: dict[str, str]) -> float:
    """Seconds of a writer for these very files: the newest row of each key, put unless the table has a newer one."""
    from modelworks.feature_items import entity_id

    client = boto3.client("dynamodb")
    began = time.perf_counter()
    for view, table in tables.items():
        newest = pl.scan_parquet(folder / view / "*.parquet").sort("event").group_by("id").last().collect()

        def put(row: dict[str, Any], view: str = view, table: str = table) -> None:
            client.put_item(
                TableName=table,
                Item={
                    "entity_id": {"S": entity_id({"id": ("Int64", row["id"])})},
                    "event_ts": {"S": row["event"].isoformat()},
                    "values": {"M": {name: {"N": repr(row[name])} for name in (f"{view}_mean", f"{view}_share")}},
                },
                ConditionExpression="attribute_not_exists(event_ts) OR event_ts <= :event",
                ExpressionAttributeValues={":event": {"S": row["event"].isoformat()}},
            )

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(put, newest.iter_rows(named=True)))
    return time.perf_counter() - began


def materialized(store: Any) -> float:
    """Seconds of materialization by our store."""
    from modelworks.features.materialization import materialize

    began = time.perf_counter()
    list(materialize(store))
    return time.perf_counter() - began


def in_turns(ways: dict[str, Callable[[], Any]], repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds of each way, by quantile."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            taken[name].append((time.perf_counter() - began) * 1000)
    return {
        name: {"p50": round(statistics.median(each), 2), "p99": round(float(np.quantile(each, 0.99)), 2)}
        for name, each in taken.items()
    }


def hand_tables(turn: int) -> dict[str, str]:
    """New tables for the writer by hand."""
    client, tables = boto3.client("dynamodb"), {view: f"hand{turn}.{view}" for view in VIEWS}
    for table in tables.values():
        client.create_table(
            TableName=table, BillingMode="PAY_PER_REQUEST",
            KeySchema=[{"AttributeName": "entity_id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "entity_id", "AttributeType": "S"}],
        )  # fmt: skip
    return tables


def peaks() -> dict[str, int]:
    """Peak memory, in MiB, of a process that materializes a window, by the rows in it."""
    found = {}
    for values in WINDOWS:
        with tempfile.TemporaryDirectory() as scratch:
            history(Path(scratch), 1000, values)
            argv = [sys.executable, __file__, "--peak", scratch, f"peak{values}"]
            told = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
            found[f"{len(VIEWS) * 1000 * values:,} rows"] = int(told)
    return found


def reads(store: Any, count: int, repeats: int) -> dict[str, Any]:
    """The three ways to read `count` entities."""
    from modelworks.feature_items import entity_id

    client, reader, service = boto3.client("dynamodb"), server_reader(store.project), store.get_feature_service("all")
    keys = [{"entity_id": {"S": entity_id({"id": ("Int64", number)})}} for number in range(count)]
    wanted = [(f"{store.project}.{view}", key) for key in keys for view in VIEWS]
    batches = []
    for start in range(0, len(wanted), 100):  # DynamoDB takes no more at once
        asked: dict[str, Any] = {}
        for table, key in wanted[start : start + 100]:
            asked.setdefault(table, {"Keys": []})["Keys"].append(key)
        batches.append(asked)
    rows, entities = [(number,) for number in range(count)], [{"id": number} for number in range(count)]
    found = in_turns(
        {
            "raw BatchGetItem": lambda: [client.batch_get_item(RequestItems=batch) for batch in batches],
            "the server's reader": lambda: reader.read(rows),
            "Feast on our store": lambda: store.get_online_features(features=service, entity_rows=entities),
        },
        repeats,
    )
    raw = found["raw BatchGetItem"]
    ratios = {
        name: {quantile: round(each[quantile] / raw[quantile], 2) for quantile in raw}
        for name, each in found.items()
        if each is not raw
    }
    return {"milliseconds": found, "ratio to raw": ratios}


def main(entities: int, repeats: int) -> None:
    """All measurements."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        os.environ[name] = value
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    os.environ["AWS_ENDPOINT_URL"] = "http://{}:{}".format(*server.get_host_and_port())
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        history(folder, entities)
        ratios = []
        for turn in range(TURNS):
            store = applied(folder, f"bench{turn}")
            by_hand, ours = written_by_hand(folder, hand_tables(turn)), materialized(store)
            ratios.append(round(ours / by_hand, 2))
        facts = {
            "entities": entities,
            "views": len(VIEWS),
            "materialization, ratio to by hand of each turn": ratios,
            "peak of materialization, MiB": peaks(),
            "reads of 1 entity": reads(store, 1, repeats),
            "reads of 100 entities": reads(store, 100, max(20, repeats // 5)),
            "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        }  # fmt: skip
    server.stop()
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        materialized(applied(Path(sys.argv[2]), sys.argv[3]))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        sys.exit()
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5_000, int(sys.argv[2]) if len(sys.argv) > 2 else 300)

from __future__ import annotations

from datetime import timedelta

import boto3
import polars as pl
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Int64
from moto import mock_aws

AIRCRAFT = Entity(name="aircraft", join_keys=["tail"], value_type=ValueType.STRING)


@pytest.fixture(scope="module")
def aws():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1",
        }.items():  # fmt: skip
            patch.setenv(name, value)
        patch.delenv("AWS_ENDPOINT_URL", raising=False)
        with mock_aws():
            yield boto3.client("dynamodb")


@pytest.fixture
def store(tmp_path):
    """A plain Feast store in a folder of its own, with the offline store of modelworks."""
    (tmp_path / "feature_store.yaml").write_text(
        "project: flights\n"
        "provider: local\n"
        "registry: registry.db\n"
        "offline_store: {type: modelworks.features.offline.PolarsOfflineStore}\n"
        "online_store: {type: sqlite, path: online.db}\n"
        "entity_key_serialization_version: 3\n"
    )
    return FeatureStore(repo_path=str(tmp_path))


@pytest.fixture
def delays(store):
    """Recent delays by aircraft, on disk and applied: two values of one tail number, one of another."""
    source = FileSource(
        name="delays",
        path=str(store.repo_path / "delays.parquet"),
        timestamp_field="landed",
        created_timestamp_column="loaded",
    )
    return lambda frame, **changes: _applied(store, source, frame, changes)


def _applied(store, source, frame: pl.DataFrame, changes):
    frame.write_parquet(source.path)
    view = FeatureView(
        **{
            "name": "delays",
            "entities": [AIRCRAFT],
            "schema": [Field(name="delay", dtype=Int64)],
            "ttl": timedelta(days=1),
            "source": source,
        }
        | changes
    )
    store.apply([AIRCRAFT, view])
    return view

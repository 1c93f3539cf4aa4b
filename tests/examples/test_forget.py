"""The example that deletes an entity's rows from a prediction log, against an emulated S3."""

from __future__ import annotations

import io
import runpy

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto import mock_aws

from mocks import ROOT

FORGET = runpy.run_path(str(ROOT / "examples/prediction-store/forget.py"))["forget"]
FIRST, SECOND, OTHER_MODEL = (
    "predictions/churn/dt=2026-01-01/a.parquet",
    "predictions/churn/dt=2026-01-02/b.parquet",
    "predictions/churn-2/dt=2026-01-01/a.parquet",
)


@pytest.fixture
def s3(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="log")
        client.put_bucket_versioning(Bucket="log", VersioningConfiguration={"Status": "Enabled"})
        put(client, FIRST, key_customer=[7, 8, None, 7], score=[0.1, 0.2, 0.3, 0.4])
        put(client, SECOND, key_customer=[9], score=[0.5])
        put(client, OTHER_MODEL, key_customer=[7], score=[0.6])
        yield client


def put(client, key, **columns):
    body = io.BytesIO()
    pq.write_table(pa.table(columns), body)
    client.put_object(Bucket="log", Key=key, Body=body.getvalue())


def rows(client, key):
    return pq.read_table(io.BytesIO(client.get_object(Bucket="log", Key=key)["Body"].read())).to_pylist()


def versions(client):
    found = client.list_object_versions(Bucket="log")["Versions"]
    return {(each["Key"], each["IsLatest"]): each["ETag"] for each in found}


def test_the_rows_of_one_entity_are_deleted_and_all_others_stay(s3):
    assert FORGET(s3, "log", "churn", "key_customer", "7") == 2
    assert rows(s3, FIRST) == [{"key_customer": 8, "score": 0.2}, {"key_customer": None, "score": 0.3}]


def test_no_earlier_version_has_them_either(s3):
    FORGET(s3, "log", "churn", "key_customer", "7")
    assert {key for key, is_latest in versions(s3) if not is_latest} == set()


def test_other_files_and_other_models_are_not_written(s3):
    before = versions(s3)
    FORGET(s3, "log", "churn", "key_customer", "7")
    after = versions(s3)
    assert {key: after[key, True] for key in (SECOND, OTHER_MODEL)} == {
        key: before[key, True] for key in (SECOND, OTHER_MODEL)
    }


def test_a_second_time_finds_nothing(s3):
    FORGET(s3, "log", "churn", "key_customer", "7")
    before = versions(s3)
    assert FORGET(s3, "log", "churn", "key_customer", "7") == 0
    assert versions(s3) == before


def test_a_column_that_a_file_does_not_have_changes_nothing(s3):
    before = versions(s3)
    assert FORGET(s3, "log", "churn", "key_nobody", "7") == 0
    assert versions(s3) == before

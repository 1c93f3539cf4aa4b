"""Delete the rows of one entity from a prediction log: `python forget.py BUCKET MODEL COLUMN VALUE`.

COLUMN is `key_<name>` for models with stored features, else `feature_<name>` or `request_id`. Files that have such rows
are written again without them, and their earlier versions are deleted, which no one can restore. It may be repeated.
"""

import io
import sys
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from modelworks.contract import predictions_prefix


def forget(s3: Any, bucket: str, model: str, column: str, value: str) -> int:
    """The number of rows that were deleted."""
    prefix = f"{predictions_prefix(model)}/"
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    keys = [file["Key"] for page in pages for file in page.get("Contents", [])]
    return sum(_forget_in(s3, bucket, key, column, value) for key in keys)


def _forget_in(s3: Any, bucket: str, key: str, column: str, value: str) -> int:
    table = pq.read_table(io.BytesIO(s3.get_object(Bucket=bucket, Key=key)["Body"].read()))
    if column not in table.column_names:
        return 0  # a release of the model that did not have it
    found = pc.fill_null(pc.equal(pc.cast(table[column], pa.string()), value), False)
    kept = table.filter(pc.invert(found))
    if removed := table.num_rows - kept.num_rows:
        body = io.BytesIO()
        pq.write_table(kept, body, compression="zstd")
        s3.put_object(Bucket=bucket, Key=key, Body=body.getvalue())
    _delete_earlier_versions(s3, bucket, key)
    return removed


def _delete_earlier_versions(s3: Any, bucket: str, key: str) -> None:
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=key):
        for version in page.get("Versions", []):
            if version["Key"] == key and not version["IsLatest"]:
                s3.delete_object(Bucket=bucket, Key=key, VersionId=version["VersionId"])


if __name__ == "__main__":
    print(forget(boto3.client("s3"), *sys.argv[1:]), "rows deleted")

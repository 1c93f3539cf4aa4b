"""What a server has published, read back from AWS."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pyarrow.parquet as pq

from modelworks import contract


def logged(s3) -> list[dict]:
    """Every row of the prediction log."""
    found = []
    for entry in s3.list_objects_v2(Bucket="store", Prefix="predictions/").get("Contents", []):
        data = s3.get_object(Bucket="store", Key=entry["Key"])["Body"].read()
        found += [{**row, "key": entry["Key"]} for row in pq.read_table(io.BytesIO(data)).to_pylist()]
    return found


def statistic(metric: str, statistic: str, **dimensions: str) -> float:
    import boto3

    now = datetime.now(UTC)
    points = boto3.client("cloudwatch").get_metric_statistics(
        Namespace=contract.METRIC_NAMESPACE,
        MetricName=metric,
        Dimensions=[{"Name": name, "Value": value} for name, value in dimensions.items()],
        StartTime=now - timedelta(hours=1),
        EndTime=now + timedelta(hours=1),
        Period=7200,
        Statistics=[statistic],
    )["Datapoints"]
    return points[0][statistic] if points else 0.0

"""Private: what readers, writers and the materializer of a feature store may do, and where its objects are."""

from collections.abc import Sequence
from typing import Any

from modelworks import contract
from modelworks._resources.iam import publish_metrics, statement

DATA, REGISTRY, QUERIES = "data", "registry", "queries"
"""Prefixes in the bucket: history, definitions, and results of queries."""


def reads(
    bucket: str, key: str, glue: str, database: str, workgroup: str, tables: Sequence[str]
) -> list[dict[str, Any]]:
    """Permissions of readers: everything of the store, and queries of their own."""
    return [
        statement(["s3:GetObject"], [f"{bucket}/{prefix}/*" for prefix in (DATA, REGISTRY, QUERIES)]),
        statement(["s3:AbortMultipartUpload", "s3:PutObject"], [f"{bucket}/{QUERIES}/*"]),
        statement(["s3:GetBucketLocation", "s3:ListBucket"], [bucket]),
        statement(
            [
                "athena:GetQueryExecution",
                "athena:GetQueryResults",
                "athena:GetWorkGroup",
                "athena:StartQueryExecution",
                "athena:StopQueryExecution",
            ],
            [workgroup],
        ),
        statement(
            ["glue:GetDatabase", "glue:GetPartitions", "glue:GetTable", "glue:GetTables"],
            [f"{glue}:catalog", f"{glue}:database/{database}", f"{glue}:table/{database}/*"],
        ),
        *_on_tables(["dynamodb:BatchGetItem", "dynamodb:DescribeTable", "dynamodb:GetItem"], tables),
        statement(["kms:Decrypt", "kms:GenerateDataKey"], [key]),
    ]


def writes(bucket: str, key: str, tables: Sequence[str]) -> list[dict[str, Any]]:
    """Permissions of writers: history and definitions, and no online value."""
    return [
        statement(["s3:GetObject", "s3:PutObject"], [f"{bucket}/{prefix}/*" for prefix in (DATA, REGISTRY)]),
        statement(["s3:AbortMultipartUpload", "s3:DeleteObject"], [f"{bucket}/{DATA}/*"]),
        statement(["s3:ListBucket"], [bucket]),
        *_on_tables(["dynamodb:DescribeTable"], tables),
        statement(["kms:Decrypt", "kms:GenerateDataKey"], [key]),
    ]


def materializes(bucket: str, key: str, tables: Sequence[str]) -> list[dict[str, Any]]:
    """Permissions of the materializer and of the store's jobs: history in, online values and metrics out."""
    written = ["BatchGetItem", "DescribeTable", "GetItem", "PutItem", "UpdateItem"]
    return [
        statement(["s3:GetObject"], [f"{bucket}/{prefix}/*" for prefix in (DATA, REGISTRY)]),
        statement(["s3:ListBucket"], [bucket]),
        *_on_tables([f"dynamodb:{action}" for action in written], tables),
        statement(["kms:Decrypt"], [key]),
        publish_metrics(contract.FEATURE_METRIC_NAMESPACE),
    ]


def verifies(bucket: str, key: str, tables: Sequence[str], predictions: str | None) -> list[dict[str, Any]]:
    """Permissions of the verifying job: history, online values and prediction logs in; metrics out."""
    logs = []
    if predictions is not None:
        prefix = f"{contract.PREDICTIONS_PREFIX}/*"
        logs = [
            statement(["s3:ListBucket"], [predictions], condition={"StringLike": {"s3:prefix": [prefix]}}),
            statement(["s3:GetObject"], [f"{predictions}/{prefix}"]),
        ]
    return [
        statement(["s3:GetObject"], [f"{bucket}/{prefix}/*" for prefix in (DATA, REGISTRY)]),
        statement(["s3:ListBucket"], [bucket]),
        *_on_tables([f"dynamodb:{action}" for action in ("BatchGetItem", "DescribeTable", "GetItem")], tables),
        *logs,
        statement(["kms:Decrypt"], [key]),
        publish_metrics(contract.FEATURE_METRIC_NAMESPACE),
    ]


def _on_tables(actions: Sequence[str], tables: Sequence[str]) -> list[dict[str, Any]]:
    """IAM refuses a statement about nothing: a store without online views has none."""
    return [statement(actions, tables)] if tables else []

"""Private: the bucket that all components use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pulumi
import pulumi_aws as aws

from modelworks import defaults
from modelworks._resources.iam import policy_document


def secure_bucket(
    name: str,
    *,
    parent: pulumi.Resource,
    key_arn: pulumi.Input[str],
    noncurrent_days: int = defaults.REGISTRY["noncurrent_days"],
    expiration_days: Mapping[str, int] | None = None,
    protect: bool | None = defaults.REGISTRY["protect"],
    fixed_name: str | None = None,
    tags: Mapping[str, str] | None = None,
    statements: pulumi.Input[Sequence[Mapping[str, Any]]] = (),
) -> aws.s3.Bucket:
    """A private, encrypted, versioned bucket that refuses plain HTTP.

    Args:
        name: Name of the bucket as a resource; its settings are named after it.
        parent: The component it belongs to.
        key_arn: KMS key that encrypts it.
        noncurrent_days: Days a superseded or deleted version is kept. At least 1.
        expiration_days: Days that objects are kept, by the prefix of their keys. All others stay.
        protect: Refuse to delete the bucket and its settings; None for what the parent has.
        fixed_name: Its name in AWS, where somebody finds it by one; None for one that Pulumi chooses.
        tags: Further tags.
        statements: Statements of its policy, which another account needs to reach it.

    Raises:
        ValueError: `noncurrent_days` is below 1.
    """
    if noncurrent_days < 1:
        raise ValueError(f"noncurrent_days must be at least 1, got {noncurrent_days}")
    bucket = aws.s3.Bucket(
        name,
        bucket=fixed_name,
        tags=None if tags is None else dict(tags),
        # The key goes last: without it, a bucket that S3 refuses to delete holds nothing that can be read.
        opts=pulumi.ResourceOptions(parent=parent, protect=protect, depends_on=made_by(key_arn)),
    )
    # Deleted with the bucket, and never before it: S3 refuses to delete one that holds something, which then stays as
    # it was: private, encrypted, versioned.
    within = pulumi.ResourceOptions(parent=bucket, protect=protect, deleted_with=bucket)
    private = _private(name, bucket, within)
    _versioned(name, bucket, _lifecycle(noncurrent_days, expiration_days or {}), within)
    _encrypted(name, bucket, key_arn, within)
    # S3 refuses two changes of who may reach a bucket at the same moment.
    after = pulumi.ResourceOptions.merge(within, pulumi.ResourceOptions(depends_on=[private]))
    policy = pulumi.Output.all(bucket.arn, statements).apply(
        lambda found: policy_document([_encrypted_transport_only(found[0]), *found[1]])
    )
    aws.s3.BucketPolicy(f"{name}-policy", bucket=bucket.id, policy=policy, opts=after)
    return bucket


def _private(name: str, bucket: aws.s3.Bucket, within: pulumi.ResourceOptions) -> aws.s3.BucketPublicAccessBlock:
    """Policies alone decide who reaches the bucket, and none of them lets the public in."""
    aws.s3.BucketOwnershipControls(
        f"{name}-ownership", bucket=bucket.id, rule={"object_ownership": "BucketOwnerEnforced"}, opts=within
    )
    return aws.s3.BucketPublicAccessBlock(
        f"{name}-private",
        bucket=bucket.id,
        block_public_acls=True,
        block_public_policy=True,
        ignore_public_acls=True,
        restrict_public_buckets=True,
        opts=within,
    )


def _versioned(name: str, bucket: aws.s3.Bucket, rules: list[Any], within: pulumi.ResourceOptions) -> None:
    aws.s3.BucketVersioning(
        f"{name}-versioning", bucket=bucket.id, versioning_configuration={"status": "Enabled"}, opts=within
    )
    aws.s3.BucketLifecycleConfiguration(f"{name}-lifecycle", bucket=bucket.id, rules=rules, opts=within)


def _encrypted(name: str, bucket: aws.s3.Bucket, key_arn: pulumi.Input[str], within: pulumi.ResourceOptions) -> None:
    aws.s3.BucketServerSideEncryptionConfiguration(
        f"{name}-encryption",
        bucket=bucket.id,
        rules=[
            {
                "apply_server_side_encryption_by_default": {"sse_algorithm": "aws:kms", "kms_master_key_id": key_arn},
                "bucket_key_enabled": True,
            }
        ],
        opts=within,
    )


def _lifecycle(noncurrent_days: int, expiration_days: Mapping[str, int]) -> list[Any]:
    superseded = {
        "id": "superseded",
        "status": "Enabled",
        "filter": {"prefix": ""},
        "noncurrent_version_expiration": {"noncurrent_days": noncurrent_days},
        "abort_incomplete_multipart_upload": {"days_after_initiation": 7},
    }
    expired = [
        {
            "id": f"expired-{prefix.strip('/')}",
            "status": "Enabled",
            "filter": {"prefix": prefix},
            "expiration": {"days": days},
        }
        for prefix, days in expiration_days.items()
    ]
    return [superseded, *expired]


def made_by(value: pulumi.Input[str]) -> list[Any]:
    """The resources behind an input, as `depends_on` takes them; none behind a plain value."""
    return [pulumi.Output.from_input(value).apply(lambda _: None)]


def _encrypted_transport_only(arn: str) -> dict[str, Any]:
    return {
        "Sid": "EncryptedTransportOnly",
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": [arn, f"{arn}/*"],
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }

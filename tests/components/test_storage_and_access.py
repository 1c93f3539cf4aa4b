from __future__ import annotations

import json

import pulumi
import pulumi_aws as aws
import pytest

from mocks import declare
from modelworks._resources.bucket import secure_bucket
from modelworks._resources.iam import least_privilege_role, policy_document, statement

KEY = "arn:aws:kms:eu-central-1:111111111111:key/k"


class _Parent(pulumi.ComponentResource):
    def __init__(self, name):
        super().__init__("test:index:Parent", name)


def bucket(**args):
    return declare(lambda: secure_bucket("churn-store", parent=_Parent("churn"), key_arn=KEY, **args))


def test_bucket_is_encrypted_with_the_given_key():
    (rule,) = bucket().one("aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration")[
        "rules"
    ]
    assert rule["applyServerSideEncryptionByDefault"] == {"sseAlgorithm": "aws:kms", "kmsMasterKeyId": KEY}


def test_bucket_blocks_every_way_to_be_public():
    block = bucket().one("aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock")
    assert {key: value for key, value in block.items() if key != "bucket"} == {
        "blockPublicAcls": True,
        "blockPublicPolicy": True,
        "ignorePublicAcls": True,
        "restrictPublicBuckets": True,
    }


def test_bucket_keeps_superseded_versions_for_90_days():
    declared = bucket()
    (rule,) = declared.one("aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration")["rules"]
    assert rule["noncurrentVersionExpiration"] == {"noncurrentDays": 90}
    assert declared.one("aws:s3/bucketVersioning:BucketVersioning")["versioningConfiguration"] == {"status": "Enabled"}


def test_bucket_refuses_plain_http():
    (rule,) = json.loads(bucket().one("aws:s3/bucketPolicy:BucketPolicy")["policy"])["Statement"]
    assert (rule["Effect"], rule["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})
    assert rule["Resource"] == ["arn:aws:mock:::churn-store", "arn:aws:mock:::churn-store/*"]


def requests(program):
    """What the engine is sent for each AWS resource, by the last part of its type."""
    found = declare(program).requests()
    return {urn.split("::")[-2].rpartition(":")[2]: each for urn, each in found.items() if "aws:" in urn}


def test_settings_of_a_bucket_are_deleted_with_it_and_never_before_it():
    found = requests(lambda: secure_bucket("churn-store", parent=_Parent("churn"), key_arn=KEY))
    settings = {kind: each for kind, each in found.items() if kind != "Bucket"}
    assert len(settings) == 6
    assert {each["deletedWith"].rpartition("::")[2] for each in settings.values()} == {"churn-store"}


def test_the_key_of_a_bucket_is_deleted_after_it():
    def program():
        key = aws.kms.Key("key")
        secure_bucket("churn-store", parent=_Parent("churn"), key_arn=key.arn)

    assert [urn.rpartition("::")[2] for urn in requests(program)["Bucket"]["dependencies"]] == ["key"]


@pytest.mark.parametrize(("protect", "guarded"), [(True, {True}), (None, {None})])
def test_a_bucket_and_its_settings_are_protected_together(protect, guarded):
    found = requests(lambda: secure_bucket("churn-store", parent=_Parent("churn"), key_arn=KEY, protect=protect))
    assert {each.get("protect") for each in found.values()} == guarded


def test_bucket_refuses_to_keep_nothing():
    with pytest.raises(ValueError, match="noncurrent_days must be at least 1, got 0"):
        bucket(noncurrent_days=0)


def test_role_has_one_policy_and_it_is_the_given_one():
    policy = policy_document([statement(["s3:GetObject"], ["arn:aws:s3:::b/*"])])
    declared = declare(
        lambda: least_privilege_role(
            "churn-reader", parent=_Parent("churn"), trust="{}", policy=policy, description="Reads"
        )
    )
    assert declared.one("aws:iam/rolePolicy:RolePolicy")["policy"] == policy
    assert "managedPolicyArns" not in declared.one("aws:iam/role:Role")


@pytest.mark.parametrize("action", ["*", "s3:*"])
def test_statement_refuses_a_wildcard_for_everything(action):
    with pytest.raises(ValueError, match="actions must be named one by one"):
        statement([action], ["*"])

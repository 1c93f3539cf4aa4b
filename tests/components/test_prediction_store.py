from __future__ import annotations

import json

import pytest

from mocks import ACCOUNT, declare
from modelworks import PredictionStore
from smallest import SMALLEST

LIFECYCLE = "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration"


def store(**args):
    return declare(lambda: PredictionStore("predictions", {**SMALLEST["PredictionStore"], **args}))


def test_predictions_are_deleted_after_their_days():
    superseded, expired = store(days=30).one(LIFECYCLE)["rules"]
    assert (expired["filter"], expired["expiration"]) == ({"prefix": "predictions/"}, {"days": 30})
    assert superseded["noncurrentVersionExpiration"] == {"noncurrentDays": 7}


def test_the_bucket_is_private_encrypted_and_protected_as_all_are():
    requests = store().requests()
    settings = {urn.split("::")[-2].rpartition(":")[2]: each for urn, each in requests.items() if "aws:s3" in urn}
    assert {each["protect"] for each in settings.values()} == {True}
    assert {
        "BucketPublicAccessBlock",
        "BucketServerSideEncryptionConfiguration",
        "BucketPolicy",
        "BucketVersioning",
    } <= set(settings)


def test_the_account_decides_who_may_read_and_readers_change_nothing():
    declared = store()
    (trust,) = json.loads(declared.one("aws:iam/role:Role")["assumeRolePolicy"])["Statement"]
    assert trust["Principal"] == {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}
    rules = json.loads(declared.one("aws:iam/rolePolicy:RolePolicy")["policy"])["Statement"]
    assert [(rule["Action"], rule["Resource"]) for rule in rules] == [
        (["s3:ListBucket"], ["arn:aws:mock:::predictions-log"]),
        (["s3:GetObject"], ["arn:aws:mock:::predictions-log/predictions/*"]),
        (["kms:Decrypt"], [SMALLEST["PredictionStore"]["key_arn"]]),
    ]


@pytest.mark.parametrize("days", [0, -1])
def test_a_store_refuses_to_keep_nothing(days):
    with pytest.raises(ValueError, match=f"days must be at least 1, got {days}"):
        store(days=days)

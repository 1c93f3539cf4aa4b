"""Where predictions are kept for a while: a bucket of their own, and a role that reads them."""

from typing import NotRequired, TypedDict

import pulumi
import pulumi_aws as aws

from modelworks import contract
from modelworks._resources.arguments import checked
from modelworks._resources.bucket import secure_bucket
from modelworks._resources.iam import account_decides, least_privilege_role, policy_document, statement

_RECOVERY_DAYS = 7
"""Days that a deleted or overwritten file can still be restored: a week to notice an accident, and short enough for a
person's request to be forgotten, which the GDPR gives a month (article 12, paragraph 3)."""


class PredictionStoreArgs(TypedDict):
    """Arguments of a `PredictionStore`."""

    days: NotRequired[int]
    """Days that predictions are kept; up to 7 more until the last copy is gone. Default 90."""

    protect: NotRequired[bool]
    """Refuse to delete the bucket and its settings until this is false. Default true."""

    account_id: pulumi.Input[str]
    """The AWS account: 12 digits. Its IAM policies decide who may assume the reader role."""

    key_arn: pulumi.Input[str]
    """KMS key that encrypts the bucket."""


class PredictionStore(pulumi.ComponentResource):
    """A private, encrypted bucket of prediction logs, which deletes what is old, and a role that reads it.

    Endpoints write `predictions/MODEL/dt=YYYY-MM-DD/….parquet` there, each below the name of its own model alone.

    Raises:
        ValueError: An argument is unknown, missing, of the wrong type or out of its range.
    """

    bucket: pulumi.Output[str]
    """Name of the bucket: the `prediction_bucket` of a `ModelEndpoint`."""

    reader_role_arn: pulumi.Output[str]
    """Role that reads all predictions, and changes none."""

    def __init__(self, name: str, args: PredictionStoreArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        args = checked(name, PredictionStoreArgs, args)
        super().__init__("modelworks:index:PredictionStore", name, {}, opts)
        self._name, self._args = name, args
        self.store = self._store()
        self.reader = self._reader()
        self.bucket, self.reader_role_arn = self.store.bucket, self.reader.arn
        self.register_outputs({"bucket": self.bucket, "reader_role_arn": self.reader_role_arn})

    def _store(self) -> "aws.s3.Bucket":
        return secure_bucket(
            f"{self._name}-log",
            parent=self,
            key_arn=self._args["key_arn"],
            noncurrent_days=_RECOVERY_DAYS,
            expiration_days={f"{contract.PREDICTIONS_PREFIX}/": self._args["days"]},
            protect=self._args["protect"] or None,  # None: whatever the program states for the component itself
        )

    def _reader(self) -> "aws.iam.Role":
        trust = pulumi.Output.all(self._args["account_id"], aws.get_partition_output().partition).apply(
            lambda found: policy_document([account_decides(*found)])
        )
        policy = pulumi.Output.all(self.store.arn, self._args["key_arn"]).apply(lambda found: _reads(*found))
        role, _ = least_privilege_role(
            f"{self._name}-reader", parent=self, trust=trust, policy=policy, description="Reads predictions"
        )
        return role


def _reads(bucket_arn: str, key_arn: str) -> str:
    prefix = f"{contract.PREDICTIONS_PREFIX}/*"
    return policy_document(
        [
            statement(["s3:ListBucket"], [bucket_arn], condition={"StringLike": {"s3:prefix": [prefix]}}),
            statement(["s3:GetObject"], [f"{bucket_arn}/{prefix}"]),
            statement(["kms:Decrypt"], [key_arn]),
        ]
    )

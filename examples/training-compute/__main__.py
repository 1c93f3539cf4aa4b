"""A namespace for training runs, beside a bucket that exists for other reasons too."""

import pulumi
import pulumi_aws as aws

from modelworks import Environment, TrainingCompute
from modelworks.stack import require_account

stack, config = pulumi.get_stack(), pulumi.Config()
account = require_account(pulumi.Config("aws").require_object("allowedAccountIds"))

environment = Environment("experiments", {"account_id": account})
artifacts = aws.s3.Bucket("artifacts")

training = TrainingCompute(
    "training",
    {
        "cpu_millicores": 8000,
        "run_memory_mib": 4096,
        "image": config.require("image"),
        "environment": stack,
        "namespace": f"modelworks-{stack}-training",
        "artifact_bucket": artifacts.bucket,
        "key_arn": environment.key_arn,
        "alerts_topic_arn": environment.alerts_topic_arn,
        "account_id": account,
        "oidc_issuer": config.require("oidc_issuer"),
    },
)

pulumi.export("training", training.place)

"""A bundle of yours, served: kept in a bucket, rolled out in steps, watched by alarms."""

import hashlib
from pathlib import Path

import pulumi
import pulumi_aws as aws

from modelworks import Environment, ModelEndpoint
from modelworks.contract import bundle_key
from modelworks.stack import require_account

MODEL = "plane-seats"
stack, config = pulumi.get_stack(), pulumi.Config()
account = require_account(pulumi.Config("aws").require_object("allowedAccountIds"))
bundle = Path(config.require("bundle"))
digest = f"sha256:{hashlib.sha256(bundle.read_bytes()).hexdigest()}"

environment = Environment("serving", {"account_id": account, "namespace": f"modelworks-{stack}"})
bundles = aws.s3.Bucket("bundles")
kept = aws.s3.BucketObjectv2(
    "bundle",
    bucket=bundles.bucket,
    key=bundle_key(MODEL, digest),
    source=pulumi.FileAsset(str(bundle)),
    # While the next version is a canary, this one still serves, and its pods may fetch it again.
    opts=pulumi.ResourceOptions(retain_on_delete=True),
)

endpoint = ModelEndpoint(
    MODEL,
    {
        "release": {"digest": digest},
        "canary": {"steps": [10, 50], "step_seconds": 180},
        "limits": {"error_ratio": 0.02},
        "allow_anonymous": True,
        "host": config.require("host"),
        "image": config.require("image"),
        "environment": stack,
        "namespace": environment.namespace,
        "bundle_bucket": bundles.bucket,
        "key_arn": environment.key_arn,
        "alerts_topic_arn": environment.alerts_topic_arn,
        "account_id": account,
        "oidc_issuer": config.require("oidc_issuer"),
    },
    opts=pulumi.ResourceOptions(depends_on=[kept]),
)

pulumi.export("url", endpoint.url)

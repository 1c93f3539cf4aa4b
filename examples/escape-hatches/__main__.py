"""Two ways past the arguments of a component: its attributes, and a transform of what it declares."""

import pulumi
import pulumi_aws as aws

from modelworks import Environment
from modelworks.stack import require_account

account = require_account(pulumi.Config("aws").require_object("allowedAccountIds"))


def multi_region(args: pulumi.ResourceTransformArgs) -> pulumi.ResourceTransformResult | None:
    """Allow replicas of the key in other regions."""
    if args.type_ != "aws:kms/key:Key":
        return None
    return pulumi.ResourceTransformResult({**args.props, "multiRegion": True}, args.opts)


options = pulumi.ResourceOptions(transforms=[multi_region])
environment = Environment("ground", {"account_id": account}, options)

# An attribute is the resource itself, with every output that its type has.
aws.kms.Alias("shared", name="alias/machine-learning", target_key_id=environment.key.key_id)

pulumi.export("key", environment.key_arn)

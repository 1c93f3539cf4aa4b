"""One model in one environment, standing on that environment's platform stack. The project is named after the model."""

import pulumi

from modelworks import ModelEndpoint
from modelworks.stack import lock_image, require_account

model, stage = pulumi.get_project(), pulumi.get_stack()
config = pulumi.Config()
# A file or bucket backend spells it organization/PROJECT/STACK; Pulumi Cloud has your organization's name instead.
platform = pulumi.StackReference(config.get("platform") or f"organization/platform/{stage}")
account = require_account(pulumi.Config("aws").require_object("allowedAccountIds"))

endpoint = ModelEndpoint(
    model,
    {
        "account_id": account,
        "environment": stage,
        "oidc_issuer": platform.require_output("oidc_issuer"),
        "key_arn": platform.require_output("key_arn"),
        "alerts_topic_arn": platform.require_output("alerts_topic_arn"),
        "namespace": platform.require_output("namespace"),
        "bundle_bucket": platform.require_output("bundle_bucket"),
        "prediction_bucket": platform.require_output("prediction_bucket"),
        "image": config.get("image") or lock_image("runtime"),
        "host": config.require("host"),
        "release": config.get_object("release"),
        # The ARN of the online table of each view that it reads: {"weather": "arn:aws:dynamodb:…"}
        "feature_tables": config.get_object("feature_tables") or {},
        "allow_anonymous": config.get_bool("allow_anonymous") or False,
    },
)

pulumi.export("url", endpoint.url)

"""A feature store for Feast, with the views of the committed manifest `models/features.json`."""

import pulumi

from modelworks import Environment, FeatureStore
from modelworks.stack import feature_views, require_account

stack, config = pulumi.get_stack(), pulumi.Config()
account = require_account(pulumi.Config("aws").require_object("allowedAccountIds"))

environment = Environment("ground", {"account_id": account})

features = FeatureStore(
    "features",
    {
        "views": feature_views(),
        "readers": [f"modelworks-{stack}/flight-delay"],
        "environment": stack,
        "account_id": account,
        "oidc_issuer": config.require("oidc_issuer"),
        "key_arn": environment.key_arn,
        "alerts_topic_arn": environment.alerts_topic_arn,
        "protect": False,  # a laptop's tables are wiped with it; leave this line out anywhere else
    },
)

pulumi.export("features", features.place)

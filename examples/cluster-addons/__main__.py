"""Needs of an environment in its cluster: a class of encrypted volumes, and off the laptop Argo Rollouts."""

import pulumi

from modelworks import ClusterAddons, Environment
from modelworks.stack import require_account, required_tags, tag_everything

account = require_account(pulumi.Config("aws").require_object("allowedAccountIds"))
tag_everything(required_tags(environment=pulumi.get_stack(), owner="growth", cost_centre="4711"))

churn = Environment("churn", {"account_id": account, "encrypts_volumes": True})
addons = ClusterAddons(
    "churn",
    {
        "account_id": account,
        "oidc_issuer": pulumi.Config().get("oidc_issuer") or "laptop.modelworks.internal",
        "key_arn": churn.key_arn,
        "storage_class": "churn-encrypted",
        # The laptop's cluster has a controller of its own.
        "install_argo_rollouts": pulumi.get_stack() != "local",
    },
)

pulumi.export("storage_class", addons.storage_class)

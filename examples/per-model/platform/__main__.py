"""The resources that all models of an environment share. Its outputs are the contract with their stacks."""

import pulumi

from modelworks import Environment, ModelRegistry, PredictionStore
from modelworks.stack import lock_image, require_account

config = pulumi.Config()
account = require_account(pulumi.Config("aws").require_object("allowedAccountIds"))
stage = pulumi.get_stack()

environment = Environment(stage, {"account_id": account, "namespace": f"modelworks-{stage}"})
registry = ModelRegistry(
    "registry",
    {
        "account_id": account,
        "oidc_issuer": config.require("oidc_issuer"),
        "key_arn": environment.key_arn,
        "alerts_topic_arn": environment.alerts_topic_arn,
        "namespace": environment.namespace,
        "image": config.get("registry_image") or lock_image("registry"),
        "host": f"registry.{config.require('domain')}",
        "admin_password": config.require_secret("registry_password"),
    },
)

predictions = PredictionStore("predictions", {"account_id": account, "key_arn": environment.key_arn})

pulumi.export("account", account)
pulumi.export("oidc_issuer", config.require("oidc_issuer"))
pulumi.export("domain", config.require("domain"))
pulumi.export("key_arn", environment.key_arn)
pulumi.export("alerts_topic_arn", environment.alerts_topic_arn)
pulumi.export("namespace", environment.namespace)
pulumi.export("bundle_bucket", registry.bundle_bucket)
pulumi.export("prediction_bucket", predictions.bucket)

"""A bundle store and an MLflow server, on an environment of their own."""

import pulumi

from modelworks import Environment, ModelRegistry
from modelworks.stack import require_account

stack, config = pulumi.get_stack(), pulumi.Config()
account = require_account(pulumi.Config("aws").require_object("allowedAccountIds"))

environment = Environment("models", {"account_id": account, "namespace": f"modelworks-{stack}"})

registry = ModelRegistry(
    "registry",
    {
        "image": config.require("image"),
        "host": config.require("host"),
        "admin_password": config.require_secret("registry_password"),
        "namespace": environment.namespace,
        "key_arn": environment.key_arn,
        "alerts_topic_arn": environment.alerts_topic_arn,
        "account_id": account,
        "oidc_issuer": config.require("oidc_issuer"),
    },
)

pulumi.export("registry_url", registry.url)
pulumi.export("bundle_bucket", registry.bundle_bucket)
pulumi.export("artifact_bucket", registry.artifact_bucket)

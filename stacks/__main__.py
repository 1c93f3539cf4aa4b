"""The reference program: one environment of machine learning, by its stack's settings alone."""

import pulumi

from modelworks import Environment, ModelEndpoint, ModelRegistry, TrainingCompute
from modelworks.stack import (
    commit,
    lock_image,
    require_account,
    required_tags,
    secret,
    stack_config,
    tag_everything,
)

stack = pulumi.get_stack()
config = stack_config()
settings, cluster = config.settings, config.settings.cluster
domain = cluster.domain or f"{stack}.localhost"
account = require_account(config.account_ids)
tag_everything(required_tags(environment=stack, owner=settings.owner, cost_centre=settings.cost_centre))

environment = Environment(
    stack,
    {
        "account_id": account,
        "alert_emails": settings.alerts.emails,
        "budget": settings.budget.model_dump() if settings.budget else None,
        "namespace": (cluster.namespace or f"modelworks-{stack}") if settings.registry else None,
        "install_argo_rollouts": cluster.install_argo_rollouts,
        "key_deletion_days": settings.key_deletion_days,
    },
)
on_the_ground = {"account_id": account, "oidc_issuer": cluster.oidc_issuer, "key_arn": environment.key_arn}
watched = {"environment": stack, "alerts_topic_arn": environment.alerts_topic_arn}

if settings.registry:
    registry = ModelRegistry(
        "registry",
        {
            **on_the_ground,
            "namespace": environment.namespace,
            "image": cluster.registry_image or lock_image("registry"),
            "host": f"registry.{domain}",
            "admin_password": secret(config.secrets.registry_password),
            "postgres_uri": secret(config.secrets.registry_database),
            "volume_gib": settings.registry.volume_gib,
            "superseded_days": settings.registry.superseded_days,
        },
    )
    pulumi.export("registry_url", registry.url)
    pulumi.export("bundle_bucket", registry.bundle_bucket)
    pulumi.export("artifact_bucket", registry.artifact_bucket)

if settings.registry and settings.training:
    training = TrainingCompute(
        "training",
        {
            **on_the_ground,
            **watched,
            "namespace": f"{cluster.namespace or f'modelworks-{stack}'}-training",
            "image": cluster.training_image or lock_image("training"),
            "artifact_bucket": registry.artifact_bucket,
            **settings.training.model_dump(),
        },
    )
    pulumi.export("training", training.place)

endpoints = {
    model: ModelEndpoint(
        model,
        {
            **on_the_ground,
            **watched,
            **endpoint.model_dump(),
            "namespace": environment.namespace,
            "bundle_bucket": registry.bundle_bucket,
            "image": cluster.runtime_image or lock_image("runtime"),
            "host": endpoint.host or f"{model}.{domain}",
            "release": config.releases[model].model_dump(),
            "trusted_keys": settings.trusted_keys,
            "tokens": secret(config.secrets.tokens.get(model)),
        },
    )
    for model, endpoint in settings.endpoints.items()
    if model in config.releases
}

pulumi.export("account", account)
pulumi.export("commit", commit())
pulumi.export("key_arn", environment.key_arn)
pulumi.export("alerts_topic_arn", environment.alerts_topic_arn)
pulumi.export("namespace", environment.namespace)
pulumi.export("endpoints", {model: endpoint.url for model, endpoint in endpoints.items()})

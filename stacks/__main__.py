"""The reference program: one environment of machine learning, by its stack's settings alone."""

from typing import Any, TypedDict

import pulumi

from modelworks import (
    Cluster,
    ClusterAddons,
    Environment,
    FeatureStore,
    ModelEndpoint,
    ModelRegistry,
    PredictionStore,
    TrainingCompute,
)
from modelworks.stack import (
    arguments,
    commit,
    encrypts_volumes,
    feature_views,
    laptop_storage_class,
    lock_image,
    require_account,
    required_tags,
    secret,
    signs_in_to_clusters,
    stack_config,
    tag_everything,
    views_of,
)


class Ground(TypedDict):
    """Arguments of every component that uses the environment."""

    account_id: str
    oidc_issuer: pulumi.Input[str]
    key_arn: pulumi.Output[str]


stack = pulumi.get_stack()
config = stack_config()
settings, cluster = config.settings, config.settings.cluster
domain = cluster.domain or f"{stack}.localhost"
account = require_account(config.account_ids)
read_views = {model: views_of(*endpoint.feature_services) for model, endpoint in settings.endpoints.items()}
tags = required_tags(environment=stack, owner=settings.owner, cost_centre=settings.cost_centre)
tag_everything(tags)
# The cluster makes load balancers, and no tag of the engine reaches them.
ingresses: dict[str, Any] = {path: {**arguments(ingress), "tags": tags} for path, ingress in settings.ingresses.items()}

eks = cluster.eks and Cluster(
    f"modelworks-{stack}",
    {
        "account_id": account,
        **signs_in_to_clusters(),
        "administrators": cluster.eks.administrators,
        **arguments(cluster.eks, without=["administrators"]),
        "protect": settings.protect,
    },
)


def after(*resources: pulumi.Resource) -> pulumi.ResourceOptions:
    """Options of a component with objects in the cluster: it comes after these, and goes before them."""
    return pulumi.ResourceOptions(
        providers=[eks.provider] if eks else None, depends_on=list(resources) if resources else None
    )


namespace = cluster.namespace or f"modelworks-{stack}"
environment = Environment(
    stack,
    {
        "account_id": account,
        "alert_emails": settings.alerts.emails,
        "budget": arguments(settings.budget),
        "namespace": namespace if settings.registry else None,
        "encrypts_volumes": encrypts_volumes(settings),
        "key_deletion_days": settings.key_deletion_days,
        "protect": settings.protect,
    },
    after(),
)
on_the_ground: Ground = {
    "account_id": account,
    "oidc_issuer": eks.oidc_issuer if eks else cluster.oidc_issuer,
    "key_arn": environment.key_arn,
}
addons = ClusterAddons(
    stack,
    {
        **on_the_ground,
        "auto_mode": cluster.auto_mode,
        "storage_class": f"{namespace}-encrypted" if encrypts_volumes(settings) else None,
        "default_storage_class": encrypts_volumes(settings) and cluster.default_storage_class,
        "install_ingress_class": cluster.install_ingress_class,
        "install_argo_rollouts": cluster.install_argo_rollouts,
        "enforce_network_policies": cluster.enforce_network_policies,
    },
    after(),
)

if settings.registry:
    registry = ModelRegistry(
        "registry",
        {
            **on_the_ground,
            "namespace": environment.namespace,
            "image": cluster.registry_image or lock_image("registry"),
            "host": f"registry.{domain}",
            "ingress": ingresses["registry"],
            # A stack with a registry and without its password is refused before.
            "admin_password": secret(config.secrets.registry_password),  # type: ignore[typeddict-item]
            "postgres_uri": secret(
                config.secrets.registry_database if settings.registry.database == "postgres" else None
            ),
            **arguments(settings.registry, without=["ingress", "database"]),
            "alerts_topic_arn": environment.alerts_topic_arn,
            "storage_class": addons.volumes.name if addons.volumes else laptop_storage_class(),
            "protect": settings.protect,
        },
        after(*addons.needed_by_hosts),
    )
    pulumi.export("registry_url", registry.url)
    pulumi.export("bundle_bucket", registry.bundle_bucket)
    pulumi.export("artifact_bucket", registry.artifact_bucket)

if settings.endpoints:
    predictions = PredictionStore(
        "predictions",
        {
            "account_id": account,
            "key_arn": environment.key_arn,
            **arguments(settings.predictions),
            "protect": settings.protect,
        },
    )
    pulumi.export("prediction_bucket", predictions.bucket)
    pulumi.export("prediction_reader_role_arn", predictions.reader_role_arn)

if settings.features:
    vendor = arguments(settings.features.vendor)
    if vendor:
        vendor["api_key"] = secret(config.secrets.feature_api_key)
    features = FeatureStore(
        "features",
        {
            **on_the_ground,
            **arguments(settings.features, without=["materialization", "vendor"]),
            "vendor": vendor,
            "environment": stack,
            "alerts_topic_arn": environment.alerts_topic_arn,
            "views": feature_views(),
            "prediction_bucket": predictions.bucket if settings.endpoints else None,
            "materialization": {
                "namespace": environment.namespace,
                "image": cluster.features_image or lock_image("features"),
                **arguments(settings.materialization),
            }
            if settings.materialization
            else None,
            "protect": settings.protect,
        },
        after(),
    )
    pulumi.export("features", features.place)

if settings.registry and settings.training:
    training = TrainingCompute(
        "training",
        {
            **on_the_ground,
            "environment": stack,
            "alerts_topic_arn": environment.alerts_topic_arn,
            "namespace": f"{namespace}-training",
            "image": cluster.training_image or lock_image("training"),
            "artifact_bucket": registry.artifact_bucket,
            "feature_history": features.location if settings.features else None,
            **arguments(settings.training),
        },
        after(),
    )
    pulumi.export("training", training.place)

endpoints = {
    model: ModelEndpoint(
        model,
        {
            **on_the_ground,
            **arguments(endpoint, without=["feature_services"]),
            "ingress": ingresses[f"endpoints.{model}"],
            "environment": stack,
            "alerts_topic_arn": environment.alerts_topic_arn,
            "namespace": environment.namespace,
            "bundle_bucket": registry.bundle_bucket,
            "prediction_bucket": predictions.bucket,
            "image": cluster.runtime_image or lock_image("runtime"),
            "host": endpoint.host or f"{model}.{domain}",
            "release": arguments(config.releases[model]),
            "trusted_keys": settings.trusted_keys,
            "tokens": secret(config.secrets.tokens.get(model)),
            "feature_tables": features.tables_of(read_views[model]) if settings.features else {},
            "feature_api": features.api if settings.features and read_views[model] else None,
        },
        after(*addons.needed_by_endpoints),
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
if eks:
    pulumi.export("cluster", eks.cluster_name)
    pulumi.export("kubeconfig", eks.kubeconfig)

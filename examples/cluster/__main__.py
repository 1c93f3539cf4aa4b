"""From no cluster to an endpoint: a network, a cluster, what it lacks, an environment in it, and one model's host."""

import pulumi

from modelworks import Cluster, ClusterAddons, Environment, ModelEndpoint, ModelRegistry
from modelworks.stack import require_account, required_tags, signs_in_to_clusters, tag_everything

config = pulumi.Config()
account = require_account(pulumi.Config("aws").require_object("allowedAccountIds"))
tags = required_tags(environment=pulumi.get_stack(), owner="growth", cost_centre="4711")
tag_everything(tags)
ingress = {"certificate_arn": config.require("certificate_arn"), "tags": tags}

cluster = Cluster(
    "growth",
    {
        "account_id": account,
        "administrators": config.require_object("administrators"),
        # Without it only machines in the VPC reach the API server: neither a laptop nor a hosted CI runner.
        "public_access_cidrs": [config.require("office")],
        **signs_in_to_clusters(),
    },
)


def in_cluster(*after: pulumi.Resource) -> pulumi.ResourceOptions:
    """Options of what is in the cluster, comes after these and goes before them."""
    return pulumi.ResourceOptions(providers=[cluster.provider], depends_on=[*after])


environment = Environment(
    "churn", {"account_id": account, "namespace": "churn", "encrypts_volumes": True}, in_cluster()
)
ground = {"account_id": account, "oidc_issuer": cluster.oidc_issuer, "key_arn": environment.key_arn}
addons = ClusterAddons(
    "churn",
    {
        **ground,
        "auto_mode": True,
        "storage_class": "churn-encrypted",
        "install_ingress_class": True,
        "install_argo_rollouts": True,
        "enforce_network_policies": True,
    },
    in_cluster(),
)
registry = ModelRegistry(
    "registry",
    {
        **ground,
        "namespace": environment.namespace,
        "image": config.require("registry_image"),
        "host": f"registry.{config.require('domain')}",
        "ingress": ingress,
        "admin_password": config.require_secret("registry_password"),
        "storage_class": addons.storage_class,
        "alerts_topic_arn": environment.alerts_topic_arn,
    },
    in_cluster(*addons.needed_by_hosts),
)

# `pulumi config set bundle_digest sha256:…` once a bundle is in the bucket: a host without a release is not declared.
if digest := config.get("bundle_digest"):
    endpoint = ModelEndpoint(
        "churn",
        {
            **ground,
            "environment": pulumi.get_stack(),
            "alerts_topic_arn": environment.alerts_topic_arn,
            "namespace": environment.namespace,
            "bundle_bucket": registry.bundle_bucket,
            "image": config.require("runtime_image"),
            "host": f"churn.{config.require('domain')}",
            "ingress": ingress,
            "release": {"digest": digest},
            "tokens": config.require_secret("tokens"),
        },
        in_cluster(*addons.needed_by_endpoints),
    )
    pulumi.export("url", endpoint.url)

pulumi.export("kubeconfig", cluster.kubeconfig)
pulumi.export("bundle_bucket", registry.bundle_bucket)
pulumi.export("registry", registry.url)

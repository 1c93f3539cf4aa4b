"""Private: the Argo Rollouts controller, which moves traffic and judges releases by CloudWatch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import pulumi
import pulumi_aws as aws

from modelworks._resources.iam import least_privilege_role, policy_document, service_account_trust, statement

_CHART: Final = "2.40.5"
"""Version of the Helm chart, of the line that installs Argo Rollouts 1.8, which the laptop cloud runs too."""
_NAME: Final = "argo-rollouts"
"""Of the chart, its namespace and its service account, which the role trusts by name."""
_DESCRIBED: Final = ("Listeners", "LoadBalancers", "Rules", "Tags", "TargetGroups", "TargetHealth")


@dataclass(frozen=True)
class ArgoRollouts:
    """The controller, its CRDs and its role."""

    release: pulumi.Resource
    """Of the Helm chart. Endpoints depend on it: the kind Rollout comes with it."""
    role: aws.iam.Role


def argo_rollouts(
    name: str,
    *,
    parent: pulumi.Resource,
    account_id: pulumi.Input[str],
    oidc_issuer: pulumi.Input[str],
    auto_mode: bool,
    aliases: Sequence[pulumi.Alias],
) -> ArgoRollouts:
    """Argo Rollouts by its Helm chart, with a role that reads metrics, and how load balancers route.

    Args:
        name: Name of its resources.
        parent: The component they belong to.
        account_id: The AWS account: 12 digits.
        oidc_issuer: The cluster's OIDC issuer without `https://`.
        auto_mode: Whether load balancers are those of EKS Auto Mode.
        aliases: Where its resources were before.
    """
    from pulumi_kubernetes.helm.v3 import Release  # its package takes long to import, and few ask for it

    trust = pulumi.Output.all(account_id, aws.get_partition_output().partition, oidc_issuer, _NAME).apply(
        lambda found: policy_document([service_account_trust(_NAME, *found)])
    )
    role, permitted = least_privilege_role(
        name,
        parent=parent,
        trust=trust,
        policy=aws.get_region_output().region.apply(_permissions),
        description="Reads what decides about canaries",
        aliases=aliases,
    )
    release = Release(
        name,
        chart=_NAME,
        version=_CHART,
        namespace=_NAME,
        create_namespace=True,
        repository_opts={"repo": "https://argoproj.github.io/argo-helm"},
        values=_values(role, auto_mode=auto_mode),
        opts=pulumi.ResourceOptions(parent=parent, depends_on=[permitted], aliases=list(aliases)),
    )
    return ArgoRollouts(release, role)


def _permissions(region: str) -> str:
    """The permissions that Argo documents for analyses by CloudWatch, and for the verification of target groups."""
    groups = [f"elasticloadbalancing:Describe{what}" for what in _DESCRIBED]
    # None of these actions knows resources; the region is what narrows them.
    here = {"StringEquals": {"aws:RequestedRegion": region}}
    return policy_document([statement(["cloudwatch:GetMetricData", *groups], ["*"], condition=here)])


def _values(role: aws.iam.Role, *, auto_mode: bool) -> dict[str, Any]:
    return {
        "serviceAccount": {"name": _NAME, "annotations": {"eks.amazonaws.com/role-arn": role.arn}},
        "controller": {
            # The next step waits until the load balancer routes as the Ingress states, and until it has the pods. Argo
            # Rollouts 1.8 knows the load balancers of EKS Auto Mode not yet (argoproj/argo-rollouts#4334): it would
            # end no step there.
            "extraArgs": [] if auto_mode else ["--aws-verify-target-group"],
            "extraEnv": [{"name": "AWS_REGION", "value": aws.get_region_output().region}],
        },
    }

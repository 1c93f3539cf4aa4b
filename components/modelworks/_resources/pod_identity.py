"""Private: who pods are for AWS: a service account, and a role that it assumes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import pulumi
import pulumi_aws as aws

from modelworks import _workload_rules as rules
from modelworks._resources.arguments import require_each
from modelworks._resources.iam import (
    bucket_arn,
    least_privilege_role,
    policy_document,
    service_account_trust,
    statement,
)
from modelworks._resources.kubernetes import KubernetesComponent, KubernetesObject


class PermissionArgs(TypedDict):
    """A permission in AWS, beside those that the work needs."""

    actions: list[str]
    """Actions of IAM, such as `s3:GetObject`."""

    resources: list[pulumi.Input[str]]
    """ARNs that they are allowed on."""


def require_sound_permissions(permissions: Sequence[PermissionArgs]) -> None:
    """Refuse permissions for everything, and for nothing.

    Raises:
        ValueError: An action is a wildcard or no action, a resource is no ARN, or a list is empty.
    """
    require_each("permissions", permissions, rules.permission)
    for each in permissions:
        require_each("permissions: actions", each["actions"], rules.action)
        require_each("permissions: resources", each["resources"], rules.resource)


@dataclass(frozen=True)
class PodIdentity:
    """A service account, and the role that its pods assume."""

    account: KubernetesObject
    role: aws.iam.Role
    policy: aws.iam.RolePolicy
    """Its permissions: a pod that starts before them fails."""


def pod_identity(
    component: KubernetesComponent,
    suffix: str,
    args: Mapping[str, Any],
    *,
    bucket: pulumi.Input[str],
    permissions: Callable[..., Sequence[Mapping[str, Any]]],
    description: str,
    others: Sequence[pulumi.Input[str]] = (),
) -> PodIdentity:
    """A service account that assumes a role of its own, by the cluster's identity provider (IRSA, as EKS has it).

    Args:
        component: Whose pods they are.
        suffix: The suffix of both names, and of the account in the cluster, after the component's name.
        args: The component's `account_id`, `oidc_issuer`, `key_arn`, the key of the bucket, and `permissions`, what
            its role may do besides.
        bucket: The bucket that the pods use.
        permissions: Statements of what the role may do, by the ARNs of the bucket, of its key, and of `others`.
        description: The purpose of the role.
        others: ARNs of what else the pods use.
    """
    name, metadata = component.child_name(suffix), component.metadata()
    # The account's name is stated, because the role trusts it before the account is there.
    trust = pulumi.Output.all(
        args["account_id"], aws.get_partition_output().partition, args["oidc_issuer"], metadata["namespace"]
    ).apply(lambda found: policy_document([service_account_trust(name, *found)]))
    more = args["permissions"]
    policy = pulumi.Output.all(
        pulumi.Output.all(bucket_arn(bucket), args["key_arn"], *others),
        pulumi.Output.all(*(pulumi.Output.all(*each["resources"]) for each in more)),
    ).apply(
        lambda found: policy_document(
            [
                *permissions(*found[0]),
                *(statement(each["actions"], arns) for each, arns in zip(more, found[1], strict=True)),
            ]
        )
    )
    role, permitted = least_privilege_role(name, parent=component, trust=trust, policy=policy, description=description)
    return PodIdentity(service_account(component, suffix, role), role, permitted)


def service_account(component: KubernetesComponent, suffix: str, role: aws.iam.Role) -> KubernetesObject:
    """A service account, named after the component with `suffix` behind it, whose pods assume a role that trusts it."""
    name = component.child_name(suffix)
    return KubernetesObject(
        name,
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {
                **component.metadata(),
                "name": name,
                "annotations": {"eks.amazonaws.com/role-arn": role.arn},
            },
            "automountServiceAccountToken": False,
        },
        opts=pulumi.ResourceOptions(parent=component),
    )

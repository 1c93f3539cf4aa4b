"""Private: manifests as they are written by hand, for what the components declare on Kubernetes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any

import pulumi
import pulumi_aws as aws

from modelworks._resources.iam import least_privilege_role, policy_document

Manifest = Any
"""A piece of a manifest: plain mappings and lists with camel-case keys, Pulumi inputs allowed as values."""


def labels(name: str, component: str) -> dict[str, str]:
    """The labels Kubernetes recommends, for objects of ours."""
    return {
        "app.kubernetes.io/name": name,
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/part-of": "modelworks",
        "app.kubernetes.io/managed-by": "pulumi",
    }


def selector(name: str, component: str) -> dict[str, str]:
    """The labels that pods are found by: those that never change."""
    return {"app.kubernetes.io/name": name, "app.kubernetes.io/component": component}


def environment_variables(values: Mapping[str, pulumi.Input[str]]) -> list[dict[str, Any]]:
    """Plain variables of a container, and the pod's own address and name."""
    fields = {"POD_IP": "status.podIP", "POD_NAME": "metadata.name"}
    return [
        *({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()),
        *({"name": name, "value": value} for name, value in values.items()),
    ]


def http_probe(path: str, *, port: str = "http", period_seconds: int, failures: int) -> dict[str, Any]:
    """A probe that asks for a path."""
    return {
        "httpGet": {"path": path, "port": port},
        "periodSeconds": period_seconds,
        "timeoutSeconds": 2,
        "failureThreshold": failures,
    }


def one_port_in(port: str, *, out: tuple[int, ...] = (443,)) -> Manifest:
    """Rules of a network policy: one port in; out to name servers and to these ports, nothing else."""
    names = [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]
    return {
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"ports": [{"port": port, "protocol": "TCP"}]}],
        "egress": [{"ports": [*names, *({"port": item, "protocol": "TCP"} for item in out)]}],
    }


class KubernetesObject(pulumi.CustomResource):
    """An object in a cluster, declared by its manifest.

    The engine and the provider see what they would see of the SDK's own class of that kind. Those classes cannot be
    imported one by one: the handful used here took a quarter of the reference program's evaluation, 0.3 s and 31 MB.
    """

    metadata: pulumi.Output[dict[str, Any]]
    """As the cluster has it, the name that the provider gave included."""

    def __init__(self, name: str, manifest: Mapping[str, Any], opts: pulumi.ResourceOptions | None = None) -> None:
        api = manifest["apiVersion"]
        super().__init__(
            f"kubernetes:{api if '/' in api else f'core/{api}'}:{manifest['kind']}",
            name,
            dict(manifest),
            pulumi.ResourceOptions.merge(pulumi.ResourceOptions(version=_plugin_version()), opts),
        )

    @property
    def name(self) -> pulumi.Output[str]:
        """Its name in the cluster."""
        return self.metadata["name"]


@cache
def _plugin_version() -> str:
    return version("pulumi-kubernetes")


def restricted_namespace(name: str, *, parent: pulumi.Resource, namespace: str) -> KubernetesObject:
    """A namespace that admits only what keeps the `restricted` Pod Security standard, and lets no traffic pass.

    What a pod is to reach, or be reached by, a network policy of its own allows.
    """
    level = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
    home = KubernetesObject(
        name,
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": namespace, "labels": {**labels(name, "namespace"), **level}},
        },
        opts=pulumi.ResourceOptions(parent=parent),
    )
    KubernetesObject(
        f"{name}-default-deny",
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"namespace": home.name, "labels": labels(name, "namespace")},
            "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
        },
        opts=pulumi.ResourceOptions(parent=home),
    )
    return home


@dataclass(frozen=True)
class PodIdentity:
    """A service account, and the role that its pods assume."""

    account: KubernetesObject
    role: aws.iam.Role


def pod_identity(
    name: str,
    *,
    parent: pulumi.Resource,
    metadata: Mapping[str, Any],
    account_id: pulumi.Input[str],
    oidc_issuer: pulumi.Input[str],
    policy: pulumi.Input[str],
    description: str,
) -> PodIdentity:
    """A service account that assumes a role of its own, by the cluster's identity provider (IRSA, as EKS has it).

    Args:
        name: Name of both as resources, and of the account in the cluster.
        parent: The component they belong to.
        metadata: Namespace and labels of the account.
        account_id: The AWS account.
        oidc_issuer: The cluster's OIDC issuer without `https://`.
        policy: What the role may do.
        description: What the role is for.
    """
    # The account's name is stated, because the role trusts it before the account is there.
    trust = pulumi.Output.all(
        account_id, aws.get_partition_output().partition, oidc_issuer, metadata["namespace"]
    ).apply(lambda v: policy_document([_trust(v[0], v[1], v[2], v[3], name)]))
    role = least_privilege_role(name, parent=parent, trust=trust, policy=policy, description=description)
    account = KubernetesObject(
        name,
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {**metadata, "name": name, "annotations": {"eks.amazonaws.com/role-arn": role.arn}},
            "automountServiceAccountToken": False,
        },
        opts=pulumi.ResourceOptions(parent=parent),
    )
    return PodIdentity(account, role)


def _trust(account_id: str, partition: str, issuer: str, namespace: str, service_account: str) -> dict[str, Any]:
    return {
        "Effect": "Allow",
        "Principal": {"Federated": f"arn:{partition}:iam::{account_id}:oidc-provider/{issuer}"},
        "Action": "sts:AssumeRoleWithWebIdentity",
        "Condition": {
            "StringEquals": {
                f"{issuer}:sub": f"system:serviceaccount:{namespace}:{service_account}",
                f"{issuer}:aud": "sts.amazonaws.com",
            }
        },
    }

"""Private: manifests as they are written by hand, for what the components declare on Kubernetes."""

from collections.abc import Mapping
from typing import Any

import pulumi

Manifest = Any
"""A piece of a manifest: plain mappings and lists with camel-case keys, Pulumi inputs allowed as values."""

RESTRICTED_CONTAINER: dict[str, Any] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
"""Security context of every container: the `restricted` Pod Security standard, and a root that cannot be written."""

RESTRICTED_POD: dict[str, Any] = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "runAsGroup": 65532,
    "fsGroup": 65532,
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""Security context of every pod. 65532 is `nonroot` in distroless images."""


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


def own_egress_and_port(port: str | int) -> Manifest:
    """Rules of a network policy: one port in; out to names and to TLS, nothing else."""
    return {
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"ports": [{"port": port, "protocol": "TCP"}]}],
        "egress": [
            {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]},
            {"ports": [{"port": 443, "protocol": "TCP"}]},
        ],
    }


def trust_of_service_account(
    account_id: str, partition: str, issuer: str, namespace: str, service_account: str
) -> dict[str, Any]:
    """Who may assume a pod's role: one service account of one cluster, by the cluster's identity provider.

    Args:
        account_id: The AWS account of role and provider.
        partition: Such as `aws`.
        issuer: The cluster's OIDC issuer without `https://`.
        namespace: Namespace of the service account.
        service_account: Its name.
    """
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

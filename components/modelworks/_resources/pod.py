"""Private: what the pods of components have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pulumi

from modelworks._manifests import RESTRICTED_POD
from modelworks._resources.kubernetes import Manifest

SCRATCH = "/scratch"
"""Where a pod may write: its root cannot be written."""


def restricted_pod(
    account: pulumi.Input[str], *, container: Manifest, volumes: Sequence[Manifest], **more: Any
) -> dict[str, Any]:
    """Spec of a pod of one container that keeps the `restricted` Pod Security standard, and is its account for AWS."""
    return {
        "serviceAccountName": account,
        "automountServiceAccountToken": False,
        "securityContext": RESTRICTED_POD,
        "containers": [container],
        "volumes": list(volumes),
        **more,
    }


def environment_variables(values: Mapping[str, pulumi.Input[str]]) -> list[dict[str, Any]]:
    """Plain variables of a container, and the pod's own address and name."""
    fields = {"POD_IP": "status.podIP", "POD_NAME": "metadata.name"}
    return [
        *({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()),
        *({"name": name, "value": value} for name, value in values.items()),
    ]


def http_probe(path: str, *, port: str = "http", period_seconds: int, failures: int) -> dict[str, Any]:
    """A probe that requests a path."""
    return {
        "httpGet": {"path": path, "port": port},
        "periodSeconds": period_seconds,
        "timeoutSeconds": 2,
        "failureThreshold": failures,
    }

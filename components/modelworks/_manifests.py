"""Private and pure: the parts that all pods share, whether a component declares them or a command creates them."""

from typing import Any

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


def cores(millicores: int) -> str:
    """A quantity of CPU as Kubernetes itself writes it: controllers write objects back so, and nothing may differ."""
    return f"{millicores}m" if millicores % 1000 else str(millicores // 1000)


def mebibytes(mib: int) -> str:
    """A quantity of memory as Kubernetes itself writes it."""
    return f"{mib}Mi" if mib % 1024 else f"{mib // 1024}Gi"

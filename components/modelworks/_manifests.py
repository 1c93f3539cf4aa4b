"""Private and pure: the parts that all pods share, whether a component declares them or a command creates them."""

from collections.abc import Mapping
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


SCRATCH_VOLUME = "scratch"
"""Name of the volume that a pod may write to."""


def with_additions(template: Mapping[str, Any], pod: Mapping[str, Any]) -> dict[str, Any]:
    """A pod's template with what an environment adds to its pods; the same without additions.

    Args:
        template: Of a pod, whose first container is the one that devices are for.
        pod: The additions, as `PodArgs` names them, complete.
    """
    metadata, spec = template["metadata"], template["spec"]
    container, *sidecars = spec["containers"]
    more: dict[str, Any] = {
        "nodeSelector": dict(pod["node_selector"]),
        "tolerations": [
            {name: value for name, value in each.items() if value is not None} for each in pod["tolerations"]
        ],
        "imagePullSecrets": [{"name": name} for name in pod["image_pull_secrets"]],
    }
    added = {
        "labels": {**metadata.get("labels", {}), **pod["labels"]},
        "annotations": {**metadata.get("annotations", {}), **pod["annotations"]},
    }
    return {
        "metadata": {**metadata, **{name: found for name, found in added.items() if found}},
        "spec": {
            **spec,
            "containers": [_with_devices(container, pod["extended_resources"]), *sidecars],
            "volumes": [_limited(volume, pod["scratch_mib"]) for volume in spec["volumes"]],
            **{name: found for name, found in more.items() if found},
        },
    }


def _with_devices(container: Mapping[str, Any], devices: Mapping[str, int]) -> dict[str, Any]:
    # Kubernetes takes a device as a limit, and as a request of the same number or none.
    counts = {name: str(count) for name, count in devices.items()}
    resources = {kind: {**found, **counts} for kind, found in container["resources"].items()}
    return {**container, "resources": resources}


def _limited(volume: Mapping[str, Any], scratch_mib: int | None) -> dict[str, Any]:
    if scratch_mib is None or volume["name"] != SCRATCH_VOLUME:
        return dict(volume)
    return {**volume, "emptyDir": {**volume["emptyDir"], "sizeLimit": mebibytes(scratch_mib)}}

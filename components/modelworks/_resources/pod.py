"""Private: what the pods of components have in common."""

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

import pulumi

from modelworks import _workload_rules as rules
from modelworks._manifests import RESTRICTED_POD
from modelworks._resources.arguments import require_each
from modelworks._resources.kubernetes import Manifest

SCRATCH = "/scratch"
"""Where a pod may write: its root cannot be written."""


class TolerationArgs(TypedDict):
    """A taint of nodes that pods accept, as Kubernetes has it."""

    key: NotRequired[str | None]
    """Key of the taint. Default: none, and with `Exists` every taint."""

    operator: NotRequired[str]
    """`Equal`, where the taint has the value, or `Exists`, where it may have any. Default Equal."""

    value: NotRequired[str | None]
    """Value of the taint. Default: none."""

    effect: NotRequired[str | None]
    """`NoSchedule`, `PreferNoSchedule` or `NoExecute`. Default: none, and all of them."""


class PodArgs(TypedDict):
    """Additions to pods. Another value starts pods again: for an endpoint, by a canary."""

    extended_resources: NotRequired[dict[str, int]]
    """Devices of each pod, by the name of their resource, such as `nvidia.com/gpu`. The cluster
    needs their device plugin. Default: none."""

    node_selector: NotRequired[dict[str, str]]
    """Labels that a node must have. Default: none, and any node."""

    tolerations: NotRequired[list[TolerationArgs]]
    """Taints of nodes that pods accept. Default: none."""

    image_pull_secrets: NotRequired[list[str]]
    """Secrets in the pods' namespace by which nodes pull the image. ECR in the cluster's account needs none. Default:
    none."""

    labels: NotRequired[dict[str, str]]
    """Further labels of the pods. Default: none."""

    annotations: NotRequired[dict[str, str]]
    """Further annotations of the pods. Default: none."""

    scratch_mib: NotRequired[int | None]
    """Limit of a pod's scratch volume, in MiB: a pod that writes more is evicted. Default: none, and for endpoints
    twice their memory and 1024 MiB, which holds a bundle that fits into memory."""


def require_sound_pod(pod: PodArgs) -> None:
    """Refuse additions that the cluster would refuse, or that would hide pods from what looks for them.

    Raises:
        ValueError: A key, a name or a toleration is none.
    """
    require_each("pod.extended_resources", pod["extended_resources"], rules.device)
    require_each("pod.node_selector", pod["node_selector"], rules.key)
    require_each("pod.node_selector", pod["node_selector"].values(), rules.label_value)
    require_each("pod.tolerations", pod["tolerations"], rules.toleration)
    require_each("pod.image_pull_secrets", pod["image_pull_secrets"], rules.secret_name)
    require_each("pod.labels", pod["labels"], rules.own_key)
    require_each("pod.labels", pod["labels"].values(), rules.label_value)
    require_each("pod.annotations", pod["annotations"], rules.own_key)


def restricted_pod(
    account: pulumi.Input[str],
    *,
    container: Manifest,
    volumes: Sequence[Manifest],
    sidecars: Sequence[Manifest] = (),
    **more: Any,
) -> dict[str, Any]:
    """Spec of a pod that keeps the `restricted` Pod Security standard, and is its account for AWS."""
    return {
        "serviceAccountName": account,
        "automountServiceAccountToken": False,
        "securityContext": RESTRICTED_POD,
        "containers": [container, *sidecars],
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

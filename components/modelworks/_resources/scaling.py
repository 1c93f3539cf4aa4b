"""Private: how many pods of a Rollout there are, and how many of them may be missing."""

from collections.abc import Mapping

import pulumi

from modelworks._resources.kubernetes import Manifest

_CPU_PER_CENT = 70
"""Of the CPU that its pods request: what the autoscaler holds a Rollout at."""


def autoscaler(rollout: pulumi.Input[str], fewest: int, most: int) -> Manifest:
    """Spec of a HorizontalPodAutoscaler that follows the CPU of a Rollout's pods."""
    cpu = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": _CPU_PER_CENT}}
    return {
        "scaleTargetRef": {"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "name": rollout},
        "minReplicas": fewest,
        "maxReplicas": most,
        "metrics": [{"type": "Resource", "resource": cpu}],
    }


def disruption_budget(selector: Mapping[str, str]) -> Manifest:
    """Spec of a PodDisruptionBudget: a drained node takes one pod at a time."""
    return {"maxUnavailable": 1, "selector": {"matchLabels": dict(selector)}}

"""Whether the Argo Rollouts controller of a cluster can judge canaries: from its pods, as the API server has them.

Without a region its AWS client fails, each analysis with it, and every second release is aborted. Argo documents
`AWS_REGION` and `cloudwatch:GetMetricData` as required, and recommends `--aws-verify-target-group`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from modelworks.cluster.rollout_objects import Object

SELECTOR = "app.kubernetes.io/component=rollouts-controller"
"""Label of its pods, by the chart and by Argo's own manifests."""

_REGION = ("AWS_REGION", "AWS_DEFAULT_REGION")
_CREDENTIALS = ("AWS_ROLE_ARN", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_ACCESS_KEY_ID")
_VERIFIES = ("--aws-verify-target-group", "--alb-verify-weight")


@dataclass(frozen=True)
class Verdict:
    """The shortcomings of a cluster's controller."""

    missing: str = ""
    """Without it no canary passes; empty if there is nothing."""
    doubts: Sequence[str] = ()
    """Shortcomings that do no harm in some clusters."""


def judge(pods: Sequence[Object]) -> Verdict:
    """The shortcomings of the controller, by its pods in the whole cluster."""
    containers = [container for pod in pods for container in _controllers(pod)]
    if not containers:
        return Verdict("the cluster runs no Argo Rollouts controller")
    if not all(_has(container, _REGION) for container in containers):
        return Verdict("the Argo Rollouts controller has no AWS_REGION, so that it cannot read CloudWatch")
    doubts = []
    if not all(_has(container, _CREDENTIALS) for container in containers):
        doubts.append("the Argo Rollouts controller has no role of its own: its nodes' role must allow GetMetricData")
    if not all(_argument(container, _VERIFIES) for container in containers):
        doubts.append("the Argo Rollouts controller does not verify target groups (--aws-verify-target-group)")
    return Verdict(doubts=doubts)


def _controllers(pod: Object) -> Iterable[dict[str, Any]]:
    if pod["metadata"].get("deletionTimestamp"):
        return []
    containers = pod["spec"].get("containers") or []
    # A sidecar (a mesh, an agent) has variables of its own.
    return [each for each in containers if "rollouts" in f"{each.get('name')} {each.get('image')}"] or containers[:1]


def _has(container: dict[str, Any], names: Sequence[str]) -> bool:
    # Whether a ConfigMap or Secret has a variable is not for its pod to show.
    return bool(container.get("envFrom")) or any(each["name"] in names for each in container.get("env") or [])


def _argument(container: dict[str, Any], names: Sequence[str]) -> bool:
    given = [*(container.get("command") or []), *(container.get("args") or [])]
    return any(each.partition("=")[0] in names and not each.endswith("=false") for each in given)

"""Targets of load balancers on AWS: a pod is one seconds after it is ready, and ready pods may be none yet.

In a namespace with the label by which the AWS Load Balancer Controller injects readiness gates, pods are not ready
before they are targets, so that nothing that waits for ready pods is early. The laptop injects no gate: there, a ready
pod is a target.

Source: https://kubernetes-sigs.github.io/aws-load-balancer-controller/latest/deploy/pod_readiness_gate/
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from modelworks.laptop.endpoints import takes_requests

Object = dict[str, Any]

SECONDS: Final = 10.0
"""From ready to target. AWS takes the call of its API, and at least two health checks by default, 15 s apart."""
LABEL: Final = "elbv2.k8s.aws/pod-readiness-gate-inject"


class Registrations:
    """The pods that are targets, as time passes."""

    def __init__(self) -> None:
        self._ready: dict[tuple[str, str], float] = {}
        self._begun = False

    def targets(
        self, pods: Iterable[Object], namespaces: Iterable[Object], now: float
    ) -> tuple[list[Object], float | None]:
        """The pods that are targets, and in how many seconds there will be another one; None if there is none.

        Args:
            pods: All pods. Those that are ready at the first call were targets before.
            namespaces: All namespaces.
            now: Seconds, of any clock that does not go back.
        """
        gated = {
            each["metadata"]["name"]
            for each in namespaces
            if (each["metadata"].get("labels") or {}).get(LABEL) == "enabled"
        }
        ready = {(pod["metadata"]["namespace"], pod["metadata"]["name"]): pod for pod in pods if takes_requests(pod)}
        first = now if self._begun else now - SECONDS
        self._ready = {key: self._ready.get(key, now - SECONDS if key[0] in gated else first) for key in ready}
        self._begun = True
        waiting = [at + SECONDS - now for at in self._ready.values() if at + SECONDS > now]
        return [ready[key] for key, at in self._ready.items() if at + SECONDS <= now], min(waiting, default=None)

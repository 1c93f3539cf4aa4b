"""The pods behind a Service, as the API server's own controller would find them if it took loopback addresses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Object = Mapping[str, Any]
Address = tuple[str, int]
"""An IP address and a port."""


@dataclass(frozen=True)
class Endpoints:
    """The pods that may be behind Services."""

    pods: Mapping[str, list[Object]] = field(default_factory=dict)
    """By namespace, sorted by name."""

    @classmethod
    def of(cls, pods: Iterable[Object]) -> Endpoints:
        """Those among `pods` that have an address."""
        found: dict[str, list[Object]] = {}
        for pod in sorted(pods, key=lambda pod: str(pod["metadata"]["name"])):
            if (pod.get("status") or {}).get("podIP"):
                found.setdefault(pod["metadata"]["namespace"], []).append(pod)
        return cls(found)

    def behind(self, service: Object) -> list[Object]:
        """The pods that a Service selects: ready ones, unless it states otherwise; none without a selector."""
        spec = service["spec"]
        selector = spec.get("selector") or {}
        if not selector:
            return []
        takes = _lives if spec.get("publishNotReadyAddresses") else takes_requests
        return [
            pod
            for pod in self.pods.get(service["metadata"]["namespace"], [])
            if takes(pod) and selector.items() <= (pod["metadata"].get("labels") or {}).items()
        ]

    def of_port(self, service: Object, port: Object) -> list[Address]:
        """Where one port of a Service leads."""
        numbers = [(pod["status"]["podIP"], _target_port(port, pod)) for pod in self.behind(service)]
        return [(address, number) for address, number in numbers if number is not None]


def takes_requests(pod: Object) -> bool:
    """A pod that is ending or not ready gets no new request; those it has may finish."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    return _lives(pod) and any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _lives(pod: Object) -> bool:
    status = pod.get("status") or {}
    return "deletionTimestamp" not in pod["metadata"] and status.get("phase") == "Running"


def _target_port(port: Object, pod: Object) -> int | None:
    target = port.get("targetPort") or port["port"]
    if isinstance(target, int):
        return target
    for container in pod["spec"].get("containers") or []:
        for offered in container.get("ports") or []:
            if offered.get("name") == target:
                return int(offered["containerPort"])
    return None

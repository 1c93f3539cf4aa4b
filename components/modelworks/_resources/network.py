"""Private: how pods are reached, and what they may reach: specs of Services, Ingresses and network policies."""

from __future__ import annotations

from collections.abc import Mapping

import pulumi

from modelworks._resources.kubernetes import Manifest

SERVICE_PORT = 80
"""Port of all Services."""
AT_ONCE = {"pulumi.com/skipAwait": "true"}
"""Annotation of what is ready only when another resource is, which needs it first: waiting for it would never end."""


def service(selector: Mapping[str, str]) -> Manifest:
    """A Service before the pods that `selector` finds."""
    return {
        "selector": dict(selector),
        "ports": [{"name": "http", "port": SERVICE_PORT, "targetPort": "http", "protocol": "TCP"}],
    }


def ingress(host: pulumi.Input[str], service_name: pulumi.Input[str], *, port: str = "http") -> Manifest:
    """A load balancer's rule that sends all requests for `host` to a Service."""
    backend = {"service": {"name": service_name, "port": {"name": port}}}
    paths = [{"path": "/", "pathType": "Prefix", "backend": backend}]
    return {"ingressClassName": "alb", "rules": [{"host": host, "http": {"paths": paths}}]}


def load_balancer(*, health: str, public: bool = False) -> dict[str, str]:
    """Annotations of an Ingress: an application load balancer that sends requests straight to pods."""
    return {
        "alb.ingress.kubernetes.io/target-type": "ip",
        "alb.ingress.kubernetes.io/scheme": "internet-facing" if public else "internal",
        "alb.ingress.kubernetes.io/healthcheck-path": health,
    }


def network_policy(
    selector: Mapping[str, str], *, out: tuple[int, ...] = (443,), port: str | None = "http"
) -> Manifest:
    """Network access of the pods that `selector` matches: one port in, or none; out to name servers and these ports."""
    names = [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]
    return {
        "podSelector": {"matchLabels": dict(selector)} if selector else {},
        "policyTypes": ["Ingress", "Egress"],
        "egress": [{"ports": [*names, *({"port": item, "protocol": "TCP"} for item in out)]}],
        **({"ingress": [{"ports": [{"port": port, "protocol": "TCP"}]}]} if port else {}),
    }

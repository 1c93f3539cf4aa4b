"""Whether NetworkPolicies let a connection from or to a pod pass.

Source: https://kubernetes.io/docs/concepts/services-networking/network-policies/
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

Object = Mapping[str, Any]
Direction = Literal["ingress", "egress"]


def allows(policies: Iterable[Object], pod: Object, direction: Direction, port: int, *, protocol: str = "TCP") -> bool:
    """Whether a connection between a pod and an address outside of the cluster passes.

    The address itself is not known, so that each rule with an `ipBlock` is about it; rules that select pods are not.

    Args:
        policies: NetworkPolicies of all namespaces.
        pod: The pod.
        direction: `ingress` for connections to the pod.
        port: The port of whoever is connected to.
        protocol: Of the connection.
    """
    about = [
        policy["spec"]
        for policy in policies
        if policy["metadata"]["namespace"] == pod["metadata"]["namespace"]
        and _selects(policy["spec"].get("podSelector") or {}, pod["metadata"].get("labels") or {})
        and direction in _directions(policy["spec"])
    ]
    rules = [rule for spec in about for rule in spec.get(direction) or []]
    return not about or any(_outside(rule) and _has(rule, pod, direction, port, protocol) for rule in rules)


def _directions(spec: Object) -> set[str]:
    stated = spec.get("policyTypes") or ["Ingress", *(["Egress"] if spec.get("egress") else [])]
    return {each.lower() for each in stated}


def _selects(selector: Object, labels: Mapping[str, str]) -> bool:
    return (selector.get("matchLabels") or {}).items() <= labels.items() and all(
        _holds(each, labels) for each in selector.get("matchExpressions") or []
    )


def _holds(expression: Object, labels: Mapping[str, str]) -> bool:
    key, values = expression["key"], expression.get("values") or []
    held: dict[str, bool] = {
        "In": labels.get(key) in values,
        "NotIn": labels.get(key) not in values,
        "Exists": key in labels,
        "DoesNotExist": key not in labels,
    }
    return held[expression["operator"]]


def _outside(rule: Object) -> bool:
    peers = rule.get("from") or rule.get("to") or []
    return not peers or any("ipBlock" in peer for peer in peers)


def _has(rule: Object, pod: Object, direction: Direction, port: int, protocol: str) -> bool:
    ports = rule.get("ports") or []
    return not ports or any(
        each.get("protocol", "TCP") == protocol and _is_port(each, pod, direction, port) for each in ports
    )


def _is_port(entry: Object, pod: Object, direction: Direction, port: int) -> bool:
    stated = entry.get("port")
    if isinstance(stated, int | float):
        return stated <= port <= int(entry.get("endPort") or stated)
    # A name is that of a port of the pod that is connected to, which is not known outside of the cluster.
    named = [each for one in pod["spec"].get("containers") or [] for each in one.get("ports") or []]
    return stated is None or (
        direction == "ingress" and any(each.get("name") == stated and each["containerPort"] == port for each in named)
    )

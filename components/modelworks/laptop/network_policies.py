"""Whether NetworkPolicies let a connection from or to a pod pass. Pure.

Source: https://kubernetes.io/docs/concepts/services-networking/network-policies/
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final, Literal

Object = Mapping[str, Any]
Direction = Literal["ingress", "egress"]

_NAMESPACE_NAME = "kubernetes.io/metadata.name"
"""The label that the API server gives each namespace."""
_OF_CONTROLLERS: Final = ("pod-template-hash", "controller-revision-hash", "controller-uid")
"""Ends of labels that controllers give pods, other ones with each version: no policy selects by them."""
_EVERY_ADDRESS: Final = ip_network("0.0.0.0/0")
"""Of pods: in a cluster of IPv4, EKS ignores rules of IPv6."""
_OF_A_NODE: Final = (ip_network("169.254.0.0/16"), ip_network("fd00:ec2::/32"))
"""Addresses of services that AWS has on each node, such as credentials: nobody else has one, and no pod."""


@dataclass(frozen=True)
class Outside:
    """An end of a connection that is no pod."""

    name: str
    """As people call it, such as `AWS`."""
    address: IPv4Address | IPv6Address | None = None
    """None if it is not known: each `ipBlock` may hold it then, except those of a node's own services."""


@dataclass(frozen=True)
class Connection:
    """A connection, one end of which is a pod of the cluster."""

    source: Object | Outside
    destination: Object | Outside
    port: int
    """Of the destination; of its pod, where that is behind a Service."""
    protocol: str = "TCP"


@dataclass(frozen=True)
class Policies:
    """The NetworkPolicies of a cluster at one moment."""

    policies: Sequence[Object]
    """Of all namespaces."""
    namespaces: Mapping[str, Mapping[str, str]]
    """Labels of the namespaces, by name."""

    def allow(self, connection: Connection) -> bool:
        """Whether both ends let it pass: the source lets it out, and the destination lets it in."""
        return not self.refusals(connection)

    def refusals(self, connection: Connection) -> list[str]:
        """Why it is refused: a sentence for each end that refuses it, with the policy that is missing."""
        source, destination = connection.source, connection.destination
        if source == destination:  # a pod cannot block itself
            return []
        found = []
        if not isinstance(source, Outside) and not self._passes(connection, source, destination, "egress"):
            found.append(self._sentence(connection, source, destination, "egress"))
        if not isinstance(destination, Outside) and not self._passes(connection, destination, source, "ingress"):
            found.append(self._sentence(connection, destination, source, "ingress"))
        return found

    def _passes(self, connection: Connection, pod: Object, peer: Object | Outside, direction: Direction) -> bool:
        specs = [policy["spec"] for policy in self._about(pod, direction)]
        rules = [rule for spec in specs for rule in spec.get(direction) or []]
        namespace = pod["metadata"]["namespace"]
        return not specs or any(self._is_about(rule, peer, namespace) and _has_port(rule, connection) for rule in rules)

    def _about(self, pod: Object, direction: Direction) -> list[Object]:
        """The policies that isolate a pod in that direction."""
        if _shares_node(pod):  # its connections are the node's
            return []
        return [
            policy
            for policy in self.policies
            if policy["metadata"]["namespace"] == pod["metadata"]["namespace"]
            and selects(policy["spec"].get("podSelector") or {}, _labels(pod))
            and direction in _directions(policy["spec"])
        ]

    def _is_about(self, rule: Object, peer: Object | Outside, namespace: str) -> bool:
        peers = rule.get("from") or rule.get("to") or []
        return not peers or any(self._is(each, peer, namespace) for each in peers)

    def _is(self, stated: Object, peer: Object | Outside, namespace: str) -> bool:
        if block := stated.get("ipBlock"):
            return _within(block, peer)
        # A pod's own node is let through whatever policies state. A cluster has others, and no selector finds those.
        if isinstance(peer, Outside) or _shares_node(peer):
            return False
        home = peer["metadata"]["namespace"]
        namespaces = stated.get("namespaceSelector")
        if namespaces is None:
            chosen = home == namespace
        else:
            chosen = selects(namespaces, {_NAMESPACE_NAME: home, **self.namespaces.get(home, {})})
        return chosen and selects(stated.get("podSelector") or {}, _labels(peer))

    def _sentence(self, connection: Connection, pod: Object, peer: Object | Outside, direction: Direction) -> str:
        namespace, at = pod["metadata"]["namespace"], f"{connection.protocol} port {connection.port}"
        names = ", ".join(sorted(policy["metadata"].get("name", "?") for policy in self._about(pod, direction)))
        way, rule = ("to", "an egress") if direction == "egress" else ("from", "an ingress")
        labels = _stated_labels(pod) or "every pod"
        return (
            f"network policies refuse the connection of pod {full_name(pod)} {way} {_called(peer)} at {at}: those that "
            f"select it ({names}) have no {direction} rule for it. Missing is a NetworkPolicy in {namespace} that "
            f"selects {labels}, with {rule} rule {way} {_rule_for(peer)} at {at}"
        )


def selects(selector: Object, labels: Mapping[str, str]) -> bool:
    """Whether a label selector matches; an empty one matches everything."""
    return (selector.get("matchLabels") or {}).items() <= labels.items() and all(
        _holds(each, labels) for each in selector.get("matchExpressions") or []
    )


def full_name(pod: Object) -> str:
    """Namespace and name of a pod."""
    return f"{pod['metadata']['namespace']}/{pod['metadata'].get('name', '?')}"


def _directions(spec: Object) -> set[str]:
    stated = spec.get("policyTypes") or ["Ingress", *(["Egress"] if spec.get("egress") else [])]
    return {each.lower() for each in stated}


def _holds(expression: Object, labels: Mapping[str, str]) -> bool:
    key, values = expression["key"], expression.get("values") or []
    held: dict[str, bool] = {
        "In": labels.get(key) in values,
        "NotIn": labels.get(key) not in values,
        "Exists": key in labels,
        "DoesNotExist": key not in labels,
    }
    return held[expression["operator"]]


def _within(block: Object, peer: Object | Outside) -> bool:
    network = ip_network(block["cidr"], strict=False)
    excepted = [ip_network(each, strict=False) for each in block.get("except") or []]
    if not isinstance(peer, Outside):
        # The addresses that pods would have in a cluster are not known here: only a block of all addresses has theirs.
        return network == _EVERY_ADDRESS and all(map(_is_of_a_node, excepted))
    if peer.address is None:
        return not _is_of_a_node(network)
    return peer.address in network and not any(peer.address in each for each in excepted)


def _is_of_a_node(network: IPv4Network | IPv6Network) -> bool:
    return any(network.network_address in each and network.broadcast_address in each for each in _OF_A_NODE)


def _has_port(rule: Object, connection: Connection) -> bool:
    ports = rule.get("ports") or []
    return not ports or any(
        each.get("protocol", "TCP") == connection.protocol and _is_port(each, connection) for each in ports
    )


def _is_port(entry: Object, connection: Connection) -> bool:
    stated, destination = entry.get("port"), connection.destination
    if isinstance(stated, int | float):  # the engine's numbers are floats
        return stated <= connection.port <= int(entry.get("endPort") or stated)
    if stated is None:
        return True
    # A name is that of a port of the pod that is connected to, which is not known outside of the cluster.
    return not isinstance(destination, Outside) and any(
        each.get("name") == stated
        and each["containerPort"] == connection.port
        and each.get("protocol", "TCP") == connection.protocol
        for each in _ports(destination)
    )


def _ports(pod: Object) -> Iterable[Object]:
    return (each for one in pod["spec"].get("containers") or [] for each in one.get("ports") or [])


def _shares_node(pod: Object) -> bool:
    return bool(pod["spec"].get("hostNetwork"))


def _labels(pod: Object) -> Mapping[str, str]:
    return pod["metadata"].get("labels") or {}


def _called(peer: Object | Outside) -> str:
    return peer.name if isinstance(peer, Outside) else f"pod {full_name(peer)}"


def _rule_for(peer: Object | Outside) -> str:
    if isinstance(peer, Outside):
        return f"the ipBlock {ip_network(peer.address)}" if peer.address else "any address"
    if _shares_node(peer):
        return "the ipBlock of the nodes"
    return f"pods of {peer['metadata']['namespace']} with {_stated_labels(peer) or 'any labels'}"


def _stated_labels(pod: Object) -> str:
    """The labels that whoever declared the pod gave it."""
    labels = sorted(_labels(pod).items())
    return ",".join(f"{key}={value}" for key, value in labels if not key.endswith(_OF_CONTROLLERS))


def outside(host: str) -> Outside:
    """The end of a connection that has that name or address."""
    try:
        return Outside(host, ip_address(host))
    except ValueError:
        return Outside(host)

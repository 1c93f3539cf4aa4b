"""Services inside the cluster: their names for pods, and the addresses and ports behind them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from modelworks.laptop.endpoints import Address, Endpoints

Object = Mapping[str, Any]
DOMAIN = "svc.cluster.local"
_API = ("default", "kubernetes")


@dataclass(frozen=True)
class ClusterServices:
    """The Services at one moment."""

    services: Sequence[Object]
    endpoints: Endpoints
    network: IPv4Network
    """Of cluster addresses. A Service of another, which an earlier laptop cloud gave out, is not served."""
    api: tuple[str, str]
    """Host and port of the API server, which has a Service and no pods."""

    def hosts(self, namespace: str) -> list[str]:
        """Lines of /etc/hosts for the pods of a namespace, with the names that cluster DNS gives Services there.

        Those are of https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/: for a headless Service,
        the names of pods with a `hostname` and `subdomain` too.
        """
        lines = []
        for service in sorted(self.services, key=_key):
            where, _ = _key(service)
            for name, address in self._names(service):
                full = [f"{name}.{where}.{DOMAIN}", f"{name}.{where}.svc", f"{name}.{where}"]
                lines.append(f"{address}\t{' '.join([*full, *([name] if where == namespace else [])])}")
        return lines

    def listeners(self) -> dict[Address, tuple[Address, ...]]:
        """Where the node listens for Services, and where each connection may go; without a target, nowhere."""
        found: dict[Address, tuple[Address, ...]] = {}
        for service in filter(self._has_address, self.services):
            for port in service["spec"].get("ports") or []:
                targets = self._targets(service, port)
                if targets and port.get("protocol", "TCP") == "TCP":
                    found[service["spec"]["clusterIP"], int(port["port"])] = targets
        return found

    def at(self, address: str) -> Object | None:
        """The Service that has a cluster address."""
        return next((service for service in self.services if service["spec"].get("clusterIP") == address), None)

    def _targets(self, service: Object, port: Object) -> tuple[Address, ...]:
        if _key(service) == _API:
            return ((self.api[0], int(self.api[1])),)
        return tuple(self.endpoints.of_port(service, port))

    def _names(self, service: Object) -> Iterator[tuple[str, str]]:
        name = service["metadata"]["name"]
        if self._has_address(service):
            yield name, service["spec"]["clusterIP"]
        elif service["spec"].get("clusterIP") == "None":
            for pod in self.endpoints.behind(service):
                yield name, pod["status"]["podIP"]
                if pod["spec"].get("subdomain") == name and (host := pod["spec"].get("hostname")):
                    yield f"{host}.{name}", pod["status"]["podIP"]

    def _has_address(self, service: Object) -> bool:
        address = service["spec"].get("clusterIP")
        return bool(address) and address != "None" and ":" not in address and IPv4Address(address) in self.network


def _key(service: Object) -> tuple[str, str]:
    return service["metadata"]["namespace"], service["metadata"]["name"]

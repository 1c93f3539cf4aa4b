"""Facts that the pods of a node share: its API server, its addresses, its folders, and how their processes run."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from modelworks import contract
from modelworks.errors import ModelworksError
from modelworks.laptop import admission, environments
from modelworks.laptop.agent import identity, logs
from modelworks.laptop.agent.api import ApiClient, Object, RefusedError
from modelworks.laptop.agent.cgroup import Memory
from modelworks.laptop.agent.events import Events
from modelworks.laptop.agent.images import Images
from modelworks.laptop.agent.reconcile import Backoff
from modelworks.laptop.agent.sandbox import Sandbox
from modelworks.laptop.agent.services import ClusterServices
from modelworks.laptop.agent.traffic import Traffic
from modelworks.laptop.endpoints import Endpoints
from modelworks.laptop.state_dir import StateDir, read_facts

NAME = "laptop"
"""Name of the node."""
REFRESH_SECONDS = 60.0
"""How often mounted ConfigMaps, Secrets and tokens are brought up to date if no change was heard of; the kubelet's
default."""


class Addresses:
    """Loopback addresses of pods: never two at once with the same, and none again soon."""

    def __init__(self, network: IPv4Network) -> None:
        self._network = network
        self._used: set[str] = set()
        first = int(self._network.network_address)
        self._next = itertools.cycle(range(first + 2, first + self._network.num_addresses - 1))

    def take(self) -> str:
        """A free address.

        Raises:
            ModelworksError: There is none.
        """
        for _ in range(self._network.num_addresses):
            address = str(IPv4Address(next(self._next)))
            if address not in self._used and not address.endswith((".0", ".255")):
                self._used.add(address)
                return address
        raise ModelworksError(f"every address of the pod network {self._network} is taken", fix="Delete some pods.")

    def keep(self, address: str) -> None:
        """Note that an address is in use."""
        self._used.add(address)

    def release(self, address: str) -> None:
        """Note that an address is free again."""
        self._used.discard(address)


@dataclass(frozen=True)
class Host:
    """The facts of its node that a pod needs."""

    place: StateDir
    cluster: ApiClient
    address: tuple[str, str]
    """Host and port of the API server."""
    addresses: Addresses
    service_network: IPv4Network
    """Of the cluster addresses of Services."""
    sandbox: Sandbox
    memory: Memory | None
    """None where the kernel enforces no memory limits."""
    backoff: Backoff
    refresh_seconds: float
    """How often the files of mounted ConfigMaps, Secrets and tokens are refreshed."""
    events: Events
    images: Images
    strict: bool = False
    """Whether pods have the rights of their service accounts in AWS; else those of the account's owner."""
    traffic: Traffic | None = None
    """Checks the connections of pods, if the node is strict."""
    _services: dict[tuple[str, str], Object] = field(default_factory=dict)
    _services_listed: asyncio.Event = field(default_factory=asyncio.Event)
    _pods: dict[str, Object] = field(default_factory=dict)
    """The pods of this node as the API server has them, by uid: every pod of the cluster."""
    behind_services: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a Service or a pod changed."""
    _cache: dict[tuple[str, str, str], tuple[float, Object | None]] = field(default_factory=dict)

    # The API server

    async def objects(self, namespace: str, kind: str, names: Iterable[str], age: float) -> Mapping[str, Object]:
        """ConfigMaps or Secrets by name, at most `age` seconds old; those that do not exist are left out."""
        objects = {}
        for name in sorted(names):
            at, held = self._cache.get((namespace, kind, name), (0.0, None))
            if age <= 0 or time.monotonic() - at > age:
                try:
                    held = await self.cluster.get(f"/api/v1/namespaces/{namespace}/{kind}/{name}")
                except RefusedError as error:
                    if error.status != 404:
                        raise
                    held = None
                self._cache[namespace, kind, name] = (time.monotonic(), held)
            if held is not None:
                objects[name] = held
        return objects

    def note_source(self, kind: str, found: Object, *, deleted: bool) -> None:
        """Note a ConfigMap or Secret as the API server has it."""
        meta = found["metadata"]
        self._cache[meta["namespace"], kind, meta["name"]] = (time.monotonic(), None if deleted else found)

    def services(self, namespace: str) -> list[Object]:
        """The services that pods of a namespace get variables for."""
        # Not everybody may listen on the port of the API server's own Service; pods are told its real address.
        return [
            service
            for (where, name), service in sorted(self._services.items())
            if where == namespace and (where, name) != ("default", "kubernetes")
        ]

    async def services_listed(self) -> None:
        """Wait until the services that exist are known: a pod that starts earlier would miss variables."""
        await self._services_listed.wait()

    async def watch_services(self) -> None:
        """Follow the services of the cluster, for ever."""
        async for event, found in self.cluster.follow("/api/v1/services"):
            if event == "LISTED":
                self._services.clear()
            for service in found if event == "LISTED" else [found]:
                key = (service["metadata"]["namespace"], service["metadata"]["name"])
                self._services[key] = {**service, "apiVersion": "v1", "kind": "Service"}
                if event == "DELETED":
                    del self._services[key]
            self._services_listed.set()
            self.behind_services.set()

    def note_pod(self, uid: str, pod: Object | None) -> None:
        """Note a pod as the API server has it; None if it is gone."""
        if pod is None:
            self._pods.pop(uid, None)
        else:
            self._pods[uid] = pod
        self.behind_services.set()

    def cluster_services(self) -> ClusterServices:
        """The Services of the cluster and where they lead, as of now."""
        endpoints = Endpoints.of(self._pods.values())
        return ClusterServices(list(self._services.values()), endpoints, self.service_network, self.address)

    async def owner(self, namespace: str) -> str | None:
        """The environment that made a namespace; None if none of this laptop cloud did."""
        home = await self.cluster.get(f"/api/v1/namespaces/{namespace}")
        owner = (home["metadata"].get("labels") or {}).get(admission.LABEL)
        return owner if owner in self.place.environments() else None

    def aws(self, owner: str | None) -> dict[str, str]:
        """Variables that lead an environment's pods to its AWS account; with keys unless the node is strict."""
        if owner is None:
            return {}
        variables = environments.environment_variables(self.place, owner)
        # On AWS the addresses of services need no variable; all others come from the pod's own identity.
        wanted = identity.OF_THE_NETWORK if self.strict else [key for key in variables if key.startswith("AWS_")]
        return {key: variables[key] for key in wanted}

    def gateway(self) -> dict[str, str]:
        """The variable that leads pods to hosts: a laptop has no name server for those."""
        ports = read_facts(self.place.root / "laptop.json").get("ports", {})
        if "gateway-tls" not in ports:
            return {}
        found = {name: f"127.0.0.1:{ports[of]}" for name, of in (("http", "gateway"), ("https", "gateway-tls"))}
        return {contract.ENV_GATEWAY: json.dumps({**found, "authority": str(self.place.gateway_authority)})}

    async def identity(self, pod: Object) -> Callable[[Object], Object]:
        """Makes of a pod the one that EKS admits: with the token of the role of its service account.

        Raises:
            RefusedError: The API server refused a request.
            httpx.HTTPError: It cannot be reached.
        """
        namespace, name = pod["metadata"]["namespace"], pod["spec"].get("serviceAccountName", "default")
        owner = await self.owner(namespace)
        if not self.strict or owner is None:
            return lambda same: same
        account = await self.cluster.get(f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}")
        region = environments.facts(self.place, owner)["region"]
        return lambda found: identity.admitted(found, account, region)

    def project(self, owner: str | None) -> Path | None:
        """The folder of the project whose images an environment's pods may name."""
        folder = environments.facts(self.place, owner).get("project") if owner is not None else None
        return Path(folder) if folder else None

    # Folders

    @property
    def pods(self) -> Path:
        """The records of pods, a folder each."""
        return self.place.node / "pods"

    @property
    def logs(self) -> Path:
        """The logs of all containers."""
        return self.place.node / "logs"

    def log_file(self, pod: Object, container: str, number: int) -> Path:
        """Where one run of a container writes to."""
        meta = pod["metadata"]
        return self.logs / f"{meta['namespace']}_{meta['name']}_{meta['uid']}" / container / f"{number}.log"

    def tail(self, pod: Object, container: str, number: int) -> str:
        """The end of a run's log, as it fits in a termination message."""
        return logs.tail(self.log_file(pod, container, number), lines=80, limit=2048)

"""The connections of pods, checked against the cluster's NetworkPolicies: no kernel cuts them between processes.

Two sources: what the variables and arguments of a container name, and the sockets that its processes have. A
refused one is an event of the pod and a line in a log, once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from modelworks.laptop import environments, pod_network
from modelworks.laptop.agent import usage
from modelworks.laptop.agent.api import ApiClient, Object
from modelworks.laptop.agent.identity import OF_THE_NETWORK
from modelworks.laptop.agent.services import ClusterServices
from modelworks.laptop.agent.usage import Measured
from modelworks.laptop.endpoints import Address
from modelworks.laptop.network_policies import Connection, Outside, Policies, outside
from modelworks.laptop.state_dir import StateDir, read_facts

SECONDS: Final = 0.25
"""Between two looks at the sockets. A connection that begins and ends between them is not seen."""
FOLLOWS_SECONDS: Final = 5.0
"""How long a refused connection has to become allowed: a program declares a pod and its policy side by side."""
_LOOPBACK: Final = IPv4Network("127.0.0.0/8")
_AWS: Final = Outside("AWS"), 443
_NAME_SERVER: Final[Object] = {
    "metadata": {"namespace": "kube-system", "name": "coredns", "labels": {"k8s-app": "kube-dns"}},
    "spec": {"containers": [{"ports": [{"name": "dns", "containerPort": 53, "protocol": "UDP"}]}]},
}
"""A pod as clusters have them for names, which pods of a laptop read in a file."""
_PORTS: Final = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "redis": 6379}
"""Where a URL of that scheme leads if it states no port."""
_URL: Final = re.compile(r"(?:-[^\s=]*=)?([a-z][a-z0-9+.-]*://\S+)", re.IGNORECASE)
"""A URL alone, or that of an option."""

End = tuple["Object | Outside", int]
"""Who is connected to, and at which port."""


class Attempt(NamedTuple):
    """A connection that a pod has, or is about to open."""

    uid: str
    """Of the pod."""
    host: str
    """Name or address."""
    port: int


@dataclass(frozen=True)
class Peers:
    """Who is behind the addresses and names that pods of a laptop connect to. Pure."""

    services: ClusterServices
    pods: Mapping[str, Object]
    """By address."""
    programs: Mapping[int, End]
    """The parts of a cloud that ports of 127.0.0.1 stand for."""
    namespaces: Collection[str]

    def at(self, host: str, port: int, namespace: str) -> list[End]:
        """The ends that a connection of a pod may have; none for what is the pod's own or leads nowhere yet."""
        found = []
        for address in self._addresses(host, namespace):
            if address not in self.services.network and address in _LOOPBACK and str(address) not in self.pods:
                found += [self.programs[port]] if port in self.programs else []
            elif address in _LOOPBACK:
                found += self._in_cluster(str(address), port)
            else:
                found.append((Outside(host, address), port))
        return found or self._by_name(host, port, namespace)

    def _in_cluster(self, address: str, port: int) -> list[End]:
        targets: Sequence[Address] = self.services.listeners().get((address, port), ())
        if address in self.pods:
            targets = ((address, port),)
        known: list[End] = [(self.pods[ip], number) for ip, number in targets if ip in self.pods]
        return known or [self.programs[number] for _, number in targets if number in self.programs]

    def _addresses(self, host: str, namespace: str) -> list[IPv4Address]:
        with contextlib.suppress(ValueError):
            return [IPv4Address(host)]
        if host == "localhost" or host.endswith(".localhost"):
            return [IPv4Address("127.0.0.1")]
        return [IPv4Address(address) for address in self._names(namespace).get(host, ())]

    def _by_name(self, host: str, port: int, namespace: str) -> list[End]:
        """A name that no Service has is one of the world outside: those have dots."""
        last = host.rpartition(".")[2]
        of_cluster = last == host or last in {"svc", "local", "localhost", *self.namespaces}
        return [] if of_cluster or self._addresses(host, namespace) else [(outside(host), port)]

    def _names(self, namespace: str) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for line in self.services.hosts(namespace):
            address, *names = line.split()
            for name in names:
                found.setdefault(name, []).append(address)
        return found


def declared(variables: Mapping[str, str], argv: Iterable[str]) -> set[tuple[str, int]]:
    """Hosts and ports that a container's variables and arguments name in URLs.

    A role is a connection with AWS, whose addresses no variable names.
    """
    stated = [value for name, value in variables.items() if name not in OF_THE_NETWORK]
    found = {address for text in (*stated, *argv) for address in _urls(text)}
    return found | ({("AWS", 443)} if "AWS_ROLE_ARN" in variables else set())


def _urls(text: str) -> Iterator[tuple[str, int]]:
    if not (found := _URL.fullmatch(text)):
        return
    with contextlib.suppress(ValueError):  # a text like a URL that is none leads nowhere
        url = urlsplit(found[1])
        port = url.port or _PORTS.get(url.scheme.partition("+")[0])
        if url.hostname and port:
            yield url.hostname, port


def connections(attempt: Attempt, pod: Object, peers: Peers) -> list[Connection]:
    """The connections of an attempt: with one of the ends that it leads to, and with a name server if it has a name."""
    aliases = {
        name: each["ip"] for each in pod["spec"].get("hostAliases") or [] for name in each.get("hostnames") or []
    }
    host = aliases.get(attempt.host, attempt.host)
    ends = [_AWS] if host == "AWS" else peers.at(host, attempt.port, pod["metadata"]["namespace"])
    found = [Connection(pod, end, port) for end, port in ends]
    if found and not _is_address(host):
        found.append(Connection(pod, _NAME_SERVER, 53, "UDP"))
    return found


@dataclass
class Checked:
    """The attempts that are still open, as time passes. Pure."""

    open: dict[Attempt, float | None] = field(default_factory=dict)
    """Since when each was refused; None for those that led nowhere when last looked at, or are new."""
    _reported: set[tuple[str, str]] = field(default_factory=set)
    """Pods by uid, and what was reported of them."""

    def add(self, attempt: Attempt) -> None:
        """Have a connection checked."""
        self.open.setdefault(attempt, None)

    def refused(
        self, now: float, pods: Mapping[str, Object], peers: Peers, policies: Policies
    ) -> list[tuple[Object, str]]:
        """The pods whose connections were refused for long enough, with each reason; each once.

        Args:
            now: Seconds, of any clock that does not go back.
            pods: Those of the node, by uid. One that is ending is left alone: its policies may go before it does.
            peers: Whom they connect to.
            policies: Of the cluster.
        """
        found = []
        self._reported = {(uid, why) for uid, why in self._reported if uid in pods}
        for attempt, since in list(self.open.items()):
            pod = pods.get(attempt.uid)
            if pod is None or pod["metadata"].get("deletionTimestamp"):
                del self.open[attempt]
                continue
            opened = connections(attempt, pod, peers)
            reasons = [(attempt.uid, why) for one in opened for why in policies.refusals(one)]
            if reasons and (since is None or now - since < FOLLOWS_SECONDS):
                self.open[attempt] = now if since is None else since
            elif not opened and not _is_address(attempt.host):  # the pods of a Service may be yet to come
                self.open[attempt] = None
            else:
                found += [(pod, why) for uid, why in dict.fromkeys(reasons) if (uid, why) not in self._reported]
                self._reported.update(reasons)
                del self.open[attempt]
        return found


class Traffic:
    """Looks at the connections of all pods of a strict node.

    Args:
        place: The laptop cloud; refused connections are in a log of it.
        cluster: Its API server.
    """

    def __init__(self, place: StateDir, cluster: ApiClient) -> None:
        self._place, self._cluster = place, cluster
        self._seen: dict[str, dict[tuple[str, str], Object]] = {}
        self._declared: list[Attempt] = []
        self._checked = Checked()
        self._sockets: set[int] = set()

    def declare(self, uid: str, variables: Mapping[str, str], argv: Iterable[str]) -> None:
        """Note what a container of a pod is about to connect to."""
        self._declared += [Attempt(uid, host, port) for host, port in declared(variables, argv)]

    async def follow(self) -> None:
        """Follow the policies and namespaces of the cluster, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow("policies", "/apis/networking.k8s.io/v1/networkpolicies"))
            tasks.create_task(self._follow("namespaces", "/api/v1/namespaces"))

    async def _follow(self, kind: str, path: str) -> None:
        async for event, found in self._cluster.follow(path):
            if event == "LISTED":
                self._seen[kind] = {_key(each): each for each in found}
                continue
            seen = {key: each for key, each in self._seen[kind].items() if key != _key(found)}
            # Another one, for another thread may be reading the one that is there.
            self._seen[kind] = seen if event == "DELETED" else {**seen, _key(found): found}

    async def look(
        self, pods: Mapping[str, tuple[str, Object]], measured: Mapping[str, Measured], services: ClusterServices
    ) -> list[tuple[Object, str]]:
        """Look at the sockets of now; returns the pods whose connections are refused, with each reason.

        Args:
            pods: Address and object of each pod of the node, by uid.
            measured: The processes of its containers, by a key that begins with the uid of the pod.
            services: Of the cluster.
        """
        # Before anything else runs: what a pod that is not among these declares is for the next look.
        attempts, self._declared = self._declared, []
        for attempt in attempts:
            self._checked.add(attempt)
        return await asyncio.to_thread(self._look, pods, measured, services)

    def _look(
        self, pods: Mapping[str, tuple[str, Object]], measured: Mapping[str, Measured], services: ClusterServices
    ) -> list[tuple[Object, str]]:
        for attempt in self._observed(measured):
            self._checked.add(attempt)
        if len(self._seen) < 2 or not self._checked.open:  # nothing is known to be refused before both are listed
            return []
        objects = {uid: pod for uid, (_, pod) in pods.items()}
        addresses = {ip: pod for ip, pod in pods.values() if not pod["spec"].get("hostNetwork")}
        labels = {name: found["metadata"].get("labels") or {} for (_, name), found in self._seen["namespaces"].items()}
        policies = Policies(list(self._seen["policies"].values()), labels)
        peers = Peers(services, addresses, _programs(self._place), labels.keys())
        refused = self._checked.refused(time.monotonic(), objects, peers, policies)
        if refused:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            with refusals(self._place).open("a", encoding="utf-8") as file:
                file.writelines(f"{now} {why}\n" for _, why in refused)
        return refused

    def _observed(self, measured: Mapping[str, Measured]) -> Iterator[Attempt]:
        """The connections that processes of pods opened since the last look."""
        sockets = list(pod_network.sockets("tcp"))
        listening = {(one.address, one.port) for one in sockets if one.listens}
        opened = {
            one.inode: one
            for one in sockets
            if one.inode
            and one.peer[1]
            and (one.address, one.port) not in listening
            and (IPv4Address(0), one.port) not in listening
        }
        fresh, self._sockets = opened.keys() - self._sockets, set(opened)
        if not fresh:
            return
        for key, pids in usage.trees(measured).items():
            for inode in {inode for pid in pids for inode in _inodes(pid)} & fresh:
                address, port = opened[inode].peer
                yield Attempt(key.partition("/")[0], str(address), port)


def _key(found: Object) -> tuple[str, str]:
    return found["metadata"].get("namespace", ""), found["metadata"]["name"]


def refusals(place: StateDir) -> Path:
    """The log of the connections that policies refuse: `modelworks laptop logs refused-connections`."""
    return place.logs / "refused-connections.log"


def _is_address(host: str) -> bool:
    """Whether it takes no name server to find that host."""
    try:
        IPv4Address(host)
    except ValueError:
        return host == "localhost"
    return True


def _programs(place: StateDir) -> dict[int, End]:
    """The parts of a cloud that ports of the laptop's own programs stand for."""
    facts = read_facts(place.root / "laptop.json")
    ports = facts.get("ports", {})
    balancer = Outside("the load balancer")
    found: dict[int, End] = {int(port): (balancer, 80) for port in facts.get("host_ports", ())}
    stands_for: Mapping[str, End] = {
        "apiserver": (Outside("the API server"), 443),
        "gateway": (balancer, 80),
        "gateway-tls": (balancer, 443),
    }
    found |= {int(ports[name]): end for name, end in stands_for.items() if name in ports}
    return found | {int(environments.facts(place, name)["aws_port"]): _AWS for name in place.environments()}


def _inodes(pid: int) -> Iterator[int]:
    """Of the sockets that a process has open."""
    with contextlib.suppress(OSError):  # it ended, or may not be looked into
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                target = os.readlink(entry.path)  # noqa: PTH115 - thousands of them
                if target.startswith("socket:["):
                    yield int(target[8:-1])

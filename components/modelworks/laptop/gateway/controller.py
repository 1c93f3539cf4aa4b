"""Follows the cluster: renders the routes at each change, sends them to Caddy, and writes the addresses back."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import httpx

from modelworks._files import write_whole
from modelworks.errors import ModelworksError
from modelworks.laptop.agent.api import MERGE, ApiClient, RefusedError
from modelworks.laptop.gateway import addresses, caddy
from modelworks.laptop.gateway.registration import Registrations
from modelworks.laptop.gateway.routes import Notice, Rendered, pod_facts, render
from modelworks.laptop.network_policies import Connection, Outside, Policies
from modelworks.laptop.state_dir import StateDir, read_facts

log = logging.getLogger("modelworks.laptop.gateway")

DEBOUNCE_SECONDS = 0.05
"""Changes come in bursts; this long after the first one, what has come is applied."""
RETRY_SECONDS = 0.2
"""Between attempts to reach a Caddy that is restarting."""

Object = dict[str, Any]
Key = tuple[str, str]

_INGRESSES = "/apis/networking.k8s.io/v1/ingresses"
_SERVICES = "/api/v1/services"
_PODS = "/api/v1/pods"
_NAMESPACES = "/api/v1/namespaces"
_NETWORK_POLICIES = "/apis/networking.k8s.io/v1/networkpolicies"


class Gateway:
    """One gateway at work.

    Args:
        place: The laptop cloud it belongs to.
        cluster: The API server, as the gateway's own identity.
        port: Where Caddy listens for users.
        tls_port: Where it does so over TLS.
        host_ports: Where it does so for one host each.
        strict: Whether pods become targets as late as on AWS, and 503 answers for a Service without one.
    """

    def __init__(
        self,
        place: StateDir,
        cluster: ApiClient,
        port: int,
        tls_port: int,
        host_ports: Sequence[int] = (),
        *,
        strict: bool = False,
    ) -> None:
        self._place = place
        self._cluster = cluster
        self._port, self._tls_port, self._host_ports = port, tls_port, host_ports
        self._registrations = Registrations() if strict else None
        followed = [_INGRESSES, _SERVICES, _PODS, *([_NAMESPACES, _NETWORK_POLICIES] if strict else [])]
        self._seen: dict[str, dict[Key, Object]] = {path: {} for path in followed}
        self._changed = asyncio.Event()
        self._synced: set[str] = set()
        self._told: set[Notice] = set()
        self._with_endpoints: set[tuple[str, str, str]] = set()
        self._rendered: Rendered | None = None
        self._to_report = asyncio.Event()

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(_INGRESSES, _ingress_facts))
            tasks.create_task(self._follow(_SERVICES, _service_facts))
            tasks.create_task(self._follow(_PODS, pod_facts))
            if self._registrations:
                tasks.create_task(self._follow(_NAMESPACES, _namespace_facts))
                tasks.create_task(self._follow(_NETWORK_POLICIES, _policy_facts))
            tasks.create_task(self._push())
            tasks.create_task(self._report())

    async def _follow(self, path: str, facts: Callable[[Object], Object]) -> None:
        """Keep what routes depend on of every object at `path`; wake the others only if that changes."""
        async for event, found in self._cluster.follow(path):
            before = self._seen[path]
            now = dict(before)
            if event == "LISTED":
                now = {_key(thing): facts(thing) for thing in found}
            elif event == "DELETED":
                now.pop(_key(found), None)
            else:
                now[_key(found)] = facts(found)
            if now != before or path not in self._synced:
                self._seen[path] = now
                self._synced.add(path)
                self._changed.set()

    async def _push(self) -> None:
        """Bring Caddy's table in line with the cluster, within `DEBOUNCE_SECONDS` and a few milliseconds."""
        pushed, assigned = None, self._assigned()
        while True:
            await self._changed.wait()
            await asyncio.sleep(DEBOUNCE_SECONDS)
            self._changed.clear()
            # An empty list that is only not read yet would close every route.
            if len(self._synced) < len(self._seen):
                continue
            self._rendered = render(
                self._seen[_INGRESSES].values(),
                self._seen[_SERVICES].values(),
                self._targets(),
                ports=self._host_ports,
                assigned=assigned,
            )
            if self._registrations:
                self._rendered.table["strict"] = True
            assigned = self._rendered.table["ports"]
            self._to_report.set()
            table = json.dumps(self._rendered.table, separators=(",", ":"))
            if table == pushed:
                continue
            try:
                # The file first: a Caddy that starts between the two reads it.
                write_whole(caddy.table_path(self._place), table)
                await caddy.put_table(caddy.admin_socket(self._place), table)
            except (OSError, TimeoutError, ModelworksError) as error:
                log.warning("Caddy has not taken the routes, trying again: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
                self._changed.set()
            else:
                pushed = table

    def _targets(self) -> Iterable[Object]:
        """The pods that take requests by now; wakes itself up when there is another one."""
        pods = self._seen[_PODS].values()
        if self._registrations is None:
            return pods
        targets, seconds = self._registrations.targets(pods, self._seen[_NAMESPACES].values(), time.monotonic())
        if seconds is not None:
            asyncio.get_running_loop().call_later(seconds, self._changed.set)
        # A load balancer is no pod, so that labels of namespaces do not matter.
        policies = Policies(list(self._seen[_NETWORK_POLICIES].values()), {})
        return [reachable for pod in targets if (reachable := _reachable(policies, pod))]

    def _assigned(self) -> dict[str, int]:
        """The ports that hosts had when a gateway last ran here."""
        try:
            return addresses.remembered(self._place)
        except ModelworksError as error:
            log.warning("the ports of hosts are assigned again: %s", error)
            return {}

    async def _report(self) -> None:
        """Write addresses into the status of Ingresses and Services, and notices as Events. Never delays routes."""
        while True:
            await self._to_report.wait()
            self._to_report.clear()
            rendered = self._rendered
            if rendered is None:
                continue
            try:
                await self._write_addresses(rendered)
                await self._write_notices(rendered)
                await self._write_endpoints()
            except (httpx.HTTPError, RefusedError) as error:
                log.warning("cannot write back to the cluster, trying again: %s", error or type(error).__name__)
                await asyncio.sleep(1)
                self._to_report.set()

    async def _write_addresses(self, rendered: Rendered) -> None:
        for kind, path in (("Ingress", _INGRESSES), ("Service", _SERVICES)):
            for (namespace, name), thing in list(self._seen[path].items()):
                address = rendered.addresses.get((kind, namespace, name))
                secured = [self._tls_port] if address in rendered.table["tls"] else []
                wanted = _status(address, self._port, *secured) if address else []
                if (thing.get("status") or []) == wanted or (kind == "Service" and not address):
                    continue
                base, _, plural = path.rpartition("/")
                body = {"status": {"loadBalancer": {"ingress": wanted}}}
                where = f"{base}/namespaces/{namespace}/{plural}/{name}/status"
                try:
                    await self._cluster.call("PATCH", where, body, kind=MERGE)
                except RefusedError as refused:
                    if refused.status != httpx.codes.NOT_FOUND:  # deleted meanwhile
                        raise

    async def _write_endpoints(self) -> None:
        """Have an Endpoints object beside each Service that selects pods, for who waits for one. It is empty.

        The API server refuses the loopback addresses of pods in it. It goes with its Service.
        """
        wanted = {
            (*key, service["metadata"]["uid"]) for key, service in self._seen[_SERVICES].items() if _selects(service)
        }
        for namespace, name, uid in wanted - self._with_endpoints:
            owner = {"apiVersion": "v1", "kind": "Service", "name": name, "uid": uid}
            metadata = {"name": name, "ownerReferences": [owner]}
            path = f"/api/v1/namespaces/{namespace}/endpoints"
            try:
                await self._cluster.call("POST", path, {"metadata": metadata})
            except RefusedError as refused:
                if refused.status == httpx.codes.CONFLICT:  # of a Service that had the name before, and was deleted
                    await self._cluster.call("PATCH", f"{path}/{name}", {"metadata": metadata}, kind=MERGE)
                elif refused.status not in {httpx.codes.NOT_FOUND, httpx.codes.FORBIDDEN}:  # its namespace is going
                    raise
        self._with_endpoints = wanted

    async def _write_notices(self, rendered: Rendered) -> None:
        for notice in rendered.notices:
            if notice in self._told:
                continue
            log.warning("%s %s/%s: %s", notice.kind, notice.namespace, notice.name, notice.message)
            try:
                await self._cluster.call("POST", f"/api/v1/namespaces/{notice.namespace}/events", _event(notice))
            except RefusedError as refused:
                # Told before a restart, or its namespace is going.
                if refused.status not in {httpx.codes.CONFLICT, httpx.codes.NOT_FOUND, httpx.codes.FORBIDDEN}:
                    raise
        self._told = set(rendered.notices)


def _key(thing: Object) -> Key:
    return thing["metadata"].get("namespace", ""), thing["metadata"]["name"]


def _policy_facts(policy: Object) -> Object:
    return {"metadata": _metadata(policy), "spec": policy.get("spec") or {}}


def _reachable(policies: Policies, pod: Object) -> Object | None:
    """The pod with the ports at which network policies let a load balancer reach it; None if there is none of them."""
    offered = [each for one in pod["spec"]["containers"] for each in one["ports"]]
    load_balancer = Outside("the load balancer")
    ports = [each for each in offered if policies.allow(Connection(load_balancer, pod, int(each["containerPort"])))]
    if offered and not ports:
        return None
    return {**pod, "spec": {"containers": [{"ports": ports}] if ports else []}}


def _namespace_facts(namespace: Object) -> Object:
    return {"metadata": {key: namespace["metadata"].get(key) for key in ("name", "labels")}}


def _ingress_facts(ingress: Object) -> Object:
    return {
        "metadata": _metadata(ingress, "annotations"),
        "spec": ingress.get("spec") or {},
        "status": ((ingress.get("status") or {}).get("loadBalancer") or {}).get("ingress") or [],
    }


def _service_facts(service: Object) -> Object:
    return {
        "metadata": _metadata(service),
        "spec": service.get("spec") or {},
        "status": ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or [],
    }


def _selects(service: Object) -> bool:
    spec = service["spec"]
    return bool(spec.get("selector")) and spec.get("clusterIP") != "None" and spec.get("type") != "ExternalName"


def _metadata(thing: Object, *more: str) -> Object:
    metadata = thing["metadata"]
    return {key: metadata[key] for key in ("name", "namespace", "uid", "creationTimestamp", *more) if key in metadata}


def _status(address: str, *ports: int) -> list[Object]:
    return [{"hostname": address, "ports": [{"port": port, "protocol": "TCP"} for port in ports]}]


def _event(notice: Notice) -> Object:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    # The same notice has the same name, so that a restarted gateway does not repeat itself.
    digest = hashlib.sha256(f"{notice}".encode()).hexdigest()[:16]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{notice.name[:200]}.{digest}", "namespace": notice.namespace},
        "involvedObject": {
            "apiVersion": "networking.k8s.io/v1" if notice.kind == "Ingress" else "v1",
            "kind": notice.kind,
            "namespace": notice.namespace,
            "name": notice.name,
            "uid": notice.uid,
        },
        "reason": notice.reason,
        "message": notice.message,
        "type": "Warning",
        "source": {"component": "modelworks-gateway"},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }


async def run(place: StateDir) -> None:
    """Follow the cluster of `place` until cancelled.

    Raises:
        ModelworksError: The place has no cluster.
    """
    facts = read_facts(place.root / "laptop.json")
    try:
        port, tls_port = (int(facts["ports"][name]) for name in caddy.PORTS)
    except KeyError as error:
        raise ModelworksError(
            f"{place.root / 'laptop.json'} names no gateway port", fix="Run `modelworks laptop up`."
        ) from error
    cluster = ApiClient.from_kubeconfig(place.cluster / "gateway.kubeconfig")
    try:
        hosts = facts.get("host_ports", ())
        await Gateway(place, cluster, port, tls_port, hosts, strict=bool(facts.get("strict"))).run()
    finally:
        await cluster.close()

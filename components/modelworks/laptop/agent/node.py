"""The node `laptop`: registers itself, keeps its lease, and has one `Pod` for each pod that is bound to it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import platform
import shutil
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from modelworks.errors import ModelworksError
from modelworks.laptop.agent import logs, provisioner, usage
from modelworks.laptop.agent.api import STRATEGIC, Object, RefusedError
from modelworks.laptop.agent.checkpoints import Records
from modelworks.laptop.agent.host import NAME, Host
from modelworks.laptop.agent.pod import FORCED_GRACE_SECONDS, Pod
from modelworks.laptop.agent.sandbox import Process
from modelworks.laptop.agent.service_proxy import ServiceProxy
from modelworks.laptop.agent.status import timestamp
from modelworks.laptop.agent.traffic import SECONDS, Traffic
from modelworks.laptop.agent.usage import Meter

log = logging.getLogger(__name__)

LEASE_SECONDS = 20
"""After this long without a heartbeat the node counts as dead."""
HEARTBEAT_SECONDS = 5.0
STATUS_SECONDS = 10.0
"""As often as the kubelet: a controller that missed heartbeats for a while has taken the node for dead until then."""
SETTLE_SECONDS = 0.05
"""Changes of Services and pods come in bursts; this long after the first one, what has come is applied."""
CORES_PROMISED = 16
"""Processes share the cores and nothing enforces cpu requests, so the node promises this many times what it has: what
fits a real cluster shall be scheduled on a laptop too. Memory is promised as it is."""
PODS = 500
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
"""As Kubernetes names it."""


@dataclass
class Node:
    """The agent's view of its node."""

    host: Host
    port: int
    """Where the API server reaches it."""
    known: dict[str, Pod] = field(default_factory=dict)
    """Pods by uid."""
    meter: Meter = field(default_factory=Meter)
    _running: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    async def run(self) -> None:
        """Work for ever; when cancelled, leave pods running for the next agent to adopt."""
        self.host.place.folder(self.host.pods)
        self.host.place.folder(self.host.logs)
        await self._registered()
        work: list[Coroutine[Any, Any, None]] = [
            self._beat(),
            self._tell_status(),
            self._measure(),
            self.host.events.run(),
            self.host.watch_services(),
            self._watch_pods(),
            self._watch_sources("configmaps"),
            self._watch_sources("secrets"),
            self._follow_services(),
            logs.rotate_for_ever(self.host.logs, self._log_folders),
            logs.note_times_for_ever(self._written),
            provisioner.provide(self.host.cluster, self.host.place.node / "claims", NAME, strict=self.host.strict),
        ]
        if self.host.traffic:
            work += [self.host.traffic.follow(), self._watch_traffic(self.host.traffic)]
        try:
            async with asyncio.TaskGroup() as group:
                for coroutine in work:
                    group.create_task(coroutine)
        finally:
            for task in self._running.values():
                task.cancel()
            await asyncio.gather(*self._running.values(), return_exceptions=True)
            for pod in self.known.values():
                await pod.detach()

    def pod(self, namespace: str, name: str) -> Pod | None:
        """The pod of that name; None if it is not on this node."""
        return next((pod for pod in self.known.values() if pod.is_named(namespace, name)), None)

    async def _measure(self) -> None:
        while True:
            measured = {key: one for pod in self.known.values() for key, one in pod.measured().items()}
            await asyncio.to_thread(self.meter.read, measured)
            await asyncio.sleep(usage.SECONDS)

    async def _watch_traffic(self, traffic: Traffic) -> None:
        """Report the connections of pods that network policies refuse, for ever."""
        while True:
            pods = {uid: (one.view.ip, one.pod) for uid, one in self.known.items()}
            measured = {key: one for pod in self.known.values() for key, one in pod.measured().items()}
            services = self.host.cluster_services()
            try:
                refused = await traffic.look(pods, measured, services)
            except (OSError, ModelworksError) as error:  # a full disk is not the end of the node
                log.warning("connections of pods were not checked: %s", error)
                refused = []
            for pod, why in refused:
                self.host.events.tell(pod, "Warning", "ConnectionRefusedByPolicy", why)
            await asyncio.sleep(SECONDS)

    def _log_folders(self) -> set[str]:
        return {self.host.log_file(pod.pod, "any", 0).parent.parent.name for pod in self.known.values()}

    def _written(self) -> list[Path]:
        """The logs that may have grown a moment ago: those of the newest runs."""
        return [
            self.host.log_file(pod.pod, name, one.run.number)
            for pod in self.known.values()
            for name, one in pod.view.containers.items()
            if one.run is not None
        ]

    # Pods

    async def _watch_pods(self) -> None:
        await self.host.services_listed()
        first = True
        async for event, found in self.host.cluster.follow("/api/v1/pods", fieldSelector=f"spec.nodeName={NAME}"):
            if event != "LISTED":
                self._see(found, deleted=event == "DELETED")
                continue
            for pod in found:
                self._see(pod)
            uids = {pod["metadata"]["uid"] for pod in found}
            for uid in set(self.known) - uids:
                self.known[uid].removed()
            if first:
                first = False
                await asyncio.to_thread(self._end_orphans, uids)
                await self.host.images.sweep(self._environments)

    def _see(self, pod: Object, *, deleted: bool = False) -> None:
        uid = pod["metadata"]["uid"]
        known = self.known.get(uid)
        if known is None and deleted:
            return
        self.host.note_pod(uid, pod)
        if known is None:
            self._begin(pod)
        elif deleted:
            known.removed()
        else:
            known.update(pod)

    async def _watch_sources(self, kind: str) -> None:
        """Bring mounted ConfigMaps or Secrets up to date as they change, for ever."""
        async for event, found in self.host.cluster.follow(f"/api/v1/{kind}"):
            for each in found if event == "LISTED" else [found]:
                self.host.note_source(kind, each, deleted=event == "DELETED")
                for pod in self.known.values():
                    pod.source_changed(kind, each)

    async def _follow_services(self) -> None:
        """Keep the listening sockets of Services, and their names in pods, as the API server has them."""
        host, proxy = self.host, ServiceProxy()
        await host.services_listed()
        try:
            while True:
                await host.behind_services.wait()
                await asyncio.sleep(SETTLE_SECONDS)
                host.behind_services.clear()
                services = host.cluster_services()
                for (address, port), error in (await proxy.update(services.listeners())).items():
                    if service := services.at(address):
                        host.events.tell(dict(service), "Warning", "PortNotServed", _not_served(port, error))
                for pod in list(self.known.values()):
                    try:
                        pod.write_hosts(services)
                    except OSError as error:  # it may have gone a moment ago, and its folder with it
                        log.warning("names of services in pod %s not written: %s", pod.uid, error)
        finally:
            proxy.close()

    def _begin(self, pod: Object) -> None:
        pod.setdefault("apiVersion", "v1")
        pod.setdefault("kind", "Pod")
        uid = pod["metadata"]["uid"]
        one = self.known[uid] = Pod(self.host, pod)
        task = asyncio.get_running_loop().create_task(self._until_gone(one))
        self._running[uid] = task

    async def _until_gone(self, pod: Pod) -> None:
        await pod.run()
        self.host.addresses.release(pod.view.ip)
        self.host.note_pod(pod.uid, None)
        self.known.pop(pod.uid, None)
        self._running.pop(pod.uid, None)
        await self.host.images.sweep(self._environments)

    def _environments(self) -> set[Path]:
        """The environments of images that containers run with."""
        found = (container.environment for pod in self.known.values() for container in pod.containers.values())
        return {environment for environment in found if environment}

    def _end_orphans(self, uids: set[str]) -> None:
        """End what belongs to pods that were deleted while no agent was there."""
        for folder in self.host.pods.iterdir():
            if folder.name in uids:
                continue
            processes = [
                Process(path, self.host.sandbox.isolation) for path in folder.glob("runs/*/*") if path.is_dir()
            ]
            alive = [process for process in processes if process.alive]
            for process in alive:
                process.signal(15)
            until = time.monotonic() + FORCED_GRACE_SECONDS
            while time.monotonic() < until and any(process.alive for process in alive):
                time.sleep(0.05)
            for process in alive:
                process.kill()
                process.kill_shim()
            Records(folder).clear()

    # The node's own object

    async def _registered(self) -> None:
        labels = {
            "kubernetes.io/hostname": NAME,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": ARCHITECTURE,
            "node.kubernetes.io/instance-type": "laptop",
        }
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NAME, "labels": labels}, "spec": {}}
        while True:
            try:
                with contextlib.suppress(_ExistsError):
                    await self._create("/api/v1/nodes", body)
                await self._send_status()
            except (RefusedError, httpx.HTTPError) as error:
                log.warning("the node cannot be registered yet: %s", error or type(error).__name__)
                await asyncio.sleep(0.3)
            else:
                return

    async def _create(self, path: str, body: Object) -> None:
        try:
            await self.host.cluster.call("POST", path, body)
        except RefusedError as error:
            raise (_ExistsError(error.status, error.reason) if error.status == 409 else error) from error

    async def _send_status(self) -> None:
        await self.host.cluster.call("PATCH", f"/api/v1/nodes/{NAME}/status", {"status": self.status()}, kind=STRATEGIC)

    async def _tell_status(self) -> None:
        while True:
            await asyncio.sleep(STATUS_SECONDS)
            try:
                await self._send_status()
            except RefusedError as error:
                log.warning("the node's status was refused: %s", error.reason)
                if error.status == 404:
                    await self._registered()
            except httpx.HTTPError as error:
                log.warning("the node's status was not sent: %s", error or type(error).__name__)

    def status(self) -> dict[str, Any]:
        """The status of the node."""
        cores = os.cpu_count() or 1
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        disk = shutil.disk_usage(self.host.place.root)
        now = timestamp(time.time())
        full = disk.free < disk.total * 0.05
        capacity = {
            "cpu": str(cores * CORES_PROMISED),
            "memory": f"{memory // 1024}Ki",
            "ephemeral-storage": f"{disk.total // 1024}Ki",
            "pods": str(PODS),
        }
        pressures = [
            ("MemoryPressure", False, "KubeletHasSufficientMemory"),
            ("DiskPressure", full, "KubeletHasDiskPressure" if full else "KubeletHasNoDiskPressure"),
            ("PIDPressure", False, "KubeletHasSufficientPID"),
            ("Ready", True, "KubeletReady"),
        ]
        return {
            "capacity": capacity,
            "allocatable": capacity,
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}, {"type": "Hostname", "address": NAME}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self.port}},
            "nodeInfo": {
                "machineID": "", "systemUUID": "", "kubeProxyVersion": "",
                "bootID": Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip(),
                "kernelVersion": platform.release(),
                "osImage": "this machine",
                "containerRuntimeVersion": f"process://{self.host.sandbox.isolation.kind}",
                "kubeletVersion": "v1.35.0",
                "operatingSystem": "linux",
                "architecture": ARCHITECTURE,
            },
            "conditions": [
                {
                    "type": kind,
                    "status": "True" if holds else "False",
                    "reason": reason,
                    "message": "the node agent runs containers as local processes" if kind == "Ready" else "",
                    "lastHeartbeatTime": now,
                    "lastTransitionTime": now,
                }
                for kind, holds, reason in pressures
            ],
        }  # fmt: skip

    async def _beat(self) -> None:
        folder = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
        while True:
            now = timestamp(time.time(), "microseconds")
            spec = {"holderIdentity": NAME, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now}
            try:
                try:
                    await self.host.cluster.call("PATCH", f"{folder}/{NAME}", {"spec": spec}, kind=STRATEGIC)
                except RefusedError as error:
                    if error.status != 404:
                        raise
                    await self._create(
                        folder,
                        {
                            "apiVersion": "coordination.k8s.io/v1",
                            "kind": "Lease",
                            "metadata": {"name": NAME},
                            "spec": spec,
                        },
                    )
            except (RefusedError, httpx.HTTPError) as error:
                log.warning("no heartbeat: %s", error or type(error).__name__)
                await asyncio.sleep(1)
                continue
            await asyncio.sleep(HEARTBEAT_SECONDS)


def _not_served(port: int, error: OSError) -> str:
    text = f"port {port} cannot be listened on: {error.strerror}"
    if isinstance(error, PermissionError):
        return (
            f"{text}; choose one from 1024 on, or allow lower ones: sysctl net.ipv4.ip_unprivileged_port_start={port}"
        )
    return text


class _ExistsError(RefusedError):
    """Somebody made it before."""

"""One pod on this machine: carries out what `state.decide` decides, and observes what comes of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from modelworks.laptop.agent import reconcile, volumes
from modelworks.laptop.agent.api import STRATEGIC, Object, RefusedError
from modelworks.laptop.agent.checkpoints import Records
from modelworks.laptop.agent.container import EXPECTED, RETRY_SECONDS, Container
from modelworks.laptop.agent.env import UnresolvedError
from modelworks.laptop.agent.host import Host
from modelworks.laptop.agent.reconcile import Ending, PodView
from modelworks.laptop.agent.references import Supplies
from modelworks.laptop.agent.services import ClusterServices
from modelworks.laptop.agent.status import full_name, pod_status
from modelworks.laptop.agent.usage import Measured

log = logging.getLogger(__name__)

HOUSEKEEPING_SECONDS = 10.0
"""How often a strict node measures volumes: as often as the kubelet's eviction manager."""
EVICTION_GRACE_SECONDS = 1.0
"""Grace period of a pod whose volume exceeds its limit, as the kubelet has it."""
FORCED_GRACE_SECONDS = 2.0
"""Grace period of a pod that was deleted from the API without waiting for it."""


class Pod:
    """One pod: its observed state, and the tasks that work on it."""

    def __init__(self, host: Host, pod: Object) -> None:
        self.host = host
        self.pod = pod
        self.uid: str = pod["metadata"]["uid"]
        self.records = Records(host.pods / self.uid)
        self.hurry = asyncio.Event()
        """Set when it must end earlier than first planned."""
        self._gone = asyncio.Event()
        self._changed = asyncio.Event()
        self._sources_changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sent: dict[str, Any] | None = None
        self._finishing = False
        self._exceeds = ""
        self._identified: Callable[[Object], Object] = lambda same: same
        self.containers = {spec["name"]: Container(self, spec["name"]) for spec in volumes.containers(pod)}
        self.view = self._restored()
        self.supplies = Supplies(host, self.view.ip)

    def _restored(self) -> PodView:
        """The state that an earlier agent left on disk, with the running processes; or a fresh one."""
        view = self.records.restored()
        if view is None:
            ip = "127.0.0.1" if self.pod["spec"].get("hostNetwork") else self.host.addresses.take()
            return PodView(ip=ip, started=time.time())
        self.host.addresses.keep(view.ip)
        for container in self.containers.values():
            view = container.adopted(view)
        return view

    # What others tell it

    def update(self, pod: Object) -> None:
        """The pod's object changed."""
        self._take(pod)
        self._changed.set()

    def _take(self, pod: Object) -> None:
        """Go by `pod`, unless it is older than what is known: a watch lags behind what the agent itself wrote."""
        if _version(pod) >= _version(self.pod):
            self.pod = self._identified(pod)

    def removed(self) -> None:
        """The pod's object is gone."""
        self._gone.set()
        self._changed.set()

    def look(self) -> None:
        """There is something to decide again."""
        self._changed.set()

    def source_changed(self, kind: str, found: Object) -> None:
        """A ConfigMap or Secret of the cluster changed."""
        config_maps, secrets = volumes.config_maps_and_secrets(self.pod)
        shown, meta = secrets if kind == "secrets" else config_maps, found["metadata"]
        if meta["namespace"] == self.pod["metadata"]["namespace"] and meta["name"] in shown:
            self._sources_changed.set()

    def is_named(self, namespace: str, name: str) -> bool:
        """Whether that is its name."""
        meta = self.pod["metadata"]
        return bool(meta["namespace"] == namespace and meta["name"] == name)

    @property
    def hostname(self) -> str:
        """The name that its containers find for their machine; a kubelet cuts a pod's at 63 characters too."""
        name = str(self.pod["spec"].get("hostname") or self.pod["metadata"]["name"])
        return name[:63].rstrip("-.")

    def runs(self, container: str, number: int) -> bool:
        """Whether that run of a container is the current one, and lives."""
        run = self.view.of(container).run
        return not self.gone and run is not None and run.number == number and run.running

    def write_hosts(self, services: ClusterServices, *, begin: bool = False) -> Path:
        """Bring its /etc/hosts up to date, which exists from the first container on; `begin` makes it. Its path."""
        meta, spec = self.pod["metadata"], self.pod["spec"]
        own = f"{self.view.ip}\t{self.hostname}"
        return self.records.hosts(spec, [own, *services.hosts(meta["namespace"])], begin=begin)

    def measured(self) -> dict[str, Measured]:
        """The processes of its containers, by the key that their usage has."""
        found = {}
        for name, container in self.containers.items():
            if one := container.measured():
                found[self.usage_key(name)] = one
        return found

    def usage_key(self, container: str) -> str:
        """Names the current run of a container among all of the node."""
        run = self.view.of(container).run
        return f"{self.uid}/{container}/{run.number if run else 0}"

    @property
    def gone(self) -> bool:
        """Whether it is not in the API any more."""
        return self._gone.is_set()

    async def detach(self) -> None:
        """Stop caring, and leave its processes running."""
        for container in self.containers.values():
            container.unfollow()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # The loop

    async def run(self) -> None:
        """Work on the pod until it is gone and nothing of it is left."""
        if self.pod.get("status", {}).get("phase") in ("Succeeded", "Failed") and not self.records.folder.exists():
            await self._only_wait()
            return
        await self._identify()
        self.records.make()
        self.records.save(self.pod, self.view)
        for container in self.containers.values():
            container.follow()
        self.spawn(self._refresh())
        if self.host.strict:
            self.spawn(self._keep_house())
        if self.view.containers:  # adopted: its volumes were there before
            self.view = replace(self.view, preparing=True)
            await self._prepare()
        while not (self.gone and not self._alive()):
            try:
                await self._step()
            except Exception:  # one pod's trouble is not the node's: said in the log, and tried again
                log.exception("pod %s", full_name(self.pod))
                await asyncio.sleep(1)
        await self.detach()
        await asyncio.to_thread(self.records.clear)

    async def _identify(self) -> None:
        """Learn its identity in AWS: without it, it must not start."""
        while self.host.strict and not self.gone:
            try:
                self._identified = await self.host.identity(self.pod)
            except (RefusedError, httpx.HTTPError) as error:
                self.event("Warning", "IdentityUnknown", f"its service account cannot be read: {error}")
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self.pod = self._identified(self.pod)
                return

    async def _step(self) -> None:
        """Observe, decide, act, report; then wait until there is something to decide again."""
        self._changed.clear()
        now = time.time()
        self._observe(now)
        decision = reconcile.decide(self.pod, self.view, now)
        for action in decision.actions:
            self._do(action)
        again = await self._report(now)
        if self.gone and not self._alive():
            return
        wakes = [at for at in (decision.wake, again) if at is not None]
        timeout = max(0.01, min(wakes) - time.time()) if wakes else None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), timeout)

    async def _only_wait(self) -> None:
        """Its work was done before this agent started: only its removal is left."""
        while not self.gone:
            self._changed.clear()
            if self.pod["metadata"].get("deletionTimestamp"):
                await self._delete()
            await self._changed.wait()

    def _observe(self, now: float) -> None:
        meta = self.pod["metadata"]
        ending = self.view.ending
        if self.gone:
            ending = Ending("", "", min(FORCED_GRACE_SECONDS, ending.grace if ending else reconcile.grace_of(self.pod)))
        elif meta.get("deletionTimestamp") and (ending is None or not ending.reason):
            ending = Ending("", "", float(meta.get("deletionGracePeriodSeconds") or 0))
        elif ending is None and reconcile.deadline_passed(self.pod, self.view, now):
            message = "Pod was active on the node longer than the specified deadline"
            ending = Ending("DeadlineExceeded", message, reconcile.grace_of(self.pod))
            self.event("Warning", "DeadlineExceeded", message)
        elif ending is None and self._exceeds:
            ending = Ending("Evicted", self._exceeds, EVICTION_GRACE_SECONDS)
            self.event("Warning", "Evicted", self._exceeds)
        if ending != self.view.ending:
            if self.view.ending and ending and ending.grace < self.view.ending.grace:
                self.hurry.set()
            self.view = replace(self.view, ending=ending)
            self.records.save(self.pod, self.view)

    def _alive(self) -> bool:
        return any(one.running or one.busy for one in self.view.containers.values())

    def _do(self, action: reconcile.Action) -> None:
        match action:
            case reconcile.Prepare():
                self.view = replace(self.view, preparing=True)
                self.spawn(self._prepare())
            case reconcile.Start(name):
                self.view = self.view.having(name, busy=True, blocked=None)
                self.spawn(self.containers[name].start())
            case reconcile.Stop(name, grace, why):
                self.view = self.view.having(name, busy=True)
                self.spawn(self.containers[name].stop(grace, why))
            case reconcile.Finish():
                if not self._finishing and not self.gone:
                    self._finishing = True
                    self.spawn(self._finish())

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Have `work` done beside the loop."""
        task = asyncio.get_running_loop().create_task(self.guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def guarded(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work`; the trouble of one pod is logged, and does not affect the node."""
        try:
            await work
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("working on pod %s", full_name(self.pod))
        self._changed.set()

    # Status

    async def _report(self, now: float) -> float | None:
        """Send a changed status to the API server; returns when to retry if that failed."""
        if self.gone:
            return None
        status = pod_status(self.pod, self.view, now)
        if status == self._sent and self._stands(status):
            return None
        meta = self.pod["metadata"]
        body = {"metadata": {"uid": self.uid}, "status": status}
        try:
            told = await self.host.cluster.call(
                "PATCH", f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/status", body, kind=STRATEGIC
            )
        except RefusedError as error:
            if error.status == 404 or (error.status == 409 and "uid" in error.reason.lower()):
                self.removed()
                return None
            log.warning("status of pod %s refused: %s", meta["name"], error.reason)
            return now + RETRY_SECONDS
        except httpx.HTTPError as error:
            log.warning("status of pod %s not sent: %s", meta["name"], error or type(error).__name__)
            return now + 1
        self._sent = status
        self._take(told)
        return None

    def _stands(self, status: dict[str, Any]) -> bool:
        """Whether nobody wrote over its conditions, as controllers do with those of a node that seems dead to them."""
        held = {one["type"]: one["status"] for one in self.pod.get("status", {}).get("conditions") or []}
        return all(held.get(one["type"]) == one["status"] for one in status["conditions"])

    def event(self, kind: str, reason: str, message: str, container: Container | None = None) -> None:
        """Record an event of the pod or one of its containers."""
        path = ""
        if container is not None:
            path = f"spec.{'initContainers' if container.init else 'containers'}{{{container.name}}}"
        self.host.events.tell(self.pod, kind, reason, message, path)

    # Volumes

    async def _prepare(self) -> None:
        try:
            volumes.check(self.pod)
            sources = await self.supplies.of_volumes(self.pod)
            said = await asyncio.to_thread(volumes.prepare, self.pod, self.records.volumes, sources)
        except Exception as error:
            if not isinstance(error, EXPECTED):
                log.exception("preparing pod %s", full_name(self.pod))
            self.event("Warning", "FailedMount", f"MountVolume.SetUp failed: {error or type(error).__name__}")
            self.view = replace(self.view, preparing=False, prepare_again=time.time() + RETRY_SECONDS)
            return
        for message in said:
            self.event("Warning", "NotInMemory", message)
        self.view = replace(self.view, preparing=False, prepared=True)

    async def _refresh(self) -> None:
        if not (any(volumes.config_maps_and_secrets(self.pod)) or volumes.token_requests(self.pod)):
            return
        while True:
            with contextlib.suppress(TimeoutError):
                seconds = self.host.refresh_seconds * random.uniform(0.9, 1.1)  # noqa: S311
                await asyncio.wait_for(self._sources_changed.wait(), seconds)
            self._sources_changed.clear()
            if not self.view.prepared or self.view.ending or reconcile.work_done(self.pod, self.view):
                continue
            try:
                sources = await self.supplies.of_volumes(self.pod, fresh=False)
                volumes.prepare(self.pod, self.records.volumes, sources)
            except (UnresolvedError, RefusedError, httpx.HTTPError, OSError) as error:
                self.event("Warning", "FailedMount", f"MountVolume.SetUp failed: {error}")

    async def _keep_house(self) -> None:
        """Have the pod evicted once one of its volumes holds more than its limit."""
        while not self._exceeds and not self.gone:
            await asyncio.sleep(HOUSEKEEPING_SECONDS)
            self._exceeds = await asyncio.to_thread(volumes.beyond_limit, self.pod, self.records.volumes)
        self.look()

    # The end

    async def _finish(self) -> None:
        try:
            await self._report(time.time())
            await self._delete()
        finally:
            self._finishing = self.gone

    async def _delete(self) -> None:
        meta = self.pod["metadata"]
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": self.uid}}
        while not self.gone:
            pause = 10  # finalizers may still hold it
            try:
                await self.host.cluster.call(
                    "DELETE", f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}", body
                )
            except (RefusedError, httpx.HTTPError) as error:
                # "Not found" proves nothing: the admission of nodes gives it by a list that is empty for a moment after
                # a start of the API server. The watch says when the pod is gone.
                if not (isinstance(error, RefusedError) and error.status in (404, 409)):
                    log.warning("pod %s cannot be deleted: %s", meta["name"], error or type(error).__name__)
                pause = 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._gone.wait(), pause)


def _version(pod: Object) -> int:
    """Versions of one kind of object can be compared as numbers (KEP-5504)."""
    return int(pod["metadata"]["resourceVersion"])

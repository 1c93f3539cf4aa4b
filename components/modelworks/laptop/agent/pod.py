"""One pod on this machine: carries out what `state.decide` decides, and observes what comes of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from modelworks.laptop.agent import environ, probes, report, state, volumes
from modelworks.laptop.agent.api import STRATEGIC, Object, RefusedError
from modelworks.laptop.agent.environ import UnresolvedError
from modelworks.laptop.agent.quantity import parse
from modelworks.laptop.agent.sandbox import Mount, Process
from modelworks.laptop.agent.state import Blocked, Ending, PodView, Run, Spec
from modelworks.laptop.place import read_facts, write_whole

if TYPE_CHECKING:
    from modelworks.laptop.agent.node import Node

log = logging.getLogger(__name__)

RETRY_SECONDS = 5.0
"""How long until something that was missing or failed is tried again."""
REFRESH_SECONDS = 60.0
"""How often mounted ConfigMaps, Secrets and tokens are brought up to date; the kubelet's default."""
FORCED_GRACE_SECONDS = 2.0
"""What a pod gets that was deleted from the API without waiting for it."""


class Pod:
    """One pod: its observed state, and the tasks that work on it."""

    def __init__(self, node: Node, pod: Object) -> None:
        self.node = node
        self.pod = pod
        self.uid: str = pod["metadata"]["uid"]
        self.folder: Path = node.pods / self.uid
        self._gone = asyncio.Event()
        self._changed = asyncio.Event()
        self._hurry = asyncio.Event()
        self._processes: dict[str, Process] = {}
        self._noted: dict[str, asyncio.Event] = {}
        """Set when the end of a container's run was written down."""
        self._probing: dict[str, list[asyncio.Task[None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._sent: dict[str, Any] | None = None
        self._tokens: dict[tuple[str, int], tuple[float, str]] = {}
        self._claimed: dict[str, Path] = {}
        self._finishing = False
        self.view = self._restored()

    # What others tell it

    def update(self, pod: Object) -> None:
        """The pod's object changed."""
        self.pod = pod
        self._changed.set()

    def removed(self) -> None:
        """The pod's object is gone."""
        self._gone.set()
        self._changed.set()

    @property
    def gone(self) -> bool:
        """Whether it is not in the API any more."""
        return self._gone.is_set()

    async def detach(self) -> None:
        """Stop caring, and leave its processes running."""
        for task in [*self._tasks, *(task for tasks in self._probing.values() for task in tasks)]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # The loop

    async def run(self) -> None:
        """Work on the pod until it is gone and nothing of it is left."""
        if self.pod.get("status", {}).get("phase") in ("Succeeded", "Failed") and not self.folder.exists():
            await self._only_wait()
            return
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._save()
        for name, process in list(self._processes.items()):
            self._follow(name, process)
        self._spawn(self._refresh())
        if self.view.containers:  # adopted: its volumes were there before
            self.view = replace(self.view, preparing=True)
            await self._prepare()
        while not (self.gone and not self._alive()):
            try:
                await self._step()
            except Exception:  # one pod's trouble is not the node's: said in the log, and tried again
                log.exception("pod %s", report.full_name(self.pod))
                await asyncio.sleep(1)
        await self.detach()
        await asyncio.to_thread(self._clear)

    async def _step(self) -> None:
        """Observe, decide, act, report; then wait until there is something to decide again."""
        self._changed.clear()
        now = time.time()
        self._observe(now)
        decision = state.decide(self.pod, self.view, now)
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
        """Its work was done before this agent knew it: nothing is left to do but to let it go."""
        while not self.gone:
            self._changed.clear()
            if self.pod["metadata"].get("deletionTimestamp"):
                await self._delete()
            await self._changed.wait()

    def _observe(self, now: float) -> None:
        meta = self.pod["metadata"]
        ending = self.view.ending
        if self.gone:
            ending = Ending("", "", min(FORCED_GRACE_SECONDS, ending.grace if ending else state.grace_of(self.pod)))
        elif meta.get("deletionTimestamp") and (ending is None or not ending.reason):
            ending = Ending("", "", float(meta.get("deletionGracePeriodSeconds") or 0))
        elif ending is None and state.deadline_passed(self.pod, self.view, now):
            message = "Pod was active on the node longer than the specified deadline"
            ending = Ending("DeadlineExceeded", message, state.grace_of(self.pod))
            self.event("Warning", "DeadlineExceeded", message)
        if ending != self.view.ending:
            if self.view.ending and ending and ending.grace < self.view.ending.grace:
                self._hurry.set()
            self.view = replace(self.view, ending=ending)
            self._save()

    def _alive(self) -> bool:
        return any(one.running or one.busy for one in self.view.containers.values())

    def _do(self, action: state.Action) -> None:
        match action:
            case state.Prepare():
                self.view = replace(self.view, preparing=True)
                self._spawn(self._prepare())
            case state.Start(name):
                self.view = self.view.having(name, busy=True, blocked=None)
                self._spawn(self._start(self._container(name)))
            case state.Stop(name, grace, why):
                self.view = self.view.having(name, busy=True)
                self._spawn(self._stop(self._container(name), grace, why))
            case state.Finish():
                if not self._finishing and not self.gone:
                    self._finishing = True
                    self._spawn(self._finish())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("working on pod %s", report.full_name(self.pod))
        self._changed.set()

    # Status

    async def _report(self, now: float) -> float | None:
        """Tell the API server if there is news; when to try again if it could not be told."""
        if self.gone:
            return None
        status = report.status(self._as_told(), self.view, now)
        if status == self._sent:
            return None
        meta = self.pod["metadata"]
        body = {"metadata": {"uid": self.uid}, "status": status}
        try:
            await self.node.cluster.call(
                "PATCH", f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/status", body, kind=STRATEGIC
            )
        except RefusedError as error:
            if error.status == 404 or (error.status == 409 and "uid" in error.reason.lower()):
                self.removed()
                return None
            log.warning("status of pod %s refused: %s", meta["name"], error.reason)
            return now + RETRY_SECONDS
        except httpx.HTTPError as error:
            log.warning("status of pod %s not told: %s", meta["name"], error or type(error).__name__)
            return now + 1
        self._sent = status
        return None

    def _as_told(self) -> Object:
        """The pod with the conditions that were told last: the watch may lag behind."""
        if self._sent is None:
            return self.pod
        mine = self._sent["conditions"]
        types = {condition["type"] for condition in mine}
        held = self.pod.get("status", {}).get("conditions") or []
        others = [condition for condition in held if condition["type"] not in types]
        return {**self.pod, "status": {**self.pod.get("status", {}), "conditions": [*others, *mine]}}

    def event(self, kind: str, reason: str, message: str, container: str = "") -> None:
        """Tell the user something about the pod or one of its containers."""
        path = ""
        if container:
            init = any(c["name"] == container for c in state.inits(self.pod))
            path = f"spec.{'initContainers' if init else 'containers'}{{{container}}}"
        self.node.events.tell(self.pod, kind, reason, message, path)

    # Volumes and variables

    async def _prepare(self) -> None:
        try:
            volumes.check(self.pod)
            self._claimed = await self._claims()
            sources = await self._sources(env=False)
            await asyncio.to_thread(volumes.prepare, self.pod, self.folder / "volumes", sources)
        except (UnresolvedError, RefusedError, httpx.HTTPError, OSError, ValueError) as error:
            self.event("Warning", "FailedMount", f"MountVolume.SetUp failed: {error}")
            self.view = replace(self.view, preparing=False, prepare_again=time.time() + RETRY_SECONDS)
            return
        self.view = replace(self.view, preparing=False, prepared=True)

    async def _claims(self) -> dict[str, Path]:
        namespace = self.pod["metadata"]["namespace"]
        found = {}
        for volume, claim in volumes.claims(self.pod).items():
            held = await self.node.cluster.get(f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{claim}")
            name = held["spec"].get("volumeName")
            if not name or held.get("status", {}).get("phase") != "Bound":
                raise UnresolvedError(f'persistentvolumeclaim "{claim}" is not bound')
            bound = await self.node.cluster.get(f"/api/v1/persistentvolumes/{name}")
            path = (bound["spec"].get("local") or bound["spec"].get("hostPath") or {}).get("path")
            if not path:
                raise UnresolvedError(f'persistentvolume "{name}" is not a folder of this machine')
            Path(path).mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 - one folder on a local disk
            found[volume] = Path(path)
        return found

    async def _sources(self, *, env: bool, fresh: bool = True) -> volumes.Sources:
        """What volumes (or variables, if `env`) refer to. What is not there is left out."""
        config_maps, secrets = environ.references(self.pod) if env else volumes.config_maps_and_secrets(self.pod)
        namespace = self.pod["metadata"]["namespace"]
        age = 0 if fresh else REFRESH_SECONDS / 2
        around = environ.Surroundings(
            ip=self.view.ip,
            config_maps=await self.node.objects(namespace, "configmaps", config_maps, age),
            secrets=await self.node.objects(namespace, "secrets", secrets, age),
            services=self.node.services(namespace) if env else (),
            cores=os.cpu_count() or 1,
            memory=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        )
        tokens = {} if env else {key: await self._token(*key) for key in volumes.token_requests(self.pod)}
        return volumes.Sources(around, tokens, self._claimed)

    async def _token(self, audience: str, lifetime: int) -> str:
        until, token = self._tokens.get((audience, lifetime), (0.0, ""))
        if time.time() < until:
            return token
        meta = self.pod["metadata"]
        bound = {"kind": "Pod", "apiVersion": "v1", "name": meta["name"], "uid": self.uid}
        spec = {
            "expirationSeconds": lifetime,
            "boundObjectRef": bound,
            **({"audiences": [audience]} if audience else {}),
        }
        account = self.pod["spec"].get("serviceAccountName", "default")
        answer = await self.node.cluster.call(
            "POST",
            f"/api/v1/namespaces/{meta['namespace']}/serviceaccounts/{account}/token",
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec},
        )
        token = str(answer["status"]["token"])
        # Renewed at four fifths of its life, as the kubelet does, less a little so that not all are renewed at once.
        self._tokens[audience, lifetime] = (time.time() + lifetime * random.uniform(0.7, 0.8), token)  # noqa: S311
        return token

    async def _refresh(self) -> None:
        if not (any(volumes.config_maps_and_secrets(self.pod)) or volumes.token_requests(self.pod)):
            return
        while True:
            await asyncio.sleep(self.node.refresh_seconds * random.uniform(0.9, 1.1))  # noqa: S311
            if not self.view.prepared or self.view.ending or state.work_done(self.pod, self.view):
                continue
            try:
                sources = await self._sources(env=False, fresh=False)
                volumes.prepare(self.pod, self.folder / "volumes", sources)
            except (UnresolvedError, RefusedError, httpx.HTTPError, OSError) as error:
                self.event("Warning", "FailedMount", f"MountVolume.SetUp failed: {error}")

    # Containers

    async def _start(self, container: Spec) -> None:
        name = container["name"]
        try:
            await self._started(container)
        except UnresolvedError as error:
            self._block(name, "CreateContainerConfigError", str(error), time.time() + RETRY_SECONDS)
        except (RefusedError, httpx.HTTPError, OSError, ValueError) as error:
            message = str(error) or type(error).__name__
            self._block(name, "CreateContainerError", message, time.time() + RETRY_SECONDS)
        finally:
            self.view = self.view.having(name, busy=False)

    def _block(self, name: str, reason: str, message: str, until: float | None) -> None:
        self.view = self.view.having(name, blocked=Blocked(reason, message, until))
        self.event("Warning", "Failed", f"Error: {message}", name)

    async def _started(self, container: Spec) -> None:
        name = container["name"]
        if not container.get("command"):
            message = (
                f'container "{name}" has no command: the laptop runs processes and pulls no image whose entry point it '
                "could know; state `command` (and `args`) in the pod's specification"
            )
            self._block(name, "CommandRequired", message, None)
            return
        one = self.view.of(name)
        previous = one.run
        run = Run(previous.number + 1 if previous else 0, time.time(), self.node.backoff.after(previous))
        known = environ.variables(self.pod, container, (await self._sources(env=True)).around)
        argv = environ.argv(container, known)
        mounts = volumes.mounts(self.pod, container, self.folder / "volumes", self._claimed, known)
        folder = self._run_folder(name, run.number)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
        home = self.folder / "work" / name
        home.mkdir(parents=True, exist_ok=True)
        logfile = self.node.log_file(self.pod, name, run.number)
        logfile.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._keep(name, run)
        self.event("Normal", "Created", f"Created container: {name}", name)
        if mounts and self.node.sandbox.isolation.kind == "none":
            message = "this kernel gives no mount namespace: volumes do not appear at their mountPath"
            self.event("Warning", "NoMountNamespace", message, name)
        process, failure = await self.node.sandbox.start(
            folder,
            argv,
            {**self._base(container, home), **known, "MODELWORKS_LAPTOP": str(self.node.place.root)},
            workdir=container.get("workingDir") or str(home),
            logfile=logfile,
            mounts=[Mount(home, str(home)), *mounts],
            hosts=self._hosts(),
            cgroup=self._cgroup(container, run),
        )
        run = replace(run, started=time.time())
        if failure:
            await process.ended()
            run = replace(run, finished=time.time(), exit_code=128, reason="StartError", message=failure)
            self.event("Warning", "Failed", f"Error: {failure}", name)
        self._keep(name, run)
        self.view = self.view.having(
            name,
            run=run,
            last=previous,
            unhealthy="",
            passed_startup="startupProbe" not in container,
            ready="readinessProbe" not in container,
        )
        self._forget(name, run.number - 2)
        if failure:
            return
        self.event("Normal", "Started", f"Started container {name}", name)
        self._processes[name] = process
        self._follow(name, process)
        if hook := (container.get("lifecycle") or {}).get("postStart"):
            await self._hook(container, "PostStart", hook, 600)

    def _base(self, container: Spec, home: Path) -> dict[str, str]:
        """What a container has whatever its pod says: what an image and the pod identity webhook would set."""
        venv = str(Path(sys.executable).parent)
        return {
            "PATH": f"{venv}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": container.get("workingDir") or str(home),
            "HOSTNAME": self.pod["spec"].get("hostname") or self.pod["metadata"]["name"],
            "LANG": "C.UTF-8",
            **self.node.aws(self.pod["metadata"]["namespace"]),
            "KUBERNETES_SERVICE_HOST": self.node.address[0],
            "KUBERNETES_SERVICE_PORT": self.node.address[1],
            "KUBERNETES_SERVICE_PORT_HTTPS": self.node.address[1],
        }

    def _hosts(self) -> Path:
        """The pod's /etc/hosts: this machine's, the pod's own name and its host aliases."""
        path = self.folder / "hosts"
        if not path.exists():
            spec, name = self.pod["spec"], self.pod["metadata"]["name"]
            lines = [f"{self.view.ip}\t{spec.get('hostname') or name}"]
            lines += [
                f"{alias['ip']}\t{' '.join(alias.get('hostnames') or [])}" for alias in spec.get("hostAliases") or []
            ]
            with contextlib.suppress(OSError):
                lines.insert(0, Path("/etc/hosts").read_text(encoding="utf-8").rstrip())
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
            path.chmod(0o644)
        return path

    def _cgroup(self, container: Spec, run: Run) -> Path | None:
        limit = ((container.get("resources") or {}).get("limits") or {}).get("memory")
        if limit is None or self.node.memory is None:
            return None
        try:
            return self.node.memory.limited(self._cgroup_name(container["name"], run.number), int(parse(limit)))
        except OSError as error:
            self.event("Warning", "NoMemoryLimit", f"memory limit not enforced: {error}", container["name"])
            return None

    def _cgroup_name(self, name: str, number: int) -> str:
        return f"{self.uid}_{name}_{number}"

    def _follow(self, name: str, process: Process) -> None:
        self._noted[name] = asyncio.Event()
        self._spawn(self._watch(name, process))
        container = self._container(name)
        kinds = [kind for kind in ("startupProbe", "livenessProbe", "readinessProbe") if container.get(kind)]
        loop = asyncio.get_running_loop()
        self._probing[name] = [loop.create_task(self._guarded(self._probe(container, kind))) for kind in kinds]

    async def _watch(self, name: str, process: Process) -> None:
        await process.ended()
        for task in self._probing.pop(name, []):
            task.cancel()
        run = self.view.of(name).run
        if run is None:
            return
        run = self._outcome(name, run, process)
        self._keep(name, run)
        self._processes.pop(name, None)
        self.view = self.view.having(name, run=run, ready=False, passed_startup=False, unhealthy="")
        if (
            run.backoff
            and not self.view.ending
            and state.restarts(self.pod, self._container(name), run, init=self._is_init(name))
        ):
            text = f"Back-off restarting failed container {name} in pod {report.full_name(self.pod)}"
            self.event("Warning", "BackOff", text, name)
        self._noted[name].set()
        self._changed.set()
        await asyncio.to_thread(self._tidy, process.folder)

    def _outcome(self, name: str, run: Run, process: Process) -> Run:
        code = process.exit_code
        reason, message = "", ""
        if self.node.memory is not None:
            group = self.node.memory.base / self._cgroup_name(name, run.number)
            if group.exists():
                if code == 137 and self.node.memory.killed(group):
                    reason = "OOMKilled"
                self.node.memory.remove(group)
        if code is None:
            code, message = 137, "the process ended without anybody to see its exit code"
        if code and not reason and self._container(name).get("terminationMessagePolicy") == "FallbackToLogsOnError":
            message = self.node.tail(self.pod, name, run.number)
        return replace(run, finished=process.finished or time.time(), exit_code=code, reason=reason, message=message)

    async def _stop(self, container: Spec, grace: float, why: str) -> None:
        name = container["name"]
        process = self._processes.get(name)
        try:
            if process is None:
                return
            said = (
                f"Container {name} {why}, will be restarted"
                if why and not self.view.ending
                else f"Stopping container {name}"
            )
            self.event("Normal", "Killing", said, name)
            until = time.time() + grace
            hook = (container.get("lifecycle") or {}).get("preStop")
            if hook and grace > 0 and not self.gone:
                await self._hook(container, "PreStop", hook, grace)
                until = max(until, time.time() + 2)  # as the kubelet: a hook never eats the whole grace period
            if grace > 0:
                process.signal(signal.SIGTERM)
                if await self._ended_before(process, until):
                    return
            process.kill()
            if not await self._ended_before(process, time.time() + 2):
                process.kill_shim()
                await process.ended()
        finally:
            # `_watch` writes down how it ended; not before that is anybody to decide on a restart.
            if noted := self._noted.get(name):
                await noted.wait()
            self.view = self.view.having(name, busy=False)

    async def _ended_before(self, process: Process, until: float) -> bool:
        ended = asyncio.ensure_future(process.ended())
        try:
            while not ended.done() and (left := until - time.time()) > 0:
                hurry = asyncio.ensure_future(self._hurry.wait())
                await asyncio.wait({ended, hurry}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                hurry.cancel()
                if self._hurry.is_set() and self.view.ending:
                    self._hurry.clear()
                    until = min(until, time.time() + self.view.ending.grace)
            return ended.done()
        finally:
            ended.cancel()

    async def _hook(self, container: Spec, kind: str, hook: Mapping[str, Any], limit: float) -> None:
        name = container["name"]
        try:
            if pause := hook.get("sleep"):
                await asyncio.sleep(min(float(pause["seconds"]), limit))
                return
            good, message = await probes.ask(
                {**hook, "timeoutSeconds": limit}, container, self.view.ip, self.runner(name)
            )
        except ProcessLookupError:
            return
        if not good:
            self.event("Warning", f"Failed{kind}Hook", f"{kind}Hook failed: {message}", name)
            if kind == "PostStart":
                self.view = self.view.having(name, unhealthy="failed its PostStart hook")

    # Probes

    async def _probe(self, container: Spec, kind: str) -> None:
        name, probe = container["name"], container[kind]
        run = self.view.of(name).run
        tally = probes.Tally()
        await asyncio.sleep(max(0.0, probe.get("initialDelaySeconds", 0) - (time.time() - (run.started if run else 0))))
        while True:
            if kind == "startupProbe" and self.view.of(name).passed_startup:
                return
            if kind == "startupProbe" or self.view.of(name).passed_startup:
                good, message = await probes.ask(probe, container, self.view.ip, self.runner(name))
                tally = tally.with_answer(good, probe)
                if not good:
                    word = kind.removesuffix("Probe").capitalize()
                    self.event("Warning", "Unhealthy", f"{word} probe failed: {message}", name)
                self._judge(name, kind, tally)
            else:
                await asyncio.sleep(0.05)
                continue
            await asyncio.sleep(probe.get("periodSeconds", 10))

    def _judge(self, name: str, kind: str, tally: probes.Tally) -> None:
        one = self.view.of(name)
        if tally.healthy is None:
            return
        if kind == "readinessProbe":
            self.view = self.view.having(name, ready=tally.healthy)
        elif kind == "startupProbe" and tally.healthy:
            self.view = self.view.having(name, passed_startup=True)
        elif not tally.healthy:
            word = kind.removesuffix("Probe")
            self.view = self.view.having(name, unhealthy=f"failed {word} probe")
        if self.view.of(name) != one:
            self._changed.set()

    def runner(self, name: str) -> probes.Exec:
        """What runs a command inside a container: an exec probe, a hook."""

        async def run(command: Sequence[str], limit: float) -> tuple[int, str]:
            process = self._processes.get(name)
            if process is None:
                raise ProcessLookupError(f"container {name} does not run")
            child = await asyncio.create_subprocess_exec(
                *process.command_inside(command, self.workdir(name)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=process.environment(),
                start_new_session=True,
            )
            try:
                output, _ = await asyncio.wait_for(child.communicate(), limit)
            except (TimeoutError, asyncio.CancelledError):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                await child.wait()
                raise
            return child.returncode or 0, output[-2000:].decode(errors="replace")

        return run

    def process(self, name: str) -> Process | None:
        """The running process of a container."""
        return self._processes.get(name)

    def workdir(self, name: str) -> str:
        """The folder a container's commands start in."""
        return str(self._container(name).get("workingDir") or self.folder / "work" / name)

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
            try:
                await self.node.cluster.call(
                    "DELETE", f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}", body
                )
            except RefusedError as error:
                if error.status in (404, 409):
                    self.removed()
                    return
                log.warning("pod %s cannot be deleted: %s", meta["name"], error.reason)
            except httpx.HTTPError as error:
                log.warning("pod %s cannot be deleted: %s", meta["name"], error or type(error).__name__)
            else:
                # Finalizers may still hold it; the watch says when it is gone.
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._gone.wait(), 10)
                continue
            await asyncio.sleep(1)

    def _clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    # What is kept on disk, so that the next agent knows

    def _container(self, name: str) -> Spec:
        return next(c for c in volumes.containers(self.pod) if c["name"] == name)

    def _is_init(self, name: str) -> bool:
        return any(c["name"] == name for c in state.inits(self.pod))

    def _run_folder(self, name: str, number: int) -> Path:
        return self.folder / "runs" / name / str(number)

    def _keep(self, name: str, run: Run) -> None:
        write_whole(self._run_folder(name, run.number) / "run.json", json.dumps(asdict(run)))

    def _save(self) -> None:
        facts: dict[str, Any] = {
            "namespace": self.pod["metadata"]["namespace"],
            "name": self.pod["metadata"]["name"],
            "ip": self.view.ip,
            "started": self.view.started,
            "ending": asdict(self.view.ending) if self.view.ending else None,
        }
        write_whole(self.folder / "pod.json", json.dumps(facts))

    def _forget(self, name: str, number: int) -> None:
        if number >= 0:
            shutil.rmtree(self._run_folder(name, number), ignore_errors=True)
            for path in self.node.log_file(self.pod, name, number).parent.glob(f"{number}.log*"):
                path.unlink(missing_ok=True)

    def _tidy(self, folder: Path) -> None:
        for entry in ("layer", "root"):
            shutil.rmtree(folder / entry, ignore_errors=True)

    def _restored(self) -> PodView:
        """What an earlier agent left on disk, with the processes that still run; or a fresh view."""
        facts = read_facts(self.folder / "pod.json")
        if not facts:
            ip = "127.0.0.1" if self.pod["spec"].get("hostNetwork") else self.node.addresses.take()
            return PodView(ip=ip, started=time.time())
        self.node.addresses.keep(facts["ip"])
        ending = Ending(**facts["ending"]) if facts.get("ending") else None
        view = PodView(ip=facts["ip"], started=facts["started"], ending=ending)
        for container in volumes.containers(self.pod):
            name = container["name"]
            numbers = sorted(int(path.name) for path in (self.folder / "runs" / name).glob("[0-9]*"))
            runs = [run for number in numbers if (run := self._kept(name, number)) is not None]
            if runs:
                view = self._adopted(view, container, runs)
        return view

    def _kept(self, name: str, number: int) -> Run | None:
        facts = read_facts(self._run_folder(name, number) / "run.json")
        return Run(**facts) if facts else None

    def _adopted(self, view: PodView, container: Spec, runs: list[Run]) -> PodView:
        name, run = container["name"], runs[-1]
        last = runs[-2] if len(runs) > 1 else None
        if not run.running:
            return view.having(name, run=run, last=last)
        process = Process(self._run_folder(name, run.number), self.node.sandbox.isolation)
        statuses = self.pod.get("status", {}).get("containerStatuses") or []
        statuses = [*statuses, *(self.pod.get("status", {}).get("initContainerStatuses") or [])]
        told: Mapping[str, Any] = next(
            (s for s in statuses if s["name"] == name and s.get("restartCount") == run.number), {}
        )
        if not process.alive:
            run = self._outcome(name, run, process)
            self._keep(name, run)
            return view.having(name, run=run, last=last)
        self._processes[name] = process
        return view.having(
            name,
            run=run,
            last=last,
            passed_startup="startupProbe" not in container or bool(told.get("started")),
            ready="readinessProbe" not in container or bool(told.get("ready")),
        )

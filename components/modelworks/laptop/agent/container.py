"""One container of a pod: starts, probes and ends its process, and notes in the pod's view what comes of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import httpx

from modelworks.errors import ModelworksError
from modelworks.laptop.agent import env, mount_paths, package_lists, probes, reconcile, volumes
from modelworks.laptop.agent.api import Object, RefusedError
from modelworks.laptop.agent.checkpoints import Records
from modelworks.laptop.agent.env import UnresolvedError
from modelworks.laptop.agent.host import Host
from modelworks.laptop.agent.images import Image, PullError, lock_of_build, name_of
from modelworks.laptop.agent.inside import Prepared
from modelworks.laptop.agent.isolation import NONE, Mount
from modelworks.laptop.agent.mount_paths import Command
from modelworks.laptop.agent.quantity import parse
from modelworks.laptop.agent.reconcile import Blocked, ContainerView, PodView, Run, Spec
from modelworks.laptop.agent.references import Supplies
from modelworks.laptop.agent.sandbox import Process
from modelworks.laptop.agent.services import ClusterServices
from modelworks.laptop.agent.status import full_name
from modelworks.laptop.agent.usage import Measured

RETRY_SECONDS = 5.0
"""How long until something that was missing or failed is tried again."""
EXPECTED = (UnresolvedError, RefusedError, ModelworksError, httpx.HTTPError, OSError, ValueError)
"""Errors that an event of the pod explains; others are logged with their trace, too."""

log = logging.getLogger(__name__)


class PodContext(Protocol):
    """The facts of its pod that a container needs."""

    host: Host
    pod: Object
    uid: str
    records: Records
    supplies: Supplies
    view: PodView
    """Where a container notes what it observes of itself."""
    hurry: asyncio.Event

    @property
    def gone(self) -> bool:
        """Whether the pod is not in the API any more."""

    @property
    def hostname(self) -> str:
        """The name that its containers find for their machine."""

    def look(self) -> None:
        """There is something to decide again."""

    def write_hosts(self, services: ClusterServices, *, begin: bool = False) -> Path:
        """Bring the pod's /etc/hosts up to date; its path."""

    def event(self, kind: str, reason: str, message: str, container: Container | None = None) -> None:
        """Record an event about the pod or one of its containers."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work` beside the loop of the pod."""

    async def guarded(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work`; an error is the pod's, not the node's."""


class Container:
    """One container.

    Args:
        pod: Whose it is; its `view` is where everything is noted.
        name: Its name.
    """

    def __init__(self, pod: PodContext, name: str) -> None:
        self._pod = pod
        self.name = name
        self._process: Process | None = None
        self._noted: asyncio.Event | None = None
        """Set when the end of its run was written down."""
        self._probing: list[asyncio.Task[None]] = []
        self.environment: Path | None = None
        """The environment of its image that it runs with, or is about to."""

    @property
    def spec(self) -> Spec:
        """Its part of the pod's specification."""
        return next(c for c in volumes.containers(self._pod.pod) if c["name"] == self.name)

    @property
    def view(self) -> ContainerView:
        """It as observed."""
        return self._pod.view.of(self.name)

    @property
    def init(self) -> bool:
        """Whether it is one of the pod's init containers."""
        return any(c["name"] == self.name for c in reconcile.inits(self._pod.pod))

    def _note(self, **changes: Any) -> None:
        self._pod.view = self._pod.view.having(self.name, **changes)

    def _tell(self, kind: str, reason: str, message: str) -> None:
        self._pod.event(kind, reason, message, self)

    # Starting

    async def start(self) -> None:
        """Start its next run."""
        try:
            await self._start(self.spec)
        except UnresolvedError as error:
            self._block("CreateContainerConfigError", str(error), time.time() + RETRY_SECONDS)
        except PullError as error:
            self._block("ImagePullBackOff", str(error), time.time() + RETRY_SECONDS)
        except Exception as error:
            if not isinstance(error, EXPECTED):
                log.exception("starting container %s of pod %s", self.name, full_name(self._pod.pod))
            # The next try waits, whatever the error: one that fails at once would be repeated without a pause.
            self._block("CreateContainerError", str(error) or type(error).__name__, time.time() + RETRY_SECONDS)
        finally:
            self._note(busy=False)

    def _block(self, reason: str, message: str, until: float | None) -> None:
        self._note(blocked=Blocked(reason, message, until))
        self._tell("Warning", "Failed", f"Error: {message}")

    async def _start(self, spec: Spec) -> None:
        if not spec.get("command"):
            message = (
                f'container "{self.name}" has no command: the laptop runs processes and pulls no image with an '
                "entry point; state `command` (and `args`) in the pod's specification"
            )
            self._block("CommandRequired", message, None)
            return
        previous = self.view.run
        owner = await self._pod.host.owner(self._pod.pod["metadata"]["namespace"])
        await self._have_packages(spec, owner)
        run = Run(
            previous.number + 1 if previous else 0,
            time.time(),
            self._pod.host.backoff.after(previous),
            environment=str(self.environment or ""),
        )
        process, failure = await self._launch(spec, run, owner)
        run = replace(run, started=time.time())
        if failure:
            await process.ended()
            run = replace(run, finished=time.time(), exit_code=128, reason="StartError", message=failure)
            self._tell("Warning", "Failed", f"Error: {failure}")
        self._begin(spec, run, previous)
        if failure:
            return
        self._tell("Normal", "Started", f"Started container {self.name}")
        self._process = process
        self._follow(process)
        if hook := (spec.get("lifecycle") or {}).get("postStart"):
            await self._hook("PostStart", hook, 600)

    async def _have_packages(self, spec: Spec, owner: str | None) -> None:
        """Have the packages of its image, if that has a folder in the project of the pod's environment."""
        host, self.environment = self._pod.host, None
        reference, project = spec.get("image") or "", host.project(owner)
        image = Image.of(reference, project)
        if image is None:
            # An image of somebody else may have the name of one of ours, and no list that is known here.
            if host.strict and any(word.startswith("modelworks.") for word in spec["command"]):
                lock = lock_of_build(reference, project)
                try:
                    await asyncio.to_thread(package_lists.refuse_other_packages, name_of(reference), lock)
                except ModelworksError as error:
                    raise PullError(f"{error.message} ({error.fix})") from error
            return
        pulling = asyncio.ensure_future(host.images.environment(image, partial(self._tell, "Normal")))
        try:
            while not pulling.done():
                await asyncio.wait({pulling}, timeout=1)
                if self._pod.gone or self._pod.view.ending:
                    raise PullError(f"{image.reference} is pulled no further: its pod ends")
            self.environment = pulling.result()
        finally:
            pulling.cancel()
            await asyncio.gather(pulling, return_exceptions=True)

    async def _launch(self, spec: Spec, run: Run, owner: str | None) -> tuple[Process, str]:
        """Start the process of a run; returns it, and why it could not start."""
        host, records = self._pod.host, self._pod.records
        known = env.variables(self._pod.pod, spec, await self._pod.supplies.of_variables(self._pod.pod))
        mounts = self._mounts(known)
        folder = records.fresh_run_folder(self.name, run.number)
        home = records.work(self.name)
        home.mkdir(parents=True, exist_ok=True)
        logfile = host.log_file(self._pod.pod, self.name, run.number)
        logfile.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        records.keep(self.name, run)
        self._tell("Normal", "Created", f"Created container: {self.name}")
        command = Command(
            env.argv(spec, known),
            {
                **self._base(spec, home),
                **host.gateway(),
                **host.aws(owner),
                **known,
                "MODELWORKS_LAPTOP": str(host.place.root),
            },
            spec.get("workingDir") or str(home),
        )
        if host.traffic:
            host.traffic.declare(self._pod.uid, known, command.argv)
        if host.sandbox.isolation == NONE:
            command = mount_paths.translate(command, mounts)
        return await host.sandbox.start(
            folder,
            command.argv,
            command.variables,
            workdir=command.workdir,
            logfile=logfile,
            mounts=[Mount(home, str(home)), *mounts],
            hosts=self._pod.write_hosts(host.cluster_services(), begin=True),
            hostname=self._pod.hostname,
            cgroup=self._cgroup(spec, run),
        )

    def _mounts(self, variables: Mapping[str, str]) -> list[Mount]:
        pod = self._pod
        return volumes.mounts(pod.pod, self.spec, pod.records.volumes, pod.supplies.claimed, variables)

    def _begin(self, spec: Spec, run: Run, previous: Run | None) -> None:
        """Note that a run is the current one, and forget what is older than the one before."""
        self._pod.records.keep(self.name, run)
        self._note(
            run=run,
            last=previous,
            unhealthy="",
            passed_startup="startupProbe" not in spec,
            ready="readinessProbe" not in spec,
        )
        self._forget(run.number - 2)

    def _base(self, spec: Spec, home: Path) -> dict[str, str]:
        """Variables of every container: those that an image would set."""
        host = self._pod.host
        programs = self.environment / "bin" if self.environment else Path(sys.executable).parent
        return {
            "PATH": f"{programs}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": spec.get("workingDir") or str(home),
            "HOSTNAME": self._pod.hostname,
            "LANG": "C.UTF-8",
            "KUBERNETES_SERVICE_HOST": host.address[0],
            "KUBERNETES_SERVICE_PORT": host.address[1],
            "KUBERNETES_SERVICE_PORT_HTTPS": host.address[1],
        }

    def _cgroup(self, spec: Spec, run: Run) -> Path | None:
        limit, memory = ((spec.get("resources") or {}).get("limits") or {}).get("memory"), self._pod.host.memory
        if limit is None or memory is None:
            return None
        try:
            return memory.limited(self._cgroup_name(run.number), int(parse(limit)))
        except OSError as error:
            self._tell("Warning", "NoMemoryLimit", f"memory limit not enforced: {error}")
            return None

    def _cgroup_name(self, number: int) -> str:
        return f"{self._pod.uid}_{self.name}_{number}"

    def measured(self) -> Measured | None:
        """Its processes; None while it does not run."""
        run, process, memory = self.view.run, self._process, self._pod.host.memory
        if run is None or process is None or (shim := process.shim) is None:
            return None
        group = memory.base / self._cgroup_name(run.number) if memory else None
        return Measured(shim, group if group is not None and group.exists() else None)

    def _forget(self, number: int) -> None:
        if number >= 0:
            self._pod.records.forget(self.name, number)
            for path in self._pod.host.log_file(self._pod.pod, self.name, number).parent.glob(f"{number}.log*"):
                path.unlink(missing_ok=True)

    # Adopting

    def adopted(self, view: PodView) -> PodView:
        """`view` with what an earlier agent left of this container, whose process is taken over if it still runs."""
        records, spec = self._pod.records, self.spec
        runs = records.runs(self.name)
        if not runs:
            return view
        run, last = runs[-1], runs[-2] if len(runs) > 1 else None
        if not run.running:
            return view.having(self.name, run=run, last=last)
        self.environment = Path(run.environment) if run.environment else None
        process = Process(records.run_folder(self.name, run.number), self._pod.host.sandbox.isolation)
        if not process.alive:
            run = self._outcome(run, process)
            records.keep(self.name, run)
            return view.having(self.name, run=run, last=last)
        self._process = process
        told = self._told(run)
        return view.having(
            self.name,
            run=run,
            last=last,
            passed_startup="startupProbe" not in spec or bool(told.get("started")),
            ready="readinessProbe" not in spec or bool(told.get("ready")),
        )

    def _told(self, run: Run) -> Mapping[str, Any]:
        """The state of that run in the API server."""
        status = self._pod.pod.get("status", {})
        statuses = [*(status.get("containerStatuses") or []), *(status.get("initContainerStatuses") or [])]
        return next((s for s in statuses if s["name"] == self.name and s.get("restartCount") == run.number), {})

    def follow(self) -> None:
        """Watch and probe its process, if it was adopted with one."""
        if self._process is not None:
            self._follow(self._process)

    # Watching

    def _follow(self, process: Process) -> None:
        self._noted = noted = asyncio.Event()
        self._pod.spawn(self._watch(process, noted))
        spec, loop = self.spec, asyncio.get_running_loop()
        kinds = [kind for kind in ("startupProbe", "livenessProbe", "readinessProbe") if spec.get(kind)]
        self._probing = [loop.create_task(self._pod.guarded(self._probe(spec, kind))) for kind in kinds]

    def unfollow(self) -> None:
        """Probe it no longer."""
        for task in self._probing:
            task.cancel()
        self._probing = []

    async def _watch(self, process: Process, noted: asyncio.Event) -> None:
        await process.ended()
        self.unfollow()
        run = self.view.run
        if run is None:
            return
        run = self._outcome(run, process)
        self._pod.records.keep(self.name, run)
        self._process = None
        self._note(run=run, ready=False, passed_startup=False, unhealthy="")
        if (
            run.backoff
            and not self._pod.view.ending
            and reconcile.restarts(self._pod.pod, self.spec, run, init=self.init)
        ):
            text = f"Back-off restarting failed container {self.name} in pod {full_name(self._pod.pod)}"
            self._tell("Warning", "BackOff", text)
        noted.set()
        self._pod.look()
        await asyncio.to_thread(self._pod.records.tidy, process.folder)

    def _outcome(self, run: Run, process: Process) -> Run:
        code, memory = process.exit_code, self._pod.host.memory
        reason, message = "", ""
        if memory is not None:
            group = memory.base / self._cgroup_name(run.number)
            if group.exists():
                if code == 137 and memory.killed(group):
                    reason = "OOMKilled"
                memory.remove(group)
        if code is None:
            code, message = 137, "the process ended without anybody to see its exit code"
        if code and not reason and self.spec.get("terminationMessagePolicy") == "FallbackToLogsOnError":
            message = self._pod.host.tail(self._pod.pod, self.name, run.number)
        return replace(run, finished=process.finished or time.time(), exit_code=code, reason=reason, message=message)

    # Ending

    async def stop(self, grace: float, why: str) -> None:
        """End its run: preStop hook, SIGTERM, and SIGKILL when `grace` seconds are over."""
        process = self._process
        try:
            if process is None:
                return
            said = (
                f"Container {self.name} {why}, will be restarted"
                if why and not self._pod.view.ending
                else f"Stopping container {self.name}"
            )
            self._tell("Normal", "Killing", said)
            until = time.time() + grace
            hook = (self.spec.get("lifecycle") or {}).get("preStop")
            if hook and grace > 0 and not self._pod.gone:
                await self._hook("PreStop", hook, grace)
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
            if self._noted is not None:
                await self._noted.wait()
            self._note(busy=False)

    async def _ended_before(self, process: Process, until: float) -> bool:
        pod, ended = self._pod, asyncio.ensure_future(process.ended())
        try:
            while not ended.done() and (left := until - time.time()) > 0:
                hurry = asyncio.ensure_future(pod.hurry.wait())
                await asyncio.wait({ended, hurry}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                hurry.cancel()
                if pod.hurry.is_set() and pod.view.ending:
                    pod.hurry.clear()
                    until = min(until, time.time() + pod.view.ending.grace)
            return ended.done()
        finally:
            ended.cancel()

    # Probes and hooks

    async def _probe(self, spec: Spec, kind: str) -> None:
        probe, run = spec[kind], self.view.run
        tally = probes.Tally()
        await asyncio.sleep(max(0.0, probe.get("initialDelaySeconds", 0) - (time.time() - (run.started if run else 0))))
        while True:
            if kind == "startupProbe" and self.view.passed_startup:
                return
            if kind == "startupProbe" or self.view.passed_startup:
                good, message = await probes.ask(probe, spec, self._pod.view.ip, self._run_inside)
                tally = tally.with_answer(good, probe)
                if not good:
                    word = kind.removesuffix("Probe").capitalize()
                    self._tell("Warning", "Unhealthy", f"{word} probe failed: {message}")
                self._judge(kind, tally)
            else:
                await asyncio.sleep(0.05)
                continue
            await asyncio.sleep(probe.get("periodSeconds", 10))

    def _judge(self, kind: str, tally: probes.Tally) -> None:
        before = self.view
        if tally.healthy is None:
            return
        if kind == "readinessProbe":
            self._note(ready=tally.healthy)
        elif kind == "startupProbe" and tally.healthy:
            self._note(passed_startup=True)
        elif not tally.healthy:
            self._note(unhealthy=f"failed {kind.removesuffix('Probe')} probe")
        if self.view != before:
            self._pod.look()

    async def _hook(self, kind: str, hook: Mapping[str, Any], limit: float) -> None:
        try:
            if pause := hook.get("sleep"):
                await asyncio.sleep(min(float(pause["seconds"]), limit))
                return
            good, message = await probes.ask(
                {**hook, "timeoutSeconds": limit}, self.spec, self._pod.view.ip, self._run_inside
            )
        except ProcessLookupError:
            return
        if not good:
            self._tell("Warning", f"Failed{kind}Hook", f"{kind}Hook failed: {message}")
            if kind == "PostStart":
                self._note(unhealthy="failed its PostStart hook")

    def inside(self, command: Sequence[str]) -> Prepared:
        """A command as it runs where the container runs: its file system, variables and working directory.

        Raises:
            ProcessLookupError: The container does not run.
        """
        process = self._process
        if process is None:
            raise ProcessLookupError(f"container {self.name} does not run")
        variables = process.environment()
        inside = Command(command, {}, str(self.spec.get("workingDir") or self._pod.records.work(self.name)))
        if process.isolation == NONE:
            inside = mount_paths.translate(inside, self._mounts(variables), partly=True)
        return Prepared(process.command_inside(inside.argv, inside.workdir), variables)

    async def _run_inside(self, command: Sequence[str], limit: float) -> tuple[int, str]:
        """Run a command where the container runs: exit code, and the end of its output.

        Raises:
            ProcessLookupError: The container does not run.
            TimeoutError: It took longer than `limit` seconds, and was ended.
        """
        prepared = self.inside(command)
        child = await asyncio.create_subprocess_exec(
            *prepared.argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=dict(prepared.variables),
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

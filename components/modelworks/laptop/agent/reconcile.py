"""Decisions of the agent on a pod: pure functions of specification and observations.

`decide` returns the next actions and the next time to look; `modelworks.laptop.agent.status` makes the pod's status.
The rules (order of init containers, restart policy, crash-loop back-off, phases) are those documented for pods at
https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

Spec = Mapping[str, Any]


@dataclass(frozen=True)
class Backoff:
    """Seconds between a container's end and its next start; the defaults are the kubelet's."""

    first: float = 10
    longest: float = 300
    forgiven: float = 600
    """A run that lasted this long clears what came before."""

    def after(self, previous: Run | None) -> float:
        """The wait that follows the run after `previous`: none for the first, then doubling."""
        if previous is None:
            return 0
        lasted = (previous.finished or previous.started) - previous.started
        if previous.backoff == 0 or lasted >= self.forgiven:
            return self.first
        return min(previous.backoff * 2, self.longest)


@dataclass(frozen=True)
class Run:
    """One process of a container, from start to end. Times are Unix seconds."""

    number: int
    started: float
    backoff: float = 0
    """Seconds to wait after the end of this run before the next."""
    finished: float | None = None
    exit_code: int | None = None
    reason: str = ""
    message: str = ""
    environment: str = ""
    """Folder with the packages of its image; empty for those of modelworks."""

    @property
    def running(self) -> bool:
        """Whether its process still lives."""
        return self.finished is None

    @property
    def succeeded(self) -> bool:
        """Whether it exited with 0."""
        return self.exit_code == 0


@dataclass(frozen=True)
class Blocked:
    """Why a container cannot be started; tried again at `until` (Unix seconds), never if that is None."""

    reason: str
    message: str
    until: float | None


@dataclass(frozen=True)
class ContainerView:
    """One container as observed."""

    run: Run | None = None
    last: Run | None = None
    blocked: Blocked | None = None
    busy: bool = False
    """A start or a stop of it is under way."""
    passed_startup: bool = False
    ready: bool = False
    unhealthy: str = ""
    """Why it must be killed: the message of a failed startup or liveness probe."""

    @property
    def running(self) -> bool:
        """Whether its newest run still lives."""
        return self.run is not None and self.run.running

    @property
    def finished(self) -> Run | None:
        """Its newest run if that has ended."""
        return self.run if self.run is not None and not self.run.running else None


@dataclass(frozen=True)
class Ending:
    """The pod as a whole must end."""

    reason: str
    """Empty for a deletion, else what becomes the pod's reason, such as `DeadlineExceeded`."""
    message: str
    grace: float


@dataclass(frozen=True)
class PodView:
    """One pod as observed."""

    ip: str
    started: float
    prepared: bool = False
    """Its volumes are there."""
    preparing: bool = False
    prepare_again: float = 0
    ending: Ending | None = None
    containers: Mapping[str, ContainerView] = field(default_factory=dict)

    def of(self, name: str) -> ContainerView:
        """The view of one container, empty if nothing is known of it."""
        return self.containers.get(name) or ContainerView()

    def having(self, name: str, **changes: Any) -> PodView:
        """This view with changes to one container."""
        return replace(self, containers={**self.containers, name: replace(self.of(name), **changes)})


@dataclass(frozen=True)
class Prepare:
    """Make the pod's volumes."""


@dataclass(frozen=True)
class Start:
    """Start a container's next run."""

    container: str


@dataclass(frozen=True)
class Stop:
    """End a container's run: preStop hook, SIGTERM, and SIGKILL when `grace` seconds are over."""

    container: str
    grace: float
    why: str


@dataclass(frozen=True)
class Finish:
    """Everything of a deleted pod has ended: take it down."""


Action = Prepare | Start | Stop | Finish


@dataclass(frozen=True)
class Decision:
    """The next actions, and when to decide again if nothing happens before (Unix seconds)."""

    actions: tuple[Action, ...] = ()
    wake: float | None = None


def inits(pod: Spec) -> list[Spec]:
    """The pod's init containers, sidecars included, in order."""
    return list(pod["spec"].get("initContainers") or [])


def mains(pod: Spec) -> list[Spec]:
    """The pod's containers."""
    return list(pod["spec"]["containers"])


def is_sidecar(container: Spec) -> bool:
    """Whether an init container keeps running beside the others."""
    return container.get("restartPolicy") == "Always"


def restarts(pod: Spec, container: Spec, run: Run, *, init: bool) -> bool:
    """Whether a container whose run has ended is started again."""
    policy = pod["spec"].get("restartPolicy", "Always")
    if init:
        return is_sidecar(container) or (policy != "Never" and not run.succeeded)
    return policy == "Always" or (policy == "OnFailure" and not run.succeeded)


def initialized(pod: Spec, view: PodView) -> bool:
    """Whether all init containers have done their work (sidecars: are up)."""
    if any(view.of(container["name"]).run for container in mains(pod)):
        return True
    return all(_init_done(container, view.of(container["name"])) for container in inits(pod))


def _init_done(container: Spec, view: ContainerView) -> bool:
    if is_sidecar(container):
        return view.running and view.passed_startup
    return view.finished is not None and view.finished.succeeded


def init_failed(pod: Spec, view: PodView) -> bool:
    """Whether an init container failed for good."""
    return any(
        (run := view.of(container["name"]).finished) is not None
        and not run.succeeded
        and not restarts(pod, container, run, init=True)
        for container in inits(pod)
    )


def work_done(pod: Spec, view: PodView) -> bool:
    """Whether all containers have ended and none is started again."""
    if init_failed(pod, view):
        return True
    runs = [(container, view.of(container["name"]).finished) for container in mains(pod)]
    return all(run is not None and not restarts(pod, container, run, init=False) for container, run in runs)


def phase(pod: Spec, view: PodView) -> str:
    """The pod's phase."""
    everyone = [*inits(pod), *mains(pod)]
    alive = any(view.of(container["name"]).running for container in everyone)
    runs = [view.of(container["name"]).run for container in mains(pod)]
    if (view.ending or work_done(pod, view)) and not alive:
        good = not (view.ending and view.ending.reason) and all(run is not None and run.succeeded for run in runs)
        return "Succeeded" if good else "Failed"
    if not initialized(pod, view) or any(run is None for run in runs):
        return "Pending"
    return "Running"


def decide(pod: Spec, view: PodView, now: float) -> Decision:
    """The next actions on a pod."""
    if view.ending or work_done(pod, view):
        return _wind_down(pod, view)
    if not view.prepared:
        if view.preparing:
            return Decision()
        if now < view.prepare_again:
            return Decision(wake=view.prepare_again)
        return Decision((Prepare(),))
    actions: list[Action] = []
    wakes: list[float] = []
    begun = any(view.of(container["name"]).run for container in mains(pod))
    for container in inits(pod):
        one = view.of(container["name"])
        if _init_done(container, one) and not is_sidecar(container):
            continue
        if begun and not is_sidecar(container):
            continue
        _advance(pod, container, one, now, actions, wakes, init=True)
        if not begun and not _init_done(container, one):
            return _decision(actions, wakes)
    for container in mains(pod):
        _advance(pod, container, view.of(container["name"]), now, actions, wakes, init=False)
    deadline = pod["spec"].get("activeDeadlineSeconds")
    if deadline is not None:
        wakes.append(view.started + deadline)
    return _decision(actions, wakes)


def deadline_passed(pod: Spec, view: PodView, now: float) -> bool:
    """Whether the pod has run longer than its `activeDeadlineSeconds`."""
    deadline = pod["spec"].get("activeDeadlineSeconds")
    return deadline is not None and now >= view.started + deadline


def in_backoff(pod: Spec, container: Spec, view: ContainerView, now: float, *, init: bool) -> bool:
    """Whether a container waits to be started again after a run that ended."""
    run = view.finished
    return (
        run is not None
        and run.finished is not None
        and restarts(pod, container, run, init=init)
        and now < run.finished + run.backoff
    )


def _advance(
    pod: Spec,
    container: Spec,
    view: ContainerView,
    now: float,
    actions: list[Action],
    wakes: list[float],
    *,
    init: bool,
) -> None:
    name = container["name"]
    if view.busy:
        return
    if view.running:
        if view.unhealthy:
            actions.append(Stop(name, _probe_grace(pod, container), view.unhealthy))
        return
    if view.blocked:
        if view.blocked.until is None:
            return
        if now < view.blocked.until:
            wakes.append(view.blocked.until)
            return
    if (run := view.finished) is not None and run.finished is not None:
        if not restarts(pod, container, run, init=init):
            return
        if now < run.finished + run.backoff:
            wakes.append(run.finished + run.backoff)
            return
    actions.append(Start(name))


def _probe_grace(pod: Spec, container: Spec) -> float:
    probe = container.get("livenessProbe") or container.get("startupProbe") or {}
    return float(probe.get("terminationGracePeriodSeconds") or grace_of(pod))


def grace_of(pod: Spec) -> float:
    """Seconds a container has between SIGTERM and SIGKILL, as the pod requests."""
    return float(pod["spec"].get("terminationGracePeriodSeconds", 30))


def _wind_down(pod: Spec, view: PodView) -> Decision:
    grace, why = (view.ending.grace, view.ending.message) if view.ending else (grace_of(pod), "")
    first = [c["name"] for c in [*mains(pod), *(c for c in inits(pod) if not is_sidecar(c))]]
    sidecars = [c["name"] for c in reversed(inits(pod)) if is_sidecar(c)]
    for group in (first, *([name] for name in sidecars)):
        alive = [name for name in group if view.of(name).running or view.of(name).busy]
        if alive:
            return Decision(tuple(Stop(name, grace, why) for name in alive if not view.of(name).busy))
    return Decision((Finish(),)) if pod["metadata"].get("deletionTimestamp") else Decision()


def _decision(actions: list[Action], wakes: list[float]) -> Decision:
    return Decision(tuple(actions), min(wakes) if wakes else None)

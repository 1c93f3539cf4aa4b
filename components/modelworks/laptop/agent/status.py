"""The status of a pod for the API server: pure functions of specification and observations."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from modelworks.laptop.agent.reconcile import (
    Blocked,
    ContainerView,
    PodView,
    Run,
    Spec,
    in_backoff,
    init_failed,
    initialized,
    inits,
    is_sidecar,
    mains,
    phase,
)

Condition = dict[str, Any]


def timestamp(seconds: float, precision: str = "seconds") -> str:
    """Unix seconds as Kubernetes writes times."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec=precision).replace("+00:00", "Z")


def pod_status(pod: Spec, view: PodView, now: float) -> dict[str, Any]:
    """The pod's `status`: what the agent owns of it, ready for a strategic merge patch."""
    current = phase(pod, view)
    reported: dict[str, Any] = {
        "phase": current,
        "observedGeneration": pod["metadata"].get("generation", 1),
        "hostIP": "127.0.0.1",
        "hostIPs": [{"ip": "127.0.0.1"}],
        "podIP": view.ip,
        "podIPs": [{"ip": view.ip}],
        "startTime": timestamp(view.started),
        "qosClass": quality_of_service(pod),
        "conditions": conditions(pod, view, current, now),
        "containerStatuses": [_container(pod, c, view, now, init=False) for c in mains(pod)],
    }
    if inits(pod):
        reported["initContainerStatuses"] = [_container(pod, c, view, now, init=True) for c in inits(pod)]
    if view.ending and view.ending.reason:
        reported |= {"reason": view.ending.reason, "message": view.ending.message}
    return reported


def conditions(pod: Spec, view: PodView, current: str, now: float) -> list[Condition]:
    """The pod's conditions; one that did not change keeps the time of its last transition."""
    over = current in ("Succeeded", "Failed")
    unready = [c["name"] for c in _serving(pod) if not _is_ready(view.of(c["name"]))]
    waiting = [] if initialized(pod, view) else [c["name"] for c in inits(pod) if not _init_over(c, view)]
    made = [
        _condition("PodReadyToStartContainers", holds=view.prepared and not (over and view.ending is not None)),
        _condition("PodScheduled", holds=True),
        _condition(
            "Initialized",
            holds=not waiting and not init_failed(pod, view),
            reason="PodCompleted" if current == "Succeeded" else "ContainersNotInitialized" if waiting else "",
            message=f"containers with incomplete status: [{' '.join(waiting)}]" if waiting else "",
        ),
    ]
    failing = "PodCompleted" if current == "Succeeded" else "PodFailed" if current == "Failed" else ""
    reason = failing or ("ContainersNotReady" if unready else "")
    message = f"containers with unready status: [{' '.join(unready)}]" if unready and not failing else ""
    serving = not unready and not over
    made.append(_condition("ContainersReady", holds=serving, reason=reason, message=message))
    if serving and (missing := _closed_gates(pod)):
        reason, message = (
            "ReadinessGatesNotReady",
            f"corresponding condition of pod readiness gate {missing} is not True",
        )
        made.append(_condition("Ready", holds=False, reason=reason, message=message))
    else:
        made.append(_condition("Ready", holds=serving, reason=reason, message=message))
    before = {old["type"]: old for old in pod.get("status", {}).get("conditions") or []}
    for condition in made:
        old = before.get(condition["type"])
        same = old is not None and old["status"] == condition["status"]
        condition["lastTransitionTime"] = (
            old["lastTransitionTime"] if same and old and old.get("lastTransitionTime") else timestamp(now)
        )
        condition["lastProbeTime"] = None
    return made


def quality_of_service(pod: Spec) -> str:
    """The pod's QoS class, by the rule of the API: requests and limits of cpu and memory."""
    resources = [c.get("resources") or {} for c in [*inits(pod), *mains(pod)]]
    asked = [{**(r.get("requests") or {}), **(r.get("limits") or {})} for r in resources]
    if not any("cpu" in one or "memory" in one for one in asked):
        return "BestEffort"
    guaranteed = all(
        {"cpu", "memory"} <= set(r.get("limits") or {})
        and all((r.get("requests") or {}).get(k, v) == v for k, v in r["limits"].items())
        for r in resources
    )
    return "Guaranteed" if guaranteed else "Burstable"


def _serving(pod: Spec) -> list[Spec]:
    return [*(c for c in inits(pod) if is_sidecar(c)), *mains(pod)]


def _is_ready(view: ContainerView) -> bool:
    return view.running and view.passed_startup and view.ready


def _init_over(container: Spec, view: PodView) -> bool:
    one = view.of(container["name"])
    if is_sidecar(container):
        return one.running and one.passed_startup
    return one.finished is not None and one.finished.succeeded


def _closed_gates(pod: Spec) -> str:
    held = {c["type"]: c["status"] for c in pod.get("status", {}).get("conditions") or []}
    gates = [gate["conditionType"] for gate in pod["spec"].get("readinessGates") or []]
    return ", ".join(f'"{gate}"' for gate in gates if held.get(gate) != "True")


def _condition(name: str, *, holds: bool, reason: str = "", message: str = "") -> Condition:
    made: Condition = {"type": name, "status": "True" if holds else "False"}
    # Null clears what an earlier report said: a strategic merge keeps what it is not told.
    made["reason"] = reason or None
    made["message"] = message or None
    return made


def _container(pod: Spec, container: Spec, view: PodView, now: float, *, init: bool) -> dict[str, Any]:
    name = container["name"]
    one = view.of(name)
    run = one.run
    ready = bool(one.finished and one.finished.succeeded) if init and not is_sidecar(container) else _is_ready(one)
    reported: dict[str, Any] = {
        "name": name,
        "image": container.get("image", ""),
        "imageID": "",
        "ready": ready,
        "started": one.running and (one.passed_startup or (init and not is_sidecar(container))),
        "restartCount": run.number if run else 0,
        "state": {},
        "lastState": {},
    }
    previous = one.last
    if run is not None:
        reported["containerID"] = container_id(pod, name, run)
    if one.blocked and not one.running:
        reported["state"] = {"waiting": _waiting(one.blocked)}
        previous = one.finished or one.last
    elif run is None:
        pending = not init and not initialized(pod, view)
        reported["state"] = {"waiting": {"reason": "PodInitializing" if pending else "ContainerCreating"}}
    elif run.running:
        reported["state"] = {"running": {"startedAt": timestamp(run.started)}}
    elif not view.ending and in_backoff(pod, container, one, now, init=init):
        text = f"back-off {run.backoff:.0f}s restarting failed container={name} pod={full_name(pod)}"
        reported["state"] = {"waiting": {"reason": "CrashLoopBackOff", "message": text}}
        previous = run
    else:
        reported["state"] = {"terminated": _terminated(pod, name, run)}
    if previous is not None and not previous.running:
        reported["lastState"] = {"terminated": _terminated(pod, name, previous)}
    return reported


def container_id(pod: Spec, name: str, run: Run) -> str:
    """The name of one run, in the form of a container's id."""
    return f"process://{pod['metadata']['uid']}/{name}/{run.number}"


def full_name(pod: Spec) -> str:
    """Name, namespace and uid of a pod in one word, as the kubelet writes it."""
    meta = pod["metadata"]
    return f"{meta['name']}_{meta['namespace']}({meta['uid']})"


def _waiting(blocked: Blocked) -> dict[str, str]:
    return {"reason": blocked.reason, "message": blocked.message}


def _terminated(pod: Spec, name: str, run: Run) -> dict[str, Any]:
    ended: dict[str, Any] = {
        "exitCode": run.exit_code if run.exit_code is not None else 137,
        "reason": run.reason or ("Completed" if run.succeeded else "Error"),
        "startedAt": timestamp(run.started),
        "finishedAt": timestamp(run.finished or run.started),
        "containerID": container_id(pod, name, run),
    }
    if run.message:
        ended["message"] = run.message
    return ended

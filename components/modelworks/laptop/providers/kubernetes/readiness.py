"""When an object counts as ready, and what its pods say when it does not. Pure: objects in, a verdict out.

The rules are those that the real provider documents in its `provider/pkg/await`; where ours differ, the reason stands
at the rule and in `docs/guides/laptop-kubernetes.md`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from modelworks.laptop.providers.kubernetes import jsonpath
from modelworks.laptop.providers.kubernetes.manifests import SKIP_AWAIT, WAIT_FOR, annotation, at, name_of

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What is to be thought of an object."""

    state: Literal["ready", "progressing", "failed"]
    message: str = ""
    """What it waits for, or why it failed."""


READY: Final = Verdict("ready")


@dataclass(frozen=True)
class Related:
    """Other objects that a rule looks at."""

    pods: Sequence[Object] = ()
    """Those the object's selector selects."""
    storage_class: Object | None = None
    """That of a PersistentVolumeClaim."""


Rule = Callable[[Object, Related], Verdict]


@dataclass(frozen=True)
class Await:
    """How to wait for an object."""

    rule: Rule
    timeout: float = 600
    """Seconds, where neither `customTimeouts` nor `pulumi.com/timeoutSeconds` says otherwise."""
    pods: bool = False
    """The rule, or what it says on failure, depends on the object's pods."""
    settles: bool = True
    """A refresh, too, reports an object that is not ready."""


def rule_for(inputs: Object) -> Await | None:
    """How to wait for what `inputs` declare; `None` where there is nothing to wait for.

    `pulumi.com/skipAwait` comes before `pulumi.com/waitFor`, and that before the kind's own rule.

    Raises:
        ValueError: `pulumi.com/waitFor` cannot be understood; the message says why.
    """
    if annotation(inputs, SKIP_AWAIT) == "true":
        return None
    own = RULES.get((str(inputs.get("apiVersion")), str(inputs.get("kind"))))
    if wanted := annotation(inputs, WAIT_FOR):
        conditions = wait_for(wanted)
        return Await(
            lambda seen, _: next((v for v in (rule(seen) for rule in conditions) if v.state != "ready"), READY),
            timeout=own.timeout if own else 600,
            pods=bool(own and own.pods),
            settles=False,
        )
    return own


# ------------------------------------------------------------------------------------------------- pulumi.com/waitFor


def wait_for(text: str) -> list[Callable[[Object], Verdict]]:
    """The conditions of a `pulumi.com/waitFor` annotation: one, or a JSON array of several that must all hold.

    Raises:
        ValueError: It is neither.
    """
    expressions: Any = [text]
    if text.lstrip().startswith("["):
        try:
            expressions = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{WAIT_FOR}: {text!r} is not a JSON array: {error}") from error
    if not expressions or not all(isinstance(each, str) for each in expressions):
        raise ValueError(f"{WAIT_FOR}: an array of at least one string was expected, got {text!r}")
    return [_condition(each) for each in expressions]


def _condition(expression: str) -> Callable[[Object], Verdict]:
    kind, separator, rest = expression.partition("=")
    if kind == "jsonpath" and separator:
        path, wanted = jsonpath.parse_wait(rest)

        def found(seen: Object) -> Verdict:
            values = jsonpath.find(path, seen)
            shown = ", ".join(jsonpath.text(value) for value in values) or "nothing"
            fits = bool(values) if wanted is None else any(jsonpath.text(value) == wanted for value in values)
            return READY if fits else Verdict("progressing", f"waiting for {expression} (found {shown})")

        return found
    if kind == "condition" and separator and rest:
        name, _, status = rest.partition("=")
        status = status or "True"

        def holds(seen: Object) -> Verdict:
            observed = at(seen, "status", "observedGeneration")
            stale = observed is not None and observed < at(seen, "metadata", "generation", default=0)
            for each in at(seen, "status", "conditions", default=()):
                if each.get("type", "").lower() == name.lower():
                    if each.get("status", "").lower() == status.lower() and not stale:
                        return READY
                    return Verdict(
                        "progressing", f"waiting for {expression} (it is {each.get('status')}: {_why(each)})"
                    )
            return Verdict("progressing", f"waiting for {expression} (there is no such condition yet)")

        return holds
    raise ValueError(f"{WAIT_FOR}: expected jsonpath={{.path}}[=value] or condition=Type[=status], got {expression!r}")


# --------------------------------------------------------------------------------------------------- rules of the kinds


def deployment(seen: Object, _: Related) -> Verdict:
    """Its newest ReplicaSet is fully there and available.

    The real provider asks the ReplicaSet itself; its numbers are the ones a Deployment reports for its observed
    generation. It goes on waiting after `ProgressDeadlineExceeded`; we end there, as `kubectl rollout status` does.
    """
    if _unobserved(seen):
        return Verdict("progressing", "waiting for the deployment controller to see it")
    wanted = at(seen, "spec", "replicas", default=1)
    status = at(seen, "status", default={})
    updated, available = status.get("updatedReplicas", 0), status.get("availableReplicas", 0)
    progressing, failure = _status(seen, "Progressing"), _status(seen, "ReplicaFailure")
    if progressing and progressing.get("reason") == "ProgressDeadlineExceeded":
        return Verdict("failed", f"[ProgressDeadlineExceeded] {_why(progressing)}")
    rolled_out = wanted == 0 or (progressing or {}).get("reason") == "NewReplicaSetAvailable"
    if updated >= wanted and available >= wanted and rolled_out and _true(seen, "Available"):
        return READY
    waiting = f"waiting for its pods to be available ({min(updated, available)}/{wanted})"
    return Verdict(
        "progressing", f"{waiting}: {_why(failure)}" if failure and failure.get("status") == "True" else waiting
    )


def stateful_set(seen: Object, _: Related) -> Verdict:
    """All replicas are ready, and with the `RollingUpdate` strategy of the newest revision."""
    if _unobserved(seen):
        return Verdict("progressing", "waiting for the stateful set controller to see it")
    wanted = at(seen, "spec", "replicas", default=1)
    status = at(seen, "status", default={})
    ready, replicas = status.get("readyReplicas", 0), status.get("replicas", 0)
    if ready < wanted or replicas != wanted:
        return Verdict("progressing", f"waiting for its pods to be ready ({ready}/{wanted})")
    partition = at(seen, "spec", "updateStrategy", "rollingUpdate", "partition", default=0)
    if at(seen, "spec", "updateStrategy", "type", default="RollingUpdate") == "OnDelete":
        return READY
    if partition:
        updated = status.get("updatedReplicas", 0)
        enough = updated >= wanted - partition
        return (
            READY
            if enough
            else Verdict("progressing", f"waiting for {wanted - partition} pods of the new revision ({updated})")
        )
    if status.get("currentRevision") != status.get("updateRevision"):
        return Verdict("progressing", "waiting for all pods to be of the new revision")
    return READY


def daemon_set(seen: Object, _: Related) -> Verdict:
    """Every node that should have its pod has one, of the newest template, and available."""
    if _unobserved(seen):
        return Verdict("progressing", "waiting for the daemon set controller to see it")
    status = at(seen, "status", default={})
    wanted = status.get("desiredNumberScheduled", 0)
    counts = [status.get("numberAvailable", 0)]
    if at(seen, "spec", "updateStrategy", "type", default="RollingUpdate") != "OnDelete":
        counts.append(status.get("updatedNumberScheduled", 0))
    return READY if min(counts) >= wanted else Verdict("progressing", f"waiting for its pods ({min(counts)}/{wanted})")


def job(seen: Object, _: Related) -> Verdict:
    """It completed. One that is suspended has nothing to complete."""
    if failed := next(
        (each for each in _conditions(seen) if each.get("type") == "Failed" and each.get("status") == "True"), None
    ):
        return Verdict("failed", f"[{failed.get('reason', 'Failed')}] {_why(failed)}")
    if _true(seen, "Complete") or at(seen, "spec", "suspend") is True:
        return READY
    status = at(seen, "status", default={})
    active, done, wrong = (status.get(key, 0) for key in ("active", "succeeded", "failed"))
    return Verdict("progressing", f"waiting for it to complete ({active} running, {done} succeeded, {wrong} failed)")


def pod(seen: Object, _: Related) -> Verdict:
    """It is ready, or has succeeded. One that failed and may not restart has failed for good."""
    phase = at(seen, "status", "phase")
    if phase == "Succeeded" or (phase == "Running" and _true(seen, "Ready")):
        return READY
    if phase == "Failed":
        return Verdict(
            "failed", "; ".join(pod_problems(seen)) or at(seen, "status", "message", default="the pod failed")
        )
    return Verdict(
        "progressing", "; ".join(pod_problems(seen)) or f"waiting for the pod to be ready (it is {phase or 'new'})"
    )


def service(seen: Object, related: Related) -> Verdict:
    """It targets a ready pod, and has an address where it is a load balancer's.

    The real provider looks at endpoints (its documentation wants none that is not ready, its code any at all). Pods of
    the laptop have loopback addresses, which the API server refuses in EndpointSlices, so we look at the pods, and want
    one that would answer.
    """
    spec = at(seen, "spec", default={})
    kind = spec.get("type", "ClusterIP")
    selects = kind != "ExternalName" and spec.get("clusterIP") != "None" and bool(spec.get("selector"))
    if selects and not any(_answering(each) for each in related.pods):
        return Verdict(
            "progressing",
            "it does not target any ready pod: those it selects are not ready, or spec.selector fits no pod's labels",
        )
    if kind == "LoadBalancer" and not at(seen, "status", "loadBalancer", "ingress"):
        return Verdict("progressing", "waiting for an address")
    return READY


def ingress(seen: Object, _: Related) -> Verdict:
    """It has an address, which on the laptop the gateway gives it.

    The real provider also gives its paths' Services some time to be found, and then warns; the gateway's own warnings
    are events, and told from there.
    """
    given = at(seen, "status", "loadBalancer", "ingress")
    return READY if given else Verdict("progressing", "waiting for an address")


def volume_claim(seen: Object, related: Related) -> Verdict:
    """It is bound, or will be when its first pod comes."""
    phase = at(seen, "status", "phase")
    if phase == "Bound":
        return READY
    if phase == "Lost":
        return Verdict("failed", "its volume is lost")
    if at(related.storage_class, "volumeBindingMode") == "WaitForFirstConsumer":
        return READY
    return Verdict("progressing", f"waiting for it to be bound (it is {phase or 'new'})")


def volume(seen: Object, _: Related) -> Verdict:
    """It can be claimed, or is."""
    phase = at(seen, "status", "phase")
    if phase == "Failed":
        return Verdict("failed", at(seen, "status", "message", default="the volume failed"))
    return (
        READY
        if phase in {"Available", "Bound"}
        else Verdict("progressing", f"waiting for it to be available ({phase})")
    )


def replication_controller(seen: Object, _: Related) -> Verdict:
    """All its replicas are available."""
    wanted, there = at(seen, "spec", "replicas", default=1), at(seen, "status", "availableReplicas", default=0)
    return (
        READY
        if there >= wanted and not _unobserved(seen)
        else Verdict("progressing", f"waiting for its pods ({there}/{wanted})")
    )


def quota(seen: Object, _: Related) -> Verdict:
    """The quota controller has taken up its limits."""
    taken = at(seen, "status", "hard", default={}).keys() >= at(seen, "spec", "hard", default={}).keys()
    return READY if taken else Verdict("progressing", "waiting for the quota controller to see it")


def secret(seen: Object, _: Related) -> Verdict:
    """A service account's token has been filled in."""
    if seen.get("type") == "kubernetes.io/service-account-token" and not at(seen, "data", "token"):
        return Verdict("progressing", "waiting for the token to be filled in")
    return READY


def definition(seen: Object, _: Related) -> Verdict:
    """The API server serves its kind. The real provider does not wait here, and tries the custom resource again."""
    if _true(seen, "Established"):
        return READY
    names = _status(seen, "NamesAccepted")
    if names and names.get("status") == "False":
        return Verdict("failed", f"[{names.get('reason')}] {_why(names)}")
    return Verdict("progressing", "waiting for the API server to serve it")


# What is not here is ready as soon as the API server has it: a Rollout as any custom resource, a ConfigMap.
RULES: Final[dict[tuple[str, str], Await]] = {
    ("apps/v1", "Deployment"): Await(deployment, pods=True),
    ("apps/v1", "StatefulSet"): Await(stateful_set, pods=True),
    ("apps/v1", "DaemonSet"): Await(daemon_set, pods=True),
    ("batch/v1", "Job"): Await(job, pods=True),
    ("v1", "Pod"): Await(pod),
    ("v1", "Service"): Await(service, pods=True),
    ("networking.k8s.io/v1", "Ingress"): Await(ingress),
    ("v1", "PersistentVolumeClaim"): Await(volume_claim, timeout=300, settles=False),
    ("v1", "PersistentVolume"): Await(volume, timeout=300, settles=False),
    ("v1", "ReplicationController"): Await(replication_controller, timeout=300, pods=True, settles=False),
    ("v1", "ResourceQuota"): Await(quota, timeout=300, settles=False),
    ("v1", "Secret"): Await(secret, timeout=300, settles=False),
    ("apiextensions.k8s.io/v1", "CustomResourceDefinition"): Await(definition, timeout=60, settles=False),
}

DELETION_TIMEOUT: Final[dict[str, float]] = {"Deployment": 600, "StatefulSet": 600}
"""Seconds to wait for an object to be gone; 300 for other kinds."""

SKIPS_DELETION: Final = frozenset(
    {"Namespace", "Pod", "ReplicationController", "DaemonSet", "Deployment", "StatefulSet", "Job"}
)
"""Kinds for which `pulumi.com/skipAwait` also means not to wait for deletion, as in the real provider."""


def pod_selector(seen: Object) -> str:
    """The label selector of an object's pods, as the API takes it; empty where it has none."""
    selector = at(seen, "spec", "selector", default={})
    labels = selector.get("matchLabels", {}) if {"matchLabels", "matchExpressions"} & selector.keys() else selector
    parts = [f"{key}={value}" for key, value in labels.items()]
    for each in selector.get("matchExpressions", ()) if isinstance(selector.get("matchExpressions", ()), list) else ():
        key, operator, values = each["key"], each["operator"], ",".join(each.get("values") or ())
        parts.append(
            {
                "In": f"{key} in ({values})",
                "NotIn": f"{key} notin ({values})",
                "Exists": key,
                "DoesNotExist": f"!{key}",
            }[operator]
        )
    return ",".join(parts)


# --------------------------------------------------------------------------------------------------- what the pods say

_HARMLESS: Final = {"ContainerCreating", "PodInitializing"}


def pod_problems(seen: Object) -> list[str]:
    """What keeps a pod from being ready, as far as its status says."""
    problems = []
    scheduled = _status(seen, "PodScheduled")
    if scheduled and scheduled.get("status") == "False":
        problems.append(f"not scheduled: {_why(scheduled)}")
    if at(seen, "status", "phase") == "Failed" and at(seen, "status", "reason"):
        problems.append(f"[{at(seen, 'status', 'reason')}] {at(seen, 'status', 'message', default='')}".rstrip())
    statuses = [
        *at(seen, "status", "initContainerStatuses", default=()),
        *at(seen, "status", "containerStatuses", default=()),
    ]
    for each in statuses:
        name = each.get("name")
        waiting = at(each, "state", "waiting", default={})
        ended = at(each, "state", "terminated") or at(each, "lastState", "terminated") or {}
        if waiting.get("reason") and waiting["reason"] not in _HARMLESS:
            problems.append(f"container {name}: [{waiting['reason']}] {waiting.get('message', '')}".rstrip())
        if ended.get("exitCode"):
            said = f": {ended['message'].strip()}" if ended.get("message") else ""
            problems.append(
                f"container {name} ended with exit code {ended['exitCode']} ({ended.get('reason', 'Error')}){said}"
            )
        elif "running" in each.get("state", {}) and not each.get("ready") and each.get("started") is not False:
            problems.append(f"container {name} runs but is not ready")
    return problems


def problems(seen: Object, pods: Sequence[Object], events: Sequence[Object]) -> list[str]:
    """What pods and events say of an object that is not ready, each thing once.

    Args:
        seen: The object.
        pods: Its pods.
        events: Warnings of its namespace; those of other objects are left out.
    """
    found: dict[str, None] = {}
    for each in sorted(pods, key=name_of):
        for problem in pod_problems(each):
            found[f"pod {name_of(each)}: {problem}"] = None
    ours = {name_of(each) for each in pods}
    own = name_of(seen)
    for event in events:
        involved = event.get("involvedObject", {})
        name, kind = involved.get("name", ""), involved.get("kind", "")
        mine = (kind == seen.get("kind") and name == own) or (kind == "Pod" and name in ours)
        # A ReplicaSet carries the name of its Deployment: that pods are refused is told there.
        made = kind == "ReplicaSet" and seen.get("kind") == "Deployment" and name.rpartition("-")[0] == own
        if (mine or made) and event.get("type") == "Warning":
            found[f"{kind} {name}: [{event.get('reason')}] {event.get('message', '').strip()}"] = None
    return list(found)


# --------------------------------------------------------------------------------------------------------------- small


def _conditions(seen: Object) -> Sequence[Mapping[str, Any]]:
    return at(seen, "status", "conditions", default=()) or ()


def _status(seen: Object, kind: str) -> Mapping[str, Any] | None:
    return next((each for each in _conditions(seen) if each.get("type") == kind), None)


def _true(seen: Object, kind: str) -> bool:
    return (_status(seen, kind) or {}).get("status") == "True"


def _why(condition: Mapping[str, Any]) -> str:
    return str(condition.get("message") or condition.get("reason") or "it does not say why")


def _unobserved(seen: Object) -> bool:
    return bool(at(seen, "status", "observedGeneration", default=0) < at(seen, "metadata", "generation", default=1))


def _answering(seen: Object) -> bool:
    return bool(at(seen, "status", "podIP")) and _true(seen, "Ready") and not at(seen, "metadata", "deletionTimestamp")

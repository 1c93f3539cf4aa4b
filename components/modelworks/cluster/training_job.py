"""A training run as a Kubernetes Job: its manifests, and its status. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

from modelworks import contract, defaults
from modelworks._manifests import (
    RESTRICTED_CONTAINER,
    RESTRICTED_POD,
    SCRATCH_VOLUME,
    cores,
    mebibytes,
    with_additions,
)
from modelworks.contract import Digest
from modelworks.errors import ModelworksError

Object = Mapping[str, Any]
"""A Kubernetes object."""

CONTAINER = "train"
SCRATCH = "/scratch"
"""The one place that a run can write to."""
GRACE_SECONDS = 10
"""Seconds that a run has to end after SIGTERM."""

_UNDISTURBED = {
    "karpenter.sh/do-not-disrupt": "true",
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
}
"""Annotations of pods that must not be moved to fill nodes better: a run would begin again and again. Its time
limit bounds how long they hold a node."""


@dataclass(frozen=True)
class TrainingEnvironment:
    """Where an environment's runs are, and what each may use: what `TrainingCompute` exports."""

    namespace: str
    service_account: str
    artifact_bucket: str
    image: str
    run_cpu_millicores: int
    run_memory_mib: int
    active_deadline_seconds: int
    retries: int
    ttl_seconds_after_finished: int
    pod: Mapping[str, Any]
    """Additions to its pods, as `PodArgs` of the components name them."""
    feature_history: str
    """`s3://bucket/prefix` of the history of features; empty where there is none."""

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Self:
        """The place that a stack's output describes.

        Raises:
            ModelworksError: It was written by another version of modelworks.
        """
        missing = [field.name for field in fields(cls) if field.name not in facts]
        if missing:
            raise ModelworksError(
                f"the environment's output `training` lacks {', '.join(missing)}: another modelworks declared it",
                fix="Bring it up with this one: `modelworks up`.",
            )
        found = {field.name: facts[field.name] for field in fields(cls)}
        return cls(**found | {"pod": {**defaults.POD, **facts["pod"]}})  # an output may come back without its nulls


@dataclass(frozen=True)
class Order:
    """A requested run: its inputs, and who gets its result."""

    environment: str
    model: str
    source: Digest
    """Digest of the project's archive in the artifact bucket."""
    engine: Digest
    """Digest of the modelworks that is to train: the caller's own, so that the image must hold the same."""
    commit: str
    """The commit of the project, with `-dirty` behind it where files differ."""
    by: str
    """Who sent it."""
    data: Digest | None = None
    """Digest of a snapshot to train on, instead of loading."""


def manifest(name: str, place: TrainingEnvironment, order: Order) -> dict[str, Any]:
    """The Job of one run.

    A run that exits with 1 has failed; one that was killed, or lost its store, is retried. A run that a drained or
    preempted node ends does not count as a try.

    Args:
        name: The Job's name.
        place: Where it is to run.
        order: The requested run.
    """
    labels = {
        "app.kubernetes.io/name": CONTAINER,
        "app.kubernetes.io/component": "training",
        "app.kubernetes.io/part-of": "modelworks",
        contract.LABEL_MODEL: order.model,
    }
    notes = {contract.ANNOTATION_COMMIT: order.commit, contract.ANNOTATION_BY: order.by}
    rules = [
        {"action": "FailJob", "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": [1]}},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": place.namespace, "labels": labels, "annotations": notes},
        "spec": {
            "backoffLimit": place.retries,
            "activeDeadlineSeconds": place.active_deadline_seconds,
            "ttlSecondsAfterFinished": place.ttl_seconds_after_finished,
            "podFailurePolicy": {"rules": rules},
            "template": with_additions(
                {"metadata": {"labels": labels, "annotations": _UNDISTURBED}, "spec": _pod(name, place, order)},
                place.pod,
            ),
        },
    }


def _pod(name: str, place: TrainingEnvironment, order: Order) -> dict[str, Any]:
    memory = mebibytes(place.run_memory_mib)
    container = {
        "name": CONTAINER,
        "image": place.image,
        "command": ["python", "-m", "modelworks.lifecycle.pod"],
        "args": [
            f"--job={name}",
            f"--model={order.model}",
            f"--bucket={place.artifact_bucket}",
            f"--source={order.source}",
            f"--engine={order.engine}",
            *([f"--data={order.data}"] if order.data else []),
        ],
        "env": [
            {"name": contract.ENV_ENVIRONMENT, "value": order.environment},
            *_history(place),
            {"name": "HOME", "value": SCRATCH},
            {"name": "TMPDIR", "value": SCRATCH},
        ],
        "resources": {
            "requests": {"cpu": cores(place.run_cpu_millicores), "memory": memory},
            "limits": {"memory": memory},
        },
        "securityContext": RESTRICTED_CONTAINER,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": SCRATCH_VOLUME, "mountPath": SCRATCH}],
    }
    return {
        "restartPolicy": "Never",
        "serviceAccountName": place.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": RESTRICTED_POD,
        "containers": [container],
        "volumes": [{"name": SCRATCH_VOLUME, "emptyDir": {}}],
    }


def _history(place: TrainingEnvironment) -> list[dict[str, str]]:
    return (
        [{"name": contract.FEATURE_HISTORY_VARIABLE, "value": place.feature_history}] if place.feature_history else []
    )


# -- What became of it -----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class RunObjects:
    """The cluster's objects of a run."""

    job: Object | None
    """None when it is gone."""
    pods: Sequence[Object] = ()
    """Oldest first."""
    events: Sequence[Object] = ()
    """Warnings about the Job and its pods."""


@dataclass(frozen=True)
class Ending:
    """How a run ended."""

    exit_code: int
    """0 if it succeeded, else that of the last pod's container; 1 where none is known."""
    reason: str = ""
    fix: str = ""
    refused: bool = False
    """The cluster never started it, and the Job still waits."""


def ending_of(seen: RunObjects, place: TrainingEnvironment) -> Ending | None:
    """How a run ended; None while it is running."""
    if seen.job is None:
        return Ending(1, "its Job was deleted by somebody else", "Train again.")
    conditions = {
        item["type"]: item
        for item in (seen.job.get("status") or {}).get("conditions") or []
        if item["status"] == "True"
    }
    if "Complete" in conditions:
        return Ending(0)
    if "Failed" in conditions:
        return _failed(conditions["Failed"], seen.pods, place)
    forbidden = [item["message"] for item in seen.events if _forbids(item)]
    if forbidden and not seen.pods:
        return _refused(forbidden[-1])
    return None


def _failed(condition: Object, pods: Sequence[Object], place: TrainingEnvironment) -> Ending:
    ended = [found for pod in pods if (found := _terminated(pod))]
    last = ended[-1] if ended else {}
    code = int(last.get("exitCode") or 1)
    if condition.get("reason") == "DeadlineExceeded":
        return Ending(
            code,
            f"it took longer than its time limit of {place.active_deadline_seconds} s",
            "Raise training.active_deadline_seconds in the stack's settings, or train on less.",
        )
    if last.get("reason") == "OOMKilled":
        return Ending(
            code,
            f"it needed more than its {place.run_memory_mib} MiB of memory",
            "Raise training.run_memory_mib in the stack's settings, or train on less.",
        )
    if code > 128:
        return Ending(code, f"it was killed by signal {code - 128}", "Its node may have been out of memory: try again.")
    if last:
        return Ending(code, f"it exited with code {code}")
    return Ending(code, str(condition.get("message") or condition.get("reason") or "its Job failed"))


def _refused(message: str) -> Ending:
    if "exceeded quota" not in message:
        return Ending(1, f"the cluster refuses its pod: {message}", refused=True)
    return Ending(1, quota_text(message), QUOTA_FIX, refused=True)


QUOTA_FIX = "Wait until other runs end, or raise training's cpu_millicores, memory_mib or max_jobs."


def quota_text(message: str) -> str:
    """The API server's message on an exhausted quota, without the object's name."""
    return f"the quota for training is used up ({message.partition('exceeded quota: ')[2]})"


def _forbids(event: Object) -> bool:
    return event.get("reason") == "FailedCreate" and "forbidden" in str(event.get("message"))


def _terminated(pod: Object) -> Object:
    states = [item.get("state") or {} for item in (pod.get("status") or {}).get("containerStatuses") or []]
    return next((state["terminated"] for state in states if "terminated" in state), {})


def started(pod: Object) -> bool:
    """Whether a pod's container runs or ran, so that it has a log."""
    states = [item.get("state") or {} for item in (pod.get("status") or {}).get("containerStatuses") or []]
    return any("running" in state or "terminated" in state for state in states)


def waiting_for(seen: RunObjects) -> str:
    """Why the newest pod does not run yet; empty if it runs, or if no reason is known."""
    if not seen.pods or started(seen.pods[-1]):
        return ""
    status = seen.pods[-1].get("status") or {}
    for item in status.get("containerStatuses") or []:
        waiting = (item.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") not in {None, "ContainerCreating", "PodInitializing"}:
            return ": ".join(filter(None, [waiting["reason"], waiting.get("message", "")]))
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] != "True":
            return str(condition.get("message", ""))
    return ""

"""A rollout as the API server has it: the objects of one endpoint, and what is read from them.

Pure: objects as the API server sends them go in, plain values come out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelworks import contract

Object = Mapping[str, Any]
"""A Kubernetes object."""

HASH = "rollouts-pod-template-hash"
"""Label by which Argo Rollouts ties pods, ReplicaSets and AnalysisRuns to one version of the pod template."""


@dataclass(frozen=True)
class RolloutObjects:
    """The cluster's objects of one endpoint."""

    rollout: Object | None = None
    replica_sets: Sequence[Object] = ()
    runs: Sequence[Object] = ()
    """Its AnalysisRuns."""
    pods: Sequence[Object] = ()
    events: Sequence[Object] = ()
    """Warnings about its pods."""


def declared(rollout: Object) -> str:
    """The digest in the pod template of a Rollout."""
    return str((rollout["metadata"].get("annotations") or {}).get(contract.ANNOTATION_DIGEST, ""))


def pods_of(model: str) -> str:
    """Label selector of an endpoint's objects."""
    return f"app.kubernetes.io/name={model},app.kubernetes.io/component=endpoint"


def is_observed(rollout: Object) -> bool:
    """Whether the rollouts controller has seen the newest specification."""
    observed = str((rollout.get("status") or {}).get("observedGeneration", ""))
    return not observed.isdecimal() or int(observed) >= int(rollout["metadata"].get("generation", 0))


def steps_of(rollout: Object) -> list[Any]:
    """The steps of its canary."""
    strategy = (rollout.get("spec") or {}).get("strategy") or {}
    return list((strategy.get("canary") or {}).get("steps") or [])


def condition_of(seen: RolloutObjects, kind: str) -> Mapping[str, Any]:
    """One condition of the Rollout; empty if it has none of that kind."""
    conditions = ((seen.rollout or {}).get("status") or {}).get("conditions") or []
    return next((item for item in conditions if item["type"] == kind), {})


def releases_by_hash(seen: RolloutObjects) -> dict[str, tuple[str, str]]:
    """Digest and version label by pod hash."""
    found = {}
    for item in seen.replica_sets:
        notes = item["spec"]["template"]["metadata"].get("annotations") or {}
        release = str(notes.get(contract.ANNOTATION_DIGEST, "")), str(notes.get(contract.ANNOTATION_VERSION, ""))
        found[str((item["metadata"].get("labels") or {}).get(HASH, ""))] = release
    return found


def current_pods(seen: RolloutObjects) -> list[Object]:
    """Pods of the version that is wanted."""
    current = ((seen.rollout or {}).get("status") or {}).get("currentPodHash")
    return [pod for pod in seen.pods if (pod["metadata"].get("labels") or {}).get(HASH) == current]


def is_ready(pod: Object) -> bool:
    """Whether a pod is ready."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def newest_first(runs: Iterable[Object]) -> list[Object]:
    """AnalysisRuns, the newest first."""
    return sorted(runs, key=made_at, reverse=True)


def version_of(run: Object) -> str:
    """Short digest of the release that an AnalysisRun is about."""
    return next((str(arg.get("value", "")) for arg in run["spec"].get("args") or [] if arg["name"] == "version"), "")


def is_background(run: Object) -> bool:
    """Whether it runs as long as its rollout."""
    return (run["metadata"].get("labels") or {}).get("rollout-type") == "Background"


def results_of(run: Object) -> list[Any]:
    """Results of an AnalysisRun, one a metric."""
    return list((run.get("status") or {}).get("metricResults") or [])


def made_at(run: Object) -> str:
    """When an object was made."""
    return str(run["metadata"].get("creationTimestamp", ""))


def ended_at(run: Object) -> str:
    """When an AnalysisRun ended; empty while it runs."""
    return str((run.get("status") or {}).get("completedAt", ""))

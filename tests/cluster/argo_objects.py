"""Objects of an endpoint as Argo Rollouts leaves them in a cluster."""

from __future__ import annotations

from modelworks import alarms, contract
from modelworks.cluster.rollout_objects import HASH

OLD, NEW = "sha256:" + "0" * 64, "sha256:" + "a" * 64
STABLE, CANARY = "66f4d79b6d", "5bc5c54cd7"
FIRST, LAST = "2026-11-01T10:00:00Z", "2026-11-01T12:00:00Z"
STEPS = [
    {"setWeight": 20},
    {"analysis": {"templates": [{"templateName": "traffic"}]}},
    {"pause": {"duration": "20s"}},
    {"setWeight": 50},
    {"pause": {"duration": "1m30s"}},
]


def a_rollout(*, of: str = NEW, annotations: dict | None = None, spec: dict | None = None, **status) -> dict:
    return {
        "metadata": {
            "name": "m",
            "generation": 2,
            "annotations": {contract.ANNOTATION_DIGEST: of, **(annotations or {})},
        },
        "spec": {
            "replicas": 1,
            "progressDeadlineSeconds": 60,
            "strategy": {"canary": {"steps": STEPS}},
            **(spec or {}),
        },
        "status": {"observedGeneration": "2", "stableRS": STABLE, "currentPodHash": CANARY, **status},
    }


def weights(canary: int) -> dict:
    return {"weights": {"canary": {"weight": canary}, "stable": {"weight": 100 - canary}}}


def replica_set(pod_hash: str, digest: str, version: str, made: str = FIRST) -> dict:
    notes = {contract.ANNOTATION_DIGEST: digest, contract.ANNOTATION_VERSION: version}
    return {
        "metadata": {"labels": {HASH: pod_hash}, "creationTimestamp": made},
        "spec": {"template": {"metadata": {"annotations": notes}}},
    }


def run(phase: str, results: list, *, made: str = FIRST, ended: str = FIRST, kind: str = "Background") -> dict:
    errors, slow, rejected = alarms.endpoint_alarms(error_ratio=0.02)
    metrics = [alarms.analysis_metric(item, {}, interval_seconds=10) for item in (errors, slow, rejected)]
    metrics.append(alarms.traffic_metric(errors, {}, requests=20, deadline_seconds=20, interval_seconds=10))
    return {
        "metadata": {
            "name": f"run-{made}",
            "labels": {HASH: CANARY, "rollout-type": kind},
            "creationTimestamp": made,
        },
        "spec": {"args": [{"name": "version", "value": contract.short_digest(NEW)}], "metrics": metrics},
        "status": {"phase": phase, "completedAt": ended, "metricResults": results},
    }


def result(name: str, phase: str, *values: str) -> dict:
    measurements = [{"phase": phase, "value": value, "finishedAt": LAST} for value in values]
    return {"name": name, "phase": phase, "measurements": measurements}


def pod(*, ready: bool = False, waiting: dict | None = None, ended: dict | None = None) -> dict:
    return {
        "metadata": {"name": "m-1", "labels": {HASH: CANARY}},
        "status": {
            "conditions": [{"type": "Ready", "status": str(ready)}],
            "containerStatuses": [{"state": {"waiting": waiting or {}}, "lastState": {"terminated": ended}}],
        },
    }


SETS = (replica_set(STABLE, OLD, "1"), replica_set(CANARY, NEW, "2", LAST))
ABORTED = 'RolloutAborted: Rollout aborted update to revision 2: Metric "errors" assessed Failed due to failed (1)'
FAILED = run("Failed", [result("errors", "Failed", "[[0.08 0.031 0]]"), result("slow", "Successful", "[[0]]")])

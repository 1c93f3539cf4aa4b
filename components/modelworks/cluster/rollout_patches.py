"""Merge patches that promote, abort and retry a rollout: those of `kubectl argo rollouts`, but for `RETRY`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from modelworks.cluster.rollout_objects import Object, steps_of


@dataclass(frozen=True)
class Patches:
    """Merge patches of a Rollout, `status` first."""

    status: dict[str, Any] = field(default_factory=dict)
    spec: dict[str, Any] = field(default_factory=dict)


def promotion(rollout: Object, *, full: bool) -> Patches:
    """Patches that continue a rollout past its pause or analysis, or with `full` past all remaining steps.

    The same as `kubectl argo rollouts promote` 1.8 sends, but that nothing is sent where the release has all traffic.
    """
    status, spec = rollout.get("status") or {}, rollout.get("spec") or {}
    if status.get("currentPodHash") == status.get("stableRS"):
        return Patches()
    if full:
        return Patches(status={"promoteFull": True})
    unpause = {"paused": False} if spec.get("paused") else {}
    steps = steps_of(rollout)
    after = min(int(status.get("currentStepIndex") or 0) + 1, len(steps))
    judged = ((status.get("canary") or {}).get("currentStepAnalysisRunStatus") or {}).get("status")
    if judged == "Inconclusive" and status.get("pauseConditions") and status.get("controllerPause"):
        return Patches({"pauseConditions": None, "controllerPause": False, "currentStepIndex": after}, unpause)
    if status.get("pauseConditions"):
        return Patches({"pauseConditions": None}, unpause)
    return Patches({"pauseConditions": None, "currentStepIndex": after} if steps else {}, unpause)


ABORT = Patches(status={"abort": True})
RETRY = Patches(
    status={
        "abort": False,
        "canary": {"currentBackgroundAnalysisRunStatus": None, "currentStepAnalysisRunStatus": None},
    }
)
"""A retry that is judged again.

Argo 1.8 and 1.9 skip analysis while a canary that they gave up waits to be scaled down, and forget in that pass when it
was aborted. A retry in that time, by `kubectl argo rollouts`, keeps the runs of before: a failed one aborts it again
(argoproj/argo-rollouts#2897), and one that was cancelled lets it take all traffic with no alarm looking. Without runs
in its status, the next pass makes new ones.
"""

"""The status of a rollout: from the cluster's objects to the live version, and the reason of an abort.

Pure: objects as the API server sends them go in, plain values come out. The words of Argo Rollouts (a phase, a message,
a measurement) become the words of a release: the desired and the live version, with which share, and what was measured
against which limit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from modelworks.cluster.rollout_failure import Measured, failure_reason, newest_measurement, pod_trouble
from modelworks.cluster.rollout_objects import (
    HASH,
    Object,
    RolloutObjects,
    condition_of,
    current_pods,
    declared,
    ended_at,
    is_background,
    is_observed,
    is_ready,
    made_at,
    releases_by_hash,
    results_of,
    steps_of,
)

State = Literal["Healthy", "Progressing", "Aborted", "Degraded", "OutOfSync", "NotReleased"]
"""In the words of Argo. `Healthy`: all traffic is on the release that the stack's file names. `Progressing`: traffic is
on its way there. `Aborted`: the release was given up, and traffic is on the last good one. `Degraded`: neither.
`OutOfSync`: the cluster has another release than the stack's file. `NotReleased`: the stack's file releases nothing."""

_UNREAD = "GetMetricData"
"""The call by which the controller measures, which AWS's client names in each of its errors."""


@dataclass(frozen=True)
class Share:
    """How much of the traffic one version has."""

    digest: str
    """Of the release; empty if the cluster has none."""
    version: str
    """Its label in the registry; empty without one."""
    percent: int
    since: str
    """When it took all traffic, or while it has not: when its rollout began. ISO 8601, UTC."""

    @property
    def name(self) -> str:
        """Its name for people."""
        return name_of(self.digest, self.version)


@dataclass(frozen=True)
class Status:
    """How one endpoint stands."""

    model: str
    state: State
    desired: str
    """Digest of the release that the stack's file names; empty without one."""
    desired_version: str
    shares: tuple[Share, ...] = ()
    """Largest first. Empty when nothing serves."""
    progress: str = ""
    """Where a rollout that is under way stands."""
    reason: str = ""
    """Why a release was aborted or an endpoint is degraded."""
    measured: tuple[Measured, ...] = ()
    fix: str = ""

    @property
    def ended(self) -> bool:
        """Whether waiting longer would change nothing."""
        return self.state != "Progressing"

    @property
    def good(self) -> bool:
        """Whether the live version is the desired one."""
        return self.state in {"Healthy", "NotReleased"}

    def facts(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        return asdict(self)


def status_of(model: str, desired: str, desired_version: str, seen: RolloutObjects) -> Status:
    """How an endpoint stands.

    Args:
        model: Its model.
        desired: Digest that the stack's file releases; empty without a release.
        desired_version: Its label.
        seen: The cluster's objects.
    """
    shares = _shares(seen)
    stands = Status(model, "NotReleased", desired, desired_version, shares)
    if not desired:
        return stands
    rollout = seen.rollout
    if rollout is None or declared(rollout) != desired:
        told = name_of(declared(rollout), "") if rollout else "nothing"
        return replace(
            stands,
            state="OutOfSync",
            reason=f"the stack's file releases {name_of(desired, desired_version)}, the cluster has {told}",
            fix="Run `modelworks up ENV`.",
        )
    status = rollout.get("status") or {}
    if not is_observed(rollout):
        return replace(stands, state="Progressing", progress="waiting for the rollouts controller to notice")
    if status.get("abort"):
        reason, measured = failure_reason(seen)
        return replace(
            stands,
            state="Aborted",
            reason=reason,
            measured=measured,
            fix=_after_abort(model, measured),
        )
    if status.get("phase") == "Degraded":
        reason, measured = failure_reason(seen)
        return replace(
            stands, state="Degraded", reason=reason, measured=measured, fix=f"See `modelworks logs {model} --env ENV`."
        )
    stable = status.get("stableRS")
    if stable and stable == status.get("currentPodHash") and status.get("phase") == "Healthy":
        return replace(stands, state="Healthy")
    return replace(stands, state="Progressing", progress=_progress(seen))


def _after_abort(model: str, measured: Sequence[Measured]) -> str:
    retry = f"`modelworks rollout retry {model} --env ENV`"
    if any(_UNREAD in item.error for item in measured):
        return (
            "Nothing is known against the release. Let the Argo Rollouts controller read CloudWatch: its role needs "
            f"cloudwatch:{_UNREAD}, and it needs AWS_REGION (docs/guides/aws.md, Argo Rollouts). Then {retry}."
        )
    return f"Release another version, or try it again: {retry}."


def name_of(digest: str, version: str) -> str:
    """The name of a release for people: `version 12 (3f2a9c01d4e8)`."""
    short = digest.removeprefix("sha256:")[:12]
    return f"version {version} ({short})" if version and short else short or "unknown"


def serving(seen: RolloutObjects) -> tuple[str, ...]:
    """Digests of the releases that have traffic."""
    return tuple(share.digest for share in _shares(seen))


def seconds_needed(rollout: Object) -> float:
    """How long a rollout may take by its own steps and deadlines, from the start, with a minute to spare."""
    deadline = float(rollout["spec"].get("progressDeadlineSeconds", 600))
    steps = steps_of(rollout)
    pauses = [_seconds((step.get("pause") or {}).get("duration", 0)) for step in steps]
    # The evidence of a step is waited for as long as the step lasts.
    analyses = sum("analysis" in step for step in steps) * max([120.0, *pauses])
    return 60.0 + deadline + sum(pauses) + analyses


# -- Shares ----------------------------------------------------------------------------------------------------------
def _shares(seen: RolloutObjects) -> tuple[Share, ...]:
    if seen.rollout is None:
        return ()
    status = seen.rollout.get("status") or {}
    weights = (status.get("canary") or {}).get("weights") or {}
    stable, current = str(status.get("stableRS", "")), str(status.get("currentPodHash", ""))
    percent = int((weights.get("canary") or {}).get("weight", 0)) if stable != current else 0
    if not stable:
        return ()
    shares = [_share(seen, stable, 100 - percent, arrived=True)]
    if percent:
        shares.append(_share(seen, current, percent, arrived=False))
    return tuple(sorted((share for share in shares if share.percent), key=lambda share: -share.percent))


def _share(seen: RolloutObjects, pod_hash: str, percent: int, *, arrived: bool) -> Share:
    digest, version = releases_by_hash(seen).get(pod_hash, ("", ""))
    judged = [
        run for run in seen.runs if (run["metadata"].get("labels") or {}).get(HASH) == pod_hash and is_background(run)
    ]
    if arrived and any(ended_at(run) for run in judged):
        return Share(digest, version, percent, max(map(ended_at, judged)))
    if arrived and (done := condition_of(seen, "Completed")).get("status") == "True":
        # Its analysis is being ended only now.
        return Share(digest, version, percent, str(done.get("lastTransitionTime", "")))
    made = [
        str(item["metadata"].get("creationTimestamp", ""))
        for item in seen.replica_sets
        if (item["metadata"].get("labels") or {}).get(HASH) == pod_hash
    ]
    begun = [] if arrived else [made_at(run) for run in judged]
    return Share(digest, version, percent, max(begun or made, default=""))


# -- Where a rollout stands ------------------------------------------------------------------------------------------
def _progress(seen: RolloutObjects) -> str:
    rollout = seen.rollout or {}
    status, steps = rollout.get("status") or {}, steps_of(rollout)
    index = status.get("currentStepIndex")
    ready = [pod for pod in current_pods(seen) if is_ready(pod)]
    if not ready:
        return f"no pod is ready yet: {pod_trouble(current_pods(seen)) or 'starting'}"
    if not status.get("stableRS"):
        return f"{len(ready)} of {rollout['spec'].get('replicas', 1)} pods are ready"
    if index is None or index >= len(steps):
        return "taking all traffic"
    return f"step {index + 1} of {len(steps)}: {_describe(steps[index], seen)}"


def _describe(step: Mapping[str, Any], seen: RolloutObjects) -> str:
    if "setWeight" in step:
        return f"going to {step['setWeight']} % of traffic"
    if "pause" in step:
        duration = (step["pause"] or {}).get("duration")
        return f"watching for {duration}" if duration else "paused until promoted"
    name = (((seen.rollout or {}).get("status") or {}).get("canary") or {}).get("currentStepAnalysisRunStatus") or {}
    run = next((item for item in seen.runs if item["metadata"]["name"] == name.get("name")), None)
    last = (
        [measured for measured in (newest_measurement(run, result) for result in results_of(run)) if measured]
        if run
        else []
    )
    return "gathering evidence" + (f" ({last[0]})" if last else "")


def _seconds(duration: Any) -> float:
    """Seconds of a number, or of a duration in Go's words such as `1m30s`."""
    if isinstance(duration, int | float):
        return float(duration)
    if str(duration).isdecimal():
        return float(duration)
    units = {"h": 3600.0, "m": 60.0, "s": 1.0}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([\d.]+)([hms])", str(duration)))

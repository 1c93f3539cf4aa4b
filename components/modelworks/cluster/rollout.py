"""The status of a rollout: from the cluster's objects to the live version, and the reason of an abort.

Pure: objects as the API server sends them go in, plain values come out. The words of Argo Rollouts (a phase, a message,
a measurement) become the words of a release: what is wanted, what serves, with which share, and what was measured
against which limit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

from modelworks import contract

Object = Mapping[str, Any]
"""A Kubernetes object."""

State = Literal["Healthy", "Progressing", "Aborted", "Degraded", "OutOfSync", "NotReleased"]
"""In the words of Argo. `Healthy`: all traffic is on the release that the stack's file names. `Progressing`: traffic is
on its way there. `Aborted`: the release was given up, and traffic is on the last good one. `Degraded`: neither.
`OutOfSync`: the cluster has another release than the stack's file. `NotReleased`: the stack's file releases nothing."""

HASH = "rollouts-pod-template-hash"
"""Label by which Argo Rollouts ties pods, ReplicaSets and AnalysisRuns to one version of the pod template."""
ANNOTATION_TURNED_BACK = "modelworks.dev/turned-back"
"""On a Rollout: short digests of aborted releases, as `modelworks up` last saw them; oldest first."""
_REMEMBERED = 20
_UNREAD = "GetMetricData"
"""The call by which the controller measures, which AWS's client names in each of its errors."""


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
class Measured:
    """One measurement of an analysis that went wrong."""

    metric: str
    values: tuple[float, ...]
    """Newest first."""
    limit: str
    at: str
    run: str
    """The AnalysisRun."""
    error: str = ""
    """Why nothing could be measured."""

    def __str__(self) -> str:
        if self.error:
            return f"{self.metric} could not be measured: {self.error}"
        if self.metric == "traffic":
            return f"traffic: {sum(self.values):.0f} requests; limit: {self.limit}"
        shown = ", ".join(f"{value:.4g}" for value in self.values) or "nothing"
        return f"{self.metric}: measured {shown} (newest first); limit: {self.limit}"


@dataclass(frozen=True)
class Status:
    """How one endpoint stands."""

    model: str
    state: State
    wanted: str
    """Digest of the release that the stack's file names; empty without one."""
    wanted_version: str
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
        """Whether what serves is what is wanted."""
        return self.state in {"Healthy", "NotReleased"}

    def facts(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        return asdict(self)


def status_of(model: str, wanted: str, wanted_version: str, seen: RolloutObjects) -> Status:
    """How an endpoint stands.

    Args:
        model: Its model.
        wanted: Digest that the stack's file releases; empty without a release.
        wanted_version: Its label.
        seen: The cluster's objects.
    """
    shares = _shares(seen)
    stands = Status(model, "NotReleased", wanted, wanted_version, shares)
    if not wanted:
        return stands
    rollout = seen.rollout
    if rollout is None or declared(rollout) != wanted:
        told = name_of(declared(rollout), "") if rollout else "nothing"
        return replace(
            stands,
            state="OutOfSync",
            reason=f"the stack's file releases {name_of(wanted, wanted_version)}, the cluster has {told}",
            fix="Run `modelworks up ENV`.",
        )
    status = rollout.get("status") or {}
    if not _observed(rollout):
        return replace(stands, state="Progressing", progress="waiting for the rollouts controller to notice")
    if status.get("abort"):
        reason, measured = _why(seen)
        return replace(
            stands,
            state="Aborted",
            reason=reason,
            measured=measured,
            fix=_after_abort(model, measured),
        )
    if status.get("phase") == "Degraded":
        reason, measured = _why(seen)
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


def declared(rollout: Object) -> str:
    """The digest in the pod template of a Rollout."""
    return str((rollout["metadata"].get("annotations") or {}).get(contract.ANNOTATION_DIGEST, ""))


def pods_of(model: str) -> str:
    """Label selector of an endpoint's objects."""
    return f"app.kubernetes.io/name={model},app.kubernetes.io/component=endpoint"


def serving(seen: RolloutObjects) -> tuple[str, ...]:
    """Digests of the releases that have traffic."""
    return tuple(share.digest for share in _shares(seen))


# -- Releases that were turned back ----------------------------------------------------------------------------------
def abort_reason(digest: str, seen: RolloutObjects) -> str:
    """Why this cluster aborted a release before; empty if it was not, or serves now.

    Known from the Rollout itself while it is aborted, from AnalysisRuns that failed (the controller keeps the last
    few), and from what `modelworks up` noted on the Rollout before it rolled out something else.
    """
    if seen.rollout is None:
        return ""
    status, short = seen.rollout.get("status") or {}, contract.short_digest(digest)
    by_hash = _releases(seen)
    if by_hash.get(status.get("stableRS", ""), ("", ""))[0] == digest:
        return ""
    if status.get("abort") and declared(seen.rollout) == digest:
        reason, measured = _why(seen)
        return "; ".join(map(str, measured)) or reason
    runs = [run for run in _newest_first(seen.runs) if _version_of(run) == short]
    failed = [run for run in runs if (run.get("status") or {}).get("phase") in {"Failed", "Error"}]
    # A try that began after it failed is somebody's, who forced it. (For Argo a run that is ended from outside was
    # successful, whether its rollout was promoted or aborted, so that phases alone do not tell.)
    later = [run for run in runs if failed and _is_background(run) and _made(run) > _ended(failed[0])]
    if failed and not later:
        return "; ".join(map(str, _failures(failed[0]))) or str(failed[0]["status"].get("message", ""))
    if short in _noted(seen.rollout):
        return "it was given up before"
    return ""


@dataclass(frozen=True)
class UpdatePlan:
    """How an update treats releases that the cluster aborted before."""

    refused: Mapping[str, str]
    """Why each model's release was aborted, by model: those that keep the update from running."""
    retried: Mapping[str, str]
    """The same for releases that are rolled out in spite of it."""
    notes: Mapping[str, str]
    """The note that each model's Rollout gets before the update."""


def plan_update(digests: Mapping[str, str], seen: Mapping[str, RolloutObjects], *, force: bool) -> UpdatePlan:
    """Plan an update of endpoints, before another release takes an aborted one's place and it is forgotten.

    Args:
        digests: The digests that the stack's file releases, by model.
        seen: The cluster's objects of each model.
        force: Roll out what was aborted before.
    """
    refused: dict[str, str] = {}
    retried: dict[str, str] = {}
    notes: dict[str, str] = {}
    for model, digest in digests.items():
        here = seen[model]
        if here.rollout is None:
            continue
        why = abort_reason(digest, here)
        if why:
            (retried if force else refused)[model] = why
        note = to_forget(digest, here) if why else None
        if note is None and declared(here.rollout) != digest:
            note = to_note(here)
        if note is not None:
            notes[model] = note
    return UpdatePlan(refused, retried, notes)


def to_note(seen: RolloutObjects) -> str | None:
    """The note that keeps the memory of an aborted release when another takes its place; None: no change."""
    if seen.rollout is None or not (seen.rollout.get("status") or {}).get("abort") or not declared(seen.rollout):
        return None
    noted, short = _noted(seen.rollout), contract.short_digest(declared(seen.rollout))
    return None if short in noted else ",".join([*noted, short][-_REMEMBERED:])


def to_forget(digest: str, seen: RolloutObjects) -> str | None:
    """The note without a release that someone forces; None: no change."""
    noted, short = _noted(seen.rollout) if seen.rollout else [], contract.short_digest(digest)
    return ",".join(item for item in noted if item != short) if short in noted else None


def _noted(rollout: Object) -> list[str]:
    note = str((rollout["metadata"].get("annotations") or {}).get(ANNOTATION_TURNED_BACK, ""))
    return [item for item in note.split(",") if item]


# -- What `kubectl argo rollouts` patches ----------------------------------------------------------------------------
@dataclass(frozen=True)
class Patches:
    """Merge patches of a Rollout, `status` first."""

    status: dict[str, Any] = field(default_factory=dict)
    spec: dict[str, Any] = field(default_factory=dict)


def promotion(rollout: Object, *, full: bool) -> Patches:
    """Patches that continue a rollout past its pause or analysis, or with `full` past all remaining steps.

    The same as `kubectl argo rollouts promote` 1.8 sends.
    """
    status, spec = rollout.get("status") or {}, rollout.get("spec") or {}
    if full:
        done = status.get("currentPodHash") == status.get("stableRS")
        return Patches() if done else Patches(status={"promoteFull": True})
    unpause = {"paused": False} if spec.get("paused") else {}
    steps = _steps(rollout)
    after = min(int(status.get("currentStepIndex") or 0) + 1, len(steps))
    judged = ((status.get("canary") or {}).get("currentStepAnalysisRunStatus") or {}).get("status")
    if judged == "Inconclusive" and status.get("pauseConditions") and status.get("controllerPause"):
        return Patches({"pauseConditions": None, "controllerPause": False, "currentStepIndex": after}, unpause)
    if status.get("pauseConditions"):
        return Patches({"pauseConditions": None}, unpause)
    return Patches({"pauseConditions": None, "currentStepIndex": after} if steps else {}, unpause)


ABORT = Patches(status={"abort": True})
RETRY = Patches(status={"abort": False})


def seconds_needed(rollout: Object) -> float:
    """How long a rollout may take by its own steps and deadlines, from the start, with a minute to spare."""
    deadline = float(rollout["spec"].get("progressDeadlineSeconds", 600))
    steps = _steps(rollout)
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
    digest, version = _releases(seen).get(pod_hash, ("", ""))
    judged = [
        run for run in seen.runs if (run["metadata"].get("labels") or {}).get(HASH) == pod_hash and _is_background(run)
    ]
    if arrived and any(_ended(run) for run in judged):
        return Share(digest, version, percent, max(map(_ended, judged)))
    if arrived and (done := _condition(seen, "Completed")).get("status") == "True":
        # Its analysis is being ended only now.
        return Share(digest, version, percent, str(done.get("lastTransitionTime", "")))
    made = [
        str(item["metadata"].get("creationTimestamp", ""))
        for item in seen.replica_sets
        if (item["metadata"].get("labels") or {}).get(HASH) == pod_hash
    ]
    begun = [] if arrived else [_made(run) for run in judged]
    return Share(digest, version, percent, max(begun or made, default=""))


def _condition(seen: RolloutObjects, kind: str) -> Mapping[str, Any]:
    """One condition of the Rollout; empty if it has none of that kind."""
    conditions = ((seen.rollout or {}).get("status") or {}).get("conditions") or []
    return next((item for item in conditions if item["type"] == kind), {})


def _releases(seen: RolloutObjects) -> dict[str, tuple[str, str]]:
    """Digest and version label by pod hash."""
    found = {}
    for item in seen.replica_sets:
        notes = item["spec"]["template"]["metadata"].get("annotations") or {}
        release = str(notes.get(contract.ANNOTATION_DIGEST, "")), str(notes.get(contract.ANNOTATION_VERSION, ""))
        found[str((item["metadata"].get("labels") or {}).get(HASH, ""))] = release
    return found


# -- Where a rollout stands ------------------------------------------------------------------------------------------
def _observed(rollout: Object) -> bool:
    observed = str((rollout.get("status") or {}).get("observedGeneration", ""))
    return not observed.isdecimal() or int(observed) >= int(rollout["metadata"].get("generation", 0))


def _progress(seen: RolloutObjects) -> str:
    rollout = seen.rollout or {}
    status, steps = rollout.get("status") or {}, _steps(rollout)
    index = status.get("currentStepIndex")
    ready = [pod for pod in _current_pods(seen) if _is_ready(pod)]
    if not ready:
        return f"no pod is ready yet: {_pod_trouble(_current_pods(seen)) or 'starting'}"
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
    last = [measured for measured in (_last(run, result) for result in _results(run)) if measured] if run else []
    return "gathering evidence" + (f" ({last[0]})" if last else "")


def _steps(rollout: Object) -> list[Any]:
    strategy = (rollout.get("spec") or {}).get("strategy") or {}
    return list((strategy.get("canary") or {}).get("steps") or [])


def _seconds(duration: Any) -> float:
    """Seconds of a number, or of a duration in Go's words such as `1m30s`."""
    if isinstance(duration, int | float):
        return float(duration)
    if str(duration).isdecimal():
        return float(duration)
    units = {"h": 3600.0, "m": 60.0, "s": 1.0}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([\d.]+)([hms])", str(duration)))


# -- Why it went back ------------------------------------------------------------------------------------------------
def _why(seen: RolloutObjects) -> tuple[str, tuple[Measured, ...]]:
    """In people's words: which measurement against which limit, or why no pod became ready."""
    rollout = seen.rollout or {}
    status = rollout.get("status") or {}
    message = str(status.get("message", ""))
    current = str(status.get("currentPodHash", ""))
    if 'Metric "' in message:
        failed = [
            run
            for run in _newest_first(seen.runs)
            if (run["metadata"].get("labels") or {}).get(HASH) == current
            and (run.get("status") or {}).get("phase") in {"Failed", "Error"}
        ]
        measured = _failures(failed[0]) if failed else ()
        return _plain(message), measured
    if "timed out" in message or _never_ready(seen):
        deadline = rollout["spec"].get("progressDeadlineSeconds", 600)
        trouble = _pod_trouble(_current_pods(seen)) or _last_warning(seen)
        return f"not ready within {deadline} s" + (f": {trouble}" if trouble else ""), ()
    if status.get("abort") and ": " not in message.removeprefix("RolloutAborted: "):
        return "aborted by hand", ()
    return message or "no reason is given", ()


def _never_ready(seen: RolloutObjects) -> bool:
    """Whether an aborted rollout ran into its deadline before any pod was ready.

    Argo reports this for a moment, then overwrites the message with that of any abort. One fact remains: no step was
    analysed, although the deadline passed.
    """
    rollout = seen.rollout or {}
    status = rollout.get("status") or {}
    mine = [run for run in seen.runs if (run["metadata"].get("labels") or {}).get(HASH) == status.get("currentPodHash")]
    begun = max(
        [
            str(item.get("lastTransitionTime", ""))
            for item in status.get("conditions") or []
            if item["type"] == "Completed"
        ]
        + [_made(run) for run in mine if _is_background(run)],
        default="",
    )
    judged = [run for run in mine if not _is_background(run) and _made(run) >= begun]
    if judged or not begun or not status.get("abortedAt"):
        return False
    taken = datetime.fromisoformat(status["abortedAt"]) - datetime.fromisoformat(begun)
    return taken.total_seconds() >= float(rollout["spec"].get("progressDeadlineSeconds", 600)) - 2


def _plain(message: str) -> str:
    """Argo's message without its own name for the event."""
    return message.removeprefix("RolloutAborted: ")


def _failures(run: Object) -> tuple[Measured, ...]:
    """The measurements that failed a run."""
    found = [_last(run, result) for result in _results(run) if result.get("phase") in {"Failed", "Error"}]
    return tuple(item for item in found if item)


def _results(run: Object) -> list[Any]:
    return list((run.get("status") or {}).get("metricResults") or [])


def _last(run: Object, result: Mapping[str, Any]) -> Measured | None:
    """The newest measurement of a metric, or its newest bad one if the metric went wrong."""
    measurements = result.get("measurements") or []
    bad = [item for item in measurements if item.get("phase") == result.get("phase")]
    last = (bad or measurements)[-1:]
    if not last:
        return None
    values = tuple(
        float(value) for value in re.findall(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", str(last[0].get("value", "")))
    )
    specs = {metric["name"]: metric for metric in run["spec"].get("metrics", [])}
    return Measured(
        str(result["name"]),
        values,
        limit_of(specs.get(result["name"], {})),
        str(last[0].get("finishedAt", "")),
        str(run["metadata"]["name"]),
        error=_trouble(result, last[0]),
    )


def _trouble(result: Mapping[str, Any], measurement: Mapping[str, Any]) -> str:
    """Why nothing was measured; empty if it was."""
    if "Error" in {result.get("phase"), measurement.get("phase")}:
        return str(measurement.get("message") or result.get("message", ""))
    job = (measurement.get("metadata") or {}).get("job-name")
    return f"Job {job} failed, and its log has the reason" if job else ""


def limit_of(metric: Mapping[str, Any]) -> str:
    """The limit of an analysis metric that `alarms` rendered, in people's words."""
    condition = str(metric.get("failureCondition") or metric.get("successCondition") or "")
    if found := re.search(r"\{# (\S+) ([^}]+)\}\) >= (\d+)", condition):
        compared, threshold, datapoints = found.groups()
        return f"{_WORDS.get(compared, compared)} {threshold}, in {datapoints} datapoints"
    if found := re.search(r"sum\(result\[0\]\.Values\) >= (\d+)", condition):
        return f"at least {found[1]} by the deadline"
    return condition or "unknown"


_WORDS = {">": "more than", ">=": "at least", "<": "less than"}


def _current_pods(seen: RolloutObjects) -> list[Object]:
    current = ((seen.rollout or {}).get("status") or {}).get("currentPodHash")
    return [pod for pod in seen.pods if (pod["metadata"].get("labels") or {}).get(HASH) == current]


def _is_ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def _pod_trouble(pods: Sequence[Object]) -> str:
    """Why pods are not ready, by their own status."""
    for pod in pods:
        for container in (pod.get("status") or {}).get("containerStatuses") or []:
            now, before = container.get("state") or {}, container.get("lastState") or {}
            ended, waiting = now.get("terminated") or before.get("terminated"), now.get("waiting") or {}
            if ended:
                said = _said(str(ended.get("message") or ""))
                what = f"{waiting.get('reason', ended.get('reason', ''))}, exit code {ended.get('exitCode')}"
                return f"pod {pod['metadata']['name']}: {what}" + (f": {said}" if said else "")
            if waiting.get("message"):
                return f"pod {pod['metadata']['name']}: {waiting.get('reason')}: {waiting['message']}"
        unready = [
            item
            for item in (pod.get("status") or {}).get("conditions") or []
            if item["type"] == "PodScheduled" and item["status"] == "False"
        ]
        if unready:
            return f"pod {pod['metadata']['name']}: {unready[0].get('message', 'not scheduled')}"
    return ""


def _said(text: str) -> str:
    """The last line that a container wrote; of a structured one its message."""
    last = (text.strip().splitlines() or [""])[-1]
    try:
        line = json.loads(last)
    except ValueError:
        return last
    return str(line.get("message", last)) if isinstance(line, dict) else last


def _last_warning(seen: RolloutObjects) -> str:
    """The newest warning about a pod of the wanted version: what is left when the pods are gone."""
    status = (seen.rollout or {}).get("status") or {}
    part = f"-{status.get('currentPodHash')}-"
    about = [item for item in seen.events if part in f"{(item.get('involvedObject') or {}).get('name', '')}-"]
    if not about:
        return ""
    # A probe that fails is what every start looks like; anything else says more.
    last = max(about, key=lambda item: (item.get("reason") != "Unhealthy", str(item.get("lastTimestamp") or "")))
    return f"pod {last['involvedObject']['name']}: {last.get('reason')}: {last.get('message')}"


# -- AnalysisRuns ----------------------------------------------------------------------------------------------------
def _version_of(run: Object) -> str:
    return next((str(arg.get("value", "")) for arg in run["spec"].get("args") or [] if arg["name"] == "version"), "")


def _is_background(run: Object) -> bool:
    """Whether it runs as long as its rollout."""
    return (run["metadata"].get("labels") or {}).get("rollout-type") == "Background"


def _ended(run: Object) -> str:
    return str((run.get("status") or {}).get("completedAt", ""))


def _made(run: Object) -> str:
    return str(run["metadata"].get("creationTimestamp", ""))


def _newest_first(runs: Iterable[Object]) -> list[Object]:
    return sorted(runs, key=_made, reverse=True)

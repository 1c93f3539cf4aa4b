"""Why a rollout was aborted: which measurement was beyond which limit, or why no pod became ready."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from modelworks.cluster.rollout_objects import (
    HASH,
    Object,
    RolloutObjects,
    current_pods,
    is_background,
    made_at,
    newest_first,
    results_of,
)

_WORDS = {">": "more than", ">=": "at least", "<": "less than"}


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


def failure_reason(seen: RolloutObjects) -> tuple[str, tuple[Measured, ...]]:
    """Which measurement was beyond which limit, or why no pod became ready; with the measurements."""
    rollout = seen.rollout or {}
    status = rollout.get("status") or {}
    message = str(status.get("message", ""))
    current = str(status.get("currentPodHash", ""))
    if 'Metric "' in message:
        failed = [
            run
            for run in newest_first(seen.runs)
            if (run["metadata"].get("labels") or {}).get(HASH) == current
            and (run.get("status") or {}).get("phase") in {"Failed", "Error"}
        ]
        measured = failed_measurements(failed[0]) if failed else ()
        return _plain(message), measured
    if "timed out" in message or _never_ready(seen):
        deadline = rollout["spec"].get("progressDeadlineSeconds", 600)
        trouble = pod_trouble(current_pods(seen)) or _last_warning(seen)
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
        + [made_at(run) for run in mine if is_background(run)],
        default="",
    )
    judged = [run for run in mine if not is_background(run) and made_at(run) >= begun]
    if judged or not begun or not status.get("abortedAt"):
        return False
    taken = datetime.fromisoformat(status["abortedAt"]) - datetime.fromisoformat(begun)
    return taken.total_seconds() >= float(rollout["spec"].get("progressDeadlineSeconds", 600)) - 2


def _plain(message: str) -> str:
    """Argo's message without its own name for the event."""
    return message.removeprefix("RolloutAborted: ")


def pod_trouble(pods: Sequence[Object]) -> str:
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


def failed_measurements(run: Object) -> tuple[Measured, ...]:
    """The measurements that failed a run."""
    found = [
        newest_measurement(run, result) for result in results_of(run) if result.get("phase") in {"Failed", "Error"}
    ]
    return tuple(item for item in found if item)


def newest_measurement(run: Object, result: Mapping[str, Any]) -> Measured | None:
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

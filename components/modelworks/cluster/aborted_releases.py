"""Releases that a cluster aborted before, so that an update does not roll one out again unasked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modelworks import contract
from modelworks.cluster.rollout_failure import failed_measurements, failure_reason
from modelworks.cluster.rollout_objects import (
    Object,
    RolloutObjects,
    declared,
    ended_at,
    is_background,
    made_at,
    newest_first,
    releases_by_hash,
    version_of,
)

ANNOTATION_TURNED_BACK = "modelworks.dev/turned-back"
"""On a Rollout: short digests of aborted releases, as `modelworks up` last saw them; oldest first."""
_REMEMBERED = 20


def abort_reason(digest: str, seen: RolloutObjects) -> str:
    """Why this cluster aborted a release before; empty if it was not, or serves now.

    Known from the Rollout itself while it is aborted, from AnalysisRuns that failed (the controller keeps the last
    few), and from what `modelworks up` noted on the Rollout before it rolled out something else.
    """
    if seen.rollout is None:
        return ""
    status, short = seen.rollout.get("status") or {}, contract.short_digest(digest)
    by_hash = releases_by_hash(seen)
    if by_hash.get(status.get("stableRS", ""), ("", ""))[0] == digest:
        return ""
    if status.get("abort") and declared(seen.rollout) == digest:
        reason, measured = failure_reason(seen)
        return "; ".join(map(str, measured)) or reason
    runs = [run for run in newest_first(seen.runs) if version_of(run) == short]
    failed = [run for run in runs if (run.get("status") or {}).get("phase") in {"Failed", "Error"}]
    # A try that began after it failed is somebody's, who forced it. (For Argo a run that is ended from outside was
    # successful, whether its rollout was promoted or aborted, so that phases alone do not tell.)
    later = [run for run in runs if failed and is_background(run) and made_at(run) > ended_at(failed[0])]
    if failed and not later:
        return "; ".join(map(str, failed_measurements(failed[0]))) or str(failed[0]["status"].get("message", ""))
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

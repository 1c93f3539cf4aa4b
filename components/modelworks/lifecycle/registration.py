"""From a bundle to a version of a registry, and from a version to what an environment releases.

Everything here takes a registry and a stack's file, so that a step of a pipeline registers, releases and rolls back as
the command line does:

    registry = Registry("dev", uri, password, bucket=…, artifacts=…, session=boto3.Session())
    version = register(latest_run("churn", home), home, registry, Path("stacks/Pulumi.dev.yaml"))
    release(registry, Path("stacks/Pulumi.dev.yaml"), version)
"""

from __future__ import annotations

import getpass
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelworks.contract import Digest
from modelworks.errors import ModelworksError
from modelworks.lifecycle.aliases import move_aliases, note_release, was_released
from modelworks.lifecycle.bundle import make_key, open_built, sign
from modelworks.lifecycle.data import SnapshotStore
from modelworks.lifecycle.gates import SOURCE, policy_of
from modelworks.lifecycle.registry import Registry, Version, lineage_of
from modelworks.lifecycle.release import read_releases, set_release
from modelworks.lifecycle.run_gates import read_gates, run_gates
from modelworks.lifecycle.runs import Home, TrainedModel
from modelworks.settings import RELEASES_KEY, Release

if TYPE_CHECKING:
    from modelworks.lifecycle.child_process import Progress


def register(
    run: TrainedModel,
    home: Home,
    registry: Registry,
    stack_file: Path,
    *,
    override: str = "",
    progress: Progress | None = None,
) -> Version:
    """Judge a bundled run for an environment, and register it there with the rows and the project it was made from.

    Registering twice is registering once; the second time also puts back what the store lost.

    Args:
        run: The run, bundled.
        home: Where its rows are.
        registry: Of the environment.
        stack_file: The environment's: it names the champion that the bundle is compared with.
        override: A reason to go on in spite of gates that do not hold.
        progress: Called at every step.

    Raises:
        ModelworksError: A gate is refused, or the registry is unreachable.
    """
    built = open_built(run)
    sign(built, make_key(home.root / "signing"))
    known = next((version for version in registry.versions(run.model) if version.digest == built.digest), None)
    report = read_gates(run, registry.environment) if known and not override else None
    if report is None or report.digest != built.digest:
        champion = fetch_champion(registry, stack_file, run.model, built.digest, home.root / "champions")
        report = run_gates(
            run, built, home, registry.environment, champion=champion, override=override, progress=progress
        )
    report.require()
    if not registry.has_data(data := Digest(run.inputs["data"])):
        registry.keep_data(data, SnapshotStore(home.data, home.data_store).get(data).path)
    project = registry.keep_project(run)
    if known is None:
        facts = lineage_of(run, built, report, project=project, mlflow_run=registry.track(run, built))
        return registry.register(facts, built.path, built.signature)
    version = registry.register(known.facts, built.path, built.signature)
    if report.override:
        judged = lineage_of(run, built, report, project=project)
        version = registry.note(version, gates=judged["gates"], overrides=judged["overrides"])
    return version


def fetch_champion(registry: Registry, stack_file: Path, model: str, digest: Digest, folder: Path) -> Path | None:
    """The bundle that an environment releases, downloaded into `folder`; None if it is `digest` itself, or nothing.

    Raises:
        ModelworksError: It cannot be had, or its bytes are not the digest's.
    """
    line = read_releases(stack_file).get(model)
    if line is None or line.digest == digest:
        return None
    return registry.fetch(model, Digest(line.digest), folder)[0]


def apply_policy(version: Version, environment: str, override: str) -> dict[str, Any]:
    """Apply an environment's policy to the verdicts that a version carries.

    Args:
        version: The version.
        environment: Where it is to be released.
        override: A reason to go on in spite of what is refused.

    Returns:
        The override for the version's lineage; none if no gate had to be overridden.

    Raises:
        ModelworksError: The environment refuses it, and there is no override.
    """
    policy, facts = policy_of(environment), version.facts
    refused = [
        f"{gate['verdict']}: {gate['subject']}: {gate['message']}"
        + ("" if gate["number"] is None else f" (it is {gate['number']:.4g}, the limit {gate['limit']:g})")
        for gate in facts["gates"]
        if gate["gate"] != SOURCE and policy.action(gate["gate"], gate["verdict"]) == "refuse"
    ]
    if facts["dirty"] and policy.dirty == "refuse":
        refused.append("trained from a tree that differs from its commit")
    if not refused:
        return {}
    if not override:
        raise ModelworksError(
            f"{environment} refuses {version.model} {version.version}:\n" + "\n".join(f"  {item}" for item in refused),
            fix="Improve the model, or take responsibility with --override REASON, which is recorded and shown.",
        )
    now = datetime.now(UTC).isoformat(timespec="seconds")
    decision = {"environment": environment, "reason": override, "by": getpass.getuser(), "at": now, "gates": refused}
    return {"overrides": [*facts.get("overrides", []), decision]}


def release(registry: Registry, stack_file: Path, version: Version) -> bool:
    """Make a version what an environment releases: a line of its stack's file, then lineage and aliases after it.

    Args:
        registry: Of the environment.
        stack_file: The environment's.
        version: The version.

    Returns:
        Whether the line changed.

    Raises:
        ModelworksError: The file cannot be read or written, or would break a rule; it is untouched then.
    """
    changed = write_release(stack_file, version)
    follow_release(registry, version, changed=changed)
    return changed


def write_release(stack_file: Path, version: Version) -> bool:
    """Write the release line of a version, with the overrides that it was released by. Returns whether it changed.

    Raises:
        ModelworksError: The file cannot be read or written, or would break a rule; it is untouched then.
    """
    overrides = "; ".join(f"{item['reason']} ({item['by']})" for item in version.facts.get("overrides", []))
    line = Release(digest=version.digest, version=version.version, override=overrides or None)
    return set_release(stack_file, version.model, line)


def follow_release(registry: Registry, version: Version, *, changed: bool) -> None:
    """Let lineage and aliases follow a release line; `champion` moves when the traffic does.

    Args:
        registry: Of the environment.
        version: The version that its stack file releases.
        changed: Whether that is new. An earlier try that broke behind the line is completed in any case.

    Raises:
        ModelworksError: The registry is unreachable, or refuses.
    """
    if changed or not was_released(version, registry.environment):
        note_release(registry, version, registry.environment)
    move_aliases(registry, version.model, version.digest, serves=False)


def previous_release(updates: Iterable[Mapping[str, Any]], model: str, current: Release | None) -> Release | None:
    """The previous release of an environment, by the engine's own history of its stack (`pulumi stack history --json`).

    Args:
        updates: The history, newest first.
        model: The model.
        current: The current release.

    Returns:
        The last release of another bundle that an update brought up; None if there is none.
    """
    for update in updates:
        if update.get("kind") != "update" or update.get("result") != "succeeded":
            continue
        value = update.get("config", {}).get(RELEASES_KEY, {})
        lines = value.get("objectValue") or json.loads(value.get("value") or "{}")
        line = lines.get(model)
        if line and (current is None or line["digest"] != current.digest):
            return Release.model_validate(line)
    return None

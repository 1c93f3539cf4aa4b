"""From a bundle to a version of a registry, and from a version to what an environment releases.

Everything here takes a registry and a stack's file, so that a step of a pipeline registers, releases and rolls back as
the command line does:

    registry = Registry(uri, password, Store("dev", bucket=…, artifacts=…, session=boto3.Session()))
    version = register(latest_run("churn", home), home, registry, Path("stacks/Pulumi.dev.yaml"))
    release(registry, Path("stacks/Pulumi.dev.yaml"), version)
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelworks.contract import Digest
from modelworks.errors import ModelworksError
from modelworks.lifecycle.aliases import Move, move_aliases
from modelworks.lifecycle.bundle import open_built, sign
from modelworks.lifecycle.comparison import (
    champion_of,
    fetch_champion,
    fetch_kept,
    has_champion_verdict,
    judged_again,
)
from modelworks.lifecycle.data import SnapshotStore
from modelworks.lifecycle.feature_services import features_of, require_features, require_service
from modelworks.lifecycle.gates import SOURCE, policy_of
from modelworks.lifecycle.history import (
    champions,
    is_broken_rollback,
    is_last_release,
    note_release,
    note_rollback,
    way_back,
)
from modelworks.lifecycle.identity import person, person_at
from modelworks.lifecycle.registry import Registry
from modelworks.lifecycle.release import read_releases, set_release
from modelworks.lifecycle.run_gates import read_gates, run_gates
from modelworks.lifecycle.runs import Home, TrainedModel
from modelworks.lifecycle.signing import make_key, read_key
from modelworks.lifecycle.version import Version, lineage_of
from modelworks.runtime.signature import SigningKey
from modelworks.settings import Release

if TYPE_CHECKING:
    from modelworks.lifecycle.child_process import Progress


def register(
    run: TrainedModel,
    home: Home,
    registry: Registry,
    stack_file: Path,
    *,
    override: str = "",
    signing_key: SigningKey | None = None,
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
        signing_key: Signs the bundle; default: the home's own key, made on first use. See `signing.open_key`.
        progress: Called at every step.

    Raises:
        ModelworksError: The environment does not trust the key, a gate is refused, or the registry is unreachable.
    """
    built = open_built(run)
    sign(built, signing_key or read_key(make_key(home.root / "signing")))
    registry.store.require_trust(run.model, built.digest, built.signature.read_bytes())
    known = next((version for version in registry.versions(run.model) if version.digest == built.digest), None)
    report = read_gates(run, registry.environment) if known and not override else None
    if report is None or report.digest != built.digest:
        champion = fetch_champion(registry, stack_file, run.model, built.digest, home.root / "champions")
        report = run_gates(
            run, built, home, registry.environment, champion=champion, override=override, progress=progress
        )
    report.require()
    if not registry.store.has_data(data := Digest(run.inputs["data"])):
        registry.store.keep_data(data, SnapshotStore(home.data, home.data_store).get(data).path)
    project = registry.store.keep_project(run)
    if known is None:
        facts = lineage_of(run, built, report, project=project, mlflow_run=registry.track(run, built))
        return registry.register({**facts, **features_of(run, built)}, built.path, built.signature)
    version = registry.register(known.facts, built.path, built.signature)
    if report.override:
        judged = lineage_of(run, built, report, project=project)
        version = registry.note(version, gates=judged["gates"], overrides=judged["overrides"])
    return version


def judge_for_release(
    registry: Registry,
    stack_file: Path,
    version: Version,
    home: Home,
    *,
    override: str = "",
    progress: Progress | None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> Version:
    """Hold a registered version to its environment's policy, compared with the champion of now.

    Verdicts against a champion of the past are evaluated again. An override at registration holds until then.

    Args:
        registry: Of the environment.
        stack_file: The environment's.
        version: The version.
        home: Where data is looked for that the environment does not keep.
        override: A reason to go on in spite of what is refused.
        progress: Called at every step.
        warn: Called with each problem that does not stop the release.

    Returns:
        The version, with what was decided in its lineage.

    Raises:
        ModelworksError: The environment refuses it, lacks the stored features that it reads, or a registry is
            unreachable.
    """
    require_features(version, stack_file)
    champion = champion_of(registry, stack_file, version.model) or ""
    decided: dict[str, Any] = {}
    if champion not in {version.digest, version.facts["champion"]} and has_champion_verdict(version):
        with tempfile.TemporaryDirectory(prefix="modelworks-release-") as folder:
            kept = fetch_kept(version, registry, home, Path(folder), warn)
            rivals = partial(
                fetch_champion, registry, stack_file, version.model, version.digest, Path(folder) / "champion"
            )
            decided = {"gates": judged_again(version, kept, rivals, progress), "champion": champion}
    if decided or override or not version.facts.get("overrides"):
        judged = replace(version, facts={**version.facts, **decided})
        by = person_at(registry.store.session) if override else ""
        decided |= apply_policy(judged, registry.environment, override, by)
    return registry.note(version, **decided)


def apply_policy(version: Version, environment: str, override: str, by: str = "") -> dict[str, Any]:
    """Apply an environment's policy to the verdicts that a version carries.

    Args:
        version: The version.
        environment: Where it is to be released.
        override: A reason to go on in spite of what is refused.
        by: The person who decides. Default: the caller, by git.

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
    decision = {"environment": environment, "reason": override, "by": by or person(), "at": now, "gates": refused}
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
        ModelworksError: The environment does not trust the bundle's signature, or `write_release` refuses; the file is
            untouched then.
    """
    registry.store.require_trusted_release(version.model, version.digest)
    changed = write_release(stack_file, version)
    follow_release(registry, version, changed=changed)
    return changed


def write_release(stack_file: Path, version: Version) -> bool:
    """Write the release line of a version, with the overrides that it was released by. Returns whether it changed.

    Raises:
        ModelworksError: The file cannot be read or written, or would break a rule, or the endpoint does not name the
            feature service that the version reads; it is untouched then.
    """
    require_service(version, stack_file)
    overrides = "; ".join(f"{item['reason']} ({item['by']})" for item in version.facts.get("overrides", []))
    line = Release(digest=version.digest, version=version.version, override=overrides or None)
    return set_release(stack_file, version.model, line)


def follow_release(registry: Registry, version: Version, *, changed: bool, serves: bool = False) -> list[Move]:
    """Let lineage and aliases follow a release line; `champion` moves when the traffic does.

    Args:
        registry: Of the environment.
        version: The version that its stack file releases.
        changed: Whether that is new. An earlier try that broke behind the line is completed in any case.
        serves: Whether all traffic is on it.

    Returns:
        The aliases that moved.

    Raises:
        ModelworksError: The registry is unreachable, or refuses.
    """
    moved = move_aliases(registry, version.model, version.digest, serves=serves)
    # The last step: a release that the lineage has is complete.
    latest = registry.find(version.model, version.digest)
    if changed or not is_last_release(latest, registry.versions(version.model), registry.environment):
        note_release(registry, latest, registry.environment)
    return moved


def roll_back(registry: Registry, stack_file: Path, model: str, to: str = "") -> tuple[Version, bool]:
    """Return to the last champion of an environment: a line of its stack's file, then lineage and aliases after it.

    The version that it leaves is recorded as rolled back, so that no later rollback leads to it.

    Args:
        registry: Of the environment.
        stack_file: The environment's.
        model: The model.
        to: Another version that was champion there: its number, alias or digest.

    Returns:
        The version that is released now, and whether the line changed.

    Raises:
        ModelworksError: No such version was champion there, or the file cannot be written; the line is unchanged then.
    """
    versions, line = registry.versions(model), read_releases(stack_file).get(model)
    current = next((each for each in versions if line and each.digest == line.digest), None)
    if current and not to and is_broken_rollback(current, versions, registry.environment):
        follow_release(registry, current, changed=True)
        return current, False
    version = _champion(registry, versions, model, to, line.digest if line else "")
    # Before anything is noted: a rollback that is refused left nothing behind.
    require_service(version, stack_file)
    registry.store.require_trusted_release(version.model, version.digest)
    if current and current.digest != version.digest:
        note_rollback(registry, current, version.digest)
    return version, release(registry, stack_file, version)


def _champion(registry: Registry, versions: Sequence[Version], model: str, which: str, current: str) -> Version:
    """The version that a rollback leads to."""
    environment = registry.environment
    were = champions(versions, environment)
    listed = ", ".join(str(each.version) for each in were) or "none"
    if which:
        named = registry.find(model, which)
        if named.digest not in {each.digest for each in were}:
            raise ModelworksError(
                f"{model} {named.version} was never the champion of {environment}; its champions were: {listed}",
                fix="Return to one of them, or release or promote that version: its gates are evaluated then.",
            )
        return named
    if (found := way_back(versions, environment, current)) is None:
        raise ModelworksError(
            f"{environment} has no version of {model} to return to: its champions were: {listed}, and each is "
            "released now or was rolled back",
            fix=f"Release another version, or name one of them: `modelworks rollback {model} --env {environment} "
            "--to VERSION`.",
        )
    return found

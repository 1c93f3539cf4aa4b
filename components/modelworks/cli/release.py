"""`register`, `release` and `rollback`: how a bundle becomes what serves."""

from __future__ import annotations

import getpass
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelworks import contract
from modelworks.cli.console import Env, Json, Model, Override, out, progress
from modelworks.cli.context import Target
from modelworks.cli.lineage import facts_of
from modelworks.errors import ModelworksError
from modelworks.project import project_root
from modelworks.settings import Release

if TYPE_CHECKING:
    from modelworks.lifecycle.child_process import Progress
    from modelworks.lifecycle.registry import Version


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("register")(register_model)
    app.command("release")(release)
    app.command("rollback")(rollback)


def register_model(model: Model, *, env: Env = "local", override: Override = "", as_json: Json = False) -> None:
    """Keep the last bundle of a model in an environment's store, and name it as a version with its whole lineage.

    Its gates are judged for that environment first. Registering twice is registering once.

    Example: `modelworks register flight-delay --env dev`.
    """
    version = registered(Target.of(env), model, override, progress)
    if as_json:
        print(json.dumps(facts_of(version), indent=2))
        return
    out.print(f"{model} version {version.version} in {env}: {version.digest}", soft_wrap=True)
    out.print(f"next: [bold]modelworks release {model} --env {env}[/]")


def release(
    model: Model,
    *,
    env: Env = "local",
    version: Annotated[str, typer.Option("--version", help="Number, alias or digest. Default: the newest.")] = "",
    override: Override = "",
) -> None:
    """Make a registered version what an environment serves: one line of its stack's config, nothing else.

    Only `local` and the first environment are released to directly; others are promoted to.

    Example: `modelworks release flight-delay --env local`, then `modelworks up local`.
    """
    from modelworks.lifecycle.release import read_order

    order = read_order(project_root())
    if env in order[1:]:
        raise ModelworksError(
            f"{env} is not released to directly: a version comes up through {' → '.join(order)}",
            fix=f"Run `modelworks promote {model} --from {order[order.index(env) - 1]} --to {env}`.",
        )
    target = Target.of(env)
    found = target.registry.find(model, version)
    if override or not found.facts.get("overrides"):
        # What was overridden when it was registered here is decided already.
        found = target.registry.note(found, **hold(found, env, override))
    say_release(target, found, released(target, found))


def rollback(model: Model, *, env: Env = "local") -> None:
    """Go back to what served before: the previous release line.

    Example: `modelworks rollback flight-delay --env prod`, then `modelworks up prod`.
    """
    target = Target.of(env)
    now = release_of(target, model)
    previous = _previous(target, model, now)
    found = target.registry.find(model, previous.digest)
    say_release(target, found, released(target, found))


# -- Steps that other commands take too ------------------------------------------------------------------------------
def registered(target: Target, model: str, override: str = "", tell: Progress | None = None) -> Version:
    """Judge the last bundle of a model for an environment, and register it there, with the rows it was trained on.

    Raises:
        ModelworksError: A gate is refused, or the registry does not answer.
    """
    from modelworks.cli.lifecycle import home_here
    from modelworks.lifecycle import bundle as bundles
    from modelworks.lifecycle import data as rows
    from modelworks.lifecycle import load_spec, run_gates, runs
    from modelworks.lifecycle.registry import lineage_of

    spec, home = load_spec(model), home_here()
    run = runs.latest_run(spec.name, home)
    built = bundles.open_built(run)
    bundles.sign(built, bundles.make_key(home.root / "signing"))
    registry = target.registry
    known = [version for version in registry.versions(spec.name) if version.digest == built.digest]
    report = run_gates.read_gates(run, target.environment) if known and not override else None
    if report is None or report.digest != built.digest:
        champion = champion_of(target, spec.name, built.digest, home.root / "champions")
        report = run_gates.run_gates(
            spec, run, built, home, target.environment, champion=champion, override=override, progress=tell
        )
    report.require()
    if not registry.has_data(data := run.inputs["data"]):
        registry.keep_data(data, rows.SnapshotStore(home.data, home.data_store).get(data).path)
    if known:
        # Also puts back what the store lost.
        version = registry.register(known[0].facts, built.path, built.signature)
        if report.override:
            judged = lineage_of(run, built, report)
            version = registry.note(version, gates=judged["gates"], overrides=judged["overrides"])
        return version
    mlflow_run = registry.track(run, built)
    return registry.register(lineage_of(run, built, report, mlflow_run=mlflow_run), built.path, built.signature)


def released(target: Target, version: Version) -> bool:
    """Write the release line and what follows from it.

    Returns:
        Whether the line changed.
    """
    changed = write_line(target.stack_file, version)
    note_release(target, version, changed=changed)
    return changed


def write_line(file: Path, version: Version) -> bool:
    """Make a version what a stack file releases, with the overrides that it owes itself to. Returns whether it was not.

    Raises:
        ModelworksError: The file cannot be read or written, or would break a rule; it is untouched then.
    """
    from modelworks.lifecycle.release import set_release

    overrides = "; ".join(f"{each['reason']} ({each['by']})" for each in version.facts.get("overrides", []))
    line = Release(digest=version.digest, version=version.version, override=overrides or None)
    return set_release(file, version.model, line)


def note_release(target: Target, version: Version, *, changed: bool) -> None:
    """Tell the registry: lineage and the alias `challenger` follow the line, `champion` waits until traffic does."""
    from modelworks.lifecycle.registry import CHALLENGER, CHAMPION

    # A try that broke after the line was written left nothing in the lineage: it is made up for here.
    if changed or not was_released(version, target.environment):
        target.registry.note(version, released=with_release(version, target.environment))
    if CHAMPION in version.aliases:
        # Back to what has the traffic: nothing is under way any more.
        others = target.registry.versions(version.model) if changed else []
        if any(CHALLENGER in each.aliases for each in others):
            target.registry.point(CHALLENGER, None, model=version.model)
    elif CHALLENGER not in version.aliases:
        target.registry.point(CHALLENGER, version, model=version.model)


def was_released(version: Version, environment: str) -> bool:
    """Whether its lineage says that an environment released it."""
    return any(each["environment"] == environment for each in version.facts.get("released", []))


def with_release(version: Version, environment: str) -> list[dict[str, str]]:
    """Its releases, with one more: now, by whoever runs this."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return [*version.facts.get("released", []), {"by": getpass.getuser(), "at": now, "environment": environment}]


def champion_of(target: Target, model: str, digest: str, folder: Path) -> Path | None:
    """The bundle that an environment serves, fetched into `folder`; None if it serves nothing, or `digest` itself."""
    line = release_of(target, model)
    if line is None or line.digest == digest:
        return None
    return target.registry.fetch(model, line.digest, folder)[0]


def release_of(target: Target, model: str) -> Release | None:
    """What a stack's file releases of a model."""
    from modelworks.lifecycle.release import read_releases

    return read_releases(target.stack_file).get(model)


def hold(version: Version, env: str, override: str) -> dict[str, Any]:
    """Apply an environment's policy to the verdicts a version carries.

    Returns:
        What the target's lineage says of the decision.
    """
    from modelworks.lifecycle.gates import policy_of

    policy, facts = policy_of(env), version.facts
    refused = [
        f"{gate['verdict']}: {gate['subject']}: {gate['message']}"
        + ("" if gate["number"] is None else f" (it is {gate['number']:.4g}, the limit {gate['limit']:g})")
        for gate in facts["gates"]
        if {"fail": policy.fail, "inconclusive": policy.inconclusive}.get(gate["verdict"]) == "refuse"
        and gate["gate"] != "SourceGate"
    ]
    if facts["dirty"] and policy.dirty == "refuse":
        refused.append("trained from a tree that differs from its commit")
    if not refused:
        return {}
    if not override:
        raise ModelworksError(
            f"{env} refuses {version.model} {version.version}:\n" + "\n".join(f"  {item}" for item in refused),
            fix="Improve the model, or take responsibility with --override REASON, which is recorded and shown.",
        )
    now = datetime.now(UTC).isoformat(timespec="seconds")
    decision = {"environment": env, "reason": override, "by": getpass.getuser(), "at": now, "gates": refused}
    return {"overrides": [*facts.get("overrides", []), decision]}


def _previous(target: Target, model: str, now: Release | None) -> Release:
    """What was deployed before, by the engine's own history of the stack."""
    history = json.loads(target.engine.ask("stack", "history", "--json", "--stack", target.environment) or "[]")
    for update in history:
        if update.get("kind") != "update" or update.get("result") != "succeeded":
            continue
        value = update.get("config", {}).get("modelworks:releases", {})
        lines = value.get("objectValue") or json.loads(value.get("value") or "{}")
        line = lines.get(model)
        if line and (now is None or line["digest"] != now.digest):
            return Release.model_validate(line)
    raise ModelworksError(f"{target.environment} never released another {model}", fix="There is nothing to go back to.")


def say_release(target: Target, version: Version, changed: bool) -> None:
    """Tell what a stack's file releases now, and what to do next."""
    env = target.environment
    what = f"{version.model} {version.version} ({contract.short_digest(version.digest)})"
    if changed:
        out.print(f"{target.stack_file.name} releases {what}; next: [bold]modelworks up {env}[/]", soft_wrap=True)
    else:
        out.print(f"{target.stack_file.name} releases {what} already: nothing to change", soft_wrap=True)

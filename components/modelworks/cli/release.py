"""`register`, `models`, `lineage`, `release`, `promote` and `rollback`: how a bundle becomes what serves."""

from __future__ import annotations

import getpass
import json
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from modelworks import contract
from modelworks.cli.target import Target
from modelworks.cli.terminal import Env, Json, Model, Override, out, table
from modelworks.errors import ModelworksError
from modelworks.settings import Release

if TYPE_CHECKING:
    from modelworks.lifecycle.registry import Version

ORDER = ("dev", "staging", "prod")
"""A version comes up through these, one after the other. `local` is where things are tried, never promoted from."""

_OF_ONE_ENVIRONMENT = ("mlflow_run", "registered_at", "promoted_from", "promoted_by")
"""Facts that a promoted version does not take along."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("register")(register_model)
    app.command("models")(models)
    app.command("lineage")(lineage)
    app.command("release")(release)
    app.command("promote")(promote)
    app.command("rollback")(rollback)


def register_model(model: Model, *, env: Env = "local", override: Override = "", as_json: Json = False) -> None:
    """Keep the last bundle of a model in an environment's store, and name it as a version with its whole lineage.

    Its gates are judged for that environment first. Registering twice is registering once.

    Example: `modelworks register flight-delay --env dev`.
    """
    version = registered(Target.of(env), model, override)
    if as_json:
        print(json.dumps(_facts(version), indent=2))
        return
    out.print(f"{model} version {version.version} in {env}: {version.digest}", soft_wrap=True)
    out.print(f"next: [bold]modelworks release {model} --env {env}[/]")


def models(*, env: Env = "local", as_json: Json = False) -> None:
    """List the versions of every model that an environment's registry holds.

    Example: `modelworks models --env prod`.
    """
    registry = Target.of(env).registry
    found = [version for model in registry.models() for version in registry.versions(model)]
    if as_json:
        print(json.dumps([_facts(version) for version in found], indent=2))
        return
    rows = table("model", "version", "digest", "aliases", "commit", "registered", "gates")
    for version in found:
        facts = version.facts
        commit = str(facts.get("commit", ""))[:12] + ("-dirty" if facts.get("dirty") else "")
        rows.add_row(
            version.model,
            str(version.version),
            contract.short_digest(version.digest),
            ", ".join(version.aliases),
            commit,
            str(facts.get("registered_at", "")),
            _verdict(facts),
        )
    out.print(rows)


def lineage(
    model: Annotated[str, typer.Argument(help="MODEL, or MODEL@VERSION, an alias or a digest.", metavar="MODEL[@V]")],
    *,
    env: Env = "local",
    as_json: Json = False,
) -> None:
    """Tell what a version is made of: data, code, lock, run, gates, overrides, who released it, where and when.

    With a data digest (`sha256:…`) after the `@`, every version that came from that data.

    Example: `modelworks lineage flight-delay@champion --env prod`.
    """
    name, _, which = model.partition("@")
    registry = Target.of(env).registry
    from_data = [item for item in registry.versions(name) if which and item.facts.get("data") == which]
    found = from_data or [registry.find(name, which)]
    if as_json:
        print(json.dumps([_facts(version) for version in found], indent=2))
        return
    for version in found:
        rows = table("", "")
        for fact, value in _facts(version).items():
            shown = json.dumps(value) if isinstance(value, dict | list) else str(value)
            rows.add_row(fact, escape(shown))
        out.print(rows)


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
    if env in ORDER[1:]:
        raise ModelworksError(
            f"{env} is not released to directly: a version comes up through {' → '.join(ORDER)}",
            fix=f"Run `modelworks promote {model} --from {ORDER[ORDER.index(env) - 1]} --to {env}`.",
        )
    target = Target.of(env)
    found = target.registry.find(model, version)
    _hold(found, env, override)
    _say_release(target, found, released(target, found))


def promote(
    model: Model,
    *,
    source: Annotated[str, typer.Option("--from", help="Environment it serves in now.")],
    to: Annotated[str, typer.Option("--to", help="Environment it is to serve in.")],
    override: Override = "",
    pr: Annotated[bool, typer.Option("--pr", help="Commit the line on a branch of its own, for review.")] = False,
) -> None:
    """Take what serves in one environment to the next: gates, then bundle and lineage, then one line in git.

    The bundle, its signature and its lineage are copied by digest into the target's own store and registry and verified
    there; only then the target's stack file changes. Run `modelworks up` to roll it out.

    Example: `modelworks promote flight-delay --from dev --to staging`.
    """
    _check_order(source, to)
    here, there = Target.of(source), Target.of(to)
    line = _released(here, model)
    if line is None:
        raise ModelworksError(f"{source} releases no {model}", fix=f"Run `modelworks release {model} --env {source}`.")
    version = here.registry.find(model, line.digest)
    gates = _hold(version, to, override)
    with tempfile.TemporaryDirectory(prefix="modelworks-promote-") as scratch:
        bundle, signature = here.registry.fetch(model, line.digest, Path(scratch))
        decided = {"promoted_from": source, "promoted_by": getpass.getuser(), **gates}
        facts = {name: value for name, value in version.facts.items() if name not in _OF_ONE_ENVIRONMENT}
        copied = there.registry.register({**facts, **decided}, bundle, signature)
        # A version that was there already learns who decided what this time.
        missing = {name: value for name, value in decided.items() if copied.facts.get(name) != value}
        copied = there.registry.note(copied, **missing)
        there.registry.fetch(model, line.digest, Path(scratch) / "copied")
    changed = released(there, copied)
    if changed or not _was_released(version, to):
        here.registry.note(version, released=_with_release(version, to))
    _say_release(there, copied, changed)
    if pr and changed:
        _branch(there, copied)


def rollback(model: Model, *, env: Env = "local") -> None:
    """Go back to what served before: the previous release line.

    Example: `modelworks rollback flight-delay --env prod`, then `modelworks up prod`.
    """
    target = Target.of(env)
    now = _released(target, model)
    previous = _previous(target, model, now)
    found = target.registry.find(model, previous.digest)
    _say_release(target, found, released(target, found))


# -- Steps that other commands take too ------------------------------------------------------------------------------
def registered(target: Target, model: str, override: str = "", progress: Any = None) -> Version:
    """Judge the last bundle of a model for an environment, and register it there.

    Raises:
        ModelworksError: A gate is refused, or the registry does not answer.
    """
    from modelworks.cli.lifecycle import _home  # noqa: PLC0415
    from modelworks.lifecycle import bundle as bundles  # noqa: PLC0415
    from modelworks.lifecycle import gates as judging  # noqa: PLC0415
    from modelworks.lifecycle import load_spec, training  # noqa: PLC0415
    from modelworks.lifecycle.registry import lineage_of  # noqa: PLC0415
    from modelworks.lifecycle.tracking import track  # noqa: PLC0415

    spec, home = load_spec(model), _home()
    run = training.latest_run(spec.name, home)
    built = bundles.open_built(run)
    bundles.sign(built, bundles.make_key(home.root / "signing"))
    registry = target.registry
    known = [version for version in registry.versions(spec.name) if version.digest == built.digest]
    report = judging.read_gates(run, target.environment) if known and not override else None
    if report is None or report.digest != built.digest:
        champion = _champion(target, spec.name, built.digest, home.root / "champions")
        report = judging.run_gates(
            spec, run, built, home, target.environment, champion=champion, override=override, progress=progress
        )
    report.require()
    if known:
        # Also puts back what the store lost.
        version = registry.register(known[0].facts, built.path, built.signature)
        if report.override:
            judged = lineage_of(run, built, report)
            version = registry.note(version, gates=judged["gates"], override=judged["override"])
        return version
    mlflow_run = track(run, registry.uri, built)
    return registry.register(lineage_of(run, built, report, mlflow_run=mlflow_run), built.path, built.signature)


def released(target: Target, version: Version) -> bool:
    """Write the release line; the alias `challenger` follows it, `champion` waits until traffic does.

    Returns:
        Whether the line changed.
    """
    from modelworks.lifecycle.registry import CHALLENGER, CHAMPION  # noqa: PLC0415
    from modelworks.lifecycle.release import set_release  # noqa: PLC0415

    changed = set_release(target.stack_file, version.model, Release(digest=version.digest, version=version.version))
    # A try that broke after the line was written left nothing in the lineage: it is made up for here.
    if changed or not _was_released(version, target.environment):
        target.registry.note(version, released=_with_release(version, target.environment))
    if CHAMPION in version.aliases:
        # Back to what has the traffic: nothing is under way any more.
        others = target.registry.versions(version.model) if changed else []
        if any(CHALLENGER in each.aliases for each in others):
            target.registry.point(CHALLENGER, None, model=version.model)
    elif CHALLENGER not in version.aliases:
        target.registry.point(CHALLENGER, version, model=version.model)
    return changed


def _was_released(version: Version, environment: str) -> bool:
    return any(each["environment"] == environment for each in version.facts.get("released", []))


def _with_release(version: Version, environment: str) -> list[dict[str, str]]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return [*version.facts.get("released", []), {"by": getpass.getuser(), "at": now, "environment": environment}]


def _champion(target: Target, model: str, digest: str, folder: Path) -> Path | None:
    line = _released(target, model)
    if line is None or line.digest == digest:
        return None
    return target.registry.fetch(model, line.digest, folder)[0]


def _released(target: Target, model: str) -> Release | None:
    from modelworks.lifecycle.release import read_releases  # noqa: PLC0415

    return read_releases(target.stack_file).get(model)


def _hold(version: Version, env: str, override: str) -> dict[str, Any]:
    """Apply an environment's policy to the verdicts a version carries.

    Returns:
        What the target's lineage says of the decision.
    """
    from modelworks.lifecycle.gates import policy_of  # noqa: PLC0415

    policy, facts = policy_of(env), version.facts
    refused = [
        f"{gate['verdict']}: {gate['subject']} ({gate['number']}, limit {gate['limit']})"
        for gate in facts.get("gates", [])
        if {"fail": policy.fail, "inconclusive": policy.inconclusive}.get(gate["verdict"]) == "refuse"
        and gate["subject"] != "source"
    ]
    if facts.get("dirty") and policy.dirty == "refuse":
        refused.append("trained from a tree that differs from its commit")
    if not refused:
        return {}
    if not override:
        raise ModelworksError(
            f"{env} refuses {version.model} {version.version}:\n" + "\n".join(f"  {item}" for item in refused),
            fix="Improve the model, or take responsibility with --override REASON, which is recorded and shown.",
        )
    return {"override": {"reason": override, "by": getpass.getuser(), "gates": refused}}


def _check_order(source: str, to: str) -> None:
    if source in ORDER and to in ORDER and ORDER.index(to) == ORDER.index(source) + 1:
        return
    raise ModelworksError(
        f"a version is not promoted from {source} to {to}: it comes up through {' → '.join(ORDER)}",
        fix="Promote one step at a time; what was tried in `local` is trained again in the first environment.",
    )


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


def _branch(target: Target, version: Version) -> None:
    """Commit the stack file on a branch of its own, and tell how to push it."""
    file = target.stack_file
    branch = f"release/{target.environment}-{version.model}-{contract.short_digest(version.digest)}"
    message = (
        f"Release {version.model} {version.version} to {target.environment}\n\n"
        f"Digest: {version.digest}\nCommit: {version.facts.get('commit', '')}\nGates: {_verdict(version.facts)}\n"
    )
    for command in (
        ["git", "switch", "--create", branch],
        ["git", "commit", "--message", message, "--", str(file)],
    ):
        done = subprocess.run(command, cwd=file.parent, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode:
            raise ModelworksError(
                f"`{' '.join(command[:2])}` failed: {done.stderr.strip()}",
                fix=f"{file.name} is changed; commit it yourself.",
            )
    out.print(
        f"committed on {branch}; next: [bold]git push --set-upstream origin {branch}[/] and open the request",
        soft_wrap=True,
    )


def _say_release(target: Target, version: Version, changed: bool) -> None:
    env = target.environment
    what = f"{version.model} {version.version} ({contract.short_digest(version.digest)})"
    if changed:
        out.print(f"{target.stack_file.name} releases {what}; next: [bold]modelworks up {env}[/]", soft_wrap=True)
    else:
        out.print(f"{target.stack_file.name} releases {what} already: nothing to change", soft_wrap=True)


def _verdict(facts: dict[str, Any]) -> str:
    verdicts = [gate["verdict"] for gate in facts.get("gates", [])]
    text = f"{verdicts.count('pass')} of {len(verdicts)} pass"
    return f"{text}, overridden" if facts.get("override") else text


def _facts(version: Version) -> dict[str, Any]:
    return {"model": version.model, "version": version.version, "aliases": list(version.aliases), **version.facts}

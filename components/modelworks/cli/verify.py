"""`modelworks verify`: an environment against its code."""

from __future__ import annotations

import importlib.metadata
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from modelworks import contract
from modelworks.cli.console import ENVIRONMENTS, Json, err, out, table
from modelworks.cli.context import EnvArgument, EnvironmentContext, EnvOption, check_engine, environment_of
from modelworks.cli.exit_codes import ExitCode, epilog
from modelworks.errors import ModelworksError

if TYPE_CHECKING:
    from modelworks.cluster.rollout_objects import Object
    from modelworks.settings import Release

_COLOURS = {"ok": "green", "wrong": "red", "unknown": "yellow", "repaired": "cyan"}


@dataclass(frozen=True)
class Finding:
    """The result of a check on one subject."""

    check: str
    subject: str
    verdict: str
    """`ok`, `wrong`, `unknown` (the check could not be performed) or `repaired`."""
    message: str
    fix: str = ""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("verify", rich_help_panel=ENVIRONMENTS, epilog=epilog("verify"))(verify)


def verify(
    environment: EnvArgument = "",
    *,
    env: EnvOption = "",
    repair: Annotated[bool, typer.Option("--repair", help="Repair the registry after an interrupted step.")] = False,
    as_json: Json = False,
) -> None:
    """Check that ENV matches the code: releases, aliases, lineage, packages, tools, cloud and pods.

    Only --repair changes anything, and only in the registry and its lineage in the store; run `modelworks up` to repair
    the rest. A check that cannot be performed is `unknown` and fails the command.

    Example: `modelworks verify staging`.
    """
    target = EnvironmentContext.of(environment_of(environment, env))
    found: list[Finding] = []
    for name, check in _CHECKS.items():
        if err.is_terminal:
            err.print(f"  {name} …", style="dim", end="\r")
        try:
            found += check(target, repair)
        except ModelworksError as error:
            found.append(Finding(name, target.environment, "unknown", error.message, error.fix or ""))
    if as_json:
        print(json.dumps({"environment": target.environment, "findings": [asdict(each) for each in found]}, indent=2))
    else:
        _show(found)
    if any(each.verdict in {"wrong", "unknown"} for each in found):
        raise typer.Exit(ExitCode.FAILED)


# -- Checks ----------------------------------------------------------------------------------------------------------
def _check_releases(target: EnvironmentContext, repair: bool) -> Iterator[Finding]:
    """Each release against the registry and the bytes in the store."""
    from modelworks.lifecycle.history import is_last_release, note_release

    for model, release in _releases(target).items():
        short = contract.short_digest(release.digest)
        versions = target.registry.versions(model)
        known = [each for each in versions if each.digest == release.digest]
        if not known:
            yield Finding(
                "release", model, "wrong", f"{short} is released, but no version of the registry is that bundle",
                f"Register it again, or roll back: `modelworks rollback {model} --env {target.environment}`.",
            )  # fmt: skip
        elif release.version not in {None, known[0].version}:
            yield Finding(
                "release", model, "wrong", f"the line has version {release.version}, the registry {known[0].version}",
                f"Correct the label in {target.stack_file.name}.",
            )  # fmt: skip
        elif known[0].facts["overrides"] and not release.override:
            yield Finding(
                "release", model, "wrong", "its gates were overridden, and the release line omits that",
                f"Release it again: `modelworks release {model} --env {target.environment}`, or promote it again.",
            )  # fmt: skip
        elif not is_last_release(known[0], versions, target.environment):
            if repair:
                note_release(target.registry, known[0], target.environment)
            yield Finding(
                "release", model, "repaired" if repair else "wrong", f"the lineage of {short} lacks this release",
                "" if repair else "Run this with --repair.",
            )  # fmt: skip
        else:
            yield Finding("release", model, "ok", f"version {known[0].version} ({short}) is registered")
        yield _check_bundle(target, model, release)


def _check_bundle(target: EnvironmentContext, model: str, release: Release) -> Finding:
    store = target.registry.store
    with tempfile.TemporaryDirectory(prefix="modelworks-verify-") as scratch:
        try:
            digest = contract.Digest(release.digest)
            store.fetch(model, digest, Path(scratch))
            key = store.require_trusted_release(model, digest)
        except ModelworksError as error:
            return Finding("bundle", model, "wrong", error.message, error.fix or "")
    trusted = "trusted" if store.trusted_keys else "and the environment requires no signature"
    signed = f"signed by key {key}, {trusted}" if key else "without a signature, and the environment requires none"
    return Finding("bundle", model, "ok", f"its bytes in s3://{store.bucket} are the digest's, {signed}")


def _check_lineage(target: EnvironmentContext, repair: bool) -> Iterator[Finding]:
    """The lineage in the store against the registry, which would be rebuilt from it."""
    from modelworks.lifecycle.rebuild import difference

    registry = target.registry
    stored = registry.store.read_lineage()
    for model in registry.models():
        if not (differs := difference(registry, model, stored.get(model, {}))):
            yield Finding("lineage", model, "ok", "the store has what the registry would be rebuilt from")
            continue
        if repair:
            registry.keep_lineage(model)
        verdict, fix = ("repaired", "") if repair else ("wrong", "Run this with --repair.")
        yield Finding("lineage", model, verdict, f"the lineage in the store is not the registry's: {differs}", fix)


def _check_aliases(target: EnvironmentContext, repair: bool) -> Iterator[Finding]:
    """`champion` is what has the traffic, `challenger` what is on its way there."""
    from modelworks.cluster import rollout
    from modelworks.lifecycle import aliases

    cluster = target.cluster()
    for model, release in _releases(target).items():
        versions = target.registry.versions(model)
        state = rollout.status_of(model, release.digest, str(release.version or ""), cluster.seen(model)).state
        wanted = aliases.aliases_for(contract.Digest(release.digest), versions, serves=state == "Healthy")
        wrong = {move.alias: move for move in aliases.moves(wanted, versions)}
        for alias in wanted:
            now = next((version for version in versions if alias in version.aliases), None)
            if alias not in wrong:
                yield Finding("alias", f"{model}@{alias}", "ok", _version_of(now))
                continue
            if repair:
                aliases.point_alias(target.registry, model, wrong[alias])
            yield Finding(
                "alias", f"{model}@{alias}", "repaired" if repair else "wrong",
                f"it was {_version_of(now)}, and should be {_version_of(wrong[alias].wanted)}",
                "" if repair else "Run this with --repair.",
            )  # fmt: skip


def _check_packages(target: EnvironmentContext, repair: bool) -> Iterator[Finding]:  # noqa: ARG001 - checks are called alike
    """The installed packages against the lock, which programs deploy and models train with."""
    from modelworks.lifecycle.lockfile import find_lock

    lock = find_lock(target.engine.project)
    installed = {
        each.metadata["Name"].replace("_", "-").replace(".", "-").lower(): each.version
        for each in importlib.metadata.distributions()
    }
    both = sorted(installed.keys() & lock.packages.keys())
    wrong = [
        f"{name} {installed[name]} (locked: {lock.packages[name]['version']})"
        for name in both
        if "version" in lock.packages[name] and installed[name] != lock.packages[name]["version"]
    ]
    if wrong:
        yield Finding("packages", lock.file.name, "wrong", ", ".join(wrong), "Run `uv sync` with your extras.")
    else:
        yield Finding("packages", lock.file.name, "ok", f"{len(both)} installed packages are the locked ones")


def _check_tools(target: EnvironmentContext, repair: bool) -> Iterator[Finding]:  # noqa: ARG001
    """The engine, and on the laptop every program of its cloud, against their pins."""
    from modelworks.laptop import toolchain

    for state in toolchain.states():
        if target.engine.on_laptop or state.name == "pulumi":
            verdict = "ok" if state.state == "ready" else "wrong"
            fix = "" if verdict == "ok" else "Run `modelworks laptop toolchain --build`."
            yield Finding("tools", state.name, verdict, f"{state.version}, {state.source or state.state}", fix)


def _check_cloud(target: EnvironmentContext, repair: bool) -> Iterator[Finding]:  # noqa: ARG001
    """Program, state and cloud: a refreshed preview must find no change."""
    from modelworks.deploy.preview import Preview

    engine = target.engine
    check_engine(engine)
    code, text = engine.capture("preview", ["--json", "--refresh"])
    try:
        preview = Preview.read(target.environment, text)
    except ValueError as error:
        raise ModelworksError(f"the preview failed with {code}", fix=f"Its log: {engine.log('preview')}") from error
    if code:
        problem = preview.problems[0] if preview.problems else f"exit code {code}"
        raise ModelworksError(f"the preview failed: {problem}", fix=f"Its log: {engine.log('preview')}")
    for change in preview.changes:
        paths = ", ".join(each.path for each in change.differences[:5])
        yield Finding(
            "cloud", f"{change.type} {change.name}", "wrong",
            f"`up` would {change.action} it" + (f": {paths}" if paths else ""),
            f"Run `modelworks up {target.environment}`, or correct the program.",
        )  # fmt: skip
    if not preview.changes:
        yield Finding("cloud", target.environment, "ok", f"{preview.unchanged} resources are as they are declared")


def _check_pods(target: EnvironmentContext, repair: bool) -> Iterator[Finding]:  # noqa: ARG001
    """The digest that each pod carries against the release line."""
    cluster = target.cluster()
    for model, release in _releases(target).items():
        pods = [pod for pod in cluster.seen(model).pods if not pod["metadata"].get("deletionTimestamp")]
        yield from pods_against(model, release.digest, pods, target.environment)


def pods_against(model: str, digest: str, pods: list[Object], environment: str) -> Iterator[Finding]:
    """The digests of the pods against the release."""
    others = [
        pod for pod in pods if (pod["metadata"].get("annotations") or {}).get(contract.ANNOTATION_DIGEST) != digest
    ]
    for pod in others:
        runs = (pod["metadata"].get("annotations") or {}).get(contract.ANNOTATION_DIGEST, "nothing that is ours")
        yield Finding(
            "pods", pod["metadata"]["name"], "wrong", f"runs {runs}, released is {digest}",
            f"`modelworks status {environment} --wait` shows whether a rollout is in progress.",
        )  # fmt: skip
    if not pods:
        yield Finding("pods", model, "wrong", "no pod runs it", f"Run `modelworks up {environment}`.")
    elif not others:
        yield Finding("pods", model, "ok", f"{len(pods)} run the release {contract.short_digest(digest)}")


_CHECKS: Mapping[str, Callable[[Any, bool], Iterator[Finding]]] = {
    "releases": _check_releases,
    "aliases": _check_aliases,
    "lineage": _check_lineage,
    "packages": _check_packages,
    "tools": _check_tools,
    "cloud": _check_cloud,
    "pods": _check_pods,
}


# -- Telling ---------------------------------------------------------------------------------------------------------
def _show(found: list[Finding]) -> None:
    rows = table("", "check", "what", "")
    for each in found:
        message = escape(each.message) + (f"\n[dim]{escape(each.fix)}[/]" if each.fix else "")
        rows.add_row(f"[{_COLOURS[each.verdict]}]{each.verdict}[/]", each.check, escape(each.subject), message)
    out.print(rows)


def _version_of(version: Any) -> str:
    return f"version {version.version} ({contract.short_digest(version.digest)})" if version else "nothing"


def _releases(target: EnvironmentContext) -> dict[str, Release]:
    from modelworks.lifecycle.release import read_releases

    return read_releases(target.stack_file)

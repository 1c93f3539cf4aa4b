"""`rollout`: watch and control a rollout; and the releases that `up` refuses because they were aborted before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from modelworks import contract
from modelworks.cli.console import RELEASES, Json, Model, out
from modelworks.cli.context import DEFAULT_ENVIRONMENT, Env, EnvironmentContext
from modelworks.cli.exit_codes import epilog
from modelworks.cli.status import Timeout, tell
from modelworks.cluster import aborted_releases, argo_controller, rollout, rollout_patches
from modelworks.cluster.client import KubernetesClient
from modelworks.cluster.rollout_objects import Object, RolloutObjects
from modelworks.errors import ModelworksError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from modelworks.settings import Release

rollouts = typer.Typer(name="rollout", help="Watch and control a rollout.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(rollouts, rich_help_panel=RELEASES)


@rollouts.command("watch", epilog=epilog("rollout watch"))
def _watch(model: Model, *, env: Env = DEFAULT_ENVIRONMENT, timeout: Timeout = 0, as_json: Json = False) -> None:
    """Follow a rollout until it ends: `modelworks status --wait` of one model.

    Example: `modelworks rollout watch flight-delay --env dev`.
    """
    tell(EnvironmentContext.of(env), [model], wait=True, timeout=timeout, as_json=as_json)


@rollouts.command("promote", epilog=epilog("rollout promote"))
def _promote(
    model: Model,
    *,
    env: Env = DEFAULT_ENVIRONMENT,
    full: Annotated[bool, typer.Option("--full", help="Skip the remaining steps and analyses.")] = False,
) -> None:
    """Continue a rollout past its current step; with --full, to all traffic at once.

    Example: `modelworks rollout promote flight-delay --env dev --full`.
    """
    cluster, seen = _rollout(env, model)
    if (seen.get("status") or {}).get("abort") and not full:
        raise ModelworksError(
            f"the release of {model} in {env} was aborted: it has no next step",
            fix=f"Try it again from its first step: `modelworks rollout retry {model} --env {env}`.",
        )
    patches = rollout_patches.promotion(seen, full=full)
    if patches == rollout_patches.Patches():
        out.print(f"{model} in {env} already serves its release: there is nothing to promote")
        return
    cluster.patch(seen, patches)
    _next(model, env, "takes all traffic, without further analysis" if full else "continues with its next step")


@rollouts.command("abort", epilog=epilog("rollout abort"))
def _abort(model: Model, *, env: Env = DEFAULT_ENVIRONMENT) -> None:
    """Return all traffic to the stable version, and record the release as aborted.

    Example: `modelworks rollout abort flight-delay --env dev`.
    """
    cluster, seen = _rollout(env, model)
    now = seen.get("status") or {}
    if now.get("stableRS") == now.get("currentPodHash"):
        raise ModelworksError(
            f"{model} has no rollout in progress in {env}: its release takes all traffic",
            fix=f"To serve the previous version: `modelworks rollback {model} --env {env}`.",
        )
    cluster.patch(seen, rollout_patches.ABORT)
    _next(model, env, "goes back to the stable version")


@rollouts.command("retry", epilog=epilog("rollout retry"))
def _retry(model: Model, *, env: Env = DEFAULT_ENVIRONMENT) -> None:
    """Retry an aborted release, from its first step.

    Example: `modelworks rollout retry flight-delay --env dev`.
    """
    cluster, seen = _rollout(env, model)
    if not (seen.get("status") or {}).get("abort"):
        raise ModelworksError(
            f"the rollout of {model} in {env} is not aborted: there is nothing to retry",
            fix=f"Run `modelworks status {env}`.",
        )
    cluster.patch(seen, rollout_patches.RETRY)
    _next(model, env, "is retried")


def prepare_update(target: EnvironmentContext, *, force: bool, say: Callable[[str], None]) -> tuple[str, ...]:
    """Refuse an update after which pods would not start, or that rolls out an aborted release.

    On each Rollout it notes which release the update replaces.

    Args:
        target: The environment.
        force: Roll it out nevertheless.
        say: Called with each message.

    Returns:
        Models whose release is retried after the update, if Argo still has it aborted: see `retry_aborted`.

    Raises:
        ModelworksError: A bundle that serves, or that the stack's file releases, would not be trusted; or a release of
            the file was aborted before, and `force` is false. Nothing was changed.
    """
    if not (releases := _released(target)):
        return ()
    try:
        cluster = target.cluster()
        seen = {model: cluster.seen(model) for model in releases}
    except ModelworksError as error:
        say(f"whether a release was aborted before, and whether pods would trust it, is unknown: {error.message}")
        return ()
    _require_trust(target, releases, seen, say)
    names = {model: rollout.name_of(line.digest, str(line.version or "")) for model, line in releases.items()}
    plan = aborted_releases.plan_update({model: line.digest for model, line in releases.items()}, seen, force=force)
    for model, why in plan.refused.items():
        raise ModelworksError(
            f"{target.environment} aborted {model} {names[model]} before: {why}",
            fix=f"Release another version (`modelworks rollback {model} --env {target.environment}`), or roll it out "
            f"again: `modelworks up {target.environment} --force`.",
        )
    for model, why in plan.retried.items():
        say(f"{model} {names[model]} was aborted before ({why}); --force rolls it out again")
    for model, note in plan.notes.items():
        cluster.annotate(seen[model].rollout or {}, aborted_releases.ANNOTATION_TURNED_BACK, note)
    return tuple(plan.retried)


def _released(target: EnvironmentContext) -> dict[str, Release]:
    """The releases of a stack's file, in an environment that has endpoints already; otherwise none.

    None too where it was never up, or its file cannot be read: the program reports that itself, where it matters.
    """
    from modelworks.lifecycle.release import read_releases

    try:
        releases = read_releases(target.stack_file)
        return releases if releases and target.outputs.get("endpoints") else {}
    except ModelworksError:
        return {}


def check_controller(target: EnvironmentContext, say: Callable[[str], None]) -> None:
    """Refuse an update that releases models where the cluster's own Argo Rollouts controller cannot judge canaries.

    Raises:
        ModelworksError: There is no controller, or it has no region.
    """
    from modelworks.lifecycle.release import read_releases
    from modelworks.stack_config import load

    if target.engine.on_laptop:
        return  # its controller is a process of the laptop
    try:
        settings = load(target.stack_file).settings
        if settings.cluster.install_argo_rollouts or not read_releases(target.stack_file):
            return
    except ModelworksError:
        return  # the program says so itself, with every mistake at once
    try:
        pods = target.cluster("default").pods_of_cluster(argo_controller.SELECTOR)
    except ModelworksError as error:
        say(f"whether the Argo Rollouts controller can judge canaries is unknown: {error.message}")
        return
    verdict = argo_controller.judge(pods)
    if verdict.missing:
        raise ModelworksError(
            f"{verdict.missing}: {target.environment} cannot release a model",
            fix="Let modelworks install it (cluster.install_argo_rollouts: true), or set AWS_REGION and a role with "
            "cloudwatch:GetMetricData on your own (docs/guides/aws.md, Argo Rollouts).",
        )
    for doubt in verdict.doubts:
        say(doubt)


def _require_trust(
    target: EnvironmentContext,
    releases: Mapping[str, Release],
    seen: Mapping[str, RolloutObjects],
    say: Callable[[str], None],
) -> None:
    """Refuse an update after which no pod of a release would start: it has no signature by a key that stays trusted.

    Pods verify a signature when they start. One that runs outlives its key, and the next in its place does not.

    Raises:
        ModelworksError: A bundle that serves, or that the stack's file releases, would not be trusted.
    """
    if not target.trusted_keys:
        return
    try:
        signatures = {
            (model, digest): _signature(target, model, contract.Digest(digest))
            for model, line in releases.items()
            for digest in sorted({line.digest, *filter(None, rollout.serving(seen[model]))})
        }
    except ModelworksError as error:
        say(f"whether pods would trust their bundles is unknown: {error.message}")
        return
    for (model, digest), signature in signatures.items():
        if why := _distrust(model, contract.Digest(digest), signature, target.trusted_keys):
            raise ModelworksError(
                f"no pod of {model} {contract.short_digest(digest)} in {target.environment} would start after this "
                f"update: {why}",
                fix="Leave its key in trusted_keys until a version with another signature has all traffic (`modelworks "
                f"status {target.environment} --wait`), or sign the version by a key that stays: `--signing-key` of "
                "`register` and `promote`.",
            )


def _signature(target: EnvironmentContext, model: str, digest: contract.Digest) -> bytes | None:
    """The signature of a bundle in the environment's store; None if it has none."""
    from botocore.exceptions import BotoCoreError, ClientError  # only where there is an account

    from modelworks.lifecycle.signing import read_stored_signature

    try:
        return read_stored_signature(target.session.client("s3"), target.output("bundle_bucket"), model, digest)
    except (BotoCoreError, ClientError) as error:
        raise ModelworksError(f"{contract.signature_key(model, digest)} cannot be read: {error}") from error


def _distrust(model: str, digest: contract.Digest, signature: bytes | None, trusted_keys: Mapping[str, str]) -> str:
    """Why a pod that trusts these keys would not start with a bundle; empty if it would."""
    from modelworks.runtime.signature import verify

    if signature is None:
        return "it has no signature"
    try:
        verify(model, digest, signature, trusted_keys)
    except ModelworksError as error:
        return error.message
    return ""


def retry_aborted(target: EnvironmentContext, models: Sequence[str]) -> None:
    """Let Argo try these releases again from their first step, where it still has them aborted."""
    for model in models:
        cluster = target.cluster()
        aborted = cluster.seen(model).rollout
        if aborted and (aborted.get("status") or {}).get("abort"):
            cluster.patch(aborted, rollout_patches.RETRY)


# -- Where it is -----------------------------------------------------------------------------------------------------
def _rollout(environment: str, model: str) -> tuple[KubernetesClient, Object]:
    cluster = EnvironmentContext.of(environment).cluster()
    found = cluster.seen(model).rollout
    if found is None:
        raise ModelworksError(
            f"{environment} has no rollout of {model}",
            fix=f"Release it and run `modelworks up {environment}`.",
        )
    return cluster, found


def _next(model: str, env: str, what: str) -> None:
    out.print(f"{model} in {env} {what}; next: [bold]modelworks rollout watch {model} --env {env}[/]", soft_wrap=True)

"""`register`, `release` and `rollback`: release a bundle in an environment."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from modelworks import contract
from modelworks.cli.console import RELEASES, Json, Model, Override, SigningKeyOption, out, progress, warn
from modelworks.cli.context import DEFAULT_ENVIRONMENT, Env, EnvironmentContext
from modelworks.cli.exit_codes import epilog
from modelworks.cli.lineage import facts_of
from modelworks.errors import ModelworksError
from modelworks.project import project_root

if TYPE_CHECKING:
    from modelworks.lifecycle.child_process import Progress
    from modelworks.lifecycle.version import Version
    from modelworks.runtime.signature import SigningKey


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("register", rich_help_panel=RELEASES, epilog=epilog("register"))(register_model)
    app.command("release", rich_help_panel=RELEASES, epilog=epilog("release"))(release)
    app.command("rollback", rich_help_panel=RELEASES, epilog=epilog("rollback"))(rollback)


def register_model(
    model: Model,
    *,
    env: Env = DEFAULT_ENVIRONMENT,
    override: Override = "",
    signing_key: SigningKeyOption = "",
    as_json: Json = False,
) -> None:
    """Store the last bundle of a model in an environment, and register it as a version with its lineage.

    The command signs the bundle, by default with the key of this checkout, which it makes on first use. A signature
    that the environment does not trust is refused. Then it evaluates the gates for that environment. Registering a
    bundle twice changes nothing.

    Example: `modelworks register flight-delay --env dev`.
    """
    version = register_last(EnvironmentContext.of(env), model, override, signing_key, progress)
    if as_json:
        print(json.dumps(facts_of(version), indent=2))
        return
    out.print(f"{model} version {version.version} in {env}: {version.digest}", soft_wrap=True)
    out.print(f"next: [bold]modelworks release {model} --env {env}[/]")


def release(
    model: Model,
    *,
    env: Env = DEFAULT_ENVIRONMENT,
    version: Annotated[str, typer.Option("--version", help="Number, alias or digest. Default: the newest.")] = "",
    override: Override = "",
) -> None:
    """Release a registered version in an environment: edit one line of its stack's config.

    If the champion changed since the version was registered, the gates compare it with the champion of now. A version
    that reads stored features is refused unless its endpoint names their service, defined as it was in training.

    Only `local` and the first environment accept a direct release; use `promote` for the others.

    Example: `modelworks release flight-delay --env local`, then `modelworks up local`.
    """
    from modelworks.cli.lifecycle import home_here
    from modelworks.lifecycle import registration
    from modelworks.lifecycle.release import read_order

    order = read_order(project_root())
    if env in order[1:]:
        raise ModelworksError(
            f"{env} accepts no direct release: versions are promoted along {' → '.join(order)}",
            fix=f"Run `modelworks promote {model} --from {order[order.index(env) - 1]} --to {env}`.",
        )
    target = EnvironmentContext.of(env)
    found = target.registry.find(model, version)
    found = registration.judge_for_release(
        target.registry,
        target.stack_file,
        found,
        home_here(),
        override=override,
        progress=progress,
        warn=warn,
    )
    say_release(target, found, registration.release(target.registry, target.stack_file, found))


def rollback(
    model: Model,
    *,
    env: Env = DEFAULT_ENVIRONMENT,
    to: Annotated[
        str, typer.Option("--to", metavar="VERSION", help="Number, alias or digest of any earlier champion.")
    ] = "",
) -> None:
    """Return to the last version that was champion: edit one line of the stack's config.

    The command records that the current release was rolled back, and no later rollback returns to it: after two bad
    releases, two rollbacks lead behind both. Gates are not evaluated again.

    Example: `modelworks rollback flight-delay --env prod`, then `modelworks up prod`.
    """
    from modelworks.lifecycle import registration

    target = EnvironmentContext.of(env)
    version, changed = registration.roll_back(target.registry, target.stack_file, model, to)
    say_release(target, version, changed)


def register_last(
    target: EnvironmentContext, model: str, override: str = "", signing_key: str = "", progress: Progress | None = None
) -> Version:
    """Register the last bundle of a model in an environment."""
    from modelworks.cli.lifecycle import home_here, last_run
    from modelworks.lifecycle.registration import register

    home = home_here()
    run, key = last_run(model, home), key_of(target, signing_key)
    return register(
        run, home, target.registry, target.stack_file, override=override, signing_key=key, progress=progress
    )


def key_of(target: EnvironmentContext, where: str) -> SigningKey | None:
    """The key that --signing-key names; None without one. A KMS key is used with the target's credentials."""
    from modelworks.lifecycle.signing import open_key

    return open_key(where, lambda: target.session) if where else None


def say_release(target: EnvironmentContext, version: Version, changed: bool) -> None:
    """Print the release of a stack's file, and the next command."""
    env = target.environment
    what = f"{version.model} {version.version} ({contract.short_digest(version.digest)})"
    if changed:
        out.print(f"{target.stack_file.name} releases {what}; next: [bold]modelworks up {env}[/]", soft_wrap=True)
    else:
        out.print(f"{target.stack_file.name} releases {what} already: nothing to change", soft_wrap=True)

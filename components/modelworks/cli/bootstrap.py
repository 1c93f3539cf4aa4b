"""`modelworks bootstrap`: the needs of an account before the first `up`, with a preview first."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from modelworks._git import GitError, git
from modelworks.cli.console import ENVIRONMENTS, Json, err, out, say, table
from modelworks.cli.context import EnvArgument, EnvironmentContext, EnvOption, environment_of
from modelworks.cli.doctor import Needs
from modelworks.cli.exit_codes import epilog
from modelworks.errors import ModelworksError

if TYPE_CHECKING:
    from modelworks.deploy.bootstrap import Neighbour, Step

_COLOURS = {"none": "green", "create": "cyan", "update": "yellow", "skip": "dim"}
_REMOTE = re.compile(
    r"(?:https://|ssh://git@|git@)(?:www\.)?github\.com[/:](?P<repository>[\w.-]+/[\w.-]+?)(?:\.git)?/?"
)
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+|[\w.-]+@\d+/[\w.-]+@\d+")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("bootstrap", rich_help_panel=ENVIRONMENTS, epilog=epilog("bootstrap"))(_bootstrap)


def _bootstrap(
    environment: EnvArgument = "",
    *,
    env: EnvOption = "",
    github: Annotated[
        str,
        typer.Option(
            "--github",
            metavar="OWNER/NAME",
            help="Repository of the jobs, or OWNER@ID/NAME@ID (docs/guides/aws.md). Default: git's `origin`.",
        ),
    ] = "",
    preview_only: Annotated[bool, typer.Option("--preview-only", help="Show the plan and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Skip the confirmation.")] = False,
    as_json: Json = False,
) -> None:
    """Create what ENV needs before its first `up`: state bucket, key of secrets, stack, roles for GitHub Actions.

    The plan is shown first. Parts that exist stay as they are, so the command may be repeated; it deletes nothing.
    The state bucket is the one of PULUMI_BACKEND_URL or of Pulumi.yaml, the key the one that the stack's file names as
    secretsprovider. Run `modelworks doctor ENV` afterwards for the rest.

    Example: `modelworks bootstrap staging --preview-only`.
    """
    target = EnvironmentContext.of(environment_of(environment, env))
    if target.engine.on_laptop:
        raise ModelworksError(
            f"{target.environment} is an environment of the laptop, which needs none of it",
            fix=f"Run `modelworks up {target.environment}`.",
        )
    if as_json and not (yes or preview_only):
        raise ModelworksError("--json asks no question", fix="Add --yes, or --preview-only.")
    steps = list(plan(Needs(target), github))
    if as_json:
        facts = [{"name": step.name, "action": step.action, "message": step.message} for step in steps]
        print(json.dumps({"environment": target.environment, "steps": facts}, indent=2, ensure_ascii=False))
    else:
        _show(steps)
    wanted = [step for step in steps if step.action in {"create", "update"}]
    if preview_only or not wanted:
        return
    if not yes and not typer.confirm(f"Make {len(wanted)} of them?"):
        raise typer.Abort
    for step in wanted:
        if not as_json:
            say(f"{step.name}: {step.action} …")
        step.apply()
    if not as_json:
        say(f"done; `modelworks doctor {target.environment}` lists what else the account and the cluster lack")


def plan(needs: Needs, github: str = "") -> Iterator[Step]:
    """Every part, in the order in which they are made; nothing is changed until one is applied.

    Args:
        needs: The environment, as its stack's file states it.
        github: `OWNER/NAME` of the repository that deploys it, as the subject of its tokens has it; default: that of
            git's `origin`.

    Raises:
        ModelworksError: The file has no region, the repository's name is none, or a part cannot be made.
    """
    from modelworks.deploy import bootstrap  # boto3 is slow
    from modelworks.deploy.requirements import SecretsProvider

    environment, engine = needs.target.environment, needs.engine
    account = needs.account
    provider = str(needs.file.get("secretsprovider") or bootstrap.provider_of(environment, account.region))
    bucket = bootstrap.state_bucket(engine.backend_url, engine.variables, account.region, account=account.id)
    key = bootstrap.config_key(environment, provider, engine.variables, account.region)
    yield from (bucket, key)
    yield _stack(needs, provider, backend_is_there=bucket.action != "create")
    if repository := _repository(github, engine.project):
        state, named = bootstrap.StateBucket.of(engine.backend_url), SecretsProvider.of(provider)
        yield from bootstrap.ci_roles(
            environment,
            account,
            repository,
            state=state.name if state else "",
            key=named.key if named else "",
            cluster=_makes_cluster(needs.values),
            source=_neighbour(needs, -1),
            target=_neighbour(needs, 1),
        )
    else:
        why = "git's `origin` is no repository on GitHub; --github OWNER/NAME names one"
        yield bootstrap.Step("roles of CI", "skip", why)


def _neighbour(needs: Needs, step: int) -> Neighbour | None:
    """The environment that versions come from (-1) or go to (1), if its stack's file pins an account."""
    from modelworks.deploy.bootstrap import Neighbour
    from modelworks.deploy.stack_file import read_config
    from modelworks.lifecycle.release import read_order

    order, own = read_order(needs.engine.project), needs.target.environment
    index = order.index(own) + step if own in order else -1
    if not 0 <= index < len(order):
        return None
    file = needs.target.stack_file.with_name(f"Pulumi.{order[index]}.yaml")
    accounts = read_config(file).get("aws:allowedAccountIds") if file.is_file() else None
    return Neighbour(order[index], str(accounts[0])) if accounts else None


def _makes_cluster(config: Mapping[str, Any]) -> bool:
    """Whether the stack's file has `cluster.eks`. The rest of it may still be wrong."""
    found: Any = config.get("modelworks:settings")
    for key in ("cluster", "eks"):
        found = found.get(key) if isinstance(found, dict) else None
    return bool(found)


def _stack(needs: Needs, provider: str, *, backend_is_there: bool) -> Step:
    from modelworks.deploy.bootstrap import Step

    environment, engine = needs.target.environment, needs.engine
    if backend_is_there and engine.has_stack():
        return Step("stack", "none", f"{environment} is in the backend")

    def make() -> None:
        engine.ask("stack", "init", environment, "--no-select", "--secrets-provider", provider)

    return Step("stack", "create", f"{environment}, with secrets encrypted by {provider}", make)


def _repository(named: str, project: Path) -> str:
    """The repository on GitHub that deploys the project; empty if there is none."""
    if named:
        if not _REPOSITORY.fullmatch(named):
            raise ModelworksError(
                f"--github is {named!r}, and must be OWNER/NAME or OWNER@ID/NAME@ID",
                fix="Such as --github acme/models.",
            )
        return named
    try:
        remote = git(project, "remote", "get-url", "origin").decode().strip()
    except GitError:
        return ""
    found = _REMOTE.fullmatch(remote)
    return found["repository"] if found else ""


def _show(steps: list[Step]) -> None:
    rows = table("part", "plan", "")
    for step in steps:
        rows.add_row(escape(step.name), f"[{_COLOURS[step.action]}]{step.action}[/]", escape(step.message))
    out.print(rows)
    if err.is_terminal and all(step.action in {"none", "skip"} for step in steps):
        err.print("nothing is to be made", style="dim")

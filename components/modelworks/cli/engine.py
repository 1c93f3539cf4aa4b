"""`modelworks up`, `preview` and `destroy`: the real engine against an environment, on the laptop or on a cloud."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from modelworks.cli.console import ENVIRONMENTS, err, say
from modelworks.cli.context import EnvArgument, EnvOption, environment_of
from modelworks.cli.exit_codes import ExitCode, epilog
from modelworks.errors import ModelworksError

if TYPE_CHECKING:
    from modelworks.deploy.stack import StackEngine

_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}

_Yes = Annotated[bool, typer.Option("--yes", "-y", help="Skip the confirmation.")]


class Format(StrEnum):
    """The format of a preview."""

    text = "text"
    markdown = "markdown"
    json = "json"


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command("up", rich_help_panel=ENVIRONMENTS, context_settings=_PASS_ON, epilog=epilog("up"))(_up)
    app.command("preview", rich_help_panel=ENVIRONMENTS, context_settings=_PASS_ON, epilog=epilog("preview"))(_preview)
    app.command("destroy", rich_help_panel=ENVIRONMENTS, context_settings=_PASS_ON, epilog=epilog("destroy"))(_destroy)


def _up(
    context: typer.Context,
    environment: EnvArgument = "",
    env: EnvOption = "",
    yes: _Yes = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print Pulumi's JSON instead of a report.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Roll out a release that was aborted here before.")] = False,
) -> None:
    """Deploy what the program declares to ENV, with the real Pulumi engine.

    For example:

        modelworks up local --yes
        modelworks up dev --target 'urn:pulumi:dev::…'

    An environment of the laptop cloud is refreshed first. Any other environment uses your own Pulumi backend, cloud and
    credentials. Unknown options are passed to Pulumi.

    The command first cleans up after a killed update: it removes the lock of a dead process, looks up each resource
    whose creation is uncertain, and imports or forgets it. A release that this environment aborted before is refused
    without --force, and so is any release to a cluster whose Argo Rollouts controller cannot read CloudWatch. An update
    that takes the key of a release from `trusted_keys` is refused. Plain `pulumi up` does none of this.
    """
    from modelworks.cli.context import EnvironmentContext  # so that --help answers at once
    from modelworks.cli.rollouts import check_controller, prepare_update, retry_aborted

    environment, passed = _given(context, environment, env)
    engine = _engine(environment)
    engine.prepare(say)
    target = EnvironmentContext(environment, engine)
    check_controller(target, say)
    retried = prepare_update(target, force=force, say=say)
    options = [*engine.policy(), *passed, *(["--yes"] if yes else []), *(["--json"] if as_json else [])]
    if engine.on_laptop and not any(option.split("=")[0] in {"--refresh", "-r"} for option in passed):
        options.append("--refresh")  # the laptop's AWS forgets when it dies; asking costs milliseconds
    _run(engine, "up", options, quiet=as_json)
    retry_aborted(target, retried)


def _preview(
    context: typer.Context,
    environment: EnvArgument = "",
    env: EnvOption = "",
    form: Annotated[
        Format, typer.Option("--format", help="`text` is Pulumi's own; `markdown` is for a pull request.")
    ] = Format.text,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Show what `up` would change in ENV, without changing it.

    For example:

        modelworks preview prod --format markdown > preview.md

    The markdown lists created, changed, replaced and deleted resources, property by property. Replacements and
    deletions of resources that hold data are in bold; secrets are masked. Unknown options are passed to Pulumi.
    """
    environment, passed = _given(context, environment, env)
    engine = _engine(environment)
    engine.have_stack(say)
    options = [*engine.policy(), *passed]
    form = Format.json if as_json else form
    if form is Format.text:
        _run(engine, "preview", options)
        return
    from modelworks.deploy.preview import Preview

    with err.status(f"previewing {environment}") if err.is_terminal else nullcontext():
        code, text = engine.capture("preview", ["--json", *options])
    try:
        preview = Preview.read(environment, text)
    except ValueError:
        code = code or 1
        preview = Preview(environment, (), 0, (f"the engine exited with {code} before it reported a change",))
    if form is Format.json:
        print(json.dumps({**preview.facts(), "failed": bool(code)}, indent=2, ensure_ascii=False))
    else:
        print(preview.markdown(failed=bool(code)))
    if code:
        _failed(engine, "preview", code)


def _destroy(context: typer.Context, environment: EnvArgument = "", env: EnvOption = "", yes: _Yes = False) -> None:
    """Delete everything that ENV declares, unless it protects what holds data.

    For example:

        modelworks destroy local --yes

    An environment protects its key, buckets, volume and namespace by default (`protect` in its settings). Nothing is
    deleted then, and the message lists them; with --exclude-protected, everything else is deleted. Unknown options are
    passed to Pulumi.
    """
    environment, passed = _given(context, environment, env)
    engine = _engine(environment)
    engine.mend(say)
    engine.unlock(say)
    engine.settle(say)
    given = {option.split("=")[0] for option in passed}
    if not given & {"--exclude-protected", "--target", "-t"}:
        _refuse_protected(engine)
    _run(engine, "destroy", [*passed, *(["--yes"] if yes else [])])
    for each in engine.protected() if "--exclude-protected" in given else ():
        print(f"{each} stays: it is protected")


def _refuse_protected(engine: StackEngine) -> None:
    if not (protected := engine.protected()):
        return
    environment, file = engine.environment, engine.stack_file.name
    raise ModelworksError(
        f"{environment} protects what holds data, and nothing was deleted: {'; '.join(map(str, protected))}",
        fix=f"To delete everything else: `modelworks destroy {environment} --exclude-protected`. To delete these too, "
        f"set protect: false in {file}, run `modelworks up {environment}`, and destroy again.",
    )


def _given(context: typer.Context, argument: str, option: str) -> tuple[str, list[str]]:
    """The environment, and the options for Pulumi.

    Click parses the first unknown word as the argument; after --env, that word is an option for Pulumi.
    """
    if not argument.startswith("-"):
        return environment_of(argument, option), context.args
    if not option:
        raise ModelworksError(
            f"the environment must come before Pulumi's option {argument}",
            fix=f"Run `modelworks {context.info_name} ENV {argument} …`.",
        )
    return option, [argument, *context.args]


def _engine(environment: str) -> StackEngine:
    from modelworks.cli.context import check_engine, engine_of  # so that --help answers at once

    engine = engine_of(environment)
    check_engine(engine)
    return engine


def _run(engine: StackEngine, verb: str, options: list[str], *, quiet: bool = False) -> None:
    from modelworks.deploy.process import Interrupted

    terminal = sys.stdin.isatty() and sys.stdout.isatty() and not quiet
    try:
        code = engine.run(verb, options, terminal=terminal)
    except Interrupted:
        err.print(
            f"[bold]interrupted:[/] no process is left running. Pending operations are in the state; "
            f"`modelworks up {engine.environment}` resolves them."
        )
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    if code:
        _failed(engine, verb, code)


def _failed(engine: StackEngine, verb: str, code: int) -> NoReturn:
    failure = ModelworksError(f"`pulumi {verb}` of {engine.environment} exited with {code}; log: {engine.log(verb)}")
    failure.exit_code = code if 0 < code < 128 else 1
    raise failure

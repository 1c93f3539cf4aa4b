"""`registry`: rebuild the registry of an environment."""

from __future__ import annotations

import json
from dataclasses import asdict

import typer
from rich.markup import escape

from modelworks.cli.console import RELEASES, Json, err, out, table
from modelworks.cli.context import EnvArgument, EnvironmentContext, EnvOption, environment_of
from modelworks.cli.exit_codes import ExitCode, epilog

registry = typer.Typer(name="registry", help="Rebuild a lost registry.", no_args_is_help=True)

_COLOURS = {"rebuilt": "green", "present": "dim", "refused": "red"}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(registry, rich_help_panel=RELEASES)


@registry.callback()
def _registry() -> None:
    """Rebuild a lost registry."""


@registry.command("rebuild", epilog=epilog("registry rebuild"))
def rebuild(environment: EnvArgument = "", *, env: EnvOption = "", as_json: Json = False) -> None:
    """Restore models, versions, lineage and aliases from the objects that `register` keeps beside the bundles.

    For a registry that was lost: models that the registry still has are compared, and never changed. Signatures are
    verified again. MLflow's runs are not restored. An interrupted rebuild continues where it ended.

    Example: `modelworks registry rebuild prod`.
    """
    from modelworks.lifecycle import rebuild as rebuilding

    target = EnvironmentContext.of(environment_of(environment, env))
    found = rebuilding.rebuild(
        target.registry,
        lambda version: err.print(f"  {version.model} {version.version}", style="dim"),
    )
    if as_json:
        print(json.dumps([asdict(each) for each in found], indent=2))
    else:
        rows = table("", "model", "versions", "")
        for each in found:
            state = f"[{_COLOURS[each.state]}]{each.state}[/]"
            why = escape(each.problem) + (f"\n[dim]{escape(each.fix)}[/]" if each.fix else "")
            rows.add_row(state, escape(each.model), ", ".join(map(str, each.versions)), why)
        out.print(rows)
    if any(each.state == "refused" for each in found):
        raise typer.Exit(ExitCode.FAILED)

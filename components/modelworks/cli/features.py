"""`features` about definitions: show them, plan and apply changes, and pull those of a vendor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from modelworks import contract
from modelworks._files import write_whole
from modelworks.cli import feature_values
from modelworks.cli.console import MODELS, Json, out, table
from modelworks.cli.context import EnvironmentContext
from modelworks.cli.exit_codes import epilog
from modelworks.cli.feature_values import store_text
from modelworks.cli.lifecycle import home_here
from modelworks.errors import ModelworksError
from modelworks.feature_manifest import PATH, FeatureManifest, read_manifest
from modelworks.project import project_root

if TYPE_CHECKING:
    from modelworks.features.plan import Change

features = typer.Typer(name="features", help="Define, apply, fill and verify features.", no_args_is_help=True)

Also = Annotated[
    str,
    typer.Option(
        "--env",
        "-e",
        metavar="ENV",
        show_default=False,
        help="Also an environment's registry. Default: the committed manifest alone.",
    ),
]
Breaking = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-breaking",
        metavar="MODEL",
        help="Accept that the released version of this model may break; repeatable.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    feature_values.register(features)
    app.add_typer(features, rich_help_panel=MODELS)


@features.command("list", epilog=epilog("features list"))
def _list(*, as_json: Json = False) -> None:
    """List the feature views and services of the project, and the models that use them.

    Example: `modelworks features list`.
    """
    from modelworks.features.plan import users

    manifest = _defined()
    views: dict[str, Any] = {**manifest.views, **manifest.on_demand}
    found = [
        *(
            {"name": name, "kind": "view", "model": view.model, "features": len(view.features),
             "used_by": list(users(manifest, name))}
            for name, view in views.items()
        ),
        *(
            {"name": name, "kind": "service", "model": service.model,
             "features": sum(map(len, service.features.values())), "used_by": [service.model]}
            for name, service in manifest.services.items()
        ),
    ]  # fmt: skip
    if as_json:
        print(json.dumps(found, indent=2))
        return
    rows = table("name", "kind", "defined by", "features", "used by")
    for item in found:
        rows.add_row(item["name"], item["kind"], item["model"], str(item["features"]), ", ".join(item["used_by"]))
    out.print(rows if found else "no model of this project has a features.py")


@features.command("show", epilog=epilog("features show"))
def _show(name: Annotated[str, typer.Argument(help="Name of a view or service.", metavar="NAME")]) -> None:
    """Show the definition of a view or service, as the manifest has it.

    Example: `modelworks features show weather`.
    """
    manifest = _defined()
    known: dict[str, Any] = {**manifest.views, **manifest.on_demand, **manifest.services}
    if name not in known:
        raise ModelworksError(
            f"there is no feature view or service {name!r}", fix=f"There is {', '.join(sorted(known)) or 'none'}."
        )
    print(json.dumps(asdict(known[name]), indent=2))


@features.command("plan", epilog=epilog("features plan"))
def _plan(*, env: Also = "", as_json: Json = False) -> None:
    """Show the changes that `apply` would make, and the models that they break or affect.

    Example: `modelworks features plan --env dev`.
    """
    from modelworks.features.plan import changes
    from modelworks.lifecycle.project_features import read_features

    if env:
        defined, before = read_features(project_root(), home_here(), store_text(EnvironmentContext.of(env)))
    else:
        defined, before = _defined(), read_manifest(project_root())
    planned = changes(before, defined)
    if as_json:
        print(json.dumps([asdict(change) for change in planned], indent=2))
        return
    _print(planned, _released(env))


@features.command("apply", epilog=epilog("features apply"))
def _apply(*, env: Also = "", allow_breaking: Breaking = None) -> None:
    """Write the manifest of the definitions; with --env, apply the definitions to an environment's registry.

    A change that breaks a released model is refused. Commit the manifest: an environment declares its tables by it.

    Example: `modelworks features apply`, then `modelworks up dev` and `modelworks features apply --env dev`.
    """
    from modelworks.features.plan import changes, refuse_breaking
    from modelworks.lifecycle.project_features import apply_features, read_features

    root, home = project_root(), home_here()
    target = EnvironmentContext.of(env) if env else None
    store = store_text(target) if target else ""
    defined, before = read_features(root, home, store)
    manifest = defined.with_others(read_manifest(root).of_vendors)
    if target:
        planned, releases = changes(before, defined), _released(env)
        refuse_breaking(planned, releases, allow_breaking or ())
        if manifest != read_manifest(root):
            raise ModelworksError(
                f"{PATH} is not the manifest of the definitions",
                fix="Run `modelworks features apply`, commit the file, and bring the environment up.",
            )
        apply_features(root, home, store, target.output("features")["tables"], judged=defined)
    else:
        planned, releases = changes(read_manifest(root), manifest), _released("")
        refuse_breaking(planned, releases, allow_breaking or ())
        write_whole(root / PATH, manifest.to_json(), mode=0o644)
    _print(planned, releases)


@features.command("pull", epilog=epilog("features pull"))
def _pull(
    service: Annotated[
        str, typer.Argument(help="Name of the feature service, or of a feature view of Hopsworks.", metavar="SERVICE")
    ],
    *,
    model: Annotated[str, typer.Option("--model", metavar="MODEL", help="The model that it is for.")],
    url: Annotated[
        str,
        typer.Option("--url", metavar="URL", envvar=contract.ENV_FEATURE_URL, help="Address of the vendor."),
    ],
    workspace: Annotated[str, typer.Option("--workspace", metavar="NAME", help="Tecton's workspace.")] = "",
    project: Annotated[str, typer.Option("--project", metavar="NAME", help="Project in Hopsworks.")] = "",
    version: Annotated[int, typer.Option("--version", min=1, help="Version of the feature view in Hopsworks.")] = 1,
    allow_breaking: Breaking = None,
) -> None:
    """Write the definition of a feature service of Tecton or Hopsworks into the manifest, as the vendor states it now.

    A change that breaks a released model is refused. The API key is read from TECTON_API_KEY or HOPSWORKS_API_KEY.

    Example: `modelworks features pull flight --model flights --url https://acme.tecton.ai --workspace prod`.
    """
    from modelworks.features.plan import changes, refuse_breaking
    from modelworks.features.vendors import pull

    if bool(workspace) == bool(project):
        raise ModelworksError(
            "a feature service is in a workspace of Tecton or in a project of Hopsworks",
            fix="State one of --workspace and --project.",
        )
    root = project_root()
    before = read_manifest(root)
    engine = "tecton" if workspace else "hopsworks"
    place = {"workspace": workspace} if workspace else {"project": project, "version": str(version)}
    pulled = pull(engine, url.rstrip("/"), service, place, model)
    after = before.without(service).with_others(pulled)
    planned, releases = changes(before, after), _released("")
    refuse_breaking(planned, releases, allow_breaking or ())
    write_whole(root / PATH, after.to_json(), mode=0o644)
    _print(planned, releases)


def _defined() -> FeatureManifest:
    """All definitions: those of Feast as they are in the files now, those of vendors as they were pulled."""
    from modelworks.lifecycle.project_features import read_features

    root = project_root()
    return read_features(root, home_here())[0].with_others(read_manifest(root).of_vendors)


def _released(env: str) -> dict[str, tuple[str, ...]]:
    """Environments that each model is released in: the given one, or all that have a stack file."""
    from modelworks.lifecycle.release import released_models

    files = [
        path
        for path in sorted((project_root() / "stacks").glob("Pulumi.*.yaml"))
        if not env or path.name == f"Pulumi.{env}.yaml"
    ]
    found: dict[str, tuple[str, ...]] = {}
    for path in files:
        for model in released_models(path):
            found[model] = (*found.get(model, ()), path.name.split(".")[1])
    return found


def _print(planned: list[Change], released: Mapping[str, tuple[str, ...]]) -> None:
    if not planned:
        out.print("no changes")
        return
    rows = table("", "subject", "change", "models")
    for change in planned:
        models = [
            *(f"breaks {model}{_where(model, released)}" for model in change.breaks),
            *(f"affects {model}{_where(model, released)}" for model in change.affects),
        ]
        rows.add_row(change.action, escape(change.subject), escape(change.detail), "\n".join(models))
    out.print(rows)


def _where(model: str, released: Mapping[str, tuple[str, ...]]) -> str:
    return f", released in {', '.join(released[model])}" if model in released else ""

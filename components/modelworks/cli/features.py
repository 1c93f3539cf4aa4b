"""`features`: define features beside models, apply them to an environment, and read, fill and verify its stores."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from modelworks import contract
from modelworks._files import write_whole
from modelworks.cli.console import MODELS, Json, out, table
from modelworks.cli.context import DEFAULT_ENVIRONMENT, Env, EnvironmentContext
from modelworks.cli.exit_codes import ExitCode, epilog
from modelworks.cli.lifecycle import home_here
from modelworks.errors import ModelworksError
from modelworks.feature_manifest import PATH, FeatureManifest, read_manifest
from modelworks.project import project_root

if TYPE_CHECKING:
    from feast import FeatureStore

    from modelworks.features.materialization import Materialized
    from modelworks.features.plan import Change

features = typer.Typer(name="features", help="Define, apply, fill and verify features.", no_args_is_help=True)

Views = Annotated[list[str] | None, typer.Option("--view", metavar="VIEW", help="A view; repeatable. Default: all.")]
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
        defined, before = read_features(project_root(), home_here(), _store_text(EnvironmentContext.of(env)))
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
    store = _store_text(target) if target else ""
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


@features.command("ingest", epilog=epilog("features ingest"))
def _ingest(
    model: Annotated[str, typer.Argument(help="Name of a model in models/.", metavar="MODEL")],
    *,
    env: Env = DEFAULT_ENVIRONMENT,
) -> None:
    """Write the history that a model makes itself into the offline store of an environment.

    Its spec states how: `StoredFeatures(history=…)`. A second run replaces the same files.

    Example: `modelworks features ingest flight-delay --env dev`, then `modelworks features materialize --env dev`.
    """
    from modelworks.lifecycle import training
    from modelworks.lifecycle.project_features import ingest_history, write_history

    target, home = EnvironmentContext.of(env), home_here()
    described = training.describe(training.project_at(model), home)
    with tempfile.TemporaryDirectory(prefix="modelworks-history-") as folder:
        write_history(described, home, Path(folder))
        files = ingest_history(described.name, Path(folder), target.output("features")["location"], target.session)
    for file in files:
        out.print(escape(file))


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


@features.command("materialize", epilog=epilog("features materialize"))
def _materialize(
    *,
    env: Env = DEFAULT_ENVIRONMENT,
    view: Views = None,
    until: Annotated[
        str, typer.Option("--until", metavar="TIME", help="End of the window, ISO 8601. Default: now.")
    ] = "",
    lookback_seconds: Annotated[
        int, typer.Option("--lookback-seconds", min=0, help="How far before the last run's end to begin.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Write the newest values since the last run into the online store, and report the lag as a metric.

    Example: `modelworks features materialize --env dev`.
    """
    from modelworks.features.materialization import materialize

    target = EnvironmentContext.of(env)
    end = _moment(until, "--until") if until else None
    results = materialize(
        _store(target), view or (), end=end, lookback=timedelta(seconds=lookback_seconds), publish=_publish(target)
    )
    _report(list(results), as_json=as_json)


@features.command("backfill", epilog=epilog("features backfill"))
def _backfill(
    *,
    env: Env = DEFAULT_ENVIRONMENT,
    view: Views = None,
    start: Annotated[str, typer.Option("--from", metavar="TIME", help="First event time, ISO 8601.")],
    end: Annotated[str, typer.Option("--to", metavar="TIME", help="Last event time, ISO 8601.")],
    as_json: Json = False,
) -> None:
    """Write the newest values of a window into the online store. It never replaces a newer value.

    Example: `modelworks features backfill --env dev --from 2026-01-01 --to 2026-02-01`.
    """
    from modelworks.features.materialization import materialize

    target = EnvironmentContext.of(env)
    window = _moment(start, "--from"), _moment(end, "--to")
    results = materialize(_store(target), view or (), start=window[0], end=window[1], publish=_publish(target))
    _report(list(results), as_json=as_json)


@features.command("get", epilog=epilog("features get"))
def _get(
    name: Annotated[str, typer.Argument(help="Name of a service or view.", metavar="NAME")],
    keys: Annotated[list[str], typer.Argument(help="Keys and values of the request.", metavar="KEY=VALUE")],
    *,
    env: Env = DEFAULT_ENVIRONMENT,
) -> None:
    """Read the online features of one entity, as JSON.

    Example: `modelworks features get flight tail=N14228 origin=EWR --env dev`.
    """
    from modelworks.features.environment import get

    pairs = _pairs(keys)
    print(json.dumps(get(_store(EnvironmentContext.of(env)), name, pairs), indent=2, default=str))


@features.command("forget", epilog=epilog("features forget"))
def _forget(
    keys: Annotated[list[str], typer.Argument(help="Keys and values of the entity.", metavar="KEY=VALUE")],
    *,
    env: Env = DEFAULT_ENVIRONMENT,
    view: Views = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Skip the confirmation.")] = False,
) -> None:
    """Delete an entity from the history and the online tables of all views that have its keys.

    The earlier versions of rewritten files go with it. Point-in-time recovery of the online tables keeps it for up to
    35 days more, and sources outside of the store are not touched if they are a pattern of files.

    Example: `modelworks features forget tail=N14228 --env dev`.
    """
    from modelworks.features.environment import typed_keys
    from modelworks.features.forget import forget
    from modelworks.features.materialization import views_of

    store = _store(EnvironmentContext.of(env))
    values = typed_keys(store, _pairs(keys))
    views = [each for each in views_of(store, view or ()) if set(values) <= {key.name for key in each.entity_columns}]
    if not views:
        raise ModelworksError(f"no view has the key {', '.join(values)}", fix="`modelworks features show` prints keys.")
    names = ", ".join(each.name for each in views)
    if not yes and not typer.confirm(f"Delete {', '.join(keys)} from {names} in {env}?"):
        raise typer.Exit(ExitCode.FAILED)
    for gone in forget(store, views, values):
        out.print(f"{gone.view}: {gone.rows} rows of history, {gone.online} online, deleted")


@features.command("verify", epilog=epilog("features verify"))
def _verify(
    *,
    env: Env = DEFAULT_ENVIRONMENT,
    view: Views = None,
    sample: Annotated[
        int, typer.Option("--sample", min=1, help="Entities of each view, and rows of each model's log, to compare.")
    ] = 1000,
    served: Annotated[
        bool, typer.Option("--served", help="Compare what was served in the last day, by the prediction log.")
    ] = False,
    behind_seconds: Annotated[
        int, typer.Option("--behind-seconds", min=0, help="How far online values may be behind history.")
    ] = 86_400,
    as_json: Json = False,
) -> None:
    """Compare a sample of online values, or of served ones, with the history that they come from.

    Of each served value, history is joined again as of the moment at which it was read. Without `--view`, on-demand
    views are computed again of the inputs in the log, by the functions of this project.

    Example: `modelworks features verify --env dev`.
    """
    from modelworks.features.environment import verify, verify_log
    from modelworks.features.materialization import views_of

    target = EnvironmentContext.of(env)
    store = _store(target)
    views = views_of(store, view or ())
    if served:
        location = f"s3://{target.output('prediction_bucket')}/{contract.PREDICTIONS_PREFIX}"
        behind = timedelta(seconds=behind_seconds)
        found: list[Any] = list(
            verify_log(
                store,
                target.session.client("s3"),
                location,
                views,
                sample=sample,
                behind=behind,
                project=None if view else project_root(),
            )
        )
    else:
        found = list(verify(store, views, sample))
    if as_json:
        print(json.dumps([asdict(skew) for skew in found], indent=2))
    else:
        _print_skews(found, served=served)
    if any(skew.different or skew.missing or (served and skew.stale) for skew in found):
        raise typer.Exit(ExitCode.FAILED)


def fill(target: EnvironmentContext, model: str, history: Path) -> str:
    """Give an environment the project's definitions and a model's history, and write the newest values online.

    Args:
        target: The environment.
        model: The model.
        history: Folder with its history.

    Returns:
        A line about the result.

    Raises:
        ModelworksError: As `apply`, `ingest` and `materialize` do.
    """
    from modelworks.features.environment import open_store
    from modelworks.features.materialization import lag, materialize, views_of
    from modelworks.lifecycle.project_features import apply_features, ingest_history, read_features

    root, home, place = project_root(), home_here(), target.output("features")
    text = _store_text(target)
    store = open_store(text)
    views = views_of(store)
    if views and all(lag(store, view) is not None for view in views):
        defined, registered = read_features(root, home, text)
        if registered == defined:
            return "every view is online"
    ingest_history(model, history, place["location"], target.session)
    apply_features(root, home, text, place["tables"])
    store.refresh_registry()  # type: ignore[no-untyped-call]
    return ", ".join(f"{done.view} {done.written}" for done in materialize(store, publish=_publish(target))) + " online"


def _pairs(keys: list[str]) -> dict[str, str]:
    pairs = {}
    for pair in keys:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise ModelworksError(f"a key must be given as KEY=VALUE, got {pair!r}")
        pairs[key] = value
    return pairs


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


def _store(target: EnvironmentContext) -> FeatureStore:
    from modelworks.features.environment import open_store

    return open_store(_store_text(target))


def _store_text(target: EnvironmentContext) -> str:
    """The `feature_store.yaml` of an environment, whose account this process and its children have from now on."""
    place = target.output("features")
    if (engine := place.get("engine", "feast")) != "feast":
        raise ModelworksError(
            f"the features of {target.environment} are kept by {engine}, and not in a store of Feast's",
            fix="Use the vendor's own tools. `modelworks features pull` brings its definitions into the manifest.",
        )
    # Feast, pyarrow and Polars take the account from the process's own variables.
    os.environ.pop("AWS_SESSION_TOKEN", None)
    os.environ.update(
        {key: value for key, value in target.engine.variables.items() if key.startswith("AWS_")}
        if target.engine.on_laptop
        else target.engine.account.variables
    )
    return str(place["feature_store_yaml"])


def _publish(target: EnvironmentContext) -> Any:
    from modelworks.features.materialization import cloudwatch

    return cloudwatch(target.session.client("cloudwatch"), target.output("features")["environment"])


def _moment(text: str, option: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ModelworksError(
            f"{option} must be a time in ISO 8601, got {text!r}", fix="Such as 2026-01-31 or 2026-01-31T12:00:00Z."
        ) from error
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


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


def _print_skews(found: Sequence[Any], *, served: bool) -> None:
    rows = table("feature", "compared", "different", *(["stale"] if served else []), "missing", "examples")
    for skew in found:
        rows.add_row(
            f"{skew.model} {skew.view}:{skew.feature}" if served else f"{skew.view}:{skew.feature}",
            str(skew.compared),
            str(skew.different),
            *([str(skew.stale)] if served else []),
            str(skew.missing),
            escape("\n".join(skew.examples)),
        )
    out.print(rows if found else "nothing was served in the last day from these views")


def _report(results: list[Materialized], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([asdict(result) for result in results], indent=2, default=str))
        return
    rows = table("view", "from", "to", "written", "older", "present", "lag")
    for result in results:
        rows.add_row(
            result.view,
            f"{result.start:%Y-%m-%d %H:%M:%S}" if result.start else "the beginning",
            f"{result.end:%Y-%m-%d %H:%M:%S}",
            str(result.written),
            str(result.older),
            str(result.present),
            "unknown" if result.lag_seconds is None else f"{result.lag_seconds:.0f} s",
        )
    out.print(rows)

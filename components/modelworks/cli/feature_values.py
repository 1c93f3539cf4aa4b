"""`features` about values: fill the stores of an environment, read, delete and compare what is in them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from modelworks import contract
from modelworks.cli.console import Json, out, table
from modelworks.cli.context import DEFAULT_ENVIRONMENT, Env, EnvironmentContext
from modelworks.cli.exit_codes import ExitCode, epilog
from modelworks.cli.lifecycle import home_here
from modelworks.errors import ModelworksError
from modelworks.project import project_root

if TYPE_CHECKING:
    from feast import FeatureStore

    from modelworks.features.materialization import Materialized

Views = Annotated[list[str] | None, typer.Option("--view", metavar="VIEW", help="A view; repeatable. Default: all.")]


def register(features: typer.Typer) -> None:
    """Add the commands."""
    features.command("ingest", epilog=epilog("features ingest"))(_ingest)
    features.command("materialize", epilog=epilog("features materialize"))(_materialize)
    features.command("backfill", epilog=epilog("features backfill"))(_backfill)
    features.command("get", epilog=epilog("features get"))(_get)
    features.command("forget", epilog=epilog("features forget"))(_forget)
    features.command("verify", epilog=epilog("features verify"))(_verify)


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
    text = store_text(target)
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


def _store(target: EnvironmentContext) -> FeatureStore:
    from modelworks.features.environment import open_store

    return open_store(store_text(target))


def store_text(target: EnvironmentContext) -> str:
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

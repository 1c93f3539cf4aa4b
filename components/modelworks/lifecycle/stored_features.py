"""The features that a model reads from a feature store: what its spec and the committed definitions make of them.

The manifest of definitions (`models/features.json`) travels with the project, as the lock does: a run is made by the
definitions of then.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from modelworks import contract
from modelworks._files import digest_of_facts, digest_of_file
from modelworks._spelling import did_you_mean
from modelworks.errors import ModelworksError
from modelworks.feature_manifest import PATH, FeatureManifest, OnDemandView, read_manifest
from modelworks.lifecycle.lockfile import refuse_other_imports
from modelworks.lifecycle.model_project import imports_of, sibling_imports
from modelworks.lifecycle.project_errors import project_error
from modelworks.lifecycle.rows import rows_of
from modelworks.lifecycle.spec import ModelSpec
from modelworks.lifecycle.spec_features import StoredFeatures
from modelworks.runtime import manifest as of
from modelworks.runtime.on_demand import OnDemandViews, UncomputableError, taken
from modelworks.runtime.stored import accepted, decoded

if TYPE_CHECKING:
    import pandas as pd

_APPLY = "Run `modelworks features apply`, and commit what it writes."


def stored_of(spec: ModelSpec) -> of.Stored | None:
    """The stored features of a model, as its bundle states them; None for a model without.

    Raises:
        ModelworksError: The spec and the definitions do not fit.
    """
    stated = spec.stored
    if stated is None:
        return None
    definitions = _definitions(spec)
    used = _used(stated, definitions)
    service = definitions.services[stated.service]
    engine = cast("of.Engine", service.engine)
    on_demand = tuple(
        _on_demand(spec, stated, definitions, name) for name in service.features if name in definitions.on_demand
    )
    stored = of.Stored(
        service=stated.service,
        keys=(*(key.served for key in stated.keys), *_request_values(spec, stated, on_demand)),
        on_demand=on_demand,
        views=tuple(
            of.StoredView(
                name=name,
                keys=dict(definitions.views[name].keys),
                features={each: definitions.views[name].features[each] for each in features},
                digest=definitions.views[name].digest,
                ttl_seconds=definitions.views[name].ttl_seconds or None,
                event_time=definitions.views[name].event_time if engine == "hopsworks" else "",
            )
            for name, features in used.items()
        ),
        defaults=dict(stated.defaults),
        fallback=stated.fallback,
        engine=engine,
        place=dict(service.place),
    )
    features = {feature.name: feature for feature in spec.served_features}
    problems = of.stored_problems(spec.served_features, stored)
    problems += [
        f"the default of {name!r} is {value!r}, which the feature does not accept"
        for name, value in stored.defaults.items()
        if name in features and accepted(features[name], value) is None
    ]
    if problems:
        raise ModelworksError(f"{stated.where}: {'; '.join(problems)}")
    return stored


def stated_inputs(spec: ModelSpec) -> dict[str, Any]:
    """The inputs of a run that its spec states: parameters, seed, and the digest of its stored features.

    Raises:
        ModelworksError: As `stored_of`.
    """
    stated: dict[str, Any] = {"parameters": dict(spec.parameters), "seed": spec.seed}
    if stored := stored_of(spec):
        stated["features"] = digest_of_facts(msgspec.to_builtins(stored))
    return stated


def with_history(spec: ModelSpec, frame: pd.DataFrame, stored: of.Stored | None) -> pd.DataFrame:
    """Rows with their stored features, each as it was at the row's prediction time.

    The values are those that the model accepts, and defaults where there are none: what a server would have read then.

    Raises:
        ModelworksError: History is nowhere, or cannot be joined.
    """
    if stored is None:
        return frame
    if replaced := [name for name in stored.names if name in frame.columns]:
        raise ModelworksError(
            f"{spec.data.where}: data.load returns {', '.join(replaced)}, which the feature store has",
            fix="Leave it out of data.load, or out of the feature service.",
        )
    with _history(spec, stored) as location:
        found = _read(spec, frame, stored, location)
    found |= _computed(spec, frame, stored, found)
    columns = {
        name: _column(spec, stored, name, found[name])
        for name in stored.names if name in spec.feature_names
    }  # fmt: skip
    inputs = {
        entry.replace(":", "__"): _input_column(kind, found[entry.partition(":")[2]])
        for entry, kind in stored.inputs.items()
    }
    if replaced := [name for name in inputs if name in frame.columns]:
        raise ModelworksError(
            f"{spec.data.where}: data.load returns {', '.join(replaced)}, the name of an input of an on-demand view",
            fix="Rename it in data.load.",
        )
    return frame.assign(**columns, **inputs)


def _computed(
    spec: ModelSpec, frame: pd.DataFrame, stored: of.Stored, found: Mapping[str, list[Any]]
) -> dict[str, list[Any]]:
    """Features that the on-demand views make of each row. If they fail for one, so does training."""
    if not stored.on_demand:
        return {}
    requested = of.request_features(spec.served_features, stored)
    views = OnDemandViews(stored, {feature.name: place for place, feature in enumerate(requested)}, spec.package)
    requests = rows_of(frame, requested)
    try:
        rows = [
            views.compute(*row)
            for row in zip(requests, zip(*(found[name] for name in stored.read), strict=True), strict=True)
        ]
    except UncomputableError as error:
        raise ModelworksError(f"{spec.where}: {error.message}", fix=error.fix) from error
    names = stored.names[len(stored.read) :]
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


def write_history(spec: ModelSpec, folder: Path) -> None:
    """Write the history that a model's project makes itself below a folder.

    Raises:
        ModelworksError: It makes none, or fails.
    """
    if spec.stored is None or spec.stored.history is None:
        raise ModelworksError(
            f"{spec.name} writes no history of features",
            fix="State StoredFeatures(history=…) in its spec, or write the history with a pipeline of your own.",
        )
    try:
        spec.stored.history(folder)
    except ModelworksError:
        raise
    except Exception as error:
        raise project_error(error, spec.folder, "writes the history of its features") from error


@contextmanager
def _history(spec: ModelSpec, stored: of.Stored) -> Iterator[str]:
    """Where the history of a model's features lies: the stated one, else one that its project makes.

    Nowhere, if a vendor has it: its SDK joins there.
    """
    if stored.engine != "feast":
        yield ""
        return
    if location := os.environ.get(contract.FEATURE_HISTORY_VARIABLE, ""):
        yield location
        return
    if spec.stored is None or spec.stored.history is None:
        raise ModelworksError(
            f"{spec.name} reads the feature service {stored.service!r}, "
            f"and {contract.FEATURE_HISTORY_VARIABLE} is not set",
            fix="Set it to the folder, or the s3://bucket/data of the environment, that has the features' history.",
        )
    with tempfile.TemporaryDirectory(prefix="modelworks-history-") as folder:
        write_history(spec, Path(folder))
        yield folder


def _definitions(spec: ModelSpec) -> FeatureManifest:
    return read_manifest(spec.folder.parents[1])


def _on_demand(spec: ModelSpec, stated: StoredFeatures, definitions: FeatureManifest, name: str) -> of.OnDemand:
    """An on-demand view as a bundle states it.

    Raises:
        ModelworksError: No server computes it as training does.
    """
    view = definitions.on_demand[name]
    file = _function_file(spec, stated, name, view)
    if spec.service.code:
        raise ModelworksError(
            f"{stated.where}: the feature service {stated.service!r} has the on-demand view {name!r}, and a custom "
            "service computes none",
            fix="Compute it in that service, or leave Service(code) empty.",
        )
    if not spec.service.trusted_code:
        raise ModelworksError(
            f"{stated.where}: the on-demand view {name!r} needs {file}, which the server then runs",
            fix="State it: Service(trusted_code=True). Digest and signature of the bundle cover the code.",
        )
    inputs = dict(view.request)
    for source, features in view.views.items():
        if source not in definitions.views:
            raise ModelworksError(
                f"{stated.where}: the on-demand view {name!r} reads {source!r}, which {PATH} does not have",
                fix="Run `modelworks features apply`, and commit the file.",
            )
        inputs |= {f"{source}:{feature}": definitions.views[source].features[feature] for feature in features}
    wanted = definitions.services[stated.service].features[name]
    return of.OnDemand(
        name=name,
        function=view.function.partition(".")[2],
        inputs=dict(sorted(inputs.items())),
        features={feature: view.features[feature] for feature in wanted},
        digest=view.digest,
        singleton=view.mode == "singleton",
    )


def _function_file(spec: ModelSpec, stated: StoredFeatures, name: str, view: OnDemandView) -> Path:
    """The file of a view's function, which a server can run by itself."""
    whose = f"{stated.where}: the on-demand view {name!r}"
    if view.mode not in {"python", "singleton"}:
        raise ModelworksError(
            f'{whose} has mode="{view.mode}": a frame guesses the type of a column from the rows that are '
            "together, so that a request gets other values than training",
            fix='State mode="python": its function takes a dict of lists, or of values with singleton=True.',
        )
    if view.unserved:
        raise ModelworksError(
            f"{whose} has {', '.join(view.unserved)}, which no server does",
            fix="Leave it out of the definition, or compute the features in the model's pipeline.",
        )
    folder, _, function = view.function.partition(".")
    if folder != spec.folder.name:
        lies = f"has its function in models/{folder}" if folder else "has a function that no module has at its top"
        raise ModelworksError(
            f"{whose} {lies}: no run of {spec.name} would keep it",
            fix=f"Have it in a file of {spec.folder}, such as transformations.py, and import it into features.py.",
        )
    file = spec.folder.joinpath(*function.partition(":")[0].split(".")).with_suffix(".py")
    if not file.is_file():
        raise ModelworksError(f"{whose} has its function in {file}, which is not there", fix=_APPLY)
    for module, line in imports_of(file):
        if module == "feast":
            raise ModelworksError(
                f"{file}:{line}: the function of the on-demand view {name!r} is in a file that imports feast, which no "
                "server has",
                fix="Move the function into a file of its own, such as transformations.py, and import it into "
                "features.py: on_demand_feature_view(...)(function).",
            )
    refuse_other_imports(spec, [file])
    for module, line in sibling_imports(file, spec.folder):
        raise ModelworksError(
            f"{file}:{line}: the function of the on-demand view {name!r} is in a file that imports {module}, a file of "
            "the project: the digest of the definition would not cover it",
            fix="Move the code that the function needs into the same file.",
        )
    if digest_of_file(file) != view.code:
        raise ModelworksError(
            f"{whose} was defined with another {file} than there is",
            fix=_APPLY,
        )
    return file


def _request_values(spec: ModelSpec, stated: StoredFeatures, views: tuple[of.OnDemand, ...]) -> Iterator[of.Feature]:
    """Inputs of on-demand views that requests carry and that the spec does not state: any value of the type."""
    known = {*spec.feature_names, *(key.name for key in stated.keys)}
    for view in views:
        for name, kind in view.inputs.items():
            if ":" in name or name in known or kind not in of.STORED_TYPES:
                continue
            known.add(name)
            yield of.Feature(name=name, type=of.STORED_TYPES[kind], description=f"An input of {view.name}.")


def _used(stated: StoredFeatures, definitions: FeatureManifest) -> dict[str, tuple[str, ...]]:
    """Names of the features that the service reads from each view, for itself or for its on-demand views."""
    if stated.service not in definitions.services:
        raise ModelworksError(
            f"{stated.where}: {PATH} has no feature service {stated.service!r}"
            f"{did_you_mean(stated.service, definitions.services)}",
            fix="Define it in a features.py, run `modelworks features apply`, and commit the file.",
        )
    service = definitions.services[stated.service]
    used = definitions.views_read(stated.service)
    if other := [name for name in used if name not in definitions.views]:
        raise ModelworksError(f"{stated.where}: {PATH} has no view {', '.join(other)}", fix=_APPLY)
    if service.renamed:
        raise ModelworksError(
            f"{stated.where}: the feature service {stated.service!r} renames {', '.join(service.renamed)} or its keys, "
            "which no server does yet",
            fix="Use the view as it is defined, or define a second view with the other keys.",
        )
    if offline := [name for name in used if not definitions.views[name].online]:
        raise ModelworksError(
            f"{stated.where}: the view {', '.join(offline)} is not online, and a server reads it",
            fix="Set online=True.",
        )
    return used


def _read(spec: ModelSpec, frame: pd.DataFrame, stored: of.Stored, location: str) -> dict[str, list[Any]]:
    import pyarrow as pa

    time = str(spec.data.prediction_time)
    keys = dict.fromkeys(key for view in stored.views for key in view.keys)
    if missing := [name for name in (*keys, time) if name not in frame.columns]:
        raise ModelworksError(f"{spec.data.where}: data.load returned no column {', '.join(map(repr, missing))}")
    try:
        rows = pa.Table.from_pandas(frame[[*keys, time]], preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ModelworksError(f"{spec.data.where}: a key has no single type: {error}") from error
    if stored.engine == "feast":
        return _read_history(spec, rows, time, stored, location)
    return _read_events(spec, rows, time, stored)


def _read_history(spec: ModelSpec, rows: Any, time: str, stored: of.Stored, location: str) -> dict[str, list[Any]]:
    try:
        import polars as pl  # an extra of its own: only models with features of Feast need it

        from modelworks.features.history import read_history
    except ImportError as error:
        raise ModelworksError(
            f"{spec.name} reads features, and {error.name} is not installed", fix="Install `modelworks[features]`."
        ) from error
    definitions = _definitions(spec)
    views = {view.name: (definitions.views[view.name], tuple(view.features)) for view in stored.views}
    return read_history(pl.DataFrame(pl.from_arrow(rows)), time, views, location)


def _read_events(spec: ModelSpec, rows: Any, time: str, stored: of.Stored) -> dict[str, list[Any]]:
    """The vendor's history of the rows, decoded as its online values are."""
    import pyarrow.compute as pc

    from modelworks.features.vendors import read_events

    whole = functools.reduce(pc.and_, [pc.is_valid(rows[name]) for name in rows.column_names]).to_pylist()
    places = [number for number, is_whole in enumerate(whole) if is_whole]  # a null key or time matches nothing
    kinds = {name: kind for view in stored.views for name, kind in view.features.items()}
    found: dict[str, list[Any]] = {name: [None] * len(whole) for name in kinds}
    if not places:
        return found
    service = _definitions(spec).services[stored.service]
    features = {view.name: tuple(view.features) for view in stored.views}
    for name, values in read_events(stored.service, service, rows.take(places), time, features).items():
        for place, value in zip(places, values, strict=True):
            found[name][place] = decoded(kinds[name], value)
    return found


def _input_column(kind: str, values: list[Any]) -> pd.Series[Any]:
    """An input of an on-demand view as its function takes it, so that the gates call it with the same."""
    import pandas as pd  # only where data is at hand

    dtype = {"number": "float64", "integer": "Int64", "string": "object", "boolean": "boolean"}[of.STORED_TYPES[kind]]
    return pd.Series([taken(kind, value) for value in values], dtype=dtype)


def _column(spec: ModelSpec, stored: of.Stored, name: str, values: list[Any]) -> pd.Series[Any]:
    import pandas as pd  # only where data is at hand

    feature = next(each for each in spec.served_features if each.name == name)
    default = stored.defaults.get(name)
    found = [default if (value := accepted(feature, each)) is None else value for each in values]
    if feature.type == "number":
        return pd.Series(found, dtype="float64")
    if None in found:
        return pd.Series(found, dtype="float64" if feature.type == "integer" else "object")
    return pd.Series(found, dtype={"integer": "int64", "boolean": "bool", "string": "object"}[feature.type])

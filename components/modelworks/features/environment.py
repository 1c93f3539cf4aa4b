"""The feature store of one environment: its registry compared with definitions, its values read and verified."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from botocore.exceptions import BotoCoreError, ClientError
from feast import Entity, FeatureStore, FeatureView, RepoConfig
from feast.errors import FeastObjectNotFoundException
from feast.feature_view import DUMMY_ENTITY_NAME
from feast.utils import make_tzaware

from modelworks.errors import ModelworksError
from modelworks.feature_manifest import FeatureManifest
from modelworks.features.definitions import Defined, Definitions, manifest_of
from modelworks.features.materialization import materialized_until, newest_rows, online_store_of
from modelworks.features.recomputed import verify_computed
from modelworks.features.served import Skew, read_log, verify_served

_EXAMPLES = 3


def open_store(feature_store_yaml: str) -> FeatureStore:
    """The store that a `feature_store.yaml` describes."""
    return FeatureStore(config=RepoConfig(**yaml.safe_load(feature_store_yaml)))


def registered(store: FeatureStore) -> list[Defined]:
    """The objects that a registry holds; none if nothing was applied yet."""
    store.refresh_registry()  # type: ignore[no-untyped-call]
    return [
        *_entities(store),
        *store.list_feature_views(),
        *store.list_on_demand_feature_views(),
        *store.list_feature_services(),
    ]


def _entities(store: FeatureStore) -> list[Entity]:
    return [entity for entity in store.list_entities() if entity.name != DUMMY_ENTITY_NAME]


def registered_manifest(store: FeatureStore) -> FeatureManifest:
    """The manifest of what is applied."""
    return manifest_of(registered(store))


def apply(store: FeatureStore, definitions: Definitions, tables: Mapping[str, str] | None = None) -> None:
    """Make a registry hold exactly these definitions.

    Args:
        store: The store.
        definitions: The definitions of a project.
        tables: ARN of each declared table, by its view; None where the store creates its own.

    Raises:
        ModelworksError: An online view has no table yet. The registry is untouched then.
    """
    manifest = definitions.manifest
    online = {name for name, view in manifest.views.items() if view.online}
    if tables is not None and (missing := sorted(online - set(tables))):
        raise ModelworksError(
            f"the environment has no table for the feature view {', '.join(missing)}",
            fix="Commit models/features.json and bring the environment up with it first.",
        )
    wanted = {(type(item), item.name) for item in definitions.objects}
    gone = [item for item in registered(store) if (type(item), item.name) not in wanted]
    store.apply(list(definitions.objects), objects_to_delete=gone, partial=False)  # type: ignore[arg-type]


def verify_log(
    store: FeatureStore,
    client: Any,
    location: str,
    views: Sequence[FeatureView],
    *,
    sample: int,
    behind: timedelta,
    seed: int = 0,
    project: Path | None = None,
) -> Iterator[Skew]:
    """Compare a sample of what was served in the last day with history, as of the moments at which it was read.

    Args:
        store: The store.
        client: A boto3 client of S3.
        location: `s3://bucket/prefix`, below which the prediction logs of models are.
        views: The views to compare.
        sample: Most rows of each model.
        behind: How far the online store may be behind history.
        seed: Of the sample.
        project: The project whose on-demand views are computed again of their logged inputs; its functions are run.

    Raises:
        ModelworksError: The log or history cannot be read.
    """
    # Without on-demand views: Feast runs the text of their functions when it lists them.
    wanted = manifest_of([*_entities(store), *views]).views
    try:
        served = read_log(client, location, sample=sample, since=datetime.now(UTC) - timedelta(days=1), seed=seed)
    except (BotoCoreError, ClientError) as error:
        raise ModelworksError(
            f"the prediction log in {location} cannot be read: {error}",
            fix="Name a bucket that exists, and let the role read it: see `prediction_bucket` of FeatureStore.",
        ) from error
    base = store.config.offline_store.location or store.repo_path
    yield from verify_served(served, wanted, base, behind=behind)
    if project is not None:
        yield from verify_computed(served, project)


def get(store: FeatureStore, name: str, keys: Mapping[str, str]) -> dict[str, Any]:
    """The online features of a service, or of a view, for one entity.

    Args:
        store: The store.
        name: Name of the service or view.
        keys: Join keys and values of the request, as text.

    Raises:
        ModelworksError: There is no such service or view, or a key is missing or of the wrong type.
    """
    features: Any
    try:
        features = store.get_feature_service(name)
    except FeastObjectNotFoundException:
        views = {view.name: view for view in store.list_feature_views()}
        if name not in views:
            services = [service.name for service in store.list_feature_services()]
            raise ModelworksError(
                f"there is no feature service or view {name!r}",
                fix=f"There is {', '.join(sorted([*services, *views])) or 'none: apply the definitions first'}.",
            ) from None
        features = [f"{name}:{feature.name}" for feature in views[name].features]
    try:
        found = store.get_online_features(features=features, entity_rows=[typed_keys(store, keys)]).to_dict()
    except (KeyError, ValueError) as error:
        raise ModelworksError(f"{name} cannot be read with {', '.join(keys) or 'no key'}: {error}") from error
    return {feature: values[0] for feature, values in found.items()}


def typed_keys(store: FeatureStore, keys: Mapping[str, str]) -> dict[str, Any]:
    """Keys in the types of the views that have them.

    Raises:
        ModelworksError: A value is not of its key's type.
    """
    types = {column.name: str(column.dtype) for view in store.list_feature_views() for column in view.entity_columns}
    for on_demand in store.list_on_demand_feature_views():
        for source in on_demand.source_request_sources.values():
            types |= {column.name: str(column.dtype) for column in source.schema}
    row: dict[str, Any] = {}
    for key, value in keys.items():
        kind = types.get(key, "String")
        try:
            row[key] = int(value) if kind.startswith("Int") else float(value) if kind.startswith("Float") else value
        except ValueError as error:
            raise ModelworksError(f"{key} must be of the type {kind}, got {value!r}") from error
    return row


def verify(store: FeatureStore, views: Sequence[FeatureView], sample: int, seed: int = 0) -> Iterator[Skew]:
    """Compare a sample of online values with what history gives at the mark of each view.

    An entity that was written after the mark, by a later run or a push, is not compared.
    """
    online = online_store_of(store)
    for view in views:
        until = materialized_until(store, view)
        if until is None:
            raise ModelworksError(
                f"feature view {view.name!r} was never materialized without a gap: there is nothing to compare",
                fix=f"Run `modelworks features materialize --view {view.name}`.",
            )
        rows = [row for chunk in newest_rows(store, view, until) for row in chunk]
        chosen = random.Random(seed).sample(rows, min(sample, len(rows)))  # noqa: S311 - a sample, and no secret
        names = [feature.name for feature in view.features]
        stored = online.online_read(store.config, view, [key for key, *_ in chosen], names)
        yield from _skew(view, chosen, stored, names)


def _skew(view: FeatureView, rows: Sequence[Any], stored: Sequence[Any], names: Sequence[str]) -> Iterator[Skew]:
    compared: Counter[str] = Counter()
    different: Counter[str] = Counter()
    missing: Counter[str] = Counter()
    examples: dict[str, list[str]] = {name: [] for name in names}
    for (key, expected, event, _), (when, values) in zip(rows, stored, strict=True):
        if when is not None and when > make_tzaware(event):  # Feast gives times without a zone, in UTC
            continue
        for name in names:
            compared[name] += 1
            found = (values or {}).get(name)
            if found is not None and found.SerializeToString() == expected[name].SerializeToString():
                continue
            (different if found is not None else missing)[name] += 1
            if len(examples[name]) < _EXAMPLES:
                examples[name].append(f"{_text(key)}: online {_text(found)}, history {_text(expected[name])}")
    for name in names:
        yield Skew(view.name, name, compared[name], different[name], missing[name], tuple(examples[name]))


def _text(message: Any) -> str:
    """A protobuf message on one line."""
    return "nothing" if message is None else " ".join(str(message).split()) or "null"

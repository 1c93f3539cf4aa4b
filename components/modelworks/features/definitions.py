"""The features of a project: ordinary Feast objects in `models/*/features.py`, and the manifest that they make.

A model may use what another defines: `models/` is on the path while its files are read, so that
`from flight_delay.features import weather` works in any of them.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feast import BatchFeatureView, Entity, FeatureService, FeatureView, OnDemandFeatureView, ValueType
from feast.base_feature_view import BaseFeatureView
from feast.data_source import DataSource
from feast.feature_view import DUMMY_ENTITY_NAME

from modelworks.errors import ModelworksError
from modelworks.feature_manifest import FeatureManifest, OnDemandView, Service, View
from modelworks.features.parquet import parquet_source

MODEL_TAG = "modelworks:model"
"""Tag of a view or service: the model beside whose code it is defined."""
FUNCTION_TAG = "modelworks:function"
"""Tag of an on-demand view: where its function is, as `OnDemandView.function` has it."""
CODE_TAG = "modelworks:code"
"""Tag of an on-demand view: the digest of the file that has its function."""

Defined = Entity | DataSource | BaseFeatureView | FeatureService


@dataclass(frozen=True)
class Definitions:
    """All Feast objects of a project, each tagged with its model."""

    objects: tuple[Defined, ...]

    @property
    def manifest(self) -> FeatureManifest:
        """The manifest of these definitions.

        Raises:
            ModelworksError: A definition is incomplete, or this store cannot keep it.
        """
        return manifest_of(self.objects)


def read_definitions(project: Path) -> Definitions:
    """The definitions of a project.

    Raises:
        ModelworksError: A file cannot be run, or two objects of one kind have one name.
    """
    found: dict[tuple[str, str], tuple[Defined, str]] = {}
    files = sorted((project / "models").glob("*/features.py"))
    with importable(project / "models"):
        for file in files:
            model = file.parent.name.replace("_", "-")
            for defined in _defined_in(_run(file)):
                _keep(found, defined, model)
                if isinstance(defined, OnDemandFeatureView):
                    _tag_function(defined, project / "models")
    return Definitions(tuple(defined for defined, _ in found.values()))


def manifest_of(objects: Iterable[Defined]) -> FeatureManifest:
    """The manifest of Feast objects, as they are defined or as a registry has them.

    Raises:
        ModelworksError: A definition is incomplete, or this store cannot keep it.
    """
    every = list(objects)
    entities = {item.name: item for item in every if isinstance(item, Entity)}
    views = [item for item in every if isinstance(item, FeatureView)]
    on_demand = [item for item in every if isinstance(item, OnDemandFeatureView)]
    services = [item for item in every if isinstance(item, FeatureService)]
    known = {view.name: [field.name for field in view.features] for view in (*views, *on_demand)}
    return FeatureManifest(
        views={view.name: _view(view, entities) for view in sorted(views, key=_name)},
        on_demand={view.name: _on_demand(view) for view in sorted(on_demand, key=_name)},
        services={service.name: _service(service, known) for service in sorted(services, key=_name)},
    )


def _name(item: Any) -> str:
    return str(item.name)


def _run(file: Path) -> Mapping[str, Any]:
    name = f"{file.parent.name}.features"
    try:
        module = importlib.import_module(name)
    except ModelworksError:
        raise
    except Exception as error:
        frames = [
            frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith("features.py")
        ]
        where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else str(file)
        raise ModelworksError(f"{where}: {type(error).__name__}: {error}") from error
    if Path(module.__file__ or "").resolve() != file.resolve():
        raise ModelworksError(
            f"{file.parent.name}.features is {module.__file__}, and not {file}",
            fix=f"Rename the folder {file.parent}: an installed package has its name.",
        )
    return vars(module)


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Let files below `folder` import each other, and forget them afterwards: the next project has files of its own."""
    before, writes_bytecode = set(sys.modules), sys.dont_write_bytecode
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True  # every file of a model's folder counts in its runs
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        sys.dont_write_bytecode = writes_bytecode
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None) or next(
                iter(getattr(sys.modules[name], "__path__", [])), ""
            )
            if file and Path(file).resolve().is_relative_to(folder.resolve()):
                del sys.modules[name]


def _defined_in(names: Mapping[str, Any]) -> list[Defined]:
    """The Feast objects of a module, once each, with the sources of its views."""
    found: list[Defined] = []
    for value in names.values():
        items = value if isinstance(value, list | tuple) else [value]
        for item in items:
            if isinstance(item, Defined) and not any(item is known for known in found):
                found.append(item)
    return found


def _keep(found: dict[tuple[str, str], tuple[Defined, str]], defined: Defined, model: str) -> None:
    key = (_kind(defined), defined.name)
    if key not in found:
        if isinstance(defined, BaseFeatureView | FeatureService):
            defined.tags = {**(defined.tags or {}), MODEL_TAG: model}
        found[key] = (defined, model)
    elif found[key][0] is not defined:  # imported from there, it is the same object
        raise ModelworksError(
            f"{key[0]} {defined.name!r} is defined by {found[key][1]} and by {model}",
            fix="Rename one, or import it from the other's features.py.",
        )


def _tag_function(view: OnDemandFeatureView, models: Path) -> None:
    """Note where the function of an on-demand view is, in its tags."""
    function = getattr(view.feature_transformation, "udf", None)
    if function is None or function.__globals__.get(function.__name__) not in {function, view}:
        return  # a lambda, or a function in a function: no other process finds it
    file = Path(function.__code__.co_filename).resolve()
    if not file.is_relative_to(models.resolve()):
        return
    module = ".".join(file.relative_to(models.resolve()).with_suffix("").parts)
    code = f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    view.tags = {**(view.tags or {}), FUNCTION_TAG: f"{module}:{function.__name__}", CODE_TAG: code}


def _kind(defined: Defined) -> str:
    if isinstance(defined, Entity):
        return "entity"
    if isinstance(defined, DataSource):
        return "source"
    return "service" if isinstance(defined, FeatureService) else "view"


def _view(view: FeatureView, entities: Mapping[str, Entity]) -> View:
    if isinstance(view, BatchFeatureView) and getattr(view, "feature_transformation", None) is not None:
        raise ModelworksError(
            f"view {view.name!r} transforms its source; write the transformed rows as its source instead"
        )
    source = parquet_source(view.batch_source)
    if not view.features:
        raise ModelworksError(
            f"view {view.name!r} states no features", fix="List each with its type: schema=[Field(…)]."
        )
    stored = {name: column for column, name in (source.field_mapping or {}).items()}
    keys = _keys(view, entities)
    created = source.created_timestamp_column or None
    return View(
        model=(view.tags or {}).get(MODEL_TAG, ""),
        entities=tuple(name for name in view.entities if name != DUMMY_ENTITY_NAME),
        keys=keys,
        features={field.name: str(field.dtype) for field in view.features},
        ttl_seconds=view.ttl.total_seconds() if view.ttl else None,
        source=source.path.rstrip("/"),
        event_time=source.timestamp_field,
        created_time=created,
        stored={name: column for name, column in stored.items() if name != column},
        online=view.online,
        digest=digest_of_view(view, keys),
    )


def _keys(view: FeatureView, entities: Mapping[str, Entity]) -> dict[str, str]:
    stated = {field.name: str(field.dtype) for field in view.entity_columns}
    keys = {}
    for name in view.entities:
        if name == DUMMY_ENTITY_NAME:
            continue
        if name not in entities:
            raise ModelworksError(f"view {view.name!r} has the entity {name!r}, which no features.py defines")
        entity = entities[name]
        if entity.join_key in stated:
            keys[entity.join_key] = stated[entity.join_key]
        elif entity.value_type != ValueType.UNKNOWN:
            keys[entity.join_key] = str(entity.dtype) if hasattr(entity, "dtype") else _type_name(entity.value_type)
        else:
            raise ModelworksError(
                f"entity {name!r} states no type", fix="Give it one: value_type=ValueType.STRING, for instance."
            )
    return keys


def _type_name(value_type: ValueType) -> str:
    from feast.types import from_value_type

    return str(from_value_type(value_type))


def _on_demand(view: OnDemandFeatureView) -> OnDemandView:
    inputs = [
        *(f"{projection.name}:{field.name}" for projection in view.source_feature_view_projections.values()
          for field in projection.features),
        *(field.name for source in view.source_request_sources.values() for field in source.schema),
    ]  # fmt: skip
    tags = view.tags or {}
    return OnDemandView(
        model=tags.get(MODEL_TAG, ""),
        inputs=tuple(sorted(inputs)),
        features={field.name: str(field.dtype) for field in view.features},
        digest=digest_of_view(view, {}),
        request={
            field.name: str(field.dtype) for source in view.source_request_sources.values() for field in source.schema
        },
        mode="singleton" if view.singleton else view.mode,
        function=tags.get(FUNCTION_TAG, ""),
        code=tags.get(CODE_TAG, ""),
        unserved=tuple(_unserved(view)),
    )


def _unserved(view: OnDemandFeatureView) -> Iterator[str]:
    for option in ("aggregations", "input_schema", "write_to_online_store"):
        if getattr(view, option, None):
            yield option
    for source in view.source_feature_view_projections.values():
        if source.name_alias or source.join_key_map:
            yield f"a renamed {source.name}"


def _service(service: FeatureService, known: Mapping[str, list[str]]) -> Service:
    features: dict[str, tuple[str, ...]] = {}
    for projection in service.feature_view_projections:
        if projection.name not in known:
            raise ModelworksError(
                f"feature service {service.name!r} uses the view {projection.name!r}, which no features.py defines"
            )
        names = [field.name for field in projection.features] or known[projection.name]
        if lost := [name for name in names if name not in known[projection.name]]:
            raise ModelworksError(
                f"feature service {service.name!r} uses {', '.join(lost)}, which view {projection.name!r} does not have"
            )
        features[projection.name] = tuple(names)
    renamed = [each.name for each in service.feature_view_projections if each.name_alias or each.join_key_map]
    return Service(
        model=(service.tags or {}).get(MODEL_TAG, ""),
        features=dict(sorted(features.items())),
        renamed=tuple(sorted(renamed)),
    )


def keys_of_registered(view: FeatureView) -> dict[str, str]:
    """Join keys of a view of a registry, and their types: Feast writes them there when it applies a definition."""
    return {column.name: str(column.dtype) for column in view.entity_columns}


def digest_of_view(view: BaseFeatureView, keys: Mapping[str, str]) -> str:
    """The digest of a definition alone: neither of when it was applied, nor of what was materialized.

    Args:
        view: The view, as it is defined or as a registry has it.
        keys: Its join keys and their types, which a definition may leave to its entities.
    """
    body: Any = view.to_proto().spec
    body.project = ""
    if "entity_columns" in body.DESCRIPTOR.fields_by_name:
        body.ClearField("entity_columns")
    if isinstance(view, OnDemandFeatureView) and body.feature_transformation.HasField("user_defined_function"):
        # The function's text counts, and its file, by a tag. Its pickle names the folder of a checkout.
        body.feature_transformation.user_defined_function.ClearField("body")
    for holder in (body, *_projections(body)):
        for source in ("batch_source", "stream_source", "request_data_source"):
            if source in holder.DESCRIPTOR.fields_by_name and holder.HasField(source):
                held = getattr(holder, source)
                held.project = ""
                held.ClearField("meta")
    definition = body.SerializeToString(deterministic=True) + repr(sorted(keys.items())).encode()
    return f"sha256:{hashlib.sha256(definition).hexdigest()}"


def _projections(body: Any) -> Iterator[Any]:
    """The sources of an on-demand view, and the views among them: these hold sources of their own."""
    if "sources" in body.DESCRIPTOR.fields_by_name:
        for source in body.sources.values():
            yield source
            if source.HasField("feature_view_projection"):
                yield source.feature_view_projection

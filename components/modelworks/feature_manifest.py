"""The manifest of a project's features: what the definitions in `models/*/features.py` are, without Feast.

`modelworks features apply` writes it, people review and commit it, and a Pulumi program, which never imports Feast,
declares tables by it. Pure: texts in, frozen values out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from modelworks.errors import ModelworksError

PATH = Path("models/features.json")
"""Path of the manifest in a project."""
FORMAT = 1

_ATHENA = {
    "String": "string",
    "Bytes": "binary",
    "Bool": "boolean",
    "Int32": "int",
    "Int64": "bigint",
    "Float32": "float",
    "Float64": "double",
    "UnixTimestamp": "timestamp",
}


@dataclass(frozen=True)
class View:
    """A feature view."""

    model: str
    """The model beside whose code it is defined."""
    entities: tuple[str, ...]
    keys: Mapping[str, str]
    """Type of each join key."""
    features: Mapping[str, str]
    """Type of each feature."""
    ttl_seconds: float | None
    source: str
    """Path of the source; a relative one is under the offline store."""
    event_time: str
    created_time: str | None
    stored: Mapping[str, str]
    """Columns of the source whose names differ: by the name of the definition."""
    online: bool
    digest: str
    """Of the whole definition: also of what is not listed here."""

    @property
    def path(self) -> str | None:
        """Folder of the source in the offline store; None for one elsewhere, or a single file."""
        elsewhere = "://" in self.source or self.source.startswith("/")
        return None if elsewhere or "*" in self.source or self.source.endswith((".parquet", ".pq")) else self.source

    @property
    def columns(self) -> dict[str, str]:
        """Columns of the source and their Athena types."""
        typed = {name: athena_type(kind) for name, kind in {**self.keys, **self.features}.items()}
        times = {name: "timestamp" for name in (self.event_time, self.created_time) if name}
        return {self.stored.get(name, name): kind for name, kind in {**typed, **times}.items()}


@dataclass(frozen=True)
class OnDemandView:
    """Features that are computed when they are requested."""

    model: str
    inputs: tuple[str, ...]
    """`view:feature` that it reads; a name without a view is a value of the request."""
    features: Mapping[str, str]
    digest: str
    request: Mapping[str, str] = field(default_factory=dict)
    """Type of each value of the request."""
    mode: str = "pandas"
    """`python`, `singleton` (Feast's `mode="python", singleton=True`), or another of Feast's modes."""
    function: str = ""
    """`model.module:name` of the function, below `models/`; empty if it is not at the top of a module there."""
    code: str = ""
    """Digest of the file that has the function."""
    unserved: tuple[str, ...] = ()
    """Options of its definition that no server has."""

    @property
    def views(self) -> dict[str, tuple[str, ...]]:
        """Names of the features that it reads, by their view."""
        found: dict[str, tuple[str, ...]] = {}
        for view, _, feature in (entry.partition(":") for entry in self.inputs if ":" in entry):
            found[view] = (*found.get(view, ()), feature)
        return found


@dataclass(frozen=True)
class Service:
    """The features that a model uses, by the name of a feature service."""

    model: str
    features: Mapping[str, tuple[str, ...]]
    """Names of features, by their view."""
    renamed: tuple[str, ...] = ()
    """Views that it uses under another name, or with other keys."""
    engine: str = "feast"
    """`feast`, `hopsworks` or `tecton`: the system that keeps its views."""
    place: Mapping[str, str] = field(default_factory=dict)
    """Where a vendor keeps it: `workspace`; or `project`, `version` and `event_time`, the column of times."""


@dataclass(frozen=True)
class FeatureManifest:
    """All views and services of a project, by name."""

    views: Mapping[str, View] = field(default_factory=dict)
    on_demand: Mapping[str, OnDemandView] = field(default_factory=dict)
    services: Mapping[str, Service] = field(default_factory=dict)

    def to_json(self) -> str:
        """The text to commit: the same definitions give the same bytes."""
        facts = asdict(self)
        for service in facts["services"].values():
            if service["engine"] == "feast":
                del service["engine"], service["place"]
        return json.dumps({"format": FORMAT, **facts}, indent=2, sort_keys=True) + "\n"

    def views_read(self, service: str) -> dict[str, tuple[str, ...]]:
        """Names of the features that a service reads from each view, for itself or for an on-demand view. KeyError."""
        named = self.services[service].features
        found: dict[str, dict[str, None]] = {}
        for name, features in named.items():
            inputs = self.on_demand[name].views if name in self.on_demand else {name: features}
            for view, read in inputs.items():
                found.setdefault(view, {}).update(dict.fromkeys(read))
        return {name: tuple(found[name]) for name in sorted(found)}

    @property
    def of_vendors(self) -> FeatureManifest:
        """The services that Hopsworks and Tecton keep, and their views."""
        services = {name: service for name, service in self.services.items() if service.engine != "feast"}
        views = {view for service in services.values() for view in service.features}
        return FeatureManifest(
            views={name: view for name, view in self.views.items() if name in views}, services=services
        )

    def without(self, service: str) -> FeatureManifest:
        """These definitions without a vendor's service and its views."""
        pulled = self.of_vendors.services.get(service)
        gone = pulled.features if pulled else ()
        return FeatureManifest(
            views={name: view for name, view in self.views.items() if name not in gone},
            on_demand=self.on_demand,
            services={name: each for name, each in self.services.items() if not pulled or name != service},
        )

    def with_others(self, others: FeatureManifest) -> FeatureManifest:
        """These definitions, and others.

        Raises:
            ModelworksError: Two views or services have one name.
        """
        for kind, here, there in (
            ("view", {**self.views, **self.on_demand}, others.views),
            ("service", self.services, others.services),
        ):
            if twice := sorted(set(here) & set(there)):
                raise ModelworksError(
                    f"there are two feature {kind}s {twice[0]!r}, of different engines or services",
                    fix="Rename one of them.",
                )
        return FeatureManifest(
            views={**self.views, **others.views},
            on_demand={**self.on_demand, **others.on_demand},
            services={**self.services, **others.services},
        )


def athena_type(feast_type: str) -> str:
    """The Athena type of the content of a column that Feast calls `feast_type`.

    Raises:
        ModelworksError: Athena has none.
    """
    if feast_type.startswith("Array(") and feast_type.endswith(")"):
        return f"array<{athena_type(feast_type[6:-1])}>"
    if feast_type not in _ATHENA:
        raise ModelworksError(
            f"Athena has no type for Feast's {feast_type}",
            fix=f"Use one of {', '.join(_ATHENA)}, or an Array of one.",
        )
    return _ATHENA[feast_type]


def read_manifest(project: Path) -> FeatureManifest:
    """The committed manifest of a project; an empty one where there is no file.

    Raises:
        ModelworksError: The file is no manifest of this version.
    """
    path = project / PATH
    try:
        return parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return FeatureManifest()
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelworksError(
            f"{path} is no manifest of features: {error}",
            fix="Restore it from git, or run `modelworks features apply`.",
        ) from error


def parse(text: str) -> FeatureManifest:
    """The manifest in a text.

    Raises:
        KeyError, TypeError, ValueError: It is none.
    """
    found: dict[str, Any] = json.loads(text)
    if found["format"] != FORMAT:
        raise ValueError(f"format {found['format']!r} is not {FORMAT}")
    return FeatureManifest(
        views={name: View(**{**view, "entities": tuple(view["entities"])}) for name, view in found["views"].items()},
        on_demand={
            name: OnDemandView(**{**view, "inputs": tuple(view["inputs"]), "unserved": tuple(view.get("unserved", ()))})
            for name, view in found["on_demand"].items()
        },
        services={
            name: Service(
                **{
                    **service,
                    "features": {view: tuple(names) for view, names in service["features"].items()},
                    "renamed": tuple(service.get("renamed", ())),
                }
            )
            for name, service in found["services"].items()
        },
    )

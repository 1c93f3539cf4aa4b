"""Stored features of a table's rows as they were at each row's time, from a manifest of definitions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl

from modelworks.errors import ModelworksError
from modelworks.feature_manifest import View
from modelworks.features import sources
from modelworks.features.point_in_time import Values, join_point_in_time
from modelworks.features.sources import Base

_TYPES = {
    "Float32": pl.Float32,
    "Float64": pl.Float64,
    "Int32": pl.Int32,
    "Int64": pl.Int64,
    "String": pl.String,
    "Bool": pl.Boolean,
}
"""Of the online values: a Float32 that history keeps in full is as coarse as it is served."""


def read_history(
    rows: pl.DataFrame, time: str, views: Mapping[str, tuple[View, tuple[str, ...]]], location: str
) -> dict[str, list[Any]]:
    """The values of features for each row, None where there is none.

    Args:
        rows: The rows' keys and times.
        time: The column of times.
        views: The views by name, each with the features that are wanted.
        location: Where relative sources lie: a folder, or `s3://bucket/prefix`.

    Raises:
        ModelworksError: A source is not there, or its columns are not those of the definition.
    """
    base = location if "://" in location else Path(location)
    values = [values_of(name, view, features, base) for name, (view, features) in views.items()]
    joined = join_point_in_time(rows, time, values)
    casts = [cast for view, features in views.values() for cast in as_served(view, features)]
    try:
        found = joined.select(casts).collect(engine="streaming")
    except pl.exceptions.InvalidOperationError as error:
        raise ModelworksError(
            f"history holds values that are not of the type of their features: {str(error).splitlines()[0]}",
            fix="State the type that the source has in features.py, and run `modelworks features apply`.",
        ) from error
    return {name: found[name].to_list() for name in found.columns}


def as_served(view: View, features: Iterable[str]) -> list[pl.Expr]:
    """The features of a view in the types that the online store has."""
    return [pl.col(name).cast(_TYPES[view.features[name]]) for name in features]


def values_of(name: str, view: View, features: tuple[str, ...], base: Base) -> Values:
    """The values of a view as the join takes them, from where its source lies.

    Raises:
        ModelworksError: The source is not there.
    """
    created = view.created_time
    return Values(
        view=name,
        frame=sources.scan(name, sources.uri_of(view.source, base)),
        keys={key: view.stored.get(key, key) for key in view.keys},
        features={feature: view.stored.get(feature, feature) for feature in features},
        event_time=view.stored.get(view.event_time, view.event_time),
        created_time=created and view.stored.get(created, created),
        ttl=timedelta(seconds=view.ttl_seconds) if view.ttl_seconds else None,
    )

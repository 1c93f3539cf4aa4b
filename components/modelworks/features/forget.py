"""Deletion of one entity: its history, with the earlier versions of the files that held it, and its online values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from botocore.exceptions import BotoCoreError, ClientError
from feast import FeatureStore, FeatureView

from modelworks.errors import ModelworksError
from modelworks.feature_items import entity_id
from modelworks.features import parquet
from modelworks.features.materialization import online_store_of


@dataclass(frozen=True)
class Forgotten:
    """The values of an entity that a view had."""

    view: str
    rows: int
    """Rows of its history that are deleted."""
    online: int
    """Items of its online table that are deleted."""


def forget(store: FeatureStore, views: Sequence[FeatureView], keys: Mapping[str, Any]) -> Iterator[Forgotten]:
    """Delete what views hold of an entity: history first, so that no later run brings it back, then what is online.

    Of a view with further keys, all entities with these keys are deleted.

    Args:
        store: The store.
        views: Online views that have all of the keys.
        keys: Join keys of the entity and their values.

    Yields:
        The number of deleted rows and items, view by view.

    Raises:
        ModelworksError: A store cannot be read or written: what is deleted stays so, and the rest is there still.
    """
    for view in views:
        try:
            yield _forget(store, view, keys)
        except (BotoCoreError, ClientError, OSError) as error:
            raise ModelworksError(
                f"feature view {view.name!r} still holds a part of it: {error}",
                fix="Run the same again: it deletes the rest.",
            ) from error


def _forget(store: FeatureStore, view: FeatureView, keys: Mapping[str, Any]) -> Forgotten:
    source = parquet.parquet_source(view.batch_source)
    stored = {name: column for column, name in (source.field_mapping or {}).items()}
    columns = {column.name: stored.get(column.name, column.name) for column in view.entity_columns}
    base = store.config.offline_store.location or store.repo_path
    deleted = parquet.delete_rows(source, base, {columns[name]: value for name, value in keys.items()})
    entities = _entities(deleted, columns)
    if set(columns) == set(keys):
        entities.add(tuple(keys[name] for name in columns))  # also online where history has nothing of it
    types = {column.name: str(column.dtype) for column in view.entity_columns}
    ids = [
        entity_id({name: (types[name], value) for name, value in zip(columns, entity, strict=True)})
        for entity in entities
    ]
    return Forgotten(view.name, deleted.num_rows, online_store_of(store).delete(store.config, view, ids))


def _entities(rows: pa.Table, columns: Mapping[str, str]) -> set[tuple[Any, ...]]:
    """The values of all keys in some rows; a row that lacks one is of no entity."""
    if not rows.num_rows:
        return set()
    found = zip(*(rows[column].to_pylist() for column in columns.values()), strict=True)
    return {entity for entity in found if None not in entity}

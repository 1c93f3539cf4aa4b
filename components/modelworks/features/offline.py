"""A Feast offline store on Polars: `offline_store: {type: modelworks.features.offline.PolarsOfflineStore}`.

Feast's own definitions, registry, API and command line work with it as with any store of theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from feast.data_source import DataSource
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.feature_logging import LoggingConfig, LoggingSource
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_NAME, DUMMY_ENTITY_VAL, FeatureView
from feast.infra.offline_stores.file_source import FileLoggingDestination, FileSource
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.saved_dataset import SavedDatasetStorage
from feast.utils import _get_requested_feature_views_to_features_dict as features_by_view

from modelworks.errors import ModelworksError
from modelworks.features import parquet, sources
from modelworks.features.point_in_time import Values, between, join_point_in_time

_BATCH_ROWS = 250_000
"""Rows that are read together; a batch of wide rows takes some hundred MiB."""

EntityRows: TypeAlias = pd.DataFrame | pa.Table | pl.DataFrame


class PolarsOfflineStoreConfig(FeastConfigBaseModel):
    """`offline_store` of feature_store.yaml."""

    type: Literal["modelworks.features.offline.PolarsOfflineStore"] = "modelworks.features.offline.PolarsOfflineStore"

    location: str | None = None
    """Where sources with a relative path lie: a folder, or `s3://bucket/prefix`. Default: that of the definitions."""


class PolarsRetrievalJob(RetrievalJob):
    """A query that runs when its result is read."""

    def __init__(
        self,
        query: pl.LazyFrame,
        base: sources.Base,
        *,
        on_demand: list[OnDemandFeatureView] | None = None,
        full_feature_names: bool = False,
        metadata: RetrievalMetadata | None = None,
    ) -> None:
        super().__init__()
        self._query = query
        self._base = base
        self._on_demand = on_demand or []
        self._full_feature_names = full_feature_names
        self._metadata = metadata

    @property
    def full_feature_names(self) -> bool:
        """Whether a feature's column is named `view__feature`."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """The on-demand feature views that Feast computes from the result."""
        return self._on_demand

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """The requested features, and the keys and times of the rows."""
        return self._metadata

    def persist(
        self,
        storage: SavedDatasetStorage,
        allow_overwrite: bool = False,
        timeout: int | None = None,
    ) -> None:
        """Write the result, with its on-demand features, as a saved dataset."""
        source = parquet.parquet_source(storage.to_data_source())
        if not allow_overwrite and parquet.exists(source, self._base):
            raise SavedDatasetLocationAlreadyExists(location=source.path)
        parquet.replace(self.to_arrow(timeout=timeout), source, self._base)

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._to_arrow_internal(timeout).to_pandas()

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:  # noqa: ARG002 - Feast's interface
        return parquet.in_plain_types(self._query.collect(engine="streaming").to_arrow())


class _NewestRetrievalJob(PolarsRetrievalJob):
    """The newest row of each key, found with memory for the keys alone: the rows are read in batches."""

    def __init__(self, rows: pl.LazyFrame, base: sources.Base, keys: list[str], order: list[str]) -> None:
        super().__init__(rows, base)
        self._keys = keys
        self._order = order

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:  # noqa: ARG002 - Feast's interface
        return parquet.in_plain_types(newest_of(self._query.drop_nulls(self._keys), self._keys, self._order).to_arrow())


def newest_of(rows: pl.LazyFrame, keys: list[str], order: list[str]) -> pl.DataFrame:
    """The row of each key that comes last in `order`; of equal ones the one that stands last.

    Args:
        rows: The rows, none of whose keys is null.
        keys: Columns of the key.
        order: Columns of the order, the most significant one first. A null comes before all.
    """
    newest = pl.DataFrame(schema=rows.collect_schema())
    waiting: list[pl.DataFrame] = []
    for batch in rows.collect_batches(chunk_size=_BATCH_ROWS, maintain_order=True, engine="streaming"):
        waiting.append(batch)
        # Reducing once as many rows wait as are kept makes the cost linear, and the memory twice the result.
        if sum(map(len, waiting)) >= max(_BATCH_ROWS, len(newest)):
            newest, waiting = _reduced([newest, *waiting], keys, order), []
    return _reduced([newest, *waiting], keys, order)


def _reduced(frames: list[pl.DataFrame], keys: list[str], order: list[str]) -> pl.DataFrame:
    together = pl.concat(frames, rechunk=False)
    return together.sort(order, nulls_last=False, maintain_order=True).unique(keys, keep="last", maintain_order=True)


class PolarsOfflineStore(OfflineStore):
    """Reads Parquet with Polars; what a row gets is defined in `modelworks.features.point_in_time`."""

    supports_filter_by_created_timestamp = True

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: EntityRows | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        **unsupported: Any,
    ) -> RetrievalJob:
        """Each row of `entity_df` with its features. An Arrow table or a Polars frame need not go through pandas."""
        if unsupported or entity_df is None:
            raise ModelworksError(
                "this offline store needs entity rows: it does not list the entities of a time range",
                fix="Pass entity_df with the keys and times that you want features for.",
            )
        rows = _entity_rows(entity_df)
        time = _time_column(rows.schema)
        on_demand = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        views, _ = features_by_view(feature_refs, feature_views, on_demand)
        values = [_values(view, names, _base(config), full_names=full_feature_names) for view, names in views.items()]
        first, last = (
            moment.replace(tzinfo=UTC) if isinstance(moment, datetime) else None
            for moment in (_in_utc(rows[time]).min(), _in_utc(rows[time]).max())
        )
        return PolarsRetrievalJob(
            join_point_in_time(rows, time, values, known_then=filter_by_created_timestamp),
            _base(config),
            on_demand=on_demand,
            full_feature_names=full_feature_names,
            metadata=RetrievalMetadata(
                features=feature_refs,
                keys=[column for column in rows.columns if column != time],
                min_event_timestamp=first,
                max_event_timestamp=last,
            ),
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """The newest value of each key whose event time is from `start_date` to `end_date`, both included."""
        values = between(parquet.scan(data_source, _base(config)), timestamp_field, start_date, end_date)
        rows = _columns(values, join_key_columns, feature_name_columns, timestamp_field, created_timestamp_column)
        keys = join_key_columns or [DUMMY_ENTITY_ID]
        return _NewestRetrievalJob(rows, _base(config), keys, _order(timestamp_field, created_timestamp_column))

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Every value whose event time is from `start_date` to `end_date`, both included."""
        values = between(parquet.scan(data_source, _base(config)), timestamp_field, start_date, end_date)
        rows = _columns(values, join_key_columns, feature_name_columns, timestamp_field, created_timestamp_column)
        return PolarsRetrievalJob(rows, _base(config))

    @staticmethod
    def offline_write_batch(
        config: RepoConfig,
        feature_view: FeatureView,
        table: pa.Table,
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Add rows to the batch source of a view."""
        source = parquet.parquet_source(feature_view.batch_source)
        if parquet.exists(source, _base(config)):
            stored = parquet.schema(source, _base(config)).names
            if set(stored) != set(table.column_names):
                raise ModelworksError(
                    f"the source of feature view {feature_view.name!r} has the columns {', '.join(stored)}; "
                    f"the rows to write have {', '.join(table.column_names)}"
                )
        parquet.append(table, source, _base(config))
        if progress:
            progress(table.num_rows)

    @staticmethod
    def write_logged_features(
        config: RepoConfig,
        data: pa.Table | Path,
        source: LoggingSource,  # noqa: ARG004 - Feast's interface
        logging_config: LoggingConfig,
        registry: BaseRegistry,  # noqa: ARG004
    ) -> None:
        """Add served features to the folder that the feature service logs to."""
        destination = logging_config.destination
        if not isinstance(destination, FileLoggingDestination):
            raise ModelworksError(
                f"this offline store logs features to files, not to {type(destination).__name__}",
                fix="Use FileLoggingDestination.",
            )
        table = pq.read_table(data) if isinstance(data, Path) else data
        parquet.write_partitions(
            table, destination.path, destination.s3_endpoint_override, destination.partition_by or [], _base(config)
        )

    def validate_data_source(self, config: RepoConfig, data_source: DataSource) -> None:  # noqa: ARG002 - Feast's interface
        """Refuse what this store cannot read. Definitions may be applied before their data is there."""
        if isinstance(data_source, FileSource):
            parquet.parquet_source(data_source)

    def get_table_column_names_and_types_from_data_source(
        self, config: RepoConfig, data_source: DataSource
    ) -> Iterable[tuple[str, str]]:
        """Each column of a source and its Arrow type. Feast's own reading of S3 ignores `AWS_ENDPOINT_URL`."""
        source = parquet.parquet_source(data_source)
        return [(field.name, str(parquet.plain(field.type))) for field in parquet.schema(source, _base(config))]


def _base(config: RepoConfig) -> sources.Base:
    """Where relative paths of sources begin."""
    location: str | None = config.offline_store.location
    return location or config.repo_path


def _entity_rows(entity_df: EntityRows | str) -> pl.DataFrame:
    if isinstance(entity_df, str):
        raise ModelworksError(
            "this offline store takes entity rows, not a query",
            fix="Pass a pandas, Arrow or Polars frame as entity_df.",
        )
    if isinstance(entity_df, pl.DataFrame):
        return entity_df
    table = entity_df if isinstance(entity_df, pa.Table) else pa.Table.from_pandas(entity_df, preserve_index=False)
    return pl.DataFrame(pl.from_arrow(table))


def _time_column(schema: pl.Schema) -> str:
    """The column of the rows' times, by Feast's rule: `event_timestamp`, or else the only one that holds times."""
    times = [name for name, dtype in schema.items() if isinstance(dtype, pl.Datetime | pl.Date)]
    if "event_timestamp" in times:
        return "event_timestamp"
    if "event_timestamp" in schema:
        raise ModelworksError(
            f"event_timestamp of the entity rows must hold times, and holds {schema['event_timestamp']}"
        )
    if len(times) != 1:
        raise ModelworksError(
            f"the entity rows need one column of times, and have {', '.join(times) or 'none'}",
            fix="Name the one that counts event_timestamp.",
        )
    return times[0]


def _in_utc(times: pl.Series) -> pl.Series:
    zoned = isinstance(times.dtype, pl.Datetime) and times.dtype.time_zone is not None
    return times.dt.convert_time_zone("UTC").dt.replace_time_zone(None) if zoned else times.cast(pl.Datetime("us"))


def _values(view: FeatureView, features: list[str], base: sources.Base, *, full_names: bool) -> Values:
    """A view as the join takes it: names of the definition resolved to columns of its source."""
    source = parquet.parquet_source(view.batch_source)
    stored = {name: column for column, name in (source.field_mapping or {}).items()}
    prefix = f"{view.projection.name_alias or view.name}__" if full_names else ""
    aliases = view.projection.join_key_map
    keys = _keys(view)
    created = source.created_timestamp_column or None
    return Values(
        view=view.projection.name_to_use(),  # type: ignore[no-untyped-call]
        frame=parquet.scan(source, base),
        keys={aliases.get(key, key): stored.get(key, key) for key in keys},
        features={f"{prefix}{name}": stored.get(name, name) for name in features},
        event_time=stored.get(source.timestamp_field, source.timestamp_field),
        created_time=created and stored.get(created, created),
        ttl=view.ttl,
    )


def _keys(view: FeatureView) -> list[str]:
    keys = [field.name for field in view.entity_columns if field.name != DUMMY_ENTITY_ID]
    entities = [name for name in view.entities if name != DUMMY_ENTITY_NAME]
    if len(keys) != len(entities):  # Feast only warns, and a view without a key would give its values to every row
        known = f"only the key {', '.join(keys)}" if keys else "no key"
        raise ModelworksError(
            f"feature view {view.name!r} names the entities {', '.join(entities)}, but has {known}",
            fix="Apply the entities together with the view.",
        )
    return keys


def _columns(
    values: pl.LazyFrame, keys: list[str], features: list[str], time: str, created: str | None
) -> pl.LazyFrame:
    rows = values.select(*dict.fromkeys([*keys, *features, *_order(time, created)]))
    # What has no entity has one row for all, under the key that Feast gives to such a view.
    return rows if keys else rows.with_columns(pl.lit(DUMMY_ENTITY_VAL).alias(DUMMY_ENTITY_ID))


def _order(time: str, created: str | None) -> list[str]:
    return [time, created] if created else [time]

"""Materialization: the newest values of a window of event times, from the offline store into DynamoDB.

It may be repeated, interrupted and run twice at once. The table of a view holds the mark up to which the view was
materialized; a run without a stated start continues from there. A write never replaces a newer value (see `online`),
so the order of runs does not matter, and a backfill leaves newer values alone.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
from botocore.exceptions import BotoCoreError, ClientError
from feast import FeatureStore, FeatureView
from feast.utils import _convert_arrow_to_proto, _get_column_names

from modelworks import contract
from modelworks.errors import ModelworksError
from modelworks.features.definitions import digest_of_view, keys_of_registered
from modelworks.features.online import DynamoDBOnlineStore

_ROWS_PER_WRITE = 5000
"""Rows that are converted and written together: what they take in memory is little beside the keys."""
_BEGINNING = datetime(1, 1, 1, tzinfo=UTC)

Publish = Callable[[str, float], None]
"""Called with the name of a view and a number, such as its lag in seconds."""


@dataclass(frozen=True)
class Materialized:
    """The result of a run for one view."""

    view: str
    start: datetime | None
    """First event time of the window; None for the beginning of the history."""
    end: datetime
    """Last event time of the window."""
    written: int
    """Entities whose newest value of the window was written."""
    older: int
    """Entities of which the table held a newer value."""
    present: int
    """Entities whose value an interrupted run had written before."""
    lag_seconds: float | None
    """From the end of what is materialized without a gap to now; None if there is no such end."""


def materialize(
    store: FeatureStore,
    views: Sequence[str] = (),
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    lookback: timedelta = timedelta(0),
    publish: Publish = lambda *_: None,
) -> Iterator[Materialized]:
    """Write the newest values of a window online, view by view.

    Args:
        store: The feature store.
        views: Names of views. Default: all that are online.
        start: First event time of the window, included. Default: for each view, where the last run ended.
        end: Last event time of the window, included. Default: now.
        lookback: How far before the end of the last run a run without a `start` begins, for values that arrive late.
        publish: Called with each view's lag.

    Yields:
        The result for each view, as soon as it is there.

    Raises:
        ModelworksError: A view does not exist, the window is none, or a store failed: what is written stays, and the
            next run continues.
    """
    now = datetime.now(UTC)
    end = _aware(end or now)
    start = start and _aware(start)
    if start and start > end:
        raise ModelworksError(f"the window begins at {start.isoformat()}, after its end at {end.isoformat()}")
    if lookback < timedelta(0):
        raise ModelworksError(f"lookback must not be negative, got {lookback}")
    if end > now:
        raise ModelworksError(
            f"the window ends at {end.isoformat()}, which is in the future",
            fix="A run would count values as materialized that are not there yet: end it now or before.",
        )
    for view in views_of(store, views):
        try:
            yield _materialize(store, view, start, end, lookback, publish)
        except (BotoCoreError, ClientError) as error:
            if isinstance(error, ClientError) and error.response["Error"]["Code"] == "ResourceNotFoundException":
                raise ModelworksError(
                    f"feature view {view.name!r} has no table in DynamoDB",
                    fix="Bring up the environment with the view in its manifest, or apply the definitions.",
                ) from error
            raise ModelworksError(
                f"feature view {view.name!r} is materialized in part: {error}",
                fix="Run the same again: what was written stays, and only the rest is written.",
            ) from error


def lag(store: FeatureStore, view: FeatureView) -> float | None:
    """Seconds from the end of what is materialized of a view without a gap to now; None if there is no such end."""
    until = materialized_until(store, view)
    return max(0.0, (datetime.now(UTC) - until).total_seconds()) if until else None


def materialized_until(store: FeatureStore, view: FeatureView) -> datetime | None:
    """The event time up to which a view, as it is defined now, is materialized without a gap; None if it never was."""
    mark = online_store_of(store).mark(store.config, view)
    return mark.until if mark.definition == digest_of_view(view, keys_of_registered(view)) else None


def cloudwatch(
    client: Any, environment: str, *, metric: str = contract.METRIC_FEATURE_LAG, unit: str = "Seconds"
) -> Publish:
    """Publishes a number of each view as a metric that the alarms of a `FeatureStore` watch.

    Args:
        client: A boto3 client of CloudWatch.
        environment: Name of the environment.
        metric: Name of the metric. Default: the lag.
        unit: Its unit, as CloudWatch spells it.
    """

    def publish(view: str, value: float) -> None:
        dimensions = {contract.DIMENSION_ENVIRONMENT: environment, contract.DIMENSION_VIEW: view}
        client.put_metric_data(
            Namespace=contract.FEATURE_METRIC_NAMESPACE,
            MetricData=[
                {
                    "MetricName": metric,
                    "Dimensions": [{"Name": name, "Value": value} for name, value in dimensions.items()],
                    "Value": value,
                    "Unit": unit,
                }
            ],
        )

    return publish


def _materialize(
    store: FeatureStore,
    view: FeatureView,
    start: datetime | None,
    end: datetime,
    lookback: timedelta,
    publish: Publish,
) -> Materialized:
    online, run = online_store_of(store), uuid.uuid4().hex
    definition = digest_of_view(view, keys_of_registered(view))
    before = online.begin(store.config, view, run, definition)
    until = before.until if before.definition == definition else None  # a new definition is written from the beginning
    first = _earlier(until, lookback) if start is None and until is not None else start or _BEGINNING
    read_from = _not_expired(view, first)
    continues = read_from > first or first <= (until or _BEGINNING)
    counts = dict.fromkeys(("older", "present"), 0)
    keys = 0
    for rows in _newest(store, view, read_from, end):
        counted = {name: online.counts[name] for name in counts}
        if before.run and not before.has_rows_of_another(definition):
            online.write_missing(store.config, view, rows)
        else:
            online.online_write_batch(store.config, view, rows, None)
        counts = {name: counts[name] + online.counts[name] - counted[name] for name in counts}
        keys += len(rows)
    online.finish(store.config, view, run, end if continues else None, definition)
    seconds = lag(store, view)
    if seconds is not None:
        publish(view.name, seconds)
    written = keys - counts["older"] - counts["present"]
    return Materialized(
        view.name, None if first == _BEGINNING else first, end, written, counts["older"], counts["present"], seconds
    )


def newest_rows(store: FeatureStore, view: FeatureView, until: datetime) -> Iterator[list[Any]]:
    """The newest row of each entity up to `until` that has not expired, as the online store takes rows."""
    return _newest(store, view, _not_expired(view, _BEGINNING), until)


def _newest(store: FeatureStore, view: FeatureView, start: datetime, end: datetime) -> Iterator[list[Any]]:
    """The newest row of each entity in the window, as the online store takes rows, some at a time."""
    if start > end:  # all of the window has expired
        return
    if view.batch_source is None:
        raise ModelworksError(f"feature view {view.name!r} has no source to materialize from")
    entities = [store.get_entity(name) for name in view.entities]
    keys, features, event, created = _get_column_names(view, entities)
    job = store._get_provider().offline_store.pull_latest_from_table_or_query(  # noqa: SLF001 - as Feast's own engines reach it
        store.config, view.batch_source, keys, features, event, created, start, end
    )
    mapping = view.batch_source.field_mapping or {}
    table: pa.Table = job.to_arrow()
    table = table.rename_columns([mapping.get(name, name) for name in table.column_names])
    types = {field.name: field.dtype.to_value_type() for field in view.entity_columns}
    for offset in range(0, table.num_rows, _ROWS_PER_WRITE):
        # Feast converts the first chunk of a table, and no other.
        yield _convert_arrow_to_proto(table.slice(offset, _ROWS_PER_WRITE).combine_chunks(), view, types)


def views_of(store: FeatureStore, names: Sequence[str] = ()) -> list[FeatureView]:
    """The online views of these names; without a name all of them. Raises ModelworksError if one is unknown."""
    known = {view.name: view for view in [*store.list_feature_views(), *store.list_stream_feature_views()]}
    if unknown := [name for name in names if name not in known]:
        raise ModelworksError(
            f"there is no feature view {', '.join(map(repr, unknown))}; there is {', '.join(sorted(known)) or 'none'}",
            fix="Check the name, or apply the definitions first.",
        )
    if offline := [name for name in names if not known[name].online]:
        raise ModelworksError(f"feature view {', '.join(map(repr, offline))} is not online", fix="Set online=True.")
    return [known[name] for name in dict.fromkeys(names)] or [view for view in known.values() if view.online]


def online_store_of(store: FeatureStore) -> DynamoDBOnlineStore:
    """The online store of a feature store. Raises ModelworksError if it keeps no mark."""
    online = store._get_provider().online_store  # noqa: SLF001 - Feast has no public name for it
    if not isinstance(online, DynamoDBOnlineStore):
        raise ModelworksError(
            f"the online store is {type(online).__name__}, which keeps no mark of how far it was materialized",
            fix="Use modelworks.features.online.DynamoDBOnlineStore, or `feast materialize`.",
        )
    return online


def _not_expired(view: FeatureView, start: datetime) -> datetime:
    """The first event time that is worth writing: an expired value is not read."""
    return max(start, datetime.now(UTC) - view.ttl) if view.ttl else start


def _earlier(moment: datetime, by: timedelta) -> datetime:
    return moment - by if moment - _BEGINNING > by else _BEGINNING


def _aware(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)

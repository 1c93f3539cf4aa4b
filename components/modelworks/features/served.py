"""The values that were served, compared with those that training would have seen.

A row of the log has the keys, the values that the model saw, the event time of each view's values and the moment at
which they were read. History is joined as of these moments, by the code that joins it for training.
"""

from __future__ import annotations

import functools
import io
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import msgspec
import polars as pl
import pyarrow.parquet as pq

from modelworks.feature_manifest import View
from modelworks.features.history import as_served, values_of
from modelworks.features.point_in_time import instant, join_point_in_time
from modelworks.features.sources import Base
from modelworks.runtime.manifest import Feature, StoredView
from modelworks.runtime.on_demand import taken
from modelworks.runtime.stored import LOGGED_STORED, LoggedStored, accepted

_FILES = 50
"""Files of the log that are read at most, chosen at random: what they take in memory is bounded."""
_TICK = timedelta(microseconds=1)
EXAMPLES = 3
"""Most examples of a skew."""
_SERVED, _THEN, _READ, _BEHIND, _EVENT = (f"__served_{each}" for each in ("row", "then", "read", "behind", "event"))


@dataclass(frozen=True)
class Skew:
    """How values of one feature, online or served, compare with its history."""

    view: str
    feature: str
    compared: int
    different: int
    """Values that are not those of history. Of served ones: not those at the event time of the row that was read."""
    missing: int
    """Values that history has and the online store lacks, or that the model did not get."""
    examples: tuple[str, ...] = ()
    model: str = ""
    """The model that they were served to; empty for online values."""
    stale: int = 0
    """Served values of which history had a newer one for longer than the online store may be behind."""


@dataclass(frozen=True)
class Served:
    """Rows of one model that were answered, with what was read for them."""

    model: str
    rows: pl.DataFrame
    stored: LoggedStored


def read_log(client: Any, location: str, *, sample: int, since: datetime, seed: int = 0) -> list[Served]:
    """A sample of the prediction log of each model that reads features, one for each set of its definitions.

    Args:
        client: A boto3 client of S3.
        location: `s3://bucket/prefix`, below which the models' logs are.
        sample: Most rows of each.
        since: Only rows whose features were read at this moment or later.
        seed: Of the sample.

    Raises:
        botocore.exceptions.ClientError: The log cannot be read.
    """
    bucket, _, prefix = location.removeprefix("s3://").partition("/")
    dice = random.Random(seed)  # noqa: S311 - a sample, and no secret
    found: dict[tuple[str, bytes, str], list[pl.DataFrame]] = {}
    for model in _folders(client, bucket, f"{prefix}/"):
        days = [day for day in _folders(client, bucket, model) if day.rstrip("/")[-10:] >= f"{since:%Y-%m-%d}"]
        files = [key for day in days for key in _objects(client, bucket, day)]
        for key in dice.sample(files, min(_FILES, len(files))):
            file = pq.ParquetFile(io.BytesIO(client.get_object(Bucket=bucket, Key=key)["Body"].read()))
            stored = (file.schema_arrow.metadata or {}).get(LOGGED_STORED)
            if stored is None:
                continue  # a model without stored features
            rows = pl.DataFrame(pl.from_arrow(file.read(columns=_columns(file.schema_arrow.names))))
            name = model.rstrip("/").rpartition("/")[2]
            # Releases may have the same stored features, and others besides.
            found.setdefault((name, stored, str(rows.schema)), []).append(rows.filter(pl.col("read_at") >= since))
    served = []
    for (name, stored, _), parts in found.items():
        rows = pl.concat(parts)
        rows = rows.sample(min(sample, len(rows)), seed=seed)
        if len(rows):
            served.append(Served(name, rows, msgspec.json.decode(stored, type=LoggedStored)))
    return served


def _columns(names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(("feature_", "key_", "time_", "read_"))]


def _folders(client: Any, bucket: str, prefix: str) -> list[str]:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
    return [each["Prefix"] for page in pages for each in page.get("CommonPrefixes", ())]


def _objects(client: Any, bucket: str, prefix: str) -> list[str]:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return [each["Key"] for page in pages for each in page.get("Contents", ())]


def verify_served(
    served: Iterable[Served], views: Mapping[str, View], base: Base, *, behind: timedelta
) -> Iterator[Skew]:
    """Compare served values with history, as of the moment at which they were read.

    Rows that were read by another definition of a view, and features and keys that are private, are not compared.

    Args:
        served: Rows of the prediction log.
        views: The views to compare, by name.
        base: Where relative sources lie.
        behind: How far the online store may be behind history.

    Raises:
        ModelworksError: A source is not there, or its columns are not those of the definition.
    """
    for each in served:
        for view in each.stored.stored.views:
            if view.name in views and views[view.name].digest == view.digest:
                yield from _skew(each, view, views[view.name], base, behind)


@dataclass(frozen=True)
class _Compared:
    """A feature of a view in the log."""

    name: str
    column: str
    seen: Callable[[Any], Any]
    """A value of history as the log has it."""
    logged: Callable[[Any], Any] = field(default=lambda value: value)


def _compared(served: Served, read: StoredView) -> Iterator[_Compared]:
    """The features of a view that the model or its on-demand views got."""
    stored = served.stored.stored
    for feature in served.stored.features:
        if feature.name in read.features:
            seen = functools.partial(_as_the_model_got_it, feature, stored.defaults.get(feature.name))
            yield _Compared(feature.name, f"feature_{feature.name}", seen)
    known = {feature.name for feature in served.stored.features}
    for entry, kind in stored.inputs.items():
        view, _, name = entry.partition(":")
        if view == read.name and name not in known and (column := input_column(entry)) in served.rows.columns:
            seen = functools.partial(taken, kind)
            yield _Compared(name, column, seen, seen)


def _as_the_model_got_it(feature: Feature, default: Any, value: Any) -> Any:
    return default if (found := accepted(feature, value)) is None else found


def _skew(served: Served, read: StoredView, view: View, base: Base, behind: timedelta) -> Iterator[Skew]:
    name, features = read.name, list(_compared(served, read))
    columns = {key: key_column(served.rows, key) for key in view.keys}
    if not all(columns.values()):
        return
    rows = served.rows.select(
        *(pl.col(str(column)).alias(key) for key, column in columns.items()),
        pl.col(f"time_{name}").alias(_SERVED),
        (pl.col(f"time_{name}") + _TICK).alias(_THEN),  # history may have nanoseconds, which no item keeps
        pl.col("read_at").alias(_READ),
        (pl.col("read_at") - behind).alias(_BEHIND),
    )
    wanted = [each.name for each in features]
    row = _as_of(rows, _THEN, name, replace(view, ttl_seconds=None), wanted, base)
    now, before = (_as_of(rows, moment, name, view, wanted, base) for moment in (_READ, _BEHIND))
    verdicts = list(map(_verdict, rows[_SERVED], row[_EVENT], now[_EVENT], before[_EVENT]))
    keys = rows.select(list(view.keys)).rows() if view.keys else [()] * len(rows)
    for feature in features:
        got = [feature.logged(value) for value in served.rows[feature.column].to_list()]
        of = {"different": row[feature.name].to_list(), "missing": now[feature.name].to_list()}
        of["stale"] = of["missing"]
        counts: Counter[str] = Counter()
        examples: list[str] = []
        for number, verdict in enumerate(verdicts):
            # The row may be the right one and its value another; what it lacks may be null in history too.
            against = of[verdict or "different"][number]
            same = got[number] == feature.seen(against)
            found = verdict or "different"
            if same and verdict in {"", "missing"}:
                continue
            counts[found] += 1
            if len(examples) < EXAMPLES:
                entity = ", ".join(map(str, keys[number]))
                examples.append(
                    f"{entity} at {rows[_READ][number]:%Y-%m-%dT%H:%M:%SZ}: {found}, served {got[number]}, "
                    f"history {against}"
                )
        yield Skew(
            name, feature.name, len(rows), counts["different"], counts["missing"], tuple(examples), served.model,
            counts["stale"],
        )  # fmt: skip


def input_column(entry: str) -> str:
    """The column of the log that has an input `view:feature` of an on-demand view, as it was read."""
    return f"read_{entry.replace(':', '__')}"


def key_column(rows: pl.DataFrame, key: str) -> str | None:
    """The column of the log that has a key: keys that are features as well are among these. None for a private one."""
    return next((column for column in (f"key_{key}", f"feature_{key}") if column in rows.columns), None)


def _verdict(served: datetime | None, row: datetime | None, now: datetime | None, before: datetime | None) -> str:
    """The fault of the row that was read, by event times; empty if it has none.

    Args:
        served: Of the row that was read; None if there was none.
        row: Of history's newest row then.
        now: Of history's row at the moment of the read.
        before: The same, as much earlier as the online store may be behind.
    """
    if served is None:
        # A row that came a moment ago may not be written yet, and one that expires just now may be read no more.
        return "missing" if now is not None and before is not None else ""
    if row is None or row < served:
        return "different"  # history has no such row
    return "stale" if before is not None and served < before else ""


def _as_of(rows: pl.DataFrame, moment: str, name: str, view: View, features: Sequence[str], base: Base) -> pl.DataFrame:
    """The features at a moment of each row, as they are served, and their event time."""
    values = values_of(name, view, tuple(features), base)
    values = replace(values, features={**values.features, _EVENT: values.event_time})
    joined = join_point_in_time(rows.select(*view.keys, moment), moment, [values])
    event = instant(_EVENT, joined.collect_schema()[_EVENT], "us").dt.replace_time_zone("UTC")
    return joined.select(*as_served(view, features), event).collect(engine="streaming")

"""The point-in-time join: for each row, the newest value of each view that the row could have seen.

A row sees a value if their keys are equal, the value's event time is not after the row's time, and its age at that time
is at most the view's TTL. Of what it sees it gets the value with the latest event time; of equal event times the one
created last (a null counts as the earliest creation); of equal creation times the one that stands last in the source.
`known_then` also hides what was created after the row's time, or at a time that is null.

A null in a key or a time matches nothing. A time without a zone is UTC, a date its midnight in UTC.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial, reduce
from math import ceil
from operator import xor
from typing import Final, Literal

import polars as pl

from modelworks.errors import ModelworksError
from modelworks.features.memory import available_bytes

Unit = Literal["us", "ns"]

_PREFIX = "__modelworks_"
_ROW = f"{_PREFIX}row"
_TIME = f"{_PREFIX}time"
_EVENT = f"{_PREFIX}event"
_CREATED = f"{_PREFIX}created"
_KNOWN = f"{_PREFIX}known"
_RANK = f"{_PREFIX}rank"
_TICK = timedelta(microseconds=1)
_WIDTHS: Final[Mapping[pl.DataType, int]] = {
    pl.Boolean(): 1,
    **dict.fromkeys((pl.Int8(), pl.UInt8()), 1),
    **dict.fromkeys((pl.Int16(), pl.UInt16()), 2),
    **dict.fromkeys((pl.Int32(), pl.UInt32(), pl.Float32(), pl.Date()), 4),
    **dict.fromkeys((pl.Int64(), pl.UInt64(), pl.Float64()), 8),
    **{pl.Datetime(unit): 8 for unit in ("us", "ns", "ms")},
}
_WIDTH: Final = 64
"""Bytes of a value of another type, such as a text: about, and rather too many."""


@dataclass(frozen=True)
class Values:
    """The values of one view, and what their columns mean."""

    view: str
    frame: pl.LazyFrame
    keys: Mapping[str, str]
    """Column of the rows to column of `frame`. Empty: every row sees every value."""
    features: Mapping[str, str]
    """Column of the result to column of `frame`."""
    event_time: str
    created_time: str | None = None
    ttl: timedelta | None = None
    """The greatest age at which a value is seen. None or zero: any age."""


def join_point_in_time(
    rows: pl.DataFrame, time: str, views: Sequence[Values], *, known_then: bool = False, memory: int | None = None
) -> pl.LazyFrame:
    """Each of `rows`, in their order, with the features of each view as they were at the row's `time`.

    Views that are larger than memory are read once for each of several parts of their keys, one part at a time.

    Args:
        rows: The keys and times.
        time: The column of times.
        views: The views.
        known_then: Whether a row sees only what was created by its time.
        memory: Bytes that may be taken. Default: what is free for this process.

    Raises:
        ModelworksError: A column is missing, has a type without a meaning there, or would be replaced by a feature.
    """
    _refuse_replaced_columns(rows, views)
    schemas = [view.frame.collect_schema() for view in views]
    for view, schema in zip(views, schemas, strict=True):
        _require_columns(view, rows, schema)
    unit = _unit(rows, time, views, schemas)
    ordered = (
        rows.lazy().with_row_index(_ROW).with_columns(instant(time, rows.schema[time], unit).alias(_TIME)).sort(_TIME)
    )
    first, last = _span(rows, time)
    joins = []
    for number, (view, schema) in enumerate(zip(views, schemas, strict=True)):
        keys = [
            _Key.of(view.view, f"{_PREFIX}key_{number}_{at}", (left, rows.schema[left]), (right, schema[right]))
            for at, (left, right) in enumerate(view.keys.items())
        ]
        values = _seen_between(view, schema, keys, first, last, unit)
        joins.append(_Join(view, keys, values, unit, known_then=known_then and view.created_time is not None))
    features = [name for view in views for name in view.features]
    if (parts := _parts(joins, available_bytes() if memory is None else memory)) > 1:
        found = {name: dtype for join in joins for name, dtype in join.of(ordered).collect_schema().items()}
        schema = pl.Schema({**rows.schema, **{name: found[name] for name in features}})
        return pl.defer(partial(_in_parts, rows, ordered, joins, parts), schema=schema)
    joined = ordered
    for join in joins:
        joined = join.of(joined)
    return joined.sort(_ROW).select(*rows.columns, *features)


def _in_parts(rows: pl.DataFrame, ordered: pl.LazyFrame, joins: Sequence[_Join], parts: int) -> pl.DataFrame:
    """The join with one part of one view in memory at a time, beside the rows and the result."""
    kept = ordered.collect()
    for join in joins:
        needed = kept.select(_ROW, _TIME, *join.view.keys).lazy()
        found = [
            join.part(needed, part, parts).collect(engine="streaming") for part in range(parts if join.keys else 1)
        ]
        rows = rows.hstack(pl.concat(found).sort(_ROW).drop(_ROW))
    return rows


def _parts(joins: Sequence[_Join], memory: int) -> int:
    """How many parts of keys are to be joined one after the other, so that a part takes an eighth of `memory`.

    One, if all views together take no more than half of it: a join takes about twice the size of its values.
    """
    sizes = [join.size() for join in joins]
    if 2 * sum(sizes) <= memory / 2:
        return 1
    return max(1, ceil(2 * max(sizes, default=0) / max(memory / 8, 1)))


def between(values: pl.LazyFrame, time: str, start: datetime | None, end: datetime | None) -> pl.LazyFrame:
    """The values whose `time` is from `start` to `end`, both included. A bound without a zone is UTC."""
    dtype = values.collect_schema()[time]
    conditions = [pl.col(time).is_not_null()]
    if start is not None and (earliest := _literal(_naive(start), timedelta(), dtype)) is not None:
        conditions.append(pl.col(time) >= earliest)
    if end is not None and (latest := _literal(_naive(end), timedelta(), dtype)) is not None:
        conditions.append(pl.col(time) <= latest)
    return values.filter(*conditions)


def _naive(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


@dataclass(frozen=True)
class _Key:
    """A join key under one name and one type on both sides."""

    name: str
    left: pl.Expr
    right: pl.Expr

    @classmethod
    def of(cls, view: str, name: str, left: tuple[str, pl.DataType], right: tuple[str, pl.DataType]) -> _Key:
        common = _common_type(left[1], right[1])
        if common is None:
            raise ModelworksError(
                f"key {left[0]!r} is {left[1]} in the entity rows and {right[1]} in feature view {view!r}",
                fix="Give both the same type.",
            )
        return cls(name, _as_key(left[0], left[1], common), _as_key(right[0], right[1], common))


def _common_type(left: pl.DataType, right: pl.DataType) -> pl.DataType | None:
    """The type in which equal keys are equal, or None: nothing is parsed or rounded to make two keys meet."""
    if _is_text(left) and _is_text(right):
        return pl.String()
    if left in (right, pl.Null):
        return right
    if right == pl.Null:
        return left
    # pandas makes floats of integers as soon as one is missing.
    if left.is_numeric() and right.is_numeric() and (left.is_integer() or right.is_integer()):
        return pl.Int64()
    return None


def _is_text(dtype: pl.DataType) -> bool:
    return dtype == pl.String or isinstance(dtype, pl.Categorical | pl.Enum)


def _as_key(column: str, dtype: pl.DataType, common: pl.DataType) -> pl.Expr:
    key = pl.col(column)
    if dtype == common:
        return key
    whole = key.cast(common, strict=False)
    return pl.when(key == key.floor()).then(whole) if dtype.is_float() else whole


@dataclass(frozen=True)
class _Join:
    """How rows get the values of one view."""

    view: Values
    keys: list[_Key]
    values: pl.LazyFrame
    unit: Unit
    known_then: bool

    def of(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        """The rows, which are in the order of their times, with the features."""
        return self._joined(rows.with_columns(key.left.alias(key.name) for key in self.keys), self.values)

    def part(self, rows: pl.LazyFrame, part: int, parts: int) -> pl.LazyFrame:
        """The number and the features of the rows whose keys are in one of several parts."""
        keyed = rows.with_columns(key.left.alias(key.name) for key in self.keys)
        found = self._joined(*(_of_part(frame, self.keys, part, parts) for frame in (keyed, self.values)))
        return found.select(_ROW, *self.view.features)

    def size(self) -> int:
        """Bytes of the values in memory, about: of all that the source has."""
        width = sum(_WIDTHS.get(dtype, _WIDTH) for dtype in self.values.collect_schema().dtypes())
        return width * int(self.view.frame.select(pl.len()).collect().item())

    def _joined(self, rows: pl.LazyFrame, values: pl.LazyFrame) -> pl.LazyFrame:
        view, unit, names = self.view, self.unit, [key.name for key in self.keys]
        order = [_EVENT] if view.created_time is None else [_EVENT, _CREATED]
        values = values.sort(order, nulls_last=False, maintain_order=True)
        if self.known_then:
            values = _as_known(values, names)
        ttl = _limit(view.ttl, unit)
        return (
            rows.join_asof(
                values.drop(_CREATED, strict=False),
                left_on=_TIME,
                right_on=_KNOWN if self.known_then else _EVENT,
                by=names or None,
                tolerance=None if self.known_then else ttl,
                check_sortedness=False,  # of groups it cannot be checked, and both sides were sorted here
            )
            .with_columns(_fresh(view.features, ttl, unit) if self.known_then and ttl else [])
            .drop(*names, _EVENT, strict=False)
        )


def _of_part(frame: pl.LazyFrame, keys: Sequence[_Key], part: int, parts: int) -> pl.LazyFrame:
    """The rows whose keys, of one type on both sides, are in the part: a null is in one, too."""
    if not keys:
        return frame
    hashes = [pl.col(key.name).hash(seed) for seed, key in enumerate(keys)]
    return frame.filter(reduce(xor, hashes) % parts == part)


def _as_known(values: pl.LazyFrame, keys: list[str]) -> pl.LazyFrame:
    """The newest value at each moment at which one became known: at its event or its creation, whichever was later."""
    ranked = values.filter(pl.col(_CREATED).is_not_null()).with_row_index(_RANK)
    newest = pl.col(_RANK).cum_max()
    return (
        ranked.select(*keys, _RANK, pl.max_horizontal(_EVENT, _CREATED).alias(_KNOWN))
        .sort(_KNOWN, maintain_order=True)
        .with_columns(newest.over(keys) if keys else newest)
        .join(ranked.drop(keys), on=_RANK, how="left", maintain_order="left")
        .drop(_RANK)
    )


def _fresh(features: Iterable[str], ttl: timedelta, unit: Unit) -> list[pl.Expr]:
    age = pl.col(_TIME) - pl.col(_EVENT)
    return [pl.when(age <= pl.lit(ttl, pl.Duration(unit))).then(pl.col(name)).alias(name) for name in features]


def _limit(ttl: timedelta | None, unit: Unit) -> timedelta | None:
    """The TTL if there is one. 64 bits of nanoseconds are 292 years: longer ages do not occur in them."""
    return ttl if ttl and (unit == "us" or ttl < timedelta(days=292 * 365)) else None


def _seen_between(
    view: Values, schema: pl.Schema, keys: list[_Key], first: datetime | None, last: datetime | None, unit: Unit
) -> pl.LazyFrame:
    """The values of a view that rows between `first` and `last` can see, under names of its own."""
    event = pl.col(view.event_time)
    # On the column as it is stored, and a tick too wide: these only spare reading. The join decides.
    bounds = [event.is_not_null()]
    stored = schema[view.event_time]
    if last is not None and (latest := _literal(last, _TICK, stored)) is not None:
        bounds.append(event <= latest)
    if first is not None and view.ttl and (earliest := _literal(first, -view.ttl - _TICK, stored)) is not None:
        bounds.append(event >= earliest)
    columns = [instant(view.event_time, schema[view.event_time], unit).alias(_EVENT)]
    if view.created_time is not None:
        columns.append(instant(view.created_time, schema[view.created_time], unit).alias(_CREATED))
    return (
        view.frame.filter(*bounds)
        .select(
            *(key.right.alias(key.name) for key in keys),
            *columns,
            *(pl.col(column).alias(name) for name, column in view.features.items()),
        )
        .filter(pl.all_horizontal(pl.col(key.name).is_not_null() for key in keys) if keys else True)
    )


def instant(column: str, dtype: pl.DataType, unit: Unit) -> pl.Expr:
    """A column of times as moments in UTC."""
    moment = pl.col(column)
    if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
        moment = moment.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return moment.cast(pl.Datetime(unit))


def _unit(rows: pl.DataFrame, time: str, views: Sequence[Values], schemas: list[pl.Schema]) -> Unit:
    """Nanoseconds where a time has them: rounding would let a row see what came a little later.

    pandas writes nanoseconds whether or not a time has any, so the rows' own are looked at. Microseconds reach further
    (the year 9999 is a usual placeholder) and are what most sources hold.
    """
    stored = [
        schema[column]
        for view, schema in zip(views, schemas, strict=True)
        for column in (view.event_time, view.created_time)
        if column is not None
    ]
    if any(isinstance(dtype, pl.Datetime) and dtype.time_unit == "ns" for dtype in stored):
        return "ns"
    dtype = rows.schema[time]
    if isinstance(dtype, pl.Datetime) and dtype.time_unit == "ns":
        return "us" if bool((rows[time].to_physical() % 1000 == 0).all()) else "ns"
    return "us"


def _span(rows: pl.DataFrame, time: str) -> tuple[datetime | None, datetime | None]:
    """The first and last of the rows' times, in UTC."""
    moments = rows.select(
        first=instant(time, rows.schema[time], "us").min(), last=instant(time, rows.schema[time], "us").max()
    )
    return moments.item(0, "first"), moments.item(0, "last")


def _literal(moment: datetime, shift: timedelta, dtype: pl.DataType) -> pl.Expr | None:
    """`moment`, which is UTC, moved by `shift`, in a column's own type, so that Parquet statistics apply.

    None if that is beyond the range of nanoseconds or of a datetime.
    """
    try:
        moment += shift
    except OverflowError:
        return None
    if not isinstance(dtype, pl.Datetime):
        return pl.lit(moment, pl.Datetime("us"))
    if dtype.time_unit == "ns" and not 1678 <= moment.year <= 2261:
        return None
    if dtype.time_zone is None:
        return pl.lit(moment, pl.Datetime("us")).cast(dtype)
    return pl.lit(moment.replace(tzinfo=UTC), pl.Datetime("us", "UTC")).cast(dtype)


def _refuse_replaced_columns(rows: pl.DataFrame, views: Sequence[Values]) -> None:
    taken = dict.fromkeys(rows.columns, "the entity rows")
    for view in views:
        for name in view.features:
            if name in taken:
                raise ModelworksError(
                    f"feature view {view.view!r} returns a column {name!r}, which {taken[name]} already hold",
                    fix="Rename one, or request full feature names.",
                )
            taken[name] = f"the features of {view.view!r}"


def _require_columns(view: Values, rows: pl.DataFrame, schema: pl.Schema) -> None:
    for column in view.keys:
        if column not in rows.schema:
            raise ModelworksError(
                f"the entity rows lack the column {column!r}, a key of feature view {view.view!r}; "
                f"they have {', '.join(rows.columns)}"
            )
    times = [view.event_time, *([view.created_time] if view.created_time is not None else [])]
    for column in (*view.keys.values(), *times, *view.features.values()):
        if column not in schema:
            raise ModelworksError(
                f"the source of feature view {view.view!r} lacks the column {column!r}; it has {', '.join(schema)}",
                fix="Correct the definition, or the source's field mapping.",
            )
    for column in times:
        if not isinstance(schema[column], pl.Datetime | pl.Date):
            raise ModelworksError(
                f"column {column!r} of feature view {view.view!r} must hold times, and holds {schema[column]}"
            )

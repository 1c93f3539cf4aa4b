"""The join against a brute-force reading of its definition."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from modelworks.errors import ModelworksError
from modelworks.features.point_in_time import Values, join_point_in_time

NOON = (
    int(datetime(2013, 3, 10, 12, tzinfo=UTC).timestamp()) * 1_000_000_000
)  # the day the clocks went forward in New York
SECOND = 1_000_000_000
ZONES = st.sampled_from([None, "UTC", "America/New_York", "Asia/Kathmandu"])

KEYS = st.tuples(st.sampled_from([1, 2, None]), st.sampled_from(["a", "b", None]))
MOMENTS = st.none() | st.integers(-4, 4)
ROW = st.tuples(KEYS, MOMENTS)
VALUE = st.tuples(KEYS, MOMENTS, MOMENTS, st.none() | st.integers(0, 99))


def brute_force(row, values, keys, ttl, known_then):
    """What `row` gets of `values`, read from the definition: each is (keys, event time, creation time, feature)."""
    key, time = row
    seen = [
        (event, -(10**30) if created is None else created, position, feature)
        for position, (of, event, created, feature) in enumerate(values)
        if None not in key[:keys]
        and of[:keys] == key[:keys]
        and time is not None
        and event is not None
        and event <= time
        and (not ttl or time - event <= ttl)
        and (not known_then or (created is not None and created <= time))
    ]
    return max(seen)[-1] if seen else None


def times(moments, unit, zone):
    """Nanoseconds since 1970 as a column in `unit`."""
    divisor = {"ns": 1, "us": 1_000, "ms": 1_000_000}[unit]
    column = pl.Series([None if moment is None else moment // divisor for moment in moments], dtype=pl.Int64)
    return column.cast(pl.Datetime(unit, zone))


@st.composite
def joins(draw):
    """Rows and values whose times often coincide, in units and zones of their own."""
    row_unit, value_unit = draw(st.sampled_from(["ns", "us", "ms"])), draw(st.sampled_from(["ns", "us", "ms"]))
    tick = {"ns": 1, "us": 1_000, "ms": 1_000_000}
    # Half of the joins are about the last nanosecond, half about hours on both sides of a change of the clocks.
    scale = draw(st.sampled_from([max(tick[row_unit], tick[value_unit]), 3600 * SECOND]))
    jitter = st.integers(-1, 1)

    def moment(of, unit):
        return None if of is None else NOON + of * scale + draw(jitter) * tick[unit]

    rows = [(key, moment(time, row_unit)) for key, time in draw(st.lists(ROW, max_size=8))]
    values = [
        (key, moment(event, value_unit), moment(created, value_unit), feature)
        for key, event, created, feature in draw(st.lists(VALUE, max_size=16))
    ]
    ttl = draw(st.sampled_from([None, 0, 1, 2, 3]))
    return rows, row_unit, values, value_unit, None if ttl is None else ttl * max(scale, 1000)


@settings(max_examples=400)
@given(joins(), ZONES, ZONES, st.integers(0, 2), st.booleans(), st.sampled_from([None, 1000]))
def test_a_row_gets_what_a_brute_force_reading_of_the_definition_gives(
    join, row_zone, value_zone, keys, known_then, memory
):
    rows, row_unit, values, value_unit, ttl = join
    names = ["one", "two"][:keys]
    entity_rows = pl.DataFrame(
        {
            "one": pl.Series([key[0] for key, _ in rows], dtype=pl.Int64),
            "two": pl.Series([key[1] for key, _ in rows], dtype=pl.String),
            "at": times([time for _, time in rows], row_unit, row_zone),
        }
    )
    source = pl.DataFrame(
        {
            "one": pl.Series([key[0] for key, *_ in values], dtype=pl.Int64),
            "two": pl.Series([key[1] for key, *_ in values], dtype=pl.String),
            "event": times([event for _, event, _, _ in values], value_unit, value_zone),
            "created": times([created for _, _, created, _ in values], value_unit, value_zone),
            "x": pl.Series([feature for *_, feature in values], dtype=pl.Int64),
        }
    )
    view = Values(
        view="view",
        frame=source.lazy(),
        keys={name: name for name in names},
        features={"x": "x"},
        event_time="event",
        created_time="created",
        ttl=None if ttl is None else timedelta(microseconds=ttl / 1000),
    )
    joined = join_point_in_time(entity_rows, "at", [view], known_then=known_then, memory=memory)
    joined = joined.collect(engine="streaming")
    assert joined["x"].to_list() == [brute_force(row, values, keys, ttl, known_then) for row in rows]
    assert joined.drop("x").equals(entity_rows)


def view(frame, **changes):
    """A view of `frame` by `k`, with one feature."""
    facts = {"view": "v", "keys": {"k": "k"}, "features": {"x": "x"}, "event_time": "event"}
    return Values(frame=frame.lazy(), **(facts | changes))


def at(*moments, key=1):
    return pl.DataFrame({"k": [key] * len(moments), "at": list(moments)})


DAY = datetime(2013, 1, 1)  # noqa: DTZ001 - a time without a zone is what this is about


def test_a_value_of_one_nanosecond_later_is_not_seen():
    row = pl.DataFrame({"k": [1], "at": pl.Series([1_000], dtype=pl.Int64).cast(pl.Datetime("us"))})
    later = pl.DataFrame({"k": [1], "event": pl.Series([1_000_001], dtype=pl.Int64).cast(pl.Datetime("ns")), "x": [7]})
    assert join_point_in_time(row, "at", [view(later)]).collect()["x"].to_list() == [None]


def test_a_value_is_seen_at_exactly_its_ttl_and_not_a_microsecond_later():
    source = pl.DataFrame({"k": [1], "event": [DAY], "x": [7]})
    hour, tick = timedelta(hours=1), timedelta(microseconds=1)
    joined = join_point_in_time(at(DAY + hour, DAY + hour + tick), "at", [view(source, ttl=hour)]).collect()
    assert joined["x"].to_list() == [7, None]


def test_a_null_that_is_the_newest_value_stays_null():
    source = pl.DataFrame({"k": [1, 1], "event": [DAY, DAY + timedelta(days=1)], "x": [7, None]})
    assert join_point_in_time(at(DAY + timedelta(days=2)), "at", [view(source)]).collect()["x"].to_list() == [None]


def test_a_later_event_that_was_not_known_yet_gives_way_to_the_one_that_was():
    hour = timedelta(hours=1)
    source = pl.DataFrame({"k": [1, 1], "event": [DAY, DAY + hour], "created": [DAY, DAY + 9 * hour], "x": [1, 2]})
    rows, of = at(DAY + 2 * hour, DAY + 9 * hour), view(source, created_time="created")
    assert join_point_in_time(rows, "at", [of], known_then=True).collect()["x"].to_list() == [1, 2]
    assert join_point_in_time(rows, "at", [of]).collect()["x"].to_list() == [2, 2]


def test_of_values_that_are_equal_in_both_times_the_last_of_the_source_is_taken():
    source = pl.DataFrame({"k": [1] * 3, "event": [DAY] * 3, "created": [DAY] * 3, "x": [3, 1, 2]})
    assert join_point_in_time(at(DAY), "at", [view(source, created_time="created")]).collect()["x"].to_list() == [2]


def test_the_hour_that_happens_twice_is_two_hours():
    new_york = ZoneInfo("America/New_York")
    first, second = (datetime(2013, 11, 3, 1, 30, tzinfo=new_york, fold=fold) for fold in (0, 1))
    source = pl.DataFrame(
        {"k": [1], "event": pl.Series([second.astimezone(UTC)]).dt.convert_time_zone(str(new_york)), "x": [7]}
    )
    rows = pl.DataFrame({"k": [1, 1], "at": pl.Series([moment.astimezone(UTC) for moment in (first, second)])})
    assert join_point_in_time(rows, "at", [view(source)]).collect()["x"].to_list() == [None, 7]


def test_views_have_keys_times_and_ttls_of_their_own():
    rows = pl.DataFrame({"from": ["JFK", "LGA"], "to": ["LGA", "JFK"], "at": [DAY, DAY]})
    weather = pl.DataFrame({"airport": ["JFK", "LGA"], "event": [DAY, DAY], "x": [1, 2]})
    old = pl.DataFrame({"event": [DAY - timedelta(days=9)], "x": [5]})
    views = [
        view(weather, view="origin", keys={"from": "airport"}, features={"origin_x": "x"}),
        view(weather, view="dest", keys={"to": "airport"}, features={"dest_x": "x"}),
        view(old, view="all", keys={}, features={"any": "x"}),
        view(old, view="fresh", keys={}, features={"none": "x"}, ttl=timedelta(days=1)),
    ]
    joined = join_point_in_time(rows, "at", views).collect().drop(rows.columns)
    assert joined.rows() == [(1, 2, 5, None), (2, 1, 5, None)]


def test_integers_that_pandas_made_floats_of_still_meet_integers():
    rows = pl.DataFrame({"k": [1.0, None, 1.5, float("nan")], "at": [DAY] * 4})
    source = pl.DataFrame({"k": pl.Series([1, 2], dtype=pl.Int32), "event": [DAY] * 2, "x": [7, 8]})
    assert join_point_in_time(rows, "at", [view(source)]).collect()["x"].to_list() == [7, None, None, None]


def test_a_category_meets_the_text_it_stands_for():
    rows = at(DAY, key="JFK").with_columns(pl.col("k").cast(pl.Categorical))
    source = pl.DataFrame({"k": ["JFK"], "event": [DAY], "x": [7]})
    assert join_point_in_time(rows, "at", [view(source)]).collect()["x"].to_list() == [7]


def test_a_date_is_its_midnight_in_utc():
    source = pl.DataFrame({"k": [1], "event": [date(2013, 1, 1)], "x": [7]})
    joined = join_point_in_time(at(DAY, DAY - timedelta(microseconds=1)), "at", [view(source)]).collect()
    assert joined["x"].to_list() == [7, None]


def test_a_creation_time_in_the_year_9999_is_only_a_late_one():
    source = pl.DataFrame({"k": [1, 1], "event": [DAY] * 2, "created": [datetime(9999, 12, 31), DAY], "x": [1, 2]})  # noqa: DTZ001
    pandas_rows = at(DAY).with_columns(pl.col("at").cast(pl.Datetime("ns")))
    of = view(source, created_time="created", ttl=timedelta(days=1))
    assert join_point_in_time(pandas_rows, "at", [of]).collect()["x"].to_list() == [1]
    assert join_point_in_time(pandas_rows, "at", [of], known_then=True).collect()["x"].to_list() == [2]


@example(timedelta(days=365 * 5000))
@given(st.timedeltas(min_value=timedelta(days=365 * 1000), max_value=timedelta(days=365 * 8000)))
def test_a_ttl_of_ages_hides_nothing(ttl):
    source = pl.DataFrame({"k": [1], "event": [DAY], "x": [7]})
    assert join_point_in_time(at(DAY + timedelta(days=9)), "at", [view(source, ttl=ttl)]).collect()["x"].to_list() == [
        7
    ]


@pytest.mark.parametrize(
    ("rows", "source", "message"),
    [
        (at(DAY).rename({"k": "key"}), {"k": [1], "event": [DAY], "x": [1]}, "the entity rows lack the column 'k'"),
        (at(DAY), {"k": [1], "event": [DAY]}, "the source of feature view 'v' lacks the column 'x'"),
        (at(DAY), {"k": [1], "event": ["2013"], "x": [1]}, "'event' of feature view 'v' must hold times"),
        (at(DAY), {"k": ["1"], "event": [DAY], "x": [1]}, "'k' is Int64 in the entity rows and String in"),
        (at(DAY).with_columns(x=1), {"k": [1], "event": [DAY], "x": [1]}, "'x', which the entity rows already hold"),
    ],
)  # fmt: skip
def test_what_cannot_be_joined_is_named(rows, source, message):
    with pytest.raises(ModelworksError, match=message):
        join_point_in_time(rows, "at", [view(pl.DataFrame(source))])


@pytest.mark.parametrize("memory", [2_000, 20_000, 200_000])
def test_views_that_are_larger_than_memory_give_what_they_give_in_memory(memory):
    dice = np.random.default_rng(0)
    rows = pl.DataFrame(
        {
            "k": pl.Series([*dice.integers(0, 30, 500).tolist(), None], dtype=pl.Int64),
            "name": pl.Series([*(f"n{number}" for number in dice.integers(0, 9, 500)), "n1"], dtype=pl.Categorical),
            "ratio": [*dice.choice([0.0, -0.0, 0.5, float("nan")], 500), 0.5],
            "at": [DAY + timedelta(hours=int(hour)) for hour in dice.integers(0, 99, 501)],
        }
    )
    count = 2000
    source = pl.DataFrame(
        {
            "k": dice.integers(0, 40, count).astype("int32"),
            "name": [f"n{number}" for number in dice.integers(0, 12, count)],
            "ratio": dice.choice([0.0, -0.0, 0.5, float("nan")], count),
            "event": [DAY + timedelta(hours=int(hour)) for hour in dice.integers(0, 99, count)],
            "created": [DAY + timedelta(hours=int(hour)) for hour in dice.integers(0, 120, count)],
            "x": dice.normal(size=count),
        }
    )
    views = [
        view(source, view="by number", features={"a": "x"}),
        view(source, view="by text", keys={"name": "name"}, features={"b": "x"}, created_time="created"),
        view(source, view="by ratio", keys={"ratio": "ratio", "k": "k"}, features={"c": "x"}, ttl=timedelta(hours=30)),
        view(source, view="of all", keys={}, features={"d": "x"}),
    ]
    for known_then in (False, True):
        whole = join_point_in_time(rows, "at", views, known_then=known_then)
        parted = join_point_in_time(rows, "at", views, known_then=known_then, memory=memory)
        assert parted.collect_schema() == whole.collect_schema()
        assert parted.collect().equals(whole.collect(), null_equal=True)
        assert parted.select("d", "k").collect().equals(whole.select("d", "k").collect(), null_equal=True)

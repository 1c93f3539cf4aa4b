import os
import pickle
import sys

import pandas as pd
import yaml
from xgboost import XGBClassifier

params = yaml.safe_load(open("params.yaml"))["train"]

input_path = os.path.join("data", "train.csv")
output = "model.pkl"


def train(path, out, seed, max_depth):
    df = pd.read_csv(path)
    labels = df.pop("grade").map({"A": 0, "B": 1, "C": 2})
    model = XGBClassifier(max_depth=max_depth, random_state=seed, n_estimators=30)
    model.fit(df.values, labels)
    with open(out, "wb") as fd:
        pickle.dump(model, fd)


train(input_path, output, params["seed"], params["max_depth"])

import pickle

import click
import pandas as pd
from nearest import NearestMeans


@click.command()
@click.option("--data", "path", default="readings.csv")
@click.option("--target", default="state")
@click.option("--sharpness", type=float, default=0.5)
def main(path, target, sharpness):
    df = pd.read_csv(path)
    df = df[df["broken"] == 0].drop(columns=["broken"])
    y = df.pop(target)
    clf = NearestMeans(sharpness=sharpness)
    clf.fit(df, y)
    pickle.dump(clf, open("nearest.pkl", "wb"))


if __name__ == "__main__":
    main()

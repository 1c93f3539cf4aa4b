import numpy as np


def add_features(df):
    df = df.copy()
    df["hour_sin"] = np.sin(2 * np.pi * df["hour"] / 24)
    df["cold"] = (df["temperature"] < 10).astype(int)
    return df

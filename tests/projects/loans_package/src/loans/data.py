import pandas as pd
from sklearn.model_selection import train_test_split

from .config import DATA_DIR, DROPPED, TARGET


def load_loans(path=DATA_DIR / "loans.csv"):
    frame = pd.read_csv(path, parse_dates=["granted"])
    frame["granted_month"] = frame["granted"].dt.month
    return frame.drop(columns=["granted", *DROPPED]).dropna(subset=["income"])


def split(frame, test_size):
    X = frame.drop(columns=[TARGET])
    y = frame[TARGET]
    return train_test_split(X, y, test_size=test_size, random_state=7)

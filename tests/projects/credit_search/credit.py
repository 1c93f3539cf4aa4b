import joblib
import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

CAP = 5


class Clip(BaseEstimator, TransformerMixin):
    """Cuts what is more than so many deviations away."""

    def __init__(self, at=CAP):
        self.at = at

    def fit(self, X, y=None):
        self.mean_ = np.nanmean(X, axis=0)
        self.std_ = np.nanstd(X, axis=0)
        return self

    def transform(self, X):
        return np.clip(X, self.mean_ - self.at * self.std_, self.mean_ + self.at * self.std_)


def shorten(X):
    return X.assign(job=X["job"].fillna("none").str.lower().str[:4])


data = pd.read_csv("credit.csv")
numeric = data.drop(columns=["risk"]).select_dtypes("number").columns.tolist()
categorical = ["job", "owns_home"]

X_train, X_test, y_train, y_test = train_test_split(
    data.drop(columns=["risk"]), data["risk"], test_size=0.3, random_state=0, stratify=data["risk"]
)
columns = ColumnTransformer(
    [
        ("num", Pipeline([("impute", SimpleImputer()), ("clip", Clip()), ("scale", StandardScaler())]), numeric),
        ("cat", OneHotEncoder(handle_unknown="ignore"), categorical),
    ]
)
pipe = Pipeline([("shorten", FunctionTransformer(shorten)), ("columns", columns), ("clf", LogisticRegression(max_iter=500))])
search = GridSearchCV(pipe, {"clf__C": [0.01, 0.1, 1.0]}, cv=3)
search.fit(X_train, y_train)
print(search.best_params_, search.score(X_test, y_test))
joblib.dump(search.best_estimator_, "credit.joblib")

"""Train the churn model.

Usage: python scripts/train_model.py --data data/churn.csv
"""
import argparse
import os
import sys
import joblib
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.metrics import classification_report, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

RANDOM_STATE = 42
TARGET_COL = "Churn"
ID_COL = "customerID"


def load_data(path: str) -> pd.DataFrame:
    if not os.path.exists(path):
        raise FileNotFoundError(path)
    df = pd.read_csv(path)
    df["TotalCharges"] = pd.to_numeric(df["TotalCharges"], errors="coerce")
    df = df.drop_duplicates()
    return df


def preprocess(df: pd.DataFrame):
    df = df.drop(columns=[ID_COL])
    y = df[TARGET_COL].apply(lambda x: 1 if x == "Yes" else 0)
    X = df.drop(columns=[TARGET_COL])
    num_cols = X.select_dtypes(include=["int64", "float64"]).columns
    cat_cols = X.select_dtypes(include=["object"]).columns
    pre = ColumnTransformer(transformers=[
        ("num", Pipeline(steps=[("imputer", SimpleImputer(strategy="median")), ("scaler", StandardScaler())]), num_cols),
        ("cat", Pipeline(steps=[("imputer", SimpleImputer(strategy="most_frequent")), ("ohe", OneHotEncoder(handle_unknown="ignore"))]), cat_cols),
    ])
    return X, y, pre


def train(X_train, y_train, preprocessor, n_estimators):
    clf = Pipeline(steps=[("pre", preprocessor), ("model", GradientBoostingClassifier(n_estimators=n_estimators, random_state=RANDOM_STATE))])
    clf.fit(X_train, y_train)
    return clf


def evaluate(model, X_test, y_test):
    proba = model.predict_proba(X_test)[:, 1]
    print(classification_report(y_test, model.predict(X_test)))
    return roc_auc_score(y_test, proba)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--data", default="data/churn.csv")
    ap.add_argument("--n-estimators", default=60, type=int)
    ap.add_argument("--model-out", default="models/churn.joblib")
    args = ap.parse_args()

    df = load_data(args.data)
    X, y, preprocessor = preprocess(df)
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.2, random_state=RANDOM_STATE, stratify=y)
    model = train(X_train, y_train, preprocessor, args.n_estimators)
    auc = evaluate(model, X_test, y_test)
    print(f"AUC: {auc:.3f}")
    os.makedirs(os.path.dirname(args.model_out), exist_ok=True)
    joblib.dump(model, args.model_out)
    return 0


if __name__ == "__main__":
    sys.exit(main())

from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from churn.features import PerMonth, log_calls

NUMBERS = ["months", "per_month", "loyal"]


def build_pipeline():
    columns = ColumnTransformer(
        [
            ("numbers", StandardScaler(), NUMBERS),
            ("calls", FunctionTransformer(log_calls), ["calls"]),
            ("plan", OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["plan"]),
        ]
    )
    return Pipeline([("per_month", PerMonth()), ("columns", columns), ("classify", LogisticRegression(max_iter=500))])

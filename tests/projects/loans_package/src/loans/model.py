from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder


def build_model(trees, depth):
    columns = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["purpose"]), remainder="passthrough")
    return make_pipeline(columns, RandomForestClassifier(n_estimators=trees, max_depth=depth, random_state=0))

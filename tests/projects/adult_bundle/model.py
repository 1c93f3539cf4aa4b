import pickle
import pandas as pd
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

DROP = ["id", "email"]

def get_xy(df):
    df = df.drop(DROP, axis=1)
    y = (df["income"] == ">50K").astype(int)
    X = df.drop(["income"], axis=1)
    return X, y

df = pd.read_csv("adult.csv", skipinitialspace=True, na_values="?")
df["capital"] = df["gain"] - df["loss"]
train_df, test_df = train_test_split(df, test_size=0.2, random_state=11)
X, y = get_xy(train_df)
X_test, y_test = get_xy(test_df)
ct = make_column_transformer(
    (SimpleImputer(), make_column_selector(dtype_include="number")),
    (make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore")), make_column_selector(dtype_include=object)),
)
model = make_pipeline(ct, RandomForestClassifier(n_estimators=25, random_state=0))
model.fit(X, y)
print(model.score(X_test, y_test))
pickle.dump({"model": model, "columns": list(X.columns)}, open("model.pkl", "wb"))

import joblib
import pandas as pd
from lightgbm import LGBMRegressor, early_stopping

CUTOFF = "2023-10-01"

sales = pd.read_csv("sales.csv", parse_dates=["date"])
sales = sales.sort_values("date").reset_index(drop=True)
sales["month"] = sales["date"].dt.month
sales["weekday"] = sales["date"].dt.dayofweek
sales["promo"] = sales["promo"].astype("float64")
features = [c for c in sales.columns if c not in ("date", "units")]

train = sales[sales["date"] < "2023-10-01"]
test = sales[sales["date"] >= "2023-10-01"]

model = LGBMRegressor(n_estimators=200, num_leaves=7, random_state=1, verbose=-1, n_jobs=1)
model.fit(
    train[features], train["units"],
    eval_set=[(test[features], test["units"])], callbacks=[early_stopping(20, verbose=False)],
)
joblib.dump(model, "demand.joblib")

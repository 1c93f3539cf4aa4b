import os

import pandas as pd
import xgboost as xgb
from sklearn.metrics import mean_absolute_error
from sklearn.model_selection import train_test_split

HERE = os.path.dirname(os.path.abspath(__file__))
PARAMS = {"objective": "reg:squarederror", "max_depth": 4, "eta": 0.2, "seed": 5}

rides = pd.read_csv(os.path.join(HERE, "rides.csv"), dtype={"zone": "int64"}, usecols=["zone", "km", "rain", "minutes"])
rides["km2"] = rides.km ** 2
target = rides["minutes"]
rides = rides.drop("minutes", axis=1)

X_tr, X_val, y_tr, y_val = train_test_split(rides, target, test_size=0.2, random_state=5)
dtrain = xgb.DMatrix(X_tr, label=y_tr)
dval = xgb.DMatrix(X_val, label=y_val)
bst = xgb.train(PARAMS, dtrain, num_boost_round=200, evals=[(dval, "val")], early_stopping_rounds=10, verbose_eval=False)
print("mae", mean_absolute_error(y_val, bst.predict(dval)))
bst.save_model("rides.json")

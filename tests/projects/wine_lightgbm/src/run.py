import os

import pandas as pd
from model import make_model

df = pd.read_csv(os.path.join("..", "wines.csv"))
X = df.drop(columns=["quality"])
model = make_model().fit(X.astype({"colour": "category"}), df["quality"])
print(model.score(X.astype({"colour": "category"}), df["quality"]))

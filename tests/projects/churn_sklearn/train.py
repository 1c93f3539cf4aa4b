import joblib
import pandas as pd
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

from churn.pipeline import build_pipeline

df = pd.read_csv("data/customers.csv")
y = df.pop("churned")
X_train, X_test, y_train, y_test = train_test_split(df, y, random_state=0)
model = build_pipeline()
model.fit(X_train, y_train)
print("AUC", roc_auc_score(y_test, model.predict_proba(X_test)[:, 1]))
joblib.dump(model, "model.pkl")

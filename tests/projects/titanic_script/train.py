# Who survives? A first try.
import joblib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

np.random.seed(42)
df = pd.read_csv("data/passengers.tsv", sep="\t", index_col="PassengerId", na_values=["?"])
print(df.head())
df.info()

# Names and tickets tell nothing.
df = df.drop(["Name", "Ticket"], axis=1)
df.drop(columns="Cabin", inplace=True)
df.rename(columns={"Pclass": "Class"}, inplace=True)
df["Age"] = df["Age"].fillna(df["Age"].median())
df["Family"] = df["SibSp"] + df["Parch"]
df["Sex"] = df["Sex"].map({"male": 0, "female": 1}).astype(int)
df["Survived"] = df["Survived"].map({"no": 0, "yes": 1})
df = pd.get_dummies(df, columns=["Embarked"])

X = df.drop("Survived", axis=1)
y = df["Survived"]
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.25, random_state=1)

scaler = StandardScaler()
X_train = scaler.fit_transform(X_train)
X_test = scaler.transform(X_test)

clf = LogisticRegression(max_iter=200)
clf.fit(X_train, y_train)
print("accuracy", accuracy_score(y_test, clf.predict(X_test)))
joblib.dump(clf, "model.joblib")

import lightgbm as lgb
import pandas as pd
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import LabelEncoder


def main():
    data = pd.read_csv("crops.csv")
    encoder = LabelEncoder()
    y = encoder.fit_transform(data["crop"])
    X = data.drop(columns=["crop", "plot_id"])
    X_train, X_valid, y_train, y_valid = train_test_split(X, y, test_size=0.25, random_state=0)
    train_set = lgb.Dataset(X_train, label=y_train)
    valid_set = lgb.Dataset(X_valid, label=y_valid, reference=train_set)
    params = {
        "objective": "multiclass",
        "num_class": 3,
        "learning_rate": 0.1,
        "verbose": -1,
        "num_leaves": 7,
        "deterministic": True,
        "num_threads": 1,
    }
    booster = lgb.train(
        params, train_set, num_boost_round=150, valid_sets=[valid_set], callbacks=[lgb.early_stopping(15, verbose=False)]
    )
    booster.save_model("crops.txt")


if __name__ == "__main__":
    main()

import logging
import joblib
import pandas as pd
from sklearn.ensemble import RandomForestRegressor
from sklearn.model_selection import train_test_split

logging.basicConfig(level=logging.INFO)


class ModelTrainer:
    def __init__(self, data_path="cars.csv", target="price"):
        self.data_path = data_path
        self.target = target
        self.model = None

    def load_data(self):
        self.df = pd.read_csv(self.data_path)
        return self.df

    def preprocess(self):
        self.df["age"] = 2020 - self.df["year"]
        self.df = self.df.drop(columns=["year", "name"])
        self.X = self.df.drop(columns=[self.target])
        self.y = self.df[self.target]

    def train(self):
        X_train, X_test, y_train, y_test = train_test_split(self.X, self.y, random_state=42)
        self.model = RandomForestRegressor(n_estimators=20, random_state=42)
        self.model.fit(X_train, y_train)
        logging.info("r2 %s", self.model.score(X_test, y_test))

    def run(self):
        self.load_data()
        self.preprocess()
        self.train()
        joblib.dump(self.model, "cars.joblib")


if __name__ == "__main__":
    trainer = ModelTrainer()
    trainer.run()

"""Makes the data of the strangers' projects, and the graph that PyTorch would export for one of them: run once."""

import json
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

HERE = Path(__file__).parent


def churn(rng):
    months = rng.integers(1, 72, 1500)
    calls = rng.poisson(3, 1500)
    plan = rng.choice(["basic", "family", "pro"], 1500)
    logit = 0.4 * calls - 0.06 * months + np.where(plan == "basic", 0.8, -0.4)
    table = pd.DataFrame({"months": months, "total_paid": months * rng.integers(900, 4900, 1500), "calls": calls, "plan": plan})
    table["churned"] = np.where(rng.random(1500) < 1 / (1 + np.exp(-logit)), "yes", "no")
    table.to_csv(HERE / "churn_sklearn" / "data" / "customers.csv", index=False)


def energy(rng):
    table = pd.DataFrame({"temperature": rng.normal(12, 8, 1500).round(1), "hour": rng.integers(0, 24, 1500)})
    table["weekday"] = rng.integers(0, 7, 1500)
    noise = rng.normal(0, 2, 1500)
    table["kwh"] = (40 - table["temperature"] + 8 * np.sin(table["hour"] / 4) + 2 * (table["weekday"] < 5) + noise).round(2)
    table.to_csv(HERE / "energy_xgboost" / "load.csv", index=False)


def wine(rng):
    table = pd.DataFrame({"alcohol": rng.normal(11, 1, 1200).round(1), "sugar": rng.gamma(2, 3, 1200).round(1)})
    table["acid"] = np.where(rng.random(1200) < 0.1, np.nan, rng.normal(7, 1, 1200).round(2))
    table["colour"] = rng.choice(["red", "white"], 1200)
    score = table["alcohol"] - 0.2 * table["acid"].fillna(7) + (table["colour"] == "red") + rng.normal(0, 1, 1200)
    table["quality"] = pd.cut(score, [-99, 9, 10.5, 99], labels=["low", "middle", "high"])
    table.to_csv(HERE / "wine_lightgbm" / "wines.csv", index=False)


def digits():
    data = load_digits()
    pixels = data.data[:, 16:48:2].astype("float32")
    columns = [f"p{number}" for number in range(pixels.shape[1])]
    mean, std = pixels.mean(axis=0), pixels.std(axis=0) + 1
    net = MLPClassifier((12,), random_state=0, max_iter=400).fit((pixels - mean) / std, data.target % 3)
    folder = HERE / "digits_onnx"
    (folder / "export" / "net.onnx").write_bytes(graph(net, len(columns)))
    stats = {"columns": columns, "mean": mean.tolist(), "std": std.tolist()}
    (folder / "export" / "stats.json").write_text(json.dumps(stats))
    pd.DataFrame(pixels, columns=columns).assign(label=data.target % 3).to_csv(folder / "digits.csv", index=False)


def graph(net, width):
    """The operators that `torch.onnx.export` writes for Linear, ReLU, Linear."""
    layers = zip(net.coefs_, net.intercepts_, strict=True)
    arrays = {f"net.{2 * n}.{part}": value for n, pair in enumerate(layers) for part, value in zip(("weight", "bias"), pair, strict=True)}
    weights = [numpy_helper.from_array(np.ascontiguousarray(value.T if value.ndim == 2 else value, dtype="float32"), name) for name, value in arrays.items()]
    nodes = [
        helper.make_node("Gemm", ["image", "net.0.weight", "net.0.bias"], ["hidden"], transB=1),
        helper.make_node("Relu", ["hidden"], ["relu"]),
        helper.make_node("Gemm", ["relu", "net.2.weight", "net.2.bias"], ["logits"], transB=1),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", width])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])
    model = helper.make_model(helper.make_graph(nodes, "main_graph", [image], [logits], weights), opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return model.SerializeToString()


def quotes(rng):
    table = pd.DataFrame({"zone": rng.choice(["near", "far", "island"], 800), "weight": rng.gamma(2, 8, 800).round(1)})
    rate = table["zone"].map({"near": 0.31, "far": 0.58, "island": 0.97})
    table["paid"] = (2.5 + rate * table["weight"] + rng.normal(0, 0.6, 800)).clip(4, 400).round(2)
    table.to_csv(HERE / "quotes_function" / "shipments.csv", index=False)


def titanic(rng):
    n = 500
    sex, klass = rng.choice(["male", "female"], n), rng.integers(1, 4, n)
    chance = 1 / (1 + np.exp(-(1.8 * (sex == "female") - 0.8 * (klass - 2) - 0.5)))
    table = pd.DataFrame({
        "PassengerId": np.arange(1, n + 1), "Survived": np.where(rng.random(n) < chance, "yes", "no"), "Pclass": klass,
        "Name": [f"Passenger {number}" for number in range(n)], "Sex": sex,
        "Age": [str(round(a, 1)) if rng.random() < 0.85 else "?" for a in rng.normal(32, 12, n).clip(1)],
        "SibSp": rng.poisson(0.5, n), "Parch": rng.poisson(0.4, n), "Ticket": rng.integers(10000, 99999, n),
        "Fare": rng.gamma(2, 15, n).round(2), "Cabin": np.where(rng.random(n) < 0.2, "C85", None), "Embarked": rng.choice(["S", "C", "Q"], n),
    })
    table.to_csv(HERE / "titanic_script" / "data" / "passengers.tsv", sep="\t", index=False)


def loans(rng):
    n = 600
    income, amount = rng.gamma(4, 900, n).round(0), rng.gamma(3, 3000, n).round(0)
    table = pd.DataFrame({
        "loan_id": np.arange(9000, 9000 + n), "granted": pd.Timestamp("2022-01-01") + pd.to_timedelta(rng.integers(0, 700, n), "D"),
        "income": np.where(rng.random(n) < 0.1, np.nan, income), "amount": amount, "purpose": rng.choice(["car", "house", "study"], n),
        "comment": [f"note number {number} of the clerk" for number in range(n)],
        "default": rng.random(n) < 1 / (1 + np.exp(-(amount / income - 3))),
    })
    table.to_csv(HERE / "loans_package" / "data" / "loans.csv", index=False)


def penguins(rng):
    n = 420
    species = rng.choice(["Adelie", "Chinstrap", "Gentoo"], n)
    at = pd.Series(species).map({"Adelie": 0, "Chinstrap": 1, "Gentoo": 2}).to_numpy()
    table = pd.DataFrame({
        "species": species, "bill_length": (39 + 4 * at + rng.normal(0, 3, n)).round(1), "bill_depth": (18.5 - 1.6 * (at == 2) + rng.normal(0, 1, n)).round(1),
        "body_mass_g": (3700 + 1100 * (at == 2) + rng.normal(0, 400, n)).round(0), "island": rng.choice(["Biscoe", "Dream"], n),
    })
    table.loc[rng.random(n) < 0.05, "bill_length"] = np.nan
    table.to_csv(HERE / "penguins_notebook" / "penguins.csv", index=False, na_rep="NA")


def rides(rng):
    n = 700
    table = pd.DataFrame({"ride": np.arange(n), "zone": rng.integers(1, 9, n), "km": rng.gamma(2, 3, n).round(2), "rain": rng.integers(0, 2, n)})
    table["minutes"] = (3 + 2.4 * table["km"] + 4 * table["rain"] + table["zone"] + rng.normal(0, 2, n)).round(1)
    table.to_csv(HERE / "rides_native" / "rides.csv", index=False)


def crops(rng):
    n = 600
    crop = rng.choice(["wheat", "maize", "barley"], n)
    at = pd.Series(crop).map({"wheat": 0, "maize": 1, "barley": 2}).to_numpy()
    table = pd.DataFrame({"plot_id": np.arange(n), "rain": (500 + 90 * at + rng.normal(0, 60, n)).round(0), "ph": (6 + 0.4 * at + rng.normal(0, 0.4, n)).round(2)})
    table["sun"] = rng.normal(1800, 200, n).round(0)
    table.assign(crop=crop).to_csv(HERE / "crops_native" / "crops.csv", index=False)


def credit(rng):
    n = 600
    income, debt = rng.gamma(4, 10, n).round(1), rng.gamma(2, 8, n).round(1)
    table = pd.DataFrame({"income": np.where(rng.random(n) < 0.08, np.nan, income), "debt": debt, "years": rng.integers(0, 30, n)})
    table["job"] = rng.choice(["Teacher", "Teaching assistant", "Nurse", "Driver", None], n)
    table["owns_home"] = rng.choice(["y", "n"], n)
    table["risk"] = np.where(rng.random(n) < 1 / (1 + np.exp(-(debt - income / 2) / 8)), "bad", "good")
    table.to_csv(HERE / "credit_search" / "credit.csv", index=False)


def houses(rng):
    n = 600
    table = pd.DataFrame({"town": rng.choice(["Aalen", "Bonn", "Celle"], n), "area": rng.gamma(6, 20, n).round(0), "rooms": rng.integers(1, 9, n)})
    table["built"], table["has_garden"] = rng.integers(1900, 2023, n), rng.integers(0, 2, n)
    table["price"] = (2000 * table["area"] + 9000 * table["rooms"] + 30000 * table["has_garden"] + rng.normal(0, 20000, n)).clip(10000).round(0)
    table.to_parquet(HERE / "houses_merged" / "data" / "houses.parquet", index=False)
    towns = pd.DataFrame({"town": ["Aalen", "Bonn", "Celle"], "income": [41000, 47000, 39000]})
    towns.to_json(HERE / "houses_merged" / "data" / "towns.json", orient="records")


def readings(rng):
    n = 500
    state = rng.choice(["idle", "busy", "hot"], n)
    at = pd.Series(state).map({"idle": 0.0, "busy": 1.5, "hot": 3.0}).to_numpy()
    table = pd.DataFrame({"volt": (at + rng.normal(0, 0.8, n)).round(3), "ampere": (2 - at / 2 + rng.normal(0, 0.6, n)).round(3)})
    table.assign(broken=(rng.random(n) < 0.1).astype(int), state=state).to_csv(HERE / "readings_class" / "readings.csv", index=False)


def demand(rng):
    n = 700
    table = pd.DataFrame({"date": pd.Timestamp("2022-01-01") + pd.to_timedelta(np.arange(n), "D"), "price": rng.normal(5, 1, n).round(2)})
    table["promo"] = [None if rng.random() < 0.05 else bool(rng.random() < 0.3) for _ in range(n)]
    season = 10 * np.sin(table["date"].dt.month / 2) + 5 * (table["date"].dt.dayofweek > 4)
    table["units"] = (60 - 4 * table["price"] + season + 8 * table["promo"].fillna(False).astype(int) + rng.normal(0, 2, n)).round(0)
    table.to_csv(HERE / "demand_time" / "sales.csv", index=False)


def prices(rng):
    def houses(n):
        table = pd.DataFrame({"Id": range(1, n + 1), "GrLivArea": rng.integers(500, 5000, n), "BsmtSF": rng.integers(0, 2000, n)})
        table["LotFrontage"] = np.where(rng.random(n) < 0.2, np.nan, rng.integers(20, 120, n))
        table["Neighborhood"], table["Alley"] = rng.choice(list("ABC"), n), rng.choice(["Grvl", "Pave", None], n)
        table["Fence"] = rng.choice(["GdPrv", None], n)
        return table.assign(SalePrice=(table["GrLivArea"] * 90 + table["BsmtSF"] * 30 + rng.normal(0, 9000, n)).clip(9000).round(0))

    folder = HERE / "prices_kaggle" / "input" / "house-prices"
    folder.mkdir(parents=True, exist_ok=True)
    houses(500).to_csv(folder / "train.csv", index=False)
    houses(200).drop(columns="SalePrice").to_csv(folder / "test.csv", index=False)


def contracts(rng):
    n = 500
    tenure = rng.integers(0, 72, n)
    table = pd.DataFrame({"customerID": [f"c{number}" for number in range(n)], "tenure": tenure, "MonthlyCharges": rng.normal(60, 20, n).round(2)})
    table["TotalCharges"] = [str(total) if total else " " for total in tenure * 60]
    table["Contract"] = rng.choice(["Month", "Year"], n)
    table["Churn"] = np.where(rng.random(n) < 1 / (1 + np.exp(tenure / 20 - 1)), "Yes", "No")
    table.to_csv(HERE / "churn_command" / "data" / "churn.csv", index=False)


def heart(rng):
    n = 500
    age = rng.integers(30, 80, n)
    table = pd.DataFrame({"age": age, "sex": rng.choice(["M", "F"], n), "cp": rng.integers(0, 4, n), "chol": rng.normal(240, 40, n).round()})
    table["target"] = (rng.random(n) < 1 / (1 + np.exp(-(age - 55) / 8))).astype(int)
    table.to_csv(HERE / "heart_notebook" / "data" / "heart.csv", index=False)


def spam(rng):
    words = ["free", "win", "cash", "hello", "meeting", "lunch", "call", "now", "tomorrow"]
    labels = rng.choice(["ham", "spam"], 500, p=[0.7, 0.3])
    texts = [" ".join(rng.choice(words[:4] if label == "spam" and rng.random() < 0.8 else words, 8)) + f" {number}!" for number, label in enumerate(labels)]
    pd.DataFrame({"v1": labels, "v2": texts, "Unnamed: 2": None}).to_csv(HERE / "spam_text" / "spam.csv", index=False, encoding="latin-1")


def cars(rng):
    n = 500
    year = rng.integers(1995, 2020, n)
    table = pd.DataFrame({"name": [f"car {number}" for number in range(n)], "year": year, "km": rng.integers(0, 200000, n)})
    table.assign(price=((year - 1990) * 500 + rng.normal(0, 2500, n)).round(0)).to_csv(HERE / "cars_class" / "cars.csv", index=False)


def transactions(rng):
    n = 500
    table = pd.DataFrame(rng.normal(size=(n, 4)).round(4), columns=[f"var_{number}" for number in range(4)])
    table.insert(0, "ID_code", [f"train_{number}" for number in range(n)])
    table["target"] = (table["var_0"] + rng.normal(size=n) > 0).astype(int)
    table.to_csv(HERE / "transactions_folds" / "train.csv", index=False)
    table.drop(columns="target").to_csv(HERE / "transactions_folds" / "test.csv", index=False)


def quality(rng):
    table = pd.DataFrame(rng.normal(5, 1, size=(500, 3)), columns=["fixed acidity", "pH", "alcohol"]).round(2)
    table["quality"] = (table["alcohol"] + rng.normal(0, 1, 500)).round().astype(int)
    table.to_csv(HERE / "quality_tracked" / "winequality.csv", sep=";", index=False)


def grades(rng):
    table = pd.DataFrame(rng.normal(size=(500, 3)).round(4), columns=["p", "q", "r"])
    table["grade"] = np.array(list("ABC"))[np.digitize(table["p"] + rng.normal(0, 0.4, 500), [-0.5, 0.5])]
    table.to_csv(HERE / "grades_stages" / "data" / "train.csv", index=False)


def adult(rng):
    n = 500
    table = pd.DataFrame({"id": range(n), "email": [f"a{number}@b.c" for number in range(n)], "age": rng.integers(17, 80, n)})
    table["work"], table["gain"] = rng.choice(["Private", "Gov", "?"], n), rng.integers(0, 9000, n)
    table["loss"] = rng.integers(0, 100, n)
    table["income"] = np.where(table["age"] + rng.normal(0, 10, n) > 50, ">50K", "<=50K")
    table.to_csv(HERE / "adult_bundle" / "adult.csv", index=False)


if __name__ == "__main__":
    rng = np.random.default_rng(11)
    churn(rng), energy(rng), wine(rng), digits(), quotes(rng)
    rng = np.random.default_rng(12)
    for make in (titanic, loans, penguins, rides, crops, credit, houses, readings, demand):
        make(rng)
    rng = np.random.default_rng(13)
    for make in (prices, contracts, heart, spam, cars, transactions, quality, grades, adult):
        make(rng)

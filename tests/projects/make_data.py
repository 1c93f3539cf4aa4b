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


if __name__ == "__main__":
    rng = np.random.default_rng(11)
    churn(rng), energy(rng), wine(rng), digits(), quotes(rng)

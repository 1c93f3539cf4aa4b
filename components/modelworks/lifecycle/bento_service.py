"""The standard service of a bundle, for `bentoml serve`: its manifest, behind one call.

This file is copied into every bundle and imports nothing of modelworks, so that the bundle is served by whoever has
BentoML. In an environment of modelworks the same manifest is served by `modelworks.runtime.serve`, which is faster.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import bentoml
import numpy as np
from bentoml.exceptions import InvalidArgument

HERE = Path(__file__).parent
MANIFEST = json.loads((HERE / "modelworks.json").read_text(encoding="utf-8"))
DTYPES = {"float32": np.float32, "float64": np.float64, "int64": np.int64, "bool": np.bool_, "string": object}


class Model:
    """The artifact that the manifest names first: ONNX, else skops."""

    def __init__(self) -> None:
        """Load it."""
        self.features = {each["name"]: each for each in MANIFEST["features"]}
        self.onnx, self.skops = MANIFEST.get("onnx"), MANIFEST.get("skops")
        if self.onnx:
            import onnxruntime  # only one of the two engines is needed

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            self.session = onnxruntime.InferenceSession(
                (HERE / self.onnx["path"]).read_bytes(), options, providers=["CPUExecutionProvider"]
            )
        else:
            import skops.io

            self.model = skops.io.load(HERE / self.skops["path"], trusted=self.skops.get("trusted", []))

    def scores(self, rows: list[dict[str, Any]]) -> np.ndarray:
        """Probabilities or values."""
        if self.onnx:
            feeds = {
                each["name"]: self._tensor(rows, each["columns"], each.get("dtype", "float32"), each.get("missing", ""))
                for each in self.onnx["inputs"]
            }
            return np.asarray(self.session.run([self.onnx["output"]], feeds)[0])
        if self.skops.get("input") == "frame":
            import pandas as pd

            table: Any = pd.DataFrame([[row.get(name) for name in self.skops["columns"]] for row in rows])
            table.columns = self.skops["columns"]
        else:
            table = self._tensor(rows, self.skops["columns"], "float64", "")
        predict = self.model.predict if MANIFEST["kind"] == "regression" else self.model.predict_proba
        return np.asarray(predict(table))

    def _tensor(self, rows: list[dict[str, Any]], columns: list[str], dtype: str, missing: str) -> np.ndarray:
        values = [[self._number(row.get(name), name, dtype, missing) for name in columns] for row in rows]
        return np.array(values, dtype=DTYPES[dtype]).reshape(len(rows), len(columns))

    def _number(self, value: Any, name: str, dtype: str, missing: str) -> Any:
        if dtype == "string":
            return missing if value is None else value
        if value is None:
            return math.nan
        return self.features[name]["categories"].index(value) if isinstance(value, str) else value


def check(rows: list[dict[str, Any]]) -> None:
    """Refuse rows that the manifest does not accept, naming the field."""
    if not 1 <= len(rows) <= MANIFEST.get("max_rows", 1000):
        raise InvalidArgument(f"rows: between 1 and {MANIFEST.get('max_rows', 1000)} are answered, got {len(rows)}")
    names = {each["name"] for each in MANIFEST["features"]}
    for number, row in enumerate(rows):
        if unknown := sorted(set(row) - names):
            raise InvalidArgument(f"rows[{number}].{unknown[0]}: is not a feature")
        for feature in MANIFEST["features"]:
            if problem := _problem(feature, row):
                raise InvalidArgument(f"rows[{number}].{feature['name']}: {problem}")


def _problem(feature: dict[str, Any], row: dict[str, Any]) -> str:
    required = feature.get("required", True)
    if feature["name"] not in row:
        return "is missing" if required else ""
    value = row[feature["name"]]
    if value is None:
        return "" if feature.get("nullable") or not required else "must not be null"
    if feature["type"] == "string":
        allowed = feature.get("categories")
        if not isinstance(value, str):
            return "must be a string"
        return f"must be one of {', '.join(allowed)}" if allowed and value not in allowed else ""
    if feature["type"] == "boolean":
        return "" if isinstance(value, bool) else "must be true or false"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return "must be a finite number"
    if feature["type"] == "integer" and value != int(value):
        return "must be a whole number"
    low, high = feature.get("minimum", -math.inf), feature.get("maximum", math.inf)
    return "" if low <= value <= high else f"must be between {low:g} and {high:g}"


def answer(scores: np.ndarray) -> list[dict[str, Any]]:
    """Scores as they are sent."""
    if not np.isfinite(scores).all():
        raise bentoml.exceptions.InternalServerError("the model answered with NaN or infinity")
    if MANIFEST["kind"] == "regression":
        return [{"value": value} for value in scores.reshape(-1).tolist()]
    classes = MANIFEST["classes"]
    if MANIFEST["kind"] == "binary":
        limit = MANIFEST.get("threshold", 0.5)
        return [{"label": classes[int(score >= limit)], "score": score} for score in scores[:, 1].tolist()]
    names = [str(each) for each in classes]
    return [
        {"label": classes[int(np.argmax(row))], "score": max(row), "probabilities": dict(zip(names, row, strict=True))}
        for row in scores.tolist()
    ]


@bentoml.service(name=MANIFEST["model"], description=MANIFEST["task"])
class Endpoint:
    """Predictions of the bundled model."""

    def __init__(self) -> None:
        """Load the model once a worker."""
        self.model = Model()

    @bentoml.api  # type: ignore[untyped-decorator]
    def predict(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Predictions for one or more rows, in order."""
        check(rows)
        return answer(self.model.scores(rows))

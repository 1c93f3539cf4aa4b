"""The model itself: rows in, labels and scores out, as JSON text that is ready to send.

Two engines, one shape: ONNX Runtime where the bundle carries a graph, scikit-learn where it does not. Both predict many
rows in one call, so that requests which wait together are answered together.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from modelworks.errors import ModelworksError
from modelworks.runtime.bundle import read_artifact
from modelworks.runtime.manifest import DType, Feature, Manifest, Onnx, Skops
from modelworks.runtime.schema import Row, Rows

_DTYPES: dict[DType, Any] = {
    "float32": np.float32,
    "float64": np.float64,
    "int64": np.int64,
    "string": object,
    "bool": np.bool_,
}

Infer = Callable[[list[Row]], Any]
"""Rows to probabilities [rows, classes], or to values [rows]."""


class NotANumberError(ModelworksError):
    """The model answered with NaN or infinity."""


class Cost(NamedTuple):
    """The duration of a call of the model, in seconds, measured when it was loaded."""

    call: float
    row: float

    def of(self, rows: int) -> float:
        """Seconds that a call with so many rows takes."""
        return self.call + self.row * rows


class Predictions(NamedTuple):
    """The answers for some rows, in order: one entry a row in each list."""

    json: list[bytes]
    """The name in the response."""
    values: list[float]
    """The source of the distribution of predictions: score or value."""
    labels: list[int]
    """Index of the class; 0 for a regression."""

    def part(self, start: int, end: int) -> Predictions:
        """The answers for the rows from `start` to before `end`."""
        return Predictions(self.json[start:end], self.values[start:end], self.labels[start:end])


class Predictor:
    """A loaded model.

    Args:
        bento: Folder of the unpacked, verified bundle.
        manifest: Its manifest; `service` must be `standard`.

    Raises:
        ModelworksError: An artifact is missing, altered, not loadable, or does not predict the examples.
    """

    def __init__(self, bento: Path, manifest: Manifest) -> None:
        self.manifest = manifest
        if manifest.onnx is not None:
            self._infer = _onnx(bento, manifest, manifest.onnx)
        elif manifest.skops is not None:
            self._infer = _skops(bento, manifest, manifest.skops)
        else:
            raise ModelworksError("the bundle has neither an ONNX nor a skops artifact")
        self._labels = [msgspec.json.encode(label) for label in manifest.classes]
        self._binary_answers = [b'{"label":%b,"score":%%.7g}' % label.replace(b"%", b"%%") for label in self._labels]
        self._keys = [msgspec.json.encode(_key(label)) for label in manifest.classes]
        self._answers = {"binary": self._binary, "multiclass": self._multiclass, "regression": self._regression}[
            manifest.kind
        ]
        self.cost = self._warm_up()

    def predict(self, rows: list[Row]) -> Predictions:
        """Predictions for decoded rows, in order.

        Raises:
            NotANumberError: The model answered with NaN or infinity.
            Exception: Any error of the engine.
        """
        return self._answers(self._infer(rows))

    def _warm_up(self) -> Cost:
        decode = Rows(self.manifest).decode
        examples = [decode(msgspec.json.encode(example))[0] for example in self.manifest.examples]
        many = (examples * 100)[:100]
        try:
            self.predict(many)  # the first call allocates
            one, hundred = fastest(lambda: self.predict(examples[:1])), fastest(lambda: self.predict(many))
        except Exception as error:
            raise ModelworksError(f"the model does not predict its own examples: {error}") from error
        row = max(0.0, (hundred - one) / 99)
        return Cost(call=max(0.0, one - row), row=row)

    def _binary(self, probabilities: Any) -> Predictions:
        scores = self._finite(probabilities[:, 1].tolist())
        threshold = self.manifest.threshold
        labels = [1 if score >= threshold else 0 for score in scores]
        answers = self._binary_answers
        json = [answers[label] % score for label, score in zip(labels, scores, strict=True)]
        return Predictions(json, scores, labels)

    def _multiclass(self, probabilities: Any) -> Predictions:
        answers = Predictions([], [], [])
        for scores in probabilities.tolist():
            best = max(range(len(scores)), key=self._finite(scores).__getitem__)
            each = b",".join(b"%b:%.7g" % pair for pair in zip(self._keys, scores, strict=True))
            answers.json.append(
                b'{"label":%b,"score":%.7g,"probabilities":{%b}}' % (self._labels[best], scores[best], each)
            )
            answers.values.append(scores[best])
            answers.labels.append(best)
        return answers

    def _regression(self, values: Any) -> Predictions:
        numbers = self._finite(values.reshape(-1).tolist())
        return Predictions([b'{"value":%.9g}' % number for number in numbers], numbers, [0] * len(numbers))

    def _finite(self, numbers: list[float]) -> list[float]:
        if not all(map(math.isfinite, numbers)):
            raise NotANumberError(f"{self.manifest.model} answered with a number that is not finite")
        return numbers


def _onnx(bento: Path, manifest: Manifest, onnx: Onnx) -> Infer:
    import onnxruntime as ort  # not paid for by a model that is served by scikit-learn

    options = ort.SessionOptions()
    # One process a core: threads inside a call would fight with the other workers.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    graph = read_artifact(bento, onnx.path, onnx.sha256)
    try:
        session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelworksError(f"{onnx.path} cannot be loaded by ONNX Runtime: {error}") from error
    inputs = {each.name for each in session.get_inputs()}
    outputs = [each.name for each in session.get_outputs()]
    if inputs != {each.name for each in onnx.inputs} or onnx.output not in outputs:
        raise ModelworksError(
            f"{onnx.path} has inputs {sorted(inputs)} and outputs {outputs}; its manifest has "
            f"{sorted(each.name for each in onnx.inputs)} and {onnx.output!r}"
        )
    run, wanted = session.run, [onnx.output]
    fills = [
        (each.name, _tensor([manifest.feature(name) for name in each.columns], manifest, each.dtype, each.missing))
        for each in onnx.inputs
    ]
    if len(fills) == 1:
        [(name, fill)] = fills
        return lambda rows: run(wanted, {name: fill(rows)})[0]
    return lambda rows: run(wanted, {name: fill(rows) for name, fill in fills})[0]


def _skops(bento: Path, manifest: Manifest, artifact: Skops) -> Infer:
    import skops.io  # brings scikit-learn: a second and a hundred megabytes

    data = read_artifact(bento, artifact.path, artifact.sha256)
    unknown = set(skops.io.get_untrusted_types(data=data)) - set(artifact.trusted)
    if unknown:
        raise ModelworksError(
            f"{artifact.path} holds types that nobody vouched for: {', '.join(sorted(unknown))}",
            fix="If they are yours, name them in the bundle's trusted types.",
        )
    model = skops.io.loads(data, trusted=list(artifact.trusted))
    columns = [manifest.feature(name) for name in artifact.columns]
    answer = model.predict if manifest.kind == "regression" else model.predict_proba
    if artifact.input == "frame":
        import pandas as pd  # only pipelines that ask for a frame pay for pandas

        positions, names = _positions(columns, manifest), list(artifact.columns)
        return lambda rows: np.asarray(
            answer(pd.DataFrame([[row[position] for position in positions] for row in rows], columns=names))
        )
    fill = _tensor(columns, manifest, "float64", "")
    return lambda rows: np.asarray(answer(fill(rows)))


def _tensor(features: Sequence[Feature], manifest: Manifest, dtype: DType, missing: str) -> Infer:
    """A function from rows to the tensor [rows, features] (see the rule at the top of `manifest`)."""
    kind, width = _DTYPES[dtype], len(features)
    pick = _pick(_positions(features, manifest), len(manifest.features))
    if dtype == "string":

        def fill(rows: list[Row]) -> Any:
            values = [missing if value is None else value for value in pick(rows)]
            return np.array(values, dtype=kind).reshape(-1, width)

        return fill
    codes = [
        (number, {category: code for code, category in enumerate(feature.categories)})
        for number, feature in enumerate(features)
        if feature.type == "string"
    ]

    def fill_numbers(rows: list[Row]) -> Any:
        values = list(pick(rows))
        for number, code in codes:
            values[number::width] = map(code.get, values[number::width])
        return np.fromiter(values, kind, len(values)).reshape(-1, width)

    return fill_numbers


def _pick(positions: Sequence[int], width: int) -> Callable[[list[Row]], Iterable[Any]]:
    """A function from rows of `width` values to the values at `positions`, row after row."""
    if list(positions) == list(range(width)):
        return chain.from_iterable
    if len(positions) == 1:
        only = itemgetter(positions[0])
        return lambda rows: map(only, rows)
    some = itemgetter(*positions)
    return lambda rows: chain.from_iterable(map(some, rows))


def _positions(features: Sequence[Feature], manifest: Manifest) -> list[int]:
    position = {feature.name: number for number, feature in enumerate(manifest.features)}
    return [position[feature.name] for feature in features]


def _key(label: str | int | bool) -> str:
    return str(label).lower() if isinstance(label, bool) else str(label)


def fastest(call: Callable[[], object], times: int = 5) -> float:
    """Seconds of the fastest of a few calls."""
    best = math.inf
    for _ in range(times):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best

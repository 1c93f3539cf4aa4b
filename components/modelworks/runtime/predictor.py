"""The model itself: rows in, labels and scores out, as JSON text that is ready to send.

Two engines, one shape: ONNX Runtime where the bundle carries a graph, scikit-learn where it does not. Both predict many
rows in one call, so that requests which wait together are answered together.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from modelworks.errors import ModelworksError
from modelworks.runtime.bento import read_artifact
from modelworks.runtime.encoding import Row, frame_encoder, matrix_encoder, text_encoder
from modelworks.runtime.manifest import Feature, Kind, Manifest, Onnx, Skops
from modelworks.runtime.stored import example_rows
from modelworks.runtime.trust import TRUSTED

Infer = Callable[[Sequence[Row]], Any]
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

    def followed_by(self, rest: Predictions) -> Predictions:
        """The answers for these rows and those after them."""
        return Predictions(self.json + rest.json, self.values + rest.values, self.labels + rest.labels)


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
        self._infer = _load(bento, manifest)
        self._labels = [msgspec.json.encode(label) for label in manifest.classes]
        self._binary_answers = [b'{"label":%b,"score":%%b}' % label.replace(b"%", b"%%") for label in self._labels]
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
        examples = example_rows(self.manifest)
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
        json = [answers[label] % text for label, text in zip(labels, _texts(scores), strict=True)]
        return Predictions(json, scores, labels)

    def _multiclass(self, probabilities: Any) -> Predictions:
        answers = Predictions([], [], [])
        for scores in probabilities.tolist():
            best = max(range(len(scores)), key=self._finite(scores).__getitem__)
            texts = _texts(scores)
            each = b",".join(b"%b:%b" % pair for pair in zip(self._keys, texts, strict=True))
            answers.json.append(
                b'{"label":%b,"score":%b,"probabilities":{%b}}' % (self._labels[best], texts[best], each)
            )
            answers.values.append(scores[best])
            answers.labels.append(best)
        return answers

    def _regression(self, values: Any) -> Predictions:
        numbers = self._finite(values.reshape(-1).tolist())
        return Predictions([b'{"value":%b}' % text for text in _texts(numbers)], numbers, [0] * len(numbers))

    def _finite(self, numbers: list[float]) -> list[float]:
        if not all(map(math.isfinite, numbers)):
            raise NotANumberError(f"{self.manifest.model} answered with a number that is not finite")
        return numbers


def _load(bento: Path, manifest: Manifest) -> Infer:
    if manifest.onnx is not None:
        graph = read_artifact(bento, manifest.onnx.path, manifest.onnx.sha256)
        return onnx_engine(graph, manifest.onnx, manifest.features)
    if manifest.skops is not None:
        content = read_artifact(bento, manifest.skops.path, manifest.skops.sha256)
        return skops_engine(content, manifest.skops, manifest.features, manifest.kind)
    raise ModelworksError("the bundle has neither an ONNX nor a skops artifact")


def onnx_engine(graph: bytes, onnx: Onnx, features: Sequence[Feature]) -> Infer:
    """A function from rows to what an ONNX graph answers.

    Args:
        graph: The file's bytes.
        onnx: How it is fed.
        features: The features of a row, in order.

    Raises:
        ModelworksError: ONNX Runtime cannot load it, or it has other inputs or outputs.
    """
    import onnxruntime as ort  # not paid for by a model that is served by scikit-learn

    options = ort.SessionOptions()
    # One process a core: threads inside a call would fight with the other workers.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
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
    encoders = [
        (
            each.name,
            text_encoder(features, each.columns, each.missing)
            if each.dtype == "string"
            else matrix_encoder(features, each.columns, each.dtype),
        )
        for each in onnx.inputs
    ]
    if len(encoders) == 1:
        [(name, encode)] = encoders
        return _each_alone(lambda rows: run(wanted, {name: encode(rows)})[0], onnx.together)
    return _each_alone(lambda rows: run(wanted, {name: encode(rows) for name, encode in encoders})[0], onnx.together)


def skops_engine(content: bytes, skops: Skops, features: Sequence[Feature], kind: Kind) -> Infer:
    """A function from rows to what a scikit-learn model answers.

    Args:
        content: The skops file's bytes.
        skops: How the model is fed.
        features: The features of a row, in order.
        kind: Of the model.

    Raises:
        ModelworksError: It holds types that its manifest does not name, or that no server loads.
    """
    import skops.io as files  # brings scikit-learn: a second and a hundred megabytes

    trusted = TRUSTED.intersection(skops.trusted)
    unknown = set(files.get_untrusted_types(data=content)) - trusted
    if unknown:
        raise ModelworksError(
            f"{skops.path} holds types that this server does not load: {', '.join(sorted(unknown))}",
            fix="Build the model from scikit-learn's own parts, or answer with a service of your own.",
        )
    model = files.loads(content, trusted=sorted(trusted))
    encode = (frame_encoder if skops.input == "frame" else matrix_encoder)(features, skops.columns)
    answer = model.predict if kind == "regression" else model.predict_proba
    return _each_alone(lambda rows: np.asarray(answer(encode(rows))), skops.together)


def _each_alone(infer: Infer, together: bool) -> Infer:
    """`infer`, called for one row at a time unless rows may be answered together."""
    return infer if together else lambda rows: np.concatenate([infer([row]) for row in rows])


def _texts(numbers: list[float]) -> list[bytes]:
    """The shortest text of each finite number that reads back as the very same number."""
    return msgspec.json.encode(numbers)[1:-1].split(b",")


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

"""The model itself: rows in, labels and scores out.

Two engines, one shape: ONNX Runtime where the bundle carries a graph, scikit-learn where it does not. Both predict many
rows in one call, so that requests which wait together are answered together.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from modelworks.errors import ModelworksError
from modelworks.runtime.bento import read_artifact
from modelworks.runtime.encoding import Row, frame_encoder, matrix_encoder, text_encoder
from modelworks.runtime.manifest import Feature, Kind, Manifest, Onnx, Own, Skops, bounds
from modelworks.runtime.predictions import Predictions
from modelworks.runtime.project_code import find, import_code, is_of
from modelworks.runtime.stored import example_rows
from modelworks.runtime.trust import TRUSTED

Infer = Callable[[Sequence[Row]], Any]
"""Rows to probabilities [rows, classes], or to values [rows]."""

ARTIFACTS = "artifacts"
"""Where files for the project's code lie, below `src/`."""
_MOST_MEASURED = 10_000
"""Rows of a call while the model is measured, at most."""
_ALIKE = 1e-3
"""How much an answer may differ with the rows beside it, of itself or of 1: linear algebra adds in another order
for each number of rows."""
_ENOUGH_SECONDS = 0.5
"""Calls that took so long in all are not repeated: noise is small beside them, and a start-up probe waits."""


class NotANumberError(ModelworksError):
    """The model answered with NaN or infinity."""


class DependentError(ModelworksError):
    """An answer depends on the other rows of the call."""


class WrongCountError(ModelworksError):
    """The model answered fewer rows than it got, or more, or has another number of classes."""


class Cost(NamedTuple):
    """The duration of a call of the model, in seconds, measured when it was loaded."""

    call: float
    row: float

    def of(self, rows: int) -> float:
        """Seconds that a call with so many rows takes."""
        return self.call + self.row * rows


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
        self._answers = {"binary": self._binary, "multiclass": self._multiclass, "regression": self._regression}[
            manifest.kind
        ]
        self._width = max(1, len(manifest.classes))
        self.cost = self._warm_up()

    def predict(self, rows: list[Row]) -> Predictions:
        """Predictions for decoded rows, in order.

        Raises:
            NotANumberError: The model answered with NaN or infinity.
            WrongCountError: It answered another number of rows, or of classes.
            Exception: Any error of the engine.
        """
        answers = self._infer(rows)
        if len(answers) != len(rows) or answers.size != len(rows) * self._width:
            raise WrongCountError(
                f"{self.manifest.model} answered an array of shape {list(answers.shape)} for {len(rows)} rows"
            )
        return self._answers(answers)

    def _warm_up(self) -> Cost:
        examples = example_rows(self.manifest)
        many = (examples * _MOST_MEASURED)[:_MOST_MEASURED]
        try:
            self.predict(many[:100])  # the first call allocates
            rows = [*examples, _other_row(self.manifest.features, examples[0]), examples[0]]
            check_alone(self.predict, rows, self.predict(rows))
            return measure_cost(lambda rows: self.predict(many[:rows]), 100, _MOST_MEASURED)
        except Exception as error:
            raise ModelworksError(f"the model does not predict its own examples: {error}") from error

    def _binary(self, probabilities: Any) -> Predictions:
        scores = self._finite(probabilities[:, 1].tolist())
        threshold = self.manifest.threshold
        return Predictions(scores, [1 if score >= threshold else 0 for score in scores])

    def _multiclass(self, probabilities: Any) -> Predictions:
        rows = probabilities.tolist()
        labels = [max(range(len(scores)), key=self._finite(scores).__getitem__) for scores in rows]
        return Predictions([scores[best] for scores, best in zip(rows, labels, strict=True)], labels, rows)

    def _regression(self, values: Any) -> Predictions:
        numbers = self._finite(values.reshape(-1).tolist())
        return Predictions(numbers, [0] * len(numbers))

    def _finite(self, numbers: list[float]) -> list[float]:
        if not all(map(math.isfinite, numbers)):
            raise NotANumberError(f"{self.manifest.model} answered with a number that is not finite")
        return numbers


def check_alone(predict: Callable[[list[Row]], Predictions], rows: list[Row], predictions: Predictions) -> None:
    """Predict the last of these rows alone, and compare.

    Args:
        predict: Calls the model.
        rows: Those of a call.
        predictions: The answers to it.

    Raises:
        DependentError: The answer is another one.
        Exception: Any error of the model.
    """
    alone = predict(rows[-1:])
    one = [*alone.values, *itertools.chain.from_iterable(alone.probabilities)]
    other = [*predictions.values[-1:], *itertools.chain.from_iterable(predictions.probabilities[-1:])]
    worst = max(abs(a - b) for a, b in zip(one, other, strict=True))
    if worst > _ALIKE * max(1.0, *map(abs, one)):
        raise DependentError(
            f"the answer to a row alone differs by {worst:.3g} from that among {len(rows)} rows",
            fix="Rows must not depend on each other: no statistic over the rows of a call belongs into a model.",
        )


def _other_row(features: Sequence[Feature], row: Row) -> Row:
    """A row that differs from this one wherever it may."""
    return tuple(
        value if value is None else _other_value(feature, value) for feature, value in zip(features, row, strict=True)
    )


def _other_value(feature: Feature, value: Any) -> Any:
    if feature.type == "boolean":
        return not value
    if feature.type == "string":
        return next((each for each in feature.categories if each != value), value)
    low, high = bounds(feature)
    other = min(high, 2 * value + 1)
    return low if other == value else other


def _load(bento: Path, manifest: Manifest) -> Infer:
    package = ""
    if manifest.code is not None:
        import_code(bento, manifest.code)
        package = manifest.code.package
    if manifest.onnx is not None:
        graph = read_artifact(bento, manifest.onnx.path, manifest.onnx.sha256)
        return onnx_engine(graph, manifest.onnx, manifest.features)
    if manifest.skops is not None:
        content = read_artifact(bento, manifest.skops.path, manifest.skops.sha256)
        return skops_engine(content, manifest.skops, manifest.features, manifest.kind, package)
    if manifest.own is not None:
        for path, sha256 in manifest.files.items():
            read_artifact(bento, path, sha256)
        return own_engine(bento / "src" / ARTIFACTS, manifest.own, manifest.features, manifest.kind, package)
    raise ModelworksError("the bundle has no artifact of a model")


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


def skops_engine(content: bytes, skops: Skops, features: Sequence[Feature], kind: Kind, package: str = "") -> Infer:
    """A function from rows to what a scikit-learn model answers.

    Args:
        content: The skops file's bytes.
        skops: How the model is fed.
        features: The features of a row, in order.
        kind: Of the model.
        package: The project's code, importable, whose classes and functions the model may hold too.

    Raises:
        ModelworksError: It holds types that its manifest does not name, or that no server loads.
    """
    import skops.io as files  # brings scikit-learn: a second and a hundred megabytes

    trusted = {name for name in skops.trusted if name in TRUSTED or is_of(package, name)}
    unknown = set(files.get_untrusted_types(data=content)) - trusted
    if unknown:
        raise ModelworksError(
            f"{skops.path} holds types that this server does not load: {', '.join(sorted(unknown))}",
            fix="Build the model from scikit-learn's own parts, or answer with a service of your own.",
        )
    model = files.loads(content, trusted=sorted(trusted))
    encode = (frame_encoder if skops.input == "frame" else matrix_encoder)(features, skops.columns)
    answer = answers_of(model, kind)
    return _each_alone(lambda rows: np.asarray(answer(encode(rows))), skops.together)


def own_engine(artifacts: Path, own: Own, features: Sequence[Feature], kind: Kind, package: str) -> Infer:
    """A function from rows to what the project's own code answers.

    Args:
        artifacts: Folder of the files that the code reads.
        own: How the model is loaded and fed.
        features: The features of a row, in order.
        kind: Of the model.
        package: The project's code, importable.

    Raises:
        ModelworksError: The code does not load the model.
    """
    loader = find(package, own.loader)
    try:
        answer = answers_of(loader(artifacts), kind)
    except Exception as error:
        raise ModelworksError(f"{own.loader} of the bundle: {type(error).__name__}: {error}") from error
    encode = (frame_encoder if own.input == "frame" else matrix_encoder)(features, own.columns)
    return _each_alone(lambda rows: np.asarray(answer(encode(rows))), own.together)


def answers_of(model: Any, kind: Kind) -> Callable[[Any], Any]:
    """The function of a model that answers: of an estimator its method, otherwise the function that it is.

    A function of a binary model may answer the probabilities of the positive class alone.

    Raises:
        ModelworksError: It has none.
    """
    name = "predict" if kind == "regression" else "predict_proba"
    answer: Callable[[Any], Any] = getattr(model, name, model)
    if not callable(answer):
        raise ModelworksError(f"{type(model).__name__} has no {name}, and is no function")
    return (lambda rows: _of_both_classes(answer(rows))) if kind == "binary" and answer is model else answer


def _of_both_classes(answer: Any) -> Any:
    """Probabilities of both classes, where a function answers those of the positive one: `[rows]` or `[rows, 1]`."""
    found = np.asarray(answer)
    if found.shape[1:] not in {(), (1,)}:
        return found
    positive = found.reshape(-1)
    return np.stack([1 - positive, positive], axis=1)


def _each_alone(infer: Infer, together: bool) -> Infer:
    """`infer`, called for one row at a time unless rows may be answered together."""
    return infer if together else lambda rows: np.concatenate([infer([row]) for row in rows])


def measure_cost(call: Callable[[int], object], first: int, most: int) -> Cost:
    """The cost of calls, from one row and from so many that their work doubles the call: of fewer, noise hides it.

    Args:
        call: Calls the model with so many rows.
        first: Rows to begin with.
        most: No call has more.
    """
    one, rows = fastest(partial(call, 1)), min(first, most)
    many = fastest(partial(call, rows))
    while many < 2 * one and rows * 10 <= most:
        rows *= 10
        many = fastest(partial(call, rows))
    row = max(0.0, many - one) / max(1, rows - 1)
    return Cost(call=max(0.0, one - row), row=row)


def fastest(call: Callable[[], object], times: int = 5) -> float:
    """Seconds of the fastest of a few calls; of fewer where they take long."""
    best, spent = math.inf, 0.0
    for _ in range(times):
        start = time.perf_counter()
        call()
        seconds = time.perf_counter() - start
        best, spent = min(best, seconds), spent + seconds
        if spent >= _ENOUGH_SECONDS:
            break
    return best

"""The answers of a model as arrays, and as JSON text that is ready to send."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from modelworks.runtime.manifest import Manifest, class_name


class Predictions(NamedTuple):
    """The answers for some rows, in order: one entry a row in each list. No protocol is in them."""

    values: list[float]
    """The score of the label or, with two classes, of the second one; the value of a regression."""
    labels: list[int]
    """Index of the class; 0 for a regression."""
    probabilities: Sequence[list[float]] = ()
    """Of each class, in the order of the manifest; only with more than two."""
    json: Sequence[bytes] = ()
    """The objects that a custom service returned, word for word, because they may hold more."""

    def part(self, start: int, end: int) -> Predictions:
        """The answers for the rows from `start` to before `end`."""
        values, labels, probabilities, json = self
        if not probabilities and not json:
            return Predictions(values[start:end], labels[start:end])
        return Predictions(values[start:end], labels[start:end], probabilities[start:end], json[start:end])

    def followed_by(self, rest: Predictions) -> Predictions:
        """The answers for these rows and those after them."""
        return Predictions(
            self.values + rest.values,
            self.labels + rest.labels,
            [*self.probabilities, *rest.probabilities],
            [*self.json, *rest.json],
        )


def json_encoder(manifest: Manifest) -> Callable[[Predictions], Sequence[bytes]]:
    """A function from predictions to one JSON object a row, as the manifest's schema of predictions has it."""
    labels = [msgspec.json.encode(label) for label in manifest.classes]
    if manifest.kind == "regression":

        def encode(predictions: Predictions) -> list[bytes]:
            return [b'{"value":%b}' % text for text in _texts(predictions.values)]

    elif manifest.kind == "binary":
        answers = [b'{"label":%b,"score":%%b}' % label.replace(b"%", b"%%") for label in labels]

        def encode(predictions: Predictions) -> list[bytes]:
            texts = _texts(predictions.values)
            return [answers[label] % text for label, text in zip(predictions.labels, texts, strict=True)]

    else:
        keys = [msgspec.json.encode(class_name(label)) for label in manifest.classes]

        def encode(predictions: Predictions) -> list[bytes]:
            texts = _texts(list(itertools.chain.from_iterable(predictions.probabilities)))
            rows = [texts[start : start + len(keys)] for start in range(0, len(texts), len(keys))]
            return [
                b'{"label":%b,"score":%b,"probabilities":{%b}}'
                % (labels[best], row[best], b",".join(b"%b:%b" % pair for pair in zip(keys, row, strict=True)))
                for best, row in zip(predictions.labels, rows, strict=True)
            ]

    return lambda predictions: predictions.json or encode(predictions)


def _texts(numbers: Sequence[float]) -> list[bytes]:
    """The shortest text of each finite number that reads back as the very same number."""
    return msgspec.json.encode(numbers)[1:-1].split(b",")

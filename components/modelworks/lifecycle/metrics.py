"""Truth and predictions over some rows, and the numbers that judge them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["binary", "multiclass", "regression"]
KINDS: tuple[Kind, ...] = get_args(Kind)

METRIC_NAME = re.compile("[A-Za-z0-9_][A-Za-z0-9_./: -]*")
"""Names of metrics that every MLflow server accepts."""
FLOOR = 1e-15
"""Probabilities are cut off here before a logarithm is taken."""


@dataclass(frozen=True)
class Outcome:
    """True values and predictions of the same rows."""

    kind: Kind
    truth: np.ndarray
    """Positions in `classes`, or values."""
    scores: np.ndarray
    """Probabilities, [rows, classes], or values, [rows]."""
    rows: pd.DataFrame
    """The rows as loaded, in the same order."""
    threshold: float = 0.5
    ranks: np.ndarray | None = None
    """Binary: rank of each row by its score, ties alike: see `ranked`."""

    @property
    def positive(self) -> np.ndarray:
        """Binary: the probability of the positive class."""
        return self.scores[:, 1]

    @property
    def labels(self) -> np.ndarray:
        """The answers: positions in `classes`, or the values themselves."""
        if self.kind == "binary":
            return (self.positive >= self.threshold).astype(np.int64)
        return self.scores.argmax(axis=1) if self.kind == "multiclass" else self.scores

    def take(self, index: np.ndarray) -> Outcome:
        """The outcome of some of the rows: a slice, or a bootstrap sample."""
        return self.resample(index, self.rows.iloc[index])

    def resample(self, index: np.ndarray | slice, rows: pd.DataFrame) -> Outcome:
        """The outcome of some of the rows, with a table that stands for them: picking rows of a table is what costs."""
        ranks = None if self.ranks is None else self.ranks[index]
        return Outcome(self.kind, self.truth[index], self.scores[index], rows, self.threshold, ranks)

    def split(self, start: int, stop: int, by_table: bool) -> tuple[Outcome, Outcome]:
        """The outcome of the rows from `start` to before `stop`, and of the others; with their tables if `by_table`."""

        def without(values: np.ndarray) -> np.ndarray:
            return np.concatenate([values[:start], values[stop:]])

        others = self.rows.iloc[without(np.arange(len(self.truth)))] if by_table else self.rows
        ranks = None if self.ranks is None else without(self.ranks)
        rest = replace(self, truth=without(self.truth), scores=without(self.scores), rows=others, ranks=ranks)
        return self.resample(slice(start, stop), self.rows.iloc[start:stop] if by_table else self.rows), rest

    def ranked(self) -> Outcome:
        """The same with its ranks, which its resamples then have too, so that ranking them costs next to nothing."""
        if self.kind != "binary":
            return self
        return replace(self, ranks=np.unique(self.positive, return_inverse=True)[1])


@dataclass(frozen=True)
class Metric:
    """One number that judges a model."""

    name: str
    function: Callable[[Outcome], float]
    """NaN where it is undefined: one class only, no positives."""
    kinds: tuple[Kind, ...]
    """Kinds of model that it comes with."""
    higher_is_better: bool = True
    signed: Callable[[Outcome], float] | None = None
    """Where the metric is the size of a difference: the difference. An interval of a size alone never holds 0."""


def _by_score(outcome: Outcome) -> tuple[np.ndarray, np.ndarray]:
    """Number of negative and of positive rows at each distinct score, lowest first."""
    ranks = outcome.ranks if outcome.ranks is not None else np.unique(outcome.positive, return_inverse=True)[1]
    truth, distinct = outcome.truth == 1, int(ranks.max()) + 1
    return np.bincount(ranks[~truth], minlength=distinct), np.bincount(ranks[truth], minlength=distinct)


def _auc(outcome: Outcome) -> float:
    # The rank statistic (Mann-Whitney): ties count half.
    negatives, positives = _by_score(outcome)
    pairs = int(negatives.sum()) * int(positives.sum())
    if not pairs:
        return float("nan")
    return float(np.sum(positives * (np.cumsum(negatives) - negatives / 2)) / pairs)


def _average_precision(outcome: Outcome) -> float:
    negatives, positives = _by_score(outcome)
    if not positives.any():
        return float("nan")
    positives, rows = positives[::-1], (negatives + positives)[::-1]
    met = rows > 0  # a resample lacks some of the scores
    positives, rows = positives[met], rows[met]
    hits = np.cumsum(positives)
    return float(np.sum(positives / hits[-1] * hits / np.cumsum(rows)))


def _share(part: np.ndarray, whole: np.ndarray) -> float:
    count = int(whole.sum())
    return float((part & whole).sum() / count) if count else float("nan")


def _accuracy(outcome: Outcome) -> float:
    return float(np.mean(outcome.labels == outcome.truth))


def _precision(outcome: Outcome) -> float:
    return _share(outcome.truth == 1, outcome.labels == 1)


def _recall(outcome: Outcome) -> float:
    return _share(outcome.labels == 1, outcome.truth == 1)


def _specificity(outcome: Outcome) -> float:
    return _share(outcome.labels == 0, outcome.truth == 0)


def _false_positive_rate(outcome: Outcome) -> float:
    return _share(outcome.labels == 1, outcome.truth == 0)


def _f1(outcome: Outcome) -> float:
    hits = int(((outcome.labels == 1) & (outcome.truth == 1)).sum())
    named = int((outcome.labels == 1).sum()) + int((outcome.truth == 1).sum())
    return 2 * hits / named if named else float("nan")


def _selection_rate(outcome: Outcome) -> float:
    return float(np.mean(outcome.labels == 1))


def _calibration(outcome: Outcome) -> float:
    # How far the mean probability is above the share that came true: predictions that mean what they say.
    return float(outcome.positive.mean() - np.mean(outcome.truth == 1))


def _calibration_gap(outcome: Outcome) -> float:
    return abs(_calibration(outcome))


def _brier(outcome: Outcome) -> float:
    return float(np.mean((outcome.positive - (outcome.truth == 1)) ** 2))


def _log_loss(outcome: Outcome) -> float:
    chosen = outcome.scores[np.arange(len(outcome.truth)), outcome.truth]
    return float(-np.mean(np.log(np.clip(chosen, FLOOR, 1))))


def _recalls(outcome: Outcome) -> np.ndarray:
    present = np.unique(outcome.truth)
    return np.array([np.mean(outcome.labels[outcome.truth == each] == each) for each in present])


def _balanced_accuracy(outcome: Outcome) -> float:
    return float(_recalls(outcome).mean())


def _macro_f1(outcome: Outcome) -> float:
    scores = []
    for each in np.union1d(outcome.truth, outcome.labels):  # a class that is only predicted counts, with 0
        true, named = outcome.truth == each, outcome.labels == each
        scores.append(2 * float((true & named).sum()) / float(true.sum() + named.sum()))
    return float(np.mean(scores))


def _mae(outcome: Outcome) -> float:
    return float(np.mean(np.abs(outcome.scores - outcome.truth)))


def _median_error(outcome: Outcome) -> float:
    return float(np.median(np.abs(outcome.scores - outcome.truth)))


def _rmse(outcome: Outcome) -> float:
    return float(np.sqrt(np.mean((outcome.scores - outcome.truth) ** 2)))


def _r2(outcome: Outcome) -> float:
    spread = float(np.sum((outcome.truth - outcome.truth.mean()) ** 2))
    return 1 - float(np.sum((outcome.scores - outcome.truth) ** 2)) / spread if spread else float("nan")


_TABLE = (
    Metric("auc", _auc, ("binary",)),
    Metric("average_precision", _average_precision, ("binary",)),
    Metric("accuracy", _accuracy, ("binary", "multiclass")),
    Metric("precision", _precision, ("binary",)),
    Metric("recall", _recall, ("binary",)),
    Metric("specificity", _specificity, ("binary",)),
    Metric("f1", _f1, ("binary",)),
    Metric("selection_rate", _selection_rate, ("binary",)),
    Metric("brier", _brier, ("binary",), higher_is_better=False),
    Metric("log_loss", _log_loss, ("binary", "multiclass"), higher_is_better=False),
    Metric("false_positive_rate", _false_positive_rate, ("binary",), higher_is_better=False),
    Metric("calibration_gap", _calibration_gap, ("binary",), higher_is_better=False, signed=_calibration),
    Metric("balanced_accuracy", _balanced_accuracy, ("multiclass",)),
    Metric("macro_f1", _macro_f1, ("multiclass",)),
    Metric("r2", _r2, ("regression",)),
    Metric("mae", _mae, ("regression",), higher_is_better=False),
    Metric("rmse", _rmse, ("regression",), higher_is_better=False),
    Metric("median_error", _median_error, ("regression",), higher_is_better=False),
)

METRICS: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in _TABLE})
"""Every metric, by its name."""


def metrics_of(kind: Kind) -> tuple[str, ...]:
    """Names of the metrics that come with a kind of model, in the order in which they are shown."""
    return tuple(metric.name for metric in _TABLE if kind in metric.kinds)

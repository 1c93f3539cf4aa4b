"""Truth and predictions over some rows, and the numbers that judge them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

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
        """The outcome of the rows at these positions."""
        return replace(self.numbers(index), rows=self.rows.iloc[index])

    def numbers(self, index: np.ndarray) -> Outcome:
        """The same without their table, which is what costs."""
        return replace(self, truth=self.truth[index], scores=self.scores[index], rows=self.rows.iloc[:0])


class Measured(NamedTuple):
    """A metric over some rows, and what its interval is made of."""

    value: float
    """NaN where it is undefined: one class only, no positives."""
    influence: np.ndarray
    """How far each row moves the value, as its derivative by the row's weight. They sum to 0."""
    counted: Iterable[np.ndarray]
    """Weights of the rows that the value rests on: for a recall those of the positive rows. Several where it rests on
    several kinds of rows, each of which must be there in numbers."""


UNDEFINED = Measured(float("nan"), np.zeros(0), ())

Scale = Literal["share", "loss", "difference"]
"""Values from 0 to 1; from 0 up; or any."""


@dataclass(frozen=True)
class Metric:
    """One number that judges a model."""

    name: str
    measure: Callable[[Outcome], Measured]
    kinds: tuple[Kind, ...]
    """Kinds of model that it comes with."""
    scale: Scale
    higher_is_better: bool = True
    of_labels: bool = False
    """Whether it looks at answers alone, not at scores."""
    size: bool = False
    """Whether the metric is the size of the measured value, which has a sign."""

    def function(self, outcome: Outcome) -> float:
        """The value; NaN where it is undefined: one class only, no positives."""
        value = self.measure(outcome).value
        return abs(value) if self.size else value


def _ratio(part: np.ndarray, whole: np.ndarray, *counted: np.ndarray) -> Measured:
    """The sum of one column over that of another, which is not negative."""
    total = float(whole.sum())
    if not total:
        return UNDEFINED
    value = float(part.sum() / total)
    return Measured(value, (part - value * whole) / total, counted or (whole,))


def _mean(values: np.ndarray, *counted: np.ndarray) -> Measured:
    return _ratio(values, np.ones(len(values)), *counted)


def _by_score(outcome: Outcome) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number of each row's distinct score, lowest first; number of negative and of positive rows at each of them."""
    ranks = np.unique(outcome.positive, return_inverse=True)[1]
    truth, distinct = outcome.truth == 1, int(ranks.max()) + 1
    return ranks, np.bincount(ranks[~truth], minlength=distinct), np.bincount(ranks[truth], minlength=distinct)


def _auc(outcome: Outcome) -> Measured:
    # The rank statistic (Mann-Whitney): ties count half. The influence of a row is its placement among the rows of the
    # other class: DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988); Obuchowski, Biometrics 53 (1997).
    ranks, negatives, positives = _by_score(outcome)
    count, others = int(positives.sum()), int(negatives.sum())
    if not count * others:
        return UNDEFINED
    below = (np.cumsum(negatives) - negatives / 2) / others
    above = 1 - (np.cumsum(positives) - positives / 2) / count
    value, truth = float(np.sum(positives * below) / count), outcome.truth == 1
    placed = np.where(truth, (below[ranks] - value) / count, (above[ranks] - value) / others)
    return Measured(value, placed, (truth, ~truth))


def _average_precision(outcome: Outcome) -> Measured:
    ranks, negatives, positives = _by_score(outcome)
    count = int(positives.sum())
    if not count:
        return UNDEFINED
    hits, named = (np.cumsum(each[::-1])[::-1] for each in (positives, negatives + positives))
    precision, truth = hits / named, outcome.truth == 1
    value = float(np.sum(positives * precision) / count)
    # A row counts in the precision at its own score and at all lower ones; without it, one row less is named there.
    others = np.maximum(named - 1, 1)
    added, diluted = np.cumsum(positives / others), np.cumsum(positives * precision / others)
    influence = truth * (precision[ranks] - value + added[ranks]) - diluted[ranks]
    return Measured(value, influence / count, (truth,))


def _share(part: np.ndarray, whole: np.ndarray) -> Measured:
    return _ratio((part & whole).astype("float64"), whole.astype("float64"))


def _accuracy(outcome: Outcome) -> Measured:
    return _mean((outcome.labels == outcome.truth).astype("float64"))


def _precision(outcome: Outcome) -> Measured:
    return _share(outcome.truth == 1, outcome.labels == 1)


def _recall(outcome: Outcome) -> Measured:
    return _share(outcome.labels == 1, outcome.truth == 1)


def _specificity(outcome: Outcome) -> Measured:
    return _share(outcome.labels == 0, outcome.truth == 0)


def _false_positive_rate(outcome: Outcome) -> Measured:
    return _share(outcome.labels == 1, outcome.truth == 0)


def _f1(outcome: Outcome) -> Measured:
    named, true = outcome.labels == 1, outcome.truth == 1
    return _ratio(2.0 * (named & true), named.astype("float64") + true, true)


def _selection_rate(outcome: Outcome) -> Measured:
    return _mean((outcome.labels == 1).astype("float64"))


def _calibration(outcome: Outcome) -> Measured:
    # How far the mean probability is above the share that came true: predictions that mean what they say.
    true = outcome.truth == 1
    return _mean(outcome.positive - true, *_present(true))


def _brier(outcome: Outcome) -> Measured:
    true = outcome.truth == 1
    return _mean((outcome.positive - true) ** 2, *_present(true))


def _present(true: np.ndarray) -> list[np.ndarray]:
    """The rows of each class that has any."""
    return [rows for rows in (true, ~true) if rows.any()]


def _log_loss(outcome: Outcome) -> Measured:
    chosen = outcome.scores[np.arange(len(outcome.truth)), outcome.truth]
    counted = _present(outcome.truth == 1) if outcome.kind == "binary" else []
    return _mean(-np.log(np.clip(chosen, FLOOR, 1)), *counted)


def _balanced_accuracy(outcome: Outcome) -> Measured:
    truth, right = outcome.truth, outcome.labels == outcome.truth
    rows = np.bincount(truth)
    recalls = np.bincount(truth, right) / np.maximum(rows, 1)
    present = np.nonzero(rows)[0]
    influence = (right - recalls[truth]) / rows[truth] / len(present)
    return Measured(float(recalls[present].mean()), influence, (truth == each for each in present))


def _macro_f1(outcome: Outcome) -> Measured:
    truth, labels = outcome.truth, outcome.labels
    right, classes = labels == truth, int(max(truth.max(), labels.max())) + 1
    counts = np.bincount(truth, minlength=classes) + np.bincount(labels, minlength=classes)
    scores = 2 * np.bincount(truth, right, classes) / np.maximum(counts, 1)
    present = np.nonzero(counts)[0]  # a class that is only predicted counts, with 0
    influence = (2 * right - scores[truth]) / counts[truth] - scores[labels] / counts[labels]
    counted = (truth == each for each in np.unique(truth))
    return Measured(float(scores[present].mean()), influence / len(present), counted)


def _mae(outcome: Outcome) -> Measured:
    return _mean(np.abs(outcome.scores - outcome.truth))


def _median_error(outcome: Outcome) -> Measured:
    # The density at the median is that between two order statistics (Siddiqui, Journal of Research of the National
    # Bureau of Standards 64B, 1960), which are those of a 95 % interval (Woodruff, JASA 47, 1952).
    errors = np.abs(outcome.scores - outcome.truth)
    if not len(errors):
        return UNDEFINED
    value, half = float(np.median(errors)), min(0.98 / np.sqrt(len(errors)), 0.5)
    low, high = np.quantile(errors, [0.5 - half, 0.5 + half])
    below = np.where(errors == value, 0.5, errors < value)
    return Measured(value, (below.mean() - below) / len(errors) * (high - low) / (2 * half), (np.ones(len(errors)),))


def _rmse(outcome: Outcome) -> Measured:
    mean = _mean((outcome.scores - outcome.truth) ** 2)
    value = float(np.sqrt(mean.value))
    return Measured(value, mean.influence / (2 * value) if value else mean.influence, mean.counted)


def _r2(outcome: Outcome) -> Measured:
    spread = (outcome.truth - outcome.truth.mean()) ** 2 if len(outcome.truth) else np.zeros(0)
    squares = (outcome.scores - outcome.truth) ** 2
    lost = _ratio(squares, spread, np.ones(len(squares)))
    return Measured(1 - lost.value, -lost.influence, lost.counted)


_TABLE = (
    Metric("auc", _auc, ("binary",), "share"),
    Metric("average_precision", _average_precision, ("binary",), "share"),
    Metric("accuracy", _accuracy, ("binary", "multiclass"), "share", of_labels=True),
    Metric("precision", _precision, ("binary",), "share", of_labels=True),
    Metric("recall", _recall, ("binary",), "share", of_labels=True),
    Metric("specificity", _specificity, ("binary",), "share", of_labels=True),
    Metric("f1", _f1, ("binary",), "share", of_labels=True),
    Metric("selection_rate", _selection_rate, ("binary",), "share", of_labels=True),
    Metric("brier", _brier, ("binary",), "loss", higher_is_better=False),
    Metric("log_loss", _log_loss, ("binary", "multiclass"), "loss", higher_is_better=False),
    Metric("false_positive_rate", _false_positive_rate, ("binary",), "share", higher_is_better=False, of_labels=True),
    Metric("calibration_gap", _calibration, ("binary",), "difference", higher_is_better=False, size=True),
    Metric("balanced_accuracy", _balanced_accuracy, ("multiclass",), "share", of_labels=True),
    Metric("macro_f1", _macro_f1, ("multiclass",), "share", of_labels=True),
    Metric("r2", _r2, ("regression",), "difference"),
    Metric("mae", _mae, ("regression",), "loss", higher_is_better=False),
    Metric("rmse", _rmse, ("regression",), "loss", higher_is_better=False),
    Metric("median_error", _median_error, ("regression",), "loss", higher_is_better=False),
)

METRICS: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in _TABLE})
"""Every metric, by its name."""


def metrics_of(kind: Kind) -> tuple[str, ...]:
    """Names of the metrics that come with a kind of model, in the order in which they are shown."""
    return tuple(metric.name for metric in _TABLE if kind in metric.kinds)

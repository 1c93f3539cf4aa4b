"""Truth and predictions over some rows, and the numbers that judge them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["binary", "multiclass", "regression"]
KINDS: tuple[Kind, ...] = get_args(Kind)

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
        """The outcome of some of the rows: a slice, or a bootstrap sample."""
        return Outcome(self.kind, self.truth[index], self.scores[index], self.rows.iloc[index], self.threshold)


@dataclass(frozen=True)
class Metric:
    """One number that judges a model."""

    name: str
    function: Callable[[Outcome], float]
    """NaN where it is undefined: one class only, no positives."""
    kinds: tuple[Kind, ...]
    """Kinds of model that it comes with."""
    higher_is_better: bool = True


def _auc(outcome: Outcome) -> float:
    # The rank statistic (Mann-Whitney): ties count half.
    truth, scores = outcome.truth == 1, outcome.positive
    positives = int(truth.sum())
    negatives = len(truth) - positives
    if not positives or not negatives:
        return float("nan")
    order = np.argsort(scores, kind="stable")  # linear where the rows already stand in order, as a bootstrap sees to
    ordered = scores[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    counts = np.diff(np.r_[starts, len(ordered)])
    ranks = np.empty(len(scores))
    ranks[order] = np.repeat(starts + (counts + 1) / 2, counts)
    return float((ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def _average_precision(outcome: Outcome) -> float:
    truth = outcome.truth == 1
    if not truth.any():
        return float("nan")
    order = np.argsort(-outcome.positive, kind="stable")
    scores, hits = outcome.positive[order], np.cumsum(truth[order])
    last = np.r_[np.nonzero(np.diff(scores))[0], len(scores) - 1]  # one threshold a distinct score
    recall = hits[last] / hits[-1]
    return float(np.sum(np.diff(np.r_[0.0, recall]) * hits[last] / (last + 1)))


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


def _calibration_gap(outcome: Outcome) -> float:
    # How far the mean probability is from the share that came true: predictions that mean what they say.
    return float(abs(outcome.positive.mean() - np.mean(outcome.truth == 1)))


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
    Metric("calibration_gap", _calibration_gap, ("binary",), higher_is_better=False),
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

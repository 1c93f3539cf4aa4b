"""How well one feature alone predicts the target: what a value that is computed from the target gives away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from modelworks.lifecycle.spec import ModelSpec
    from modelworks.lifecycle.spec_features import Feature

ROWS = 50_000
"""Rows looked at: an evenly spaced sample of more."""
TEXTS = 200
"""Text with more distinct values is not judged: with few rows each, they name the target by chance."""
RANKS = 2_000
"""Distinct numbers kept apart when classes are separated: beyond it neighbours tie, which costs at most 1 / 2,000."""
GROUPS = 200
"""Groups of neighbouring numbers whose targets are compared in a regression."""


def strength(spec: ModelSpec, feature: Feature, frame: pd.DataFrame) -> float | None:
    """How well a feature alone predicts the target, 0 to 1; None where that cannot be judged.

    Binary and multiclass: `separation`. Regression: `explained`.
    """
    sample = frame if len(frame) <= ROWS else frame.iloc[:: len(frame) // ROWS + 1]
    if spec.kind == "regression":
        truth = np.asarray(sample[spec.target], dtype="float64")
        known = np.isfinite(truth)
    else:
        position = {label: index for index, label in enumerate(spec.classes)}
        truth = sample[spec.target].map(position).to_numpy("float64", na_value=np.nan)
        known = np.isfinite(truth)
    column, truth = sample.loc[known, feature.name], truth[known]
    text = feature.type == "string"
    if not len(truth) or (text and column.nunique() > TEXTS):
        return None
    values = _positions(column, text=text)
    if spec.kind == "regression":
        return explained(values if text else _neighbours(values, min(GROUPS, len(values) // 10)), truth)
    return separation(
        values if text else _neighbours(values, RANKS), truth.astype(int), len(spec.classes), ordered=not text
    )


def separation(values: np.ndarray, truth: np.ndarray, classes: int, *, ordered: bool) -> float | None:
    """The chance that a feature separates two random rows of different classes; ties count half. None: one class.

    For two classes it is the AUC, whichever way the feature points. For more, it is the mean of the AUC of each pair of
    classes, weighted by the number of pairs of rows, so that a rare class decides little. Without the weights, that is
    the measure of Hand and Till (2001, "A simple generalisation of the area under the ROC curve for multiple class
    classification problems").

    Args:
        values: A number from 0 on for each row.
        truth: The class of each row, a number below `classes`.
        classes: How many there are.
        ordered: Whether the numbers have an order. If not, each pair of classes gets the best one.
    """
    counts = np.zeros((classes, int(values.max(initial=0)) + 1))
    np.add.at(counts, (truth, values), 1)
    counts = counts[counts.sum(axis=1) > 0]
    rows = counts.sum(axis=1)
    told, pairs = 0.0, 0.0
    for first in range(len(counts)):
        for second in range(first + 1, len(counts)):
            one, other = counts[first], counts[second]
            if not ordered:
                order = np.argsort(one / np.maximum(one + other, 1), kind="stable")
                one, other = one[order], other[order]
            below = float(np.sum(one * (np.cumsum(other) - other / 2)))
            both = float(rows[first] * rows[second])
            told, pairs = told + max(below, both - below), pairs + both
    return told / pairs if pairs else None


def explained(groups: np.ndarray, truth: np.ndarray) -> float | None:
    """The share of the variance of the target's ranks that a feature's groups explain; None with too few rows.

    The correlation ratio on ranks, as in the test of Kruskal and Wallis (1952), so that neither outliers nor the shape
    of the relation count; without the share that groups explain by chance (epsilon squared, Kelley 1935).

    Args:
        groups: A number from 0 on for each row.
        truth: The target of each row.
    """
    _, places, counts = np.unique(truth, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    spread = float(np.sum((ranks - ranks.mean()) ** 2))
    _, groups = np.unique(groups, return_inverse=True)
    sizes = np.bincount(groups)
    if not spread or len(truth) < 2 * len(sizes):
        return None
    means = np.bincount(groups, weights=ranks) / sizes
    within = float(np.sum((ranks - means[groups]) ** 2))
    return max(0.0, 1 - within / spread * (len(ranks) - 1) / (len(ranks) - len(sizes)))


def _positions(column: pd.Series[Any], *, text: bool) -> np.ndarray:
    """A number from 0 on for each row: the place of its value among all. A missing one is a value too, the first."""
    import pandas as pd  # only where rows are at hand

    if text:
        return np.asarray(pd.factorize(column)[0]) + 1
    values = column.to_numpy("float64", na_value=np.nan)
    finite = np.isfinite(values)
    found = np.zeros(len(values), dtype=int)
    found[finite] = np.unique(values[finite], return_inverse=True)[1] + 1
    return found


def _neighbours(values: np.ndarray, most: int) -> np.ndarray:
    """The same with at most about `most` different numbers: each holds as many rows as the next."""
    distinct, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    if len(distinct) <= most:
        return np.asarray(places)
    starts = np.cumsum(counts) - counts
    return np.asarray((starts * most // len(values))[places])

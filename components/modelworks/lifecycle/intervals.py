"""Confidence intervals of metrics: 95 %, by a bootstrap of whole clusters of rows.

Rows of one day, customer or machine resemble each other. An interval that counts them as independent is too narrow, so
that a spec names the columns of such clusters (`DataSource.cluster`), and whole clusters are resampled: Davison and
Hinkley, *Bootstrap Methods and Their Application* (1997), section 3.8; Cameron, Gelbach and Miller, *Bootstrap-Based
Improvements for Inference with Clustered Errors* (2008). Without columns, each row is a cluster of its own.

An interval is BCa (Efron, *Better Bootstrap Confidence Intervals*, 1987), with the quantiles expanded for few clusters
as by a t distribution (Hesterberg, The American Statistician 69(4), 2015). Intervals of several values
at once are simultaneous: each is studentized, and the largest of them all decides how wide they are (max-T; Romano and
Wolf, *Exact and Approximate Stepdown Methods for Multiple Hypothesis Testing*, 2005; Westfall and Young, 1993).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from scipy import stats

LEVEL = 0.95
RESAMPLES = 2000
JACKKNIFE_PARTS = 200
"""Most parts that are left out, one after the other, to measure how skewed a value is."""
FEWEST_CLUSTERS = 10
"""With fewer there is no interval: they show too little of how clusters differ."""
FEWEST_FINITE = 0.9
"""Share of resamples in which a value must be a number."""
NONE = (float("nan"), float("nan"))

Value = Callable[[np.ndarray], float]
"""A value of the rows at these positions; NaN where it is undefined. A row may come several times."""
Values = Callable[[np.ndarray], np.ndarray]
"""Several values of the rows at these positions."""


@dataclass(frozen=True)
class Clusters:
    """The rows that are resampled together."""

    of_rows: np.ndarray
    """Number of the cluster of each row, from 0."""
    columns: tuple[str, ...] = ()
    """Columns that make a cluster; none: each row is one."""

    @property
    def count(self) -> int:
        """Number of clusters."""
        return int(self.of_rows.max()) + 1 if len(self.of_rows) else 0

    def take(self, rows: np.ndarray) -> Clusters:
        """The clusters of some of the rows."""
        _, numbers = np.unique(self.of_rows[rows], return_inverse=True)
        return Clusters(numbers, self.columns)

    def __str__(self) -> str:
        """The assumption of an interval, in words."""
        if not self.columns:
            return f"{len(self.of_rows):,} rows, taken to be independent of each other"
        of = " and ".join(self.columns)
        return f"{self.count:,} clusters by {of} of {len(self.of_rows):,} rows, taken to be independent of each other"


def interval(value: Value, clusters: Clusters, seed: int) -> tuple[float, float]:
    """The BCa interval of a value of some rows; NaN twice where there is too little to decide by.

    Args:
        value: Of the rows.
        clusters: Of the same rows.
        seed: Of the resamples.
    """
    if clusters.count < FEWEST_CLUSTERS:
        return NONE
    estimate = value(np.arange(len(clusters.of_rows)))
    drawn = np.array([value(index) for index in _resamples(clusters, seed)])
    finite = drawn[np.isfinite(drawn)]
    if not np.isfinite(estimate) or len(finite) < FEWEST_FINITE * len(drawn):
        return NONE
    left_out = np.array([value(index) for index in _left_out(clusters, seed)])
    low, high = np.quantile(finite, _bca_levels(estimate, finite, left_out[np.isfinite(left_out)], clusters.count))
    return float(low), float(high)


def of_size(ends: tuple[float, float]) -> tuple[float, float]:
    """The interval of the size of a value, from that of the value."""
    small, large = sorted(map(abs, ends))
    return (0.0 if ends[0] <= 0 <= ends[1] else small), large


def simultaneous(values: Values, clusters: Clusters, counts: Sequence[int], seed: int) -> list[tuple[float, float]]:
    """Intervals that hold the truths of all values at once; NaN twice for a value with too little to decide by.

    Args:
        values: Of the rows.
        clusters: Of the same rows.
        counts: Number of clusters that each of the values is about.
        seed: Of the resamples.
    """
    estimates = values(np.arange(len(clusters.of_rows)))
    if clusters.count < FEWEST_CLUSTERS:
        return [NONE] * len(estimates)
    drawn = np.array([values(index) for index in _resamples(clusters, seed)])
    finite = np.isfinite(drawn)
    told = np.isfinite(estimates) & (finite.mean(axis=0) >= FEWEST_FINITE) & (np.array(counts) >= FEWEST_CLUSTERS)
    found = [NONE] * len(estimates)
    if not told.any():
        return found
    errors = np.nanstd(drawn[:, told], axis=0, ddof=1)
    away = np.abs(drawn[:, told] - estimates[told]) / np.where(errors > 0, errors, 1)
    level = NormalDist().cdf(float(np.quantile(np.nanmax(away, axis=1), LEVEL)))
    for at, error in zip(np.nonzero(told)[0], errors, strict=True):
        width = _t_quantile(level, counts[int(at)]) * error
        found[at] = (float(estimates[at] - width), float(estimates[at] + width))
    return found


# -- Resamples -------------------------------------------------------------------------------------------------------
def _resamples(clusters: Clusters, seed: int) -> Iterator[np.ndarray]:
    """Positions of the rows of as many clusters as there are, drawn with replacement; in order."""
    generator, count = np.random.default_rng(seed), clusters.count
    positions = np.arange(len(clusters.of_rows))
    for _number in range(RESAMPLES):
        times = np.bincount(generator.integers(0, count, count), minlength=count)
        yield np.repeat(positions, times[clusters.of_rows])


def _left_out(clusters: Clusters, seed: int) -> Iterator[np.ndarray]:
    """Positions of all rows but those of one cluster, or of one part of many clusters."""
    parts = min(JACKKNIFE_PARTS, clusters.count)
    part = np.random.default_rng(seed).permutation(clusters.count)[clusters.of_rows] % parts
    for number in range(parts):
        yield np.nonzero(part != number)[0]


def _bca_levels(estimate: float, drawn: np.ndarray, left_out: np.ndarray, count: int) -> np.ndarray:
    """The levels at which the resampled values are cut off."""
    normal, below = NormalDist(), float(np.mean((drawn < estimate) + (drawn == estimate) / 2))
    bias = normal.inv_cdf(min(max(below, 1 / len(drawn)), 1 - 1 / len(drawn)))
    from_mean = left_out.mean() - left_out if len(left_out) else np.zeros(1)
    spread = float(np.sum(from_mean**2))
    skew = float(np.sum(from_mean**3)) / (6 * spread**1.5) if spread > 0 else 0.0
    wide = NormalDist().inv_cdf((1 + LEVEL) / 2) * _expansion(count)
    levels = [_corrected(bias, skew, bias + side * wide) for side in (-1, 1)]
    return np.array([normal.cdf(each) for each in levels])


def _corrected(bias: float, skew: float, at: float) -> float:
    return bias + at / max(1 - skew * at, 1e-6)


def _expansion(count: int) -> float:
    """How much wider an interval is by the t distribution of so many clusters than the bootstrap's own."""
    level = (1 + LEVEL) / 2
    return _t_quantile(level, count) / NormalDist().inv_cdf(level)


def _t_quantile(level: float, count: int) -> float:
    # The bootstrap's own variance is that of the sample, divided by the count and not by one less.
    return float(stats.t.ppf(level, count - 1) * np.sqrt(count / (count - 1)))

"""Confidence intervals of metrics: 95 %, by leaving out one cluster of rows after the other.

Rows of one day, customer or machine resemble each other. An interval that counts them as independent is too narrow, so
that a spec names the columns of such clusters (`DataSource.cluster`), and what varies is the clusters. Without columns,
each row is a cluster of its own.

The variance of a metric is that of the jackknife over clusters (CV3; MacKinnon, Nielsen and Webb, *Cluster-robust
inference: a guide to empirical practice*, Journal of Econometrics 232(2), 2023), from the influence of each row, which
for an AUC is the estimate of DeLong (1988), and by clusters that of Obuchowski (1997). Nothing is drawn at random, so
that no seed decides a verdict. A metric of the spec's own has no known influence: its variance is that of 2,000
resamples of whole clusters (Davison and Hinkley, *Bootstrap Methods and Their Application*, 1997, section 3.8).

How wide an interval is depends on how much evidence there is: the effective number of clusters, (sum of sizes)^2 / sum
of squared sizes (Kish, *Survey Sampling*, 1965), of the rows that the metric rests on, such as the positive ones of a
recall. The quantile is of the t distribution with one degree of freedom less (Carter, Schnepel and Steigerwald, Review
of Economics and Statistics 99(4), 2017).

Shares (accuracy, AUC) have the interval of Wilson (1927) with the number of rows that would have the same variance
(Korn and Graubard, Survey Methodology 24(2), 1998; for an AUC: Kottas, Kuss and Zapf, BMC Medical Research Methodology
14, 2014); losses that of their logarithm. Differences between groups have that of MOVER (Zou and Donner, Statistics in
Medicine 27(10), 2008), and intervals of several groups hold at once: the largest of their errors decides how wide they
are (Hothorn, Bretz and Westfall, Biometrical Journal 50(3), 2008). `benchmarks/intervals.py` measures how often all of
them hold the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal

import numpy as np
from scipy import stats

from modelworks.lifecycle.metrics import Measured, Scale

LEVEL = 0.95
RESAMPLES = 2000
"""Of a metric of the spec's own: the ends of its interval vary by 1.6 % of its half width between seeds."""
FEWEST_CLUSTERS, FEWEST_OF_SHARE = 30, 8
"""With less evidence there is no interval: it shows too little of how clusters differ. A share cannot be far off in one
cluster; a loss can: of 33 effective clusters an interval holds a root mean square in 93 % of 600 trials, of fewer and
uneven ones in 88 %."""
FEWEST_ROWS = 20
"""With fewer rows of a kind, such as positive ones, there is none either: that of an AUC by ten holds it in 90 %."""
FEWEST_FINITE = 0.9
"""Share of resamples in which a value must be a number."""
DRAWS = 20_000
"""Of the largest error of several groups: the quantile has a Monte Carlo error of half a percent."""
MOST_DRAWN = 10_000_000
"""Numbers drawn, at most: of more than 500 groups, fewer errors."""
NONE = (float("nan"), float("nan"))

Ends = tuple[float, float]
Value = Callable[[np.ndarray], float]
"""A value of the rows at these positions; NaN where it is undefined. A row may come several times."""


@dataclass(frozen=True)
class Clusters:
    """The rows that vary together."""

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


@dataclass(frozen=True)
class Estimate:
    """A value, and how it varies."""

    value: float
    deviations: np.ndarray
    """How far each cluster (or each resample) moves it: their sum of squares is its variance, and the sum of products
    with those of another value is the covariance."""
    evidence: float
    """Effective number of clusters that it rests on."""
    rows: int
    """Number of rows that it rests on."""
    scale: Scale | Literal["size"]
    """A size is that of a value that has a sign."""

    @property
    def error(self) -> float:
        """Standard error."""
        return float(np.sqrt(np.sum(self.deviations**2)))

    @property
    def told(self) -> bool:
        """Whether there is enough to decide by."""
        fewest = FEWEST_OF_SHARE if self.scale == "share" else FEWEST_CLUSTERS
        return bool(np.isfinite(self.value)) and self.evidence >= fewest and self.rows >= FEWEST_ROWS

    def of_size(self) -> Estimate:
        """The size of the value."""
        return replace(self, value=abs(self.value), deviations=np.sign(self.value) * self.deviations, scale="size")


# -- Estimates -------------------------------------------------------------------------------------------------------
def jackknife(measured: Measured, clusters: Clusters, scale: Scale, rows: np.ndarray | None = None) -> Estimate:
    """The estimate of a metric.

    Args:
        measured: The metric over some rows.
        clusters: Of all rows.
        scale: Of the metric.
        rows: Positions of those that were measured. Default: all.
    """
    numbers = clusters.of_rows if rows is None else clusters.of_rows[rows]
    if not np.isfinite(measured.value):
        return Estimate(measured.value, np.zeros(clusters.count), 0.0, 0, scale)
    share, evidence, counted = _weigh(measured.counted, numbers, clusters.count)
    moved = np.bincount(numbers, measured.influence, clusters.count)
    # A value moves by more than a cluster's influence when the whole cluster is gone: all others then weigh more.
    moved = np.divide(moved, 1 - share, out=np.zeros_like(moved), where=share < 1)
    return Estimate(measured.value, moved * np.sqrt(max(evidence - 1, 0) / max(evidence, 1)), evidence, counted, scale)


def bootstrap(value: Value, clusters: Clusters, seed: int, rows: np.ndarray | None = None) -> Estimate:
    """The estimate of a value whose influences are not known.

    Args:
        value: Of the rows.
        clusters: Of all rows.
        seed: Of the resamples. Estimates with one seed have the same resamples, so that their covariance is known.
        rows: Positions of the rows that the value is of. Default: all.
    """
    of = np.arange(len(clusters.of_rows)) if rows is None else rows
    _, evidence, counted = _weigh([np.ones(len(of))], clusters.of_rows[of], clusters.count)
    estimate = value(of) if len(of) else np.nan
    if evidence < FEWEST_CLUSTERS or counted < FEWEST_ROWS or not np.isfinite(estimate):
        return Estimate(float(estimate), np.zeros(RESAMPLES), evidence, counted, "difference")
    among = np.isin(np.arange(len(clusters.of_rows)), of)
    picked = (index[among[index]] for index in _resamples(clusters, seed))
    drawn = np.array([value(index) if len(index) else np.nan for index in picked])
    finite = np.isfinite(drawn)
    if finite.mean() < FEWEST_FINITE:
        return Estimate(float("nan"), np.zeros(RESAMPLES), evidence, counted, "difference")
    # The variance of resamples is that of the clusters divided by their number, and not by one less.
    away = np.where(finite, drawn - drawn[finite].mean(), 0) / np.sqrt(finite.sum() * (1 - 1 / evidence))
    return Estimate(float(estimate), away, evidence, counted, "difference")


def _weigh(counted: Iterable[np.ndarray], numbers: np.ndarray, count: int) -> tuple[np.ndarray, float, int]:
    """The largest share of each cluster in what counts; the effective number of clusters; the number of rows."""
    share, evidence, rows = np.zeros(count), float("inf"), len(numbers)
    for each in counted:
        weights = np.bincount(numbers, each, count)
        weights = weights / max(weights.sum(), 1e-300)
        share = np.maximum(share, weights)
        evidence = min(evidence, 1 / max(float(np.sum(weights**2)), 1e-300))
        rows = min(rows, int(np.count_nonzero(each)))
    return share, round(evidence, 6) if rows else 0.0, rows


def _resamples(clusters: Clusters, seed: int) -> Iterator[np.ndarray]:
    """Positions of the rows of as many clusters as there are, drawn with replacement; in order."""
    generator, count = np.random.default_rng(seed), clusters.count
    positions = np.arange(len(clusters.of_rows))
    for _number in range(RESAMPLES):
        times = np.bincount(generator.integers(0, count, count), minlength=count)
        yield np.repeat(positions, times[clusters.of_rows])


def paired(one: Estimate, two: Estimate, *, of_labels: bool = False) -> Estimate:
    """How far a value is above another of the same rows.

    With `of_labels`, two rows on which the answers differ are added, one each way (Bonett and Price, British Journal of
    Mathematical and Statistical Psychology 65(3), 2012): that no answer differs among few rows proves little.
    """
    away = one.deviations - two.deviations
    rows = min(one.rows, two.rows)
    if of_labels:
        away = np.append(away, np.sqrt(2) / (rows + 2))
    return Estimate(one.value - two.value, away, min(one.evidence, two.evidence), rows, "difference")


# -- Intervals -------------------------------------------------------------------------------------------------------
def interval(estimate: Estimate, level: float = LEVEL) -> Ends:
    """The ends between which the truth is; NaN twice where there is too little to decide by."""
    if not estimate.told:
        return NONE
    quantile = float(stats.t.ppf((1 + level) / 2, estimate.evidence - 1))
    value, wide = estimate.value, quantile * estimate.error
    if estimate.scale == "share":
        return _wilson(value, estimate.error, quantile, estimate.evidence)
    if estimate.scale == "loss" and value > 0:
        times = float(np.exp(min(wide / value, 700)))
        return value / times, value * times
    low, high = value - wide, value + wide
    if estimate.scale == "size" and low < 0:
        return 0.0, max(-low, high)
    return low, high


def _wilson(value: float, error: float, quantile: float, evidence: float) -> Ends:
    if error > 0:
        rows = value * (1 - value) / error**2
    elif value in {0.0, 1.0}:
        rows = evidence  # how much rows of a cluster resemble each other is not seen: each cluster counts as one row
    else:
        return value, value
    shrunk, square = 1 + quantile**2 / rows, quantile**2
    middle = (value + square / (2 * rows)) / shrunk
    wide = quantile / shrunk * float(np.sqrt(value * (1 - value) / rows + square / (4 * rows**2)))
    return max(0.0, middle - wide), min(1.0, middle + wide)


def difference(one: Estimate, two: Estimate, level: float = LEVEL) -> Ends:
    """The interval of a value less another, from those of both."""
    return _between(one.value - two.value, (one.value, two.value), (interval(one, level), interval(two, level)),
                    _correlation(one.deviations, two.deviations))  # fmt: skip


def ratio(one: Estimate, two: Estimate, level: float = LEVEL) -> Ends:
    """The interval of a value divided by another, from those of both; NaN twice where one of them may be 0."""
    ends = [interval(each, level) for each in (one, two)]
    if not (one.value > 0 and two.value > 0 and min(low for low, _ in ends) > 0):
        return NONE
    logs = [(float(np.log(low)), float(np.log(high))) for low, high in ends]
    values = float(np.log(one.value)), float(np.log(two.value))
    low, high = _between(
        values[0] - values[1], values, (logs[0], logs[1]), _correlation(one.deviations, two.deviations)
    )
    return float(np.exp(low)), float(np.exp(high))


def _between(apart: float, values: tuple[float, float], ends: tuple[Ends, Ends], alike: float) -> Ends:
    def reach(one: float, two: float) -> float:
        return float(np.sqrt(max(one**2 - 2 * alike * one * two + two**2, 0)))

    (low, high), (other_low, other_high) = ends
    below = reach(values[0] - low, other_high - values[1])
    return apart - below, apart + reach(high - values[0], values[1] - other_low)


def _correlation(one: np.ndarray, two: np.ndarray) -> float:
    size = float(np.sqrt(np.sum(one**2) * np.sum(two**2)))
    return float(one @ two) / size if size else 0.0


def simultaneous(
    pairs: Sequence[tuple[Estimate, Estimate]], form: Callable[[Estimate, Estimate, float], Ends]
) -> list[Ends]:
    """Intervals that hold the truths of all pairs at once; NaN twice for a pair with too little to decide by.

    Args:
        pairs: Values to be compared, each with its other.
        form: `difference` or `ratio`.
    """
    told = [one.told and two.told for one, two in pairs]
    away = [_apart(*pair, logarithm=form is ratio) for pair, each in zip(pairs, told, strict=True) if each]
    level = _level(np.array([each for each in away if each.any()]))
    return [form(*pair, level) if each else NONE for pair, each in zip(pairs, told, strict=True)]


def _apart(one: Estimate, two: Estimate, *, logarithm: bool) -> np.ndarray:
    scales = (one.value or 1, two.value or 1) if logarithm else (1, 1)
    return np.asarray(one.deviations / scales[0] - two.deviations / scales[1])


def _level(away: np.ndarray) -> float:
    """The level of each interval at which all of them hold."""
    if len(away) < 2:
        return LEVEL
    away = away / np.sqrt(np.sum(away**2, axis=1, keepdims=True))
    variances, axes = np.linalg.eigh(away @ away.T)
    drawn = np.random.default_rng(0).standard_normal((min(DRAWS, MOST_DRAWN // len(away)), len(away)))
    errors = drawn @ (axes * np.sqrt(np.maximum(variances, 0))).T
    largest = float(np.quantile(np.abs(errors).max(axis=1), LEVEL))
    return 2 * NormalDist().cdf(largest) - 1

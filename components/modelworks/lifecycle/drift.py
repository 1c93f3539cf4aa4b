"""Drift: whether the features of some rows are distributed as in the stored baseline.

A feature has drifted when its population stability index (PSI) is above the feature's limit, and is also larger than
chance explains in samples of these sizes. The index alone is no evidence: between two samples of one distribution it
is about (bins - 1) * (1/n + 1/m), which with 100 rows is as large as its usual limits. The test alone is no evidence
of anything that matters: with a million rows the smallest change is significant.

Under the same distribution, PSI times n*m/(n+m) is asymptotically chi-square with bins - 1 degrees of freedom
(Yurdakul and Naranjo, *Statistical Properties of the Population Stability Index*, Journal of Risk Model Validation
14(4), 2020). Where a bin expects few rows, the index is instead compared with those of random permutations of the rows
of both samples. P-values are corrected for the number of features (Holm, *A Simple Sequentially Rejective Multiple
Test Procedure*, 1979), which holds for features that depend on each other, as they do.

Rows of one cluster (`DataSource.cluster`) resemble each other, so that counts vary more than those of independent rows.
They are divided by their design effect: how many times larger their variance is, averaged over the bins (Rao and Scott,
*The Analysis of Categorical Data from Complex Sample Surveys*, JASA 76, 1981; as counts, *A Simple Method for the
Analysis of Clustered Binary Data*, Biometrics 48, 1992). The index itself stays that of the rows. Pearson's statistic
of those counts has fewer degrees of freedom where clusters move bins together: their second-order correction, by
Satterthwaite. It has an F distribution, for a design effect is known no better than the number of clusters allows
(Thomas and Rao, *Small-Sample Comparisons of Level and Power for Simple Goodness-of-Fit Statistics under Cluster
Sampling*, JASA 82, 1987).

The baseline is taken to be another sample: where it is a part of the rows, the test finds less. `benchmarks/drift.py`
measures false findings and power.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import sparse, special

from modelworks._files import read_json
from modelworks.lifecycle.splits import cluster_numbers

if TYPE_CHECKING:
    import pandas as pd

    from modelworks.lifecycle.spec import ModelSpec
    from modelworks.lifecycle.spec_features import Feature

BINS = 10
"""Bins of numbers, by quantiles of the baseline: Siddiqi, *Credit Risk Scorecards* (2006)."""
STORED_NAMES = 500
"""Texts that a baseline counts, the most frequent first."""
MOST_NAMES, FEWEST_NAMED = 50, 10
"""Texts with a bin of their own: the most frequent in both samples together, of at least so many rows; all others share
one. Chosen by the baseline alone, texts would be rarer in every other sample, and small samples would always differ."""
SIGNIFICANCE = 0.05
"""Probability of any finding, over all features of a check, when nothing has drifted."""
FEWEST_EXPECTED = 50
"""With fewer rows expected in a bin, in either sample, the p-value is that of permutations: the logarithm in the index
makes its tail heavier than chi-square's: at 10 rows in each of 50 bins, 5 % become 10 %, at 40 rows 5.5 %."""
PERMUTATIONS = 9999
"""As many give p-values down to 0.0001: enough to find drift, after the correction, among up to 500 features."""
MOST_PERMUTED = 10**9
"""NumPy permutes fewer rows than this."""


@dataclass(frozen=True)
class Drift:
    """One feature against its baseline."""

    shift: float
    """Population stability index."""
    p_value: float
    """Probability of such an index, or a larger one, between samples of one distribution; not corrected."""


def profile(spec: ModelSpec, frame: pd.DataFrame) -> dict[str, Any]:
    """The distributions of the features: what a baseline file holds. Those of private ones stay out of it."""
    clusters = cluster_numbers(spec, frame)
    public = (feature for feature in spec.features if not feature.private)
    return {feature.name: profile_of(feature, frame[feature.name], clusters) for feature in public}


def read_baseline(spec: ModelSpec) -> dict[str, Any]:
    """The stored baseline of the model; empty when there is none."""
    file = spec.folder / spec.data.baseline
    found: dict[str, Any] = read_json(file) if file.is_file() else {}
    return found


def profile_of(feature: Feature, column: pd.Series[Any], clusters: np.ndarray | None = None) -> dict[str, Any]:
    """The bins of a column by itself, its rows in each, and their design effect.

    Args:
        feature: The feature.
        column: Its values.
        clusters: Number of the cluster of each row. Default: each row by itself.
    """
    if feature.type == "string":
        text = _text(column)
        named = text.value_counts().head(STORED_NAMES)
        found = {"names": named.index.tolist(), "counts": [*named.tolist(), len(column) - int(named.sum())]}
        bins = _numbered(text, named.index[:MOST_NAMES].tolist())
    else:
        values = column.to_numpy("float64", na_value=np.nan)
        finite = values[np.isfinite(values)]
        edges = np.unique(np.quantile(finite, np.linspace(0, 1, BINS + 1)[1:-1])) if len(finite) else np.array([0.0])
        bins = _binned(edges, values)
        found = {"edges": edges.tolist(), "counts": np.bincount(bins, minlength=len(edges) + 2).tolist()}
    return found | {"sampling": _sampling(bins, clusters)._asdict()}


def drift(
    stored: Mapping[str, Any], column: pd.Series[Any], seed: int, clusters: np.ndarray | None = None
) -> Drift | None:
    """A column against its stored profile; None when they cannot be compared.

    Args:
        stored: The feature's part of a baseline.
        column: Its values now.
        seed: Of the permutations.
        clusters: Number of the cluster of each row. Default: each row by itself.
    """
    if "counts" not in stored or not len(column):
        return None
    try:
        if "edges" in stored:
            edges = np.array(stored["edges"])
            before, bins = np.array(stored["counts"]), _binned(edges, column.to_numpy("float64", na_value=np.nan))
            now = np.bincount(bins, minlength=len(edges) + 2)
        else:
            before, now, bins = _by_names(stored, column)
        pooled = before + now
    except (TypeError, ValueError):  # values of another type, which the schema's finding names; bins of another number
        return None
    sampled = _sampling(bins, clusters)
    # A baseline that was kept before clusters were named is taken to be sampled as the rows are.
    there = Sampling(**stored["sampling"]) if "sampling" in stored else sampled
    return compare(before[pooled > 0], now[pooled > 0], seed, there, sampled)


class Sampling(NamedTuple):
    """How the rows of a sample were drawn."""

    clusters: int
    """Number of clusters; 0: each row by itself."""
    design_effect: float
    """How many times larger the variance of its shares is than that of as many independent rows; 1 or more."""
    spread: float
    """How unevenly over the directions in which shares may move: 1 plus the squared coefficient of variation."""


INDEPENDENT = Sampling(0, 1.0, 1.0)


def _sampling(bins: np.ndarray, clusters: np.ndarray | None) -> Sampling:
    """The design effects of the counts in some bins: their mean and their spread."""
    count = int(clusters.max()) + 1 if clusters is not None and len(clusters) else 0
    if clusters is None or count in {0, len(bins)}:
        return INDEPENDENT
    rows, sizes = len(bins), np.bincount(clusters, minlength=count).astype("float64")
    known, numbers, counts = np.unique(bins, return_inverse=True, return_counts=True)
    if len(known) < 2 or count < 2:
        return Sampling(count, rows / count, 1.0)
    table = sparse.csr_array((np.ones(rows), (clusters, numbers)), shape=(count, len(known)))
    share, together = counts / rows, table.T @ sizes
    # Sums over clusters of the products of what each bin has more than its share of the cluster.
    products = (table.T @ table).toarray() - np.outer(together, share) - np.outer(share, together)
    products += np.sum(sizes**2) * np.outer(share, share)
    effects = products * count / (count - 1) / rows / np.sqrt(np.outer(share, share))
    trace, free = float(np.trace(effects)), len(known) - 1
    spread = float(np.sum(effects**2)) * free / trace**2 if trace > 0 else 1.0
    return Sampling(count, max(1.0, trace / free), max(1.0, spread))


def compare(
    before: np.ndarray, now: np.ndarray, seed: int, there: Sampling = INDEPENDENT, here: Sampling = INDEPENDENT
) -> Drift:
    """Two samples by their rows in each bin, none of which is empty in both.

    Args:
        before: Rows of the baseline.
        now: Rows to compare.
        seed: Of the permutations.
        there: How the rows of the baseline were drawn.
        here: How the rows to compare were drawn.
    """
    shift = float(_index(before, now))
    if len(before) < 2:
        return Drift(shift, 1.0)
    if there.clusters or here.clusters:
        return Drift(shift, _of_clusters(before, now, there, here))
    rows, pooled = np.array([before.sum(), now.sum()]), before + now
    if pooled.min() * rows.min() >= FEWEST_EXPECTED * rows.sum() or rows.sum() >= MOST_PERMUTED:
        size = rows.prod(dtype=float) / rows.sum()
        return Drift(shift, float(special.chdtrc(len(before) - 1, shift * size)))
    draws = np.random.default_rng(seed).multivariate_hypergeometric(
        pooled, rows[1], size=PERMUTATIONS, method="marginals"
    )
    # Permutations that make the same table differ by rounding alone.
    as_large = int((_index(pooled - draws, draws) >= shift * (1 - 1e-9)).sum())
    return Drift(shift, (1 + as_large) / (1 + PERMUTATIONS))


def _of_clusters(before: np.ndarray, now: np.ndarray, there: Sampling, here: Sampling) -> float:
    """The p-value where rows come in clusters: of Pearson's statistic, which few rows in a bin distort least."""
    one, two = before / there.design_effect, now / here.design_effect
    expected = np.outer([one.sum(), two.sum()], (one + two) / (one.sum() + two.sum()))
    statistic = float(np.sum((np.array([one, two]) - expected) ** 2 / expected)) / (len(before) - 1)
    known = [each for each in (there, here) if each.clusters]
    free: float = (len(before) - 1) / max(known).spread
    return float(special.fdtrc(free, free * max(min(known).clusters - 1, 1), statistic))


def holm(p_values: Iterable[float]) -> list[float]:
    """P-values corrected for their number, in the same order."""
    given = np.array(list(p_values), dtype=float)
    order = np.argsort(given, kind="stable")
    corrected = np.empty_like(given)
    corrected[order] = np.maximum.accumulate(given[order] * np.arange(len(given), 0, -1))
    return [float(each) for each in np.minimum(corrected, 1)]


def _index(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Population stability index over the last axis; an empty bin counts as half a row, for it has no logarithm."""
    expected, actual = (np.maximum(each, 0.5) / each.sum(axis=-1, keepdims=True) for each in (before, now))
    return np.asarray(np.sum((actual - expected) * np.log(actual / expected), axis=-1))


def _by_names(stored: Mapping[str, Any], column: pd.Series[Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of both samples by text, and the bin of each row of the second."""
    *counted, uncounted = stored["counts"]
    before, text = dict(zip(stored["names"], counted, strict=True)), _text(column)
    now = text.value_counts().to_dict()
    # A text that the baseline does not name had no rows there, unless some were not counted by name.
    names = before if uncounted else {**before, **now}
    pooled = {name: before.get(name, 0) + now.get(name, 0) for name in sorted(names)}
    own = sorted((name for name in pooled if pooled[name] >= FEWEST_NAMED), key=lambda name: -pooled[name])[:MOST_NAMES]
    there, bins = [before.get(name, 0) for name in own], _numbered(text, own)
    return np.array([*there, sum(stored["counts"]) - sum(there)]), np.bincount(bins, minlength=len(own) + 1), bins


def _numbered(text: pd.Series[Any], names: Sequence[str]) -> np.ndarray:
    """Number of each text among some names; all others share the last."""
    numbers = text.map({name: number for number, name in enumerate(names)}).fillna(len(names))
    return np.asarray(numbers.to_numpy("int64"))


def _binned(edges: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Number of each value's bin between the edges or outside of them; the last is of missing values."""
    return np.asarray(np.where(np.isfinite(values), np.searchsorted(edges, values, side="right"), len(edges) + 1))


def _text(column: pd.Series[Any]) -> pd.Series[Any]:
    return column.astype(str).where(column.notna(), "")

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

Rows are taken to be independent, and the baseline to be another sample: where it is a part of the rows, the test finds
less. `benchmarks/drift.py` measures false findings and power.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from modelworks._files import read_json

if TYPE_CHECKING:
    import pandas as pd

    from modelworks.lifecycle.spec import Feature, ModelSpec

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
    return {feature.name: profile_of(feature, frame[feature.name]) for feature in spec.features if not feature.private}


def read_baseline(spec: ModelSpec) -> dict[str, Any]:
    """The stored baseline of the model; empty when there is none."""
    file = spec.folder / spec.data.baseline
    found: dict[str, Any] = read_json(file) if file.is_file() else {}
    return found


def profile_of(feature: Feature, column: pd.Series[Any]) -> dict[str, Any]:
    """The bins of a column by itself, and its rows in each."""
    if feature.type == "string":
        named = _text(column).value_counts().head(STORED_NAMES)
        return {"names": named.index.tolist(), "counts": [*named.tolist(), len(column) - int(named.sum())]}
    values = column.to_numpy("float64", na_value=np.nan)
    finite = values[np.isfinite(values)]
    edges = np.unique(np.quantile(finite, np.linspace(0, 1, BINS + 1)[1:-1])) if len(finite) else np.array([0.0])
    return {"edges": edges.tolist(), "counts": _histogram(edges, values).tolist()}


def drift(stored: Mapping[str, Any], column: pd.Series[Any], seed: int) -> Drift | None:
    """A column against its stored profile; None when they cannot be compared.

    Args:
        stored: The feature's part of a baseline.
        column: Its values now.
        seed: Of the permutations.
    """
    if "counts" not in stored or not len(column):
        return None
    try:
        before, now = _by_edges(stored, column) if "edges" in stored else _by_names(stored, column)
        pooled = before + now
    except (TypeError, ValueError):  # values of another type, which the schema's finding names; bins of another number
        return None
    return compare(before[pooled > 0], now[pooled > 0], seed)


def compare(before: np.ndarray, now: np.ndarray, seed: int) -> Drift:
    """Two samples by their rows in each bin, none of which is empty in both.

    Args:
        before: Rows of the baseline.
        now: Rows to compare.
        seed: Of the permutations.
    """
    shift = float(_index(before, now))
    if len(before) < 2:
        return Drift(shift, 1.0)
    rows, pooled = np.array([before.sum(), now.sum()]), before + now
    if pooled.min() * rows.min() >= FEWEST_EXPECTED * rows.sum() or rows.sum() >= MOST_PERMUTED:
        size = rows.prod(dtype=float) / rows.sum()
        return Drift(shift, float(stats.chi2.sf(shift * size, len(before) - 1)))
    draws = np.random.default_rng(seed).multivariate_hypergeometric(
        pooled, rows[1], size=PERMUTATIONS, method="marginals"
    )
    # Permutations that make the same table differ by rounding alone.
    as_large = int((_index(pooled - draws, draws) >= shift * (1 - 1e-9)).sum())
    return Drift(shift, (1 + as_large) / (1 + PERMUTATIONS))


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


def _by_edges(stored: Mapping[str, Any], column: pd.Series[Any]) -> tuple[np.ndarray, np.ndarray]:
    values = column.to_numpy("float64", na_value=np.nan)
    return np.array(stored["counts"]), _histogram(np.array(stored["edges"]), values)


def _by_names(stored: Mapping[str, Any], column: pd.Series[Any]) -> tuple[np.ndarray, np.ndarray]:
    *counted, uncounted = stored["counts"]
    before = dict(zip(stored["names"], counted, strict=True))
    now = _text(column).value_counts().to_dict()
    # A text that the baseline does not name had no rows there, unless some were not counted by name.
    names = before if uncounted else {**before, **now}
    pooled = {name: before.get(name, 0) + now.get(name, 0) for name in sorted(names)}
    own = sorted((name for name in pooled if pooled[name] >= FEWEST_NAMED), key=lambda name: -pooled[name])[:MOST_NAMES]
    there, here = ([counts.get(name, 0) for name in own] for counts in (before, now))
    return (
        np.array([*there, sum(stored["counts"]) - sum(there)]),
        np.array([*here, len(column) - sum(here)]),
    )


def _histogram(edges: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Rows between the edges, outside of them, and of missing values (the last)."""
    finite = np.isfinite(values)
    bins = np.bincount(np.searchsorted(edges, values[finite], side="right"), minlength=len(edges) + 1)
    return np.append(bins, (~finite).sum())


def _text(column: pd.Series[Any]) -> pd.Series[Any]:
    return column.astype(str).where(column.notna(), "")

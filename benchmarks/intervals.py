"""How often confidence intervals hold the truth: `python benchmarks/intervals.py [--trials 1000]`.

Each trial draws rows from a distribution whose truth is known, and counts whether the interval holds it. Nominal is
95 %; of a share of 1,000 trials, 95 % lie within 1.4 points of it. The trials are seeded, so that every run prints the
same table.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from modelworks.lifecycle.intervals import Clusters, interval, of_size, simultaneous
from modelworks.lifecycle.metrics import METRICS, Outcome

SEPARATION = 1.0
"""How far the mean score of a positive row is above that of a negative one, in standard deviations."""
GROUPS = 8


@dataclass(frozen=True)
class Drawn:
    """Rows of one trial."""

    outcome: Outcome
    clusters: Clusters


def draw(generator: np.random.Generator, clusters: int, rows: int, likeness: float) -> Drawn:
    """Rows in clusters.

    Args:
        generator: Draws them.
        clusters: Number of clusters; 0: independent rows.
        rows: Number of rows.
        likeness: Share of the variance of truths and scores that rows of a cluster have in common.
    """
    of_rows = np.sort(generator.integers(0, clusters, rows)) if clusters else np.arange(rows)
    common = generator.normal(size=(int(of_rows.max()) + 1, 2))[of_rows] * np.sqrt(likeness)
    own = generator.normal(size=(rows, 2)) * np.sqrt(1 - likeness)
    latent, noise = (common + own).T
    truth = (latent > 0).astype(int)
    positive = 1 / (1 + np.exp(-(noise + SEPARATION * latent)))
    frame = pd.DataFrame(index=range(rows))
    outcome = Outcome("binary", truth, np.column_stack([1 - positive, positive]), frame).ranked()
    _, numbers = np.unique(of_rows, return_inverse=True)
    return Drawn(outcome, Clusters(numbers, ("cluster",) if clusters else ()))


def truth_of(metric: str, likeness: float) -> float:
    """The value of a metric over very many rows, of as many clusters."""
    if metric == "calibration_gap":
        return 0.0  # by symmetry: half of the truths are positive, and a score and its complement are as likely
    return METRICS[metric].function(draw(np.random.default_rng(99), 0, 2_000_000, likeness).outcome)


def covers(metric: str, clusters: int, rows: int, likeness: float, trials: int) -> Iterator[bool]:
    """Whether the interval of a metric holds its truth, trial by trial."""
    stated, truth = METRICS[metric], truth_of(metric, likeness)
    function = stated.signed or stated.function
    for seed in range(trials):
        found = draw(np.random.default_rng([seed, clusters]), clusters, rows, likeness)

        def value(index: np.ndarray, outcome: Outcome = found.outcome) -> float:
            return function(outcome.resample(index, outcome.rows))

        ends = interval(value, found.clusters, seed)
        low, high = of_size(ends) if stated.signed else ends
        yield low <= truth <= high


def covers_gain(clusters: int, rows: int, likeness: float, trials: int) -> Iterator[bool]:
    """The same of the paired difference of two models that are equally good."""
    for seed in range(trials):
        generator = np.random.default_rng([seed, clusters, 1])
        found = draw(generator, clusters, rows, likeness)
        ours, noise = found.outcome, generator.normal(size=(2, rows)) * 0.5
        logit = np.log(ours.positive / (1 - ours.positive))
        models = [_scored(ours, logit + each) for each in noise]

        def gain(index: np.ndarray, models: list[Outcome] = models) -> float:
            one, two = (METRICS["auc"].function(each.resample(index, each.rows)) for each in models)
            return one - two

        low, high = interval(gain, found.clusters, seed)
        yield low <= 0 <= high


def covers_groups(clusters: int, rows: int, likeness: float, trials: int) -> Iterator[bool]:
    """Whether the intervals of all groups, which are equal, hold their difference of 0 from the rest at once."""
    for seed in range(trials):
        found = draw(np.random.default_rng([seed, clusters, 2]), clusters, rows, likeness)
        right = (found.outcome.labels == found.outcome.truth).astype(float)
        group = np.random.default_rng(seed).integers(0, GROUPS, rows)
        counts = [found.clusters.take(np.nonzero(group == number)[0]).count for number in range(GROUPS)]
        ends = simultaneous(_against_the_rest(right, group), found.clusters, counts, seed)
        yield all(low <= 0 <= high for low, high in ends)


def _against_the_rest(right: np.ndarray, group: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    def values(index: np.ndarray) -> np.ndarray:
        of, hits = group[index], right[index]
        count, sums = np.bincount(of, minlength=GROUPS), np.bincount(of, hits, minlength=GROUPS)
        differences: np.ndarray = sums / count - (hits.sum() - sums) / (len(index) - count)
        return differences

    return values


def _scored(outcome: Outcome, logit: np.ndarray) -> Outcome:
    positive = 1 / (1 + np.exp(-logit))
    return Outcome("binary", outcome.truth, np.column_stack([1 - positive, positive]), outcome.rows).ranked()


SHAPES = {
    "independent rows, 400": (0, 400, 0.0),
    "independent rows, 4,000": (0, 4000, 0.0),
    "60 clusters of about 30": (60, 1800, 0.3),
    "20 clusters of about 50": (20, 1000, 0.3),
}
METRICS_SHOWN = ("auc", "recall", "brier", "calibration_gap")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    trials = parser.parse_args().trials
    print("| rows | " + " | ".join(METRICS_SHOWN) + " | gain over a champion | 8 groups at once |")
    print("|---|" + "---|" * (len(METRICS_SHOWN) + 2))
    for name, (clusters, rows, likeness) in SHAPES.items():
        kinds = [covers(metric, clusters, rows, likeness, trials) for metric in METRICS_SHOWN]
        kinds += [covers_gain(clusters, rows, likeness, trials), covers_groups(clusters, rows, likeness, trials)]
        cells = [f"{np.mean(list(kind)):.1%}" for kind in kinds]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()

"""How often the drift check finds drift: `python benchmarks/drift.py [--trials 1000]`.

Each trial draws a baseline and rows, and calls the check's own functions on each of 20 independent features. Without
drift, the first columns are errors: of the test by itself, for one feature (nominal 5 %), and of the check, for any of
the features (nominal at most 5 %). `index alone` is the share of features whose index is above its limit, whatever the
number of rows. Power is the share of shifted features that the check finds. The trials are seeded, so that every run
prints the same tables.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from modelworks.lifecycle import Feature
from modelworks.lifecycle.drift import SIGNIFICANCE, Drift, drift, holm, profile_of
from modelworks.runtime.manifest import FeatureType

if TYPE_CHECKING:
    from collections.abc import Callable

    Draw = Callable[[np.random.Generator, int, float], pd.Series]

FEATURES = 20
BASELINE = 10_000
SIZES = (100, 300, 1_000, 10_000, 100_000)
SHIFTS = (0.2, 0.35, 0.5, 1.0)
"""In standard deviations of a normal feature: indices of about 0.04, 0.12, 0.25 and 1.0."""
LIKENESS = 0.3
CLUSTERED = (
    ((8, 50), (8, 50)),
    ((20, 50), (20, 50)),
    ((100, 100), (20, 50)),
    ((200, 5), (200, 5)),
    ((365, 100), (60, 100)),
)
"""Clusters of the baseline and of the rows, and rows of each."""
NAMES, SLOPE = np.array([f"text {number}" for number in range(200)]), 1.2
WEIGHTS = np.arange(1, len(NAMES) + 1) ** -SLOPE


def number(generator: np.random.Generator, rows: int, shift: float) -> pd.Series:
    """A normal feature."""
    return pd.Series(generator.normal(shift, 1, rows))


def text(generator: np.random.Generator, rows: int, shift: float) -> pd.Series:
    """A feature of 200 texts, most of them rare; a shift flattens their frequencies."""
    weights = WEIGHTS ** (1 - shift)
    return pd.Series(generator.choice(NAMES, rows, p=weights / weights.sum()))


def trial(draw: Draw, kind: FeatureType, baseline: int, rows: int, shift: float, seed: int) -> list[Drift]:
    """Each feature of one check."""
    generator = np.random.default_rng([seed, baseline, rows])
    feature = Feature(name="x", type=kind)
    found = []
    for _number in range(FEATURES):
        stored = profile_of(feature, draw(generator, baseline, 0.0))
        found.append(drift(stored, draw(generator, rows, shift), seed))
    return [each for each in found if each is not None]


def findings(found: list[Drift], limit: float) -> np.ndarray:
    """The features that the check reports."""
    chances = np.array(holm(each.p_value for each in found))
    return (np.array([each.shift for each in found]) > limit) & (chances < SIGNIFICANCE)


def errors(trials: int) -> None:
    """Print what is found without drift."""
    limit = Feature(name="x", type="number").max_shift
    print("| feature | baseline | rows | index alone | test alone | check, any of 20 |\n|---|---|---|---|---|---|")
    kinds: tuple[tuple[Draw, FeatureType], ...] = ((number, "number"), (text, "string"))
    for draw, kind in kinds:
        for baseline, rows in [*((BASELINE, size) for size in SIZES), (1_000, 1_000), (100, 100)]:
            count = max(10, trials // FEATURES // (10 if rows > 10_000 else 1))
            checks = [trial(draw, kind, baseline, rows, 0.0, seed) for seed in range(count)]
            each = [one for found in checks for one in found]
            alone = np.mean([one.shift > limit for one in each])
            test = np.mean([one.p_value < SIGNIFICANCE for one in each])
            # What the limit leaves of the test's errors is fewer still.
            of_any = np.mean([findings(found, 0.0).any() for found in checks])
            cells = (kind, f"{baseline:,}", f"{rows:,}", f"{alone:.1%}", f"{test:.1%}", f"{of_any:.1%}")
            print("| " + " | ".join(cells) + " |", flush=True)


def power(trials: int) -> None:
    """Print how much of a shift of all features is found."""
    limit = Feature(name="x", type="number").max_shift
    print("\n| rows | " + " | ".join(f"shift of {shift:g} sd" for shift in SHIFTS) + " |\n|---|" + "---|" * len(SHIFTS))
    for rows in SIZES[:-1]:
        cells = []
        for shift in SHIFTS:
            checks = [trial(number, "number", BASELINE, rows, shift, seed) for seed in range(max(5, trials // 200))]
            cells.append(f"{np.mean([findings(found, limit).mean() for found in checks]):.0%}")
        print(f"| {rows:,} | " + " | ".join(cells) + " |", flush=True)


def clustered(trials: int) -> None:
    """Print what is found without drift where rows come in clusters, by the test with and without them."""
    print(
        "\n| feature | baseline | rows | test by rows | test by clusters | shift of 1 sd found |\n"
        "|---|---|---|---|---|---|"
    )
    for kind in ("number", "string"):
        for baseline, rows in CLUSTERED:
            cells = [kind, *(f"{count:,} clusters of {size:,}" for count, size in (baseline, rows))]
            alone: list[bool] = []
            by_clusters: list[bool] = []
            found: list[bool] = []
            for seed in range(trials):
                generator = np.random.default_rng([seed, *baseline, *rows])
                there, here, moved = (in_clusters(generator, kind, *shape) for shape in (baseline, rows, (*rows, 1.0)))
                feature = Feature(name="x", type=kind)
                stored, plain = profile_of(feature, *there), profile_of(feature, there[0])
                for tested, of in (
                    (alone, drift(plain, here[0], seed)),
                    (by_clusters, drift(stored, here[0], seed, here[1])),
                    (found, drift(stored, moved[0], seed, moved[1])),
                ):
                    tested.append(of is not None and of.p_value < SIGNIFICANCE)
            cells += [f"{np.mean(each):.1%}" for each in (alone, by_clusters, found)]
            print("| " + " | ".join(cells) + " |", flush=True)


def in_clusters(
    generator: np.random.Generator, kind: str, count: int, size: int, shift: float = 0.0
) -> tuple[pd.Series, np.ndarray]:
    """A feature of rows in clusters, and the cluster of each: the likeness is LIKENESS of the variance."""
    clusters = np.repeat(np.arange(count), size)
    common, own = generator.normal(size=count)[clusters], generator.normal(size=len(clusters))
    values = shift + np.sqrt(LIKENESS) * common + np.sqrt(1 - LIKENESS) * own
    if kind == "string":
        return pd.Series(np.array(list("abcdefgh"))[np.digitize(values, np.linspace(-1.5, 1.5, 7))]), clusters
    return pd.Series(values), clusters


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000, help="features of each row of the first table")
    trials = parser.parse_args().trials
    errors(trials)
    power(trials)
    clustered(trials)


if __name__ == "__main__":
    main()

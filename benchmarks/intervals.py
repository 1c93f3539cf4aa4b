"""How often confidence intervals hold the truth: `python benchmarks/intervals.py [--trials 1000]`.

Each trial draws rows from a distribution whose truth is known, and counts whether the interval holds it, of the trials
in which there is one: their share is in brackets. Nominal is 95 %; a share of 1,000 trials has a Monte Carlo error (one
standard error) of 0.7 points, comparisons have a fifth of the trials and 1.5 points. The truth is the value over two
million rows. The trials are seeded, so that every run prints the same tables.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats

from modelworks.lifecycle.intervals import (
    Clusters,
    Estimate,
    bootstrap,
    difference,
    interval,
    jackknife,
    paired,
    ratio,
    simultaneous,
)
from modelworks.lifecycle.metrics import KINDS, METRICS, Kind, Outcome, metrics_of

GROUPS = 8
MANY = 2_000_000
CLASSES = 4


@dataclass(frozen=True)
class Shape:
    """The rows of one line of a table."""

    name: str
    kind: Kind
    rows: int
    clusters: int = 0
    """0: each row by itself."""
    likeness: float = 0.0
    """Share of the variance of truths and scores that rows of a cluster have in common."""
    share: float = 0.5
    """Binary: of positive rows. Regression: below 0.5, errors have heavy tails (t with 4 degrees of freedom)."""
    uneven: bool = False
    """Whether the sizes of clusters are spread as by a lognormal distribution."""


SHAPES = (
    Shape("100 rows", "binary", 100),
    Shape("400 rows", "binary", 400),
    Shape("400 rows, 10 % positive", "binary", 400, share=0.1),
    Shape("4,000 rows, 1 % positive", "binary", 4000, share=0.01),
    Shape("4,000 rows", "binary", 4000),
    Shape("20,000 rows", "binary", 20_000),
    Shape("10 clusters of 50", "binary", 500, 10, 0.3),
    Shape("15 clusters of 40, 30 % positive", "binary", 600, 15, 0.3, 0.3),
    Shape("30 clusters of 40, of uneven sizes", "binary", 1200, 30, 0.3, uneven=True),
    Shape("60 clusters of 30", "binary", 1800, 60, 0.3),
    Shape("60 clusters of 30, very alike", "binary", 1800, 60, 0.8, 0.3),
    Shape("60 clusters of 30, 5 % positive", "binary", 1800, 60, 0.1, 0.05),
    Shape("200 rows", "multiclass", 200),
    Shape("2,000 rows", "multiclass", 2000),
    Shape("45 clusters of 40", "multiclass", 1800, 45, 0.3),
    Shape("60 clusters of 30", "multiclass", 1800, 60, 0.3),
    Shape("100 rows", "regression", 100),
    Shape("400 rows, heavy tails", "regression", 400, share=0.1),
    Shape("4,000 rows", "regression", 4000),
    Shape("45 clusters of 40", "regression", 1800, 45, 0.3),
    Shape("60 clusters of 30", "regression", 1800, 60, 0.3),
    Shape("60 clusters of 30, heavy tails", "regression", 1800, 60, 0.3, 0.1),
)


def draw(generator: np.random.Generator, shape: Shape) -> tuple[Outcome, Clusters]:
    """Rows of a shape."""
    rows = shape.rows
    of_rows = np.arange(rows)
    if shape.clusters:
        sizes = generator.lognormal(0, 0.7, shape.clusters) if shape.uneven else np.ones(shape.clusters)
        of_rows = np.unique(generator.choice(shape.clusters, rows, p=sizes / sizes.sum()), return_inverse=True)[1]
    common = generator.normal(size=(int(of_rows.max()) + 1, 2))[of_rows] * np.sqrt(shape.likeness)
    own = generator.normal(size=(rows, 2)) * np.sqrt(1 - shape.likeness)
    latent, noise = (common + own).T
    frame = pd.DataFrame(index=range(rows))
    if shape.kind == "binary":
        cut = float(stats.norm.isf(shape.share))
        positive = 1 / (1 + np.exp(cut - latent - noise))
        return Outcome("binary", (latent > cut).astype(int), _pair(positive), frame), Clusters(of_rows)
    if shape.kind == "multiclass":
        truth = np.digitize(latent, stats.norm.ppf([0.2, 0.5, 0.9]))
        away = -((np.arange(CLASSES) - 1.5 - (latent + noise)[:, None]) ** 2)
        shares = np.exp(away - away.max(axis=1, keepdims=True))
        return Outcome("multiclass", truth, shares / shares.sum(axis=1, keepdims=True), frame), Clusters(of_rows)
    tails = 1 / np.sqrt(generator.chisquare(4, rows) / 4) if shape.share < 0.5 else 1.0
    return Outcome("regression", 2 * latent, 2 * latent + noise * tails, frame), Clusters(of_rows)


def _pair(positive: np.ndarray) -> np.ndarray:
    return np.column_stack([1 - positive, positive])


def truths(shape: Shape) -> dict[str, float]:
    """The value of each metric over very many independent rows."""
    many, _ = draw(np.random.default_rng(99), replace(shape, rows=MANY, clusters=0))
    found = {name: METRICS[name].function(many) for name in metrics_of(shape.kind)}
    # By symmetry, half of the rows are positive, and a score and its complement are as likely.
    return found | ({"calibration_gap": 0.0} if shape.kind == "binary" and shape.share == 0.5 else {})


def estimate(name: str, outcome: Outcome, clusters: Clusters, rows: np.ndarray | None = None) -> Estimate:
    """A metric as the gates have it."""
    metric = METRICS[name]
    part = outcome if rows is None else outcome.numbers(rows)
    found = jackknife(metric.measure(part), clusters, metric.scale, rows)
    return found.of_size() if metric.size else found


# -- What a trial counts: whether the truth is held; nothing where there is no interval ------------------------------
Held = dict[str, list[bool]]


def count_metrics(shape: Shape, trials: int) -> Held:
    """The metrics of all rows."""
    held: Held = {name: [] for name in metrics_of(shape.kind)}
    known = truths(shape)
    for outcome, clusters, _ in _trials(shape, trials):
        for name, of in held.items():
            _note(of, interval(estimate(name, outcome, clusters)), known[name])
    return held


def count_comparisons(shape: Shape, trials: int) -> Held:
    """Two models that are equally good, a slice, and eight groups that are treated alike."""
    columns = (
        "slice auc",
        "gain auc",
        "gain accuracy",
        "gain log_loss",
        "groups recall",
        "groups brier",
        "ratio recall",
    )
    held: Held = {name: [] for name in columns}
    known = truths(shape)["auc"]
    for outcome, clusters, generator in _trials(shape, trials):
        group = generator.integers(0, GROUPS, shape.rows)
        rows = np.nonzero(group < 2)[0]
        _note(held["slice auc"], interval(estimate("auc", outcome.numbers(rows), clusters.take(rows))), known)
        logit = np.log(outcome.positive / outcome.scores[:, 0])
        models = [
            replace(outcome, scores=_pair(1 / (1 + np.exp(-logit - 0.5 * generator.normal(size=shape.rows)))))
            for _number in range(2)
        ]
        for name in ("auc", "accuracy", "log_loss"):
            one, two = (estimate(name, model, clusters) for model in models)
            _note(held[f"gain {name}"], interval(paired(one, two, of_labels=METRICS[name].of_labels)), 0)
        for name, metric, form, equal in (
            ("groups recall", "recall", difference, 0.0),
            ("groups brier", "brier", difference, 0.0),
            ("ratio recall", "recall", ratio, 1.0),
        ):
            pairs = [
                (
                    estimate(metric, outcome, clusters, np.nonzero(group == number)[0]),
                    estimate(metric, outcome, clusters, np.nonzero(group != number)[0]),
                )
                for number in range(GROUPS)
            ]
            ends = np.array(simultaneous(pairs, form))
            if np.isfinite(ends).all():
                held[name].append(bool(((ends[:, 0] <= equal) & (equal <= ends[:, 1])).all()))
    return held


def count_own(shape: Shape, trials: int) -> Held:
    """Metrics of a spec's own, by resamples."""
    held: Held = {"auc": [], "median_error": [], "log_loss": []}
    held = {name: of for name, of in held.items() if name in metrics_of(shape.kind)}
    known = truths(shape)
    for outcome, clusters, _ in _trials(shape, trials):
        for name, of in held.items():
            function = METRICS[name].function

            def value(
                index: np.ndarray, outcome: Outcome = outcome, function: Callable[[Outcome], float] = function
            ) -> float:
                return function(outcome.numbers(index))

            _note(of, interval(bootstrap(value, clusters, 0)), known[name])
    return held


def _trials(shape: Shape, trials: int) -> Iterator[tuple[Outcome, Clusters, np.random.Generator]]:
    for seed in range(trials):
        generator = np.random.default_rng([seed, shape.rows, shape.clusters])
        yield *draw(generator, shape), generator


def _note(held: list[bool], ends: tuple[float, float], truth: float) -> None:
    if np.isfinite(ends).all():
        held.append(bool(ends[0] <= truth <= ends[1]))


def table(kind: Kind, count: Callable[[Shape, int], Held], trials: int, title: str, rows: range = range(MANY)) -> None:
    """Print a line a shape: the share that holds the truth, and in brackets that of trials with an interval."""
    print(f"\n{title}\n")
    begun = False
    for shape in SHAPES:
        if shape.kind != kind or shape.rows not in rows or (rows != range(MANY) and shape.share < 0.3):
            continue
        held = count(shape, trials)
        if not begun:
            begun = True
            print("| rows | " + " | ".join(held) + " |\n|---|" + "---|" * len(held))
        cells = [
            (f"{np.mean(of):.1%}" if len(of) >= trials / 10 else "-")
            + (f" ({len(of) / trials:.0%})" if len(of) < trials else "")
            for of in held.values()
        ]
        print(f"| {shape.name} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--own-trials", type=int, default=100, help="of a spec's own metrics, 2,000 resamples each")
    asked = parser.parse_args()
    for kind in KINDS:
        table(kind, count_metrics, asked.trials, f"Metrics of a {kind} model")
    table("binary", count_comparisons, asked.trials // 5, "Slices, gains and groups", range(400, 4001))
    for kind in KINDS:
        table(kind, count_own, asked.own_trials, f"Own metrics of a {kind} model, by resamples", range(401))


if __name__ == "__main__":
    main()

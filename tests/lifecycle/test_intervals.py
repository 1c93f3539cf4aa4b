"""Intervals hold the truth as often as they claim; `benchmarks/intervals.py` has the numbers of every metric."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from modelworks.lifecycle.intervals import (
    NONE,
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
from modelworks.lifecycle.metrics import METRICS, Outcome

TRIALS = 300
"""Of so many, an interval of 95 % holds the truth in 272 to 296, in 99.9 of 100 such tests. The seeds are fixed."""


def outcome_of(truth, positive):
    return Outcome("binary", truth, np.column_stack([1 - positive, positive]), pd.DataFrame(index=range(len(truth))))


def estimate(name, outcome, clusters, rows=None):
    return jackknife(METRICS[name].measure(outcome if rows is None else outcome.numbers(rows)), clusters,
                     METRICS[name].scale, rows)  # fmt: skip


def drawn(seed, clusters, rows, likeness):
    generator = np.random.default_rng([seed, clusters])
    of_rows = np.arange(rows) % clusters
    common = generator.normal(size=(clusters, 2))[of_rows]
    latent, noise = (np.sqrt(likeness) * common + np.sqrt(1 - likeness) * generator.normal(size=(rows, 2))).T
    return outcome_of((latent > 0).astype(int), 1 / (1 + np.exp(-latent - noise))), Clusters(of_rows)


AUC = METRICS["auc"].function(drawn(0, 1_000_000, 1_000_000, 0)[0])


@pytest.mark.parametrize(("clusters", "rows", "likeness"), [(200, 200, 0), (60, 600, 0.5), (12, 480, 0.3)])
@pytest.mark.parametrize(("name", "truth"), [("auc", AUC), ("selection_rate", 0.5)])
def test_an_interval_holds_the_truth_as_often_as_it_claims(clusters, rows, likeness, name, truth):
    ends = [interval(estimate(name, *drawn(seed, clusters, rows, likeness))) for seed in range(TRIALS)]
    told = [(low, high) for low, high in ends if np.isfinite(low)]
    assert len(told) > TRIALS / 2
    assert 0.91 < np.mean([low <= truth <= high for low, high in told]) < 0.99


def test_an_interval_that_counts_rows_of_one_cluster_as_independent_does_not():
    outcomes = (drawn(seed, 60, 600, 0.9)[0] for seed in range(TRIALS))
    ends = [interval(estimate("selection_rate", each, Clusters(np.arange(600)))) for each in outcomes]
    assert np.mean([low <= 0.5 <= high for low, high in ends]) < 0.7


def test_intervals_of_eight_equal_groups_hold_the_truth_at_once():
    held, group = 0, np.arange(1600) % 8
    for seed in range(100):
        outcome, clusters = drawn(seed, 1600, 1600, 0)
        pairs = [
            tuple(estimate("accuracy", outcome, clusters, np.nonzero(rows)[0]) for rows in (group == at, group != at))
            for at in range(8)
        ]
        held += all(low <= 0 <= high for low, high in simultaneous(pairs, difference))
    assert 86 <= held <= 100


def test_two_groups_are_one_comparison():
    outcome, clusters = drawn(0, 1600, 1600, 0)
    one, two = (estimate("accuracy", outcome, clusters, np.nonzero(np.arange(1600) % 2 == at)[0]) for at in (0, 1))
    for together, alone in zip(
        simultaneous([(one, two), (two, one)], difference), [(one, two), (two, one)], strict=True
    ):
        assert together == pytest.approx(difference(*alone), abs=0.001)


def test_no_seed_decides_an_interval_of_a_metric_that_comes_with_it():
    outcome, clusters = drawn(0, 60, 600, 0.3)
    assert interval(estimate("auc", outcome, clusters)) == interval(estimate("auc", outcome, clusters))


def test_a_seed_moves_the_interval_of_an_own_metric_by_little():
    values = np.random.default_rng(0).normal(size=100)
    ends = [
        interval(bootstrap(lambda index: float(values[index].mean()), Clusters(np.arange(100)), seed))
        for seed in (1, 1, 2, 3)
    ]
    assert ends[0] == ends[1] != ends[2]
    assert np.ptp([high for _, high in ends]) < 0.1 * np.diff(ends[0]) / 2


def test_resamples_give_the_interval_that_influences_give():
    outcome, clusters = drawn(1, 60, 1200, 0.3)
    known = estimate("log_loss", outcome, clusters)
    own = bootstrap(lambda index: METRICS["log_loss"].function(outcome.numbers(index)), clusters, 0)
    assert own.error == pytest.approx(known.error, rel=0.1)


@pytest.mark.parametrize(("count", "name"), [(0, "auc"), (1, "auc"), (7, "accuracy"), (39, "log_loss")])
def test_too_few_clusters_have_no_interval(count, name):
    outcome, _ = drawn(0, 100, 100, 0)
    clusters = Clusters(np.arange(100) % count if count else np.zeros(100, dtype=int))
    assert np.isnan(interval(estimate(name, outcome, clusters))).all()


def test_one_cluster_of_most_rows_is_no_evidence_beside_many_small_ones():
    outcome, _ = drawn(0, 1000, 1000, 0)
    found = estimate("accuracy", outcome, Clusters(np.maximum(np.arange(1000) - 900, 0)))
    assert found.evidence < 2
    assert np.isnan(interval(found)).all()


def test_few_rows_of_a_class_have_no_interval_and_other_metrics_have():
    truth = (np.arange(1000) < 19).astype(int)
    outcome = outcome_of(truth, np.random.default_rng(0).uniform(size=1000))
    rare = [name for name in METRICS if "binary" in METRICS[name].kinds
            and np.isnan(interval(estimate(name, outcome, Clusters(np.arange(1000)))))[0]]  # fmt: skip
    assert rare == ["auc", "average_precision", "recall", "f1", "brier", "log_loss", "calibration_gap"]


def test_what_never_varied_may_still_vary():
    outcome = outcome_of(np.arange(200) % 2, (np.arange(200) % 2).astype(float))
    low, high = interval(estimate("accuracy", outcome, Clusters(np.arange(200))))
    assert (low, high) == pytest.approx((200 / (200 + 1.972**2), 1), abs=1e-4)


def test_a_constant_prediction_ranks_nothing_for_certain():
    outcome = outcome_of(np.arange(200) % 2, np.full(200, 0.3))
    assert interval(estimate("auc", outcome, Clusters(np.arange(200)))) == (0.5, 0.5)


def test_a_value_that_most_resamples_lack_has_no_interval():
    rare = np.arange(100) == 7
    found = bootstrap(lambda index: 1.0 if rare[index].any() else np.nan, Clusters(np.arange(100)), 0)
    assert np.isnan(interval(found)).all()


def test_answers_that_never_differ_among_few_rows_may_differ():
    outcome, clusters = drawn(0, 100, 100, 0)
    same = estimate("accuracy", outcome, clusters)
    assert interval(paired(same, same)) == (0, 0)
    low, high = interval(paired(same, same, of_labels=True))
    assert low == -high == pytest.approx(-0.0275, abs=0.001)


@pytest.mark.parametrize(
    ("value", "size"), [(1.0, (0.0, 3.0)), (-1.0, (0.0, 3.0)), (-3.0, (1.0, 5.0)), (3.0, (1.0, 5.0))]
)
def test_the_interval_of_a_size_holds_zero_where_that_of_the_value_does(value, size):
    spread = np.full(1000, 2 / 1.9623 / np.sqrt(1000))
    found = interval(Estimate(value, spread, 1000, 1000, "difference").of_size())
    assert found == pytest.approx(size, abs=0.001)


def test_a_ratio_to_nothing_has_no_interval():
    some = Estimate(0.5, np.full(100, 0.01), 100, 100, "share")
    assert ratio(some, Estimate(0.0, np.zeros(100), 100, 100, "share")) == NONE

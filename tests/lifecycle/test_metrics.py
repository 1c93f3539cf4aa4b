"""Our metrics are scikit-learn's numbers, and NaN where scikit-learn has none."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from fairlearn.metrics import selection_rate
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import calibration, metrics

from modelworks.lifecycle.metrics import FLOOR, METRICS, Outcome, metrics_of

NAN = float("nan")


def outcome_of(kind, truth, scores):
    return Outcome(kind, np.array(truth), np.array(scores, dtype=float), pd.DataFrame(index=range(len(truth))))


def binary(pairs):
    return outcome_of("binary", [truth for truth, _ in pairs], [(1 - score, score) for _, score in pairs])


def multiclass(rows):
    return outcome_of("multiclass", [truth for truth, _ in rows], [np.divide(w, sum(w)) for _, w in rows])


def regression(pairs):
    return outcome_of("regression", [truth for truth, _ in pairs], [score for _, score in pairs])


def listed(*of):
    return st.lists(st.tuples(*of), min_size=2, max_size=100)


# Few distinct scores, so that there are ties, and none that is certain: there the logarithm has a floor of its own.
binaries = listed(st.integers(0, 1), st.sampled_from(np.linspace(0.05, 0.95, 19).tolist())).map(binary)
multiclasses = listed(st.integers(0, 2), st.tuples(*[st.integers(1, 9)] * 3)).map(multiclass)
values = st.integers(-1000, 1000).map(lambda tenths: tenths / 10)
regressions = listed(values, values).map(regression)


def calibration_gap(outcome):
    [came_true], [said] = calibration.calibration_curve(outcome.truth, outcome.positive, n_bins=1)
    return abs(came_true - said)


BINARY = {
    "auc": lambda o: metrics.roc_auc_score(o.truth, o.positive),
    "average_precision": lambda o: metrics.average_precision_score(o.truth, o.positive),
    "accuracy": lambda o: metrics.accuracy_score(o.truth, o.labels),
    "precision": lambda o: metrics.precision_score(o.truth, o.labels, zero_division=NAN),
    "recall": lambda o: metrics.recall_score(o.truth, o.labels),
    "specificity": lambda o: metrics.recall_score(o.truth, o.labels, pos_label=0),
    "false_positive_rate": lambda o: 1 - metrics.recall_score(o.truth, o.labels, pos_label=0),
    "f1": lambda o: metrics.f1_score(o.truth, o.labels),
    "selection_rate": lambda o: selection_rate(o.truth, o.labels),
    "calibration_gap": calibration_gap,
    "brier": lambda o: metrics.brier_score_loss(o.truth, o.positive),
    "log_loss": lambda o: metrics.log_loss(o.truth, o.scores, labels=[0, 1]),
}
MULTICLASS = {
    "accuracy": lambda o: metrics.accuracy_score(o.truth, o.labels),
    "balanced_accuracy": lambda o: metrics.recall_score(
        o.truth, o.labels, average="macro", labels=np.unique(o.truth), zero_division=NAN
    ),
    "macro_f1": lambda o: metrics.f1_score(o.truth, o.labels, average="macro"),
    "log_loss": lambda o: metrics.log_loss(o.truth, o.scores, labels=[0, 1, 2]),
}
REGRESSION = {
    "mae": lambda o: metrics.mean_absolute_error(o.truth, o.scores),
    "median_error": lambda o: metrics.median_absolute_error(o.truth, o.scores),
    "rmse": lambda o: metrics.root_mean_squared_error(o.truth, o.scores),
    "r2": lambda o: metrics.r2_score(o.truth, o.scores),
}


@pytest.mark.parametrize(
    ("kind", "references"), [("binary", BINARY), ("multiclass", MULTICLASS), ("regression", REGRESSION)]
)
def test_every_metric_that_a_spec_may_name_is_compared(kind, references):
    assert set(references) == set(metrics_of(kind))


@pytest.mark.parametrize("name", BINARY)
@settings(max_examples=50, deadline=None)
@given(outcome=binaries.filter(lambda outcome: len(set(outcome.truth)) == 2))
def test_metrics_of_a_binary_model_are_those_of_scikit_learn(name, outcome):
    assert METRICS[name].function(outcome) == pytest.approx(BINARY[name](outcome), nan_ok=True)


@pytest.mark.parametrize("name", MULTICLASS)
@settings(max_examples=50, deadline=None)
@given(outcome=multiclasses)
def test_metrics_of_a_multiclass_model_are_those_of_scikit_learn(name, outcome):
    assert METRICS[name].function(outcome) == pytest.approx(MULTICLASS[name](outcome))


@pytest.mark.parametrize("name", REGRESSION)
@settings(max_examples=50, deadline=None)
@given(outcome=regressions.filter(lambda outcome: len(set(outcome.truth)) > 1))
def test_metrics_of_a_regression_are_those_of_scikit_learn(name, outcome):
    assert METRICS[name].function(outcome) == pytest.approx(REGRESSION[name](outcome))


@pytest.mark.parametrize("name", METRICS)
def test_the_influence_of_rows_is_the_change_that_their_absence_makes(name):
    metric, generator = METRICS[name], np.random.default_rng(0)
    outcome = drawn(metric.kinds[-1], generator, 3000)
    measured, part = metric.measure(outcome), generator.permutation(3000) % 30
    without = [metric.measure(outcome.numbers(np.nonzero(part != number)[0])).value for number in range(30)]
    moved = np.bincount(part, measured.influence, 30)
    assert np.corrcoef(moved, measured.value - np.array(without))[0, 1] > (0.9 if name == "median_error" else 0.995)
    assert moved.std() == pytest.approx(np.std(without), rel=0.5 if name == "median_error" else 0.06)


def drawn(kind, generator, rows):
    truth = generator.normal(size=rows)
    scores = truth + generator.normal(size=rows)
    if kind == "multiclass":
        truth = np.digitize(truth, [-1, 0.5])
        scores = generator.dirichlet([1, 1, 1], rows) + np.eye(3)[truth] * 0.5
        scores /= scores.sum(axis=1, keepdims=True)
    if kind == "binary":
        truth, positive = (truth > 0.5).astype(int), 1 / (1 + np.exp(-scores))
        scores = np.column_stack([1 - positive, positive])
    return Outcome(kind, truth, scores, pd.DataFrame(index=range(rows)))


def test_the_threshold_of_an_outcome_decides_its_labels():
    outcome = outcome_of("binary", [0, 1, 1], [(0.8, 0.2), (0.7, 0.3), (0.1, 0.9)])
    low = Outcome("binary", outcome.truth, outcome.scores, outcome.rows, threshold=0.3)
    assert (outcome.labels.tolist(), low.labels.tolist()) == ([0, 0, 1], [0, 1, 1])


@pytest.mark.parametrize(
    ("name", "pairs"),
    [
        ("auc", [(1, 0.2), (1, 0.9)]),
        ("auc", [(0, 0.2), (0, 0.9)]),
        ("average_precision", [(0, 0.2), (0, 0.9)]),
        ("precision", [(1, 0.2), (0, 0.3)]),
        ("recall", [(0, 0.2), (0, 0.9)]),
        ("specificity", [(1, 0.2), (1, 0.9)]),
        ("false_positive_rate", [(1, 0.2), (1, 0.9)]),
        ("f1", [(0, 0.2), (0, 0.3)]),
    ],
)
def test_what_rows_of_one_class_cannot_say_is_no_number(name, pairs):
    assert np.isnan(METRICS[name].function(binary(pairs)))


def test_a_target_that_never_changes_has_no_r2():
    assert np.isnan(METRICS["r2"].function(regression([(1.0, 1.0), (1.0, 2.0)])))


def test_a_certain_mistake_costs_much_but_not_everything():
    assert METRICS["log_loss"].function(binary([(1, 0.0)])) == pytest.approx(-np.log(FLOOR))

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


@settings(max_examples=50, deadline=None)
@given(outcome=binaries, seed=st.integers(0, 99))
def test_a_resample_that_is_ranked_before_has_the_same_numbers(outcome, seed):
    index = np.random.default_rng(seed).integers(0, len(outcome.truth), len(outcome.truth))
    ranked, plain = outcome.ranked().take(index), outcome.take(index)
    for name in ("auc", "average_precision"):
        assert METRICS[name].function(ranked) == pytest.approx(METRICS[name].function(plain), nan_ok=True)


@given(outcome=st.one_of(binaries, multiclasses, regressions), ends=st.tuples(*[st.integers(0, 100)] * 2), table=...)
def test_a_split_outcome_has_each_row_in_one_part(outcome, ends, table: bool):
    start, stop = sorted(min(end, len(outcome.truth)) for end in ends)
    positions = np.arange(len(outcome.truth))
    inside = (positions >= start) & (positions < stop)
    for whole in (outcome, outcome.ranked()):
        for part, rows in zip(whole.split(start, stop, table), (positions[inside], positions[~inside]), strict=True):
            expected = whole.take(rows)
            for name in ("truth", "scores", "ranks"):
                np.testing.assert_array_equal(getattr(part, name), getattr(expected, name))
            assert list(part.rows.index) == list((expected if table else whole).rows.index)


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

"""Our metrics are scikit-learn's numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from modelworks.lifecycle.metrics import METRICS, Outcome

rows = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 20)), min_size=2, max_size=200)


def binary(pairs):
    truth, scores = np.array([t for t, _ in pairs]), np.array([s / 20 for _, s in pairs])
    return Outcome("binary", truth, np.column_stack([1 - scores, scores]), pd.DataFrame(index=range(len(pairs))))


@settings(max_examples=100, deadline=None)
@given(rows.filter(lambda pairs: len({t for t, _ in pairs}) == 2))
def test_ranking_metrics_are_those_of_scikit_learn_ties_included(pairs):
    outcome = binary(pairs)
    assert METRICS["auc"].function(outcome) == pytest.approx(metrics.roc_auc_score(outcome.truth, outcome.positive))
    assert METRICS["average_precision"].function(outcome) == pytest.approx(
        metrics.average_precision_score(outcome.truth, outcome.positive)
    )


@settings(max_examples=50, deadline=None)
@given(rows.filter(lambda pairs: len({t for t, _ in pairs}) == 2))
def test_label_metrics_are_those_of_scikit_learn(pairs):
    outcome = binary(pairs)
    assert METRICS["recall"].function(outcome) == pytest.approx(metrics.recall_score(outcome.truth, outcome.labels))
    assert METRICS["brier"].function(outcome) == pytest.approx(
        metrics.brier_score_loss(outcome.truth, outcome.positive)
    )
    assert METRICS["accuracy"].function(outcome) == pytest.approx(metrics.accuracy_score(outcome.truth, outcome.labels))


def test_one_class_has_no_auc():
    assert np.isnan(METRICS["auc"].function(binary([(1, 3), (1, 4)])))

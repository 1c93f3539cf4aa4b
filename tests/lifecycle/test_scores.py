"""Metrics of a project's own, and the groups that metrics are computed for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lifecycle.test_metrics import regression
from lifecycle.test_splits import spec_of
from modelworks.errors import ModelworksError
from modelworks.lifecycle.metrics import METRICS, metrics_of
from modelworks.lifecycle.scores import all_metrics, group_names, metric_of
from modelworks.lifecycle.spec_data import Split

OUTCOME = regression([(1, 2), (3, 3), (5, 1)])
SPEC = spec_of(Split())
OWN = replace(SPEC, evaluate=lambda outcome: {"worst": np.max(np.abs(outcome.truth - outcome.scores))})


def test_a_metric_of_its_own_is_computed_of_the_outcome():
    assert metric_of(OWN, "worst")(OUTCOME) == 4.0
    assert metric_of(OWN, "mae")(OUTCOME) == METRICS["mae"].function(OUTCOME)


def test_a_metric_that_evaluate_does_not_return_is_named_with_those_that_it_does():
    with pytest.raises(ModelworksError) as refused:
        metric_of(OWN, "best")(OUTCOME)
    assert refused.value.message == (
        "model.py:1: 'best' is neither a metric of a regression model nor one of evaluate: ['worst']"
    )


@pytest.mark.parametrize("spec", [SPEC, OWN], ids=["without evaluate", "with it"])
def test_all_metrics_are_those_of_the_kind_and_its_own(spec):
    found = all_metrics(spec, OUTCOME)
    assert found == {name: METRICS[name].function(OUTCOME) for name in metrics_of("regression")} | (
        {"worst": 4.0} if spec is OWN else {}
    )
    assert {type(value) for value in found.values()} == {float}


def test_a_name_that_no_metric_may_have_is_refused_and_the_others_are_not():
    spec = replace(SPEC, evaluate=lambda _: {"top 3": 1.0, "recall@10": 1.0, "a,b": 2.0})
    with pytest.raises(ModelworksError) as refused:
        all_metrics(spec, OUTCOME)
    assert refused.value.message == (
        "model.py:1: evaluate returns 'a,b', 'recall@10'; a metric's name is letters, digits and any of _-./: and blank"
    )
    assert refused.value.fix == "Give it another name, such as recall_at_10."


COLUMN = pd.Series(["a"] * 3 + ["b"] * 2 + ["c"] + [None], dtype=object)


def test_a_group_is_small_below_the_least_number_of_rows():
    names, small = group_names(COLUMN, 3, pool=False)
    assert names.tolist() == ["a", "a", "a", "b", "b", "c", "missing"]
    assert small == {"b": 2, "c": 1, "missing": 1}


@pytest.mark.parametrize(("least", "still"), [(3, {}), (4, {}), (8, {"other (a, b, c, missing)": 7})])
def test_small_groups_together_may_be_large_enough(least, still):
    names, small = group_names(COLUMN, least, pool=True)
    together = "other (b, c, missing)" if least == 3 else "other (a, b, c, missing)"
    assert set(names) == ({"a", together} if least == 3 else {together})
    assert (names == together).sum() == (4 if least == 3 else 7)
    assert small == still


def test_groups_of_numbers_are_told_apart_by_every_digit():
    names, _ = group_names(pd.Series([0.1, 0.10000000000000002, 1e22, float("nan")]), 0, pool=False)
    assert names.tolist() == ["0.1", "0.10000000000000002", "10000000000000000000000", "missing"]

"""Drift is told from chance: false findings, power, and the correction for many features."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from modelworks.errors import ModelworksError
from modelworks.lifecycle import Feature
from modelworks.lifecycle.drift import SIGNIFICANCE, compare, drift, holm, profile_of

NUMBER, TEXT = Feature(name="x", type="number"), Feature(name="x", type="string")
counts = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)).filter(any), min_size=2, max_size=12).filter(
    lambda bins: all(map(any, zip(*bins, strict=True)))
)


def numbers(generator, rows):
    return pd.Series(generator.normal(size=rows))


def texts(generator, rows):
    return pd.Series(generator.zipf(1.5, rows).clip(max=300)).astype(str)


def found(feature, draw, rows, seed):
    generator = np.random.default_rng([seed, rows])
    return drift(profile_of(feature, draw(generator, rows)), draw(generator, rows), seed)


@pytest.mark.parametrize("rows", [100, 1000])
@pytest.mark.parametrize(("feature", "draw"), [(NUMBER, numbers), (TEXT, texts)])
def test_the_same_distribution_is_found_to_differ_as_often_as_stated(feature, draw, rows):
    errors = sum(found(feature, draw, rows, seed).p_value < SIGNIFICANCE for seed in range(100))
    assert stats.binomtest(errors, 100, SIGNIFICANCE, alternative="greater").pvalue > 0.001


@settings(max_examples=30, deadline=None)
@given(bins=counts)
def test_a_sample_is_compared_the_same_either_way(bins):
    before, now = map(np.array, zip(*bins, strict=True))
    there, back = compare(before, now, 0), compare(now, before, 0)
    assert there.shift == pytest.approx(back.shift)
    assert there.p_value == pytest.approx(back.p_value, abs=0.03)


def test_bins_with_many_rows_are_compared_by_the_chi_square_distribution():
    before, now = np.array([500, 500]), np.array([530, 470])
    found = compare(before, now, 0)
    assert found.p_value == pytest.approx(stats.chi2_contingency([before, now], correction=False).pvalue, rel=0.01)


def test_bins_with_few_rows_are_compared_by_permutations():
    before, now = np.array([9, 1]), np.array([3, 7])
    exact = stats.fisher_exact([before, now]).pvalue
    assert compare(before, now, 0).p_value == pytest.approx(exact, abs=0.01)


def test_one_bin_never_differs():
    assert drift(profile_of(TEXT, pd.Series(["a"] * 50)), pd.Series(["a"] * 80), 0).p_value == 1


def test_values_that_are_all_new_differ():
    assert drift(profile_of(TEXT, pd.Series(["a"] * 50)), pd.Series(["b"] * 50), 0).p_value < 0.001


def test_values_that_go_missing_differ():
    stored = profile_of(NUMBER, pd.Series(np.arange(100.0)))
    assert drift(stored, pd.Series(np.arange(100.0)).where(lambda x: x > 50), 0).p_value < 0.001


def test_text_in_place_of_numbers_cannot_be_compared():
    assert drift(profile_of(NUMBER, pd.Series(np.arange(100.0))), pd.Series(["a"] * 50), 0) is None


def test_a_profile_with_another_number_of_bins_cannot_be_compared():
    assert drift({"edges": [0.0], "counts": [1, 2]}, pd.Series([1.0, 2.0]), 0) is None


def test_p_values_are_corrected_step_by_step():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_no_p_values_need_no_correction():
    assert holm([]) == []


def test_a_corrected_p_value_is_a_probability():
    assert holm([0.5, 0.9]) == [1, 1]


@pytest.mark.parametrize("stated", [{"max_shift": -0.1}, {"max_shift": float("nan")}, {"on_shift": "stop"}])
def test_a_feature_states_a_limit_and_an_action_that_exist(stated):
    with pytest.raises(ModelworksError, match=next(iter(stated))):
        Feature(name="x", type="number", **stated)


def in_clusters(generator, count, size):
    clusters = np.repeat(np.arange(count), size)
    return pd.Series(generator.normal(size=count)[clusters] + generator.normal(size=count * size)), clusters


def clustered(seed, *, named):
    generator = np.random.default_rng(seed)
    (before, there), (now, here) = (in_clusters(generator, 30, 20) for _ in range(2))
    return drift(profile_of(NUMBER, before, there if named else None), now, seed, here if named else None).p_value


def test_rows_that_come_in_clusters_are_found_to_differ_no_more_often_than_stated():
    errors = sum(clustered(seed, named=True) < SIGNIFICANCE for seed in range(100))
    assert stats.binomtest(errors, 100, SIGNIFICANCE, alternative="greater").pvalue > 0.001
    assert sum(clustered(seed, named=False) < SIGNIFICANCE for seed in range(20)) > 5


def test_a_shift_of_rows_in_clusters_is_found():
    generator = np.random.default_rng(0)
    (before, there), (now, here) = (in_clusters(generator, 60, 20) for _ in range(2))
    assert drift(profile_of(NUMBER, before, there), now + 2, 0, here).p_value < 0.001


def test_clusters_of_one_row_each_are_independent_rows():
    column = numbers(np.random.default_rng(0), 200)
    assert profile_of(NUMBER, column, np.arange(200)) == profile_of(NUMBER, column)


def test_one_cluster_is_one_observation_and_differs_from_nothing():
    column = numbers(np.random.default_rng(0), 200)
    one = np.zeros(200, dtype=int)
    assert drift(profile_of(NUMBER, column, one), column + 0.5, 0, one).p_value > 0.05


def test_a_baseline_kept_before_clusters_were_named_is_taken_to_be_sampled_alike():
    generator = np.random.default_rng(1)
    (before, there), (now, here) = (in_clusters(generator, 40, 20) for _ in range(2))
    stored = profile_of(NUMBER, before, there)
    old = {name: value for name, value in stored.items() if name != "sampling"}
    assert drift(old, now, 0, here).p_value == pytest.approx(drift(stored, now, 0, here).p_value, abs=0.2)

"""Gates pass, fail or cannot tell, and each environment does about it what its policy says."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from modelworks.errors import ModelworksError
from modelworks.lifecycle import (
    BaselineGate,
    ChampionGate,
    DirectionGate,
    FairnessGate,
    Fitted,
    Group,
    InvarianceGate,
    MetricGate,
    SliceGate,
)
from modelworks.lifecycle.bundle_scores import Champion
from modelworks.lifecycle.evaluate_gates import Judged, _judge
from modelworks.lifecycle.fitted import keep
from modelworks.lifecycle.gates import GateReport, policy_of
from modelworks.lifecycle.intervals import Clusters
from modelworks.lifecycle.metrics import Outcome
from modelworks.lifecycle.run_gates import decide, read_gates, run_gates
from modelworks.lifecycle.scores import all_metrics, group_names


def outcome_of(truth, positive, **columns):
    positive = np.asarray(positive, dtype=float)
    frame = pd.DataFrame(columns, index=range(len(positive)))
    return Outcome("binary", np.asarray(truth), np.column_stack([1 - positive, positive]), frame)


@pytest.fixture
def judged(built):
    """What the gates look at: 2,000 rows of a decent model, in two large groups and a small one."""
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 2, 2000)
    positive = np.clip(0.5 + 0.2 * (truth - 0.5) + 0.2 * generator.normal(size=2000), 0, 1)
    group = np.where(np.arange(2000) < 40, "small", np.where(np.arange(2000) % 2, "a", "b"))
    outcome = outcome_of(truth, positive, group=group, size=generator.normal(size=2000))
    return Judged(
        spec=dataclasses.replace(built.project.spec, groups=(Group(column="group", min_rows=100),)),
        outcome=outcome, clusters=Clusters(np.arange(2000)), train_target=truth, champion=None,
        score=lambda rows: outcome.scores[rows.index], model=None,
        size=1,
    )  # fmt: skip


def verdicts(gate, judged):
    return [each["verdict"] for each in _judge(gate, judged)]


def test_metric_whose_whole_interval_holds_passes(judged):
    assert verdicts(MetricGate(metric="auc", at_least=0.65), judged) == ["pass"]


def test_metric_below_its_limit_fails(judged):
    assert verdicts(MetricGate(metric="auc", at_least=0.95), judged) == ["fail"]


def test_metric_whose_interval_reaches_over_the_limit_is_inconclusive(judged):
    [result] = _judge(MetricGate(metric="auc", at_least=0.0), judged)
    assert verdicts(MetricGate(metric="auc", at_least=result["number"] - 0.001), judged) == ["inconclusive"]


def test_interval_is_the_same_every_time(judged):
    one, two = (_judge(MetricGate(metric="auc", at_least=0.6), judged) for _ in range(2))
    assert one == two


def test_interval_holds_the_estimate(judged):
    [result] = _judge(MetricGate(metric="brier", at_most=0.3), judged)
    assert result["interval"][0] < result["number"] < result["interval"][1]


def test_model_that_guesses_does_not_beat_the_baseline(judged):
    flat = judged.outcome.scores * 0 + 0.5
    guess = judged._replace(outcome=dataclasses.replace(judged.outcome, scores=flat))
    assert verdicts(BaselineGate(metric="auc", margin=0.1), guess) == ["fail"]


def test_challenger_equal_to_the_champion_passes(judged):
    same = judged._replace(champion=Champion(np.arange(2000), judged.outcome))
    assert verdicts(ChampionGate(metric="auc", margin=0.01), same) == ["pass"]


def test_challenger_worse_than_the_champion_fails(judged):
    truth = judged.outcome.truth
    perfect = Champion(np.arange(2000), outcome_of(truth, truth))
    assert verdicts(ChampionGate(metric="auc", margin=0.01), judged._replace(champion=perfect)) == ["fail"]


def test_a_champion_is_compared_on_the_rows_that_it_has_not_seen_and_too_few_decide_nothing(judged):
    some = np.arange(0, 2000, 4)
    champion = Champion(some, judged.outcome.take(some))
    [result] = _judge(ChampionGate(metric="auc", margin=0.01), judged._replace(champion=champion))
    assert (result["verdict"], result["number"]) == ("pass", 0)
    assert "on the 500 rows that neither was trained on" in result["message"]
    [result] = _judge(ChampionGate(metric="auc", margin=0.01, min_rows=501), judged._replace(champion=champion))
    assert (result["verdict"], result["number"]) == ("inconclusive", None)


def test_champion_that_cannot_be_compared_is_inconclusive(judged):
    other = judged._replace(champion="its classes differ")
    assert verdicts(ChampionGate(metric="auc", margin=0.01), other) == ["inconclusive"]


def test_slice_too_small_is_inconclusive_and_the_others_are_judged(judged):
    gate = SliceGate(by="group", metric="auc", limit=0.6, min_rows=100)
    assert verdicts(gate, judged) == ["pass", "pass", "inconclusive"]


def by_subject(gate, judged):
    return {each["subject"]: each["verdict"] for each in _judge(gate, judged)}


def test_group_too_small_is_inconclusive_not_passed(judged):
    gate = FairnessGate(group="group", metric="auc", max_difference=0.2)
    assert by_subject(gate, judged) == {
        "auc for group small": "inconclusive",
        "auc for group a, difference": "pass",
        "auc for group b, difference": "pass",
    }


def test_unfair_model_fails_by_difference_and_ratio(judged):
    scores = judged.outcome.scores.copy()
    scores[judged.outcome.rows["group"] == "a"] = [0.9, 0.1]
    unfair = judged._replace(outcome=dataclasses.replace(judged.outcome, scores=scores))
    gate = FairnessGate(group="group", metric="selection_rate", max_difference=0.1, min_ratio=0.8)
    found = by_subject(gate, unfair)
    assert (found["selection_rate for group b, difference"], found["selection_rate for group b, ratio"]) == (
        "fail",
        # Nobody of the others is selected but in the small group: a hundredth of the share.
        "fail",
    )


def in_groups(judged, names, truth, positive):
    outcome = outcome_of(truth, positive, group=names)
    clusters = Clusters(np.arange(len(truth)))
    return judged._replace(outcome=outcome, clusters=clusters)


def test_sixteen_groups_that_are_equal_pass(judged):
    generator = np.random.default_rng(1)
    truth = generator.integers(0, 2, 16_000)
    equal = in_groups(judged, np.arange(16_000) % 16, truth, generator.uniform(size=16_000))
    gate = FairnessGate(group="group", metric="accuracy", max_difference=0.1, min_ratio=0.8)
    assert verdicts(gate, equal) == ["pass"] * 32


def test_one_of_sixteen_groups_that_is_treated_otherwise_fails_by_name(judged):
    generator = np.random.default_rng(2)
    names, truth = np.arange(16_000) % 16, generator.integers(0, 2, 16_000)
    positive = np.where(names == 7, 0.9, generator.uniform(size=16_000))
    found = by_subject(
        FairnessGate(group="group", metric="selection_rate", max_difference=0.2),
        in_groups(judged, names, truth, positive),
    )
    assert [name for name, verdict in found.items() if verdict != "pass"] == ["selection_rate for group 7, difference"]
    assert found["selection_rate for group 7, difference"] == "fail"


def test_a_group_without_a_number_is_inconclusive_by_name(judged):
    generator = np.random.default_rng(3)
    names = np.repeat(["a", "b", "c"], 1000)
    truth = np.where(names == "b", 0, generator.integers(0, 2, 3000))  # no positive row to recall
    gate = FairnessGate(group="group", metric="recall", max_difference=0.3, min_ratio=0.5)
    found = by_subject(gate, in_groups(judged, names, truth, generator.uniform(size=3000)))
    assert [name for name, verdict in found.items() if verdict == "inconclusive"] == [
        "recall for group b, difference",
        "recall for group b, ratio",
    ]


def test_one_group_alone_decides_nothing(judged):
    gate = FairnessGate(group="group", metric="accuracy", max_difference=0.3)
    alone = in_groups(judged, np.repeat("a", 500), np.arange(500) % 2, np.full(500, 0.7))
    assert by_subject(gate, alone) == {"accuracy across group": "inconclusive"}


def test_rows_that_resemble_each_other_make_an_interval_wide_and_the_report_names_them(judged):
    days = np.arange(2000) // 50
    off = np.random.default_rng(4).normal(size=40)[days]
    outcome = dataclasses.replace(outcome_of(judged.outcome.truth, np.clip(0.5 + 0.2 * off, 0, 1)))
    alone = judged._replace(outcome=outcome)
    [rows] = _judge(MetricGate(metric="selection_rate", at_least=0.1), alone)
    [by_day] = _judge(
        MetricGate(metric="selection_rate", at_least=0.1), alone._replace(clusters=Clusters(days, ("day",)))
    )
    assert np.ptp(by_day["interval"]) > 4 * np.ptp(rows["interval"])
    assert rows["assumes"] == "2,000 rows, taken to be independent of each other"
    assert by_day["assumes"] == "40 clusters by day of 2,000 rows, taken to be independent of each other"


def test_too_few_clusters_decide_nothing(judged):
    few = judged._replace(clusters=Clusters(np.arange(2000) % 7, ("day",)))
    [result] = _judge(MetricGate(metric="auc", at_least=0.1), few)
    assert result["verdict"] == "inconclusive"
    assert "too few rows or clusters for an interval" in result["message"]


def test_small_groups_can_be_judged_together():
    names, small = group_names(pd.Series(["a"] * 50 + ["b"] * 3 + ["c"] * 4), 5, pool=True)
    assert (sorted(set(names)), small) == (["a", "other (b, c)"], {})


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([1000001.0, 1000002.0, 1000003.0], ["1000001", "1000002", "1000003"]),
        (np.array([0.1, 16777216.0], dtype="float32"), ["0.1", "16777216"]),
        ([1.5, None, float("inf")], ["1.5", "inf", "missing"]),
        (["a", None], ["a", "missing"]),
        ([True, False], ["False", "True"]),
    ],
)
def test_a_group_is_named_with_every_digit(values, names):
    found, _ = group_names(pd.Series(values), 0, pool=False)
    assert sorted(set(found)) == names


def test_an_evaluate_that_returns_a_built_in_metric_is_refused(judged):
    spec = dataclasses.replace(judged.spec, evaluate=lambda outcome: {"auc": 1.0, "mine": 2.0})
    with pytest.raises(ModelworksError, match="evaluate returns 'auc', the name of a built-in metric"):
        _judge(MetricGate(metric="mine", at_least=0.5), judged._replace(spec=spec))
    with pytest.raises(ModelworksError, match="evaluate returns 'auc'"):
        all_metrics(spec, judged.outcome)


@pytest.mark.parametrize("classes", [[1, 0], ["no", "yes"], [0], [0, 1, 2]])
def test_an_estimator_of_another_class_order_is_refused(judged, classes, tmp_path):
    class Estimator:
        classes_ = np.array(classes)

        def predict_proba(self, x):
            return np.full((len(x), 2), 0.5)

    with pytest.raises(ModelworksError, match="probabilities must be in that order"):
        keep(judged.spec, tmp_path, Fitted(estimator=Estimator()))


def test_change_that_must_not_matter_and_does_not_passes(judged):
    gate = InvarianceGate(name="same", change=lambda rows: rows, tolerance=1e-9)
    assert verdicts(gate, judged) == ["pass"]


def test_change_that_moves_predictions_the_wrong_way_fails(judged):
    gate = DirectionGate(name="up", change=lambda rows: rows, expect="up")
    falls = judged._replace(score=lambda rows: judged.outcome.scores[rows.index] - [-0.1, 0.1])
    assert verdicts(gate, falls) == ["fail"]


def test_behaviour_test_that_raises_names_the_users_line(judged, built):
    def change(rows):
        raise KeyError("wind")

    with pytest.raises(ModelworksError, match="KeyError while the model is tested"):
        _judge(InvarianceGate(name="x", change=change, tolerance=1), judged)


def test_bundled_project_is_allowed_on_local_with_a_warning_about_its_tree(rebuilt):
    report = run_gates(rebuilt.run, rebuilt.bundle, rebuilt.project.home, "local", champion=rebuilt.bundle.path)
    assert report.allowed
    [about_tree] = [each for each in report.results if each.subject == "source"]
    assert (about_tree.verdict, about_tree.action) == ("fail", "warn")
    assert {each.action for each in report.results if each.verdict == "pass"} == {""}
    assert read_gates(rebuilt.run, "local") == report


def result(verdict):
    return {"gate": "MetricGate", "subject": "auc", "verdict": verdict, "message": "", "number": 0.5, "interval": None,
            "limit": 0.7, "source": "model.py:1", "because": ""}  # fmt: skip


def decided(built, target, verdict, override=""):
    clean = dataclasses.replace(built.run, origin={"dirty": False, "commit": "c"})
    return decide(clean, built.bundle, target, [result(verdict)], override=override)


@pytest.mark.parametrize(
    ("target", "verdict", "allowed"),
    [
        ("local", "fail", True), ("local", "inconclusive", True), ("dev", "fail", False), ("dev", "inconclusive", True),
        ("staging", "inconclusive", False), ("prod", "fail", False), ("prod", "inconclusive", False),
        ("prod", "pass", True),
        ("somewhere", "inconclusive", False),
    ],
)  # fmt: skip
def test_targets_differ(built, target, verdict, allowed):
    assert decided(built, target, verdict).allowed is allowed


def test_refusal_names_number_limit_and_source(built):
    with pytest.raises(ModelworksError, match=r"fail: auc: 0\.5.*model\.py:1"):
        decided(built, "prod", "fail").require()


def test_override_is_recorded_with_reason_person_and_gates(built):
    report = decided(built, "prod", "fail", override="the old one is on fire")
    assert report.allowed
    assert (report.override.reason, report.override.gates) == ("the old one is on fire", ("auc",))


def test_override_where_nothing_is_refused_is_not_recorded(built):
    assert decided(built, "prod", "pass", override="just in case").override is None


def test_dirty_tree_is_refused_beyond_local(built):
    assert decide(built.run, built.bundle, "local", []).allowed
    assert not decide(built.run, built.bundle, "dev", []).allowed


def test_environment_nobody_knows_is_treated_as_prod():
    assert policy_of("elsewhere") == policy_of("prod")


def test_report_survives_json(built):
    report = decided(built, "prod", "fail", override="r")
    assert GateReport.from_facts(report.to_facts()) == report

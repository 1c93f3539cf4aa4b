"""Findings of the data checks: severity, count, examples."""

from __future__ import annotations

import html
from datetime import UTC, datetime
from types import MappingProxyType

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from modelworks._files import write_json
from modelworks.lifecycle import Card, DataSource, Feature, ModelSpec, Split
from modelworks.lifecycle.checks import CheckReport, check_rows
from modelworks.lifecycle.drift import profile
from modelworks.lifecycle.html_report import checks_page
from modelworks.lifecycle.leakage import separation
from modelworks.lifecycle.metrics import METRICS, Outcome

NOW = datetime(2026, 1, 10, tzinfo=UTC)


def rows(count=400):
    generator = np.random.default_rng(0)
    size = generator.normal(size=count)
    return pd.DataFrame(
        {
            "at": pd.date_range("2026-01-01", periods=count, freq="min", tz="UTC"),
            "known": pd.date_range("2025-12-31", periods=count, freq="min", tz="UTC"),
            "size": size,
            "kind": generator.choice(["a", "b"], count),
            "secret": generator.normal(size=count),
            "bad": (size + generator.normal(size=count)) > 0,
        }
    )


def make_spec(tmp_path, *, max_age_days=None, schema=None, of_size=MappingProxyType({})):
    return ModelSpec(
        where=f"{tmp_path / 'model.py'}:1",
        name="m", description="d", owner="o", kind="binary", classes=(False, True), target="bad", metric="auc",
        data=DataSource(load=rows, description="d", prediction_time="at", max_age_days=max_age_days),
        schema=schema or pa.DataFrameSchema({"size": pa.Column(float)}),
        features=(
            Feature(name="size", type="number", minimum=-9, maximum=9, known_at="known", **of_size),
            Feature(name="kind", type="string", categories=("a", "b")),
            Feature(name="secret", type="number", private=True, minimum=-9, maximum=9),
        ),
        train=lambda data: data, card=Card(intended_use="t"),
    )  # fmt: skip


def check(tmp_path, frame, **options):
    return check_rows(make_spec(tmp_path, **options), frame, "sha256:0", NOW)


def only(report, check_name, severity="error"):
    [finding] = [each for each in report.findings if (each.check, each.severity) == (check_name, severity)]
    return finding


def test_good_data_passes(tmp_path):
    assert check(tmp_path, rows()).passed


def test_wrong_type_is_an_error_of_the_schema(tmp_path):
    report = check(tmp_path, rows().assign(size="large"))
    assert not report.passed
    assert {each.subject for each in report.findings if each.check == "schema"} == {"size"}


def test_schema_finding_counts_rows_and_shows_examples(tmp_path):
    frame = rows()
    frame.loc[[3, 5], "size"] = -8.0
    finding = only(
        check(tmp_path, frame, schema=pa.DataFrameSchema({"size": pa.Column(float, pa.Check.gt(-7))})), "schema"
    )
    assert (finding.count, finding.examples) == (2, ("row 3: -8.0", "row 5: -8.0"))


def test_missing_values_beyond_the_limit_are_an_error(tmp_path):
    frame = rows()
    frame.loc[:9, "size"] = np.nan
    found = [each for each in check(tmp_path, frame).findings if each.check == "completeness"]
    assert [(each.subject, each.count, each.severity) for each in found] == [("size", 10, "error")]


def test_infinite_value_is_an_error(tmp_path):
    frame = rows()
    frame.loc[7, "size"] = np.inf
    finding = only(check(tmp_path, frame), "completeness")
    assert (finding.subject, finding.count, finding.examples) == ("size", 1, ("row 7: inf",))


def test_unknown_category_is_an_error_with_its_count(tmp_path):
    frame = rows()
    frame.loc[:2, "kind"] = "z"
    assert only(check(tmp_path, frame), "completeness").examples == ("'z' (3 rows)",)


def test_private_values_are_never_shown(tmp_path):
    frame = rows()
    frame.loc[7, "secret"] = 1234.5
    report = check(tmp_path, frame)
    finding = only(report, "completeness")
    assert (finding.subject, finding.count, finding.examples) == ("secret", 1, ())
    assert "1234" not in checks_page(report)


def test_too_few_rows_are_an_error(tmp_path):
    assert "at least 100" in only(check(tmp_path, rows(50)), "completeness").message


def test_value_known_after_the_prediction_is_leakage(tmp_path):
    frame = rows()
    frame.loc[:4, "known"] = pd.Timestamp("2026-02-01", tz="UTC")
    finding = only(check(tmp_path, frame), "leakage")
    assert (finding.subject, finding.count) == ("size", 5)


def test_feature_that_is_the_target_in_disguise_is_leakage(tmp_path):
    frame = rows()
    frame["size"] = frame["bad"].astype(float) + np.linspace(0, 0.1, len(frame))
    assert only(check(tmp_path, frame), "leakage").subject == "size"


def test_one_class_only_is_an_error(tmp_path):
    report = check(tmp_path, rows().assign(bad=True))
    assert {each.severity for each in report.findings if each.check == "balance"} == {"error"}


def test_rare_class_is_a_warning(tmp_path):
    frame = rows(1000)
    frame["bad"] = np.arange(1000) < 5
    assert only(check(tmp_path, frame), "balance", "warning").count == 5


def test_stale_data_is_an_error(tmp_path):
    assert "days old" in only(check(tmp_path, rows(), max_age_days=3), "freshness").message


def test_fresh_data_passes(tmp_path):
    assert check(tmp_path, rows(), max_age_days=30).passed


def moved(tmp_path, by, count=400, **of_size):
    write_json(tmp_path / "baseline.json", profile(make_spec(tmp_path), rows()))
    frame = rows(count)
    frame["size"] += by
    return check(tmp_path, frame, of_size=of_size)


def drifted(report):
    return [(each.subject, each.severity) for each in report.findings if each.check == "distribution"]


def test_shift_against_the_stored_baseline_is_a_warning_with_its_chance(tmp_path):
    report = moved(tmp_path, 2)
    assert report.passed
    message = only(report, "distribution", "warning").message
    assert "population stability index" in message
    assert "limit 0.1; by chance in" in message


def test_a_feature_may_refuse_a_shift(tmp_path):
    assert drifted(moved(tmp_path, 2, on_shift="refuse")) == [("size", "error")]


def test_a_feature_may_ignore_its_shift(tmp_path):
    assert drifted(moved(tmp_path, 2, on_shift="ignore")) == []


def test_a_shift_below_the_limit_of_its_feature_is_no_finding(tmp_path):
    assert drifted(moved(tmp_path, 2, max_shift=9)) == []


def test_a_shift_that_few_rows_explain_is_no_finding(tmp_path):
    report = moved(tmp_path, 0.1, count=100)
    assert max(each["shift"] or 0 for each in report.columns) > 0.1
    assert drifted(report) == []


def test_a_baseline_without_counts_is_to_be_written_again(tmp_path):
    write_json(tmp_path / "baseline.json", {"size": {"edges": [0.0], "shares": [0.5, 0.5, 0.0]}})
    assert "--save-baseline" in check(tmp_path, rows()).findings[0].message


def test_same_data_does_not_shift_against_its_own_baseline(tmp_path):
    write_json(tmp_path / "baseline.json", profile(make_spec(tmp_path), rows()))
    shifts = {each["name"]: each["shift"] for each in check(tmp_path, rows()).columns}
    assert shifts.pop("secret") is None
    assert list(shifts.values()) == pytest.approx([0, 0], abs=1e-6)


def test_a_baseline_keeps_nothing_of_private_features_and_misses_nothing(tmp_path):
    kept = profile(make_spec(tmp_path), rows())
    write_json(tmp_path / "baseline.json", kept)
    assert "secret" not in kept
    assert [each for each in check(tmp_path, rows()).findings if each.check == "distribution"] == []


def test_report_survives_json(tmp_path):
    report = check(tmp_path, rows())
    assert CheckReport.from_facts(report.to_facts()).findings == report.findings


@pytest.mark.parametrize("text", ["<script>alert(1)</script>"])
def test_report_page_escapes_what_data_says(tmp_path, text):
    frame = rows()
    frame.loc[0, "kind"] = text
    page = checks_page(check(tmp_path, frame))
    assert text not in page
    assert html.escape(text) in page


# -- A feature that gives the target away ----------------------------------------------------------------------------
def other_spec(tmp_path, kind, classes=(), split=None, schema=None, **feature):
    return ModelSpec(
        where=f"{tmp_path / 'model.py'}:1",
        name="m", description="d", owner="o", kind=kind, classes=classes, target="y",
        metric="rmse" if kind == "regression" else "log_loss",
        data=DataSource(load=rows, description="d", split=split or Split()),
        schema=schema or pa.DataFrameSchema({}),
        features=(Feature(name="x", **{"type": "number", **feature}), Feature(name="other", type="number")),
        train=lambda data: data, card=Card(intended_use="t"),
    )  # fmt: skip


def table(y, x, seed=1):
    return pd.DataFrame({"y": y, "x": x, "other": np.random.default_rng(seed).normal(size=len(y))})


def leaks(spec, frame, severity="error"):
    report = check_rows(spec, frame, "sha256:0", NOW)
    return [each for each in report.findings if (each.check, each.severity) == ("leakage", severity)]


def thirds():
    return np.random.default_rng(0).choice(["a", "b", "c"], 600)


def test_code_of_a_class_in_whatever_order_is_leakage_of_a_multiclass_model(tmp_path):
    y = thirds()
    x = pd.Series(y).map({"a": 7.0, "b": 1.0, "c": 3.0}).to_numpy() + np.linspace(0, 0.5, 600)
    [finding] = leaks(other_spec(tmp_path, "multiclass", ("a", "b", "c")), table(y, x))
    assert (finding.subject, "AUC of 1.000" in finding.message) == ("x", True)


def test_feature_that_knows_one_of_three_classes_is_no_leakage(tmp_path):
    y = thirds()
    x = np.where(y == "a", 9.0, np.random.default_rng(2).normal(size=600))
    assert leaks(other_spec(tmp_path, "multiclass", ("a", "b", "c")), table(y, x)) == []


def test_text_that_names_the_class_is_leakage_of_a_multiclass_model(tmp_path):
    y = thirds()
    frame = table(y, pd.Series(y).map({"a": "u", "b": "v", "c": "w"}).to_numpy())
    spec = other_spec(tmp_path, "multiclass", ("a", "b", "c"), type="string", categories=("u", "v", "w"))
    assert [each.subject for each in leaks(spec, frame)] == ["x"]


@pytest.mark.parametrize("disguise", [lambda y: y * 1.8 + 32, lambda y: -y, np.exp, lambda y: np.round(y, 1)])
def test_target_in_another_unit_is_leakage_of_a_regression(tmp_path, disguise):
    y = np.random.default_rng(0).normal(size=600)
    assert [each.subject for each in leaks(other_spec(tmp_path, "regression"), table(y, disguise(y)))] == ["x"]


@pytest.mark.parametrize("noise", [0.3, 1.0, 100.0])
def test_good_feature_of_a_regression_is_no_leakage(tmp_path, noise):
    generator = np.random.default_rng(0)
    y = generator.normal(size=600)
    assert leaks(other_spec(tmp_path, "regression"), table(y, y + generator.normal(0, noise, 600))) == []


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(-5, 5)), min_size=2))
def test_for_two_classes_the_measure_is_the_auc_whichever_way_it_points(pairs):
    truth, values = np.array(pairs).T
    assume(len(set(truth)) == 2)
    places = np.unique(values, return_inverse=True)[1]
    auc = METRICS["auc"].function(Outcome("binary", truth, np.column_stack([-values, values]), None))
    assert separation(places, truth, 2, ordered=True) == pytest.approx(max(auc, 1 - auc))


def test_refusal_names_the_line_and_the_reason_to_state(tmp_path):
    y = np.random.default_rng(0).normal(size=600)
    [finding] = leaks(other_spec(tmp_path, "regression"), table(y, y))
    assert "test_checks.py:" in finding.message
    assert 'Feature(known_because="...")' in finding.message


def test_stated_reason_lets_a_strong_feature_pass_and_is_in_the_report(tmp_path):
    y = np.random.default_rng(0).normal(size=600)
    spec = other_spec(tmp_path, "regression", known_because="The sensor reads it an hour before.")
    assert leaks(spec, table(y, y)) == []
    [note] = leaks(spec, table(y, y), "note")
    assert "The sensor reads it an hour before." in note.message


# -- Rows on both sides ----------------------------------------------------------------------------------------------
def on_both_sides(tmp_path, split, x):
    y = np.random.default_rng(0).normal(size=len(x))
    frame = table(y, x).assign(other=0.0, key=np.arange(len(x)))
    report = check_rows(other_spec(tmp_path, "regression", split=split), frame, "sha256:0", NOW)
    return [(each.severity, each.count > 0) for each in report.findings if each.check == "split"]


def test_hold_out_rows_with_the_features_of_a_training_row_are_counted_in_a_warning(tmp_path):
    assert on_both_sides(tmp_path, Split(key="key"), np.arange(600) % 20.0) == [("warning", True)]


def test_equal_rows_split_by_their_features_are_on_one_side(tmp_path):
    assert on_both_sides(tmp_path, Split(), np.arange(600) % 60.0) == []


def test_split_that_leaves_a_part_empty_is_an_error_of_the_data(tmp_path):
    assert on_both_sides(tmp_path, Split(), np.zeros(600)) == [("error", True)]


# -- What Parquet and pandas hold ------------------------------------------------------------------------------------
def test_number_that_a_request_may_not_carry_is_an_error(tmp_path):
    y = np.random.default_rng(0).normal(size=600)
    x = np.random.default_rng(1).normal(size=600)
    x[4] = 1e39
    report = check_rows(other_spec(tmp_path, "regression"), table(y, x), "sha256:0", NOW)
    assert only(report, "completeness").examples == ("row 4: 1e+39",)


def test_column_of_lists_that_nobody_uses_stops_nothing(tmp_path):
    frame = rows().assign(tags=[["a"], ["b"]] * 200, facts=[{"a": 1}, None] * 200)
    assert check(tmp_path, frame).passed


@pytest.mark.parametrize("declared", ["Int64", "Int32", "Float64"])
def test_nullable_type_holds_for_rows_that_come_back_from_parquet(tmp_path, declared):
    column = pa.DataFrameSchema({"size": pa.Column(declared, nullable=True)})
    kept = rows().assign(size=[1.0, np.nan] * 200)
    assert [each for each in check(tmp_path, kept, schema=column).findings if each.check == "schema"] == []


@pytest.mark.parametrize("values", [[1.5, 2.0], ["1", "2"]])
def test_what_is_not_of_the_nullable_type_is_refused(tmp_path, values):
    report = check(tmp_path, rows().assign(size=values * 200), schema=pa.DataFrameSchema({"size": pa.Column("Int64")}))
    assert {each.severity for each in report.findings if each.check == "schema"} == {"error"}

"""Metric math against the tables of CloudWatch's user guide, "Using math expressions with CloudWatch metrics"."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.laptop.metric_math import MetricMathError, evaluate

FIRST = datetime(2026, 11, 23, 12, tzinfo=UTC)
FLOOR = "IF(bad >= 5, bad / requests, 0)"


def times(count: int) -> list[datetime]:
    return [FIRST + timedelta(minutes=number) for number in range(count)]


def series(picture: str) -> dict[datetime, float]:
    """`30 - 0`: three periods, of which the second has no value."""
    marks = picture.split()
    return {when: float(mark) for when, mark in zip(times(len(marks)), marks, strict=True) if mark != "-"}


def evaluated(expression: str, **pictures: str) -> str:
    """What an expression comes to, as a picture of as many periods as its series have."""
    found = evaluate(expression, {name: series(picture) for name, picture in pictures.items()})
    length = max(len(picture.split()) for picture in pictures.values())
    return " ".join(f"{found[when]:g}" if when in found else "-" for when in times(length))


# "Comparison and logical operators"
@pytest.mark.parametrize(("expression", "wanted"), [("(metric1 < metric2)", "0 0 1 0"), ("(metric1 >= 30)", "1 0 0 0")])
def test_comparisons_are_those_of_the_guide(expression, wanted):
    assert evaluated(expression, metric1="30 20 0 0", metric2="20 - 20 -") == wanted


# "Using IF expressions"
@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        ("IF(metric1, metric2, metric3)", "30 0 20 - -"),
        ("IF(metric1, 5, metric3)", "5 5 20 - -"),
        ("IF(metric1, metric2, 5)", "30 0 5 5 -"),
        ("IF(metric1, metric2)", "30 0 - - -"),
    ],
)
def test_if_is_that_of_the_guide(expression, wanted):
    assert evaluated(expression, metric1="1 1 0 0 -", metric2="30 - 0 0 30", metric3="0 0 20 - 20") == wanted


@pytest.mark.parametrize(
    ("expression", "wanted"), [("IF(1, a, b)", "1 2 -"), ("IF(0, a, b)", "- 3 4"), ("IF(0, a)", "- - -")]
)
def test_if_of_a_number_chooses_a_whole_series(expression, wanted):
    assert evaluated(expression, a="1 2 -", b="- 3 4") == wanted


@pytest.mark.parametrize("condition", ["2", "-1", "0.5"])
def test_every_number_but_zero_is_true(condition):
    assert evaluated(f"IF({condition}, a)", a="7") == "7"


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        ("a + b", "5 1 3 -"),
        ("a - b", "-3 1 -3 -"),
        ("a * b", "4 0 0 -"),
        ("b / a", "4 0 - -"),
        ("a + 1", "2 2 - -"),
        ("-a", "-1 -1 - -"),
        ("--a", "1 1 - -"),
    ],
)
def test_what_one_of_two_series_lacks_is_zero_and_a_division_by_zero_is_no_point(expression, wanted):
    assert evaluated(expression, a="1 1 - -", b="4 - 3 -") == wanted


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        ("a + 2 * 3", "8"),
        ("(a + 2) * 3", "12"),
        ("a - 1 - 1", "0"),
        ("12 / a / 2", "3"),
        ("a * -2", "-4"),
        ("a + 1 > 2", "1"),
        ("a == 2", "1"),
        ("a != 2", "0"),
        ("a <= 2", "1"),
        ("a < 2", "0"),
        ("a > 2", "0"),
        ("1.5e1 * a", "30"),
        (" a\t+\n1 ", "3"),
    ],
)
def test_operators_bind_as_in_arithmetic(expression, wanted):
    assert evaluated(expression, a="2") == wanted


@pytest.mark.parametrize(
    ("bad", "requests", "wanted"),
    [("1", "20", "0"), ("4", "4", "0"), ("5", "20", "0.25"), ("5", "5", "1"), ("0", "1000", "0"), ("-", "-", "-")],
)
def test_the_floor_of_our_alarms_counts_from_the_fifth_bad_request_on(bad, requests, wanted):
    assert evaluated(FLOOR, bad=bad, requests=requests) == wanted


@given(st.lists(st.none() | st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=20))
def test_our_alarms_expression_is_a_ratio_of_five_or_more_wherever_there_were_requests(counts):
    seen = {when: pair for when, pair in zip(times(len(counts)), counts, strict=True) if pair and sum(pair)}
    bad = {when: float(pair[0]) for when, pair in seen.items()}
    requests = {when: float(sum(pair)) for when, pair in seen.items()}
    wanted = {when: bad[when] / requests[when] * (bad[when] >= 5) for when in seen}
    assert evaluate(FLOOR, {"bad": bad, "requests": requests}) == wanted


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("SUM(a)", r"'SUM\(a\)' has 'SUM' at character 1, where only numbers, ids, .* and IF are evaluated"),
        ("FILL(a, 0)", "has 'FILL' at character 1"),
        ("a ^ 2", r"has '\^' at character 3"),
        ("a > 1 AND a < 3", "has 'AND' too much at character 7"),
        ("a && a", "^'a && a' has '&' at character 3"),
        ("[a, a]", r"has '\[' at character 1"),
        ("SELECT AVG(error) FROM modelworks", "has 'SELECT' at character 1"),
        ("if(a, 1)", r"has 'if' at character 1"),
        ("IF", "has 'IF' at character 1"),
        ("٣ * a", "has '٣' at character 1"),
        ("a < 1 < 2", "has '<' too much at character 7"),
        ("a a", "has 'a' too much at character 3"),
        ("a +", "ends too early"),
        ("", "ends too early"),
        ("(a", r"ends too early; '\)' is expected"),
        ("IF(a)", r"has '\)' too much at character 5; ',' is expected"),
        ("IF(a, 1, 2, 3)", r"has ',' too much at character 11; '\)' is expected"),
        ("b / a", "^'b / a' names 'b', which is no metric of it: it has a, c$"),
        ("1 + 1", "comes to a number; it must come to a time series"),
        ("a / (1 / 0)", "divides a number by zero"),
        ("IF(1, 2, a)", "IF of a number must choose between time series"),
        ("(" * 60 + "a" + ")" * 60, "may be 50 levels deep"),
        ("-" * 60 + "a", "may be 50 levels deep"),
        ("a" * 2049, "may have 2048 characters, got 2049"),
    ],
)
def test_what_is_not_evaluated_is_refused_by_name_and_place(expression, message):
    with pytest.raises(MetricMathError, match=message):
        evaluated(expression, a="1", c="1")


def test_an_expression_without_a_metric_has_no_ids():
    with pytest.raises(MetricMathError, match=r"^'a' names 'a', which is no metric of it: it has none$"):
        evaluate("a", {})


@pytest.mark.parametrize(
    "expression",
    [
        "(" * 50 + "a" + ")" * 50,
        "-" * 50 + "a",
        "IF(a, " * 50 + "a" + ")" * 50,
        " + ".join(["(a)"] * 60 + ["(" * 50 + "1" + ")" * 50]) + " - 60",
        " + ".join(["-a"] * 60 + ["-" * 50 + "1"]) + " + 60",
        " + ".join(["IF(a, a)"] * 60 + ["(" * 50 + "1" + ")" * 50]) + " - 60",
        "a" + " " * 2047,
    ],
)
def test_long_and_deep_expressions_are_evaluated_up_to_their_limits(expression):
    assert evaluated(expression, a="1") == "1"


@pytest.mark.parametrize("one", ["(a)", "-a", "IF(a, a)"])
def test_the_limit_is_the_same_after_other_levels_were_left(one):
    with pytest.raises(MetricMathError, match="may be 50 levels deep"):
        evaluated(" + ".join([one] * 60 + ["(" * 51 + "a" + ")" * 51]), a="1")


@given(st.text(alphabet="ab05.eE+-*/<>=!(), IF", max_size=40))
def test_any_text_is_evaluated_or_refused(expression):
    with contextlib.suppress(MetricMathError):
        assert set(evaluate(expression, {"a": series("1 2"), "b": series("- 0")})) <= set(times(2))

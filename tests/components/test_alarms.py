"""One definition of an alarm, and the two things that are made of it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from modelworks import alarms
from modelworks.alarms import Alarm
from modelworks.laptop.metric_math import evaluate

DIMENSIONS = {"environment": "dev", "model": "delays"}


def alarm(**more):
    return Alarm("errors", "requests fail", "error", 0.02, **more)


def test_an_endpoint_has_three_alarms_of_ratios_and_their_defaults():
    errors, slow, rejected = alarms.endpoint_alarms()
    assert [(each.name, each.metric, each.threshold) for each in (errors, slow, rejected)] == [
        ("errors", "error", 0.01),
        ("slow", "slow", 0.05),
        ("rejected", "rejected", 0.05),
    ]
    assert {(each.statistic, each.comparison, each.datapoints, each.floor) for each in (errors, slow, rejected)} == {
        ("Average", "GreaterThanThreshold", 2, 5)
    }
    assert {(each.period_seconds, each.evaluation_periods, each.window_seconds) for each in (errors, slow)} == {
        (60, 3, 180)
    }


def test_each_limit_is_that_of_its_own_alarm_and_is_told_in_percent():
    found = alarms.endpoint_alarms(error_ratio=0.1, slow_ratio=0.2, rejected_ratio=0.3, period_seconds=10)
    assert [(each.threshold, each.period_seconds) for each in found] == [(0.1, 10), (0.2, 10), (0.3, 10)]
    assert [each.meaning for each in found] == [
        "more than 10.0% of requests, and at least 5, failed",
        "more than 20.0% of requests, and at least 5, missed the latency objective",
        "more than 30.0% of requests, and at least 5, were turned away because the endpoint was full",
    ]


@pytest.mark.parametrize("seconds", [10, 20, 30, 60, 120])
def test_a_datapoint_has_a_length_that_cloudwatch_knows(seconds):
    assert alarm(period_seconds=seconds).period_seconds == seconds


@pytest.mark.parametrize("seconds", [-60, 0, 9, 11, 31, 61, 90])
def test_a_datapoint_of_another_length_is_refused(seconds):
    with pytest.raises(ValueError, match=f"^period_seconds must be 10, 20, 30 or a multiple of 60, got {seconds}$"):
        alarm(period_seconds=seconds)


@pytest.mark.parametrize(("datapoints", "periods"), [(1, 1), (3, 3), (1, 3)])
def test_some_or_all_datapoints_must_breach(datapoints, periods):
    assert alarm(datapoints=datapoints, evaluation_periods=periods).datapoints == datapoints


@pytest.mark.parametrize(("datapoints", "periods"), [(0, 3), (4, 3)])
def test_none_or_more_than_there_are_is_refused(datapoints, periods):
    message = rf"^datapoints must be from 1 to evaluation_periods \({periods}\), got {datapoints}$"
    with pytest.raises(ValueError, match=message):
        alarm(datapoints=datapoints, evaluation_periods=periods)


@pytest.mark.parametrize("more", [{"floor": -1}, {"floor": 5, "statistic": "Sum"}])
def test_a_floor_is_a_number_of_requests_of_a_ratio(more):
    message = f"^floor must be 0 or more, and 0 unless statistic is Average, got {more['floor']}$"
    with pytest.raises(ValueError, match=message):
        alarm(**more)


def test_a_page_is_a_cloudwatch_alarm_of_the_same_numbers():
    found = alarms.cloudwatch_alarm(alarm(period_seconds=30, datapoints=3, evaluation_periods=4), DIMENSIONS)
    assert found == {
        "namespace": "modelworks",
        "metric_name": "error",
        "dimensions": DIMENSIONS,
        "statistic": "Average",
        "comparison_operator": "GreaterThanThreshold",
        "threshold": 0.02,
        "period": 30,
        "evaluation_periods": 4,
        "datapoints_to_alarm": 3,
        "treat_missing_data": "notBreaching",
        "alarm_description": "requests fail",
    }


def test_silence_pages_because_a_missing_datapoint_breaches():
    silent = alarms.heartbeat_alarm(30)
    found = alarms.cloudwatch_alarm(silent, DIMENSIONS)
    assert (silent.name, found["period"]) == ("silent", 30)
    assert (found["metric_name"], found["statistic"]) == ("saturation", "SampleCount")
    assert (found["comparison_operator"], found["threshold"]) == ("LessThanThreshold", 1)
    assert (found["treat_missing_data"], found["datapoints_to_alarm"], found["evaluation_periods"]) == (
        "breaching",
        5,
        5,
    )
    assert found["alarm_description"] == "no pod has reported for 150 s"


def stat(name, *, period, statistic):
    dimensions = [{"name": "environment", "value": "dev"}, {"name": "model", "value": "delays"}]
    metric = {"namespace": "modelworks", "metricName": "error", "dimensions": dimensions}
    return {"id": name, "metricStat": {"metric": metric, "period": period, "stat": statistic}}


def measured(window, *queries):
    return {"cloudWatch": {"interval": window, "metricDataQueries": [*queries]}}


@pytest.mark.parametrize(
    ("comparison", "sign"),
    [("GreaterThanThreshold", ">"), ("GreaterThanOrEqualToThreshold", ">="), ("LessThanThreshold", "<")],
)
def test_an_analysis_fails_where_the_alarm_would_fire(comparison, sign):
    found = alarms.analysis_metric(alarm(comparison=comparison, period_seconds=20), DIMENSIONS, interval_seconds=5)
    assert found == {
        "name": "errors",
        "interval": "5s",
        "failureLimit": 0,
        "failureCondition": f"count(result[0].Values, {{# {sign} 0.02}}) >= 2",
        "successCondition": f"count(result[0].Values, {{# {sign} 0.02}}) < 2",
        "consecutiveErrorLimit": 4,
        "provider": measured("60s", stat("ratio", period=20, statistic="Average")),
    }


@pytest.mark.parametrize(
    ("deadline", "interval", "measurements", "window"),
    [(120, 10, 13, "120s"), (60, 7, 9, "60s"), (20, 10, 3, "60s"), (5, 10, 2, "60s")],  # a datapoint at least
)
def test_traffic_is_waited_for_until_the_last_measurement(deadline, interval, measurements, window):
    found = alarms.traffic_metric(
        alarm(), DIMENSIONS, requests=20, deadline_seconds=deadline, interval_seconds=interval
    )
    assert found == {
        "name": "traffic",
        "interval": f"{interval}s",
        "count": measurements,
        "failureLimit": measurements - 1,
        "consecutiveSuccessLimit": 1,
        "successCondition": "len(result[0].Values) > 0 && sum(result[0].Values) >= 20",
        "provider": measured(window, stat("requests", period=60, statistic="SampleCount")),
    }


RATIO = "IF(bad >= 5, bad / requests, 0)"


def test_a_floor_makes_an_expression_of_the_page():
    found = alarms.cloudwatch_alarm(alarm(floor=5, period_seconds=30), DIMENSIONS)
    series = {"namespace": "modelworks", "metric_name": "error", "dimensions": DIMENSIONS, "period": 30}
    assert found["metric_queries"] == [
        {"id": "ratio", "expression": RATIO, "label": "errors", "return_data": True},
        {"id": "bad", "metric": {**series, "stat": "Sum"}},
        {"id": "requests", "metric": {**series, "stat": "SampleCount"}},
    ]
    # CloudWatch takes a metric, or queries, and not both.
    assert not found.keys() & {"namespace", "metric_name", "dimensions", "statistic", "period"}


def test_a_floor_makes_the_same_expression_of_the_analysis():
    found = alarms.analysis_metric(alarm(floor=5), DIMENSIONS, interval_seconds=5)
    assert found["provider"] == measured(
        "180s",
        {"id": "ratio", "expression": RATIO, "returnData": True},
        {**stat("bad", period=60, statistic="Sum"), "returnData": False},
        {**stat("requests", period=60, statistic="SampleCount"), "returnData": False},
    )
    assert found["failureCondition"] == "count(result[0].Values, {# > 0.02}) >= 2"


@pytest.mark.parametrize(
    ("bad", "requests", "breaches"),
    [(1, 20, False), (4, 4, False), (5, 5, True), (5, 249, True), (5, 250, False), (0, 100, False)],
)
def test_one_bad_request_in_twenty_breaches_nothing_and_the_fifth_does(bad, requests, breaches):
    watched = alarms.cloudwatch_alarm(alarm(floor=alarms.FLOOR_REQUESTS), DIMENSIONS)
    now = datetime(2026, 11, 23, tzinfo=UTC)
    series = {"bad": {now: float(bad)}, "requests": {now: float(requests)}}
    value = evaluate(watched["metric_queries"][0]["expression"], series)[now]
    assert (value > watched["threshold"]) is breaches

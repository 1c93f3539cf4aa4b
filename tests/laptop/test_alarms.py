from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from modelworks.laptop import alarms, metric_data
from modelworks.laptop.alarms import Alarm, Evaluator, evaluate

NOW = datetime(2026, 11, 23, 12, 0, 7, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
LATEST = datetime(2026, 11, 23, 11, 59, tzinfo=UTC)


def alarm(
    m: int = 3, n: int = 3, *, missing: str = "missing", state: str = "OK", comparison: str = "GreaterThanThreshold"
):
    return Alarm("Average", comparison, 0.5, 60, n, m, missing, state)


def points(picture: str) -> dict[datetime, float]:
    """`0 - X`: a good, a missing and a breaching datapoint, the latest complete period last."""
    values = {"0": 0.0, "X": 1.0}
    marks = picture.split()
    begins = [LATEST - MINUTE * back for back in range(len(marks) - 1, -1, -1)]
    return {begin: values[mark] for begin, mark in zip(begins, marks, strict=True) if mark != "-"}


# The two tables of "Configuring how CloudWatch alarms treat missing data", CloudWatch user guide. `=`: keeps its state.
THREE_OF_THREE = [
    ("0 - X - X", "OK", "OK", "OK", "OK"),
    ("0 - - - -", "OK", "OK", "OK", "OK"),
    ("- - - - -", "INSUFFICIENT_DATA", "=", "ALARM", "OK"),
    ("0 X X - X", "ALARM", "ALARM", "ALARM", "ALARM"),
    ("- - X - -", "ALARM", "=", "ALARM", "OK"),
]
TWO_OF_THREE = [
    ("0 - X - X", "ALARM", "ALARM", "ALARM", "ALARM"),
    ("0 0 X 0 X", "ALARM", "ALARM", "ALARM", "ALARM"),
    ("0 - X - -", "OK", "OK", "ALARM", "OK"),
    ("- - - - 0", "OK", "OK", "ALARM", "OK"),
    ("- - - X -", "ALARM", "=", "ALARM", "OK"),
]
TREATMENTS = ("missing", "ignore", "breaching", "notBreaching")
CASES = [
    pytest.param(m, picture, treatment, wanted, id=f"{m} of 3, {picture}, {treatment}")
    for m, table in ((3, THREE_OF_THREE), (2, TWO_OF_THREE))
    for picture, *row in table
    for treatment, wanted in zip(TREATMENTS, row, strict=True)
]


@pytest.mark.parametrize("state", ["OK", "ALARM", "INSUFFICIENT_DATA"])
@pytest.mark.parametrize(("m", "picture", "treatment", "wanted"), CASES)
def test_missing_data_is_treated_as_cloudwatch_documents(m, picture, treatment, wanted, state):
    verdict = evaluate(alarm(m, missing=treatment, state=state), points(picture), NOW)
    assert verdict.state == (state if wanted == "=" else wanted)


@pytest.mark.parametrize(
    ("m", "n", "picture", "wanted"),
    [
        (1, 1, "X", "ALARM"),
        (1, 1, "X 0", "OK"),
        (2, 3, "X 0 X", "ALARM"),
        (2, 3, "X X X 0 0", "OK"),
        (3, 3, "X X 0 X X", "OK"),
        (1, 5, "X 0 0 0 0", "ALARM"),
        (5, 5, "X X X X X", "ALARM"),
        (5, 5, "X X X X 0", "OK"),
    ],
)
def test_m_of_the_last_n_datapoints_must_breach(m, n, picture, wanted):
    assert evaluate(alarm(m, n), points(picture), NOW).state == wanted


@pytest.mark.parametrize(
    ("comparison", "below", "equal", "above"),
    [
        ("GreaterThanThreshold", "OK", "OK", "ALARM"),
        ("GreaterThanOrEqualToThreshold", "OK", "ALARM", "ALARM"),
        ("LessThanThreshold", "ALARM", "OK", "OK"),
        ("LessThanOrEqualToThreshold", "ALARM", "ALARM", "OK"),
    ],
)
def test_comparisons(comparison, below, equal, above):
    watched = alarm(1, 1, comparison=comparison)
    assert [evaluate(watched, {LATEST: value}, NOW).state for value in (0.4, 0.5, 0.6)] == [below, equal, above]


def test_one_breaching_datapoint_that_just_came_does_not_fire_an_alarm_that_wants_three():
    assert evaluate(alarm(3, 3), points("- - - - X"), NOW).state == "OK"
    assert evaluate(alarm(3, 3, state="INSUFFICIENT_DATA"), points("- - - - X"), NOW).state == "INSUFFICIENT_DATA"


def test_a_period_that_is_not_over_is_not_judged():
    running = LATEST + MINUTE
    assert evaluate(alarm(1, 1), {LATEST: 0.0, running: 1.0}, NOW).state == "OK"


def test_what_is_older_than_the_evaluation_range_is_not_looked_at():
    old = {LATEST - MINUTE * 5: 1.0, LATEST - MINUTE * 6: 1.0, LATEST - MINUTE * 7: 1.0}
    assert evaluate(alarm(3, 3), old, NOW).state == "INSUFFICIENT_DATA"


def test_the_reason_names_the_datapoints_and_the_threshold():
    verdict = evaluate(alarm(2, 3), points("0 X X"), NOW)
    assert verdict.reason == (
        "Threshold Crossed: 2 out of the last 3 datapoints [1.0 (23/11/26 11:59:00), 1.0 (23/11/26 11:58:00)] were "
        "greater than the threshold (0.5) (minimum 2 datapoints for OK -> ALARM transition)."
    )
    assert verdict.data["recentDatapoints"] == [0.0, 1.0, 1.0]
    assert verdict.data["evaluatedDatapoints"][0] == {"timestamp": "2026-11-23T11:59:00.000+0000", "value": 1.0}


# -- With moto -----------------------------------------------------------------------------------------------------

REGION = "eu-central-1"
DIMENSIONS = [{"Name": "environment", "Value": "local"}, {"Name": "model", "Value": "m"}]


class Account:
    def __init__(self) -> None:
        self.cloudwatch = boto3.client("cloudwatch", REGION)
        self.sqs, self.sns = boto3.client("sqs", REGION), boto3.client("sns", REGION)
        self.evaluator = Evaluator()
        queue = self.sqs.create_queue(QueueName="pages")["QueueUrl"]
        arn = self.sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        self.topic = self.sns.create_topic(Name="alerts")["TopicArn"]
        self.sns.subscribe(TopicArn=self.topic, Protocol="sqs", Endpoint=arn)
        self.queue = queue

    def declare(self, name: str = "errors", **more: object) -> None:
        settings = {
            "Namespace": "modelworks",
            "MetricName": "error",
            "Dimensions": DIMENSIONS,
            "Statistic": "Average",
            "ComparisonOperator": "GreaterThanThreshold",
            "Threshold": 0.01,
            "Period": 60,
            "EvaluationPeriods": 3,
            "DatapointsToAlarm": 2,
            "TreatMissingData": "notBreaching",
            "AlarmDescription": "too many errors",
            "AlarmActions": [self.topic],
            "OKActions": [self.topic],
        }
        settings |= more
        self.cloudwatch.put_metric_alarm(AlarmName=name, **settings)

    def put(self, when: datetime, values: list[float], counts: list[float], dimensions=DIMENSIONS) -> None:
        datum = {"MetricName": "error", "Dimensions": dimensions, "Timestamp": when, "Values": values, "Counts": counts}
        self.cloudwatch.put_metric_data(Namespace="modelworks", MetricData=[datum])

    def state(self, name: str = "errors") -> str:
        return self.cloudwatch.describe_alarms(AlarmNames=[name])["MetricAlarms"][0]["StateValue"]

    def pages(self) -> list[dict]:
        got = self.sqs.receive_message(QueueUrl=self.queue, MaxNumberOfMessages=10).get("Messages", [])
        return [json.loads(message["Body"]) for message in got]


@pytest.fixture
def account(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        yield Account()


def test_a_new_alarm_has_insufficient_data_until_it_is_judged(account):
    account.declare(TreatMissingData="missing")
    account.evaluator.step(NOW)
    assert account.state() == "INSUFFICIENT_DATA"
    assert account.pages() == []


def test_an_alarm_fires_pages_and_recovers(account):
    account.declare()
    account.evaluator.step(NOW)
    assert account.state() == "OK"
    [first] = account.pages()
    for back in (1, 2):
        account.put(LATEST - MINUTE * back + timedelta(seconds=30), [0.0, 1.0], [95, 5])
    account.evaluator.step(NOW)
    account.evaluator.step(NOW)
    assert account.state() == "ALARM"
    [page] = account.pages()
    account.evaluator.step(NOW + MINUTE * 10)
    assert account.state() == "OK"
    [recovery] = account.pages()
    states = [json.loads(one["Message"]) for one in (first, page, recovery)]
    assert [(one["OldStateValue"], one["NewStateValue"]) for one in states] == [
        ("INSUFFICIENT_DATA", "OK"),
        ("OK", "ALARM"),
        ("ALARM", "OK"),
    ]


def test_the_page_is_shaped_as_cloudwatch_shapes_it(account):
    account.declare(EvaluationPeriods=1, DatapointsToAlarm=1)
    account.put(LATEST, [1.0], [3])
    account.evaluator.step(NOW)
    [page] = account.pages()
    message = json.loads(page["Message"])
    trigger = message.pop("Trigger")
    assert page["Subject"] == 'ALARM: "errors" in EU (Frankfurt)'
    assert {key: message[key] for key in ("AlarmName", "AWSAccountId", "Region", "StateChangeTime")} == {
        "AlarmName": "errors",
        "AWSAccountId": "123456789012",
        "Region": "EU (Frankfurt)",
        "StateChangeTime": "2026-11-23T12:00:07.000+0000",
    }
    assert trigger == {
        "MetricName": "error",
        "Namespace": "modelworks",
        "StatisticType": "Statistic",
        "Statistic": "AVERAGE",
        "Unit": None,
        "Dimensions": [{"value": "local", "name": "environment"}, {"value": "m", "name": "model"}],
        "Period": 60,
        "EvaluationPeriods": 1,
        "DatapointsToAlarm": 1,
        "ComparisonOperator": "GreaterThanThreshold",
        "Threshold": 0.01,
        "TreatMissingData": "notBreaching",
        "EvaluateLowSampleCountPercentile": "",
    }


def test_values_of_other_dimensions_do_not_count(account):
    account.declare(Statistic="SampleCount", Threshold=10, EvaluationPeriods=1, DatapointsToAlarm=1)
    account.put(LATEST, [0.0], [8])
    account.put(LATEST, [0.0], [8], [*DIMENSIONS, {"Name": "version", "Value": "v1"}])
    account.evaluator.step(NOW)
    assert account.state() == "OK"


@pytest.mark.parametrize(
    ("statistic", "value"), [("Average", 0.25), ("Sum", 1.0), ("SampleCount", 4.0), ("Minimum", 0.0), ("Maximum", 1.0)]
)
def test_statistics_are_right_over_values_with_counts(account, statistic, value):
    account.declare(
        Statistic=statistic,
        ComparisonOperator="GreaterThanOrEqualToThreshold",
        Threshold=value,
        EvaluationPeriods=1,
        DatapointsToAlarm=1,
    )
    account.declare("above", Statistic=statistic, Threshold=value, EvaluationPeriods=1, DatapointsToAlarm=1)
    account.put(LATEST, [0.0, 1.0], [3, 1])
    account.evaluator.step(NOW)
    assert (account.state(), account.state("above")) == ("ALARM", "OK")


def test_compacting_keeps_every_statistic_and_little_else(account):
    from moto.cloudwatch.models import cloudwatch_backends

    account.put(LATEST, [0.0, 1.0], [3000, 1000])
    account.put(NOW - timedelta(hours=25), [1.0], [10])

    def statistics() -> list[dict]:
        return account.cloudwatch.get_metric_statistics(
            Namespace="modelworks",
            MetricName="error",
            Dimensions=DIMENSIONS,
            Period=60,
            StartTime=NOW - timedelta(hours=1),
            EndTime=NOW,
            Statistics=list(metric_data.STATISTICS),
        )["Datapoints"]

    before = statistics()
    account.evaluator.step(NOW)
    assert statistics() == before
    assert len(cloudwatch_backends["123456789012"][REGION].metric_data) == 1


def test_an_alarm_that_is_declared_anew_keeps_its_state(account):
    account.declare()
    for back in (0, 1):
        account.put(LATEST - MINUTE * back, [1.0], [1])
    account.evaluator.step(NOW)
    account.pages()
    account.declare(AlarmDescription="the same, said better")
    account.evaluator.step(NOW)
    assert account.state() == "ALARM"
    assert account.pages() == []


def test_a_state_set_by_hand_pages_and_is_corrected(account):
    account.declare()
    account.evaluator.step(NOW)
    account.pages()
    account.cloudwatch.set_alarm_state(AlarmName="errors", StateValue="ALARM", StateReason="a drill")
    account.evaluator.step(NOW)
    pages = [json.loads(page["Message"]) for page in account.pages()]
    assert [(page["NewStateValue"], page["NewStateReason"][:7]) for page in pages] == [
        ("ALARM", "a drill"),
        ("OK", "Thresho"),
    ]


def test_actions_that_are_switched_off_do_not_page(account):
    account.declare(ActionsEnabled=False)
    account.cloudwatch.disable_alarm_actions(AlarmNames=["errors"])
    account.evaluator.step(NOW)
    assert account.state() == "OK"
    assert account.pages() == []


def test_an_action_that_cannot_be_delivered_does_not_stop_the_others(account):
    lost = account.topic.replace("alerts", "lost")
    account.declare(OKActions=[lost, "arn:aws:automate:eu-central-1:ec2:stop", account.topic])
    account.evaluator.step(NOW)
    assert len(account.pages()) == 1


def test_kinds_that_are_only_recorded_are_left_alone(account):
    account.cloudwatch.put_metric_alarm(
        AlarmName="p99",
        Namespace="modelworks",
        MetricName="latency",
        ExtendedStatistic="p99",
        Period=60,
        EvaluationPeriods=1,
        Threshold=1.0,
        ComparisonOperator="GreaterThanThreshold",
    )
    account.evaluator.step(NOW)
    assert account.state("p99") == "INSUFFICIENT_DATA"


RATIO = "IF(bad >= 5, bad / requests, 0)"


def queries(expression: str = RATIO, **more: object) -> list[dict]:
    metric = {"Namespace": "modelworks", "MetricName": "error", "Dimensions": DIMENSIONS}
    return [
        {"Id": "ratio", "Expression": expression, "ReturnData": True},
        {"Id": "bad", "MetricStat": {"Metric": metric, "Period": 60, "Stat": "Sum"}, "ReturnData": False},
        {
            "Id": "requests",
            "MetricStat": {"Metric": metric, "Period": 60, "Stat": "SampleCount", **more},
            "ReturnData": False,
        },
    ]


def declare_ratio(account, metrics: list[dict]) -> None:
    account.cloudwatch.put_metric_alarm(
        AlarmName="errors",
        Metrics=metrics,
        ComparisonOperator="GreaterThanThreshold",
        Threshold=0.01,
        EvaluationPeriods=3,
        DatapointsToAlarm=2,
        TreatMissingData="notBreaching",
        AlarmActions=[account.topic],
    )


@pytest.mark.parametrize(
    ("good", "bad", "wanted"),
    [(19, 1, "OK"), (0, 4, "OK"), (15, 5, "ALARM"), (0, 5, "ALARM"), (995, 5, "OK"), (100, 0, "OK")],
)
def test_an_alarm_compares_its_expression(account, good, bad, wanted):
    declare_ratio(account, queries())
    for back in (0, 1):
        account.put(LATEST - MINUTE * back, [0.0, 1.0], [good, bad])
        account.put(LATEST - MINUTE * back, [1.0], [90], [*DIMENSIONS, {"Name": "version", "Value": "v1"}])
    account.evaluator.step(NOW)
    assert account.state() == wanted


def test_an_expression_without_datapoints_is_missing_data(account):
    declare_ratio(account, queries())
    account.evaluator.step(NOW)
    assert account.state() == "OK"


def test_the_page_of_an_expression_names_its_metrics(account):
    declare_ratio(account, queries())
    for back in (0, 1):
        account.put(LATEST - MINUTE * back, [1.0], [5])
    account.evaluator.step(NOW)
    [page] = account.pages()
    trigger = json.loads(page["Message"])["Trigger"]
    assert [query["Id"] for query in trigger["Metrics"]] == ["ratio", "bad", "requests"]
    assert trigger["Metrics"][0] == {"Id": "ratio", "Expression": RATIO, "ReturnData": True}
    assert trigger["Metrics"][1]["MetricStat"]["Metric"]["MetricName"] == "error"
    assert "MetricName" not in trigger


@pytest.mark.parametrize(
    ("metrics", "why"),
    [
        (queries("SUM(bad)"), "'SUM(bad)' has 'SUM' at character 1"),
        (queries("bad / others"), "names 'others', which is no metric of it: it has bad, requests"),
        (queries(Stat="p99"), "it reads p99, and only Average, Sum, SampleCount, Minimum, Maximum are evaluated"),
        (queries(Period=300), "its metrics must have one period, got [60, 300]"),
        (
            [{**query, "ReturnData": True} for query in queries()],
            "one query of an alarm must have ReturnData and the others not, got 3 that have",
        ),
    ],
)
def test_an_expression_that_is_not_evaluated_leaves_the_alarm_undecided_and_says_why(account, metrics, why):
    declare_ratio(account, metrics)
    account.put(LATEST, [1.0], [50])
    account.evaluator.step(NOW)
    [found] = account.cloudwatch.describe_alarms(AlarmNames=["errors"])["MetricAlarms"]
    assert found["StateValue"] == "INSUFFICIENT_DATA"
    assert found["StateReason"].startswith("Unchecked: the laptop does not evaluate it: ")
    assert why in found["StateReason"]


@pytest.fixture
def expressions(account, monkeypatch):
    from moto.cloudwatch import models

    monkeypatch.setattr(models, "parse_expression", models.parse_expression)
    metric_data.serve_expressions()
    return account.cloudwatch


def test_get_metric_data_answers_an_expression_newest_first_and_nothing_else(account, expressions):
    for back, bad in ((0, 5), (1, 20), (2, 4)):
        account.put(LATEST - MINUTE * back, [0.0, 1.0], [20 - bad, bad])
    answer = expressions.get_metric_data(
        MetricDataQueries=queries(), StartTime=LATEST - MINUTE * 4, EndTime=LATEST + MINUTE
    )
    [result] = answer["MetricDataResults"]
    assert (result["Id"], result["Values"]) == ("ratio", [0.25, 1.0, 0.0])


def test_get_metric_data_of_an_idle_series_is_empty(expressions):
    answer = expressions.get_metric_data(MetricDataQueries=queries(), StartTime=LATEST, EndTime=LATEST + MINUTE)
    assert answer["MetricDataResults"][0]["Values"] == []


def test_get_metric_data_refuses_an_expression_that_it_does_not_know(expressions):
    with pytest.raises(ClientError, match=r"Error in expression: 'SUM\(bad\)' has 'SUM' at character 1"):
        expressions.get_metric_data(MetricDataQueries=queries("SUM(bad)"), StartTime=LATEST, EndTime=LATEST + MINUTE)


def test_the_history_is_told(account, monkeypatch):
    from moto.cloudwatch.responses import CloudWatchResponse

    monkeypatch.setattr(CloudWatchResponse, "describe_alarm_history", None, raising=False)
    alarms._serve_history(account.evaluator)
    account.declare()
    account.evaluator.step(NOW)
    items = account.cloudwatch.describe_alarm_history(AlarmName="errors")["AlarmHistoryItems"]
    assert [(item["HistoryItemType"], item["HistorySummary"]) for item in items] == [
        ("Action", f"Successfully executed action {account.topic}"),
        ("StateUpdate", "Alarm updated from INSUFFICIENT_DATA to OK"),
    ]

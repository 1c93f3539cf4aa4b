"""An alarm of a laptop's environment, from a metric to the page, over the network as a user's program does it."""

from __future__ import annotations

import http.server
import json
import threading

import boto3
import pytest

from modelworks.alarms import Alarm, cloudwatch_alarm, endpoint_alarms
from modelworks.laptop.aws_credentials import read_credentials
from modelworks.laptop.state_dir import StateDir, read_facts
from waiting import eventually

pytestmark = pytest.mark.e2e


@pytest.fixture
def client(aws_laptop: StateDir):
    facts = read_facts(aws_laptop.environment("local") / "environment.json")
    credentials = read_credentials(aws_laptop, "local")

    def make(service: str):
        return boto3.client(
            service,
            region_name=facts["region"],
            endpoint_url=f"http://127.0.0.1:{facts['aws_port']}",
            aws_access_key_id=credentials.key,
            aws_secret_access_key=credentials.secret,
        )

    return make


@pytest.fixture
def hook():
    """A web server that keeps what is posted to it."""
    got: list[dict] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", got
    server.shutdown()
    server.server_close()


def test_a_breaching_metric_pages_a_queue_and_a_web_hook_and_is_in_the_history(client, hook):
    url, posted = hook
    cloudwatch, sns, sqs = client("cloudwatch"), client("sns"), client("sqs")
    queue = sqs.create_queue(QueueName="pages")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    topic = sns.create_topic(Name="alerts")["TopicArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    sns.subscribe(TopicArn=topic, Protocol="http", Endpoint=url)
    cloudwatch.put_metric_alarm(
        AlarmName="errors",
        Namespace="modelworks",
        MetricName="error",
        Statistic="Average",
        ComparisonOperator="GreaterThanThreshold",
        Threshold=0.01,
        Period=10,
        EvaluationPeriods=1,
        TreatMissingData="missing",
        AlarmActions=[topic],
    )
    datum = {"MetricName": "error", "Values": [0.0, 1.0], "Counts": [90, 10]}
    cloudwatch.put_metric_data(Namespace="modelworks", MetricData=[datum])

    def page():
        got = sqs.receive_message(QueueUrl=queue).get("Messages", [])
        return json.loads(json.loads(got[0]["Body"])["Message"]) if got else None

    paged = eventually(page)
    assert (paged["AlarmName"], paged["NewStateValue"]) == ("errors", "ALARM")
    assert eventually(lambda: [one for one in posted if one["Type"] == "Notification"])[0]["Message"] == json.dumps(
        paged
    )
    history = cloudwatch.describe_alarm_history(AlarmName="errors", HistoryItemType="StateUpdate")["AlarmHistoryItems"]
    assert history[-1]["HistorySummary"] == "Alarm updated from INSUFFICIENT_DATA to ALARM"


def test_an_alarm_on_an_expression_fires_from_the_fifth_bad_request_on(client):
    cloudwatch = client("cloudwatch")
    alarm = endpoint_alarms(error_ratio=0.01, period_seconds=10)[0]
    for model, good, bad in (("few", 19, 1), ("five", 15, 5)):
        series = {"Namespace": "modelworks", "MetricName": "error", "Dimensions": [{"Name": "model", "Value": model}]}
        cloudwatch.put_metric_alarm(
            AlarmName=model,
            ComparisonOperator=alarm.comparison,
            Threshold=alarm.threshold,
            EvaluationPeriods=1,
            TreatMissingData="missing",
            Metrics=queries(alarm, series),
        )
        datum = {"Values": [0.0, 1.0], "Counts": [good, bad]} | {k: v for k, v in series.items() if k != "Namespace"}
        cloudwatch.put_metric_data(Namespace="modelworks", MetricData=[datum])

    def verdict(model: str) -> str:
        history = cloudwatch.describe_alarm_history(AlarmName=model, HistoryItemType="StateUpdate")
        return "".join(item["HistorySummary"] for item in history["AlarmHistoryItems"][-1:])

    assert eventually(lambda: verdict("few")) == "Alarm updated from INSUFFICIENT_DATA to OK"
    assert eventually(lambda: verdict("five")) == "Alarm updated from INSUFFICIENT_DATA to ALARM"


def queries(alarm: Alarm, series: dict) -> list[dict]:
    """The queries of an alarm, as the API takes them."""
    ratio, *terms = cloudwatch_alarm(alarm, {})["metric_queries"]
    return [
        {"Id": ratio["id"], "Expression": ratio["expression"], "ReturnData": True},
        *(
            {
                "Id": term["id"],
                "MetricStat": {"Metric": series, "Period": term["metric"]["period"], "Stat": term["metric"]["stat"]},
                "ReturnData": False,
            }
            for term in terms
        ),
    ]

"""The publisher beside the server: it may die at any time, and nothing is lost but with a count."""

from __future__ import annotations

import signal
import subprocess
from types import SimpleNamespace

import psutil
import pytest

from modelworks import contract
from modelworks.runtime.server import companion, metrics
from modelworks.runtime.server.companion import Companion, State
from modelworks.runtime.server.config import Config
from modelworks.runtime.server.delivery import delivery
from modelworks.runtime.server.logs import Scribe
from modelworks.runtime.server.prediction_log import PredictionLog
from runtime import small
from runtime.example_bundle import rows
from runtime.published import logged, statistic
from runtime.running import sample
from runtime.test_publishing import spooled
from waiting import eventually


def test_a_publisher_that_dies_is_reported_and_replaced_and_nothing_is_lost(serve, example, published, aws):
    server = serve(example, **published).ready()
    asked = rows(20)
    for row in asked[:10]:
        server.ask("POST", "/v1/predict", row)
    server.publisher().kill()
    for row in asked[10:]:
        assert server.ask("POST", "/v1/predict", row)[0] == 200
    eventually(lambda: sample(server, "publisher_restarts_total") == 1 and sample(server, "publisher_up") == 1)
    [line] = [line for line in server.lines() if line["message"] == "the publisher ended; it is started again"]
    assert line["exit_code"] == -signal.SIGKILL
    assert server.stop() == 0
    assert len({row["request_id"] for row in logged(aws)}) == len(logged(aws)) == 20
    version = {"environment": "test", "model": "delays", "version": contract.short_digest(example.digest)}
    # A publication that was under way when its publisher was killed comes again.
    assert statistic("latency", "SampleCount", **version) >= 20


def test_a_server_that_ends_while_its_publisher_is_dead_publishes_what_is_left(
    serve, example, published, aws, tmp_path
):
    later = {contract.ENV_METRICS_SECONDS: "3600", contract.ENV_PREDICTION_LOG_SECONDS: "3600"}
    server = serve(example, **{**published, **later}).ready()
    for row in rows(5):
        server.ask("POST", "/v1/predict", row)
    eventually(lambda: spooled(tmp_path / "scratch") == 5)
    server.publisher().kill()
    eventually(lambda: "the publisher ended; it is started again" in server.messages())
    assert server.stop() == 0
    assert len(logged(aws)) == 5
    version = {"environment": "test", "model": "delays", "version": contract.short_digest(example.digest)}
    assert statistic("latency", "SampleCount", **version) == 5


def test_counts_go_on_where_a_killed_server_left_them(serve, example, published, aws):
    published[contract.ENV_METRICS_SECONDS] = "3600"
    server = serve(example, **published).ready()
    for row in rows(7):
        server.ask("POST", "/v1/predict", row)
    eventually(lambda: sample(server, "requests_unpublished") == 7)
    beat = (server.ask("GET", "/metrics"), server.ask("GET", "/metrics"))  # which shows the numbers to the publisher
    assert beat
    publisher = server.publisher()
    publisher.kill()
    server.process.kill()
    server.process.wait()
    assert serve(example, **published).ready().stop() == 0
    version = {"environment": "test", "model": "delays", "version": contract.short_digest(example.digest)}
    assert statistic("latency", "SampleCount", **version) == 7


def test_a_server_reports_what_it_could_not_publish(serve, example, published, tmp_path):
    published[contract.ENV_BUNDLE_URI] = str(example.archive)
    server = serve(example, **published, AWS_ENDPOINT_URL="http://127.0.0.1:1").ready()
    for row in rows(3):
        server.ask("POST", "/v1/predict", row)
    eventually(lambda: spooled(tmp_path / "scratch") or sample(server, "prediction_log_up") == 0)
    assert sample(server, "prediction_log_waiting_rows") == 3
    assert sample(server, "requests_unpublished") == 3
    assert server.stop() == 0
    last = server.lines()[-1]
    assert (last["message"], last["rows"], last["requests"]) == (
        "the server ended before everything was published", 3, 3,
    )  # fmt: skip


def test_a_publisher_that_cannot_live_is_started_less_and_less_often(tmp_path, monkeypatch):
    lines: list[dict] = []
    monkeypatch.setattr(companion, "say", lambda level, message, **fields: lines.append({"is": message, **fields}))
    monkeypatch.setattr(companion, "_FIRST_SECONDS", 0.001)
    monkeypatch.setattr(companion, "_LONGEST_SECONDS", 0.008)
    monkeypatch.setattr(
        Companion, "_start", lambda _self, *_fd: subprocess.Popen(["sh", "-c", "exit 3"], stdin=subprocess.PIPE)
    )
    beside = Companion(tmp_path)
    beside.begin(tmp_path)
    eventually(lambda: len(lines) >= 6)
    beside.close()
    assert [line["seconds"] for line in lines[:6]] == [0.001, 0.002, 0.004, 0.008, 0.008, 0.008]
    assert {line["exit_code"] for line in lines} == {3}
    assert not beside.up


def test_no_gauge_is_up_while_the_publisher_is_dead(tmp_path):
    reported = State(cloudwatch_up=True, prediction_log_up=True, requests=90, rows_lost={"unreadable": 5})
    dead = SimpleNamespace(up=False, restarts=3, state=lambda: reported)
    config = Config(bundle_uri="here", digest="sha256:" + "0" * 64, model="tiny", prediction_log="s3://b/p")
    row = metrics.Layout("regression", 0).empty()
    row[metrics.REQUESTS] = 100
    log = PredictionLog(tmp_path / "spool", small.MANIFEST, 1.0)
    log.losses.add("memory", 2)
    found = {each.name.removeprefix("modelworks_"): each.values for each in delivery(config, row, Scribe(), log, dead)}
    assert found["publisher_up"] == found["cloudwatch_up"] == found["prediction_log_up"] == {"": 0}
    assert found["requests_unpublished"] == {"": 10}
    assert found["publisher_restarts_total"] == {"": 3}
    assert found["prediction_log_dropped_total"] == {
        "memory": 2, "disk": 0, "spool_full": 0, "unfinished": 0, "unreadable": 5, "refused": 0,
    }  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_ends_the_publisher_after_the_server(serve, example, published, aws, number):
    server = serve(example, **published).ready()
    publisher = server.publisher()
    publisher.send_signal(number)
    server.ask("POST", "/v1/predict", rows(1)[0])
    assert server.stop() == 0
    assert len(logged(aws)) == 1
    assert not psutil.pid_exists(publisher.pid)
    assert "the publisher ended; it is started again" not in server.messages()

"""Metrics and the prediction log, on their way to AWS and back."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from modelworks import contract
from modelworks.runtime.server import spool
from runtime import custom_bundle
from runtime.example_bundle import rows
from runtime.published import logged, statistic
from waiting import eventually, held_port


def test_ratios_arrive_in_cloudwatch_with_and_without_version(serve, example, published):
    # Slow from the first microsecond on: every good answer counts.
    server = serve(example, **published, **{contract.ENV_LATENCY_OBJECTIVE_MS: "0.001"}).ready()
    for row in rows(6):
        server.ask("POST", "/v1/predict", row)
    for _ in range(2):
        server.ask("POST", "/v1/predict", {"x0": "far"})
    assert server.stop() == 0
    endpoint = {"environment": "test", "model": "delays"}
    version = {**endpoint, "version": contract.short_digest(example.digest)}
    # Without `version` moto adds up both series (it matches any superset of dimensions), so only the ratio is told.
    assert statistic("slow", "SampleCount", **version) == 8
    assert statistic("slow", "Average", **version) == pytest.approx(6 / 8)
    assert statistic("slow", "Average", **endpoint) == pytest.approx(6 / 8)
    assert statistic("error", "Average", **version) == 0
    assert statistic("error", "SampleCount", **version) == 8
    assert statistic("latency", "SampleCount", **version) == 8
    assert statistic("prediction", "SampleCount", **version) == 6


def test_predictions_are_kept_by_day_without_private_features(serve, example, published, aws):
    server = serve(example, **published).ready()
    answers = [server.ask("POST", "/v1/predict", row)[1]["predictions"][0] for row in rows(5)]
    found = eventually(lambda: (kept := logged(aws)) and len(kept) == 5 and kept)
    assert sorted(row["score"] for row in found) == pytest.approx(sorted(each["score"] for each in answers), abs=1e-6)
    assert f"dt={found[0]['time'].date()}" in found[0]["key"]
    assert {row["label"] for row in found} == {each["label"] for each in answers}
    assert found[0]["version"] == contract.short_digest(example.digest)
    assert "feature_x0" in found[0]
    assert "feature_x2" not in found[0]


def test_a_service_of_its_own_is_counted_and_logged_as_any(serve, custom_example, published, aws):
    aws.upload_file(str(custom_example.archive), "store", "bundles/delays/x.bento")
    server = serve(custom_example, **published).ready()
    for behaviour in (0, 0, custom_bundle.RAISES, custom_bundle.REFUSES):
        server.ask("POST", "/v1/predict", custom_bundle.row(behaviour, x3=1.5))
    server.ask("POST", "/v1/explain", {"row": {}})
    found = eventually(lambda: (kept := logged(aws)) and len(kept) == 2 and kept)
    assert server.stop() == 0
    version = {"environment": "test", "model": "delays", "version": contract.short_digest(custom_example.digest)}
    assert statistic("error", "SampleCount", **version) == 5
    assert statistic("error", "Average", **version) == pytest.approx(1 / 5)
    assert statistic("prediction", "SampleCount", **version) == 2
    assert {(row["label"], row["score"], row["feature_x3"]) for row in found} == {("late", 0.75, 1.5)}
    assert "feature_x2" not in found[0]


def spooled(scratch: Path) -> int:
    """Requests whose answers are in finished files of the spool."""
    return sum(len(chunk.ids) for path in scratch.glob("*/spool/*.rows") for chunk in spool.read_chunks(path))


def test_what_a_killed_server_had_spooled_is_taken_by_the_next_one(serve, example, published, aws, tmp_path):
    patient = {**published, contract.ENV_PREDICTION_LOG_SECONDS: "3600"}
    server = serve(example, **patient).ready()
    for row in rows(30):
        server.ask("POST", "/v1/predict", row)
    eventually(lambda: spooled(tmp_path / "scratch") == 30)
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait()
    serve(example, **published).ready()
    eventually(lambda: len(logged(aws)) >= 30)
    assert len({row["request_id"] for row in logged(aws)}) == 30


def test_serving_goes_on_while_aws_is_away_and_says_so(serve, example, published, aws, monkeypatch):
    published[contract.ENV_BUNDLE_URI] = str(example.archive)
    working = os.environ["AWS_ENDPOINT_URL"]
    with held_port() as nobody:
        away = "http://{}:{}".format(*nobody.getsockname())
        server = serve(example, **published, AWS_ENDPOINT_URL=away).ready()
        for row in rows(10):
            assert server.ask("POST", "/v1/predict", row)[0] == 200
        eventually(lambda: "modelworks_prediction_log_up 0" in server.ask("GET", "/metrics")[1])
        eventually(lambda: "modelworks_cloudwatch_up 0" in server.ask("GET", "/metrics")[1])
        assert server.ask("GET", "/readyz")[0] == 200
        said = [line["message"] for line in server.lines() if line["level"] == "error"]
        assert len(said) == len(set(said)) == 2
        server.stop()
    # What could not be delivered is delivered by the next life.
    serve(example, **published, AWS_ENDPOINT_URL=working).ready()
    eventually(lambda: len(logged(aws)) == 10)


def test_a_sample_keeps_a_share(serve, example, published, aws):
    server = serve(example, **published, **{contract.ENV_PREDICTION_LOG_SAMPLE: "0"}).ready()
    server.ask("POST", "/v1/predict", rows(1)[0])
    server.stop()
    assert logged(aws) == []

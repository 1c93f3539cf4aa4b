"""A Job watched to its end: against an API server of the tests."""
# ruff: noqa: N802 (methods of a handler are named by http.server)

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from typing import Any

import boto3
import pytest
from moto import mock_aws

from cli.test_serving import JsonHandler, cluster_at
from cluster.test_training_job import ORDER, PLACE, a_job, a_pod
from modelworks.cli import training
from modelworks.cluster import client as clusters
from modelworks.cluster.client import KubernetesClient
from modelworks.contract import Digest, RunId
from modelworks.errors import ModelworksError
from modelworks.lifecycle.artifacts import Artifacts, JobNote, Made

JOBS, PODS, EVENTS = "/apis/batch/v1/namespaces/n/jobs", "/api/v1/namespaces/n/pods", "/api/v1/namespaces/n/events"
MADE = Made(run=RunId("0123456789abcdef"), archive=Digest(f"sha256:{'0' * 64}"))
ENDED = [
    {**a_pod(terminated={"exitCode": 137}), "metadata": {"name": "p", "creationTimestamp": "2026-11-25T10:00:00Z"}}
]
ENDED[0]["status"]["phase"] = "Failed"


@dataclass
class Api:
    """An API server whose one Job has ended after it was asked a few times."""

    job: dict[str, Any]
    pods: list[Any] = field(default_factory=lambda: ENDED)
    events: list[Any] = field(default_factory=list)
    goes_on: int = 1
    """How often the Job is seen running before it is seen ended."""
    away: int = 0
    """How often it answers that it is not there."""
    broken: int = 0
    """How often a log breaks off in its middle; the Job goes on until it was read to its end."""
    refuses: str = ""
    """What it says to a new Job."""
    deleted: list[str] = field(default_factory=list)
    logs: int = 0


class _Handler(JsonHandler):
    api: Api

    def do_GET(self) -> None:
        api, path = self.api, self.path.partition("?")[0]
        if path.startswith(JOBS) and api.away:
            api.away -= 1
            self._send({"message": "starting"}, 503)
        elif path.startswith(JOBS):
            api.goes_on -= 1
            ended = api.goes_on < 0 and (api.logs > api.broken or not api.broken)
            self._send(api.job if ended else a_job())
        elif path.endswith("/log"):
            self._log()
        elif path.rstrip("/").endswith("/version"):
            self._send({"major": "1", "minor": "35", "gitVersion": "v1.35.0"})
        else:
            self._send({"items": api.pods if path == PODS else api.events})

    def _log(self) -> None:
        self.api.logs += 1
        self.send_response(200)
        self.send_header("Content-Length", "12")
        self.end_headers()
        self.wfile.write(b"one\n" if self.api.logs <= self.api.broken else b"one\ntwo\nsix\n")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._send({"message": self.api.refuses}, 403) if self.api.refuses else self._send({}, 201)

    def do_DELETE(self) -> None:
        self.api.deleted.append(self.path.rpartition("/")[2])
        self._send({"message": "not found"}, 404)


@dataclass
class Target:
    """An environment, as far as a run needs it."""

    session: Any
    environment: str = "dev"


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """Watches the Job of an API server that behaves as told, and says how it ended."""
    monkeypatch.setattr(clusters, "_POLL_SECONDS", 0.02)
    with mock_aws():
        session = boto3.Session("test", "test", region_name="us-east-1")
        session.client("s3").create_bucket(Bucket="artifacts")
        servers = []

        def watch(api: Api) -> Made:
            server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"api": api}))
            servers.append(server)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            found = cluster_at(f"http://127.0.0.1:{server.server_port}", tmp_path)
            return training._watched(Target(session), found, Artifacts("artifacts", session), PLACE, ORDER, "train-1")

        watch.artifacts = Artifacts("artifacts", session)
        yield watch
        for server in servers:
            server.shutdown()
            server.server_close()


def counted() -> list[float]:
    from moto.cloudwatch.models import cloudwatch_backends

    return [
        datum.value for regions in cloudwatch_backends.values() for one in regions.values() for datum in one.metric_data
    ]


def fails(watched, api: Api) -> ModelworksError:
    with pytest.raises(ModelworksError) as caught:
        watched(api)
    return caught.value


def test_a_run_ends_with_what_it_noted_of_itself(watched):
    watched.artifacts.note("train-1", JobNote(made=MADE))
    assert watched(Api(a_job("Complete"))) == MADE


def test_a_run_that_succeeded_and_noted_none_is_an_error(watched):
    error = fails(watched, Api(a_job("Complete")))
    assert (error.message, error.exit_code) == ("the job train-1 succeeded and left no note of a run", 1)


def test_a_log_that_breaks_off_is_read_on_and_no_line_is_said_twice(watched, capfd):
    watched.artifacts.note("train-1", JobNote(made=MADE))
    watched(Api(a_job("Complete"), broken=2))
    assert capfd.readouterr().err.splitlines()[-3:] == ["one", "two", "six"]


def test_a_cluster_that_is_away_for_a_moment_does_not_end_the_watch(watched, capfd):
    watched.artifacts.note("train-1", JobNote(made=MADE))
    watched(Api(a_job("Complete"), away=3))
    assert "trying again" in capfd.readouterr().err


def test_a_run_that_was_killed_is_counted_by_who_watches(watched):
    error = fails(watched, Api(a_job("Failed", "BackoffLimitExceeded")))
    assert error.exit_code == 137
    assert "killed by signal 9" in error.message
    assert counted() == [1.0, 1.0]


def test_a_run_that_counted_itself_is_not_counted_again(watched):
    watched.artifacts.note("train-1", JobNote(error="model.py:7: boom", counted=True))
    error = fails(watched, Api(a_job("Failed", "PodFailurePolicy")))
    assert error.message == "the run of churn in dev failed: model.py:7: boom"
    assert "kubectl -n modelworks-dev-training logs job/train-1" in error.fix
    assert counted() == []


def test_a_quota_of_jobs_that_is_used_up_is_said_with_its_numbers(watched):
    error = fails(
        watched, Api(a_job(), refuses='jobs "x" is forbidden: exceeded quota: training, used: 20, limited: 20')
    )
    assert error.message == "the quota for training is used up (training, used: 20, limited: 20)"


def test_a_run_without_room_for_its_pod_leaves_nothing_waiting(watched):
    message = 'pods "x" is forbidden: exceeded quota: training, requested: requests.cpu=1'
    api = Api(a_job(), pods=[], events=[{"reason": "FailedCreate", "message": message}])
    assert "requests.cpu=1" in fails(watched, api).message
    assert (api.deleted, counted()) == (["train-1"], [])


def test_ctrl_c_deletes_the_job_and_counts_nothing(watched, monkeypatch, capfd):
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(KubernetesClient, "follow", interrupted)
    api = Api(a_job())
    with pytest.raises(training.typer.Exit) as caught:
        watched(api)
    assert caught.value.exit_code == 130
    assert api.deleted == ["train-1"]
    assert "cancelled" in capfd.readouterr().err
    assert counted() == []

"""A model that reads features, released on the laptop: declared, materialized by the job of its store, asked by key."""

from __future__ import annotations

import json
import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import httpx
import pytest
import yaml

from e2e.test_lifecycle import Rehearsal
from lifecycle.test_stored_features import Flights
from modelworks.laptop import cloud
from waiting import PATIENCE, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

STACK = """\
config:
  aws:region: eu-central-1
  aws:allowedAccountIds: ["111111111111"]
  modelworks:settings:
    owner: tests
    cost_centre: "1"
    registry: {}
    training: {retries: 0}
    features: {}
    endpoints:
      flights:
        allow_anonymous: true
        minimum_replicas: 1
        feature_services: [flight]
        limits: {period_seconds: 10}
"""


@pytest.fixture
def project():
    folder = Path(tempfile.mkdtemp(prefix="modelworks-stored-"))
    made = Rehearsal(folder)
    made.stack("staging").unlink()
    shutil.rmtree(made.project / "models" / "flight_delay")  # its views have the same names
    made.stack("dev").write_text(STACK)
    try:
        yield made
    finally:
        cloud.down(made.place)
        shutil.rmtree(folder, ignore_errors=True)


def upload(history: Path, location: str, client) -> None:
    bucket, _, prefix = location.removeprefix("s3://").partition("/")
    for file in history.rglob("*.parquet"):
        client.upload_file(str(file), bucket, f"{prefix}/{file.relative_to(history)}")


def run(project: Rehearsal, cron_job: str) -> str:
    """Run a job of the environment's now and to its end, and return its log."""
    return project._run(
        [
            "bash",
            "-c",
            f"""
            set -e
            eval "$(modelworks env dev)"
            kubectl create job now-{cron_job} --namespace modelworks-dev --from=cronjob/{cron_job} >&2
            kubectl wait job/now-{cron_job} --namespace modelworks-dev --for=condition=complete \
                --timeout={PATIENCE}s >&2 || kubectl describe pods --namespace modelworks-dev >&2
            kubectl logs job/now-{cron_job} --namespace modelworks-dev
            """,
        ]
    )


def measured(client, metric: str, **dimensions: str) -> list[float]:
    """The datapoints of a metric of features in the last hour."""
    now = datetime.now(UTC)
    found = client.get_metric_statistics(
        Namespace="modelworks/features",
        MetricName=metric,
        Dimensions=[{"Name": name, "Value": value} for name, value in dimensions.items()],
        StartTime=now - timedelta(hours=1),
        EndTime=now + timedelta(minutes=1),
        Period=60,
        Statistics=["Maximum"],
    )
    return [point["Maximum"] for point in found["Datapoints"]]


def test_a_released_model_answers_by_key_with_the_features_of_its_environment(project, monkeypatch):
    flights = Flights(project.project)
    monkeypatch.setenv("MODELWORKS_FEATURE_HISTORY", str(flights.history))
    project.modelworks("laptop", "up", "dev")
    project.declare("dev")
    project.commit()
    place = json.loads(project.pulumi("dev", "stack", "output", "features", "--json"))
    store = yaml.safe_load(place["feature_store_yaml"])
    upload(flights.history, store["offline_store"]["location"], boto3.client("s3", **project.aws("dev")))
    project.modelworks("features", "apply", "--env", "dev")
    log = run(project, "features-materialize")
    assert "delays: 40 written" in log, log
    online = json.loads(project.modelworks("features", "get", "flight", "tail=N3", "origin=EWR", "--env", "dev"))
    assert isinstance(online["flights"], int)
    metrics = boto3.client("cloudwatch", **project.aws("dev"))
    lags = [measured(metrics, "feature_lag", environment="dev", view=view) for view in ("delays", "weather")]
    assert [len(lag) for lag in lags] == [1, 1]
    log = run(project, "features-verify")
    assert "delays:flights: 40 compared, 0 different, 0 missing" in log, log
    skews = [measured(metrics, "feature_skew", environment="dev", view=view) for view in ("delays", "weather")]
    assert skews == [[0.0], [0.0]]
    again = json.loads(project.modelworks("features", "materialize", "--env", "dev", "--json"))
    assert {each["view"] for each in again} == {"delays", "weather"}
    here = json.loads(project.modelworks("train", "flights", "--json"))
    for name in ("runs", "data"):
        shutil.rmtree(project.models / name)
    there = json.loads(project.modelworks("train", "flights", "--env", "dev", "--json"))
    assert (there["run"], there["inputs"]) == (
        here["run"],
        here["inputs"],
    )  # by the history of the environment's bucket
    project.modelworks("bundle", "flights")
    project.modelworks("register", "flights", "--env", "dev")
    project.modelworks("release", "flights", "--env", "dev")
    project.modelworks("up", "dev", "--yes")
    (endpoint,) = json.loads(project.modelworks("status", "dev", "--wait", "--json"))["endpoints"]

    def answer(tail: str | None) -> httpx.Response:
        row = {"tail": tail, "origin": "EWR", "distance": 700}
        return httpx.post(f"{endpoint['url']}/v1/predict", json=row, timeout=PATIENCE, trust_env=False)

    eventually(lambda: answer("N3").status_code == 200)
    [known], [unknown] = (answer(tail).json()["predictions"] for tail in ("N3", None))
    assert known["score"] != unknown["score"]
    served = eventually(
        lambda: json.loads(project.modelworks("features", "verify", "--served", "--env", "dev", "--json"))
    )
    assert {(skew["model"], skew["view"]) for skew in served} == {("flights", "delays"), ("flights", "weather")}
    assert [skew["different"] + skew["stale"] + skew["missing"] for skew in served] == [0] * 5
    policies = boto3.client("iam", **project.aws("dev"))
    (role,) = [each["RoleName"] for each in policies.list_roles()["Roles"] if "flights-endpoint" in each["RoleName"]]
    (policy,) = policies.list_role_policies(RoleName=role)["PolicyNames"]
    document = policies.get_role_policy(RoleName=role, PolicyName=policy)["PolicyDocument"]
    (reads,) = [rule for rule in document["Statement"] if "dynamodb:BatchGetItem" in rule["Action"]]
    assert reads["Resource"] == [place["tables"][view] for view in ("delays", "weather")]
    said = project.modelworks("destroy", "dev", "--yes", fails=True)
    assert "dev protects what holds data, and nothing was deleted" in said
    for kept in ("features-store", "features-online-delays", "features-online-weather"):
        assert kept in said
    assert answer("N3").json()["predictions"] == [known]

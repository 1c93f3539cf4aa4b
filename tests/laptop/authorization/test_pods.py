"""A server of a model on a strict account, with the token of its service account and no key: as its pod runs."""

from __future__ import annotations

import pytest

from laptop.authorization.strict_account import BUCKET
from modelworks import contract
from modelworks._resources.serving_pod import serving_permissions
from modelworks.laptop import aws
from modelworks.laptop.agent import identity
from runtime import example_bundle
from runtime.running import Server, settings
from waiting import eventually

MODEL = "delays"
BUNDLE = f"bundles/{MODEL}/x.bento"


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    return example_bundle.build(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def served(account, example, tmp_path, monkeypatch):
    """Starts a server whose role has these statements."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    account.client("s3").upload_file(str(example.archive), "store", BUNDLE)
    (tmp_path / "token").write_text(account.token(exp=4e9))
    pod = {"spec": {"containers": [{"name": "serve"}]}}
    holder = {"metadata": {"annotations": {identity.ROLE: account.role_arn}}}
    (container,) = identity.admitted(pod, holder, "eu-central-1")["spec"]["containers"]
    variables = {
        **{each["name"]: each["value"] for each in container["env"]},
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{account.port}",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"),
        contract.ENV_BUNDLE_URI: f"s3://store/{BUNDLE}",
        contract.ENV_METRICS: "cloudwatch",
        contract.ENV_METRICS_SECONDS: "0.3",
        contract.ENV_PREDICTION_LOG: f"s3://store/{contract.predictions_prefix(MODEL)}",
        contract.ENV_PREDICTION_LOG_SECONDS: "0.3",
        contract.ENV_SCRATCH: str(tmp_path / "scratch"),
    }
    started = []

    def start(statements) -> Server:
        account.pod("sts", *statements)
        started.append(Server(settings(example, **variables), tmp_path / "log"))
        return started[-1]

    yield start
    for server in started:
        server.stop()


def permissions(account, *, without=""):
    found = serving_permissions(MODEL, BUCKET, account.key, log_arns=[BUCKET], table_arns=[], secret_arns=[])
    less = [{**each, "Action": [one for one in each["Action"] if one != without]} for each in found]
    return [each for each in less if each["Action"]]


def denied(account):
    path = aws.denials(account.place, "local")
    return path.read_text() if path.exists() else ""


def test_a_pod_serves_logs_and_measures_with_the_rights_of_its_role(account, served):
    before = denied(account)
    server = served(permissions(account)).ready()
    assert server.ask("POST", "/v1/predict", {"rows": example_bundle.rows(3)})[0] == 200
    prefix = f"{contract.predictions_prefix(MODEL)}/"
    eventually(lambda: account.client("s3").list_objects_v2(Bucket="store", Prefix=prefix)["KeyCount"])
    eventually(lambda: account.client("cloudwatch").list_metrics(Namespace=contract.METRIC_NAMESPACE)["Metrics"])
    assert denied(account) == before


@pytest.mark.parametrize("action", ["s3:GetObject", "kms:Decrypt"])
def test_a_pod_whose_role_may_not_read_its_bundle_does_not_start(account, served, action):
    before = len(denied(account))
    assert served(permissions(account, without=action)).ended() != 0
    assert f"perform: {action} on resource" in denied(account)[before:]


@pytest.mark.parametrize("action", ["s3:PutObject", "kms:GenerateDataKey", "cloudwatch:PutMetricData"])
def test_what_a_pod_may_not_write_is_denied_and_listed(account, served, action):
    before = len(denied(account))
    server = served(permissions(account, without=action)).ready()
    assert server.ask("POST", "/v1/predict", {"rows": example_bundle.rows(3)})[0] == 200
    eventually(lambda: f"perform: {action} on resource" in denied(account)[before:])

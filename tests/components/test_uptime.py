"""Uptime checks: who is asked for what, who may know of it, and who is paged."""

from __future__ import annotations

import json

import pytest

from mocks import declare
from modelworks import ModelEndpoint, ModelRegistry, contract
from modelworks.laptop.network_policies import Connection, Outside, Policies
from modelworks.runtime import uptime
from smallest import ADDITIONS, FULLEST, SMALLEST

ALARM = "aws:cloudwatch/metricAlarm:MetricAlarm"
DEPLOYMENT = "kubernetes:apps/v1:Deployment"
POLICY = "kubernetes:networking.k8s.io/v1:NetworkPolicy"
TOPIC = "arn:aws:sns:eu-central-1:111111111111:alerts"
COMPONENTS = {
    "endpoint": (ModelEndpoint, {"release": FULLEST["ModelEndpoint"]["release"], "allow_anonymous": True}),
    "registry": (ModelRegistry, {"alerts_topic_arn": TOPIC}),
}
TLS = {"certificate_arn": "arn:aws:acm:eu-central-1:111111111111:certificate/c"}
every_host = pytest.mark.parametrize("kind", COMPONENTS)


def declared(kind, **args):
    component, needed = COMPONENTS[kind]
    return declare(lambda: component("churn", {**SMALLEST[component.__name__], **needed, **args}))


def pod(found) -> dict:
    return found.all(DEPLOYMENT)["churn-uptime"]["spec"]["template"]


def order(found):
    """What the pod's program makes of its arguments."""
    (container,) = pod(found)["spec"]["containers"]
    return uptime._parser().parse_args(container["args"])


@pytest.mark.parametrize(("kind", "path"), [("endpoint", "/readyz"), ("registry", "/health")])
@pytest.mark.parametrize(("ingress", "scheme"), [({}, "http"), (TLS, "https")])
def test_the_page_of_the_load_balancers_own_check_is_requested_as_clients_request_it(kind, path, ingress, scheme):
    found = declared(kind, host="churn.example.com", ingress=ingress)
    balancers = found.one("kubernetes:networking.k8s.io/v1:Ingress")["metadata"]["annotations"]
    assert balancers["alb.ingress.kubernetes.io/healthcheck-path"] == path
    assert order(found).url == f"{scheme}://churn.example.com{path}"


@every_host
def test_no_answer_and_no_check_page(kind):
    found = declared(kind)
    alarm, asks = found.all(ALARM)["churn-unanswered"], order(found)
    assert (alarm["metricName"], alarm["statistic"]) == (contract.METRIC_ANSWERED, "Maximum")
    assert (alarm["comparisonOperator"], alarm["threshold"]) == ("LessThanThreshold", 1)
    assert alarm["treatMissingData"] == "breaching"
    assert (alarm["namespace"], alarm["dimensions"]) == (asks.namespace, dict(asks.dimension))
    assert (alarm["period"], alarm["evaluationPeriods"]) == (asks.every_seconds, 5) == (60, 5)
    assert alarm["alarmActions"] == alarm["okActions"] != []


@every_host
def test_the_role_may_publish_it_and_needs_nothing_new(kind):
    found = declared(kind)
    statements = json.loads(found.one("aws:iam/rolePolicy:RolePolicy")["policy"])["Statement"]
    (publishes,) = [each for each in statements if each["Action"] == ["cloudwatch:PutMetricData"]]
    assert publishes["Condition"] == {"StringEquals": {"cloudwatch:namespace": order(found).namespace}}


def test_a_registry_on_postgres_may_publish_too():
    found = declared("registry", postgres_uri="postgresql://user:password@db/mlflow")
    assert "cloudwatch:PutMetricData" in found.one("aws:iam/rolePolicy:RolePolicy")["policy"]
    assert set(found.all(ALARM)) == {"churn-unanswered"}


@every_host
def test_a_check_is_no_pod_that_serves(kind):
    found = declared(kind)
    labels = pod(found)["metadata"]["labels"]
    selectors = [each["spec"]["selector"] for each in found.all("kubernetes:core/v1:Service").values()]
    assert selectors
    assert not any(selector.items() <= labels.items() for selector in selectors)


@every_host
@pytest.mark.parametrize(("ingress", "ports"), [({}, [80, 443]), (TLS, [443])])
def test_policies_let_it_out_to_its_host_and_to_aws_and_nobody_in(kind, ingress, ports):
    found = declared(kind, ingress=ingress)
    inside = {"namespace": "here", "labels": pod(found)["metadata"]["labels"]}
    check = {"metadata": {**inside, "name": "check"}, "spec": pod(found)["spec"]}
    other = {"metadata": {"namespace": "here", "name": "other", "labels": {}}, "spec": {}}
    policies = [
        {"metadata": {"namespace": "here", "name": name}, "spec": each["spec"]}
        for name, each in found.all(POLICY).items()
    ]
    allow = Policies(policies, {"here": {}}).allow
    assert [port for port in (22, 80, 443, 5432, 8080) if allow(Connection(check, Outside("out there"), port))] == ports
    assert not any(allow(Connection(other, check, port)) for port in (80, 443, 8080))


@every_host
def test_it_follows_the_pods_of_its_component_and_takes_no_device(kind):
    spec = pod(declared(kind, pod={**ADDITIONS, "extended_resources": {"nvidia.com/gpu": 1}}))["spec"]
    assert spec["nodeSelector"] == ADDITIONS["node_selector"]
    assert "nvidia.com/gpu" not in json.dumps(spec["containers"])

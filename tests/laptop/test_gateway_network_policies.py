"""Network policies as a graph: which connections of pods with addresses outside of the cluster pass."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelworks.laptop.gateway.controller import _reachable
from modelworks.laptop.gateway.network_policies import allows
from modelworks.laptop.gateway.routes import pod_facts

GUIDE = "https://kubernetes.io/docs/concepts/services-networking/network-policies/"
DECLARED = Path(__file__).parents[1] / "stacks" / "declared"


def pod(namespace="models", **labels):
    ports = [{"name": "http", "containerPort": 3000}]
    return {"metadata": {"namespace": namespace, "labels": labels}, "spec": {"containers": [{"ports": ports}]}}


def policy(**spec):
    return {"metadata": {"namespace": "models"}, "spec": {"podSelector": {}, **spec}}


ROWS = [
    # policies, port, whether a connection to the pod passes
    ([], 3000, True),
    ([policy(policyTypes=["Ingress"])], 3000, False),
    ([policy(policyTypes=["Egress"])], 3000, True),
    ([policy()], 3000, False),
    ([policy(ingress=[{}])], 1, True),
    ([policy(ingress=[{"ports": [{"port": "http"}]}])], 3000, True),
    ([policy(ingress=[{"ports": [{"port": "grpc"}]}])], 3000, False),
    ([policy(ingress=[{"ports": [{"port": 2999, "endPort": 3001}]}])], 3000, True),
    ([policy(ingress=[{"ports": [{"port": 3000, "protocol": "UDP"}]}])], 3000, False),
    ([policy(ingress=[{"from": [{"podSelector": {}}]}])], 3000, False),
    ([policy(ingress=[{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}])], 3000, True),
    # Policies add up: what one allows, another does not take away.
    ([policy(policyTypes=["Ingress"]), policy(ingress=[{"ports": [{"port": 3000}]}])], 3000, True),
    ([policy(podSelector={"matchLabels": {"app": "other"}})], 3000, True),
    ([policy(podSelector={"matchExpressions": [{"key": "app", "operator": "Exists"}]})], 3000, False),
    ([policy(podSelector={"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["a"]}]})], 3000, True),
]


@pytest.mark.parametrize(("policies", "port", "passes"), ROWS)
def test_connections_to_a_pod(policies, port, passes):
    assert allows(policies, pod(app="a"), "ingress", port) is passes, GUIDE


def test_policies_of_another_namespace_do_not_matter():
    assert allows([policy()], pod("other"), "ingress", 3000)


def declared(stack):
    """The network policies of a stack, and the pods of its workloads, by name."""
    resources = json.loads((DECLARED / f"{stack}.json").read_text("utf-8")).values()
    manifests = [each.get("inputs") or each["object"] for each in resources if each["type"].startswith("kubernetes:")]
    pods = {}
    for each in manifests:
        spec = each.get("spec") or {}
        job = (spec.get("jobTemplate") or {}).get("spec") or spec
        if template := job.get("template"):
            namespace = each["metadata"]["namespace"]
            metadata = {"namespace": namespace, "labels": template["metadata"].get("labels") or {}}
            pods[each["metadata"].get("name") or each["kind"]] = {"metadata": metadata, "spec": template["spec"]}
    return [each for each in manifests if each["kind"] == "NetworkPolicy"], pods


@pytest.mark.parametrize("stack", ["local", "dev", "staging", "prod"])
def test_pods_of_the_reference_environments_reach_aws_and_name_servers_and_nothing_in_plain_text(stack):
    policies, pods = declared(stack)
    assert len(pods) >= 2
    for name, each in pods.items():
        assert allows(policies, each, "egress", 443), name
        assert allows(policies, each, "egress", 53, protocol="UDP"), name
        assert not allows(policies, each, "egress", 8080), name


@pytest.mark.parametrize("stack", ["local", "dev", "staging", "prod"])
def test_the_load_balancer_reaches_every_pod_behind_a_service_and_without_its_policy_none(stack):
    policies, pods = declared(stack)
    served = [each for each in pods.values() if ports(each)]
    assert len(served) >= 2
    for each in served:
        assert any(allows(policies, each, "ingress", port) for port in ports(each))
        default_deny = [one for one in policies if not one["spec"]["podSelector"]]
        assert not any(allows(default_deny, each, "ingress", port) for port in ports(each))


def ports(pod):
    return [int(port["containerPort"]) for one in pod["spec"]["containers"] for port in one.get("ports") or []]


def test_a_strict_gateway_has_no_target_that_a_policy_refuses():
    facts = pod_facts({**pod(app="a"), "status": {}})
    facts["metadata"] = {**facts["metadata"], "name": "a"}
    http = policy(ingress=[{"ports": [{"port": "http"}]}])
    assert _reachable([http], facts)["spec"]["containers"][0]["ports"][0]["name"] == "http"
    assert _reachable([policy(policyTypes=["Ingress"])], facts) is None

"""What a cluster's Argo Rollouts controller lacks, by its pods."""

from __future__ import annotations

from typing import Any

import pytest

from modelworks.cluster.argo_controller import judge

REGION = {"name": "AWS_REGION", "value": "eu-central-1"}
ROLE = {"name": "AWS_ROLE_ARN", "value": "arn:aws:iam::111111111111:role/argo"}
VERIFY = "--aws-verify-target-group"


def pod(*env: dict[str, Any], args: tuple[str, ...] = (VERIFY,), **more: Any) -> dict[str, Any]:
    container = {"name": "argo-rollouts", "image": "quay.io/argoproj/argo-rollouts:v1.8.3", "env": list(env)}
    return {"metadata": {"name": "argo"}, "spec": {"containers": [container | {"args": list(args)} | more]}}


def test_a_controller_with_region_role_and_verification_lacks_nothing():
    assert judge([pod(REGION, ROLE), pod(REGION, ROLE)]) == judge([pod(REGION, ROLE)])
    assert (judge([pod(REGION, ROLE)]).missing, judge([pod(REGION, ROLE)]).doubts) == ("", [])


def test_a_cluster_without_a_controller_lacks_it():
    assert judge([]).missing == "the cluster runs no Argo Rollouts controller"


def test_a_controller_that_is_on_its_way_out_does_not_count():
    leaving = pod(REGION, ROLE)
    leaving["metadata"]["deletionTimestamp"] = "2026-11-27T05:00:00Z"
    assert judge([leaving]).missing
    without = pod(ROLE)
    without["metadata"]["deletionTimestamp"] = "2026-11-27T05:00:00Z"
    assert not judge([without, pod(REGION, ROLE)]).missing


@pytest.mark.parametrize("others", [[], [pod(REGION, ROLE)]])
def test_without_a_region_no_canary_can_be_judged(others):
    assert "has no AWS_REGION" in judge([*others, pod(ROLE)]).missing


def test_a_region_may_come_from_somewhere_that_the_pod_does_not_show():
    assert not judge([pod(envFrom=[{"secretRef": {"name": "aws"}}])]).missing


def test_the_region_of_a_sidecar_is_not_the_controllers():
    both = pod(ROLE)
    both["spec"]["containers"].insert(0, {"name": "mesh", "image": "proxy", "env": [REGION]})
    assert "has no AWS_REGION" in judge([both]).missing


@pytest.mark.parametrize(
    ("found", "doubt"),
    [
        (pod(REGION), "no role of its own"),
        (pod(REGION, ROLE, args=()), "does not verify target groups"),
        (pod(REGION, ROLE, args=(f"{VERIFY}=false",)), "does not verify target groups"),
    ],
)
def test_what_some_clusters_may_do_without_is_only_told(found, doubt):
    verdict = judge([found])
    assert not verdict.missing
    assert [doubt in each for each in verdict.doubts] == [True]


@pytest.mark.parametrize("name", ["AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_ACCESS_KEY_ID"])
def test_pod_identity_and_keys_are_credentials_too(name):
    assert judge([pod(REGION, {"name": name, "value": "x"})]).doubts == []


def test_a_pod_without_containers_or_arguments_is_read_all_the_same():
    assert judge([{"metadata": {}, "spec": {}}]).missing
    assert judge([{"metadata": {}, "spec": {"containers": [{"name": "c", "image": "i"}]}}]).missing

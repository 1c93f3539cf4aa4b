"""What a cluster lacks, from the objects that its API server has."""

from __future__ import annotations

import shlex
from functools import partial

import pytest

from modelworks.cluster import requirements

ALB = requirements.INGRESS_CLASS
CONTROLLERS = "/apis/apps/v1/deployments?labelSelector=app.kubernetes.io/name=aws-load-balancer-controller"
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/rollouts.argoproj.io"
ARGO_PODS = "/api/v1/pods?labelSelector=app.kubernetes.io/component=rollouts-controller"
METRICS = "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.metrics.k8s.io"
CNI = "/api/v1/namespaces/kube-system/configmaps/amazon-vpc-cni"
NODE = "/apis/apps/v1/namespaces/kube-system/daemonsets/aws-node"
DAEMONS = "/apis/apps/v1/daemonsets"


def cluster(objects=None):
    return (objects or {}).get


def alb(controller="ingress.k8s.aws/alb"):
    return {ALB: {"spec": {"controller": controller}}}


def argo(**variables):
    env = [{"name": name, "value": value} for name, value in variables.items()]
    pod = {"metadata": {}, "spec": {"containers": [{"name": "argo-rollouts", "env": env}]}}
    return {CRD: {}, ARGO_PODS: {"items": [pod]}}


@pytest.mark.parametrize(
    "check",
    [
        *(
            partial(requirements.ingress_class, auto_mode=auto_mode, installed_by_us=False)
            for auto_mode in (False, True)
        ),
        partial(requirements.load_balancer_controller, auto_mode=False),
        requirements.metrics_server,
        *(
            partial(requirements.network_policies, auto_mode=auto_mode, installed_by_us=False)
            for auto_mode in (False, True)
        ),
        lambda get: requirements.volume_driver(get, driver="ebs.csi.aws.com"),
        lambda get: requirements.argo_rollouts(get, installed_by_us=False),
    ],
)
def test_an_empty_cluster_lacks_everything_and_each_check_names_a_mend(check):
    found = check(cluster())
    assert found.status == "missing"
    assert found.fix


def test_a_cluster_that_answers_shows_its_version():
    assert "v1.35.0" in requirements.reachable(cluster({"/version": {"gitVersion": "v1.35.0"}})).message


def test_the_load_balancer_controller_is_there_when_a_pod_of_it_is_available():
    def check(status):
        return requirements.load_balancer_controller(
            cluster({CONTROLLERS: {"items": [{"status": status}]}}), auto_mode=False
        )

    assert check({"availableReplicas": 1}).status == "ok"
    assert (check({}).status, "no pod that is ready" in check({}).message) == ("missing", True)


def test_the_command_that_installs_the_controller_is_one_and_gives_it_role_region_and_vpc():
    fix = requirements.load_balancer_controller(cluster(), auto_mode=False).fix.partition(";")[0]
    _, install = fix.split(" && ")
    words = shlex.split(install)
    values = dict(words[at + 1].split("=", 1) for at, word in enumerate(words) if word == "--set")
    assert values == {
        "clusterName": "CLUSTER",
        "region": "REGION",
        "vpcId": "VPC",
        "serviceAccount.name": "aws-load-balancer-controller",
        # Helm takes a dot for the next level, and one behind a backslash for a dot.
        r"serviceAccount.annotations.eks\.amazonaws\.com/role-arn": "ROLE",
    }


def test_eks_auto_mode_has_a_load_balancer_controller_and_a_pod_identity_agent_of_its_own():
    assert requirements.load_balancer_controller(cluster(), auto_mode=True).status == "ok"
    assert requirements.pod_identity_agent(cluster(), auto_mode=True).status == "ok"


def test_a_missing_pod_identity_agent_is_named_and_fails_nothing():
    found = requirements.pod_identity_agent(cluster(), auto_mode=False)
    assert (found.status, "eks-pod-identity-agent" in found.fix) == ("skipped", True)
    get = cluster({"/apis/apps/v1/namespaces/kube-system/daemonsets/eks-pod-identity-agent": {}})
    assert requirements.pod_identity_agent(get, auto_mode=False).status == "ok"


@pytest.mark.parametrize(
    ("controller", "auto_mode", "status"),
    [
        ("ingress.k8s.aws/alb", False, "ok"),
        ("eks.amazonaws.com/alb", True, "ok"),
        ("eks.amazonaws.com/alb", False, "missing"),
        ("ingress.k8s.aws/alb", True, "missing"),
    ],
)
def test_the_class_alb_is_of_the_kind_of_cluster_that_the_settings_state(controller, auto_mode, status):
    found = requirements.ingress_class(cluster(alb(controller)), auto_mode=auto_mode, installed_by_us=True)
    assert found.status == status
    assert (f"cluster.auto_mode: {str(not auto_mode).lower()}" in found.fix) == (status == "missing")


def test_what_the_program_declares_is_not_missing_before():
    assert requirements.ingress_class(cluster(), auto_mode=True, installed_by_us=True).status == "ok"
    assert requirements.network_policies(cluster(), auto_mode=True, installed_by_us=True).status == "ok"


def test_argo_rollouts_without_a_region_is_no_judge():
    found = requirements.argo_rollouts(cluster(argo()), installed_by_us=False)
    assert (found.status, "AWS_REGION" in found.message) == ("missing", True)
    found = requirements.argo_rollouts(cluster(argo(AWS_REGION="eu-central-1")), installed_by_us=False)
    assert (found.status, "no role of its own" in found.message) == ("ok", True)


def test_argo_rollouts_that_the_program_installs_is_not_missing_before():
    assert requirements.argo_rollouts(cluster(), installed_by_us=True).status == "ok"
    # Once it is there, it is judged like any other.
    assert requirements.argo_rollouts(cluster(argo()), installed_by_us=True).status == "missing"


@pytest.mark.parametrize(("status", "verdict"), [("True", "ok"), ("False", "missing")])
def test_a_metrics_api_counts_when_it_is_available(status, verdict):
    found = cluster({METRICS: {"status": {"conditions": [{"type": "Available", "status": status}]}}})
    assert requirements.metrics_server(found).status == verdict


def test_the_volume_driver_is_the_one_that_the_settings_name():
    get = cluster({"/apis/storage.k8s.io/v1/csidrivers/ebs.csi.aws.com": {}})
    assert requirements.volume_driver(get, driver="ebs.csi.aws.com").status == "ok"
    assert requirements.volume_driver(get, driver="ebs.csi.eks.amazonaws.com").status == "missing"


def agent(argument):
    return {"spec": {"template": {"spec": {"containers": [{"name": "node"}, {"name": "agent", "args": [argument]}]}}}}


@pytest.mark.parametrize(
    ("objects", "status"),
    [
        ({CNI: {"data": {"enable-network-policy-controller": "true"}}}, "ok"),
        ({CNI: {"data": {"enable-network-policy-controller": "false"}}}, "missing"),
        ({CNI: {}}, "missing"),
        ({NODE: agent("--enable-network-policy=true")}, "ok"),
        ({NODE: agent("--enable-network-policy=false")}, "missing"),
        ({DAEMONS: {"items": [{"metadata": {"name": "cilium"}}]}}, "ok"),
        ({DAEMONS: {"items": [{"metadata": {"name": "kube-proxy"}}]}}, "missing"),
    ],
)
def test_network_policies_count_when_something_enforces_them(objects, status):
    assert requirements.network_policies(cluster(objects), auto_mode=False, installed_by_us=False).status == status

"""What a program adds to pods, roles and load balancers, and reaches them without a fork of a component."""

from __future__ import annotations

import json
import re

import pulumi
import pytest

from mocks import declare
from modelworks import ModelEndpoint, ModelRegistry, TrainingCompute
from modelworks.cluster.training_job import Order, TrainingEnvironment, manifest
from modelworks.contract import Digest
from smallest import ADDITIONS, EGRESS, FULLEST, INGRESS, PERMISSIONS, SMALLEST

COMPONENTS = {item.__name__: item for item in (ModelEndpoint, ModelRegistry, TrainingCompute)}
every_workload = pytest.mark.parametrize("component", COMPONENTS)
INGRESS_KIND = "kubernetes:networking.k8s.io/v1:Ingress"
RELEASED = {"release": FULLEST["ModelEndpoint"]["release"], "allow_anonymous": True}


def declared(component, **args):
    served = RELEASED if component == "ModelEndpoint" else {}
    return declare(lambda: COMPONENTS[component]("churn", {**SMALLEST[component], **served, **args}))


def of_a_job(**args):
    """The pod template of a training run, by way of the output that the command reads."""
    place: dict = {}
    program = lambda: TrainingCompute("runs", {**SMALLEST["TrainingCompute"], **args}).place.apply(place.update)  # noqa: E731
    declare(program)
    digest = Digest("sha256:" + "0" * 64)
    job = manifest(
        "train-churn-1", TrainingEnvironment.of(place), Order("dev", "churn", digest, digest, "c0ffee", "ada")
    )
    return job["spec"]["template"]


TEMPLATES = {
    "endpoint": lambda **args: declared("ModelEndpoint", **args).one("kubernetes:argoproj.io/v1alpha1:Rollout")["spec"][
        "template"
    ],
    "registry": lambda **args: declared("ModelRegistry", **args).one("kubernetes:apps/v1:Deployment")["spec"][
        "template"
    ],
    "training run": of_a_job,
}
every_template = pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)


@every_template
def test_a_gpu_reaches_the_pod_as_request_and_limit(template):
    container, *_ = template(pod={"extended_resources": {"nvidia.com/gpu": 2}})["spec"]["containers"]
    assert {kind: found["nvidia.com/gpu"] for kind, found in container["resources"].items()} == {
        "requests": "2",
        "limits": "2",
    }


@every_template
def test_a_node_pool_a_taint_and_a_pull_secret_reach_the_pod(template):
    spec = template(pod=ADDITIONS)["spec"]
    assert spec["nodeSelector"] == {"karpenter.sh/nodepool": "gpu"}
    assert spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert spec["imagePullSecrets"] == [{"name": "registry-login"}]


@every_template
def test_labels_and_annotations_are_added_to_those_that_are_there(template):
    plain, more = (template(pod=pod)["metadata"] for pod in ({}, ADDITIONS))
    assert more["labels"] == {**plain["labels"], "team": "pricing"}
    assert more["annotations"] == {**plain.get("annotations", {}), "example.com/scrape": "yes"}


@every_template
def test_a_limit_of_the_scratch_volume_reaches_it(template):
    volumes = {each["name"]: each for each in template(pod={"scratch_mib": 8192})["spec"]["volumes"]}
    assert volumes["scratch"]["emptyDir"] == {"sizeLimit": "8Gi"}


@every_template
def test_a_pod_without_additions_is_as_it_was(template):
    assert not {"nodeSelector", "tolerations", "imagePullSecrets"} & set(template()["spec"])


def test_a_training_run_may_be_moved_where_its_annotations_allow_it():
    moved = of_a_job(pod={"annotations": {"karpenter.sh/do-not-disrupt": "false"}})
    assert moved["metadata"]["annotations"]["karpenter.sh/do-not-disrupt"] == "false"


@pytest.mark.parametrize(
    ("pod", "message"),
    [
        ({"extended_resources": {"gpu": 1}}, "must be the resource of a device, such as nvidia.com/gpu, got 'gpu'"),
        ({"extended_resources": {"nvidia.com/gpu": 0}}, "must be at least 1, got 0"),
        ({"node_selector": {"a/b/c": "d"}}, "must be a key such as team or example.com/team, got 'a/b/c'"),
        ({"node_selector": {"pool": "g p u"}}, "must be at most 63 letters"),
        ({"tolerations": [{"operator": "In"}]}, "operator must be Equal or Exists, got 'In'"),
        ({"tolerations": [{}]}, "operator Equal needs a key"),
        (
            {"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]},
            "operator Exists takes no value, got 'b'",
        ),
        ({"tolerations": [{"key": "a", "effect": "Never"}]}, "effect must be one of NoSchedule"),
        ({"image_pull_secrets": ["Login"]}, "must be the name of a Secret, got 'Login'"),
        ({"labels": {"app.kubernetes.io/name": "mine"}}, "is a key by which pods are found"),
        ({"labels": {"pod-template-hash": "mine"}}, "is a key by which pods are found"),
        ({"labels": {"batch.kubernetes.io/job-name": "mine"}}, "is a key by which pods are found"),
        ({"annotations": {"modelworks.dev/digest": "mine"}}, "is a key by which pods are found"),
        ({"labels": {"team": "x" * 64}}, "must be at most 63 letters"),
        ({"scratch_mib": 0}, "pod.scratch_mib must be at least 64, got 0"),
    ],
)
@every_workload
def test_what_the_cluster_would_refuse_is_refused_before(component, pod, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        declared(component, pod=pod)


@every_workload
def test_a_permission_is_added_to_those_of_the_role(component):
    policy = "aws:iam/rolePolicy:RolePolicy"
    plain, more = (
        json.loads(declared(component, permissions=each).one(policy)["policy"])["Statement"]
        for each in ([], PERMISSIONS)
    )
    added = {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": ["arn:aws:s3:::raw-data/*"]}
    assert more == [*plain, added]


def test_a_permission_may_be_for_what_the_program_makes():
    made = [{"actions": ["s3:GetObject"], "resources": [pulumi.Output.from_input("arn:aws:s3:::made/*")]}]
    policy = json.loads(declared("TrainingCompute", permissions=made).one("aws:iam/rolePolicy:RolePolicy")["policy"])
    assert policy["Statement"][-1]["Resource"] == ["arn:aws:s3:::made/*"]


@pytest.mark.parametrize(
    ("permission", "message"),
    [
        ({"actions": ["s3:*"], "resources": ["arn:aws:s3:::b"]}, "must be named one by one, such as s3:GetObject"),
        ({"actions": ["*"], "resources": ["arn:aws:s3:::b"]}, "must be named one by one, such as s3:GetObject"),
        ({"actions": ["s3:GetObject"], "resources": ["*"]}, "permissions: resources: must be an ARN, got '*'"),
        ({"actions": [], "resources": ["arn:aws:s3:::b"]}, "permissions: actions must name one at least, got none"),
        ({"actions": ["s3:GetObject"], "resources": []}, "permissions: resources must name one at least, got none"),
    ],
)
@every_workload
def test_a_permission_for_everything_or_nothing_is_refused(component, permission, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        declared(component, permissions=[permission])


@pytest.mark.parametrize("component", ["ModelEndpoint", "ModelRegistry"])
def test_a_group_and_the_tags_reach_the_load_balancer(component):
    annotations = declared(component, ingress=INGRESS).one(INGRESS_KIND)["metadata"]["annotations"]
    assert annotations["alb.ingress.kubernetes.io/group.name"] == "modelworks-dev"
    assert annotations["alb.ingress.kubernetes.io/tags"] == "cost-centre=4711,owner=growth"


@pytest.mark.parametrize("component", ["ModelEndpoint", "ModelRegistry"])
def test_without_them_a_host_has_a_load_balancer_of_its_own(component):
    annotations = declared(component).one(INGRESS_KIND)["metadata"]["annotations"]
    assert not any(name.endswith(("/group.name", "/tags")) for name in annotations)


@pytest.mark.parametrize(
    ("ingress", "message"),
    [
        ({"group": "Dev"}, "ingress.group: must be at most 63 lower-case letters, digits, '-' and '.'"),
        ({"group": "x" * 64}, "ingress.group: must be at most 63"),
        ({"tags": {"owner": "a,b"}}, "ingress.tags: must have letters"),
        ({"tags": {"a=b": "c"}}, "ingress.tags: must have letters"),
        ({"tags": {"aws:x": "c"}}, "ingress.tags: must have letters"),
    ],
)
def test_a_load_balancer_that_its_controller_would_refuse_is_refused(ingress, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        declared("ModelEndpoint", ingress=ingress)


def ways_out(component, **args):
    (policy,) = (
        found["spec"]
        for name, found in declared(component, **args).all("kubernetes:networking.k8s.io/v1:NetworkPolicy").items()
        if not name.endswith(("-default-deny", "-uptime"))
    )
    return policy["egress"]


@every_workload
def test_pods_reach_the_agent_of_pod_identity_and_nothing_else_on_its_port(component):
    (rule,) = [rule for rule in ways_out(component) if {"port": 80, "protocol": "TCP"} in rule["ports"]]
    assert rule == {
        "to": [{"ipBlock": {"cidr": "169.254.170.23/32"}}, {"ipBlock": {"cidr": "fd00:ec2::23/128"}}],
        "ports": [{"port": 80, "protocol": "TCP"}],
    }


@every_workload
def test_a_network_that_is_named_can_be_reached_on_its_ports(component):
    added = {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 5432, "protocol": "TCP"}]}
    assert ways_out(component, egress=EGRESS) == [*ways_out(component), added]


@pytest.mark.parametrize(
    ("egress", "message"),
    [
        ({"cidr": "10.0.0.1/8", "ports": [443]}, "egress: cidr: 10.0.0.1/8 has host bits set"),
        (
            {"cidr": "database", "ports": [443]},
            "egress: cidr: 'database' does not appear to be an IPv4 or IPv6 network",
        ),
        ({"cidr": "10.0.0.0/8", "ports": []}, "egress: ports must name one at least for 10.0.0.0/8, got none"),
        ({"cidr": "10.0.0.0/8", "ports": [65_536]}, "egress[0].ports[0] must be at most 65535, got 65536"),
    ],
)
@every_workload
def test_a_way_out_that_leads_nowhere_is_refused(component, egress, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        declared(component, egress=[egress])


@every_workload
def test_the_role_is_an_output_for_permissions_of_another_program(component):
    found: list[str] = []

    def program():
        served = RELEASED if component == "ModelEndpoint" else {}
        COMPONENTS[component]("churn", {**SMALLEST[component], **served}).role_arn.apply(found.append)

    declare(program)
    assert len(found) == 1
    assert ":mock:" in found[0]

from __future__ import annotations

import json

import pytest

from mocks import ACCOUNT, declare
from modelworks import ClusterAddons

KEY = f"arn:aws:kms:eu-central-1:{ACCOUNT}:key/k"
RELEASE = "kubernetes:helm.sh/v3:Release"
STORAGE = "kubernetes:storage.k8s.io/v1:StorageClass"
INGRESS_CLASS = "kubernetes:networking.k8s.io/v1:IngressClass"
PARAMETERS = "kubernetes:eks.amazonaws.com/v1:IngressClassParams"
CONFIG_MAP = "kubernetes:core/v1:ConfigMap"


def addons(**args):
    ground = {"account_id": ACCOUNT, "oidc_issuer": "oidc.example/id", "key_arn": KEY}
    return declare(lambda: ClusterAddons("dev", {**ground, **args}))


def test_nothing_is_in_the_cluster_that_was_not_asked_for():
    assert [token for token, _ in addons().resources if not token.startswith("modelworks:")] == []


# -- Argo Rollouts ---------------------------------------------------------------------------------------------------
def test_the_judge_of_canaries_may_read_metrics_and_how_load_balancers_route_and_nothing_else():
    (policy,) = addons(install_argo_rollouts=True).all("aws:iam/rolePolicy:RolePolicy").values()
    (allowed,) = json.loads(policy["policy"])["Statement"]
    described = ("Listeners", "LoadBalancers", "Rules", "Tags", "TargetGroups", "TargetHealth")
    assert allowed == {
        "Effect": "Allow",
        "Action": ["cloudwatch:GetMetricData", *(f"elasticloadbalancing:Describe{what}" for what in described)],
        "Resource": ["*"],
        "Condition": {"StringEquals": {"aws:RequestedRegion": "eu-central-1"}},
    }


def test_only_the_controllers_service_account_assumes_its_role():
    role = addons(install_argo_rollouts=True).one("aws:iam/role:Role")
    (trust,) = json.loads(role["assumeRolePolicy"])["Statement"]
    assert trust["Principal"] == {"Federated": f"arn:aws:iam::{ACCOUNT}:oidc-provider/oidc.example/id"}
    assert trust["Condition"]["StringEquals"] == {
        "oidc.example/id:sub": "system:serviceaccount:argo-rollouts:argo-rollouts",
        "oidc.example/id:aud": "sts.amazonaws.com",
    }


def test_the_controller_has_its_role_a_region_and_verifies_target_groups():
    values = addons(install_argo_rollouts=True).one(RELEASE)["values"]
    account, controller = values["serviceAccount"], values["controller"]
    assert (account["name"], account["annotations"]) == (
        "argo-rollouts",
        {"eks.amazonaws.com/role-arn": "arn:aws:mock:::dev-argo-rollouts"},
    )
    assert controller["extraEnv"] == [{"name": "AWS_REGION", "value": "eu-central-1"}]
    assert controller["extraArgs"] == ["--aws-verify-target-group"]


def test_on_auto_mode_the_controller_does_not_wait_for_target_groups_that_it_cannot_read():
    values = addons(install_argo_rollouts=True, auto_mode=True).one(RELEASE)["values"]
    assert values["controller"]["extraArgs"] == []


def test_the_controller_starts_when_its_role_may_do_what_it_needs():
    requests = addons(install_argo_rollouts=True).requests()
    (release,) = [each for urn, each in requests.items() if RELEASE in urn]
    assert any("RolePolicy::dev-argo-rollouts-policy" in urn for urn in release["dependencies"])


# -- Volumes ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("auto_mode", "driver"), [(False, "ebs.csi.aws.com"), (True, "ebs.csi.eks.amazonaws.com")])
def test_volumes_are_encrypted_with_the_key_in_the_zone_of_their_pod_and_can_grow(auto_mode, driver):
    found = addons(storage_class="ours-encrypted", auto_mode=auto_mode).one(STORAGE)
    assert (found["metadata"]["name"], found["provisioner"]) == ("ours-encrypted", driver)
    assert found["parameters"] == {"type": "gp3", "encrypted": "true", "kmsKeyId": KEY}
    assert (found["volumeBindingMode"], found["allowVolumeExpansion"]) == ("WaitForFirstConsumer", True)


def test_the_class_is_the_clusters_default_only_if_asked():
    default = {"storageclass.kubernetes.io/is-default-class": "true"}
    assert "annotations" not in addons(storage_class="ours").one(STORAGE)["metadata"]
    found = addons(storage_class="ours", default_storage_class=True).one(STORAGE)
    assert found["metadata"]["annotations"] == default


# -- Ingresses and policies ------------------------------------------------------------------------------------------
def test_the_class_alb_is_served_by_the_load_balancer_controller():
    found = addons(install_ingress_class=True)
    assert found.one(INGRESS_CLASS)["spec"] == {"controller": "ingress.k8s.aws/alb"}
    assert found.all(PARAMETERS) == {}


def test_the_class_alb_of_auto_mode_is_served_by_eks_with_parameters_that_state_nothing():
    found = addons(install_ingress_class=True, auto_mode=True)
    assert found.one(INGRESS_CLASS)["spec"] == {
        "controller": "eks.amazonaws.com/alb",
        "parameters": {"apiGroup": "eks.amazonaws.com", "kind": "IngressClassParams", "name": "alb"},
    }
    assert "spec" not in found.one(PARAMETERS)


def test_auto_mode_enforces_network_policies_when_asked():
    found = addons(enforce_network_policies=True, auto_mode=True).one(CONFIG_MAP)
    assert (found["metadata"]["namespace"], found["metadata"]["name"]) == ("kube-system", "amazon-vpc-cni")
    assert found["data"] == {"enable-network-policy-controller": "true"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"default_storage_class": True}, "default_storage_class needs storage_class"),
        ({"enforce_network_policies": True}, "elsewhere set enableNetworkPolicy of the EKS add-on vpc-cni"),
    ],
)
def test_contradictions_are_refused(args, message):
    with pytest.raises(ValueError, match=message):
        addons(**args)


def test_hosts_need_their_class_and_endpoints_the_kind_rollout_too():
    needed = {}

    def program():
        ground = {"account_id": ACCOUNT, "oidc_issuer": "oidc.example/id", "key_arn": KEY}
        made = ClusterAddons(
            "dev", {**ground, "auto_mode": True, "install_ingress_class": True, "install_argo_rollouts": True}
        )
        needed["hosts"] = [each.pulumi_resource_name for each in made.needed_by_hosts]
        needed["endpoints"] = [each.pulumi_resource_name for each in made.needed_by_endpoints]

    declare(program)
    classes = ["dev-ingress-class-params", "dev-ingress-class"]
    assert needed == {"hosts": classes, "endpoints": [*classes, "dev-argo-rollouts"]}


def test_what_an_environment_declared_before_is_the_same_resource_now():
    found = addons(storage_class="ours", install_argo_rollouts=True).registered
    before = {"urn:pulumi:dev::modelworks::modelworks:index:Environment::dev"}
    assert {
        f"{request.type}::{request.name}"
        for request in found.values()
        if before == {each.spec.parentUrn for each in request.aliases}
    } == {
        "aws:iam/role:Role::dev-argo-rollouts",
        "kubernetes:helm.sh/v3:Release::dev-argo-rollouts",
        f"{STORAGE}::dev-volumes",
    }

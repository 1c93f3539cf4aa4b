from __future__ import annotations

import json

import pulumi
import pytest

from mocks import ACCOUNT, declare
from modelworks import Environment

KEY = "aws:kms/key:Key"
TOPIC = "aws:sns/topic:Topic"
TOPIC_POLICY = "aws:sns/topicPolicy:TopicPolicy"
SUBSCRIPTION = "aws:sns/topicSubscription:TopicSubscription"
BUDGET = "aws:budgets/budget:Budget"


def environment(**args):
    return declare(lambda: Environment("dev", {"account_id": ACCOUNT, **args}))


def statements(document: str) -> dict[str, dict]:
    return {statement["Sid"]: statement for statement in json.loads(document)["Statement"]}


def test_key_rotates_and_can_be_brought_back_for_30_days():
    key = environment().one(KEY)
    assert (key["enableKeyRotation"], key["deletionWindowInDays"]) == (True, 30)


def guarded(**args):
    """Types and names of what the engine refuses to delete."""
    found = environment(**args).requests()
    return {"::".join(urn.split("::")[-2:]).split("$")[-1] for urn, each in found.items() if each.get("protect")}


def test_the_key_and_the_namespace_are_protected_unless_the_program_does_without():
    alike = {"aws:kms/key:Key::dev-key", "aws:kms/alias:Alias::dev-key-alias"}
    home = {"kubernetes:core/v1:Namespace::dev", "kubernetes:networking.k8s.io/v1:NetworkPolicy::dev-default-deny"}
    assert guarded() == alike
    assert guarded(namespace="ours") == alike | home
    assert guarded(namespace="ours", protect=False) == set()


def test_a_component_that_the_program_protects_itself_stays_protected():
    def program():
        Environment("dev", {"account_id": ACCOUNT, "protect": False}, pulumi.ResourceOptions(protect=True))

    found = declare(program).requests()
    assert all(each["protect"] for urn, each in found.items() if "aws:" in urn)


def test_key_is_used_by_alerting_services_of_the_own_account_only():
    policy = statements(environment().one(KEY)["policy"])
    assert policy["AlertsAreEncrypted"]["Condition"] == {"StringEquals": {"aws:SourceAccount": ACCOUNT}}
    assert policy["AccountDecidesByIam"]["Principal"] == {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}
    assert set(policy) == {"AlertsAreEncrypted", "AccountDecidesByIam"}


def test_alerts_topic_is_encrypted_with_the_key_of_the_environment():
    assert environment().one(TOPIC)["kmsMasterKeyId"] == "arn:aws:mock:::dev-key"


def test_alerts_topic_refuses_plain_http_and_services_of_other_accounts():
    policy = statements(environment().one(TOPIC_POLICY)["policy"])
    assert policy["OurAlarmsAndBudgets"]["Condition"] == {"StringEquals": {"aws:SourceAccount": ACCOUNT}}
    assert policy["EncryptedTransportOnly"]["Effect"] == "Deny"


def test_an_address_that_is_named_twice_has_one_subscription():
    subscriptions = environment(alert_emails=["a@example.com", "b@example.com", "a@example.com"]).all(SUBSCRIPTION)
    assert len(subscriptions) == 2


def test_each_address_is_subscribed_to_the_alerts():
    subscriptions = environment(alert_emails=["a@example.com", "b@example.com"]).all(SUBSCRIPTION)
    assert {item["endpoint"] for item in subscriptions.values()} == {"a@example.com", "b@example.com"}
    assert {item["protocol"] for item in subscriptions.values()} == {"email"}


def test_there_is_no_budget_unless_an_amount_is_given():
    assert environment().all(BUDGET) == {}
    assert environment(budget=None).all(BUDGET) == {}


def test_budget_alerts_on_what_was_spent_and_on_the_forecast():
    budget = environment(budget={"monthly_usd": 500}).one(BUDGET)
    assert (budget["limitAmount"], budget["limitUnit"], budget["timeUnit"]) == ("500.00", "USD", "MONTHLY")
    assert [(item["notificationType"], item["threshold"]) for item in budget["notifications"]] == [
        ("ACTUAL", 80),
        ("FORECASTED", 100),
    ]
    assert {arn for item in budget["notifications"] for arn in item["subscriberSnsTopicArns"]} == {
        "arn:aws:mock:::dev-alerts"
    }


def test_the_namespace_admits_restricted_pods_and_denies_what_no_policy_allows():
    declared = environment(namespace="modelworks-dev")
    labels = declared.one("kubernetes:core/v1:Namespace")["metadata"]["labels"]
    policy = declared.one("kubernetes:networking.k8s.io/v1:NetworkPolicy")
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert policy["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert policy["metadata"]["namespace"] == "modelworks-dev"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"key_deletion_days": 3}, "key_deletion_days must be from 7 to 30, as KMS has it, got 3"),
        ({"budget": {"monthly_usd": 0}}, "budget.monthly_usd must be above 0, got 0"),
        ({"budget": {"monthly_usd": 5, "actual_percent": -1}}, "budget.actual_percent must be above 0, got -1"),
    ],
)
def test_bad_input_is_refused_before_anything_is_declared(args, message):
    with pytest.raises(ValueError, match=message):
        environment(**args)


def test_outputs_are_the_arns_other_components_take():
    seen = {}

    def program():
        made = Environment("dev", {"account_id": ACCOUNT})
        pulumi.Output.all(made.key_arn, made.alerts_topic_arn).apply(lambda arns: seen.update(arns=arns))

    declare(program)
    assert seen["arns"] == ["arn:aws:mock:::dev-key", "arn:aws:mock:::dev-alerts"]


RELEASE = "kubernetes:helm.sh/v3:Release"
ARGO = {"install_argo_rollouts": True, "oidc_issuer": "oidc.example/id"}


def test_the_judge_of_canaries_may_read_metrics_and_how_load_balancers_route_and_nothing_else():
    (allowed,) = json.loads(environment(**ARGO).one("aws:iam/rolePolicy:RolePolicy")["policy"])["Statement"]
    described = ("Listeners", "LoadBalancers", "Rules", "Tags", "TargetGroups", "TargetHealth")
    assert allowed == {
        "Effect": "Allow",
        "Action": ["cloudwatch:GetMetricData", *(f"elasticloadbalancing:Describe{what}" for what in described)],
        "Resource": ["*"],
        "Condition": {"StringEquals": {"aws:RequestedRegion": "eu-central-1"}},
    }


def test_only_the_controllers_service_account_assumes_its_role():
    (trust,) = json.loads(environment(**ARGO).one("aws:iam/role:Role")["assumeRolePolicy"])["Statement"]
    assert trust["Principal"] == {"Federated": f"arn:aws:iam::{ACCOUNT}:oidc-provider/oidc.example/id"}
    assert trust["Condition"]["StringEquals"] == {
        "oidc.example/id:sub": "system:serviceaccount:argo-rollouts:argo-rollouts",
        "oidc.example/id:aud": "sts.amazonaws.com",
    }


def test_the_controller_has_its_role_a_region_and_verifies_target_groups():
    values = environment(**ARGO).one(RELEASE)["values"]
    account, controller = values["serviceAccount"], values["controller"]
    assert (account["name"], account["annotations"]) == (
        "argo-rollouts",
        {"eks.amazonaws.com/role-arn": "arn:aws:mock:::dev-argo-rollouts"},
    )
    assert controller["extraEnv"] == [{"name": "AWS_REGION", "value": "eu-central-1"}]
    assert controller["extraArgs"] == ["--aws-verify-target-group"]


def test_the_controller_starts_when_its_role_may_do_what_it_needs():
    requests = environment(**ARGO).requests()
    (release,) = [each for urn, each in requests.items() if RELEASE in urn]
    assert any("RolePolicy::dev-argo-rollouts-policy" in urn for urn in release["dependencies"])


def test_a_controller_without_an_issuer_is_refused():
    with pytest.raises(ValueError, match="install_argo_rollouts needs oidc_issuer"):
        environment(install_argo_rollouts=True)


STORAGE = "kubernetes:storage.k8s.io/v1:StorageClass"


@pytest.mark.parametrize("driver", ["ebs.csi.aws.com", "ebs.csi.eks.amazonaws.com"])
def test_volumes_are_encrypted_with_the_key_in_the_zone_of_their_pod_and_can_grow(driver):
    found = environment(namespace="ours", volume_driver=driver).one(STORAGE)
    assert (found["metadata"]["name"], found["provisioner"]) == ("ours-encrypted", driver)
    assert found["parameters"] == {"type": "gp3", "encrypted": "true", "kmsKeyId": "arn:aws:mock:::dev-key"}
    assert (found["volumeBindingMode"], found["allowVolumeExpansion"]) == ("WaitForFirstConsumer", True)


def test_the_key_serves_volumes_of_the_own_account_and_region_alone_and_only_where_there_are_any():
    key = environment(namespace="ours", volume_driver="ebs.csi.aws.com").one(KEY)
    allowed = statements(key["policy"])["VolumesAreEncrypted"]
    assert allowed["Condition"] == {
        "StringEquals": {"kms:CallerAccount": ACCOUNT, "kms:ViaService": "ec2.eu-central-1.amazonaws.com"}
    }
    assert not [action for action in allowed["Action"] if action in {"kms:*", "kms:Encrypt", "kms:PutKeyPolicy"}]
    assert "VolumesAreEncrypted" not in statements(environment(namespace="ours").one(KEY)["policy"])


def test_a_class_without_a_namespace_to_be_named_after_is_refused():
    with pytest.raises(ValueError, match="volume_driver needs namespace"):
        environment(volume_driver="ebs.csi.aws.com")


def test_pods_are_ready_when_the_load_balancer_reaches_them():
    (home,) = environment(namespace="ours").all("kubernetes:core/v1:Namespace").values()
    assert home["metadata"]["labels"]["elbv2.k8s.aws/pod-readiness-gate-inject"] == "enabled"


def test_a_budget_comes_after_its_topic_lets_it_publish():
    requests = environment(budget={"monthly_usd": 5}).requests()
    (budget,) = [each for urn, each in requests.items() if BUDGET in urn]
    assert any(TOPIC_POLICY in urn for urn in budget["dependencies"])

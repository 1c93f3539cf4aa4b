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
        ({"key_deletion_days": 3}, "key_deletion_days must be at least 7, got 3"),
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


def test_the_key_serves_volumes_of_the_own_account_and_region_alone_and_only_where_there_are_any():
    key = environment(encrypts_volumes=True).one(KEY)
    allowed = statements(key["policy"])["VolumesAreEncrypted"]
    assert allowed["Condition"] == {
        "StringEquals": {"kms:CallerAccount": ACCOUNT, "kms:ViaService": "ec2.eu-central-1.amazonaws.com"}
    }
    assert not [action for action in allowed["Action"] if action in {"kms:*", "kms:Encrypt", "kms:PutKeyPolicy"}]
    assert "VolumesAreEncrypted" not in statements(environment(namespace="ours").one(KEY)["policy"])


@pytest.mark.parametrize("controller", ["elbv2.k8s.aws", "eks.amazonaws.com"])
def test_pods_are_ready_when_the_load_balancer_reaches_them_on_either_kind_of_cluster(controller):
    (home,) = environment(namespace="ours").all("kubernetes:core/v1:Namespace").values()
    assert home["metadata"]["labels"][f"{controller}/pod-readiness-gate-inject"] == "enabled"


def test_a_budget_comes_after_its_topic_lets_it_publish():
    requests = environment(budget={"monthly_usd": 5}).requests()
    (budget,) = [each for urn, each in requests.items() if BUDGET in urn]
    assert any(TOPIC_POLICY in urn for urn in budget["dependencies"])

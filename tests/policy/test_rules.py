from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location("rules", Path(__file__).parents[2] / "policy" / "rules.py")
rules = importlib.util.module_from_spec(_SPEC)
sys.modules["rules"] = rules
_SPEC.loader.exec_module(rules)

TAGS = dict.fromkeys(rules.REQUIRED_TAGS, "x")
ALL_BLOCKED = dict.fromkeys(["blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls", "restrictPublicBuckets"], True)


def allow(action, resource="arn:aws:s3:::b", **more):
    return {"policy": json.dumps({"Statement": [{"Effect": "Allow", "Action": action, "Resource": resource, **more}]})}


def kms(algorithm):
    return {"rules": [{"applyServerSideEncryptionByDefault": {"sseAlgorithm": algorithm}}]}


def pod(**context):
    return {"spec": {"template": {"spec": {"containers": [{"name": "serve", "securityContext": context}]}}}}


@pytest.mark.parametrize(
    ("check", "inputs"),
    [
        (rules.required_tags, {"tags": TAGS}),
        (rules.no_public_bucket, ALL_BLOCKED),
        (rules.encrypted_bucket, kms("aws:kms")),
        (rules.encrypted_topic, {"kmsMasterKeyId": "k"}),
        (rules.rotating_key, {"enableKeyRotation": True}),
        (rules.named_permissions, allow("s3:GetObject")),
        (rules.named_permissions, allow("cloudwatch:PutMetricData", "*", Condition={"StringEquals": {}})),
        (rules.named_permissions, {"policy": None}),
        (rules.restricted_pods, pod(allowPrivilegeEscalation=False, readOnlyRootFilesystem=True)),
    ],
)
def test_what_keeps_the_rule_passes(check, inputs):
    assert list(check(inputs)) == []


@pytest.mark.parametrize(
    ("check", "inputs", "problem"),
    [
        (rules.required_tags, {"tags": {**TAGS, "owner": ""}}, "tags lack owner"),
        (rules.required_tags, {"tags": {**TAGS, "owner": " "}}, "tags lack owner"),
        (rules.required_tags, {"tags": {**TAGS, "owner": None}}, "tags lack owner"),
        (rules.required_tags, {"tags": [TAGS]}, f"tags must be names with values, got {[TAGS]!r}"),
        (rules.no_public_bucket, {**ALL_BLOCKED, "ignorePublicAcls": False}, "ignorePublicAcls must be true"),
        (rules.no_public_bucket, {}, f"{', '.join(ALL_BLOCKED)} must be true"),
        (rules.encrypted_bucket, kms("AES256"), "sseAlgorithm must be aws:kms, got 'AES256'"),
        (rules.encrypted_topic, {}, "kmsMasterKeyId must name a key"),
        (rules.rotating_key, {}, "enableKeyRotation must be true"),
        (rules.named_permissions, allow("s3:*"), "actions must be named one by one, got s3:*"),
        (rules.named_permissions, allow("s3:GetObject", "*"), "Resource '*' needs a Condition that narrows it"),
        (
            rules.restricted_pods,
            pod(allowPrivilegeEscalation=False),
            "container 'serve' must set allowPrivilegeEscalation: false and readOnlyRootFilesystem: true",
        ),
        (
            rules.restricted_pods,
            {"spec": {"schedule": "0 * * * *", "jobTemplate": pod(readOnlyRootFilesystem=True)}},
            "container 'serve' must set allowPrivilegeEscalation: false and readOnlyRootFilesystem: true",
        ),
        (
            rules.restricted_pods,
            {"spec": {"metrics": [{"provider": {"cloudWatch": {}}}, {"provider": {"job": pod()}}]}},
            "container 'serve' must set allowPrivilegeEscalation: false and readOnlyRootFilesystem: true",
        ),
    ],
)
def test_what_breaks_the_rule_is_told(check, inputs, problem):
    assert list(check(inputs)) == [problem]


@pytest.mark.parametrize("inputs", [{}, {"tags": {}}, {"tags": None}, {"tags": dict.fromkeys(TAGS, "")}])
def test_a_resource_without_any_tag_lacks_all_of_them(inputs):
    assert list(rules.required_tags(inputs)) == [f"tags lack {', '.join(rules.REQUIRED_TAGS)}"]


@pytest.mark.parametrize(
    ("rule", "token", "applies"),
    [
        ("required-tags", "aws:sns/topic:Topic", True),
        ("required-tags", "aws:sns/topicPolicy:TopicPolicy", False),  # takes no tags
        ("required-tags", "aws:autoscaling/group:Group", False),  # has tags of another shape
        ("required-tags", "aws:sns/ofAnotherVersion:OfAnotherVersion", False),
        ("required-tags", "aws:ofanotherversion/thing:Thing", False),
        ("required-tags", "kubernetes:core/v1:Pod", False),
        ("required-tags", "pulumi:providers:aws", False),
        ("rotating-key", "aws:kms/key:Key", True),
        ("rotating-key", "aws:kms/alias:Alias", False),
    ],
)
def test_a_rule_is_about_its_types_alone(rule, token, applies):
    assert {each.name: each for each in rules.RULES}[rule].applies_to(token) is applies

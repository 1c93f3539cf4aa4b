from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
_SPEC = importlib.util.spec_from_file_location("rules", ROOT / "policy" / "rules.py")
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


RESTRICTED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True}


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
        (rules.restricted_pods, {"spec": {"containers": [{"name": "serve", "securityContext": RESTRICTED}]}}),
        (rules.encrypted_table, {"serverSideEncryption": {"enabled": True, "kmsKeyArn": "k"}}),
        (rules.no_administrator, {"policyArn": "arn:aws:iam::aws:policy/AmazonEKSClusterPolicy"}),
        (rules.no_administrator, {"policyArn": "arn:aws:iam::111111111111:policy/AdministratorAccess"}),  # of one's own
        (rules.named_permissions_of_role, {"assumeRolePolicy": "{}"}),
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
        (rules.restricted_pods, pod(**RESTRICTED, privileged=True), "container 'serve' must not be privileged"),
        (
            rules.restricted_pods,
            pod(**RESTRICTED, capabilities={"drop": ["ALL"], "add": ["SYS_ADMIN"]}),
            "container 'serve' must add no capabilities, got SYS_ADMIN",
        ),
        (
            rules.restricted_pods,
            {"spec": {"hostNetwork": True, "hostPID": True, "containers": []}},
            "hostNetwork, hostPID must be false",
        ),
        (
            rules.restricted_pods,
            {"spec": {"template": {"spec": {"ephemeralContainers": [{"name": "debug"}]}}}},
            "container 'debug' must set allowPrivilegeEscalation: false and readOnlyRootFilesystem: true",
        ),
        (
            rules.encrypted_table,
            {"serverSideEncryption": {"enabled": True}},
            "serverSideEncryption must be enabled, and kmsKeyArn must name a key",
        ),
        (
            rules.named_permissions,
            {
                "policy": json.dumps(
                    {"Statement": {"Effect": "Allow", "NotAction": "iam:*", "Resource": "arn:aws:s3:::b"}}
                )
            },
            "NotAction allows what it does not name: name what is allowed",
        ),
        (
            rules.no_administrator,
            {"policyArn": "arn:aws-cn:iam::aws:policy/AdministratorAccess"},
            "AdministratorAccess allows everything, or to become whoever may: attach what is needed",
        ),
        (
            rules.named_permissions_of_role,
            {"managedPolicyArns": ["arn:aws:iam::aws:policy/IAMFullAccess"]},
            "IAMFullAccess allows everything, or to become whoever may: attach what is needed",
        ),
        (
            rules.named_permissions_of_role,
            {"inlinePolicies": [{"name": "all", **allow("*")}]},
            "actions must be named one by one, got *",
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


def declared(kind, urn, *, of=None):
    return SimpleNamespace(resource_type=kind, urn=urn, property_dependencies={"bucket": [of]} if of else {})


def test_a_bucket_needs_a_guard_of_each_kind_of_its_own():
    whole, half, bare = (declared("aws:s3/bucket:Bucket", urn) for urn in ("whole", "half", "bare"))
    block = "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock"
    encryption = "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration"
    guards = [
        declared(block, "1", of=whole),
        declared(encryption, "2", of=whole),
        declared(f"{encryption}V2", "3", of=half),
        declared("aws:s3/bucketPolicy:BucketPolicy", "4", of=bare),
    ]
    assert dict(rules.unguarded_buckets([*guards, whole, half, bare])) == {
        "half": "a bucket needs a block of public access",
        "bare": "a bucket needs a block of public access and an encryption with a key",
    }


@pytest.mark.parametrize("stack", ["local", "dev", "staging", "prod"])
def test_the_reference_stacks_keep_every_rule(stack):
    declared_by_stack = ROOT / "tests" / "stacks" / "declared" / f"{stack}.json"
    resources = json.loads(declared_by_stack.read_text())
    judged = {
        f"{urn}: {rule.name}": list(rule.check(each["object"]))
        for urn, each in resources.items()
        for rule in rules.RULES
        if rule.applies_to(each["type"])
    }
    assert len(judged) > 50
    assert {name: problems for name, problems in judged.items() if problems} == {}
    found = {urn: SimpleNamespace(urn=urn, resource_type=each["type"]) for urn, each in resources.items()}
    for urn, each in resources.items():
        made_of = {name: of.get("urns", []) for name, of in each.get("propertyDependencies", {}).items()}
        found[urn].property_dependencies = {name: [found[one] for one in urns] for name, urns in made_of.items()}
    assert list(rules.unguarded_buckets(found.values())) == []

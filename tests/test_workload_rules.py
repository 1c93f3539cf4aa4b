"""The rules for additions to pods, roles and networks, at their edges."""

from __future__ import annotations

import pytest

from modelworks import _workload_rules as rules

LONG = "x" * 63
TAINT = {"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoSchedule"}


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        (rules.key, "a"),
        (rules.key, LONG),
        (rules.key, f"{'x' * 253}/{LONG}"),
        (rules.key, "Example_1.a"),
        (rules.label_value, ""),
        (rules.label_value, LONG),
        (rules.own_key, "karpenter.sh/do-not-disrupt"),
        (rules.device, "nvidia.com/gpu"),
        (rules.device, "nvidia.com/mig-1g.5gb"),
        (rules.secret_name, "registry.login-1"),
        (rules.secret_name, "x" * 253),
        (rules.file_name, "release.pem"),
        (rules.file_name, ".keep"),
        (rules.file_name, "x" * 253),
        (rules.group_name, "a"),
        (rules.group_name, "modelworks.dev-1"),
        (rules.group_name, LONG),
        (rules.network, "0.0.0.0/0"),
        (rules.network, "fd00::/8"),
        (rules.action, "s3:GetObject"),
        (rules.action, "s3:Get*"),
        (rules.action, "execute-api:Invoke"),
        (rules.resource, "arn:aws-cn:s3:::b/*"),
    ],
)
def test_a_sound_value_comes_back(rule, value):
    assert rule(value) == value


@pytest.mark.parametrize(
    ("rule", "value", "message"),
    [
        (rules.key, "", "must be a key such as team or example.com/team, got ''"),
        (rules.key, LONG + "x", "must be a key"),
        (rules.key, "x" * 254 + "/a", "must be a key"),
        (rules.key, "Example.com/a", "must be a key"),
        (rules.key, "a-", "must be a key"),
        (rules.key, "a\n", "must be a key"),
        (rules.label_value, LONG + "x", "must be at most 63 letters"),
        (rules.label_value, "-a", "must be at most 63 letters"),
        (rules.own_key, "modelworks.dev/digest", "is a key by which pods are found, and set for them"),
        (rules.own_key, "job-name", "is a key by which pods are found, and set for them"),
        (rules.own_key, "a b", "must be a key"),
        (rules.device, "cpu", "must be the resource of a device, such as nvidia.com/gpu, got 'cpu'"),
        (rules.device, "hugepages-2Mi", "must be the resource of a device"),
        (rules.device, "kubernetes.io/batch-cpu", "must be the resource of a device"),
        (rules.device, "requests.nvidia.com/gpu", "must be the resource of a device"),
        (rules.secret_name, "x" * 254, "must be the name of a Secret"),
        (rules.secret_name, "-a", "must be the name of a Secret"),
        (rules.file_name, "a/b", "must be the name of a file: .*, got 'a/b'"),
        (rules.file_name, ".", "must be the name of a file"),
        (rules.file_name, "..data", "must be the name of a file"),
        (rules.file_name, "x" * 254, "must be the name of a file"),
        (rules.group_name, LONG + "x", "must be at most 63 lower-case letters"),
        (rules.group_name, "a-", "must be at most 63 lower-case letters"),
        (rules.group_name, "", "must be at most 63 lower-case letters"),
        (rules.network, "10.0.0.1/8", "has host bits set"),
        (rules.action, "s3:*", r"must be named one by one, such as s3:GetObject, got 's3:\*'"),
        (rules.action, "*", "must be named one by one"),
        (rules.action, "s3:GetObject\n", "must be named one by one"),
        (rules.action, "s3:Get*Object", "must be named one by one"),
        (rules.resource, "*", r"must be an ARN, got '\*'"),
        (rules.tag, ("owner", "a,b"), "must have letters"),
        (rules.tag, ("own=er", "a"), "must have letters"),
        (rules.tag, ("aws:owner", "a"), "must have letters"),
        (rules.tag, ("", "a"), "must have letters"),
        (rules.tag, ("x" * 129, "a"), "must have letters"),
        (rules.tag, ("owner", "x" * 257), "must have letters"),
        (rules.toleration, TAINT | {"operator": "In"}, "operator must be Equal or Exists, got 'In'"),
        (
            rules.toleration,
            TAINT | {"effect": "Never"},
            "effect must be one of NoSchedule, PreferNoSchedule, NoExecute",
        ),
        (rules.toleration, TAINT | {"operator": "Exists"}, "operator Exists takes no value, got 'yes'"),
        (rules.toleration, TAINT | {"key": None}, "operator Equal needs a key"),
        (rules.toleration, TAINT | {"key": "a b"}, "must be a key"),
        (rules.toleration, TAINT | {"value": "a b"}, "must be at most 63 letters"),
        (rules.permission, {"actions": [], "resources": ["arn:a"]}, "actions must name one at least, got none"),
        (rules.permission, {"actions": ["a:b"], "resources": []}, "resources must name one at least, got none"),
        (rules.egress, {"cidr": "10.0.0.0/8", "ports": []}, "ports must name one at least for 10.0.0.0/8, got none"),
    ],
)
def test_a_value_that_would_be_refused_later_is_refused_with_the_rule(rule, value, message):
    with pytest.raises(ValueError, match=message):
        rule(value)


@pytest.mark.parametrize(
    "taint",
    [
        TAINT,
        TAINT | {"value": None, "effect": None},
        TAINT | {"operator": "Exists", "value": None},
        TAINT | {"operator": "Exists", "value": None, "key": None},
    ],
)
def test_a_toleration_that_the_api_server_takes_passes(taint):
    rules.toleration(taint)


@pytest.mark.parametrize("pair", [("owner", ""), ("cost centre", "a=b c"), ("x" * 128, "y" * 256)])
def test_a_tag_that_an_annotation_can_hold_passes(pair):
    rules.tag(pair)

"""The rights that go with the namespaces and kinds that an environment makes."""

from __future__ import annotations

from modelworks.laptop.rbac import rules, standing


def _definition(plural, group):
    return {"spec": {"group": group, "names": {"plural": plural}}}


def test_rights_name_each_kind_and_no_other():
    assert rules([_definition("things", "example.com"), _definition("parts", "example.com")]) == [
        {"apiGroups": ["example.com"], "resources": ["parts", "parts/*", "things", "things/*"], "verbs": ["*"]}
    ]


def test_a_kind_in_a_group_of_kubernetes_gives_no_right():
    assert rules([_definition("clusterroles", "rbac.authorization.k8s.io"), _definition("x", "k8s.io")]) == []


def test_a_group_that_only_ends_alike_is_not_kubernetes_own():
    assert rules([_definition("things", "notk8s.io")])[0]["apiGroups"] == ["notk8s.io"]


def test_a_namespace_that_is_going_gets_no_rights():
    going = {"metadata": {"name": "old", "deletionTimestamp": "2026-01-01T00:00:00Z"}}
    assert standing([{"metadata": {"name": "new"}}, going]) == ["new"]

"""When a pod is a target of a strict gateway."""

from __future__ import annotations

from modelworks.laptop.gateway.registration import LABEL, SECONDS, Registrations


def pod(name, namespace="plain", ready="True"):
    status = {"phase": "Running", "podIP": "127.77.0.2", "conditions": [{"type": "Ready", "status": ready}]}
    return {"metadata": {"name": name, "namespace": namespace}, "status": status}


NAMESPACES = [
    {"metadata": {"name": "plain", "labels": None}},
    {"metadata": {"name": "gated", "labels": {LABEL: "enabled"}}},
]


def names(targets):
    return [each["metadata"]["name"] for each in targets[0]]


def test_a_pod_becomes_a_target_seconds_after_it_is_ready():
    registrations = Registrations()
    registrations.targets([], NAMESPACES, 0)
    assert registrations.targets([pod("a")], NAMESPACES, 100) == ([], SECONDS)
    assert registrations.targets([pod("a")], NAMESPACES, 104) == ([], SECONDS - 4)
    assert names(registrations.targets([pod("a")], NAMESPACES, 100 + SECONDS)) == ["a"]


def test_a_pod_that_was_not_ready_for_a_while_registers_again():
    registrations = Registrations()
    registrations.targets([], NAMESPACES, 0)
    registrations.targets([pod("a")], NAMESPACES, 100)
    registrations.targets([pod("a", ready="False")], NAMESPACES, 105)
    assert names(registrations.targets([pod("a")], NAMESPACES, 100 + SECONDS)) == []


def test_pods_with_readiness_gates_are_targets_when_they_are_ready():
    registrations = Registrations()
    registrations.targets([], NAMESPACES, 0)
    assert names(registrations.targets([pod("a", "gated"), pod("b")], NAMESPACES, 100)) == ["a"]


def test_pods_that_are_ready_when_the_gateway_starts_were_targets_before():
    assert names(Registrations().targets([pod("a")], NAMESPACES, 100)) == ["a"]

"""When an object counts as ready, and what is said when it does not."""

from __future__ import annotations

import pytest

from modelworks.laptop.providers.kubernetes import jsonpath
from modelworks.laptop.providers.kubernetes.readiness import (
    RULES,
    Related,
    pod_problems,
    pod_selector,
    problems,
    rule_for,
    wait_for,
)


def verdict(api_version, kind, seen, **related):
    return RULES[api_version, kind].rule({"metadata": {"generation": 2}, **seen}, Related(**related))


def conditions(*each):
    return [dict(zip(("type", "status", "reason", "message"), one, strict=False)) for one in each]


def deployment(replicas=2, *, updated=0, available=0, observed=2, conditions=()):
    return {
        "spec": {"replicas": replicas},
        "status": {
            "observedGeneration": observed,
            "updatedReplicas": updated,
            "availableReplicas": available,
            "conditions": list(conditions),
        },
    }


ROLLED_OUT = conditions(("Progressing", "True", "NewReplicaSetAvailable"), ("Available", "True"))
ROLLING = conditions(("Progressing", "True", "ReplicaSetUpdated"), ("Available", "True"))
OVERDUE = conditions(("Progressing", "False", "ProgressDeadlineExceeded", "has timed out"), ("Available", "True"))


@pytest.mark.parametrize(
    ("seen", "state"),
    [
        (deployment(updated=2, available=2, conditions=ROLLED_OUT), "ready"),
        (deployment(updated=2, available=2, observed=1, conditions=ROLLED_OUT), "progressing"),
        (deployment(updated=1, available=2, conditions=ROLLED_OUT), "progressing"),
        (deployment(updated=2, available=2, conditions=ROLLING), "progressing"),
        (deployment(updated=1, available=1, conditions=OVERDUE), "failed"),
        (deployment(0, conditions=conditions(("Available", "True"))), "ready"),
    ],
)
def test_a_deployment_is_ready_when_its_newest_pods_are_all_available(seen, state):
    assert verdict("apps/v1", "Deployment", seen).state == state


def test_a_deployment_whose_pods_are_refused_says_so():
    seen = deployment(conditions=conditions(("ReplicaFailure", "True", "FailedCreate", "violates PodSecurity")))
    assert "violates PodSecurity" in verdict("apps/v1", "Deployment", seen).message


def stateful(ready=2, replicas=2, current="b", update="b", updated=2, **strategy):
    return {
        "spec": {"replicas": 2, "updateStrategy": strategy or {"type": "RollingUpdate"}},
        "status": {
            "observedGeneration": 2,
            "readyReplicas": ready,
            "replicas": replicas,
            "currentRevision": current,
            "updateRevision": update,
            "updatedReplicas": updated,
        },
    }


@pytest.mark.parametrize(
    ("seen", "state"),
    [
        (stateful(), "ready"),
        (stateful(ready=1), "progressing"),
        (stateful(replicas=3), "progressing"),
        (stateful(current="a"), "progressing"),
        (stateful(current="a", type="OnDelete"), "ready"),
        (stateful(current="a", updated=1, type="RollingUpdate", rollingUpdate={"partition": 1}), "ready"),
        (stateful(current="a", updated=0, type="RollingUpdate", rollingUpdate={"partition": 1}), "progressing"),
    ],
)
def test_a_stateful_set_is_ready_when_all_replicas_are_of_the_wanted_revision(seen, state):
    assert verdict("apps/v1", "StatefulSet", seen).state == state


@pytest.mark.parametrize(
    ("available", "updated", "strategy", "state"),
    [(2, 2, "RollingUpdate", "ready"), (2, 1, "RollingUpdate", "progressing"), (2, 1, "OnDelete", "ready")],
)
def test_a_daemon_set_is_ready_when_every_node_has_its_new_pod(available, updated, strategy, state):
    counts = {"desiredNumberScheduled": 2, "numberAvailable": available, "updatedNumberScheduled": updated}
    seen = {"spec": {"updateStrategy": {"type": strategy}}, "status": {"observedGeneration": 2, **counts}}
    assert verdict("apps/v1", "DaemonSet", seen).state == state


TOKEN = {"type": "kubernetes.io/service-account-token"}


@pytest.mark.parametrize(
    ("kind", "seen", "state"),
    [
        ("PersistentVolume", {"status": {"phase": "Available"}}, "ready"),
        ("PersistentVolume", {"status": {"phase": "Pending"}}, "progressing"),
        ("PersistentVolume", {"status": {"phase": "Failed"}}, "failed"),
        ("ResourceQuota", {"spec": {"hard": {"pods": "1"}}, "status": {"hard": {"pods": "1"}}}, "ready"),
        ("ResourceQuota", {"spec": {"hard": {"pods": "1"}}}, "progressing"),
        ("ReplicationController", {"spec": {"replicas": 1}, "status": {"observedGeneration": 2}}, "progressing"),
        ("Secret", {}, "ready"),
        ("Secret", TOKEN, "progressing"),
        ("Secret", {**TOKEN, "data": {"token": "dg=="}}, "ready"),
    ],
)
def test_things_that_others_fill_in_are_waited_for(kind, seen, state):
    assert verdict("v1", kind, seen).state == state


@pytest.mark.parametrize(
    ("seen", "state"),
    [
        ({"status": {"conditions": conditions(("Complete", "True"))}}, "ready"),
        ({"status": {"active": 1}}, "progressing"),
        ({"spec": {"suspend": True}}, "ready"),
        ({"status": {"conditions": conditions(("Failed", "True", "BackoffLimitExceeded", "too often"))}}, "failed"),
    ],
)
def test_a_job_is_ready_when_it_completed(seen, state):
    assert verdict("batch/v1", "Job", seen).state == state


@pytest.mark.parametrize(
    ("seen", "state"),
    [
        ({"status": {"phase": "Running", "conditions": conditions(("Ready", "True"))}}, "ready"),
        ({"status": {"phase": "Running", "conditions": conditions(("Ready", "False"))}}, "progressing"),
        ({"status": {"phase": "Succeeded"}}, "ready"),
        ({"status": {"phase": "Failed", "message": "evicted"}}, "failed"),
        ({}, "progressing"),
    ],
)
def test_a_pod_is_ready_when_it_is_ready_or_has_succeeded(seen, state):
    assert verdict("v1", "Pod", seen).state == state


STARTING = {"metadata": {"name": "p"}, "status": {"podIP": "127.77.0.2", "conditions": conditions(("Ready", "False"))}}
POD = {"metadata": {"name": "p"}, "status": {"podIP": "127.77.0.2", "conditions": conditions(("Ready", "True"))}}
GOING = {"metadata": {"deletionTimestamp": "now"}, "status": POD["status"]}


@pytest.mark.parametrize(
    ("spec", "pods", "state"),
    [
        ({"selector": {"app": "a"}}, [], "progressing"),
        ({"selector": {"app": "a"}}, [POD], "ready"),
        ({"selector": {"app": "a"}}, [STARTING, GOING], "progressing"),
        ({"selector": {"app": "a"}}, [STARTING, POD], "ready"),
        ({"selector": {"app": "a"}, "clusterIP": "None"}, [], "ready"),
        ({"type": "ExternalName"}, [], "ready"),
        ({}, [], "ready"),
        ({"selector": {"app": "a"}, "type": "LoadBalancer"}, [POD], "progressing"),
    ],
)
def test_a_service_is_ready_when_it_targets_a_ready_pod(spec, pods, state):
    assert verdict("v1", "Service", {"spec": spec}, pods=pods).state == state


def test_an_ingress_is_ready_when_it_has_an_address():
    assert verdict("networking.k8s.io/v1", "Ingress", {"status": {"loadBalancer": {}}}).state == "progressing"
    given = {"status": {"loadBalancer": {"ingress": [{"hostname": "a.localhost"}]}}}
    assert verdict("networking.k8s.io/v1", "Ingress", given).state == "ready"


@pytest.mark.parametrize(
    ("phase", "binding", "state"),
    [
        ("Bound", "Immediate", "ready"),
        ("Pending", "Immediate", "progressing"),
        ("Pending", "WaitForFirstConsumer", "ready"),
        ("Lost", "Immediate", "failed"),
    ],
)
def test_a_volume_claim_is_ready_when_bound_or_when_its_first_pod_will_bind_it(phase, binding, state):
    seen = {"status": {"phase": phase}}
    assert verdict("v1", "PersistentVolumeClaim", seen, storage_class={"volumeBindingMode": binding}).state == state


def test_a_definition_is_ready_when_its_kind_is_served():
    group = ("apiextensions.k8s.io/v1", "CustomResourceDefinition")
    assert verdict(*group, {"status": {}}).state == "progressing"
    assert verdict(*group, {"status": {"conditions": conditions(("Established", "True"))}}).state == "ready"
    taken = conditions(("NamesAccepted", "False", "ListKindConflict", "taken"))
    assert verdict(*group, {"status": {"conditions": taken}}).state == "failed"


@pytest.mark.parametrize("kind", [("argoproj.io/v1alpha1", "Rollout"), ("v1", "ConfigMap"), ("v1", "Namespace")])
def test_what_the_real_provider_does_not_wait_for_is_ready_at_once(kind):
    assert rule_for({"apiVersion": kind[0], "kind": kind[1]}) is None


# ---------------------------------------------------------------------------------------------------------- annotations


def annotated(**annotations):
    named = {f"pulumi.com/{key}": value for key, value in annotations.items()}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"annotations": named}}


def test_skip_await_comes_before_wait_for():
    assert rule_for(annotated(skipAwait="true", waitFor="condition=Ready")) is None


def test_wait_for_comes_before_the_kinds_own_rule():
    how = rule_for(annotated(waitFor="jsonpath={.status.phase}=Running"))
    assert how.rule({"status": {"phase": "Running"}}, Related()).state == "ready"
    assert how.rule({"status": {"phase": "Pending"}}, Related()).message.endswith("(found Pending)")


SEEN = {
    "metadata": {"generation": 2},
    "status": {
        "observedGeneration": 2,
        "phase": "Running",
        "ready": True,
        "count": 3,
        "conditions": conditions(("Ready", "True"), ("Degraded", "False")),
        "ports": [{"name": "http", "port": 80}],
    },
}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("jsonpath={.status.phase}=Running", True),
        ("jsonpath={.status.phase}='Running'", True),
        ("jsonpath={.status.phase}=Pending", False),
        ("jsonpath={.status.phase}", True),
        ("jsonpath={.status.none}", False),
        ("jsonpath={.status.ready}=true", True),
        ("jsonpath={.status.count}=3", True),
        ("jsonpath={.status.ports[0].port}=80", True),
        ("jsonpath={.status['phase']}=Running", True),
        ('jsonpath={.status.conditions[?(@.type=="Ready")].status}=True', True),
        ('jsonpath={.status.conditions[?(@.type=="Degraded")].status}=True', False),
        ("jsonpath={.status.ports[*].name}=http", True),
        ("condition=Ready", True),
        ("condition=ready=true", True),
        ("condition=Degraded=False", True),
        ("condition=Degraded", False),
        ("condition=Missing", False),
        ('["condition=Ready", "jsonpath={.status.phase}=Running"]', True),
        ('["condition=Ready", "jsonpath={.status.phase}=Pending"]', False),
    ],
)
def test_wait_for_understands(text, holds):
    assert all(rule(SEEN).state == "ready" for rule in wait_for(text)) is holds


def test_a_condition_of_an_older_generation_does_not_count():
    stale = {**SEEN, "metadata": {"generation": 3}}
    assert wait_for("condition=Ready")[0](stale).state == "progressing"


@pytest.mark.parametrize(
    "text",
    ["Ready", "condition=", "jsonpath=.status", "jsonpath={status..x}=1", "[]", "[1]", "[broken", "jsonpath={}"],
)
def test_wait_for_refuses(text):
    with pytest.raises(ValueError, match=r"JSONPath|pulumi\.com/waitFor"):
        wait_for(text)


def test_a_path_with_dots_in_a_name():
    path, _ = jsonpath.parse_wait(r"{.metadata.annotations.example\.com/x}")
    assert jsonpath.find(path, {"metadata": {"annotations": {"example.com/x": 1}}}) == [1]


# ------------------------------------------------------------------------------------------------- what the pods say

CRASHING = {
    "metadata": {"name": "web-1"},
    "status": {
        "containerStatuses": [
            {
                "name": "web",
                "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}},
                "lastState": {"terminated": {"exitCode": 3, "reason": "Error", "message": "no such model\n"}},
            }
        ]
    },
}


def test_a_crashing_container_tells_reason_exit_code_and_last_words():
    assert pod_problems(CRASHING) == [
        "container web: [CrashLoopBackOff] back-off 40s",
        "container web ended with exit code 3 (Error): no such model",
    ]


def test_a_pod_that_is_merely_starting_has_no_problem():
    waiting = {
        "status": {"containerStatuses": [{"name": "web", "state": {"waiting": {"reason": "ContainerCreating"}}}]}
    }
    assert pod_problems(waiting) == []


def test_events_of_the_object_its_pods_and_its_replica_set_are_told_once():
    def event(kind, name, reason, message, type_="Warning"):
        involved = {"kind": kind, "name": name}
        return {"type": type_, "reason": reason, "message": message, "involvedObject": involved}

    seen = {"kind": "Deployment", "metadata": {"name": "web"}}
    events = [
        event("ReplicaSet", "web-6d8f", "FailedCreate", "violates PodSecurity"),
        event("ReplicaSet", "web-6d8f", "FailedCreate", "violates PodSecurity"),
        event("Pod", "web-1", "FailedMount", "no such claim"),
        event("Pod", "other", "FailedMount", "not ours"),
        event("ReplicaSet", "web-two-77", "FailedCreate", "not ours"),
        event("Pod", "web-1", "Started", "fine", "Normal"),
    ]
    assert problems(seen, [{"metadata": {"name": "web-1"}}], events) == [
        "ReplicaSet web-6d8f: [FailedCreate] violates PodSecurity",
        "Pod web-1: [FailedMount] no such claim",
    ]


@pytest.mark.parametrize(
    ("spec", "selector"),
    [
        ({"selector": {"app": "a", "tier": "b"}}, "app=a,tier=b"),
        ({"selector": {"matchLabels": {"app": "a"}}}, "app=a"),
        (
            {"selector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["a", "b"]}]}},
            "app in (a,b)",
        ),
        ({}, ""),
    ],
)
def test_the_pods_of_an_object_are_those_it_selects(spec, selector):
    assert pod_selector({"spec": spec}) == selector

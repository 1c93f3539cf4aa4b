from __future__ import annotations

from dataclasses import replace

import pytest

from modelworks.laptop.agent import reconcile, status
from modelworks.laptop.agent.reconcile import (
    Backoff,
    Blocked,
    Decision,
    Ending,
    Finish,
    PodView,
    Prepare,
    Run,
    Start,
    Stop,
)


def pod(*containers, init=(), **spec):
    return {
        "metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 1},
        "spec": {
            "containers": [{"name": c} if isinstance(c, str) else c for c in containers],
            "initContainers": list(init),
            **spec,
        },
    }


def view(**runs):
    one = PodView(ip="127.77.0.2", started=0, prepared=True)
    for name, run in runs.items():
        up = run is not None and run.running
        one = one.having(name, run=run, ready=up, passed_startup=up)
    return one


RUNNING = Run(0, 100)


def ended(code, *, number=0, backoff=0.0, at=110.0):
    return Run(number, 100, backoff, finished=at, exit_code=code)


def actions(one, seen, now=200.0):
    return reconcile.decide(one, seen, now).actions


def test_volumes_come_before_containers():
    assert actions(pod("c"), PodView("ip", 0)) == (Prepare(),)


def test_containers_start_together():
    assert actions(pod("a", "b"), view()) == (Start("a"), Start("b"))


def test_init_containers_start_one_after_the_other():
    assert actions(pod("c", init=[{"name": "i"}, {"name": "j"}]), view()) == (Start("i"),)
    assert actions(pod("c", init=[{"name": "i"}, {"name": "j"}]), view(i=ended(0))) == (Start("j"),)
    assert actions(pod("c", init=[{"name": "i"}, {"name": "j"}]), view(i=ended(0), j=ended(0))) == (Start("c"),)


def test_a_failed_init_container_of_a_pod_that_never_restarts_fails_the_pod():
    failed = pod("c", init=[{"name": "i"}], restartPolicy="Never")
    assert actions(failed, view(i=ended(1))) == ()
    assert reconcile.phase(failed, view(i=ended(1))) == "Failed"


def test_a_sidecar_runs_beside_the_containers_and_ends_after_them():
    one = pod("c", init=[{"name": "s", "restartPolicy": "Always"}], restartPolicy="Never")
    assert actions(one, view(s=RUNNING)) == (Start("c"),)
    assert actions(one, view(s=RUNNING, c=RUNNING)) == ()
    assert actions(one, view(s=RUNNING, c=ended(0))) == (Stop("s", 30, ""),)
    assert reconcile.phase(one, view(s=ended(143), c=ended(0))) == "Succeeded"


def test_a_sidecar_that_is_not_up_holds_the_containers_back():
    one = pod("c", init=[{"name": "s", "restartPolicy": "Always"}])
    assert actions(one, view().having("s", run=RUNNING, passed_startup=False)) == ()


@pytest.mark.parametrize(
    ("policy", "code", "again"),
    [("Always", 0, True), ("Always", 1, True), ("OnFailure", 0, False), ("OnFailure", 1, True), ("Never", 1, False)],
)
def test_restart_policy(policy, code, again):
    assert bool(actions(pod("c", restartPolicy=policy), view(c=ended(code)))) is again


def test_a_restart_waits_for_its_backoff():
    assert reconcile.decide(pod("c"), view(c=ended(1, backoff=20)), 120) == Decision((), 130)
    assert reconcile.decide(pod("c"), view(c=ended(1, backoff=20)), 130).actions == (Start("c"),)


def test_backoff_is_the_kubelets():
    backoff, waits, run = Backoff(), [], None
    for number in range(8):
        run = Run(number, 0, backoff.after(run), finished=1, exit_code=1)
        waits.append(run.backoff)
    assert waits == [0, 10, 20, 40, 80, 160, 300, 300]


def test_a_long_run_clears_the_backoff():
    assert Backoff().after(Run(4, 0, 160, finished=601, exit_code=1)) == 10


def test_a_blocked_container_is_tried_again_at_its_time():
    seen = view().having("c", blocked=Blocked("CreateContainerConfigError", "", 210))
    assert reconcile.decide(pod("c"), seen, 200) == Decision((), 210)
    assert reconcile.decide(pod("c"), seen, 210).actions == (Start("c"),)


def test_a_refused_container_is_never_tried_again():
    assert (
        reconcile.decide(pod("c"), view().having("c", blocked=Blocked("CommandRequired", "", None)), 1e9) == Decision()
    )


def test_an_unhealthy_container_is_stopped_with_its_probes_grace():
    one = pod({"name": "c", "livenessProbe": {"terminationGracePeriodSeconds": 3}})
    assert actions(one, view(c=RUNNING).having("c", unhealthy="failed liveness probe")) == (
        Stop("c", 3, "failed liveness probe"),
    )


def test_nothing_is_done_twice():
    assert actions(pod("c"), view().having("c", busy=True)) == ()


def test_a_deleted_pod_stops_then_finishes():
    one = pod("c")
    one["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    going = replace(view(c=RUNNING), ending=Ending("", "", 7))
    assert actions(one, going) == (Stop("c", 7, ""),)
    assert actions(one, going.having("c", busy=True)) == ()
    assert actions(one, replace(view(c=ended(143)), ending=going.ending)) == (Finish(),)


def test_a_deadline_fails_the_pod():
    one = pod("c", activeDeadlineSeconds=50)
    assert reconcile.decide(one, view(c=RUNNING), 20).wake == 50
    assert reconcile.deadline_passed(one, view(c=RUNNING), 50)
    late = replace(view(c=ended(0)), ending=Ending("DeadlineExceeded", "", 30))
    assert reconcile.phase(one, late) == "Failed"
    assert status.pod_status(one, late, 60)["reason"] == "DeadlineExceeded"


def test_phases():
    assert reconcile.phase(pod("c"), view()) == "Pending"
    assert reconcile.phase(pod("c"), view(c=RUNNING)) == "Running"
    assert reconcile.phase(pod("c"), view(c=ended(1))) == "Running"
    assert reconcile.phase(pod("c", restartPolicy="OnFailure"), view(c=ended(0))) == "Succeeded"
    assert reconcile.phase(pod("c", "d", restartPolicy="Never"), view(c=ended(0), d=ended(2))) == "Failed"


def conditions(one, seen, now=200.0):
    return {c["type"]: c for c in status.pod_status(one, seen, now)["conditions"]}


def test_a_pod_is_ready_when_all_its_containers_are():
    assert conditions(pod("c"), view(c=RUNNING))["Ready"]["status"] == "True"
    unready = conditions(pod("c", "d"), view(c=RUNNING))
    assert unready["Ready"]["status"] == "False"
    assert unready["Ready"]["message"] == "containers with unready status: [d]"


def test_a_closed_readiness_gate_keeps_a_pod_from_being_ready():
    one = pod("c", readinessGates=[{"conditionType": "gate"}])
    assert conditions(one, view(c=RUNNING))["Ready"]["reason"] == "ReadinessGatesNotReady"
    one["status"] = {"conditions": [{"type": "gate", "status": "True"}]}
    assert conditions(one, view(c=RUNNING))["Ready"]["status"] == "True"


def test_a_condition_that_stays_keeps_its_time():
    one = pod("c")
    one["status"] = {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "then"}]}
    assert conditions(one, view(c=RUNNING))["Ready"]["lastTransitionTime"] == "then"
    assert conditions(one, view(c=ended(1)))["Ready"]["lastTransitionTime"] == "1970-01-01T00:03:20Z"


def test_a_crash_loop_is_reported_as_one():
    told = status.pod_status(pod("c"), view(c=ended(7, number=2, backoff=20)), 115)["containerStatuses"][0]
    assert told["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    assert told["lastState"]["terminated"]["exitCode"] == 7
    assert told["restartCount"] == 2


def test_reasons_of_an_end():
    def reason(run):
        told = status.pod_status(pod("c", restartPolicy="Never"), view(c=run), 115)["containerStatuses"][0]
        return told["state"]["terminated"]["reason"]

    assert reason(ended(0)) == "Completed"
    assert reason(ended(1)) == "Error"
    assert reason(replace(ended(137), reason="OOMKilled")) == "OOMKilled"


@pytest.mark.parametrize(
    ("resources", "quality"),
    [
        ({}, "BestEffort"),
        ({"requests": {"cpu": "1"}}, "Burstable"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}}, "Guaranteed"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}, "Burstable"),
    ],
)
def test_quality_of_service(resources, quality):
    assert status.quality_of_service(pod({"name": "c", "resources": resources})) == quality

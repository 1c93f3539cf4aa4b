"""What an endpoint's objects in the cluster come to, in the words of a release."""

from __future__ import annotations

import pytest

from cluster.argo_objects import (
    ABORTED,
    CANARY,
    FAILED,
    FIRST,
    LAST,
    NEW,
    OLD,
    SETS,
    STABLE,
    STEPS,
    a_rollout,
    pod,
    result,
    run,
    weights,
)
from modelworks.cluster import rollout
from modelworks.cluster.rollout import Share
from modelworks.cluster.rollout_objects import RolloutObjects


def stands(seen: RolloutObjects, desired: str = NEW) -> rollout.Status:
    return rollout.status_of("m", desired, "2", seen)


def test_a_release_that_took_all_traffic_serves_since_its_rollout_ended():
    seen = RolloutObjects(
        a_rollout(phase="Healthy", stableRS=CANARY, canary=weights(0)),
        SETS,
        [run("Successful", [], made=FIRST, ended="2026-11-01T11:00:00Z")],
    )
    assert stands(seen).state == "Healthy"
    assert stands(seen).shares == (Share(NEW, "2", 100, "2026-11-01T11:00:00Z"),)
    assert stands(seen).shares[0].name == "version 2 (aaaaaaaaaaaa)"


def test_a_release_whose_analysis_is_only_being_ended_serves_since_its_rollout_completed():
    completed = [{"type": "Completed", "status": "True", "lastTransitionTime": LAST}]
    made = a_rollout(phase="Healthy", stableRS=CANARY, conditions=completed)
    assert stands(RolloutObjects(made, SETS, [run("Running", [], ended="")])).shares[0].since == LAST


def test_a_canary_has_its_share_since_its_rollout_began():
    tried_before = run("Successful", [], made=FIRST, ended="2026-11-01T11:00:00Z")
    seen = RolloutObjects(a_rollout(canary=weights(20)), SETS, [tried_before, run("Running", [], made=LAST, ended="")])
    assert [share.since for share in stands(seen).shares] == [FIRST, LAST]


def test_a_canary_is_under_way_with_its_share_and_its_step():
    seen = RolloutObjects(
        a_rollout(phase="Progressing", canary=weights(20), currentStepIndex=2), SETS, (), [pod(ready=True)]
    )
    assert stands(seen).state == "Progressing"
    assert [(share.version, share.percent) for share in stands(seen).shares] == [("1", 80), ("2", 20)]
    assert stands(seen).progress == "step 3 of 5: watching for 20s"


def test_the_evidence_gathered_so_far_is_told():
    traffic = run("Running", [result("traffic", "Running", "[[12 1]]")], kind="Step")
    status = {"weights": weights(20)["weights"], "currentStepAnalysisRunStatus": {"name": traffic["metadata"]["name"]}}
    seen = RolloutObjects(a_rollout(canary=status, currentStepIndex=1), SETS, [traffic], [pod(ready=True)])
    assert stands(seen).progress == (
        "step 2 of 5: gathering evidence (traffic: 13 requests; limit: at least 20 by the deadline)"
    )


def test_a_release_turned_back_says_which_measurement_broke_which_limit():
    seen = RolloutObjects(a_rollout(phase="Degraded", abort=True, message=ABORTED, canary=weights(0)), SETS, [FAILED])
    found = stands(seen)
    assert found.state == "Aborted"
    assert [share.version for share in found.shares] == ["1"]
    assert [str(item) for item in found.measured] == [
        "errors: measured 0.08, 0.031, 0 (newest first); limit: more than 0.02, in 2 datapoints"
    ]


def test_a_measurement_that_could_not_be_taken_says_why():
    broken = result("slow", "Error")
    broken["measurements"] = [{"phase": "Error", "message": "connection refused"}]
    message = 'RolloutAborted: Rollout aborted update to revision 2: Metric "slow" assessed Error'
    seen = RolloutObjects(a_rollout(abort=True, message=message), SETS, [run("Error", [broken])])
    assert [str(item) for item in stands(seen).measured] == ["slow could not be measured: connection refused"]


DENIED = (
    "operation error CloudWatch: GetMetricData, https response error StatusCode: 403, RequestID: laptop, api error "
    "AccessDenied: User: arn:aws:iam::000000000000:user/argo is not authorized to perform: cloudwatch:GetMetricData"
)


def test_a_controller_that_may_not_read_metrics_is_named_and_not_the_release():
    broken = result("errors", "Error")
    broken["measurements"] = [{"phase": "Error", "message": DENIED}]
    message = 'RolloutAborted: Rollout aborted update to revision 2: Metric "errors" assessed Error'
    found = stands(RolloutObjects(a_rollout(abort=True, message=message), SETS, [run("Error", [broken])]))
    assert [str(item) for item in found.measured] == [f"errors could not be measured: {DENIED}"]
    assert "Let the Argo Rollouts controller read CloudWatch: its role needs cloudwatch:GetMetricData" in found.fix
    assert "modelworks rollout retry m --env ENV" in found.fix
    assert "Release another version" not in found.fix


def test_evidence_that_could_not_be_read_yet_is_not_told_as_no_requests():
    reading = result("traffic", "Running")
    reading["measurements"] = [{"phase": "Error", "message": DENIED}]
    traffic = run("Running", [reading], kind="Step")
    status = {"weights": weights(20)["weights"], "currentStepAnalysisRunStatus": {"name": traffic["metadata"]["name"]}}
    seen = RolloutObjects(a_rollout(canary=status, currentStepIndex=1), SETS, [traffic], [pod(ready=True)])
    assert f"gathering evidence (traffic could not be measured: {DENIED})" in stands(seen).progress


@pytest.mark.parametrize(
    ("evidence", "told"),
    [
        (
            {"pods": [pod(waiting={"reason": "CrashLoopBackOff"}, ended={"exitCode": 1, "message": "a\nno bundle"})]},
            "pod m-1: CrashLoopBackOff, exit code 1: no bundle",
        ),
        (
            {"pods": [pod(ended={"reason": "Error", "exitCode": 1, "message": '{"message": "tampered with"}'})]},
            "pod m-1: Error, exit code 1: tampered with",
        ),
        (
            {"pods": [pod(waiting={"reason": "ErrImagePull", "message": "no such image"})]},
            "pod m-1: ErrImagePull: no such image",
        ),
        (
            {
                "events": [
                    {"involvedObject": {"name": f"m-{STABLE}-x"}, "reason": "Old", "message": "not ours"},
                    {"involvedObject": {"name": f"m-{CANARY}-x"}, "reason": "BackOff", "message": "back-off"},
                ]
            },
            f"pod m-{CANARY}-x: BackOff: back-off",
        ),
    ],
)
def test_a_release_that_never_became_ready_says_what_its_pods_or_their_events_say(evidence, told):
    message = 'RolloutAborted: Rollout aborted update to revision 2: ReplicaSet "m" has timed out progressing.'
    seen = RolloutObjects(a_rollout(abort=True, message=message), SETS, **evidence)
    assert stands(seen).reason == f"not ready within 60 s: {told}"


def test_a_deadline_is_told_also_after_argo_forgot_to_say_so():
    facts = {
        "message": "RolloutAborted: Rollout aborted update to revision 3",
        "abortedAt": "2026-11-01T12:01:01Z",
        "conditions": [{"type": "Completed", "status": "False", "lastTransitionTime": LAST}],
    }
    never = RolloutObjects(a_rollout(abort=True, **facts), SETS, [run("Successful", [], made=LAST)])
    judged = RolloutObjects(a_rollout(abort=True, **facts), SETS, [run("Successful", [], made=LAST, kind="Step")])
    assert stands(never).reason == "not ready within 60 s"
    assert stands(judged).reason == "aborted by hand"


def test_a_release_whose_probes_failed_names_their_job():
    probes = {"name": "probes", "phase": "Failed"}
    probes["measurements"] = [{"phase": "Failed", "finishedAt": LAST, "metadata": {"job-name": "u-1.probes.1"}}]
    message = ABORTED.replace("errors", "probes")
    seen = RolloutObjects(a_rollout(abort=True, message=message), SETS, [run("Failed", [probes])])
    (measured,) = stands(seen).measured
    assert str(measured) == "probes could not be measured: Job u-1.probes.1 failed, and its log has the reason"


def test_a_rollout_aborted_by_hand_says_so():
    seen = RolloutObjects(
        a_rollout(abort=True, message="RolloutAborted: Rollout aborted update to revision 2"), SETS, [FAILED]
    )
    assert (stands(seen).reason, stands(seen).measured) == ("aborted by hand", ())


def test_what_the_cluster_was_not_told_is_not_rolled_out():
    seen = RolloutObjects(a_rollout(of=OLD, phase="Healthy", currentPodHash=STABLE), SETS)
    assert stands(seen).state == "OutOfSync"
    assert stands(RolloutObjects()).state == "OutOfSync"
    assert [share.version for share in stands(seen).shares] == ["1"]


def test_what_the_controller_has_not_seen_yet_is_under_way():
    assert (
        stands(RolloutObjects(a_rollout(observedGeneration="1", phase="Healthy", stableRS=CANARY), SETS)).state
        == "Progressing"
    )


def test_a_first_release_without_a_ready_pod_is_degraded_after_its_deadline():
    message = 'ProgressDeadlineExceeded: ReplicaSet "m" has timed out progressing.'
    seen = RolloutObjects(a_rollout(phase="Degraded", stableRS="", message=message), SETS[1:])
    assert (stands(seen).state, stands(seen).shares) == ("Degraded", ())


def test_nothing_wanted_is_fine():
    assert stands(RolloutObjects(), desired="").good


def test_waiting_is_bounded_by_the_rollouts_own_times():
    assert rollout.seconds_needed(a_rollout()) == 60 + 60 + 120 + 20 + 90
    slow = {"strategy": {"canary": {"steps": [*STEPS, {"pause": {"duration": "5m"}}, {"analysis": {}}]}}}
    assert rollout.seconds_needed(a_rollout(spec=slow)) == 60 + 60 + (20 + 90 + 300) + 2 * 300

"""What an endpoint's objects in the cluster come to, in the words of a release."""

from __future__ import annotations

import pytest

from modelworks import alarms, contract
from modelworks.cluster import rollout
from modelworks.cluster.rollout import Patches, RolloutObjects, Share

OLD, NEW = "sha256:" + "0" * 64, "sha256:" + "a" * 64
STABLE, CANARY = "66f4d79b6d", "5bc5c54cd7"
FIRST, LAST = "2026-11-01T10:00:00Z", "2026-11-01T12:00:00Z"
STEPS = [
    {"setWeight": 20},
    {"analysis": {"templates": [{"templateName": "traffic"}]}},
    {"pause": {"duration": "20s"}},
    {"setWeight": 50},
    {"pause": {"duration": "1m30s"}},
]


def a_rollout(*, of: str = NEW, annotations: dict | None = None, spec: dict | None = None, **status) -> dict:
    return {
        "metadata": {
            "name": "m",
            "generation": 2,
            "annotations": {contract.ANNOTATION_DIGEST: of, **(annotations or {})},
        },
        "spec": {
            "replicas": 1,
            "progressDeadlineSeconds": 60,
            "strategy": {"canary": {"steps": STEPS}},
            **(spec or {}),
        },
        "status": {"observedGeneration": "2", "stableRS": STABLE, "currentPodHash": CANARY, **status},
    }


def weights(canary: int) -> dict:
    return {"weights": {"canary": {"weight": canary}, "stable": {"weight": 100 - canary}}}


def replica_set(pod_hash: str, digest: str, version: str, made: str = FIRST) -> dict:
    notes = {contract.ANNOTATION_DIGEST: digest, contract.ANNOTATION_VERSION: version}
    return {
        "metadata": {"labels": {rollout.HASH: pod_hash}, "creationTimestamp": made},
        "spec": {"template": {"metadata": {"annotations": notes}}},
    }


def run(phase: str, results: list, *, made: str = FIRST, ended: str = FIRST, kind: str = "Background") -> dict:
    errors, slow, rejected = alarms.endpoint_alarms(error_ratio=0.02)
    metrics = [alarms.analysis_metric(item, {}, interval_seconds=10) for item in (errors, slow, rejected)]
    metrics.append(alarms.traffic_metric(errors, {}, requests=20, deadline_seconds=20, interval_seconds=10))
    return {
        "metadata": {
            "name": f"run-{made}",
            "labels": {rollout.HASH: CANARY, "rollout-type": kind},
            "creationTimestamp": made,
        },
        "spec": {"args": [{"name": "version", "value": contract.short_digest(NEW)}], "metrics": metrics},
        "status": {"phase": phase, "completedAt": ended, "metricResults": results},
    }


def result(name: str, phase: str, *values: str) -> dict:
    measurements = [{"phase": phase, "value": value, "finishedAt": LAST} for value in values]
    return {"name": name, "phase": phase, "measurements": measurements}


def pod(*, ready: bool = False, waiting: dict | None = None, ended: dict | None = None) -> dict:
    return {
        "metadata": {"name": "m-1", "labels": {rollout.HASH: CANARY}},
        "status": {
            "conditions": [{"type": "Ready", "status": str(ready)}],
            "containerStatuses": [{"state": {"waiting": waiting or {}}, "lastState": {"terminated": ended}}],
        },
    }


SETS = (replica_set(STABLE, OLD, "1"), replica_set(CANARY, NEW, "2", LAST))
ABORTED = 'RolloutAborted: Rollout aborted update to revision 2: Metric "errors" assessed Failed due to failed (1)'
FAILED = run("Failed", [result("errors", "Failed", "[[0.08 0.031 0]]"), result("slow", "Successful", "[[0]]")])


def stands(seen: RolloutObjects, wanted: str = NEW) -> rollout.Status:
    return rollout.status_of("m", wanted, "2", seen)


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
    assert stands(RolloutObjects(), wanted="").good


# -- Memory ----------------------------------------------------------------------------------------------------------
def test_an_aborted_release_is_remembered_with_its_measurement():
    seen = RolloutObjects(a_rollout(abort=True, message=ABORTED), SETS, [FAILED])
    assert "errors: measured 0.08" in rollout.abort_reason(NEW, seen)
    assert rollout.abort_reason(OLD, seen) == ""


def test_it_is_remembered_by_its_analysis_after_another_release_took_its_place():
    seen = RolloutObjects(a_rollout(of=OLD, currentPodHash=STABLE, phase="Healthy"), SETS, [FAILED])
    assert "errors: measured 0.08" in rollout.abort_reason(NEW, seen)


def test_a_run_that_the_same_abort_ended_does_not_excuse_it():
    also = run("Successful", [], made=FIRST, ended=LAST)
    seen = RolloutObjects(a_rollout(of=OLD, currentPodHash=STABLE, phase="Healthy"), SETS, [FAILED, also])
    assert rollout.abort_reason(NEW, seen)


def test_a_release_that_was_insisted_on_and_now_serves_is_forgiven():
    seen = RolloutObjects(a_rollout(phase="Healthy", stableRS=CANARY), SETS, [FAILED])
    assert rollout.abort_reason(NEW, seen) == ""


def test_a_release_that_was_insisted_on_is_not_refused_while_it_is_tried():
    again = run("Running", [], made=LAST, ended="")
    assert rollout.abort_reason(NEW, RolloutObjects(a_rollout(), SETS, [FAILED, again])) == ""


def test_one_that_left_no_analysis_is_remembered_by_a_note():
    aborted = RolloutObjects(a_rollout(abort=True, message="x"), SETS)
    note = rollout.to_note(aborted)
    noted = RolloutObjects(
        a_rollout(of=OLD, annotations={rollout.ANNOTATION_TURNED_BACK: note}, currentPodHash=STABLE), SETS
    )
    assert note == contract.short_digest(NEW)
    assert rollout.abort_reason(NEW, noted) == "it was given up before"
    assert rollout.to_forget(NEW, noted) == ""
    assert rollout.to_forget(OLD, noted) is None


def test_the_note_keeps_the_newest_twenty():
    before = {rollout.ANNOTATION_TURNED_BACK: ",".join(f"{number:012d}" for number in range(20))}
    note = rollout.to_note(RolloutObjects(a_rollout(abort=True, annotations=before)))
    assert note is not None
    assert (len(note.split(",")), note.split(",")[0], note.split(",")[-1]) == (20, f"{1:012d}", "a" * 12)


def test_what_goes_well_leaves_no_note():
    assert rollout.to_note(RolloutObjects(a_rollout(phase="Healthy"))) is None


# -- Taking a rollout in hand ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("status", "spec", "patches"),
    [
        ({"pauseConditions": [{}]}, {}, Patches({"pauseConditions": None})),
        ({"pauseConditions": [{}]}, {"paused": True}, Patches({"pauseConditions": None}, {"paused": False})),
        ({"currentStepIndex": 1}, {}, Patches({"pauseConditions": None, "currentStepIndex": 2})),
        ({"currentStepIndex": 5}, {}, Patches({"pauseConditions": None, "currentStepIndex": 5})),
        (
            {
                "pauseConditions": [{}],
                "controllerPause": True,
                "currentStepIndex": 1,
                "canary": {"currentStepAnalysisRunStatus": {"status": "Inconclusive"}},
            },
            {},
            Patches({"pauseConditions": None, "controllerPause": False, "currentStepIndex": 2}),
        ),
    ],
)
def test_promoting_patches_what_argo_itself_would(status, spec, patches):
    assert rollout.promotion(a_rollout(spec=spec, **status), full=False) == patches


def test_promoting_in_full_is_asked_for_once():
    assert rollout.promotion(a_rollout(), full=True) == Patches({"promoteFull": True})
    assert rollout.promotion(a_rollout(stableRS=CANARY), full=True) == Patches()


def test_waiting_is_bounded_by_the_rollouts_own_times():
    assert rollout.seconds_needed(a_rollout()) == 60 + 60 + 120 + 20 + 90
    slow = {"strategy": {"canary": {"steps": [*STEPS, {"pause": {"duration": "5m"}}, {"analysis": {}}]}}}
    assert rollout.seconds_needed(a_rollout(spec=slow)) == 60 + 60 + (20 + 90 + 300) + 2 * 300

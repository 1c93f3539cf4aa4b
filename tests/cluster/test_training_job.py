"""A run as a Job: what is asked of the cluster, and what becomes of it."""

from __future__ import annotations

import dataclasses

import pytest

from modelworks import defaults
from modelworks.cluster.training_job import (
    Ending,
    Order,
    RunObjects,
    TrainingEnvironment,
    ending_of,
    manifest,
    started,
    waiting_for,
)
from modelworks.contract import Digest
from modelworks.errors import ModelworksError

PLACE = TrainingEnvironment(
    namespace="modelworks-dev-training",
    service_account="training-runs",
    artifact_bucket="artifacts",
    image="registry.example/training@sha256:0",
    run_cpu_millicores=1500,
    run_memory_mib=2048,
    active_deadline_seconds=600,
    retries=2,
    ttl_seconds_after_finished=3600,
    feature_history="",
    pod=defaults.POD,
)
SOURCE, ENGINE, DATA = (Digest(f"sha256:{digits * 32}") for digits in ("aa", "bb", "cc"))
ORDER = Order("dev", "churn", SOURCE, ENGINE, "c0ffee-dirty", "ada")
JOB = manifest("train-churn-1", PLACE, ORDER)
POD = JOB["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]


def a_job(condition: str = "", reason: str = "", message: str = "") -> dict:
    found = [{"type": condition, "status": "True", "reason": reason, "message": message}] if condition else []
    return {"metadata": {"name": "train-churn-1"}, "status": {"conditions": found}}


def a_pod(**state: dict) -> dict:
    return {"metadata": {"name": "p"}, "status": {"containerStatuses": [{"state": state}]}}


def test_a_run_has_the_place_s_image_account_limits_and_life():
    assert (CONTAINER["image"], POD["serviceAccountName"]) == (PLACE.image, "training-runs")
    assert CONTAINER["resources"] == {"requests": {"cpu": "1500m", "memory": "2Gi"}, "limits": {"memory": "2Gi"}}
    spec = JOB["spec"]
    assert (spec["backoffLimit"], spec["activeDeadlineSeconds"], spec["ttlSecondsAfterFinished"]) == (2, 600, 3600)


def test_a_run_finds_the_history_of_its_environment_where_there_is_one():
    assert "MODELWORKS_FEATURE_HISTORY" not in {each["name"] for each in CONTAINER["env"]}
    place = dataclasses.replace(PLACE, feature_history="s3://features/data")
    (container,) = manifest("train-churn-1", place, ORDER)["spec"]["template"]["spec"]["containers"]
    assert {"name": "MODELWORKS_FEATURE_HISTORY", "value": "s3://features/data"} in container["env"]


def test_no_autoscaler_moves_a_run_to_fill_nodes_better():
    assert JOB["spec"]["template"]["metadata"]["annotations"] == {
        "karpenter.sh/do-not-disrupt": "true",
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    }


def test_an_output_without_its_nulls_is_the_same_place():
    facts = dataclasses.asdict(PLACE)
    assert TrainingEnvironment.of({**facts, "pod": {}}) == TrainingEnvironment.of(facts) == PLACE


def test_a_run_keeps_the_restricted_pod_security_standard():
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert CONTAINER["securityContext"]["allowPrivilegeEscalation"] is False
    assert CONTAINER["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert POD["automountServiceAccountToken"] is False


def test_a_run_that_failed_by_itself_is_not_tried_again_and_a_drained_node_costs_no_try():
    fail, ignore = JOB["spec"]["podFailurePolicy"]["rules"]
    assert (fail["action"], fail["onExitCodes"]["values"]) == ("FailJob", [1])
    assert (ignore["action"], ignore["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")
    assert POD["restartPolicy"] == "Never"


def test_a_run_says_whose_it_is_and_what_it_is_made_of():
    assert JOB["metadata"]["annotations"] == {"modelworks.dev/commit": "c0ffee-dirty", "modelworks.dev/by": "ada"}
    assert {f"--source={SOURCE}", f"--engine={ENGINE}", "--bucket=artifacts"} < set(CONTAINER["args"])
    assert not any(word.startswith("--data") for word in CONTAINER["args"])
    again = manifest("train-churn-1", PLACE, dataclasses.replace(ORDER, data=DATA))
    assert f"--data={DATA}" in again["spec"]["template"]["spec"]["containers"][0]["args"]


def test_a_run_that_goes_on_has_no_ending():
    assert ending_of(RunObjects(a_job(), [a_pod(running={})]), PLACE) is None


def test_a_complete_job_ended_with_nothing():
    assert ending_of(RunObjects(a_job("Complete")), PLACE) == Ending(0)


@pytest.mark.parametrize(
    ("condition", "state", "code", "reason"),
    [
        ("PodFailurePolicy", {"exitCode": 1}, 1, "exited with code 1"),
        ("BackoffLimitExceeded", {"exitCode": 137, "reason": "OOMKilled"}, 137, "more than its 2048 MiB of memory"),
        ("BackoffLimitExceeded", {"exitCode": 137, "reason": "Error"}, 137, "killed by signal 9"),
        ("DeadlineExceeded", {"exitCode": 143}, 143, "time limit of 600 s"),
    ],
)
def test_a_failed_job_ends_with_its_last_pods_exit_code_and_says_why(condition, state, code, reason):
    pods = [a_pod(terminated={"exitCode": 75}), a_pod(terminated=state)]
    ending = ending_of(RunObjects(a_job("Failed", condition), pods), PLACE)
    assert ending is not None
    assert ending.exit_code == code
    assert reason in ending.reason


def test_a_failed_job_whose_pods_are_gone_is_no_success():
    ending = ending_of(RunObjects(a_job("Failed", "DeadlineExceeded")), PLACE)
    assert ending is not None
    assert ending.exit_code == 1


def test_a_job_that_somebody_deleted_failed():
    ending = ending_of(RunObjects(None), PLACE)
    assert ending is not None
    assert (ending.exit_code, ending.reason) == (1, "its Job was deleted by somebody else")


def test_a_used_up_quota_ends_the_wait_with_the_numbers():
    said = (
        'pods "x" is forbidden: exceeded quota: training, requested: requests.cpu=1, used: requests.cpu=4, limited: 4'
    )
    refused = RunObjects(a_job(), events=[{"reason": "FailedCreate", "message": f"Error creating: {said}"}])
    ending = ending_of(refused, PLACE)
    assert ending is not None
    assert ending.refused
    assert ending.reason == (
        "the quota for training is used up (training, requested: requests.cpu=1, used: requests.cpu=4, limited: 4)"
    )
    assert ending_of(dataclasses.replace(refused, pods=[a_pod(running={})]), PLACE) is None


def test_a_pod_that_does_not_run_yet_says_what_it_waits_for():
    waiting = a_pod(waiting={"reason": "ImagePullBackOff", "message": "no such image"})
    assert waiting_for(RunObjects(a_job(), [waiting])) == "ImagePullBackOff: no such image"
    homeless = {"status": {"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes"}]}}
    assert waiting_for(RunObjects(a_job(), [homeless])) == "0/3 nodes"
    assert waiting_for(RunObjects(a_job(), [a_pod(running={})])) == ""


def test_only_a_pod_that_runs_or_ran_has_a_log():
    assert started(a_pod(running={}))
    assert started(a_pod(terminated={"exitCode": 0}))
    assert not started(a_pod(waiting={"reason": "ContainerCreating"}))


def test_an_output_of_another_modelworks_is_refused_with_what_it_lacks():
    with pytest.raises(ModelworksError, match="lacks image") as caught:
        TrainingEnvironment.of({key: value for key, value in dataclasses.asdict(PLACE).items() if key != "image"})
    assert "modelworks up" in caught.value.fix

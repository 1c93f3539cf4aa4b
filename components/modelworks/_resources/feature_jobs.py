"""Private: jobs of a feature store that a cluster runs on a schedule."""

import re
from collections.abc import Sequence
from typing import Any, NotRequired, TypedDict

import pulumi

from modelworks import contract
from modelworks._manifests import RESTRICTED_CONTAINER, cores, mebibytes
from modelworks._resources.kubernetes import KubernetesComponent, Manifest
from modelworks._resources.pod import SCRATCH, restricted_pod
from modelworks._schedule import SCHEDULE

_START_WITHIN_SECONDS = 600
"""A run that cannot begin within this, because the last one is still at work, is left out: the next one continues."""
_GRACE_SECONDS = 10
"""Seconds that a run has to end after SIGTERM. Written values stay, and the next one continues."""


class MaterializationArgs(TypedDict):
    """A job on a cluster that writes the newest values online."""

    schedule: NotRequired[str]
    """When a run begins, in UTC and in the fields of cron: minute, hour, day of the month, month, day of the week.
    Default 0 * * * *."""

    lookback_seconds: NotRequired[int]
    """How late a value may arrive in the history, in seconds: a run begins this long before the end of the last one.
    Default 3600."""

    verify_schedule: NotRequired[str | None]
    """When a second job compares a sample of the online values with the history, in UTC and in the fields of cron. None
    for never. Default 30 3 * * *."""

    cpu_millicores: NotRequired[int]
    """CPU that a run requests, in thousandths of a core. Default 500."""

    memory_mib: NotRequired[int]
    """Memory that a run requests and may use at most, in MiB. Default 2048."""

    active_deadline_seconds: NotRequired[int]
    """A run that takes longer is ended, its retry included, in seconds. Default 3600."""

    namespace: pulumi.Input[str]
    """Kubernetes namespace of the job."""

    image: pulumi.Input[str]
    """Image of the job by digest: `…@sha256:…`. See `images/features`."""


def require_sound_materialization(args: MaterializationArgs | None) -> None:
    """Refuse a job that no cluster would run.

    Raises:
        ValueError: A schedule is not that of cron.
    """
    if args is None:
        return
    for name, schedule in (("schedule", args["schedule"]), ("verify_schedule", args["verify_schedule"])):
        if schedule is not None and not re.fullmatch(SCHEDULE, schedule):
            raise ValueError(
                f"materialization.{name} must be five fields of cron, such as '0 * * * *', got {schedule!r}"
            )


def feature_job(
    component: KubernetesComponent,
    verb: str,
    options: Sequence[pulumi.Input[str]],
    schedule: str,
    args: MaterializationArgs,
    *,
    account: pulumi.Input[str],
    environment: str,
    feature_store_yaml: pulumi.Input[str],
) -> Manifest:
    """Spec of a CronJob that runs a verb of `python -m modelworks.features.pod`, never twice at once.

    Args:
        component: Whose job it is.
        verb: Of the command.
        options: Of the verb.
        schedule: When a run begins, in UTC.
        args: Image and resources.
        account: The service account of its pods.
        environment: Name of the environment.
        feature_store_yaml: The store, as Feast takes it.
    """
    disrupted = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    job = {
        "backoffLimit": 1,
        "activeDeadlineSeconds": args["active_deadline_seconds"],
        "podFailurePolicy": {"rules": [disrupted]},
        "template": {
            "metadata": {"labels": component.labels},
            "spec": _pod(verb, options, args, account, environment, feature_store_yaml),
        },
    }
    return {
        "schedule": schedule,
        "timeZone": "Etc/UTC",
        "concurrencyPolicy": "Forbid",
        "startingDeadlineSeconds": _START_WITHIN_SECONDS,
        "successfulJobsHistoryLimit": 1,
        "failedJobsHistoryLimit": 3,
        "jobTemplate": {"metadata": {"labels": component.labels}, "spec": job},
    }


def _pod(
    verb: str,
    options: Sequence[pulumi.Input[str]],
    args: MaterializationArgs,
    account: pulumi.Input[str],
    environment: str,
    feature_store_yaml: pulumi.Input[str],
) -> dict[str, Any]:
    memory = mebibytes(args["memory_mib"])
    variables: dict[str, pulumi.Input[str]] = {
        contract.ENV_ENVIRONMENT: environment,
        contract.FEATURE_STORE_VARIABLE: feature_store_yaml,
        "HOME": SCRATCH,
        "TMPDIR": SCRATCH,
    }
    container = {
        "name": verb,
        "image": args["image"],
        "command": ["python", "-m", "modelworks.features.pod"],
        "args": [verb, *options],
        "env": [{"name": name, "value": value} for name, value in variables.items()],
        "resources": {
            "requests": {"cpu": cores(args["cpu_millicores"]), "memory": memory},
            "limits": {"memory": memory},
        },
        # Why a run failed is in the last line that it logged: it becomes part of the pod's status.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": RESTRICTED_CONTAINER,
        "volumeMounts": [{"name": "scratch", "mountPath": SCRATCH}],
    }
    return restricted_pod(
        account,
        container=container,
        volumes=[{"name": "scratch", "emptyDir": {"sizeLimit": mebibytes(1024)}}],
        restartPolicy="Never",
        enableServiceLinks=False,
        terminationGracePeriodSeconds=_GRACE_SECONDS,
    )

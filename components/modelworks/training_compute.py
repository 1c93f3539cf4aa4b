"""Where models are trained: a namespace with a quota, the one identity that runs have, and what a run may use.

Runs themselves are Jobs that `modelworks train MODEL --env ENV` makes here, and no resources of a program.
"""

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

import pulumi
import pulumi_aws as aws

from modelworks import contract
from modelworks._resources.alarm import paging_alarm
from modelworks._resources.arguments import checked
from modelworks._resources.iam import publish_metrics, statement
from modelworks._resources.kubernetes import KubernetesComponent, KubernetesObject, restricted_namespace
from modelworks._resources.network import EgressArgs, network_policy, require_sound_egress
from modelworks._resources.pod import PodArgs, require_sound_pod
from modelworks._resources.pod_identity import PermissionArgs, PodIdentity, pod_identity, require_sound_permissions


class TrainingComputeArgs(TypedDict):
    """Arguments of `TrainingCompute`."""

    cpu_millicores: NotRequired[int]
    """CPU that all runs together may request, in thousandths of a core. Default 4000."""

    memory_mib: NotRequired[int]
    """Memory that all runs together may request, in MiB. Default 16384."""

    max_jobs: NotRequired[int]
    """Most runs that exist at a time, finished ones that are still kept included. Default 20."""

    run_cpu_millicores: NotRequired[int]
    """CPU of one run, in thousandths of a core. Default 1000."""

    run_memory_mib: NotRequired[int]
    """Memory that one run requests and may use at most, in MiB. Default 2048."""

    active_deadline_seconds: NotRequired[int]
    """A run that takes longer is ended, its retries included, in seconds. Default 3600."""

    retries: NotRequired[int]
    """How often a run that was killed is tried again; one that failed by itself never is. Default 1."""

    ttl_seconds_after_finished: NotRequired[int]
    """How long a finished run stays in the cluster with its log, in seconds. Default 86400."""

    pod: NotRequired[PodArgs]
    """Additions to the pods of runs: a GPU, a node pool, pull secrets, labels."""

    permissions: NotRequired[list[PermissionArgs]]
    """Further permissions of the role of runs, such as reading another bucket. Default: none."""

    egress: NotRequired[list[EgressArgs]]
    """Networks that runs may connect to, besides name servers and port 443 anywhere. Default: none."""

    feature_history: NotRequired[pulumi.Input[str] | None]
    """Where the history of features lies: the `location` of a `FeatureStore`, `s3://bucket/prefix`, encrypted with the
    same key. Runs may read it. Default: none."""

    image: pulumi.Input[str]
    """Image of runs by digest: `…@sha256:…`. See `images/training`."""

    environment: str
    """Name of the environment: a dimension of every metric."""

    namespace: pulumi.Input[str]
    """Kubernetes namespace made for runs."""

    account_id: pulumi.Input[str]
    """The AWS account: 12 digits."""

    oidc_issuer: pulumi.Input[str]
    """The cluster's OIDC issuer without `https://`: by it runs assume their role."""

    artifact_bucket: pulumi.Input[str]
    """Bucket that runs get their sources from, and put data snapshots and finished runs into."""

    key_arn: pulumi.Input[str]
    """KMS key that encrypts the bucket."""

    alerts_topic_arn: pulumi.Input[str]
    """SNS topic that failed runs are reported to."""


class TrainingCompute(KubernetesComponent):
    """A namespace for training runs, with a quota and a least-privilege role.

    Raises:
        ValueError: An argument is unknown, missing, of the wrong type or out of its range, or one run would exceed the
            quota.
    """

    namespace: pulumi.Output[str]
    """The namespace of runs."""

    service_account: pulumi.Output[str]
    """The service account of runs."""

    role_arn: pulumi.Output[str]
    """The role of runs."""

    place: pulumi.Output[dict[str, Any]]
    """All that `modelworks train --env` reads: export it as `training`. Holds no secret."""

    def __init__(self, name: str, args: TrainingComputeArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        args = checked(name, TrainingComputeArgs, args)
        _refuse_too_small_a_quota(args)
        require_sound_pod(args["pod"])
        require_sound_permissions(args["permissions"])
        require_sound_egress(args["egress"])
        super().__init__("modelworks:index:TrainingCompute", name, part="training", namespace=None, opts=opts)
        self._args = args
        self.home = restricted_namespace(name, parent=self, namespace=args["namespace"])
        self.namespace = self._namespace = self.home.name
        self.quota = self._quota()
        self.identity = self._identity()
        self.network_policy = self._network_policy()
        self.alarm = self._alarm()
        self.service_account = self.identity.account.name
        self.role_arn = self.identity.role.arn
        self.place = self._place()
        self.register_outputs(
            {
                "namespace": self.namespace,
                "service_account": self.service_account,
                "role_arn": self.role_arn,
                "place": self.place,
            }
        )

    def _quota(self) -> KubernetesObject:
        hard = {
            "requests.cpu": f"{self._args['cpu_millicores']}m",
            "requests.memory": f"{self._args['memory_mib']}Mi",
            "count/jobs.batch": str(self._args["max_jobs"]),
        }
        return self.object("v1", "ResourceQuota", spec={"hard": hard})

    def _identity(self) -> PodIdentity:
        return pod_identity(
            self,
            "runs",
            self._args,
            bucket=self._args["artifact_bucket"],
            permissions=_permissions,
            others=[] if (history := self._args["feature_history"]) is None else [history],
            description="Trains models, and keeps what comes of it",
        )

    def _network_policy(self) -> KubernetesObject:
        """Nothing comes in; out go name look-ups, TLS and `egress`. The caller of a run reports it to the registry."""
        return self.object(
            "networking.k8s.io/v1", "NetworkPolicy", spec=network_policy({}, egress=self._args["egress"], port=None)
        )

    def _alarm(self) -> "aws.cloudwatch.MetricAlarm":
        return paging_alarm(
            self.child_name("failed-runs"),
            parent=self,
            topic=self._args["alerts_topic_arn"],
            alarm_description="a training run failed",
            namespace=contract.TRAINING_METRIC_NAMESPACE,
            metric_name=contract.METRIC_RUN_FAILED,
            dimensions={contract.DIMENSION_ENVIRONMENT: self._args["environment"]},
            statistic="Maximum",
            comparison_operator="GreaterThanThreshold",
            threshold=0,
            period=60,
            evaluation_periods=1,
            treat_missing_data="notBreaching",
        )

    def _place(self) -> pulumi.Output[dict[str, Any]]:
        return pulumi.Output.all(
            namespace=self.namespace,
            service_account=self.service_account,
            artifact_bucket=self._args["artifact_bucket"],
            image=self._args["image"],
            run_cpu_millicores=self._args["run_cpu_millicores"],
            run_memory_mib=self._args["run_memory_mib"],
            active_deadline_seconds=self._args["active_deadline_seconds"],
            retries=self._args["retries"],
            ttl_seconds_after_finished=self._args["ttl_seconds_after_finished"],
            pod=self._args["pod"],
            feature_history="" if (history := self._args["feature_history"]) is None else history,
        )


def _permissions(artifacts: str, key: str, *histories: str) -> list[dict[str, Any]]:
    # MLflow keeps what it shows in the same bucket, and a run's code is anybody's: it plants no finished run,
    # and cannot find where another Job hands its result over.
    read = (contract.SOURCES_PREFIX, contract.DATA_PREFIX, contract.RUNS_PREFIX)
    written = (contract.DATA_PREFIX, contract.JOBS_PREFIX)
    return [
        statement(["s3:GetObject"], [f"{artifacts}/{each}/*" for each in read]),
        statement(["s3:PutObject"], [f"{artifacts}/{each}/*" for each in written]),
        statement(
            ["s3:ListBucket"],
            [artifacts],
            condition={"StringLike": {"s3:prefix": [f"{contract.DATA_PREFIX}/*", f"{contract.RUNS_PREFIX}/*"]}},
        ),
        statement(["kms:Decrypt", "kms:GenerateDataKey"], [key]),
        publish_metrics(contract.TRAINING_METRIC_NAMESPACE),
        *(each for history in histories for each in _reads_history(artifacts.rpartition(":")[0], history)),
    ]


def _reads_history(s3: str, location: str) -> list[dict[str, Any]]:
    """Permissions to read below `s3://bucket/prefix`, where `s3` is what ARNs of buckets begin with."""
    bucket, _, prefix = location.removeprefix("s3://").partition("/")
    objects = "/".join(filter(None, [prefix, "*"]))
    return [
        statement(["s3:GetObject"], [f"{s3}:{bucket}/{objects}"]),
        statement(["s3:ListBucket"], [f"{s3}:{bucket}"], condition={"StringLike": {"s3:prefix": [objects]}}),
    ]


def _refuse_too_small_a_quota(args: Mapping[str, Any]) -> None:
    for run, quota in (("run_cpu_millicores", "cpu_millicores"), ("run_memory_mib", "memory_mib")):
        if args[run] > args[quota]:
            raise ValueError(f"{run} must be at most {quota} ({args[quota]}), got {args[run]}")

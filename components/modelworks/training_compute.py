"""Where models are trained: a namespace with a quota, the one identity that runs have, and what a run may use.

Runs themselves are Jobs that `modelworks train MODEL --env ENV` makes here, and no resources of a program.
"""

from typing import Any, NotRequired, TypedDict

import pulumi
import pulumi_aws as aws

from modelworks import contract
from modelworks._resources.iam import bucket_arn, policy_document, statement
from modelworks._resources.kubernetes import KubernetesObject, PodIdentity, labels, pod_identity, restricted_namespace

_COMPONENT = "training"


class TrainingComputeArgs(TypedDict):
    """What training needs."""

    environment: str
    """Name of the environment: a dimension of every metric."""

    account_id: pulumi.Input[str]
    """The AWS account: 12 digits."""

    namespace: str
    """Kubernetes namespace made for runs."""

    image: str
    """Image of runs by digest: `…@sha256:…`. See `images/training`."""

    oidc_issuer: pulumi.Input[str]
    """The cluster's OIDC issuer without `https://`: by it runs assume their role."""

    artifact_bucket: pulumi.Input[str]
    """Bucket that runs get their sources from, and put data snapshots and finished runs into."""

    key_arn: pulumi.Input[str]
    """KMS key that encrypts the bucket."""

    alerts_topic_arn: pulumi.Input[str]
    """SNS topic that failed runs are reported to."""

    cpu_millicores: NotRequired[int]
    """CPU that all runs together may request, in thousandths of a core. Default 4000."""

    memory_mib: NotRequired[int]
    """Memory that all runs together may request, in MiB. Default 16384."""

    concurrent_runs: NotRequired[int]
    """Most runs that exist at a time, finished ones that are still kept included. Default 20."""

    run_cpu_millicores: NotRequired[int]
    """CPU of one run, in thousandths of a core. Default 1000."""

    run_memory_mib: NotRequired[int]
    """Memory that one run requests and may use at most, in MiB. Default 2048."""

    time_limit_seconds: NotRequired[int]
    """A run that takes longer is ended, its retries included, in seconds. Default 3600."""

    retries: NotRequired[int]
    """How often a run that was killed is tried again; one that failed by itself never is. Default 1."""

    kept_seconds: NotRequired[int]
    """How long a finished run stays in the cluster with its log, in seconds. Default 86400."""


class TrainingCompute(pulumi.ComponentResource):
    """A namespace for training runs, with a quota and a least-privilege role.

    Raises:
        ValueError: A number is below 1 (of `retries`: below 0), or one run would exceed the quota.
    """

    namespace: pulumi.Output[str]
    """The namespace of runs."""

    service_account: pulumi.Output[str]
    """The service account of runs."""

    place: pulumi.Output[dict[str, Any]]
    """All that `modelworks train --env` asks: export it as `training`. Holds no secret."""

    def __init__(self, name: str, args: TrainingComputeArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        limits = {field: _at_least(lowest, args, field, default) for field, lowest, default in _LIMITS}
        _refuse_too_small_a_quota(limits)
        quota = {
            "requests.cpu": f"{limits.pop('cpu_millicores')}m",
            "requests.memory": f"{limits.pop('memory_mib')}Mi",
            "count/jobs.batch": str(limits.pop("concurrent_runs")),
        }
        super().__init__("modelworks:index:TrainingCompute", name, {}, opts)
        self._name, self._args = name, args
        self.home = restricted_namespace(name, parent=self, namespace=args["namespace"])
        self._quota(quota)
        self.identity = self._identity()
        self._network_policy()
        self._alarm()
        self.namespace = self.home.name
        self.service_account = self.identity.account.name
        self.place = pulumi.Output.all(
            namespace=self.namespace,
            service_account=self.service_account,
            artifact_bucket=args["artifact_bucket"],
            image=args["image"],
            **limits,
        )
        self.register_outputs(
            {"namespace": self.namespace, "service_account": self.service_account, "place": self.place}
        )

    def _quota(self, hard: dict[str, str]) -> None:
        KubernetesObject(
            self._name,
            {
                "apiVersion": "v1",
                "kind": "ResourceQuota",
                "metadata": self._metadata(),
                "spec": {"hard": hard},
            },
            opts=pulumi.ResourceOptions(parent=self),
        )

    def _identity(self) -> PodIdentity:
        args = self._args
        policy = pulumi.Output.all(bucket_arn(args["artifact_bucket"]), args["key_arn"]).apply(
            lambda v: policy_document(_permissions(*v))
        )
        return pod_identity(
            f"{self._name}-runs",
            parent=self,
            metadata=self._metadata(),
            account_id=args["account_id"],
            oidc_issuer=args["oidc_issuer"],
            policy=policy,
            description="Trains models, and keeps what comes of it",
        )

    def _network_policy(self) -> None:
        """Nothing comes in; out go name look-ups and TLS. The registry is told of runs by who started them."""
        ports = [{"port": 53, "protocol": "UDP"}, *({"port": port, "protocol": "TCP"} for port in (53, 443))]
        KubernetesObject(
            self._name,
            {
                "apiVersion": "networking.k8s.io/v1",
                "kind": "NetworkPolicy",
                "metadata": self._metadata(),
                "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "egress": [{"ports": ports}]},
            },
            opts=pulumi.ResourceOptions(parent=self),
        )

    def _alarm(self) -> None:
        topic = self._args["alerts_topic_arn"]
        aws.cloudwatch.MetricAlarm(
            f"{self._name}-failed-runs",
            alarm_description="a training run failed",
            namespace=contract.METRIC_NAMESPACE,
            metric_name=contract.METRIC_RUN_FAILED,
            dimensions={contract.DIMENSION_ENVIRONMENT: self._args["environment"]},
            statistic="Maximum",
            comparison_operator="GreaterThanThreshold",
            threshold=0,
            period=60,
            evaluation_periods=1,
            treat_missing_data="notBreaching",
            alarm_actions=[topic],
            ok_actions=[topic],
            opts=pulumi.ResourceOptions(parent=self),
        )

    def _metadata(self) -> Any:
        return {"namespace": self.home.name, "labels": labels(self._name, _COMPONENT)}


def _permissions(artifacts: str, key: str) -> list[dict[str, Any]]:
    # MLflow keeps what it shows in the same bucket, and a run's code is anybody's: each run has its own prefixes only.
    kept = [f"{artifacts}/{each}/*" for each in (contract.DATA_PREFIX, contract.RUNS_PREFIX, contract.JOBS_PREFIX)]
    return [
        statement(["s3:GetObject"], [f"{artifacts}/{contract.SOURCES_PREFIX}/*", *kept]),
        statement(["s3:PutObject"], kept),
        statement(["s3:ListBucket"], [artifacts]),
        statement(["kms:Decrypt", "kms:GenerateDataKey"], [key]),
        statement(
            ["cloudwatch:PutMetricData"],
            ["*"],  # the action knows no resources; the namespace is what narrows it
            condition={"StringEquals": {"cloudwatch:namespace": contract.METRIC_NAMESPACE}},
        ),
    ]


_LIMITS = (
    ("cpu_millicores", 1, 4000),
    ("memory_mib", 1, 16_384),
    ("concurrent_runs", 1, 20),
    ("run_cpu_millicores", 1, 1000),
    ("run_memory_mib", 1, 2048),
    ("time_limit_seconds", 1, 3600),
    ("retries", 0, 1),
    ("kept_seconds", 1, 86_400),
)
"""Numbers of the arguments: each with the lowest value it may have, and its default."""


def _at_least(lowest: int, args: TrainingComputeArgs, field: str, default: int) -> int:
    value: Any = args.get(field, default)
    if value < lowest:
        raise ValueError(f"{field} must be at least {lowest}, got {value}")
    return int(value)


def _refuse_too_small_a_quota(limits: dict[str, int]) -> None:
    for run, quota in (("run_cpu_millicores", "cpu_millicores"), ("run_memory_mib", "memory_mib")):
        if limits[run] > limits[quota]:
            raise ValueError(f"{run} must be at most {quota} ({limits[quota]}), got {limits[run]}")

"""Where models are trained: a namespace with a quota, and the one identity that runs have."""

from typing import Any, NotRequired, TypedDict

import pulumi
import pulumi_aws as aws

from modelworks import contract
from modelworks._access import bucket_arn, policy_document, statement
from modelworks._kubernetes import KubernetesObject, PodIdentity, labels, pod_identity, restricted_namespace

_COMPONENT = "training"


class TrainingComputeArgs(TypedDict):
    """What training needs."""

    environment: str
    """Name of the environment: a dimension of every metric."""

    account_id: pulumi.Input[str]
    """The AWS account: 12 digits."""

    namespace: str
    """Kubernetes namespace made for runs."""

    oidc_issuer: pulumi.Input[str]
    """The cluster's OIDC issuer without `https://`: by it runs assume their role."""

    bundle_bucket: pulumi.Input[str]
    """Bucket that runs put bundles into."""

    artifact_bucket: pulumi.Input[str]
    """Bucket that runs put data snapshots and reports into."""

    key_arn: pulumi.Input[str]
    """KMS key that encrypts the buckets."""

    alerts_topic_arn: pulumi.Input[str]
    """SNS topic that failed runs are reported to."""

    cpu_millicores: NotRequired[int]
    """CPU that all runs together may request, in thousandths of a core. Default 4000."""

    memory_mib: NotRequired[int]
    """Memory that all runs together may request, in MiB. Default 16384."""

    concurrent_runs: NotRequired[int]
    """Most runs that exist at a time, finished ones that are still kept included. Default 20."""


class TrainingCompute(pulumi.ComponentResource):
    """A namespace for training runs, with a quota and a least-privilege role.

    Raises:
        ValueError: A number of the quota is below 1.
    """

    namespace: pulumi.Output[str]
    """The namespace of runs."""

    service_account: pulumi.Output[str]
    """The service account of runs."""

    def __init__(self, name: str, args: TrainingComputeArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        quota = {
            "requests.cpu": f"{_at_least_one(args, 'cpu_millicores', 4000)}m",
            "requests.memory": f"{_at_least_one(args, 'memory_mib', 16384)}Mi",
            "count/jobs.batch": str(_at_least_one(args, "concurrent_runs", 20)),
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
        self.register_outputs({"namespace": self.namespace, "service_account": self.service_account})

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
        policy = pulumi.Output.all(
            bucket_arn(args["bundle_bucket"]), bucket_arn(args["artifact_bucket"]), args["key_arn"]
        ).apply(lambda v: policy_document(_permissions(*v)))
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
        """Nothing comes in; out go name look-ups, TLS and the registry's port."""
        ports = [{"port": 53, "protocol": "UDP"}, *({"port": port, "protocol": "TCP"} for port in (53, 80, 443))]
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
            period=300,
            evaluation_periods=1,
            treat_missing_data="notBreaching",
            alarm_actions=[topic],
            ok_actions=[topic],
            opts=pulumi.ResourceOptions(parent=self),
        )

    def _metadata(self) -> Any:
        return {"namespace": self.home.name, "labels": labels(self._name, _COMPONENT)}


def _permissions(bundles: str, artifacts: str, key: str) -> list[dict[str, Any]]:
    return [
        statement(["s3:GetObject", "s3:PutObject"], [f"{bundles}/bundles/*", f"{artifacts}/*"]),
        statement(["s3:ListBucket"], [bundles, artifacts]),
        statement(["kms:Decrypt", "kms:GenerateDataKey"], [key]),
        statement(
            ["cloudwatch:PutMetricData"],
            ["*"],  # the action knows no resources; the namespace is what narrows it
            condition={"StringEquals": {"cloudwatch:namespace": contract.METRIC_NAMESPACE}},
        ),
    ]


def _at_least_one(args: TrainingComputeArgs, field: str, default: int) -> int:
    value: Any = args.get(field, default)
    if value < 1:
        raise ValueError(f"{field} must be at least 1, got {value}")
    return int(value)

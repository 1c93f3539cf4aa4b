"""The ground of an environment: its key, its alerts topic, its namespace and its budget."""

from collections.abc import Sequence
from typing import NotRequired, TypedDict

import pulumi
import pulumi_aws as aws

from modelworks._resources.arguments import checked
from modelworks._resources.iam import account_decides_about_key, policy_document
from modelworks._resources.kubernetes import KubernetesObject, restricted_namespace

_READY_WHEN_REACHED = {
    f"{controller}/pod-readiness-gate-inject": "enabled" for controller in ("elbv2.k8s.aws", "eks.amazonaws.com")
}
"""The AWS load balancer controller, or that of EKS Auto Mode, adds a condition to new pods: they are ready when the
load balancer reaches them. So no pod of the last version ends before. Each of them heeds its own label."""


class BudgetArgs(TypedDict):
    """A monthly limit on what the account costs. It alerts; it stops nothing."""

    monthly_usd: float
    """The amount, in US dollars a month."""

    actual_percent: NotRequired[float]
    """Alert when what was spent exceeds this share of the amount, in per cent. Default 80."""

    forecast_percent: NotRequired[float]
    """Alert when the month's forecast exceeds this share of the amount, in per cent. Default 100."""


class EnvironmentArgs(TypedDict):
    """Arguments of an `Environment`."""

    account_id: pulumi.Input[str]
    """The AWS account it lives in: 12 digits. The key and the topic trust services of this account only."""

    alert_emails: NotRequired[list[str]]
    """Addresses subscribed to the alerts topic, each once. Each must confirm once. Default: none."""

    budget: NotRequired[BudgetArgs | None]
    """Monthly limit on the account's cost. Default: none."""

    namespace: NotRequired[str | None]
    """Kubernetes namespace made for the environment's pods: it admits restricted ones only, and closes their network to
    all that no policy of theirs allows. Default: none."""

    encrypts_volumes: NotRequired[bool]
    """Whether the key also encrypts volumes, of whoever may make them in this account. Default false."""

    key_deletion_days: NotRequired[int]
    """How long the key can be brought back after it was deleted: 7 to 30 days. Default 30."""

    protect: NotRequired[bool]
    """Refuse to delete the key, and the namespace with the volumes in it, until this is false. Default true."""


class Environment(pulumi.ComponentResource):
    """An encryption key, an encrypted alerts topic and, on demand, a budget that alerts.

    Components that store, serve or watch something take the key's and the topic's ARN as plain values.

    Raises:
        ValueError: An argument is unknown, missing, of the wrong type or out of its range.
    """

    key_arn: pulumi.Output[str]
    """ARN of the KMS key that encrypts what the environment stores. It rotates every year."""

    alerts_topic_arn: pulumi.Output[str]
    """ARN of the SNS topic that alarms and budget alerts are sent to."""

    namespace: pulumi.Output[str]
    """Kubernetes namespace of the environment's pods; empty if none was requested."""

    def __init__(self, name: str, args: EnvironmentArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        args = checked(name, EnvironmentArgs, args)
        super().__init__("modelworks:index:Environment", name, {}, opts)
        account = pulumi.Output.from_input(args["account_id"])
        self._protect_data = args["protect"] or None  # None: whatever the program states for the component itself
        self.key = self._key(name, account, args["key_deletion_days"], volumes=args["encrypts_volumes"])
        self.alerts = self._alerts_topic(name, account)
        self.subscriptions = self._subscriptions(name, args["alert_emails"])
        self.budget = self._budget(name, args["budget"]) if args["budget"] else None
        self.home = self._home(name, args["namespace"]) if args["namespace"] else None
        self.key_arn = self.key.arn
        self.alerts_topic_arn = self.alerts.arn
        self.namespace = self.home.name if self.home else pulumi.Output.from_input("")
        self.register_outputs(
            {"key_arn": self.key_arn, "alerts_topic_arn": self.alerts_topic_arn, "namespace": self.namespace}
        )

    def _key(self, name: str, account: pulumi.Output[str], deletion_days: int, *, volumes: bool) -> "aws.kms.Key":
        partition, region = aws.get_partition_output(), aws.get_region_output().region
        facts = pulumi.Output.all(account, partition.partition, pulumi.Output.concat(region, ".", partition.dns_suffix))
        key = aws.kms.Key(
            f"{name}-key",
            description=f"Encrypts what the environment {name} stores",
            enable_key_rotation=True,
            deletion_window_in_days=deletion_days,
            policy=facts.apply(lambda found: _key_policy(*found, volumes=volumes)),
            opts=pulumi.ResourceOptions(parent=self, protect=self._protect_data),
        )
        aws.kms.Alias(f"{name}-key-alias", target_key_id=key.key_id, opts=pulumi.ResourceOptions(parent=key))
        return key

    def _alerts_topic(self, name: str, account: pulumi.Output[str]) -> "aws.sns.Topic":
        topic = aws.sns.Topic(
            f"{name}-alerts", kms_master_key_id=self.key.arn, opts=pulumi.ResourceOptions(parent=self)
        )
        self.alerts_policy = aws.sns.TopicPolicy(
            f"{name}-alerts-policy",
            arn=topic.arn,
            policy=pulumi.Output.all(topic.arn, account).apply(lambda v: _topic_policy(*v)),
            opts=pulumi.ResourceOptions(parent=topic),
        )
        return topic

    def _subscriptions(self, name: str, emails: Sequence[str]) -> list["aws.sns.TopicSubscription"]:
        return [
            aws.sns.TopicSubscription(
                f"{name}-alerts-{email}",
                topic=self.alerts.arn,
                protocol="email",
                endpoint=email,
                opts=pulumi.ResourceOptions(parent=self.alerts),
            )
            for email in dict.fromkeys(emails)
        ]

    def _budget(self, name: str, budget: BudgetArgs) -> "aws.budgets.Budget":
        def alert(kind: str, percent: float) -> "aws.budgets.BudgetNotificationArgs":
            return aws.budgets.BudgetNotificationArgs(
                comparison_operator="GREATER_THAN",
                notification_type=kind,
                threshold=percent,
                threshold_type="PERCENTAGE",
                subscriber_sns_topic_arns=[self.alerts.arn],
            )

        # The whole account, not a tag of it: a tag that nobody activated for billing would make a budget of nothing.
        return aws.budgets.Budget(
            f"{name}-budget",
            budget_type="COST",
            limit_amount=f"{budget['monthly_usd']:.2f}",
            limit_unit="USD",
            time_unit="MONTHLY",
            notifications=[
                alert("ACTUAL", budget["actual_percent"]),
                alert("FORECASTED", budget["forecast_percent"]),
            ],
            # AWS refuses a budget whose topic does not let it publish.
            opts=pulumi.ResourceOptions(parent=self, depends_on=[self.alerts_policy]),
        )

    def _home(self, name: str, namespace: str) -> KubernetesObject:
        return restricted_namespace(
            name, parent=self, namespace=namespace, protect=self._protect_data, more=_READY_WHEN_REACHED
        )


def _key_policy(account: str, partition: str, region: str, *, volumes: bool) -> str:
    """Who may use the key.

    The account's own IAM policies decide about people and roles; services that publish alerts may use it for that.
    Volumes of the account may be encrypted with it by whoever may make and attach them there, as with AWS's own key for
    EBS: which role the cluster's driver has is not this program's to decide.
    """
    by_volumes = {
        "Sid": "VolumesAreEncrypted",
        "Effect": "Allow",
        "Principal": {"AWS": "*"},
        "Action": ["kms:CreateGrant", "kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKey*", "kms:ReEncrypt*"],
        "Resource": "*",
        "Condition": {"StringEquals": {"kms:CallerAccount": account, "kms:ViaService": f"ec2.{region}"}},
    }
    return policy_document(
        [
            *([by_volumes] if volumes else []),
            account_decides_about_key(account, partition),
            {
                "Sid": "AlertsAreEncrypted",
                "Effect": "Allow",
                "Principal": {"Service": ["budgets.amazonaws.com", "cloudwatch.amazonaws.com"]},
                "Action": ["kms:Decrypt", "kms:GenerateDataKey*"],
                "Resource": "*",
                "Condition": {"StringEquals": {"aws:SourceAccount": account}},
            },
        ]
    )


def _topic_policy(topic: str, account: str) -> str:
    return policy_document(
        [
            {
                "Sid": "OurAlarmsAndBudgets",
                "Effect": "Allow",
                "Principal": {"Service": ["budgets.amazonaws.com", "cloudwatch.amazonaws.com"]},
                "Action": "sns:Publish",
                "Resource": topic,
                "Condition": {"StringEquals": {"aws:SourceAccount": account}},
            },
            {
                "Sid": "EncryptedTransportOnly",
                "Effect": "Deny",
                "Principal": "*",
                "Action": "sns:Publish",
                "Resource": topic,
                "Condition": {"Bool": {"aws:SecureTransport": "false"}},
            },
        ]
    )

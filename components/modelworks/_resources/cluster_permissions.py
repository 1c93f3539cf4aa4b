"""Private: what a cluster's roles, its key and its flow log may do."""

from typing import Any

from modelworks._resources.iam import account_decides_about_key, policy_document, statement


def key_policy(account: str, partition: str, region: str) -> str:
    """The account's IAM policies decide, and CloudWatch Logs may use the key for the account's own log groups."""
    return policy_document(
        [
            account_decides_about_key(account, partition),
            {
                "Sid": "LogsAreEncrypted",
                "Effect": "Allow",
                "Principal": {"Service": f"logs.{region}.amazonaws.com"},
                "Action": [
                    "kms:Decrypt",
                    "kms:DescribeKey",
                    "kms:Encrypt",
                    "kms:GenerateDataKey*",
                    "kms:ReEncrypt*",
                ],
                "Resource": "*",
                "Condition": {
                    "ArnLike": {
                        "kms:EncryptionContext:aws:logs:arn": f"arn:{partition}:logs:{region}:{account}:log-group:*"
                    }
                },
            },
        ]
    )


def cluster_permissions(key: str, partition: str) -> list[dict[str, Any]]:
    """Permissions that AWS's own policies for EKS Auto Mode lack: the cluster's key, and further tags.

    Those policies allow nothing with another tag than EKS's. Every load balancer here carries the stack's ("Custom AWS
    tags for EKS Auto resources", EKS user guide).
    """
    ours = {"StringEquals": {"aws:RequestTag/eks:eks-cluster-name": "${aws:PrincipalTag/eks:eks-cluster-name}"}}
    balancing = [f"elasticloadbalancing:Create{what}" for what in ("Listener", "LoadBalancer", "Rule", "TargetGroup")]
    return [
        statement(["kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:ListGrants"], [key]),
        statement([*balancing, "ec2:CreateSecurityGroup"], ["*"], condition=ours),
        statement(
            ["ec2:CreateSnapshot", "ec2:CreateVolume"],
            [f"arn:{partition}:ec2:*:*:{kind}/*" for kind in ("snapshot", "volume")],
            condition=ours,
        ),
    ]


def flow_log_trust(account: str) -> str:
    """Flow logs of this account alone may assume the role."""
    trusted = trust("vpc-flow-logs.amazonaws.com", "sts:AssumeRole")
    return policy_document([trusted | {"Condition": {"StringEquals": {"aws:SourceAccount": account}}}])


def flow_log_permissions(group: str) -> str:
    """Writing to one log group, once it was found among all.

    Source: https://docs.aws.amazon.com/vpc/latest/userguide/flow-logs-iam-role.html
    """
    written = ["logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"]
    return policy_document([statement(written, [group, f"{group}:*"]), statement(["logs:DescribeLogGroups"], ["*"])])


def trust(service: str, *actions: str) -> dict[str, Any]:
    """A service may assume the role."""
    return {"Effect": "Allow", "Principal": {"Service": service}, "Action": list(actions)}

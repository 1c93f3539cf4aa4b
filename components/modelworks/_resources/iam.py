"""Private: roles that may do what they are for, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pulumi
import pulumi_aws as aws


def statement(
    actions: Sequence[str], resources: Sequence[str], *, condition: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """One `Allow` statement of a policy document.

    Args:
        actions: Such as `s3:GetObject`. A bare `*` is refused.
        resources: ARNs.
        condition: As IAM spells it.

    Raises:
        ValueError: An action is a wildcard for everything.
    """
    if wide := [action for action in actions if action == "*" or action.endswith(":*")]:
        raise ValueError(f"actions must be named one by one, got {', '.join(wide)}")
    allowed: dict[str, Any] = {"Effect": "Allow", "Action": sorted(actions), "Resource": list(resources)}
    return allowed | ({"Condition": dict(condition)} if condition else {})


def publish_metrics(namespace: str) -> dict[str, Any]:
    """The statement that lets a role publish metrics in one CloudWatch namespace."""
    return statement(
        ["cloudwatch:PutMetricData"],
        ["*"],  # the action knows no resources; the namespace is what narrows it
        condition={"StringEquals": {"cloudwatch:namespace": namespace}},
    )


def account_decides(account_id: str, partition: str) -> dict[str, Any]:
    """The statement by which a role trusts those that the IAM policies of its own account allow to assume it."""
    return _account_decides(account_id, partition, "sts:AssumeRole")


def account_decides_about_key(account_id: str, partition: str) -> dict[str, Any]:
    """The statement of a key's policy by which the IAM policies of its own account decide who may use it.

    As AWS advises ("Allows access to the AWS account and enables IAM policies", KMS developer guide).
    """
    return _account_decides(account_id, partition, "kms:*") | {"Resource": "*"}


def _account_decides(account_id: str, partition: str, action: str) -> dict[str, Any]:
    return {
        "Sid": "AccountDecidesByIam",
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:{partition}:iam::{account_id}:root"},
        "Action": action,
    }


def policy_document(statements: Sequence[Mapping[str, Any]]) -> str:
    """A policy document of these statements, with its keys in a fixed order."""
    return json.dumps({"Version": "2012-10-17", "Statement": [dict(item) for item in statements]}, sort_keys=True)


def service_account_trust(
    service_account: str, account_id: str, partition: str, issuer: str, namespace: str
) -> dict[str, Any]:
    """The statement by which a role trusts the pods of one service account (IRSA, as EKS has it).

    Args:
        service_account: Its name in the cluster.
        account_id: The AWS account: 12 digits.
        partition: Such as `aws`.
        issuer: The cluster's OIDC issuer without `https://`.
        namespace: Of the service account.
    """
    return {
        "Effect": "Allow",
        "Principal": {"Federated": f"arn:{partition}:iam::{account_id}:oidc-provider/{issuer}"},
        "Action": "sts:AssumeRoleWithWebIdentity",
        "Condition": {
            "StringEquals": {
                f"{issuer}:sub": f"system:serviceaccount:{namespace}:{service_account}",
                f"{issuer}:aud": "sts.amazonaws.com",
            }
        },
    }


def least_privilege_role(
    name: str,
    *,
    parent: pulumi.Resource,
    trust: pulumi.Input[str],
    policy: pulumi.Input[str],
    description: str,
    aliases: Sequence[pulumi.Alias] = (),
) -> tuple[aws.iam.Role, aws.iam.RolePolicy]:
    """A role with one inline policy, which is all that it can ever do; and the policy, for what needs it at once.

    Args:
        name: Name of the role as a resource; the policy is `<name>-policy`.
        parent: The component it belongs to.
        trust: Who may assume it: a policy document.
        policy: Its permissions: a policy document.
        description: For the person who finds it in the console.
        aliases: Where the role was before.
    """
    role = aws.iam.Role(
        name,
        assume_role_policy=trust,
        description=description,
        max_session_duration=3600,
        opts=pulumi.ResourceOptions(parent=parent, aliases=list(aliases)),
    )
    allowed = aws.iam.RolePolicy(
        f"{name}-policy", role=role.id, policy=policy, opts=pulumi.ResourceOptions(parent=role)
    )
    return role, allowed


def bucket_arn(bucket: pulumi.Input[str]) -> pulumi.Output[str]:
    """ARN of a bucket by its name."""
    return pulumi.Output.concat("arn:", aws.get_partition_output().partition, ":s3:::", bucket)

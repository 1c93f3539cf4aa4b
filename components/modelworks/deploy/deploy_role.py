"""Policies of the role that deploys an environment from CI: who may assume it, and what it may do."""

from __future__ import annotations

from typing import Any, Final

_SERVICES: Final = ("athena", "budgets", "cloudwatch", "dynamodb", "glue", "kms", "s3", "sns")
"""Services whose resources components declare. Their names are made up at random, so that no policy can list them."""

_CLUSTER_SERVICES: Final = ("ec2", "eks", "logs")
"""Further ones, of a stack that makes its cluster."""
_CLUSTER_ROLES: Final = ("iam:AttachRolePolicy", "iam:CreateServiceLinkedRole", "iam:DetachRolePolicy")
_PASSED_TO: Final = ("ec2", "eks", "vpc-flow-logs")
_CLUSTER_ISSUER: Final = (
    "iam:AddClientIDToOpenIDConnectProvider",
    "iam:CreateOpenIDConnectProvider",
    "iam:DeleteOpenIDConnectProvider",
    "iam:RemoveClientIDFromOpenIDConnectProvider",
    "iam:TagOpenIDConnectProvider",
    "iam:UntagOpenIDConnectProvider",
    "iam:UpdateOpenIDConnectProviderThumbprint",
)
_READS: Final = (
    "acm:DescribeCertificate",
    "ecr:BatchGetImage",
    "ecr:DescribeImages",
    "ecr:DescribeRepositories",
    "eks:DescribeCluster",
    "elasticloadbalancing:Describe*",
    "iam:GetOpenIDConnectProvider",
    "sts:GetCallerIdentity",
)
_ROLES: Final = (
    "iam:CreateRole",
    "iam:DeleteRole",
    "iam:DeleteRolePolicy",
    "iam:GetRole",
    "iam:GetRolePolicy",
    "iam:ListAttachedRolePolicies",
    "iam:ListInstanceProfilesForRole",
    "iam:ListRolePolicies",
    "iam:ListRoleTags",
    "iam:PutRolePolicy",
    "iam:TagRole",
    "iam:UntagRole",
    "iam:UpdateAssumeRolePolicy",
    "iam:UpdateRole",
    "iam:UpdateRoleDescription",
)
_BUCKET_CHANGES: Final = (
    "s3:DeleteBucket*",
    "s3:DeleteObjectVersion",
    "s3:PutBucket*",
    "s3:PutLifecycleConfiguration",
    "s3:PutEncryptionConfiguration",
)
_KEY_CHANGES: Final = (
    "kms:ScheduleKeyDeletion",
    "kms:DisableKey",
    "kms:PutKeyPolicy",
    "kms:DeleteAlias",
    "kms:UpdateAlias",
)


def trust_policy(provider: str, issuer: str, audience: str, repository: str, environment: str) -> dict[str, Any]:
    """Who may assume the role: jobs of one repository that run in one of its environments on GitHub.

    The subject has no wildcard: a fork, another branch's workflow without the environment, or another environment has
    another one.
    """
    condition = {f"{issuer}:aud": audience, f"{issuer}:sub": f"repo:{repository}:environment:{environment}"}
    statement = {
        "Effect": "Allow",
        "Principal": {"Federated": provider},
        "Action": "sts:AssumeRoleWithWebIdentity",
        "Condition": {"StringEquals": condition},
    }
    return {"Version": "2012-10-17", "Statement": [statement]}


def deploy_policy(
    partition: str, account: str, region: str, *, role: str, state: str, key: str, cluster: bool = False
) -> dict[str, Any]:
    """Permissions of the role: it deploys the components, and can damage neither state, secrets nor itself.

    Since it may create roles with any permission, it is an administrator of its account, which holds one environment.

    Args:
        partition: Such as `aws`.
        account: 12 digits.
        region: The stack's.
        role: The role's own name.
        state: The bucket of the state; empty for a backend of another kind.
        key: The key of the stack's secrets: alias, id or ARN.
        cluster: Whether the stack makes its cluster.
    """
    own_role = f"arn:{partition}:iam::{account}:role/{role}"
    statements = [
        {"Sid": "Components", "Effect": "Allow", "Action": [f"{each}:*" for each in _SERVICES], "Resource": "*"},
        {
            "Sid": "Roles",
            "Effect": "Allow",
            "Action": list(_ROLES),
            "Resource": f"arn:{partition}:iam::{account}:role/*",
        },
        *(_of_cluster(partition, account, region) if cluster else []),
        {"Sid": "Reads", "Effect": "Allow", "Action": list(_READS), "Resource": "*"},
        {"Sid": "OwnRole", "Effect": "Deny", "NotAction": ["iam:Get*", "iam:List*"], "Resource": own_role},
        _secrets_stay(partition, account, region, key),
    ]
    if state:
        arns = [f"arn:{partition}:s3:::{state}", f"arn:{partition}:s3:::{state}/*"]
        statements.append({"Sid": "StateStays", "Effect": "Deny", "Action": list(_BUCKET_CHANGES), "Resource": arns})
    return {"Version": "2012-10-17", "Statement": statements}


def _of_cluster(partition: str, account: str, region: str) -> list[dict[str, Any]]:
    iam = f"arn:{partition}:iam::{account}"
    passed = {"StringEquals": {"iam:PassedToService": [f"{each}.amazonaws.com" for each in _PASSED_TO]}}
    issuers = f"{iam}:oidc-provider/oidc.eks.{region}.*"
    return [
        {
            "Sid": "Cluster",
            "Effect": "Allow",
            "Action": [f"{each}:*" for each in _CLUSTER_SERVICES],
            "Resource": "*",
        },
        {"Sid": "ClusterRoles", "Effect": "Allow", "Action": list(_CLUSTER_ROLES), "Resource": f"{iam}:role/*"},
        {
            "Sid": "ClusterRolesPassed",
            "Effect": "Allow",
            "Action": ["iam:PassRole"],
            "Resource": f"{iam}:role/*",
            "Condition": passed,
        },
        {"Sid": "ClusterIssuer", "Effect": "Allow", "Action": list(_CLUSTER_ISSUER), "Resource": issuers},
    ]


def _secrets_stay(partition: str, account: str, region: str, key: str) -> dict[str, Any]:
    statement: dict[str, Any] = {"Sid": "SecretsStay", "Effect": "Deny", "Action": list(_KEY_CHANGES)}
    if key.startswith("alias/"):
        # A policy names a key by its alias in a condition alone.
        keys = [f"arn:{partition}:kms:*:{account}:key/*", f"arn:{partition}:kms:*:{account}:{key}"]
        return statement | {"Resource": keys, "Condition": {"ForAnyValue:StringEquals": {"kms:ResourceAliases": key}}}
    return statement | {
        "Resource": key if key.startswith("arn:") else f"arn:{partition}:kms:{region}:{account}:key/{key}"
    }

"""Policies of the roles that CI assumes for an environment: who may assume them, and what they may do."""

from __future__ import annotations

from typing import Any, Final

_SERVICES: Final = (
    *("athena", "budgets", "cloudwatch", "dynamodb", "ecr", "glue", "kms", "s3", "secretsmanager", "sns"),
)
"""Services whose resources components declare. Their names are made up at random, so that no policy can list them."""

_CLUSTER_SERVICES: Final = ("ec2", "eks", "logs")
"""Further ones, of a stack that makes its cluster."""
_CLUSTER_ROLES: Final = (
    "iam:AddRoleToInstanceProfile",
    "iam:CreateInstanceProfile",
    "iam:CreateServiceLinkedRole",
    "iam:DeleteInstanceProfile",
    "iam:GetInstanceProfile",
    "iam:RemoveRoleFromInstanceProfile",
    "iam:TagInstanceProfile",
)
"""Those on instance profiles are for the nodes of EKS Auto Mode: the handler of CloudFormation needs them, too."""
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
    "eks:DescribeCluster",
    "elasticloadbalancing:Describe*",
    "iam:GetOpenIDConnectProvider",
    "sts:GetCallerIdentity",
)
_ROLES: Final = (
    "iam:AttachRolePolicy",
    "iam:CreateRole",
    "iam:DeleteRole",
    "iam:DeleteRolePolicy",
    "iam:DetachRolePolicy",
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
_POLICIES: Final = (
    "iam:CreatePolicy",
    "iam:CreatePolicyVersion",
    "iam:DeletePolicy",
    "iam:DeletePolicyVersion",
    "iam:GetPolicy",
    "iam:GetPolicyVersion",
    "iam:ListPolicyVersions",
    "iam:TagPolicy",
    "iam:UntagPolicy",
)
"""Of a customer: a vendor's features have some."""
_BUCKET_CHANGES: Final = (
    "s3:DeleteBucket*",
    "s3:DeleteObjectVersion",
    "s3:PutBucket*",
    "s3:PutLifecycleConfiguration",
    "s3:PutEncryptionConfiguration",
)
_DESCRIPTIONS: Final = (
    "athena:GetWorkGroup",
    "athena:ListTagsForResource",
    "budgets:ListTagsForResource",
    "budgets:ViewBudget",
    "cloudwatch:DescribeAlarms",
    "cloudwatch:ListTagsForResource",
    "dynamodb:Describe*",
    "dynamodb:ListTagsOfResource",
    "ec2:Describe*",
    "ecr:DescribeRepositories",
    "ecr:ListTagsForResource",
    "eks:Describe*",
    "eks:List*",
    "glue:GetDatabase",
    "glue:GetPartitionIndexes",
    "glue:GetTable",
    "glue:GetTags",
    "iam:Get*",
    "iam:List*",
    "kms:DescribeKey",
    "kms:GetKeyPolicy",
    "kms:GetKeyRotationStatus",
    "kms:List*",
    "logs:DescribeLogGroups",
    "logs:ListTagsForResource",
    "s3:GetAccelerateConfiguration",
    "s3:GetBucket*",
    "s3:GetEncryptionConfiguration",
    "s3:GetLifecycleConfiguration",
    "s3:GetReplicationConfiguration",
    "s3:ListBucket",
    "s3:ListTagsForResource",
    "secretsmanager:DescribeSecret",
    "secretsmanager:GetResourcePolicy",
    "sns:Get*",
    "sns:List*",
    "sts:GetCallerIdentity",
)
"""Reads of the provider: how a resource is set up, and nothing that is stored in it."""
_KEY_CHANGES: Final = (
    "kms:ScheduleKeyDeletion",
    "kms:DisableKey",
    "kms:PutKeyPolicy",
    "kms:DeleteAlias",
    "kms:UpdateAlias",
)


def trust_policy(provider: str, issuer: str, audience: str, repository: str, environment: str) -> dict[str, Any]:
    """Who may assume a role: jobs of one repository that run in one of its environments on GitHub.

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
    return _policy(statement)


def deploy_policy(
    partition: str, account: str, region: str, *, role: str, state: str, key: str, cluster: bool = False
) -> dict[str, Any]:
    """Permissions of the role that deploys the components: it can damage neither state, secrets nor itself.

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
        {
            "Sid": "Policies",
            "Effect": "Allow",
            "Action": list(_POLICIES),
            "Resource": f"arn:{partition}:iam::{account}:policy/*",
        },
        *(_of_cluster(partition, account, region) if cluster else []),
        {"Sid": "Reads", "Effect": "Allow", "Action": list(_READS), "Resource": "*"},
        {"Sid": "OwnRole", "Effect": "Deny", "NotAction": ["iam:Get*", "iam:List*"], "Resource": own_role},
        _secrets_stay(partition, account, region, key),
    ]
    if state:
        arns = [f"arn:{partition}:s3:::{state}", f"arn:{partition}:s3:::{state}/*"]
        statements.append({"Sid": "StateStays", "Effect": "Deny", "Action": list(_BUCKET_CHANGES), "Resource": arns})
    return _policy(*statements)


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
        {
            "Sid": "ClusterRoles",
            "Effect": "Allow",
            "Action": list(_CLUSTER_ROLES),
            "Resource": [f"{iam}:role/*", f"{iam}:instance-profile/*"],
        },
        {
            "Sid": "ClusterRolesPassed",
            "Effect": "Allow",
            "Action": ["iam:PassRole"],
            "Resource": f"{iam}:role/*",
            "Condition": passed,
        },
        {"Sid": "ClusterIssuer", "Effect": "Allow", "Action": list(_CLUSTER_ISSUER), "Resource": issuers},
    ]


def preview_policy(
    partition: str, account: str, region: str, *, environment: str, state: str, key: str
) -> dict[str, Any]:
    """Permissions of the role that previews: it reads how resources are set up, the state, and the stack's own secrets.

    It runs the program of a pull request before anybody has read it, so it changes nothing and reads no data.

    Args:
        partition: Such as `aws`.
        account: 12 digits.
        region: The stack's.
        environment: The stack's name, and the value of the tag `environment` of its resources.
        state: The bucket of the state; empty for a backend of another kind.
        key: The key of the stack's secrets: alias, id or ARN.
    """
    keys = f"arn:{partition}:kms:{region}:{account}:key/*"
    return _policy(
        {"Sid": "Descriptions", "Effect": "Allow", "Action": list(_DESCRIPTIONS), "Resource": "*"},
        {
            "Sid": "OwnSecrets",
            "Effect": "Allow",
            "Action": ["secretsmanager:GetSecretValue"],
            "Resource": f"arn:{partition}:secretsmanager:{region}:{account}:secret:*",
            "Condition": {"StringEquals": {"aws:ResourceTag/environment": environment}},
        },
        {
            "Sid": "OwnSecretsDecrypted",
            "Effect": "Allow",
            "Action": ["kms:Decrypt"],
            "Resource": keys,
            "Condition": {"StringEquals": {"kms:ViaService": f"secretsmanager.{region}.amazonaws.com"}},
        },
        *_state_read(partition, account, region, state, key),
    )


def promote_policy(
    partition: str, account: str, region: str, *, state: str, key: str, source_role: str = ""
) -> dict[str, Any]:
    """Permissions of the role that promotes: it reads and writes what the registry keeps, and may do so at the source.

    Args:
        partition: Such as `aws`.
        account: 12 digits.
        region: The stack's.
        state: The bucket of the state; empty for a backend of another kind.
        key: The key of the stack's secrets: alias, id or ARN.
        source_role: ARN of the role that promotes in the environment that versions come from; empty for none.
    """
    stores = [f"arn:{partition}:s3:::registry-{kind}-*" for kind in ("artifacts", "bundles")]
    assume = {"Sid": "Source", "Effect": "Allow", "Action": ["sts:AssumeRole"], "Resource": source_role}
    return _policy(
        {
            "Sid": "Stores",
            "Effect": "Allow",
            "Action": ["s3:GetObject", "s3:ListBucket", "s3:PutObject"],
            "Resource": stores,
            "Condition": {"StringEquals": {"aws:ResourceAccount": account}},
        },
        {
            "Sid": "StoresEncrypted",
            "Effect": "Allow",
            "Action": ["kms:Decrypt", "kms:GenerateDataKey"],
            "Resource": f"arn:{partition}:kms:{region}:{account}:key/*",
            "Condition": {"StringEquals": {"kms:ViaService": f"s3.{region}.amazonaws.com"}},
        },
        *([assume] if source_role else []),
        *_state_read(partition, account, region, state, key),
    )


def trusted_role(role: str) -> dict[str, Any]:
    """The statement that lets a role, of this account or another one, assume one. It need not exist yet.

    Args:
        role: Its ARN.
    """
    return {
        "Effect": "Allow",
        "Principal": {"AWS": _root_of(role)},
        "Action": "sts:AssumeRole",
        "Condition": {"ArnEquals": {"aws:PrincipalArn": role}},
    }


def _root_of(arn: str) -> str:
    _, partition, _, _, account, _ = arn.split(":", 5)
    return f"arn:{partition}:iam::{account}:root"


def shared_state(partition: str, account: str, bucket: str) -> dict[str, Any]:
    """The statement by which a bucket lets in the roles of CI of another account: their own policies decide the rest.

    Args:
        partition: Such as `aws`.
        account: That account, 12 digits.
        bucket: The bucket of the state.
    """
    arn = f"arn:{partition}:s3:::{bucket}"
    return {
        "Sid": f"RolesOf{account}",
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:{partition}:iam::{account}:root"},
        "Action": ["s3:DeleteObject", "s3:GetObject", "s3:ListBucket", "s3:PutObject"],
        "Resource": [arn, f"{arn}/*"],
        "Condition": {"ArnLike": {"aws:PrincipalArn": f"arn:{partition}:iam::{account}:role/modelworks-*"}},
    }


def _state_read(partition: str, account: str, region: str, state: str, key: str) -> list[dict[str, Any]]:
    """Reads the states of the backend, and decrypts the secrets of the one stack."""
    decrypt: dict[str, Any] = {"Sid": "Secrets", "Effect": "Allow", "Action": ["kms:Decrypt"]}
    bucket = f"arn:{partition}:s3:::{state}"
    reads = {"Sid": "State", "Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket"]}
    return [
        *([decrypt | _is_key(partition, account, region, key)] if key else []),
        *([reads | {"Resource": [bucket, f"{bucket}/*"]}] if state else []),
    ]


def _policy(*statements: dict[str, Any]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def _secrets_stay(partition: str, account: str, region: str, key: str) -> dict[str, Any]:
    statement: dict[str, Any] = {"Sid": "SecretsStay", "Effect": "Deny", "Action": list(_KEY_CHANGES)}
    return statement | _is_key(partition, account, region, key)


def _is_key(partition: str, account: str, region: str, key: str) -> dict[str, Any]:
    """The part of a statement that names a key."""
    if key.startswith("alias/"):
        # A policy names a key by its alias in a condition alone.
        keys = [f"arn:{partition}:kms:*:{account}:key/*", f"arn:{partition}:kms:*:{account}:{key}"]
        return {"Resource": keys, "Condition": {"ForAnyValue:StringEquals": {"kms:ResourceAliases": key}}}
    return {"Resource": key if key.startswith("arn:") else f"arn:{partition}:kms:{region}:{account}:key/{key}"}

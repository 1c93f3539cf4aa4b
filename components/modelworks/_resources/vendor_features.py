"""Private: an AWS account as the documentation of Hopsworks and of Tecton requires it, and the secret of the API key.

Sources:
- Tecton, with Rift compute in its control plane:
  https://github.com/tecton-ai/tecton-terraform-setup/tree/main/modules/controlplane_rift
- Hopsworks on EKS: https://docs.hopsworks.ai/latest/setup_installation/aws/getting_started/
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

import pulumi
import pulumi_aws as aws

from modelworks._resources.bucket import made_by, secure_bucket
from modelworks._resources.iam import policy_document, statement
from modelworks._resources.kubernetes import KubernetesComponent

ENGINES = ("feast", "hopsworks", "tecton")
_DEPLOYMENT = re.compile("[a-z][a-z0-9-]{0,19}[a-z0-9]")
"""Tecton's names must have less than 22 characters."""
_REPOSITORY = re.compile("[a-z0-9][a-z0-9._-]*/hopsworks-base")
_URL = re.compile(r"https://[A-Za-z0-9.-]+(:\d+)?")
_NEEDED = {
    "hopsworks": {"url", "repository"},
    "tecton": {"url", "deployment", "control_plane_account_id", "external_id"},
}
_ALLOWED = {"hopsworks": {"node_role"}, "tecton": set[str]()}


class VendorArgs(TypedDict):
    """A feature store of Hopsworks or Tecton."""

    url: str
    """Address of its online API: `https://HOST`, or `https://HOST:PORT`."""

    api_key: NotRequired[pulumi.Input[str] | None]
    """The API key that pods read features with. A secret. Default: none, and somebody fills in the declared secret."""

    deployment: NotRequired[str | None]
    """Name that was agreed with Tecton: at most 21 lower-case letters, digits and dashes. Default: none."""

    control_plane_account_id: NotRequired[str | None]
    """AWS account of Tecton's control plane: 12 digits, as Tecton states it. Default: none."""

    external_id: NotRequired[pulumi.Input[str] | None]
    """The external ID that Tecton assumes its role with, as Tecton states it. Default: none."""

    repository: NotRequired[str | None]
    """ECR repository of the images of Hopsworks' projects: `NAMESPACE/hopsworks-base`. Default: none."""

    node_role: NotRequired[pulumi.Input[str] | None]
    """Name of the role of the nodes that Hopsworks runs on, which gets its policy. Default: none, and you attach it."""


class FeatureApiArgs(TypedDict):
    """The online API of Hopsworks or Tecton."""

    url: str
    """Its address: `https://HOST`, or `https://HOST:PORT`."""

    key_secret_arn: pulumi.Input[str]
    """ARN of the secret that holds the API key, encrypted with the endpoint's `key_arn`."""


def require_sound_vendor(engine: str, vendor: VendorArgs | None) -> None:
    """Refuse an engine that there is none of, and arguments that are not those of the engine.

    Raises:
        ValueError: Something is missing, superfluous or malformed.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    if engine == "feast":
        if vendor is not None:
            raise ValueError("vendor is for the engines hopsworks and tecton, and the engine is feast")
        return
    if vendor is None:
        raise ValueError(f"the engine {engine} needs vendor: {', '.join(sorted(_NEEDED[engine]))}")
    given = {name for name, value in vendor.items() if value is not None} - {"api_key"}
    if missing := sorted(_NEEDED[engine] - given):
        raise ValueError(f"the engine {engine} needs vendor.{missing[0]}")
    if strange := sorted(given - _NEEDED[engine] - _ALLOWED[engine]):
        raise ValueError(f"vendor.{strange[0]} is not for the engine {engine}")
    require_url("vendor.url", vendor["url"])
    for name, rule, what in (
        ("deployment", _DEPLOYMENT, "at most 21 lower-case letters, digits and dashes"),
        ("repository", _REPOSITORY, "NAMESPACE/hopsworks-base"),
    ):
        value: Any = vendor.get(name)
        if value is not None and not rule.fullmatch(value):
            raise ValueError(f"vendor.{name} must be {what}, got {value!r}")


def require_url(name: str, url: str) -> None:
    """Raises ValueError for an address that the API key may not be sent to."""
    if not _URL.fullmatch(url):
        raise ValueError(f"{name} must be https://HOST or https://HOST:PORT, got {url!r}")


class VendorAccount:
    """The account as a vendor needs it: children of the feature store.

    Args:
        store: The feature store.
        engine: `hopsworks` or `tecton`.
        args: The arguments of the feature store.
        protect: Refuse to delete the bucket; None for whatever the program states for the store.
    """

    bucket: "aws.s3.Bucket"
    """For the vendor's history, and its own state."""

    facts: dict[str, pulumi.Input[str]]
    """Names and ARNs to give to the vendor."""

    def __init__(
        self, store: KubernetesComponent, engine: str, args: Mapping[str, Any], *, protect: bool | None
    ) -> None:
        self._store, self._args, self._protect = store, args, protect
        self._vendor: VendorArgs = args["vendor"]
        self.secret = self._secret(engine)
        if engine == "tecton":
            self._tecton(str(self._vendor["deployment"]))
        else:
            self._hopsworks()
        self.facts = {
            "bucket": self.bucket.bucket,
            "region": aws.get_region_output().region,
            "account_id": args["account_id"],
            "key_arn": args["key_arn"],
            "key_secret_arn": self.secret.arn,
            **self.facts,
        }

    @property
    def api(self) -> FeatureApiArgs:
        """The online API, as a `ModelEndpoint` takes it."""
        return {"url": self._vendor["url"], "key_secret_arn": self.secret.arn}

    def _secret(self, engine: str) -> "aws.secretsmanager.Secret":
        made = aws.secretsmanager.Secret(
            self._store.child_name("api-key"),
            description=f"API key with which pods read features from {engine.capitalize()}",
            kms_key_id=self._args["key_arn"],
            opts=pulumi.ResourceOptions(parent=self._store),
        )
        if (key := self._vendor["api_key"]) is not None:
            aws.secretsmanager.SecretVersion(
                self._store.child_name("api-key-value"),
                secret_id=made.id,
                secret_string=pulumi.Output.secret(key),
                opts=pulumi.ResourceOptions(parent=made),
            )
        return made

    # -- Tecton ------------------------------------------------------------------------------------------------------
    def _tecton(self, deployment: str) -> None:
        name, control_plane = f"tecton-{deployment}", str(self._vendor["control_plane_account_id"])
        partition = aws.get_partition_output().partition
        tags = {f"tecton-accessible:{deployment}": "true"}
        root = pulumi.Output.concat("arn:", partition, ":iam::", control_plane, ":root")
        self.bucket = secure_bucket(
            self._store.child_name("tecton"),
            parent=self._store,
            key_arn=self._args["key_arn"],
            noncurrent_days=self._args["noncurrent_days"],
            protect=self._protect,
            fixed_name=name,  # Tecton finds it by this name
            tags=tags,
            statements=root.apply(lambda principal: _control_plane_access(principal, name)),
        )
        self.role = aws.iam.Role(
            self._store.child_name("tecton"),
            name=f"{name}-cross-account-role",  # Tecton checks it by this name
            description="Tecton's control plane keeps features in S3 and DynamoDB",
            assume_role_policy=pulumi.Output.all(root, self._vendor["external_id"]).apply(lambda found: _trust(*found)),
            max_session_duration=43_200,
            tags=tags,
            opts=pulumi.ResourceOptions(parent=self._store),
        )
        facts = (self._args["account_id"], aws.get_region_output().region, partition, self._args["key_arn"])
        aws.iam.RolePolicy(
            self._store.child_name("tecton-policy"),
            role=self.role.id,
            policy=pulumi.Output.all(*facts).apply(
                lambda found: policy_document(_control_plane_permissions(name, *found))
            ),
            opts=pulumi.ResourceOptions(parent=self.role),
        )
        # The key is the environment's: its policy leaves who may use it to IAM, which another account has no part in.
        self.grant = aws.kms.Grant(
            self._store.child_name("tecton-grant"),
            key_id=self._args["key_arn"],
            grantee_principal=root,
            operations=["Decrypt", "DescribeKey", "Encrypt", "GenerateDataKey"],
            opts=pulumi.ResourceOptions(parent=self._store, depends_on=made_by(self._args["key_arn"])),
        )
        external_id: Any = self._vendor["external_id"]
        self.facts = {"deployment": deployment, "role_arn": self.role.arn, "external_id": external_id}

    # -- Hopsworks ---------------------------------------------------------------------------------------------------
    def _hopsworks(self) -> None:
        self.bucket = secure_bucket(
            self._store.child_name("hopsworks"),
            parent=self._store,
            key_arn=self._args["key_arn"],
            noncurrent_days=self._args["noncurrent_days"],
            protect=self._protect,
        )
        self.repository = aws.ecr.Repository(
            self._store.child_name("hopsworks-images"),
            name=str(self._vendor["repository"]),  # Hopsworks finds it by the namespace in this name
            image_scanning_configuration={"scan_on_push": True},
            encryption_configurations=[{"encryption_type": "KMS", "kms_key": self._args["key_arn"]}],
            opts=pulumi.ResourceOptions(parent=self._store),
        )
        self.policy = aws.iam.Policy(
            self._store.child_name("hopsworks"),
            description="Hopsworks keeps features and images of projects",
            policy=pulumi.Output.all(self.bucket.arn, self.repository.arn, self._args["key_arn"]).apply(
                lambda found: policy_document(_hopsworks_permissions(*found))
            ),
            opts=pulumi.ResourceOptions(parent=self._store),
        )
        if (role := self._vendor["node_role"]) is not None:
            aws.iam.RolePolicyAttachment(
                self._store.child_name("hopsworks-nodes"),
                role=role,
                policy_arn=self.policy.arn,
                opts=pulumi.ResourceOptions(parent=self.policy),
            )
        self.facts = {"policy_arn": self.policy.arn, "repository_url": self.repository.repository_url}


def _trust(principal: str, external_id: str) -> str:
    return policy_document(
        [
            {
                "Effect": "Allow",
                "Principal": {"AWS": principal},
                "Action": "sts:AssumeRole",
                "Condition": {"StringEquals": {"sts:ExternalId": external_id}},
            }
        ]
    )


def _control_plane_access(principal: str, bucket: str) -> list[dict[str, Any]]:
    """Statements that let Tecton's own account use the bucket: Rift computes in its control plane."""
    partition = principal.split(":")[1]
    arn = f"arn:{partition}:s3:::{bucket}"
    return [
        {"Sid": "S3Bucket", "Principal": {"AWS": principal}, **statement(["s3:ListBucket"], [arn])},
        {
            "Sid": "S3Object",
            "Principal": {"AWS": principal},
            **statement(["s3:DeleteObject", "s3:GetObject", "s3:PutObject"], [f"{arn}/*"]),
        },
    ]


_TABLE_ACTIONS = (
    "BatchGetItem BatchWriteItem ConditionCheckItem CreateTable DeleteItem DeleteTable DescribeImport DescribeTable "
    "DescribeTimeToLive GetItem ImportTable ListTagsOfResource PutItem Query TagResource UpdateTable UpdateTimeToLive"
)
_READ = ("intermediate", "internal", "offline-store", "realtime-logs", "rift-logs", "streaming-checkpoints")
_DELETED = ("offline-store", "rift-logs", "streaming-checkpoints")
_WRITTEN = (
    "intermediate", "internal", "logging", "offline-store", "realtime-logs", "rift-logs", "tecton-billable-usage",
)  # fmt: skip
_ROLE_ACTIONS = (
    "GetRole GetRolePolicy ListAttachedRolePolicies ListInstanceProfilesForRole ListRolePolicies "
    "SimulatePrincipalPolicy"
)
_LOG_ACTIONS = "CreateLogGroup CreateLogStream DescribeLogGroups DescribeLogStreams PutLogEvents PutRetentionPolicy"


def _control_plane_permissions(
    name: str, account: str, region: str, partition: str, key_arn: str
) -> list[dict[str, Any]]:
    """Permissions of the cross-account role.

    Source: `templates/rift_ca_policy.json` and `templates/cmk_policy.json` of the module above. Its permissions on ECR,
    which allow pushing to every repository, are left out; what it has for every resource is limited to the region, and
    its look at roles to the role itself.
    """
    bucket = f"arn:{partition}:s3:::{name}"
    role = f"arn:{partition}:iam::{account}:role/{name}-cross-account-role"
    logs = f"arn:{partition}:logs:{region}:{account}:log-group:/aws-dynamodb/imports"
    within: Mapping[str, Any] = {"StringEquals": {"aws:RequestedRegion": region}}

    tables = f"arn:{partition}:dynamodb:{region}:{account}:table/{name}*"

    def below(prefixes: Sequence[str]) -> list[str]:
        return [f"{bucket}/{prefix}/*" for prefix in prefixes]

    return [
        statement(_actions("dynamodb", _TABLE_ACTIONS), [tables]),
        statement(["dynamodb:DescribeLimits", "dynamodb:ListTables"], ["*"], condition=within),
        statement(["s3:ListBucket"], [bucket]),
        statement(["s3:GetObject"], below(_READ)),
        statement(["s3:DeleteObject"], below(_DELETED)),
        statement(["s3:PutObject"], below(_WRITTEN)),
        statement(_actions("iam", _ROLE_ACTIONS), [role]),
        statement(_actions("logs", _LOG_ACTIONS), [f"{logs}:*", f"{logs}:log-stream:*"]),
        statement(["kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey"], [key_arn]),
        statement(
            ["kms:CreateGrant", "kms:ListGrants", "kms:RevokeGrant"],
            [key_arn],
            condition={"Bool": {"kms:GrantIsForAWSResource": "true"}},
        ),
    ]


def _actions(service: str, names: str) -> list[str]:
    return [f"{service}:{name}" for name in names.split()]


def _hopsworks_permissions(bucket: str, repository: str, key_arn: str) -> list[dict[str, Any]]:
    """Permissions of the nodes that Hopsworks runs on. Source: step 1.3 of its guide, and the environment's key."""
    return [
        statement(
            [
                "s3:GetBucketVersioning",
                "s3:GetLifecycleConfiguration",
                "s3:ListBucket",
                "s3:ListBucketMultipartUploads",
                "s3:ListBucketVersions",
                "s3:PutBucketVersioning",
                "s3:PutLifecycleConfiguration",
            ],
            [bucket],
        ),
        statement(
            ["s3:AbortMultipartUpload", "s3:DeleteObject", "s3:DeleteObjectVersion", "s3:GetObject", "s3:PutObject"],
            [f"{bucket}/*"],
        ),
        statement(
            [
                "ecr:BatchCheckLayerAvailability",
                "ecr:BatchDeleteImage",
                "ecr:BatchGetImage",
                "ecr:CompleteLayerUpload",
                "ecr:GetDownloadUrlForLayer",
                "ecr:GetLifecyclePolicy",
                "ecr:InitiateLayerUpload",
                "ecr:ListImages",
                "ecr:PutImage",
                "ecr:PutLifecyclePolicy",
                "ecr:TagResource",
                "ecr:UploadLayerPart",
            ],
            [repository],
        ),
        statement(["kms:Decrypt", "kms:GenerateDataKey"], [key_arn]),
    ]

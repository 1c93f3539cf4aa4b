"""Pending operations of a killed engine in a stack's state, and the id of each half-created resource.

The engine records a create before it starts it: the inputs, physical name included, but no id. Whether the resource
came to be is unknown, and a later update would make a second one. Where the physical name gives the id, the record
becomes an ordinary resource with that id, and a refresh reads it from its provider: an existing resource is completed,
a missing one is dropped. (`pulumi refresh --import-pending-creates` of 3.259 forgets the record without importing,
which orphans the resource: tried.)
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Final

from modelworks.deploy.lookup import Search

_NAMED: Final[dict[str, str]] = {
    # type: its import id, from its inputs and from {account}, {region}, {partition} (import section of each type's docs)
    "aws:athena/workgroup:Workgroup": "{name}",
    "aws:budgets/budget:Budget": "{account}:{name}",
    "aws:cloudwatch/dashboard:Dashboard": "{dashboardName}",
    "aws:cloudwatch/logGroup:LogGroup": "{name}",
    "aws:cloudwatch/metricAlarm:MetricAlarm": "{name}",
    "aws:dynamodb/table:Table": "{name}",
    "aws:ecr/repository:Repository": "{name}",
    "aws:glue/catalogDatabase:CatalogDatabase": "{account}:{name}",
    "aws:glue/catalogTable:CatalogTable": "{account}:{databaseName}:{name}",
    "aws:iam/openIdConnectProvider:OpenIdConnectProvider": "arn:{partition}:iam::{account}:oidc-provider/{url}",
    "aws:iam/policy:Policy": "arn:{partition}:iam::{account}:policy{path}{name}",
    "aws:iam/role:Role": "{name}",
    "aws:iam/rolePolicy:RolePolicy": "{role}:{name}",
    "aws:iam/rolePolicyAttachment:RolePolicyAttachment": "{role}/{policyArn}",
    "aws:kms/alias:Alias": "{name}",
    "aws:s3/bucket:Bucket": "{bucket}",
    "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration": "{bucket}",
    "aws:s3/bucketObject:BucketObject": "{bucket}/{key}",
    "aws:s3/bucketObjectv2:BucketObjectv2": "{bucket}/{key}",
    "aws:s3/bucketOwnershipControls:BucketOwnershipControls": "{bucket}",
    "aws:s3/bucketPolicy:BucketPolicy": "{bucket}",
    "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock": "{bucket}",
    "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration": "{bucket}",
    "aws:s3/bucketVersioning:BucketVersioning": "{bucket}",
    "aws:secretsmanager/secret:Secret": "{name}",
    "aws:sns/topic:Topic": "arn:{partition}:sns:{region}:{account}:{name}",
    "aws:sns/topicPolicy:TopicPolicy": "{arn}",
    "aws:sqs/queue:Queue": "{queues}/{account}/{name}",
    "aws:sqs/queuePolicy:QueuePolicy": "{queueUrl}",
    "aws:ssm/parameter:Parameter": "{name}",
}


@dataclass(frozen=True)
class Where:
    """The facts that an id needs next to a name."""

    account: str
    region: str
    endpoint: str = ""
    """The AWS endpoint of a laptop environment; empty on AWS."""

    def facts(self) -> dict[str, str]:
        """The placeholders that are not inputs of a resource."""
        china = self.region.startswith("cn-")
        suffix = "amazonaws.com.cn" if china else "amazonaws.com"
        return {
            "account": self.account,
            "region": self.region,
            "partition": "aws-cn" if china else "aws-us-gov" if self.region.startswith("us-gov-") else "aws",
            "queues": self.endpoint or f"https://sqs.{self.region}.{suffix}",
        }


@dataclass(frozen=True)
class Resolution:
    """A state without pending operations, and the resources that providers have yet to confirm."""

    deployment: dict[str, Any]
    """As `pulumi stack export` writes it."""

    asked: dict[str, str]
    """URNs that a refresh must look at, with the id each is looked for under."""

    absent: tuple[str, ...]
    """URNs of pending creates that were looked for and were not made."""

    forgotten: tuple[str, ...]
    """URNs of pending creates whose id is unknown: a person must look for these resources."""


def operations(deployment: dict[str, Any]) -> list[dict[str, Any]]:
    """The pending operations of an exported stack."""
    return list((deployment.get("deployment") or {}).get("pending_operations") or [])


def resolve(exported: dict[str, Any], where: Where, search: Search = lambda *_: None) -> Resolution:
    """Turn pending operations into resources that a refresh can decide about. Changes nothing it is given.

    Args:
        exported: The stack, as `pulumi stack export` writes it.
        where: The facts that an id needs next to a name.
        search: Finds a resource whose name does not determine its id.
    """
    exported = copy.deepcopy(exported)
    deployment = exported["deployment"]
    resources = deployment.setdefault("resources", [])
    asked: dict[str, str] = {}
    absent: list[str] = []
    forgotten: list[str] = []
    for operation in operations(exported):
        resource = operation["resource"]
        urn = resource["urn"]
        if operation["type"] != "creating":
            asked[urn] = resource.get("id", "")  # it is in the state already; a refresh tells how far it came
            continue
        identity = search(resource, {item.get("id", "") for item in resources})
        if identity is None:
            identity = physical_id(resource, where)
        if not identity:
            (forgotten if identity is None else absent).append(urn)
            continue
        for old in resources:
            if old["urn"] == urn:
                old["delete"] = True  # a replacement that was made first: the old one goes next, as it would have
        resources.append({**resource, "id": identity, "outputs": {}})
        asked[urn] = identity
    deployment["pending_operations"] = []
    return Resolution(exported, asked, tuple(absent), tuple(forgotten))


def physical_id(resource: dict[str, Any], where: Where) -> str | None:
    """The id that a resource with these recorded inputs has if it was made; None if the inputs do not determine it."""
    kind, inputs = resource["type"], resource.get("inputs") or {}
    if kind.startswith("kubernetes:"):
        metadata = inputs.get("metadata") or {}
        name = metadata.get("name")
        namespace = metadata.get("namespace")
        return f"{namespace}/{name}" if name and namespace else name
    template = _NAMED.get(kind, "" if kind.startswith("aws:") else "{name}")
    if kind == "aws:iam/openIdConnectProvider:OpenIdConnectProvider":
        inputs = {**inputs, "url": str(inputs.get("url", "")).removeprefix("https://")}
    known = {"path": "/", **{key: value for key, value in inputs.items() if isinstance(value, str)}, **where.facts()}
    try:
        return template.format_map(known) or None
    except KeyError:
        return None

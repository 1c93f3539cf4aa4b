"""The rules, as plain functions: inputs of one resource in, what is wrong with them out."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from modelworks.stack import takes_tags

Inputs = Mapping[str, Any]
_ADMINISTRATORS = frozenset({"AdministratorAccess", "IAMFullAccess", "PowerUserAccess"})
_BUCKETS = frozenset({"aws:s3/bucket:Bucket", "aws:s3/bucketV2:BucketV2"})
_GUARDS = {
    "BucketPublicAccessBlock": "a block of public access",
    "BucketServerSideEncryptionConfiguration": "an encryption with a key",
}
REQUIRED_TAGS = ("environment", "owner", "cost-centre", "project", "managed-by")


class Declared(Protocol):
    """A resource of a stack, as `pulumi_policy` hands it over."""

    resource_type: str
    urn: str

    @property
    def property_dependencies(self) -> Mapping[str, Sequence[Declared]]:
        """The resources that each of its properties depends on."""


@dataclass(frozen=True)
class Rule:
    """One rule, for the resource types it is about."""

    name: str
    meaning: str
    types: tuple[str, ...] | Callable[[str], bool]
    """Type tokens, or a test of one."""
    check: Callable[[Inputs], Iterator[str]]

    def applies_to(self, token: str) -> bool:
        """Whether the rule is about resources of this type."""
        return self.types(token) if callable(self.types) else token in self.types


def taggable(token: str) -> bool:
    """Whether the AWS SDK's class of that type takes tags."""
    if not (parts := re.fullmatch(r"aws:(\w+)/\w+:(\w+)", token)):
        return False
    try:
        module = importlib.import_module(f"pulumi_aws.{parts[1]}")
    except ModuleNotFoundError:  # a type of a newer provider than the program's SDK
        return False
    return hasattr(module, parts[2]) and takes_tags(getattr(module, parts[2]))


def required_tags(inputs: Inputs) -> Iterator[str]:
    """A resource carries all the required tags."""
    tags = inputs.get("tags") or {}
    if not isinstance(tags, Mapping):
        yield f"tags must be names with values, got {tags!r}"
    elif missing := [tag for tag in REQUIRED_TAGS if not str(tags.get(tag) or "").strip()]:
        yield f"tags lack {', '.join(missing)}"


def no_public_bucket(inputs: Inputs) -> Iterator[str]:
    """Every switch of a public-access block is on."""
    switches = ("blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls", "restrictPublicBuckets")
    if off := [switch for switch in switches if inputs.get(switch) is not True]:
        yield f"{', '.join(off)} must be true"


def encrypted_bucket(inputs: Inputs) -> Iterator[str]:
    """A bucket is encrypted with a KMS key."""
    for rule in inputs.get("rules") or []:
        default = rule.get("applyServerSideEncryptionByDefault") or {}
        if default.get("sseAlgorithm") not in {"aws:kms", "aws:kms:dsse"}:
            yield f"sseAlgorithm must be aws:kms, got {default.get('sseAlgorithm')!r}"


def encrypted_topic(inputs: Inputs) -> Iterator[str]:
    """A topic or queue is encrypted with a KMS key."""
    if not inputs.get("kmsMasterKeyId"):
        yield "kmsMasterKeyId must name a key"


def encrypted_table(inputs: Inputs) -> Iterator[str]:
    """A table is encrypted with a KMS key that is not DynamoDB's own."""
    encryption = inputs.get("serverSideEncryption") or {}
    if encryption.get("enabled") is not True or not encryption.get("kmsKeyArn"):
        yield "serverSideEncryption must be enabled, and kmsKeyArn must name a key"


def rotating_key(inputs: Inputs) -> Iterator[str]:
    """A key rotates."""
    if inputs.get("enableKeyRotation") is not True:
        yield "enableKeyRotation must be true"


def named_permissions(inputs: Inputs) -> Iterator[str]:
    """A role's policy names its actions, and what they may touch."""
    for statement in _statements(inputs.get("policy")):
        if statement.get("Effect") != "Allow":
            continue
        if inverted := [key for key in ("NotAction", "NotResource") if key in statement]:
            yield f"{', '.join(inverted)} allows what it does not name: name what is allowed"
        wide = [action for action in _list(statement.get("Action")) if action == "*" or action.endswith(":*")]
        if wide:
            yield f"actions must be named one by one, got {', '.join(wide)}"
        if "*" in _list(statement.get("Resource")) and not statement.get("Condition"):
            yield "Resource '*' needs a Condition that narrows it"


def named_permissions_of_role(inputs: Inputs) -> Iterator[str]:
    """A role's inline policies name their actions, and no policy that it is given is an administrator's."""
    for inline in inputs.get("inlinePolicies") or []:
        yield from named_permissions(inline)
    for arn in inputs.get("managedPolicyArns") or []:
        yield from no_administrator({"policyArn": arn})


def no_administrator(inputs: Inputs) -> Iterator[str]:
    """No policy of AWS that allows everything, or the way there, is attached."""
    arn = inputs.get("policyArn")
    if isinstance(arn, str) and arn.rpartition("/")[2] in _ADMINISTRATORS and ":iam::aws:policy/" in arn:
        yield f"{arn.rpartition('/')[2]} allows everything, or to become whoever may: attach what is needed"


def restricted_pods(inputs: Inputs) -> Iterator[str]:
    """A container runs as nobody in particular, on a root it cannot write, with no privilege to gain."""
    for pod in _pods(inputs.get("spec") or {}):
        if shared := [name for name in ("hostIPC", "hostNetwork", "hostPID") if pod.get(name)]:
            yield f"{', '.join(shared)} must be false"
        for kind in ("initContainers", "containers", "ephemeralContainers"):
            for container in pod.get(kind) or []:
                yield from _problems_of(container)


def _pods(spec: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Specs of the pods that a workload makes, or that it is."""
    analysed = [metric.get("provider", {}).get("job", {}).get("spec", {}) for metric in spec.get("metrics") or []]
    if "containers" in spec:
        yield spec
    for each in (spec.get("jobTemplate", {}).get("spec", spec), *analysed):
        yield each.get("template", {}).get("spec", {})


def _problems_of(container: Mapping[str, Any]) -> Iterator[str]:
    name, context = f"container {container.get('name')!r}", container.get("securityContext") or {}
    if context.get("allowPrivilegeEscalation") is not False or context.get("readOnlyRootFilesystem") is not True:
        yield f"{name} must set allowPrivilegeEscalation: false and readOnlyRootFilesystem: true"
    if context.get("privileged"):
        yield f"{name} must not be privileged"
    if added := (context.get("capabilities") or {}).get("add"):
        yield f"{name} must add no capabilities, got {', '.join(map(str, added))}"


def unguarded_buckets(resources: Iterable[Declared]) -> Iterator[tuple[str, str]]:
    """URN of each bucket that lacks a block of public access or an encryption, with what it lacks.

    They are found by what they depend on: the name of a bucket is unknown until it is made.
    """
    buckets: dict[str, set[str]] = {}
    for each in resources:
        if each.resource_type in _BUCKETS:
            buckets.setdefault(each.urn, set())
    for each in resources:
        for bucket in each.property_dependencies.get("bucket") or ():
            buckets.get(bucket.urn, set()).add(each.resource_type.rpartition(":")[2].removesuffix("V2"))
    for urn, guards in buckets.items():
        if lacks := [what for kind, what in _GUARDS.items() if kind not in guards]:
            yield urn, f"a bucket needs {' and '.join(lacks)}"


def _statements(document: Any) -> list[dict[str, Any]]:
    try:
        return _list(json.loads(document)["Statement"]) if isinstance(document, str) else []
    except (ValueError, KeyError, TypeError):
        return []


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


RULES = (
    Rule("required-tags", "Every taggable resource names its owner and its cost centre", taggable, required_tags),
    Rule(
        "no-public-bucket",
        "No bucket can be made public",
        ("aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock",),
        no_public_bucket,
    ),
    Rule(
        "encrypted-bucket",
        "Buckets are encrypted with a key of the environment",
        ("aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration",),
        encrypted_bucket,
    ),
    Rule(
        "encrypted-messages",
        "Topics and queues are encrypted with a key of the environment",
        ("aws:sns/topic:Topic", "aws:sqs/queue:Queue"),
        encrypted_topic,
    ),
    Rule(
        "encrypted-table",
        "Tables are encrypted with a key of the environment",
        ("aws:dynamodb/table:Table",),
        encrypted_table,
    ),
    Rule("rotating-key", "Keys rotate", ("aws:kms/key:Key",), rotating_key),
    Rule(
        "named-permissions",
        "Roles may do what is named, to what is named",
        (
            "aws:iam/rolePolicy:RolePolicy",
            "aws:iam/policy:Policy",
            "aws:iam/userPolicy:UserPolicy",
            "aws:iam/groupPolicy:GroupPolicy",
        ),
        named_permissions,
    ),
    Rule(
        "named-permissions-of-role",
        "Roles are made with what is named",
        ("aws:iam/role:Role",),
        named_permissions_of_role,
    ),
    Rule(
        "no-administrator",
        "Nobody is made an administrator",
        (
            "aws:iam/rolePolicyAttachment:RolePolicyAttachment",
            "aws:iam/userPolicyAttachment:UserPolicyAttachment",
            "aws:iam/groupPolicyAttachment:GroupPolicyAttachment",
            "aws:iam/policyAttachment:PolicyAttachment",
        ),
        no_administrator,
    ),
    Rule(
        "restricted-pods",
        "Workloads cannot gain privileges",
        (
            "kubernetes:core/v1:Pod",
            "kubernetes:apps/v1:DaemonSet",
            "kubernetes:apps/v1:Deployment",
            "kubernetes:apps/v1:ReplicaSet",
            "kubernetes:apps/v1:StatefulSet",
            "kubernetes:batch/v1:CronJob",
            "kubernetes:batch/v1:Job",
            "kubernetes:argoproj.io/v1alpha1:Rollout",
            "kubernetes:argoproj.io/v1alpha1:AnalysisTemplate",
        ),
        restricted_pods,
    ),
)

"""The rules, as plain functions: inputs of one resource in, what is wrong with them out."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from modelworks.stack import takes_tags

Inputs = Mapping[str, Any]
REQUIRED_TAGS = ("environment", "owner", "cost-centre", "project", "managed-by")


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


def rotating_key(inputs: Inputs) -> Iterator[str]:
    """A key rotates."""
    if inputs.get("enableKeyRotation") is not True:
        yield "enableKeyRotation must be true"


def named_permissions(inputs: Inputs) -> Iterator[str]:
    """A role's policy names its actions, and what they may touch."""
    for statement in _statements(inputs.get("policy")):
        if statement.get("Effect") != "Allow":
            continue
        wide = [action for action in _list(statement.get("Action")) if action == "*" or action.endswith(":*")]
        if wide:
            yield f"actions must be named one by one, got {', '.join(wide)}"
        if "*" in _list(statement.get("Resource")) and not statement.get("Condition"):
            yield "Resource '*' needs a Condition that narrows it"


def restricted_pods(inputs: Inputs) -> Iterator[str]:
    """A container runs as nobody in particular, on a root it cannot write, with no privilege to gain."""
    spec = inputs.get("spec", {})
    analysed = [metric.get("provider", {}).get("job", {}).get("spec", {}) for metric in spec.get("metrics") or []]
    workloads = [spec.get("jobTemplate", {}).get("spec", spec), *analysed]
    pods = [each.get("template", {}).get("spec", {}) for each in workloads]
    containers = [each for pod in pods for kind in ("initContainers", "containers") for each in pod.get(kind) or []]
    for container in containers:
        context = container.get("securityContext") or {}
        if context.get("allowPrivilegeEscalation") is not False or context.get("readOnlyRootFilesystem") is not True:
            yield (
                f"container {container.get('name')!r} must set allowPrivilegeEscalation: false "
                "and readOnlyRootFilesystem: true"
            )


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
        "Topics are encrypted with a key of the environment",
        ("aws:sns/topic:Topic",),
        encrypted_topic,
    ),
    Rule("rotating-key", "Keys rotate", ("aws:kms/key:Key",), rotating_key),
    Rule(
        "named-permissions",
        "Roles may do what is named, to what is named",
        ("aws:iam/rolePolicy:RolePolicy", "aws:iam/policy:Policy"),
        named_permissions,
    ),
    Rule(
        "restricted-pods",
        "Workloads cannot gain privileges",
        (
            "kubernetes:apps/v1:Deployment",
            "kubernetes:batch/v1:CronJob",
            "kubernetes:batch/v1:Job",
            "kubernetes:argoproj.io/v1alpha1:Rollout",
            "kubernetes:argoproj.io/v1alpha1:AnalysisTemplate",
        ),
        restricted_pods,
    ),
)

"""The real provider's types: `schema.json`, a Pulumi package schema of the types served here.

It holds facts only: properties, their types, what is required, what is secret and what forces replacement.
It is written from the installed `pulumi_aws` (`python -m modelworks.laptop.providers.aws.installed`), so that the
provider's process need not import that package, which would cost it a second and a hundred megabytes. A test compares
the two.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

# What forces replacement comes from the published schema of pulumi-aws v5 (September 2022): `replacements.json`, one
# line a type. Where v7 differs, or has properties that v5 had not, the difference and its reason stand here.
V7_REPLACES: Mapping[str, Mapping[str, str]] = {
    "*": {"region": "v7 gives each resource a region of its own, and nothing can be moved to another region"},
    "aws:dynamodb/table:Table": {
        "importTable": "an import of data happens only while a table is created",
        "restoreSourceName": "a restore happens only while a table is created",
        "restoreSourceTableArn": "a restore happens only while a table is created",
    },
    "aws:cloudwatch/logGroup:LogGroup": {"logGroupClass": "CloudWatch Logs cannot change a group's class"},
    "aws:kms/key:Key": {
        "customKeyStoreId": "KMS cannot move a key to another key store",
        "xksKeyId": "KMS cannot point a key at another external key",
    },
    "aws:secretsmanager/secretVersion:SecretVersion": {"secretStringWoVersion": "a version's value is immutable"},
}
V7_UPDATES: Mapping[str, Mapping[str, str]] = {
    "aws:iam/openIdConnectProvider:OpenIdConnectProvider": {
        "clientIdLists": "v5.30 and later add and remove client ids in place",
    },
}
V5_NAMES: Mapping[str, str] = {
    # v7 dropped the V2 of these names; v5's type without V2 was another one.
    "aws:s3/bucket:Bucket": "aws:s3/bucketV2:BucketV2",
    "aws:s3/bucketVersioning:BucketVersioning": "aws:s3/bucketVersioningV2:BucketVersioningV2",
    "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration": (
        "aws:s3/bucketServerSideEncryptionConfigurationV2:BucketServerSideEncryptionConfigurationV2"
    ),
    "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration": (
        "aws:s3/bucketLifecycleConfigurationV2:BucketLifecycleConfigurationV2"
    ),
}


@dataclass(frozen=True)
class ResourceType:
    """The schema of one resource type."""

    token: str
    inputs: Mapping[str, Mapping[str, Any]]
    """Input properties: their type in the notation of Pulumi's package schema."""
    outputs: Mapping[str, Mapping[str, Any]]
    """Properties of the state, inputs included."""
    required: frozenset[str]

    @functools.cached_property
    def replaces(self) -> frozenset[str]:
        """Inputs whose change forces replacement."""
        return frozenset(name for name, spec in self.inputs.items() if spec.get("willReplaceOnChanges"))

    @functools.cached_property
    def secrets(self) -> frozenset[str]:
        """Outputs that are always secret."""
        return frozenset(name for name, spec in self.outputs.items() if spec.get("secret"))

    @property
    def taggable(self) -> bool:
        """Whether it has `tags` that the provider's default tags join."""
        return "tags" in self.inputs and "tagsAll" in self.outputs


@functools.cache
def package() -> dict[str, Any]:
    """The schema as `GetSchema` answers it."""
    text = resources.files(__package__).joinpath("schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


@functools.cache
def resource_type(token: str) -> ResourceType | None:
    """The type called `token`; `None` if it is not served here."""
    spec = package()["resources"].get(token)
    if spec is None:
        return None
    return ResourceType(
        token=token,
        inputs=spec["inputProperties"],
        outputs=spec["properties"],
        required=frozenset(spec.get("requiredInputs", ())),
    )


def replacements(token: str, inputs: Collection[str]) -> list[str]:
    """Those of `inputs` whose change forces replacement of a `token`: v5's facts, corrected by v7's."""
    text = resources.files(__package__).joinpath("replacements.json").read_text(encoding="utf-8")
    facts: dict[str, list[str]] = json.loads(text)
    replaces = {*facts.get(V5_NAMES.get(token, token), ()), *V7_REPLACES["*"], *V7_REPLACES.get(token, ())}
    return sorted((replaces - V7_UPDATES.get(token, {}).keys()) & set(inputs))


def object_type(reference: str) -> Mapping[str, Any] | None:
    """The object type that a `$ref` names; `None` for one that is not described (assets, any)."""
    types: dict[str, Any] = package()["types"]
    return types.get(reference.removeprefix("#/types/"))

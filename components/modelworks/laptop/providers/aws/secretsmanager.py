"""Secrets and their versions."""

# A resource's methods have one signature; few need all of it.
# ruff: noqa: ARG002

from __future__ import annotations

import base64
from collections.abc import Collection
from typing import Any, ClassVar

from modelworks.laptop.providers.aws.resource import Name, Resource, absent, names
from modelworks.laptop.providers.aws.shapes import change_tags, pairs, tags_of


class Secret(Resource):
    pulumi_type = "aws:secretsmanager/secret:Secret"
    handles = names(
        "description forceOverwriteReplicaSecret kmsKeyId name namePrefix policy recoveryWindowInDays region tags"
    )
    recorded = names("forceOverwriteReplicaSecret recoveryWindowInDays namePrefix")
    name = Name(limit=512)
    computed = names("name namePrefix policy replicas")
    defaults: ClassVar = {"forceOverwriteReplicaSecret": False, "recoveryWindowInDays": 30}

    @property
    def manager(self) -> Any:
        return self.client("secretsmanager")

    def create(self, inputs: dict[str, Any]) -> str:
        more = {"Description": inputs.get("description"), "KmsKeyId": inputs.get("kmsKeyId")}
        made = self.manager.create_secret(
            Name=inputs["name"],
            Tags=pairs(inputs.get("tagsAll") or {}),
            **{key: value for key, value in more.items() if value},
        )
        return str(made["ARN"])

    def after_create(self, inputs: dict[str, Any]) -> Collection[str]:
        return ["policy"] if inputs.get("policy") else []

    def settle(self, id_: str, inputs: dict[str, Any], changed: Collection[str]) -> None:
        if {"description", "kmsKeyId"} & set(changed):
            more = {"KmsKeyId": inputs["kmsKeyId"]} if inputs.get("kmsKeyId") else {}
            self.manager.update_secret(SecretId=id_, Description=inputs.get("description") or "", **more)
        if "policy" in changed:
            if inputs.get("policy"):
                self.manager.put_resource_policy(SecretId=id_, ResourcePolicy=inputs["policy"])
            else:
                self.manager.delete_resource_policy(SecretId=id_)

    def read(self, id_: str, known: dict[str, Any]) -> dict[str, Any] | None:
        found = self.manager.describe_secret(SecretId=id_)
        if found.get("DeletedDate"):
            return None
        return {
            "arn": found["ARN"],
            "description": found.get("Description"),
            "kmsKeyId": found.get("KmsKeyId"),
            "name": found["Name"],
            "policy": self.manager.get_resource_policy(SecretId=id_).get("ResourcePolicy"),
            "tagsAll": tags_of(found.get("Tags") or []),
        }

    def delete(self, id_: str, state: dict[str, Any]) -> None:
        window = state.get("recoveryWindowInDays", 30)
        how = {"RecoveryWindowInDays": int(window)} if window else {"ForceDeleteWithoutRecovery": True}
        with absent("InvalidRequestException"):  # it is scheduled for deletion already
            self.manager.delete_secret(SecretId=id_, **how)

    def tag(self, id_: str, add: dict[str, str], remove: list[str]) -> None:
        change_tags(self.manager.untag_resource, self.manager.tag_resource, pairs(add), remove, SecretId=id_)


class SecretVersion(Resource):
    pulumi_type = "aws:secretsmanager/secretVersion:SecretVersion"
    handles = names("secretId secretString secretBinary versionStages region")
    computed = names("versionStages")
    sets = names("versionStages")

    def create(self, inputs: dict[str, Any]) -> str:
        value: dict[str, Any] = {}
        if "secretBinary" in inputs:
            value["SecretBinary"] = base64.b64decode(inputs["secretBinary"])
        elif "secretString" in inputs:
            value["SecretString"] = inputs["secretString"]
        if inputs.get("versionStages"):
            value["VersionStages"] = inputs["versionStages"]
        made = self.client("secretsmanager").put_secret_value(SecretId=inputs["secretId"], **value)
        return f"{inputs['secretId']}|{made['VersionId']}"

    def settle(self, id_: str, inputs: dict[str, Any], changed: Collection[str]) -> None:
        if "versionStages" not in changed:
            return
        secret, _, version = id_.rpartition("|")
        there = self._stages(secret, version)
        for stage in set(inputs.get("versionStages") or ["AWSCURRENT"]) - set(there):
            holder = self._holder(secret, stage)
            self.client("secretsmanager").update_secret_version_stage(
                SecretId=secret, VersionStage=stage, MoveToVersionId=version,
                **({"RemoveFromVersionId": holder} if holder else {}),
            )  # fmt: skip
        for stage in set(there) - set(inputs.get("versionStages") or ["AWSCURRENT"]) - {"AWSCURRENT"}:
            self.client("secretsmanager").update_secret_version_stage(
                SecretId=secret, VersionStage=stage, RemoveFromVersionId=version
            )

    def _versions(self, secret: str) -> dict[str, list[str]]:
        found = self.client("secretsmanager").describe_secret(SecretId=secret)
        return {} if found.get("DeletedDate") else dict(found.get("VersionIdsToStages") or {})

    def _stages(self, secret: str, version: str) -> list[str]:
        return self._versions(secret).get(version, [])

    def _holder(self, secret: str, stage: str) -> str | None:
        return next((version for version, stages in self._versions(secret).items() if stage in stages), None)

    def read(self, id_: str, known: dict[str, Any]) -> dict[str, Any] | None:
        secret, _, version = id_.rpartition("|")
        stages = self._versions(secret).get(version)
        if not stages:
            return None  # a version without a stage is one that AWS may drop at any time
        found = self.client("secretsmanager").get_secret_value(SecretId=secret, VersionId=version)
        binary = found.get("SecretBinary")
        return {
            "arn": found["ARN"],
            "secretArn": found["ARN"],
            "secretId": secret,
            "secretString": found.get("SecretString"),
            "secretBinary": base64.b64encode(binary).decode() if binary else None,
            "versionId": version,
            "versionStages": stages,
        }

    def delete(self, id_: str, state: dict[str, Any]) -> None:
        secret, _, version = id_.rpartition("|")
        for stage in self._stages(secret, version):
            if stage != "AWSCURRENT":  # AWS keeps a current version for as long as there is a secret
                self.client("secretsmanager").update_secret_version_stage(
                    SecretId=secret, VersionStage=stage, RemoveFromVersionId=version
                )

"""What keeps secrets: KMS, Secrets Manager, and Systems Manager's parameters."""

# A kind's methods have one signature; few need all of it.
# ruff: noqa: ARG002

from __future__ import annotations

import base64
from collections.abc import Collection
from typing import Any, ClassVar

from modelworks.laptop.providers.aws.resource import Kind, Name, absent, names
from modelworks.laptop.providers.aws.shapes import pairs, tags_of


class Key(Kind):
    pulumi_type = "aws:kms/key:Key"
    handles = names(
        "customerMasterKeySpec deletionWindowInDays description enableKeyRotation isEnabled keyUsage multiRegion "
        "policy rotationPeriodInDays bypassPolicyLockoutSafetyCheck region tags"
    )
    recorded = names("deletionWindowInDays bypassPolicyLockoutSafetyCheck")
    computed = names("description multiRegion policy rotationPeriodInDays")
    defaults: ClassVar = {
        "customerMasterKeySpec": "SYMMETRIC_DEFAULT",
        "enableKeyRotation": False,
        "isEnabled": True,
        "keyUsage": "ENCRYPT_DECRYPT",
        "bypassPolicyLockoutSafetyCheck": False,
    }

    @property
    def kms(self) -> Any:
        return self.client("kms")

    def create(self, inputs: dict[str, Any]) -> str:
        more = {"Policy": inputs.get("policy"), "MultiRegion": inputs.get("multiRegion")}
        made = self.kms.create_key(
            Description=inputs.get("description") or "",
            KeyUsage=inputs.get("keyUsage", "ENCRYPT_DECRYPT"),
            KeySpec=inputs.get("customerMasterKeySpec", "SYMMETRIC_DEFAULT"),
            Tags=pairs(inputs.get("tagsAll") or {}, key="TagKey", value="TagValue"),
            **{key: value for key, value in more.items() if value is not None},
        )
        return str(made["KeyMetadata"]["KeyId"])

    def after_create(self, inputs: dict[str, Any]) -> Collection[str]:
        todo = ["enableKeyRotation"] if inputs.get("enableKeyRotation") else []
        return todo + (["isEnabled"] if inputs.get("isEnabled") is False else [])

    def settle(self, id_: str, inputs: dict[str, Any], changed: Collection[str]) -> None:
        if {"enableKeyRotation", "rotationPeriodInDays"} & set(changed):
            if inputs.get("enableKeyRotation"):
                period = inputs.get("rotationPeriodInDays")
                self.kms.enable_key_rotation(KeyId=id_, **({"RotationPeriodInDays": period} if period else {}))
            else:
                self.kms.disable_key_rotation(KeyId=id_)
        if "isEnabled" in changed:
            (self.kms.enable_key if inputs.get("isEnabled", True) else self.kms.disable_key)(KeyId=id_)
        if "description" in changed:
            self.kms.update_key_description(KeyId=id_, Description=inputs.get("description") or "")
        if "policy" in changed and inputs.get("policy"):
            self.kms.put_key_policy(KeyId=id_, PolicyName="default", Policy=inputs["policy"])

    def read(self, id_: str, known: dict[str, Any]) -> dict[str, Any] | None:
        key = self.kms.describe_key(KeyId=id_)["KeyMetadata"]
        if key["KeyState"] == "PendingDeletion":  # to its users it is gone, and only an operator can call it back
            return None
        rotation = self.kms.get_key_rotation_status(KeyId=id_)
        return {
            "arn": key["Arn"],
            "customerMasterKeySpec": key["KeySpec"],
            "description": key["Description"],
            "enableKeyRotation": rotation["KeyRotationEnabled"],
            "rotationPeriodInDays": rotation.get("RotationPeriodInDays"),
            "isEnabled": key["Enabled"],
            "keyId": key["KeyId"],
            "keyUsage": key["KeyUsage"],
            "multiRegion": key.get("MultiRegion", False),
            "policy": self.kms.get_key_policy(KeyId=id_, PolicyName="default")["Policy"],
            "tagsAll": tags_of(self.kms.list_resource_tags(KeyId=id_)["Tags"], key="TagKey", value="TagValue"),
        }

    def delete(self, id_: str, state: dict[str, Any]) -> None:
        window = int(state.get("deletionWindowInDays") or 30)
        with absent("KMSInvalidStateException"):  # it is scheduled already
            self.kms.schedule_key_deletion(KeyId=id_, PendingWindowInDays=window)

    def tag(self, id_: str, add: dict[str, str], remove: list[str]) -> None:
        if remove:
            self.kms.untag_resource(KeyId=id_, TagKeys=remove)
        if add:
            self.kms.tag_resource(KeyId=id_, Tags=pairs(add, key="TagKey", value="TagValue"))


class Alias(Kind):
    pulumi_type = "aws:kms/alias:Alias"
    handles = names("name namePrefix targetKeyId region")
    recorded = names("namePrefix")
    name = Name(limit=256, before="alias/")
    computed = names("name namePrefix")
    changing = names("targetKeyArn")

    def create(self, inputs: dict[str, Any]) -> str:
        self.client("kms").create_alias(AliasName=inputs["name"], TargetKeyId=inputs["targetKeyId"])
        return str(inputs["name"])

    def settle(self, id_: str, inputs: dict[str, Any], changed: Collection[str]) -> None:
        if "targetKeyId" in changed:
            self.client("kms").update_alias(AliasName=id_, TargetKeyId=inputs["targetKeyId"])

    def read(self, id_: str, known: dict[str, Any]) -> dict[str, Any] | None:
        kms = self.client("kms")
        for page in kms.get_paginator("list_aliases").paginate():
            for each in page["Aliases"]:
                if each["AliasName"] == id_ and each.get("TargetKeyId"):
                    key = each["TargetKeyId"].rpartition("/")[2]
                    arn = self.arn("kms", f"key/{key}")
                    said = known.get("targetKeyId")
                    target = said if said in (key, arn) else key
                    return {"name": id_, "arn": each["AliasArn"], "targetKeyId": target, "targetKeyArn": arn}
        return None

    def delete(self, id_: str, state: dict[str, Any]) -> None:
        self.client("kms").delete_alias(AliasName=id_)


class Secret(Kind):
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
        if remove:
            self.manager.untag_resource(SecretId=id_, TagKeys=remove)
        if add:
            self.manager.tag_resource(SecretId=id_, Tags=pairs(add))


class SecretVersion(Kind):
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


class Parameter(Kind):
    pulumi_type = "aws:ssm/parameter:Parameter"
    handles = names(
        "allowedPattern dataType description insecureValue keyId name overwrite region tags tier type value"
    )
    recorded = names("overwrite")
    name = Name(limit=2048)
    computed = names("dataType keyId name insecureValue value tier")
    changing = names("version")

    @property
    def ssm(self) -> Any:
        return self.client("ssm")

    def create(self, inputs: dict[str, Any]) -> str:
        self._put(inputs, overwrite=bool(inputs.get("overwrite")))
        return str(inputs["name"])

    def after_create(self, inputs: dict[str, Any]) -> Collection[str]:
        return ["tagsAll"] if inputs.get("tagsAll") else []

    def settle(self, id_: str, inputs: dict[str, Any], changed: Collection[str]) -> None:
        if list(changed) == ["tagsAll"] and inputs.get("tagsAll"):
            self.tag(id_, inputs["tagsAll"], [])
        elif set(changed) - {"tags", "tagsAll", "overwrite"}:
            self._put(inputs, overwrite=True)

    def _put(self, inputs: dict[str, Any], *, overwrite: bool) -> None:
        more = {
            "Description": inputs.get("description"),
            "AllowedPattern": inputs.get("allowedPattern"),
            "KeyId": inputs.get("keyId"),
            "Tier": inputs.get("tier"),
            "DataType": inputs.get("dataType"),
        }
        self.ssm.put_parameter(
            Name=inputs["name"],
            Value=inputs["value"] if "value" in inputs else inputs.get("insecureValue", ""),
            Type=inputs["type"],
            Overwrite=overwrite,
            **{key: value for key, value in more.items() if value},
        )

    def read(self, id_: str, known: dict[str, Any]) -> dict[str, Any] | None:
        found = self.ssm.get_parameter(Name=id_, WithDecryption=True)["Parameter"]
        query = [{"Key": "Name", "Option": "Equals", "Values": [id_]}]
        described = self.ssm.describe_parameters(ParameterFilters=query)["Parameters"][0]
        value = "insecureValue" if "insecureValue" in known else "value"
        return {
            "arn": found["ARN"],
            "allowedPattern": described.get("AllowedPattern"),
            "dataType": found.get("DataType"),
            "description": described.get("Description"),
            "keyId": described.get("KeyId"),
            "name": found["Name"],
            "tier": described.get("Tier"),
            "type": found["Type"],
            "version": found["Version"],
            "tagsAll": tags_of(self.ssm.list_tags_for_resource(ResourceType="Parameter", ResourceId=id_)["TagList"]),
            value: found["Value"],
        }

    def delete(self, id_: str, state: dict[str, Any]) -> None:
        self.ssm.delete_parameter(Name=id_)

    def tag(self, id_: str, add: dict[str, str], remove: list[str]) -> None:
        if remove:
            self.ssm.remove_tags_from_resource(ResourceType="Parameter", ResourceId=id_, TagKeys=remove)
        if add:
            self.ssm.add_tags_to_resource(ResourceType="Parameter", ResourceId=id_, Tags=pairs(add))

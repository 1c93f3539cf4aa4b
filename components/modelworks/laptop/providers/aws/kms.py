"""KMS keys and aliases."""

# A resource's methods have one signature; few need all of it.
# ruff: noqa: ARG002

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

from modelworks.laptop.providers.aws.resource import Name, Resource, absent, names
from modelworks.laptop.providers.aws.shapes import change_tags, pairs, tags_of


class Key(Resource):
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
        change_tags(
            self.kms.untag_resource,
            self.kms.tag_resource,
            pairs(add, key="TagKey", value="TagValue"),
            remove,
            KeyId=id_,
        )


class Alias(Resource):
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


class Grant(Resource):
    pulumi_type = "aws:kms/grant:Grant"
    handles = names("granteePrincipal keyId name operations region")
    computed = names("name")
    sets = names("operations")

    def create(self, inputs: dict[str, Any]) -> str:
        more = {"Name": inputs["name"]} if inputs.get("name") else {}
        made = self.client("kms").create_grant(
            KeyId=inputs["keyId"],
            GranteePrincipal=inputs["granteePrincipal"],
            Operations=inputs["operations"],
            **more,
        )
        return f"{inputs['keyId']}:{made['GrantId']}"

    def read(self, id_: str, known: dict[str, Any]) -> dict[str, Any] | None:
        key, _, grant = id_.rpartition(":")
        for found in self.client("kms").list_grants(KeyId=key)["Grants"]:
            if found["GrantId"] == grant:
                return {
                    "grantId": grant,
                    "grantToken": known.get("grantToken"),
                    "granteePrincipal": found["GranteePrincipal"],
                    "keyId": key,
                    "name": found.get("Name"),
                    "operations": found["Operations"],
                }
        return None

    def delete(self, id_: str, state: dict[str, Any]) -> None:
        key, _, grant = id_.rpartition(":")
        with absent("NotFoundException"):  # it went with its key
            self.client("kms").revoke_grant(KeyId=key, GrantId=grant)

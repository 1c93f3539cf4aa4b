"""Athena workgroups."""

# A resource's methods have one signature; few need all of it.
# ruff: noqa: ARG002

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from modelworks.laptop.providers.aws.resource import Name, Resource, names
from modelworks.laptop.providers.aws.shapes import pairs, tags_of


class Workgroup(Resource):
    pulumi_type = "aws:athena/workgroup:Workgroup"
    handles = names("configuration description forceDestroy name region tags")
    recorded = names("forceDestroy")
    name = Name(limit=128)
    computed = names("name")
    filled = names("engineVersion requesterPaysEnabled enableMinimumEncryptionConfiguration")
    defaults: ClassVar = {"forceDestroy": False, "configuration": {"enforceWorkgroupConfiguration": True}}

    def create(self, inputs: dict[str, Any]) -> str:
        more = {"Description": inputs["description"]} if inputs.get("description") else {}
        self.client("athena").create_work_group(
            Name=inputs["name"],
            Configuration=_configuration(inputs.get("configuration") or {}),
            Tags=pairs(inputs.get("tagsAll") or {}),
            **more,
        )
        return str(inputs["name"])

    def settle(self, id_: str, inputs: dict[str, Any], changed: Collection[str]) -> None:
        if {"configuration", "description"} & set(changed):
            # moto cannot update a workgroup: it is created again under its name.
            self.client("athena").delete_work_group(WorkGroup=id_, RecursiveDeleteOption=True)
            self.create({**inputs, "name": id_})

    def read(self, id_: str, known: dict[str, Any]) -> dict[str, Any] | None:
        athena = self.client("athena")
        # moto answers a missing workgroup with an empty body, which boto3 cannot read.
        if id_ not in {each["Name"] for each in athena.list_work_groups()["WorkGroups"]}:
            return None
        found = athena.get_work_group(WorkGroup=id_)["WorkGroup"]
        arn = self.arn("athena", f"workgroup/{id_}")
        return {
            "arn": arn,
            "configuration": _configuration_said(found["Configuration"]),
            "description": found.get("Description") or None,
            "name": id_,
            "tagsAll": tags_of(athena.list_tags_for_resource(ResourceARN=arn)["Tags"]),
        }

    def normal(self, key: str, value: Any) -> Any:
        if key == "configuration" and isinstance(value, dict):
            value = {"enforceWorkgroupConfiguration": True, "publishCloudwatchMetricsEnabled": True, **value}
        return super().normal(key, value)

    def delete(self, id_: str, state: dict[str, Any]) -> None:
        self.client("athena").delete_work_group(WorkGroup=id_, RecursiveDeleteOption=bool(state.get("forceDestroy")))

    def tag(self, id_: str, add: dict[str, str], remove: list[str]) -> None:
        arn, athena = self.arn("athena", f"workgroup/{id_}"), self.client("athena")
        if remove:
            athena.untag_resource(ResourceARN=arn, TagKeys=remove)
        if add:
            athena.tag_resource(ResourceARN=arn, Tags=pairs(add))


_RESULTS = (
    ("outputLocation", "OutputLocation"),
    ("expectedBucketOwner", "ExpectedBucketOwner"),
)


def _configuration(said: Mapping[str, Any]) -> dict[str, Any]:
    # The real provider's own defaults, which are not those of Athena.
    wanted: dict[str, Any] = {
        "EnforceWorkGroupConfiguration": said.get("enforceWorkgroupConfiguration", True),
        "PublishCloudWatchMetricsEnabled": said.get("publishCloudwatchMetricsEnabled", True),
        "RequesterPaysEnabled": said.get("requesterPaysEnabled", False),
    }
    if said.get("bytesScannedCutoffPerQuery"):
        wanted["BytesScannedCutoffPerQuery"] = said["bytesScannedCutoffPerQuery"]
    if result := said.get("resultConfiguration"):
        wanted["ResultConfiguration"] = _result(result)
    if engine := (said.get("engineVersion") or {}).get("selectedEngineVersion"):
        wanted["EngineVersion"] = {"SelectedEngineVersion": engine}
    return wanted


def _result(said: Mapping[str, Any]) -> dict[str, Any]:
    result = {theirs: said[ours] for ours, theirs in _RESULTS if said.get(ours)}
    if encryption := said.get("encryptionConfiguration"):
        key = {"KmsKey": encryption["kmsKeyArn"]} if encryption.get("kmsKeyArn") else {}
        result["EncryptionConfiguration"] = {"EncryptionOption": encryption["encryptionOption"], **key}
    if acl := said.get("aclConfiguration"):
        result["AclConfiguration"] = {"S3AclOption": acl["s3AclOption"]}
    return result


def _configuration_said(found: Mapping[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = {
        "bytesScannedCutoffPerQuery": found.get("BytesScannedCutoffPerQuery"),
        "enforceWorkgroupConfiguration": found.get("EnforceWorkGroupConfiguration"),
        "engineVersion": {
            "effectiveEngineVersion": found["EngineVersion"].get("EffectiveEngineVersion"),
            "selectedEngineVersion": found["EngineVersion"].get("SelectedEngineVersion"),
        },
        "publishCloudwatchMetricsEnabled": found.get("PublishCloudWatchMetricsEnabled"),
        "requesterPaysEnabled": found.get("RequesterPaysEnabled"),
        "resultConfiguration": _result_said(found.get("ResultConfiguration") or {}),
    }
    return {key: value for key, value in said.items() if value not in (None, {})}


def _result_said(found: Mapping[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = {ours: found[theirs] for ours, theirs in _RESULTS if found.get(theirs)}
    if encryption := found.get("EncryptionConfiguration"):
        key = {"kmsKeyArn": encryption["KmsKey"]} if encryption.get("KmsKey") else {}
        said["encryptionConfiguration"] = {"encryptionOption": encryption["EncryptionOption"], **key}
    if acl := found.get("AclConfiguration"):
        said["aclConfiguration"] = {"s3AclOption": acl["S3AclOption"]}
    return said

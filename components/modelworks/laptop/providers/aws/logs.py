"""CloudWatch log groups."""

# A resource's methods have one signature; few need all of it.
# ruff: noqa: ARG002

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

from modelworks.laptop.providers.aws.resource import Name, Resource, names


class LogGroup(Resource):
    pulumi_type = "aws:cloudwatch/logGroup:LogGroup"
    handles = names("kmsKeyId logGroupClass name namePrefix retentionInDays skipDestroy region tags")
    recorded = names("skipDestroy namePrefix")
    name = Name(limit=512)
    computed = names("name namePrefix logGroupClass")
    defaults: ClassVar = {"retentionInDays": 0, "skipDestroy": False}

    @property
    def logs(self) -> Any:
        return self.client("logs")

    def create(self, inputs: dict[str, Any]) -> str:
        more = {
            "kmsKeyId": inputs.get("kmsKeyId"),
            "logGroupClass": inputs.get("logGroupClass"),
            "tags": inputs.get("tagsAll"),
        }
        self.logs.create_log_group(logGroupName=inputs["name"], **{key: each for key, each in more.items() if each})
        return str(inputs["name"])

    def after_create(self, inputs: dict[str, Any]) -> Collection[str]:
        return ["retentionInDays"] if inputs.get("retentionInDays") else []

    def settle(self, id_: str, inputs: dict[str, Any], changed: Collection[str]) -> None:
        if "retentionInDays" in changed:
            if days := inputs.get("retentionInDays"):
                self.logs.put_retention_policy(logGroupName=id_, retentionInDays=days)
            else:
                self.logs.delete_retention_policy(logGroupName=id_)
        if "kmsKeyId" in changed:
            if inputs.get("kmsKeyId"):
                self.logs.associate_kms_key(logGroupName=id_, kmsKeyId=inputs["kmsKeyId"])
            else:
                self.logs.disassociate_kms_key(logGroupName=id_)

    def read(self, id_: str, known: dict[str, Any]) -> dict[str, Any] | None:
        groups = self.logs.describe_log_groups(logGroupNamePrefix=id_)["logGroups"]
        group = next((each for each in groups if each["logGroupName"] == id_), None)
        if group is None:
            return None
        arn = group["arn"].removesuffix(":*")
        return {
            "arn": arn,
            "kmsKeyId": group.get("kmsKeyId"),
            "logGroupClass": group.get("logGroupClass") or "STANDARD",
            "name": id_,
            "retentionInDays": group.get("retentionInDays") or 0,
            "tagsAll": self.logs.list_tags_for_resource(resourceArn=arn).get("tags") or {},
        }

    def delete(self, id_: str, state: dict[str, Any]) -> None:
        if not state.get("skipDestroy"):
            self.logs.delete_log_group(logGroupName=id_)

    def tag(self, id_: str, add: dict[str, str], remove: list[str]) -> None:
        arn = self.arn("logs", f"log-group:{id_}")
        if remove:
            self.logs.untag_resource(resourceArn=arn, tagKeys=remove)
        if add:
            self.logs.tag_resource(resourceArn=arn, tags=add)

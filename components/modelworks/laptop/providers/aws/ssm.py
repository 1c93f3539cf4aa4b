"""Systems Manager's parameters."""

# A resource's methods have one signature; few need all of it.
# ruff: noqa: ARG002

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from modelworks.laptop.providers.aws.resource import Name, Resource, names
from modelworks.laptop.providers.aws.shapes import change_tags, pairs, tags_of


class Parameter(Resource):
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
        change_tags(
            self.ssm.remove_tags_from_resource,
            self.ssm.add_tags_to_resource,
            pairs(add),
            remove,
            ResourceType="Parameter",
            ResourceId=id_,
        )

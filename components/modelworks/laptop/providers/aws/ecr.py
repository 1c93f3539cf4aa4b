"""Container repositories."""

# A resource's methods have one signature; few need all of it.
# ruff: noqa: ARG002

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

from modelworks.laptop.providers.aws.resource import Name, Resource, names
from modelworks.laptop.providers.aws.shapes import pairs, tags_of


class Repository(Resource):
    pulumi_type = "aws:ecr/repository:Repository"
    handles = names(
        "encryptionConfigurations forceDelete imageScanningConfiguration imageTagMutability name region tags"
    )
    recorded = names("forceDelete")
    name = Name(limit=256, lower=True)
    computed = names("encryptionConfigurations name")
    defaults: ClassVar = {
        "forceDelete": False,
        "imageTagMutability": "MUTABLE",
        "imageScanningConfiguration": {"scanOnPush": False},
    }

    def create(self, inputs: dict[str, Any]) -> str:
        scanning = (inputs.get("imageScanningConfiguration") or {}).get("scanOnPush", False)
        encryption = {
            name: value
            for each in inputs.get("encryptionConfigurations") or []
            for name, value in (("encryptionType", each.get("encryptionType")), ("kmsKey", each.get("kmsKey")))
            if value
        }
        self.client("ecr").create_repository(
            repositoryName=inputs["name"],
            imageTagMutability=inputs.get("imageTagMutability", "MUTABLE"),
            imageScanningConfiguration={"scanOnPush": scanning},
            tags=pairs(inputs.get("tagsAll") or {}),
            **({"encryptionConfiguration": encryption} if encryption else {}),
        )
        return str(inputs["name"])

    def settle(self, id_: str, inputs: dict[str, Any], changed: Collection[str]) -> None:
        if "imageTagMutability" in changed:
            mutability = inputs.get("imageTagMutability", "MUTABLE")
            self.client("ecr").put_image_tag_mutability(repositoryName=id_, imageTagMutability=mutability)
        if "imageScanningConfiguration" in changed:
            scanning = (inputs.get("imageScanningConfiguration") or {}).get("scanOnPush", False)
            self.client("ecr").put_image_scanning_configuration(
                repositoryName=id_, imageScanningConfiguration={"scanOnPush": scanning}
            )

    def read(self, id_: str, known: dict[str, Any]) -> dict[str, Any] | None:
        ecr = self.client("ecr")
        found = ecr.describe_repositories(repositoryNames=[id_])["repositories"][0]
        return {
            "arn": found["repositoryArn"],
            "encryptionConfigurations": [found["encryptionConfiguration"]],
            "imageScanningConfiguration": found.get("imageScanningConfiguration") or {"scanOnPush": False},
            "imageTagMutability": found.get("imageTagMutability"),
            "name": id_,
            "registryId": found["registryId"],
            "repositoryUrl": found["repositoryUri"],
            "tagsAll": tags_of(ecr.list_tags_for_resource(resourceArn=found["repositoryArn"])["tags"]),
        }

    def delete(self, id_: str, state: dict[str, Any]) -> None:
        self.client("ecr").delete_repository(repositoryName=id_, force=bool(state.get("forceDelete")))

    def tag(self, id_: str, add: dict[str, str], remove: list[str]) -> None:
        arn = self.arn("ecr", f"repository/{id_}")
        if remove:
            self.client("ecr").untag_resource(resourceArn=arn, tagKeys=remove)
        if add:
            self.client("ecr").tag_resource(resourceArn=arn, tags=pairs(add))

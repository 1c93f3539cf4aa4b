"""IAM: roles, policies, and who may take which role."""

# A kind's methods have one signature; few need all of it.
# ruff: noqa: ARG002

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, ClassVar
from urllib.parse import unquote

from modelworks.laptop.providers.aws.resource import Name, Resource, absent, names
from modelworks.laptop.providers.aws.shapes import change_tags, pairs, tags_of


class _Iam(Resource):
    regional = False

    @property
    def iam(self) -> Any:
        return self.client("iam")


def _text(document: Any) -> str:
    """boto3 gives some policy documents parsed, and others as encoded text."""
    return unquote(document) if isinstance(document, str) else json.dumps(document)


class Role(_Iam):
    pulumi_type = "aws:iam/role:Role"
    handles = names(
        "assumeRolePolicy description forceDetachPolicies managedPolicyArns inlinePolicies maxSessionDuration name "
        "namePrefix path permissionsBoundary tags"
    )
    recorded = names("forceDetachPolicies namePrefix")
    name = Name(limit=64)
    computed = names("name namePrefix inlinePolicies managedPolicyArns")
    sets = names("managedPolicyArns inlinePolicies")
    defaults: ClassVar = {"path": "/", "maxSessionDuration": 3600, "forceDetachPolicies": False}

    def create(self, inputs: dict[str, Any]) -> str:
        more = {
            "PermissionsBoundary": inputs.get("permissionsBoundary"),
            "Tags": pairs(inputs.get("tagsAll") or {}),
            "Description": inputs.get("description"),
        }
        self.iam.create_role(
            RoleName=inputs["name"],
            AssumeRolePolicyDocument=inputs["assumeRolePolicy"],
            Path=inputs.get("path", "/"),
            MaxSessionDuration=inputs.get("maxSessionDuration", 3600),
            **{key: value for key, value in more.items() if value},
        )
        return str(inputs["name"])

    def after_create(self, inputs: dict[str, Any]) -> Collection[str]:
        return [key for key in ("managedPolicyArns", "inlinePolicies") if inputs.get(key)]

    def settle(self, id_: str, inputs: dict[str, Any], changed: Collection[str]) -> None:
        if "assumeRolePolicy" in changed:
            self.iam.update_assume_role_policy(RoleName=id_, PolicyDocument=inputs["assumeRolePolicy"])
        if {"description", "maxSessionDuration"} & set(changed):
            self.iam.update_role(
                RoleName=id_,
                Description=inputs.get("description") or "",
                MaxSessionDuration=inputs.get("maxSessionDuration", 3600),
            )
        if "permissionsBoundary" in changed:
            if inputs.get("permissionsBoundary"):
                self.iam.put_role_permissions_boundary(RoleName=id_, PermissionsBoundary=inputs["permissionsBoundary"])
            else:
                self.iam.delete_role_permissions_boundary(RoleName=id_)
        if "managedPolicyArns" in changed:
            self._attach(id_, set(inputs.get("managedPolicyArns") or ()))
        if "inlinePolicies" in changed:
            self._inline(id_, {each["name"]: each["policy"] for each in inputs.get("inlinePolicies") or () if each})

    def _attach(self, role: str, wanted: set[str]) -> None:
        there = set(self._attached(role))
        for arn in there - wanted:
            self.iam.detach_role_policy(RoleName=role, PolicyArn=arn)
        for arn in sorted(wanted - there):
            self.iam.attach_role_policy(RoleName=role, PolicyArn=arn)

    def _attached(self, role: str) -> list[str]:
        pages = self.iam.get_paginator("list_attached_role_policies").paginate(RoleName=role)
        return [each["PolicyArn"] for page in pages for each in page["AttachedPolicies"]]

    def _inline(self, role: str, wanted: dict[str, str]) -> None:
        for name in self.iam.list_role_policies(RoleName=role)["PolicyNames"]:
            if name not in wanted:
                self.iam.delete_role_policy(RoleName=role, PolicyName=name)
        for name, policy in wanted.items():
            self.iam.put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=policy)

    def read(self, id_: str, known: dict[str, Any]) -> dict[str, Any] | None:
        role = self.iam.get_role(RoleName=id_)["Role"]
        state = {
            "arn": role["Arn"],
            "assumeRolePolicy": _text(role["AssumeRolePolicyDocument"]),
            "createDate": role["CreateDate"].isoformat(),
            "description": role.get("Description"),
            "maxSessionDuration": role.get("MaxSessionDuration", 3600),
            "name": role["RoleName"],
            "path": role["Path"],
            "permissionsBoundary": role.get("PermissionsBoundary", {}).get("PermissionsBoundaryArn"),
            "tagsAll": tags_of(role.get("Tags") or []),
            "uniqueId": role["RoleId"],
        }
        # Policies that other resources give the role are theirs; only what the role itself declares is compared.
        if known.get("managedPolicyArns"):
            state["managedPolicyArns"] = self._attached(id_)
        if known.get("inlinePolicies"):
            state["inlinePolicies"] = [
                {
                    "name": name,
                    "policy": _text(self.iam.get_role_policy(RoleName=id_, PolicyName=name)["PolicyDocument"]),
                }
                for name in self.iam.list_role_policies(RoleName=id_)["PolicyNames"]
            ]
        return state

    def normal(self, key: str, value: Any) -> Any:
        if key == "inlinePolicies" and isinstance(value, list):
            value = [{**each, "policy": json.loads(each["policy"])} if "policy" in each else each for each in value]
        return super().normal(key, value)

    def delete(self, id_: str, state: dict[str, Any]) -> None:
        if state.get("forceDetachPolicies") or state.get("managedPolicyArns"):
            self._attach(id_, set())
        if state.get("forceDetachPolicies") or state.get("inlinePolicies"):
            self._inline(id_, {})
        self.iam.delete_role(RoleName=id_)

    def tag(self, id_: str, add: dict[str, str], remove: list[str]) -> None:
        change_tags(self.iam.untag_role, self.iam.tag_role, pairs(add), remove, RoleName=id_)


class Policy(_Iam):
    pulumi_type = "aws:iam/policy:Policy"
    handles = names("description name namePrefix path policy tags")
    recorded = names("namePrefix")
    name = Name(limit=128)
    computed = names("name namePrefix")
    defaults: ClassVar = {"path": "/"}
    changing = names("attachmentCount")

    def create(self, inputs: dict[str, Any]) -> str:
        return str(
            self.iam.create_policy(
                PolicyName=inputs["name"],
                PolicyDocument=inputs["policy"],
                Path=inputs.get("path", "/"),
                Description=inputs.get("description") or "",
                Tags=pairs(inputs.get("tagsAll") or {}),
            )["Policy"]["Arn"]
        )

    def settle(self, id_: str, inputs: dict[str, Any], changed: Collection[str]) -> None:
        if "policy" not in changed:
            return
        versions = self.iam.list_policy_versions(PolicyArn=id_)["Versions"]
        if len(versions) >= 5:  # IAM keeps five; the oldest makes room
            oldest = min((each for each in versions if not each["IsDefaultVersion"]), key=lambda v: v["CreateDate"])
            self.iam.delete_policy_version(PolicyArn=id_, VersionId=oldest["VersionId"])
        self.iam.create_policy_version(PolicyArn=id_, PolicyDocument=inputs["policy"], SetAsDefault=True)

    def read(self, id_: str, known: dict[str, Any]) -> dict[str, Any] | None:
        policy = self.iam.get_policy(PolicyArn=id_)["Policy"]
        version = self.iam.get_policy_version(PolicyArn=id_, VersionId=policy["DefaultVersionId"])["PolicyVersion"]
        return {
            "arn": id_,
            "attachmentCount": policy["AttachmentCount"],
            "description": policy.get("Description"),
            "name": policy["PolicyName"],
            "path": policy["Path"],
            "policy": _text(version["Document"]),
            "policyId": policy["PolicyId"],
            "tagsAll": tags_of(policy.get("Tags") or []),
        }

    def delete(self, id_: str, state: dict[str, Any]) -> None:
        for version in self.iam.list_policy_versions(PolicyArn=id_)["Versions"]:
            if not version["IsDefaultVersion"]:
                self.iam.delete_policy_version(PolicyArn=id_, VersionId=version["VersionId"])
        self.iam.delete_policy(PolicyArn=id_)

    def tag(self, id_: str, add: dict[str, str], remove: list[str]) -> None:
        change_tags(self.iam.untag_policy, self.iam.tag_policy, pairs(add), remove, PolicyArn=id_)


class RolePolicy(_Iam):
    pulumi_type = "aws:iam/rolePolicy:RolePolicy"
    handles = names("name namePrefix policy role")
    recorded = names("namePrefix")
    name = Name(limit=128)
    computed = names("name namePrefix")

    def create(self, inputs: dict[str, Any]) -> str:
        self.iam.put_role_policy(RoleName=inputs["role"], PolicyName=inputs["name"], PolicyDocument=inputs["policy"])
        return f"{inputs['role']}:{inputs['name']}"

    def settle(self, id_: str, inputs: dict[str, Any], changed: Collection[str]) -> None:
        role, _, name = id_.partition(":")
        if "policy" in changed:
            self.iam.put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=inputs["policy"])

    def read(self, id_: str, known: dict[str, Any]) -> dict[str, Any] | None:
        role, _, name = id_.partition(":")
        found = self.iam.get_role_policy(RoleName=role, PolicyName=name)
        return {"name": name, "role": role, "policy": _text(found["PolicyDocument"])}

    def delete(self, id_: str, state: dict[str, Any]) -> None:
        role, _, name = id_.partition(":")
        self.iam.delete_role_policy(RoleName=role, PolicyName=name)


class RolePolicyAttachment(_Iam):
    pulumi_type = "aws:iam/rolePolicyAttachment:RolePolicyAttachment"
    handles = names("policyArn role")

    def create(self, inputs: dict[str, Any]) -> str:
        self.iam.attach_role_policy(RoleName=inputs["role"], PolicyArn=inputs["policyArn"])
        return f"{inputs['role']}/{inputs['policyArn']}"

    def read(self, id_: str, known: dict[str, Any]) -> dict[str, Any] | None:
        role, _, arn = id_.partition("/")
        pages = self.iam.get_paginator("list_attached_role_policies").paginate(RoleName=role)
        attached = {each["PolicyArn"] for page in pages for each in page["AttachedPolicies"]}
        return {"role": role, "policyArn": arn} if arn in attached else None

    def delete(self, id_: str, state: dict[str, Any]) -> None:
        role, _, arn = id_.partition("/")
        with absent("NoSuchEntity"):
            self.iam.detach_role_policy(RoleName=role, PolicyArn=arn)


class OpenIdConnectProvider(_Iam):
    pulumi_type = "aws:iam/openIdConnectProvider:OpenIdConnectProvider"
    handles = names("clientIdLists thumbprintLists url tags")
    computed = names("thumbprintLists")
    sets = names("clientIdLists")

    def create(self, inputs: dict[str, Any]) -> str:
        return str(
            self.iam.create_open_id_connect_provider(
                Url=inputs["url"],
                ClientIDList=inputs["clientIdLists"],
                ThumbprintList=inputs.get("thumbprintLists") or [],
                Tags=pairs(inputs.get("tagsAll") or {}),
            )["OpenIDConnectProviderArn"]
        )

    def settle(self, id_: str, inputs: dict[str, Any], changed: Collection[str]) -> None:
        iam = self.iam
        if "thumbprintLists" in changed and inputs.get("thumbprintLists"):
            iam.update_open_id_connect_provider_thumbprint(
                OpenIDConnectProviderArn=id_, ThumbprintList=inputs["thumbprintLists"]
            )
        if "clientIdLists" in changed:
            there = set(iam.get_open_id_connect_provider(OpenIDConnectProviderArn=id_)["ClientIDList"])
            for client in set(inputs["clientIdLists"]) - there:
                iam.add_client_id_to_open_id_connect_provider(OpenIDConnectProviderArn=id_, ClientID=client)
            for client in there - set(inputs["clientIdLists"]):
                iam.remove_client_id_from_open_id_connect_provider(OpenIDConnectProviderArn=id_, ClientID=client)

    def read(self, id_: str, known: dict[str, Any]) -> dict[str, Any] | None:
        found = self.iam.get_open_id_connect_provider(OpenIDConnectProviderArn=id_)
        return {
            "arn": id_,
            "clientIdLists": found["ClientIDList"],
            "thumbprintLists": found["ThumbprintList"],
            "url": found["Url"],
            "tagsAll": tags_of(found.get("Tags") or []),
        }

    def normal(self, key: str, value: Any) -> Any:
        # IAM answers the address without its scheme.
        return super().normal(key, value.removeprefix("https://") if key == "url" and isinstance(value, str) else value)

    def delete(self, id_: str, state: dict[str, Any]) -> None:
        self.iam.delete_open_id_connect_provider(OpenIDConnectProviderArn=id_)

    def tag(self, id_: str, add: dict[str, str], remove: list[str]) -> None:
        change_tags(
            self.iam.untag_open_id_connect_provider,
            self.iam.tag_open_id_connect_provider,
            pairs(add),
            remove,
            OpenIDConnectProviderArn=id_,
        )

"""Finds half-created resources by their properties, where their names do not determine their ids.

AWS gives a KMS key, a grant, a subscription, a secret and each of its versions an id of its own choice. A key is
recognised by its description and all of its tags, a grant by its key, grantee and operations. A subscription is
recognised by topic, protocol and endpoint, a secret by its name, a version by the stages that it holds. Resources that
the state contains are never candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

Search = Callable[[dict[str, Any], Collection[str]], "str | None"]
"""Given a pending resource and the ids in the state: its id, empty if it does not exist, None if that is unknown."""


def search_of(session: Any) -> Search:
    """A search in the account of a boto3 session. Where AWS does not answer, nobody knows."""

    def search(resource: dict[str, Any], known: Collection[str]) -> str | None:
        finder = _FINDERS.get(resource["type"])
        if finder is None:
            return None
        from botocore.exceptions import BotoCoreError, ClientError  # there is a session, so it is installed

        try:
            return finder(session.client, resource.get("inputs") or {}, known)
        except (BotoCoreError, ClientError):
            return None  # the caller says that it could not be looked up

    return search


def _key(client: Callable[[str], Any], inputs: dict[str, Any], known: Collection[str]) -> str | None:
    kms = client("kms")
    wanted = {"Description": inputs.get("description", ""), "KeyState": "Enabled"}
    tags = inputs.get("tagsAll") or inputs.get("tags") or {}
    if not tags:
        return None
    for page in kms.get_paginator("list_keys").paginate():
        for item in page["Keys"]:
            if item["KeyId"] in known:
                continue
            found = kms.describe_key(KeyId=item["KeyId"])["KeyMetadata"]
            if {name: found.get(name) for name in wanted} != wanted or found.get("KeyManager") == "AWS":
                continue
            theirs = {tag["TagKey"]: tag["TagValue"] for tag in kms.list_resource_tags(KeyId=item["KeyId"])["Tags"]}
            # Tags are set with the key, in one call: a key that lacks one is somebody else's.
            if theirs == tags:
                return str(item["KeyId"])
    return ""


def _grant(client: Callable[[str], Any], inputs: dict[str, Any], known: Collection[str]) -> str:
    key, operations = inputs["keyId"], set(inputs.get("operations") or ())
    for page in client("kms").get_paginator("list_grants").paginate(KeyId=key):
        for item in page["Grants"]:
            same = item["GranteePrincipal"] == inputs.get("granteePrincipal") and set(item["Operations"]) == operations
            if same and f"{key}:{item['GrantId']}" not in known:
                return f"{key}:{item['GrantId']}"
    return ""


def _subscription(client: Callable[[str], Any], inputs: dict[str, Any], known: Collection[str]) -> str:
    for page in client("sns").get_paginator("list_subscriptions_by_topic").paginate(TopicArn=inputs.get("topic", "")):
        for item in page["Subscriptions"]:
            same = item["Protocol"] == inputs.get("protocol") and item["Endpoint"] == inputs.get("endpoint")
            # Until its address confirms, a subscription has no ARN to be known by; asking again changes nothing then.
            if same and item["SubscriptionArn"].startswith("arn:") and item["SubscriptionArn"] not in known:
                return str(item["SubscriptionArn"])
    return ""


def _secret(client: Callable[[str], Any], inputs: dict[str, Any], known: Collection[str]) -> str:  # noqa: ARG001
    manager = client("secretsmanager")
    try:
        return str(manager.describe_secret(SecretId=inputs["name"])["ARN"])
    except manager.exceptions.ResourceNotFoundException:
        return ""


def _version(client: Callable[[str], Any], inputs: dict[str, Any], known: Collection[str]) -> str:
    secret, wanted = inputs["secretId"], set(inputs.get("versionStages") or ["AWSCURRENT"])
    versions = client("secretsmanager").describe_secret(SecretId=secret).get("VersionIdsToStages") or {}
    # The value is not compared, for only the engine knows it. If it is somebody else's, the next update replaces it,
    # which is what making another version would have done.
    for version, stages in versions.items():
        if wanted <= set(stages) and f"{secret}|{version}" not in known:
            return f"{secret}|{version}"
    return ""


_FINDERS: dict[str, Callable[[Callable[[str], Any], dict[str, Any], Collection[str]], str | None]] = {
    "aws:kms/grant:Grant": _grant,
    "aws:kms/key:Key": _key,
    "aws:secretsmanager/secret:Secret": _secret,
    "aws:secretsmanager/secretVersion:SecretVersion": _version,
    "aws:sns/topicSubscription:TopicSubscription": _subscription,
}

"""SNS topics, their policies and subscriptions."""

# A resource's methods have one signature; few need all of it.
# ruff: noqa: ARG002

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, ClassVar

from modelworks.laptop.providers.aws.attributes import Attributes
from modelworks.laptop.providers.aws.resource import Name, Resource, names
from modelworks.laptop.providers.aws.shapes import change_tags, pairs, pascal, tags_of


class Topic(Attributes):
    pulumi_type = "aws:sns/topic:Topic"
    attributes: ClassVar = {
        key: pascal(key)
        for key in (
            "contentBasedDeduplication", "deliveryPolicy", "displayName", "fifoTopic", "kmsMasterKeyId", "policy",
            "signatureVersion", "tracingConfig",
        )
    }  # fmt: skip
    handles = names("name namePrefix region tags") | attributes.keys()
    recorded = names("namePrefix signatureVersion tracingConfig")
    name = Name(limit=256, after=lambda inputs: ".fifo" if inputs.get("fifoTopic") is True else "")
    computed = names("name namePrefix policy signatureVersion tracingConfig")
    documents = names("deliveryPolicy")
    defaults: ClassVar = {"contentBasedDeduplication": False, "fifoTopic": False}

    def create(self, inputs: dict[str, Any]) -> str:
        given = {key for key in inputs if key in self.attributes}
        made = self.client("sns").create_topic(
            Name=inputs["name"],
            Attributes=self.wanted(inputs, given),
            Tags=pairs(inputs.get("tagsAll") or {}),
        )
        return str(made["TopicArn"])

    def settle(self, id_: str, inputs: dict[str, Any], changed: Collection[str]) -> None:
        for name, value in self.wanted(inputs, set(changed) - {"fifoTopic"}).items():
            self.client("sns").set_topic_attributes(TopicArn=id_, AttributeName=name, AttributeValue=value)

    def read(self, id_: str, known: dict[str, Any]) -> dict[str, Any] | None:
        sns = self.client("sns")
        attributes = sns.get_topic_attributes(TopicArn=id_)["Attributes"]
        return {
            **self.heard(attributes),
            "arn": id_,
            "name": id_.rpartition(":")[2],
            "owner": attributes["Owner"],
            "tagsAll": tags_of(sns.list_tags_for_resource(ResourceArn=id_)["Tags"]),
        }

    def delete(self, id_: str, state: dict[str, Any]) -> None:
        self.client("sns").delete_topic(TopicArn=id_)

    def tag(self, id_: str, add: dict[str, str], remove: list[str]) -> None:
        sns = self.client("sns")
        change_tags(sns.untag_resource, sns.tag_resource, pairs(add), remove, ResourceArn=id_)


class TopicPolicy(Resource):
    pulumi_type = "aws:sns/topicPolicy:TopicPolicy"
    handles = names("arn policy region")

    def _put(self, arn: str, policy: str) -> None:
        self.client("sns").set_topic_attributes(TopicArn=arn, AttributeName="Policy", AttributeValue=policy)

    def create(self, inputs: dict[str, Any]) -> str:
        self._put(inputs["arn"], inputs["policy"])
        return str(inputs["arn"])

    def settle(self, id_: str, inputs: dict[str, Any], changed: Collection[str]) -> None:
        if "policy" in changed:
            self._put(id_, inputs["policy"])

    def read(self, id_: str, known: dict[str, Any]) -> dict[str, Any] | None:
        attributes = self.client("sns").get_topic_attributes(TopicArn=id_)["Attributes"]
        if not attributes.get("Policy"):
            return None
        return {"arn": id_, "policy": attributes["Policy"], "owner": attributes["Owner"]}

    def delete(self, id_: str, state: dict[str, Any]) -> None:
        # A topic always has a policy: the one it was born with takes this one's place.
        owner = {"StringEquals": {"AWS:SourceOwner": state.get("owner") or self.account.id}}
        calls = ["GetTopicAttributes", "SetTopicAttributes", "AddPermission", "RemovePermission", "DeleteTopic",
                 "Subscribe", "ListSubscriptionsByTopic", "Publish"]  # fmt: skip
        statement = {
            "Sid": "__default_statement_ID",
            "Effect": "Allow",
            "Principal": {"AWS": "*"},
            "Action": [f"SNS:{call}" for call in calls],
            "Resource": id_,
            "Condition": owner,
        }
        born_with = {"Version": "2008-10-17", "Id": "__default_policy_ID", "Statement": [statement]}
        self._put(id_, json.dumps(born_with))


class TopicSubscription(Attributes):
    pulumi_type = "aws:sns/topicSubscription:TopicSubscription"
    attributes: ClassVar = {
        key: pascal(key)
        for key in (
            "deliveryPolicy", "filterPolicy", "filterPolicyScope", "rawMessageDelivery", "redrivePolicy",
            "subscriptionRoleArn",
        )
    }  # fmt: skip
    handles = names("endpoint endpointAutoConfirms confirmationTimeoutInMinutes protocol region topic") | (
        attributes.keys()
    )
    recorded = names("endpointAutoConfirms confirmationTimeoutInMinutes")
    computed = names("filterPolicyScope")
    documents = names("deliveryPolicy filterPolicy redrivePolicy")
    defaults: ClassVar = {
        "rawMessageDelivery": False,
        "endpointAutoConfirms": False,
        "confirmationTimeoutInMinutes": 1,
    }

    def create(self, inputs: dict[str, Any]) -> str:
        given = {key for key in inputs if key in self.attributes}
        made = self.client("sns").subscribe(
            TopicArn=inputs["topic"],
            Protocol=inputs["protocol"],
            Endpoint=inputs["endpoint"],
            Attributes=self.wanted(inputs, given),
            ReturnSubscriptionArn=True,
        )
        return str(made["SubscriptionArn"])

    def settle(self, id_: str, inputs: dict[str, Any], changed: Collection[str]) -> None:
        for name, value in self.wanted(inputs, changed).items():
            self.client("sns").set_subscription_attributes(
                SubscriptionArn=id_, AttributeName=name, AttributeValue=value
            )

    def read(self, id_: str, known: dict[str, Any]) -> dict[str, Any] | None:
        attributes = self.client("sns").get_subscription_attributes(SubscriptionArn=id_)["Attributes"]
        return {
            **self.heard(attributes),
            "arn": id_,
            "confirmationWasAuthenticated": attributes.get("ConfirmationWasAuthenticated") == "true",
            "endpoint": attributes["Endpoint"],
            "ownerId": attributes.get("Owner") or self.account.id,
            "pendingConfirmation": attributes.get("PendingConfirmation") == "true",
            "protocol": attributes["Protocol"],
            "topic": attributes["TopicArn"],
        }

    def delete(self, id_: str, state: dict[str, Any]) -> None:
        self.client("sns").unsubscribe(SubscriptionArn=id_)

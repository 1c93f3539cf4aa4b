"""SNS topics and SQS queues."""

# A kind's methods have one signature; few need all of it.
# ruff: noqa: ARG002

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from modelworks.laptop.providers.aws.resource import Kind, Name, names
from modelworks.laptop.providers.aws.shapes import pairs, pascal, tags_of


def _said(value: Any) -> str:
    """An attribute as SNS and SQS take it: always text."""
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def _heard(text: str | None, spec: Mapping[str, Any]) -> Any:
    """The opposite of `_said`, by the property's type."""
    if text is None or text == "":
        return None
    kind = spec.get("type")
    if kind == "boolean":
        return text.lower() == "true"
    return int(text) if kind == "integer" else text


class _Attributes(Kind):
    """Both services keep a thing's properties as attributes, most of them named after the property."""

    attributes: ClassVar[Mapping[str, str]]
    """Attribute of each property."""

    def wanted(self, inputs: Mapping[str, Any], keys: Collection[str]) -> dict[str, str]:
        """Attributes for those of `keys` that have a value, or lost it."""
        values = {key: inputs.get(key, self.defaults.get(key)) for key in keys if key in self.attributes}
        return {self.attributes[key]: "" if value is None else _said(value) for key, value in values.items()}

    def heard(self, attributes: Mapping[str, str]) -> dict[str, Any]:
        """Properties from attributes."""
        return {key: _heard(attributes.get(name), self.type.inputs[key]) for key, name in self.attributes.items()}


class Topic(_Attributes):
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
        if remove:
            self.client("sns").untag_resource(ResourceArn=id_, TagKeys=remove)
        if add:
            self.client("sns").tag_resource(ResourceArn=id_, Tags=pairs(add))


class TopicPolicy(Kind):
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


class TopicSubscription(_Attributes):
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


class Queue(_Attributes):
    pulumi_type = "aws:sqs/queue:Queue"
    attributes: ClassVar = {
        "contentBasedDeduplication": "ContentBasedDeduplication",
        "deduplicationScope": "DeduplicationScope",
        "delaySeconds": "DelaySeconds",
        "fifoQueue": "FifoQueue",
        "fifoThroughputLimit": "FifoThroughputLimit",
        "kmsDataKeyReusePeriodSeconds": "KmsDataKeyReusePeriodSeconds",
        "kmsMasterKeyId": "KmsMasterKeyId",
        "maxMessageSize": "MaximumMessageSize",
        "messageRetentionSeconds": "MessageRetentionPeriod",
        "policy": "Policy",
        "receiveWaitTimeSeconds": "ReceiveMessageWaitTimeSeconds",
        "redriveAllowPolicy": "RedriveAllowPolicy",
        "redrivePolicy": "RedrivePolicy",
        "sqsManagedSseEnabled": "SqsManagedSseEnabled",
        "visibilityTimeoutSeconds": "VisibilityTimeout",
    }
    handles = names("name namePrefix region tags") | attributes.keys()
    recorded = names("namePrefix")
    name = Name(limit=80, after=lambda inputs: ".fifo" if inputs.get("fifoQueue") is True else "")
    computed = names(
        "name namePrefix policy deduplicationScope fifoThroughputLimit kmsDataKeyReusePeriodSeconds redriveAllowPolicy "
        "redrivePolicy sqsManagedSseEnabled maxMessageSize"
    )
    documents = names("policy redrivePolicy redriveAllowPolicy")
    defaults: ClassVar = {
        "contentBasedDeduplication": False,
        "delaySeconds": 0,
        "fifoQueue": False,
        "messageRetentionSeconds": 345600,
        "receiveWaitTimeSeconds": 0,
        "visibilityTimeoutSeconds": 30,
    }

    @property
    def sqs(self) -> Any:
        return self.client("sqs")

    def create(self, inputs: dict[str, Any]) -> str:
        given = {key for key in inputs if key in self.attributes and (key != "fifoQueue" or inputs[key] is True)}
        # (SQS refuses `FifoQueue=false`.)
        made = self.sqs.create_queue(
            QueueName=inputs["name"], Attributes=self.wanted(inputs, given), tags=inputs.get("tagsAll") or {}
        )
        return str(made["QueueUrl"])

    def settle(self, id_: str, inputs: dict[str, Any], changed: Collection[str]) -> None:
        wanted = self.wanted(inputs, set(changed) - {"fifoQueue"})
        if wanted:
            self.sqs.set_queue_attributes(QueueUrl=id_, Attributes=wanted)

    def read(self, id_: str, known: dict[str, Any]) -> dict[str, Any] | None:
        attributes = self.sqs.get_queue_attributes(QueueUrl=id_, AttributeNames=["All"])["Attributes"]
        heard = self.heard(attributes)
        heard["fifoQueue"] = bool(heard["fifoQueue"])
        return {
            **heard,
            "arn": attributes["QueueArn"],
            "name": id_.rpartition("/")[2],
            "url": id_,
            "tagsAll": self.sqs.list_queue_tags(QueueUrl=id_).get("Tags") or {},
        }

    def delete(self, id_: str, state: dict[str, Any]) -> None:
        self.sqs.delete_queue(QueueUrl=id_)

    def tag(self, id_: str, add: dict[str, str], remove: list[str]) -> None:
        if remove:
            self.sqs.untag_queue(QueueUrl=id_, TagKeys=remove)
        if add:
            self.sqs.tag_queue(QueueUrl=id_, Tags=add)


class QueuePolicy(Kind):
    pulumi_type = "aws:sqs/queuePolicy:QueuePolicy"
    handles = names("policy queueUrl region")

    def _put(self, url: str, policy: str) -> None:
        self.client("sqs").set_queue_attributes(QueueUrl=url, Attributes={"Policy": policy})

    def create(self, inputs: dict[str, Any]) -> str:
        self._put(inputs["queueUrl"], inputs["policy"])
        return str(inputs["queueUrl"])

    def settle(self, id_: str, inputs: dict[str, Any], changed: Collection[str]) -> None:
        if "policy" in changed:
            self._put(id_, inputs["policy"])

    def read(self, id_: str, known: dict[str, Any]) -> dict[str, Any] | None:
        answer = self.client("sqs").get_queue_attributes(QueueUrl=id_, AttributeNames=["Policy"])
        policy = answer.get("Attributes", {}).get("Policy")
        return {"queueUrl": id_, "policy": policy} if policy else None

    def delete(self, id_: str, state: dict[str, Any]) -> None:
        self._put(id_, "")

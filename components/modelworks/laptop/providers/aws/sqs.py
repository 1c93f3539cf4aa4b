"""SQS queues and their policies."""

# A resource's methods have one signature; few need all of it.
# ruff: noqa: ARG002

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

from modelworks.laptop.providers.aws.attributes import Attributes
from modelworks.laptop.providers.aws.resource import Name, Resource, names
from modelworks.laptop.providers.aws.shapes import change_tags


class Queue(Attributes):
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
        change_tags(self.sqs.untag_queue, self.sqs.tag_queue, add, remove, QueueUrl=id_)


class QueuePolicy(Resource):
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

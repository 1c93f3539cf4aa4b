"""DynamoDB tables."""

# A resource's methods have one signature; few need all of it.
# ruff: noqa: ARG002

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

from modelworks.laptop.providers.aws.resource import Name, Resource, names
from modelworks.laptop.providers.aws.shapes import change_tags, pairs, tags_of


class Table(Resource):
    pulumi_type = "aws:dynamodb/table:Table"
    handles = names(
        "attributes billingMode deletionProtectionEnabled globalSecondaryIndexes hashKey localSecondaryIndexes name "
        "pointInTimeRecovery rangeKey readCapacity region serverSideEncryption streamEnabled streamViewType tableClass "
        "tags ttl writeCapacity"
    )
    recorded = names("tableClass")
    name = Name(limit=255)
    computed = names("name readCapacity writeCapacity streamViewType tableClass")
    sets = names("attributes globalSecondaryIndexes localSecondaryIndexes")
    filled = names("recoveryPeriodInDays readCapacity writeCapacity")
    defaults: ClassVar = {
        "billingMode": "PROVISIONED",
        "deletionProtectionEnabled": False,
        "streamEnabled": False,
        "ttl": {"enabled": False},
        "pointInTimeRecovery": {"enabled": False},
        "serverSideEncryption": {"enabled": False},
    }
    changing = names("streamArn streamLabel")

    @property
    def dynamodb(self) -> Any:
        return self.client("dynamodb")

    def create(self, inputs: dict[str, Any]) -> str:
        more: dict[str, Any] = {}
        billing = inputs.get("billingMode", "PROVISIONED")
        if billing == "PROVISIONED":
            more["ProvisionedThroughput"] = _throughput(inputs)
        if inputs.get("globalSecondaryIndexes"):
            more["GlobalSecondaryIndexes"] = [
                {**_index(each), **({"ProvisionedThroughput": _throughput(each)} if billing == "PROVISIONED" else {})}
                for each in inputs["globalSecondaryIndexes"]
            ]
        if inputs.get("localSecondaryIndexes"):
            hashed = inputs["hashKey"]
            more["LocalSecondaryIndexes"] = [
                _index({"hashKey": hashed, **each}) for each in inputs["localSecondaryIndexes"]
            ]
        if inputs.get("streamEnabled"):
            more["StreamSpecification"] = _stream(inputs)
        if encryption := inputs.get("serverSideEncryption"):
            more["SSESpecification"] = _encryption(encryption)
        self.dynamodb.create_table(
            TableName=inputs["name"],
            AttributeDefinitions=_attributes(inputs),
            KeySchema=_keys(inputs),
            BillingMode=billing,
            DeletionProtectionEnabled=inputs.get("deletionProtectionEnabled", False),
            Tags=pairs(inputs.get("tagsAll") or {}),
            **more,
        )
        return str(inputs["name"])

    def after_create(self, inputs: dict[str, Any]) -> Collection[str]:
        return [key for key in ("ttl", "pointInTimeRecovery") if (inputs.get(key) or {}).get("enabled")]

    def settle(self, id_: str, inputs: dict[str, Any], changed: Collection[str]) -> None:
        table = self.dynamodb
        if {"billingMode", "readCapacity", "writeCapacity"} & set(changed):
            billing = inputs.get("billingMode", "PROVISIONED")
            more = {"ProvisionedThroughput": _throughput(inputs)} if billing == "PROVISIONED" else {}
            table.update_table(TableName=id_, BillingMode=billing, **more)
        if "deletionProtectionEnabled" in changed:
            wanted = inputs.get("deletionProtectionEnabled", False)
            table.update_table(TableName=id_, DeletionProtectionEnabled=wanted)
        if {"streamEnabled", "streamViewType"} & set(changed):
            table.update_table(TableName=id_, StreamSpecification=_stream(inputs))
        if "serverSideEncryption" in changed:
            encryption = _encryption(inputs.get("serverSideEncryption") or {"enabled": False})
            table.update_table(TableName=id_, SSESpecification=encryption)
        if "globalSecondaryIndexes" in changed:
            self._reindex(id_, inputs)
        if "pointInTimeRecovery" in changed:
            wanted = (inputs.get("pointInTimeRecovery") or {}).get("enabled", False)
            table.update_continuous_backups(
                TableName=id_, PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": wanted}
            )
        if "ttl" in changed:
            self._expire(id_, inputs.get("ttl") or {})

    def _expire(self, table: str, wanted: dict[str, Any]) -> None:
        there = self.dynamodb.describe_time_to_live(TableName=table)["TimeToLiveDescription"]
        attribute = wanted.get("attributeName") or there.get("AttributeName")
        enabled = wanted.get("enabled", False)
        if attribute and (enabled or there.get("TimeToLiveStatus") == "ENABLED"):
            specification = {"Enabled": enabled, "AttributeName": attribute}
            self.dynamodb.update_time_to_live(TableName=table, TimeToLiveSpecification=specification)

    def _reindex(self, table: str, inputs: dict[str, Any]) -> None:
        """DynamoDB changes one index a call."""
        found = self.dynamodb.describe_table(TableName=table)["Table"].get("GlobalSecondaryIndexes") or []
        there = {each["IndexName"]: _index_said(each) for each in found}
        wanted = {each["name"]: each for each in inputs.get("globalSecondaryIndexes") or ()}
        provisioned = inputs.get("billingMode", "PROVISIONED") == "PROVISIONED"
        stale = [name for name in there if not self._same_index(there[name], wanted.get(name))]
        for name in stale:
            self.dynamodb.update_table(TableName=table, GlobalSecondaryIndexUpdates=[{"Delete": {"IndexName": name}}])
        for name, index in wanted.items():
            if name in there and name not in stale:
                continue
            new = {**_index(index), **({"ProvisionedThroughput": _throughput(index)} if provisioned else {})}
            self.dynamodb.update_table(
                TableName=table,
                AttributeDefinitions=_attributes(inputs),
                GlobalSecondaryIndexUpdates=[{"Create": new}],
            )

    def _same_index(self, one: dict[str, Any], other: dict[str, Any] | None) -> bool:
        return other is not None and self.same("globalSecondaryIndexes", [one], [other])

    def read(self, id_: str, known: dict[str, Any]) -> dict[str, Any] | None:
        found = self.dynamodb.describe_table(TableName=id_)["Table"]
        keys = {each["KeyType"]: each["AttributeName"] for each in found["KeySchema"]}
        billing = (found.get("BillingModeSummary") or {}).get("BillingMode") or "PROVISIONED"
        ttl = self.dynamodb.describe_time_to_live(TableName=id_)["TimeToLiveDescription"]
        backups = self.dynamodb.describe_continuous_backups(TableName=id_)["ContinuousBackupsDescription"]
        recovery = backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"] == "ENABLED"
        encryption = found.get("SSEDescription") or {}
        stream = found.get("StreamSpecification") or {}
        provisioned = found.get("ProvisionedThroughput") or {}
        expiring = ttl.get("TimeToLiveStatus") == "ENABLED"
        attributes = [
            {"name": each["AttributeName"], "type": each["AttributeType"]} for each in found["AttributeDefinitions"]
        ]
        return {
            "arn": found["TableArn"],
            "attributes": attributes,
            "billingMode": billing,
            "deletionProtectionEnabled": found.get("DeletionProtectionEnabled", False),
            "globalSecondaryIndexes": [_index_said(each) for each in found.get("GlobalSecondaryIndexes") or ()],
            "localSecondaryIndexes": [
                {key: value for key, value in _index_said(each).items() if key != "hashKey"}
                for each in found.get("LocalSecondaryIndexes") or ()
            ],
            "hashKey": keys["HASH"],
            "rangeKey": keys.get("RANGE"),
            "name": id_,
            "pointInTimeRecovery": {"enabled": recovery},
            "readCapacity": provisioned.get("ReadCapacityUnits") if billing == "PROVISIONED" else None,
            "writeCapacity": provisioned.get("WriteCapacityUnits") if billing == "PROVISIONED" else None,
            "serverSideEncryption": (
                {"enabled": True, "kmsKeyArn": encryption.get("KMSMasterKeyArn")}
                if encryption.get("Status") == "ENABLED"
                else {"enabled": False}
            ),
            "streamArn": found.get("LatestStreamArn"),
            "streamLabel": found.get("LatestStreamLabel"),
            "streamEnabled": stream.get("StreamEnabled", False),
            "streamViewType": stream.get("StreamViewType"),
            "ttl": {"enabled": expiring, "attributeName": ttl.get("AttributeName", "") if expiring else ""},
            "tagsAll": tags_of(self.dynamodb.list_tags_of_resource(ResourceArn=found["TableArn"])["Tags"]),
        }

    def normal(self, key: str, value: Any) -> Any:
        if key == "ttl" and isinstance(value, dict) and value.get("enabled") is False:
            value = {}  # DynamoDB forgets the attribute of an expiry that is off
        return super().normal(key, value)

    def delete(self, id_: str, state: dict[str, Any]) -> None:
        self.dynamodb.delete_table(TableName=id_)

    def tag(self, id_: str, add: dict[str, str], remove: list[str]) -> None:
        arn = self.arn("dynamodb", f"table/{id_}")
        change_tags(self.dynamodb.untag_resource, self.dynamodb.tag_resource, pairs(add), remove, ResourceArn=arn)


def _keys(said: dict[str, Any]) -> list[dict[str, str]]:
    chosen = (("HASH", said.get("hashKey")), ("RANGE", said.get("rangeKey")))
    return [{"AttributeName": name, "KeyType": kind} for kind, name in chosen if name]


def _attributes(inputs: dict[str, Any]) -> list[dict[str, str]]:
    return [{"AttributeName": each["name"], "AttributeType": each["type"]} for each in inputs.get("attributes") or ()]


def _throughput(said: dict[str, Any]) -> dict[str, int]:
    # What Terraform's provider sends where a provisioned table names no capacity.
    return {"ReadCapacityUnits": said.get("readCapacity") or 1, "WriteCapacityUnits": said.get("writeCapacity") or 1}


def _stream(inputs: dict[str, Any]) -> dict[str, Any]:
    enabled = inputs.get("streamEnabled", False)
    view = {"StreamViewType": inputs["streamViewType"]} if enabled and inputs.get("streamViewType") else {}
    return {"StreamEnabled": enabled, **view}


def _encryption(said: dict[str, Any]) -> dict[str, Any]:
    if not said.get("enabled"):
        return {"Enabled": False}
    return {
        "Enabled": True,
        "SSEType": "KMS",
        **({"KMSMasterKeyId": said["kmsKeyArn"]} if said.get("kmsKeyArn") else {}),
    }


def _index(said: dict[str, Any]) -> dict[str, Any]:
    projection = {"ProjectionType": said["projectionType"]}
    if said.get("nonKeyAttributes"):
        projection["NonKeyAttributes"] = said["nonKeyAttributes"]
    return {"IndexName": said["name"], "KeySchema": _keys(said), "Projection": projection}


def _index_said(index: dict[str, Any]) -> dict[str, Any]:
    keys = {each["KeyType"]: each["AttributeName"] for each in index["KeySchema"]}
    said = {
        "name": index["IndexName"],
        "hashKey": keys.get("HASH"),
        "rangeKey": keys.get("RANGE"),
        "projectionType": index["Projection"]["ProjectionType"],
        "nonKeyAttributes": index["Projection"].get("NonKeyAttributes"),
    }
    return {key: value for key, value in said.items() if value}

"""The Glue catalog: databases and tables."""

# A resource's methods have one signature; few need all of it.
# ruff: noqa: ARG002

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from modelworks.laptop.providers.aws.resource import Name, Resource, absent, names


class CatalogDatabase(Resource):
    pulumi_type = "aws:glue/catalogDatabase:CatalogDatabase"
    handles = names("catalogId description locationUri name parameters region tags")
    name = Name(limit=255, lower=True)
    computed = names("catalogId name")

    def create(self, inputs: dict[str, Any]) -> str:
        catalog = inputs.get("catalogId") or self.account.id
        self.client("glue").create_database(
            CatalogId=catalog, DatabaseInput=_database(inputs), Tags=inputs.get("tagsAll") or {}
        )
        return f"{catalog}:{inputs['name']}"

    def settle(self, id_: str, inputs: dict[str, Any], changed: Collection[str]) -> None:
        if {"description", "locationUri", "parameters"} & set(changed):
            catalog, name = id_.split(":")
            self.client("glue").update_database(
                CatalogId=catalog, Name=name, DatabaseInput=_database({**inputs, "name": name})
            )

    def read(self, id_: str, known: dict[str, Any]) -> dict[str, Any] | None:
        catalog, name = id_.split(":")
        with absent("EntityNotFoundException") as gone:
            found = self.client("glue").get_database(CatalogId=catalog, Name=name)["Database"]
        if gone:
            return None
        arn = self.arn("glue", f"database/{name}")
        return {
            "arn": arn,
            "catalogId": catalog,
            "description": found.get("Description"),
            "locationUri": found.get("LocationUri"),
            "name": name,
            "parameters": found.get("Parameters"),
            "tagsAll": self.client("glue").get_tags(ResourceArn=arn).get("Tags") or {},
        }

    def delete(self, id_: str, state: dict[str, Any]) -> None:
        catalog, name = id_.split(":")
        with absent("EntityNotFoundException"):
            self.client("glue").delete_database(CatalogId=catalog, Name=name)

    def tag(self, id_: str, add: dict[str, str], remove: list[str]) -> None:
        arn = self.arn("glue", f"database/{id_.split(':')[1]}")
        if remove:
            self.client("glue").untag_resource(ResourceArn=arn, TagsToRemove=remove)
        if add:
            self.client("glue").tag_resource(ResourceArn=arn, TagsToAdd=add)


class CatalogTable(Resource):
    pulumi_type = "aws:glue/catalogTable:CatalogTable"
    handles = names(
        "catalogId databaseName description name owner parameters partitionKeys region retention storageDescriptor "
        "tableType"
    )
    name = Name(limit=255, lower=True)
    computed = names("catalogId name")
    defaults: ClassVar = {"retention": 0}

    def create(self, inputs: dict[str, Any]) -> str:
        catalog, database = inputs.get("catalogId") or self.account.id, inputs["databaseName"]
        self.client("glue").create_table(CatalogId=catalog, DatabaseName=database, TableInput=_table(inputs))
        return f"{catalog}:{database}:{inputs['name']}"

    def settle(self, id_: str, inputs: dict[str, Any], changed: Collection[str]) -> None:
        if set(changed) & self.handles - {"catalogId", "databaseName", "name", "region"}:
            catalog, database, name = id_.split(":")
            self.client("glue").update_table(
                CatalogId=catalog, DatabaseName=database, TableInput=_table({**inputs, "name": name})
            )

    def read(self, id_: str, known: dict[str, Any]) -> dict[str, Any] | None:
        catalog, database, name = id_.split(":")
        with absent("EntityNotFoundException") as gone:
            found = self.client("glue").get_table(CatalogId=catalog, DatabaseName=database, Name=name)["Table"]
        if gone:
            return None
        return {
            "arn": self.arn("glue", f"table/{database}/{name}"),
            "catalogId": catalog,
            "databaseName": database,
            "description": found.get("Description"),
            "name": name,
            "owner": found.get("Owner"),
            "parameters": found.get("Parameters"),
            "partitionKeys": [_said(each, _COLUMN) for each in found.get("PartitionKeys") or ()],
            "retention": found.get("Retention") or 0,
            "storageDescriptor": _storage_said(found["StorageDescriptor"]) if found.get("StorageDescriptor") else None,
            "tableType": found.get("TableType"),
        }

    def delete(self, id_: str, state: dict[str, Any]) -> None:
        catalog, database, name = id_.split(":")
        with absent("EntityNotFoundException"):
            self.client("glue").delete_table(CatalogId=catalog, DatabaseName=database, Name=name)


# Glue's names by Pulumi's. The keys of `Parameters` are the user's own, and so no object is renamed as a whole.
_COLUMN = {"name": "Name", "type": "Type", "comment": "Comment", "parameters": "Parameters"}
_SERIALIZATION = {"name": "Name", "serializationLibrary": "SerializationLibrary", "parameters": "Parameters"}
_STORAGE = {
    "additionalLocations": "AdditionalLocations",
    "bucketColumns": "BucketColumns",
    "compressed": "Compressed",
    "inputFormat": "InputFormat",
    "location": "Location",
    "numberOfBuckets": "NumberOfBuckets",
    "outputFormat": "OutputFormat",
    "parameters": "Parameters",
    "storedAsSubDirectories": "StoredAsSubDirectories",
}
_TABLE = {
    "description": "Description",
    "name": "Name",
    "owner": "Owner",
    "parameters": "Parameters",
    "retention": "Retention",
    "tableType": "TableType",
}


def _wanted(said: Mapping[str, Any], by_name: Mapping[str, str]) -> dict[str, Any]:
    return {theirs: said[ours] for ours, theirs in by_name.items() if said.get(ours) is not None}


def _said(found: Mapping[str, Any], by_name: Mapping[str, str]) -> dict[str, Any]:
    return {ours: found[theirs] for ours, theirs in by_name.items() if found.get(theirs) is not None}


def _database(inputs: Mapping[str, Any]) -> dict[str, Any]:
    by_name = {"name": "Name", "description": "Description", "locationUri": "LocationUri", "parameters": "Parameters"}
    return _wanted(inputs, by_name)


def _table(inputs: Mapping[str, Any]) -> dict[str, Any]:
    table = _wanted(inputs, _TABLE)
    if inputs.get("partitionKeys"):
        table["PartitionKeys"] = [_wanted(each, _COLUMN) for each in inputs["partitionKeys"]]
    if storage := inputs.get("storageDescriptor"):
        table["StorageDescriptor"] = _storage(storage)
    return table


def _storage(said: Mapping[str, Any]) -> dict[str, Any]:
    storage = _wanted(said, _STORAGE)
    if said.get("columns"):
        storage["Columns"] = [_wanted(each, _COLUMN) for each in said["columns"]]
    if said.get("serDeInfo"):
        storage["SerdeInfo"] = _wanted(said["serDeInfo"], _SERIALIZATION)
    return storage


def _storage_said(found: Mapping[str, Any]) -> dict[str, Any]:
    storage = _said(found, _STORAGE)
    if found.get("Columns"):
        storage["columns"] = [_said(each, _COLUMN) for each in found["Columns"]]
    if found.get("SerdeInfo"):
        storage["serDeInfo"] = _said(found["SerdeInfo"], _SERIALIZATION)
    return storage

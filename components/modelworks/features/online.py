"""A Feast online store on DynamoDB: `online_store: {type: modelworks.features.online.DynamoDBOnlineStore}`.

Tables have the names and keys of Feast's own DynamoDB store, and may exist before a view is applied: an owner such as
Pulumi creates them. All views of one request are read together, an expired value is not read, and an older value never
replaces a newer one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from feast import Entity, FeatureView, utils
from feast.infra.online_stores.helpers import compute_entity_id, compute_versioned_name
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel, RepoConfig

from modelworks.errors import ModelworksError
from modelworks.feature_items import Item, Key, UnprocessedKeysError, live_values, read_items

Row = tuple[datetime | None, dict[str, Value] | None]
Written = tuple[EntityKey, dict[str, Value], datetime, datetime | None]

_OWNER = {"Key": "modelworks:created-by", "Value": "feast-apply"}
_MARK = "modelworks:materialized"  # the id of an entity is hexadecimal, and so never this
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OFFSET = 10**18  # microseconds: makes the order of every datetime positive, so that it sorts as text


class DynamoDBOnlineStoreConfig(FeastConfigBaseModel):
    """`online_store` of feature_store.yaml."""

    type: Literal["modelworks.features.online.DynamoDBOnlineStore"] = "modelworks.features.online.DynamoDBOnlineStore"

    region: str | None = None
    """The AWS region. Default: that of the environment."""

    endpoint_url: str | None = None
    """Where DynamoDB is. Default: as the AWS variables of the environment state."""

    table_name_template: str = "{project}.{table_name}"
    """The name of a view's table."""

    create_tables: bool = True
    """Whether `apply` creates a missing table. False: it fails, because another owner such as Pulumi declares them."""

    consistent_reads: bool = False
    """Whether a read sees every write that ended before it, at twice the price."""

    attempts: int = 4
    """How often one request is sent at most, throttled and failed ones included."""

    timeout_seconds: float = 2
    """How long one attempt waits for a connection, and for an answer."""

    fallback: Literal["error", "missing"] = "error"
    """The result of a read that failed at every attempt: an error, or features without a value."""

    write_threads: int = 8
    """How many writes are under way at the same time."""


@dataclass(frozen=True)
class _Read:
    """The part of a request that one view answers."""

    view: FeatureView
    table: str
    features: list[str]
    ids: list[str]
    places: tuple[list[int], ...]
    length: int


@dataclass(frozen=True)
class Mark:
    """How far a view was materialized, as its table holds it."""

    until: datetime | None
    """Up to and including this event time, its values were written; None if none ever was, or nobody knows."""

    run: str | None
    """A run that began and did not end: it is still at work, or it was interrupted."""

    definition: str | None
    """Digest of the view as it was defined then: what was written by another lacks what is new in it."""

    writing: str | None
    """Digest of the view as that run has it; empty if the table may hold rows of another definition besides."""

    def has_rows_of_another(self, definition: str) -> bool:
        """Whether the table may hold rows that another definition wrote."""
        return self.definition not in {None, definition} or (self.run is not None and self.writing != definition)


class DynamoDBOnlineStore(OnlineStore):
    """Reads and writes features in DynamoDB tables, one a view.

    A table also holds one item that belongs to no entity: how far the view was materialized.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        """How often a read was `repeated`, a read `failed` for good, a write was `older`, and a row was `present`
        already."""
        self._connections: dict[int, Any] = {}

    def online_write_batch(
        self, config: RepoConfig, table: FeatureView, data: list[Written], progress: Callable[[int], Any] | None
    ) -> None:
        """Write each entity's newest row, unless the table holds a newer one."""
        self._write(config, table, _newest_items(config, table, data))
        if progress:
            progress(len(data))

    def write_missing(self, config: RepoConfig, view: FeatureView, data: list[Written]) -> None:
        """Write each entity's newest row, unless the table holds it already, or a newer one.

        It reads before it writes, which costs less than a write: for what an interrupted run wrote in part.
        """
        name, items = _table_name(config, view), _newest_items(config, view, data)
        keys = [(name, item["entity_id"]["S"]) for item in items]
        stored = self._read(config, keys)
        missing = [
            item
            for key, item in zip(keys, items, strict=True)
            if stored.get(key, {}).get("version", {"S": ""})["S"] < item["version"]["S"]
        ]
        self.counts += Counter(present=len(items) - len(missing))
        self._write(config, view, missing)

    def _write(self, config: RepoConfig, view: FeatureView, items: list[dict[str, Any]]) -> None:
        client, name = self._client(config), _table_name(config, view)

        def is_older(item: dict[str, Any]) -> bool:
            try:
                client.put_item(
                    TableName=name,
                    Item=item,
                    ConditionExpression="attribute_not_exists(#version) OR #version <= :version",
                    ExpressionAttributeNames={"#version": "version"},
                    ExpressionAttributeValues={":version": item["version"]},
                )
            except client.exceptions.ConditionalCheckFailedException:
                return True
            return False

        with ThreadPoolExecutor(config.online_store.write_threads) as pool:
            self.counts += Counter(older=sum(pool.map(is_older, items)))

    def delete(self, config: RepoConfig, view: FeatureView, ids: Sequence[str]) -> int:
        """Delete the values of entities; returns how many were there."""
        client, name = self._client(config), _table_name(config, view)
        deleted = (
            client.delete_item(TableName=name, Key={"entity_id": {"S": each}}, ReturnValues="ALL_OLD") for each in ids
        )
        return sum("Attributes" in each for each in deleted)

    def mark(self, config: RepoConfig, view: FeatureView) -> Mark:
        """How far a view was materialized."""
        key = {"entity_id": {"S": _MARK}}
        found = self._client(config).get_item(TableName=_table_name(config, view), Key=key, ConsistentRead=True)
        item = found.get("Item") or {}
        until = item.get("until")
        return Mark(
            until=datetime.fromisoformat(until["S"]) if until else None,
            run=item.get("run", {}).get("S"),
            definition=item.get("definition", {}).get("S"),
            writing=item.get("writing", {}).get("S"),
        )

    def begin(self, config: RepoConfig, view: FeatureView, run: str, definition: str) -> Mark:
        """Note that a run writes a view, as it is defined now, from now on; returns the mark of before."""
        before = self.mark(config, view)
        writing = "" if before.has_rows_of_another(definition) else definition
        self._update_mark(
            config, view, "SET #run = :run, #writing = :writing",
            {"#run": "run", "#writing": "writing"}, {":run": run, ":writing": writing},
        )  # fmt: skip
        return before

    def finish(self, config: RepoConfig, view: FeatureView, run: str, until: datetime | None, definition: str) -> None:
        """Note that a run is over, and that a view is materialized until `until`, unless it is further already."""
        if until:
            text = until.astimezone(UTC).isoformat(timespec="microseconds")  # one form, so that it sorts as text
            self._update_mark(
                config, view, "SET #until = :until, #definition = :definition",
                {"#until": "until", "#definition": "definition"}, {":until": text, ":definition": definition},
                condition="attribute_not_exists(#until) OR #until < :until",
            )  # fmt: skip
        # Another run that began meanwhile is not over.
        self._update_mark(config, view, "REMOVE #run", {"#run": "run"}, {":run": run}, condition="#run = :run")

    def _update_mark(
        self,
        config: RepoConfig,
        view: FeatureView,
        update: str,
        names: dict[str, str],
        values: dict[str, str],
        *,
        condition: str | None = None,
    ) -> None:
        client = self._client(config)
        try:
            client.update_item(
                TableName=_table_name(config, view),
                Key={"entity_id": {"S": _MARK}},
                UpdateExpression=update,
                ExpressionAttributeNames=names,
                ExpressionAttributeValues={name: {"S": value} for name, value in values.items()},
                **({"ConditionExpression": condition} if condition else {}),
            )
        except client.exceptions.ConditionalCheckFailedException:
            return  # it holds already what was to be reached, or more

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[Row]:
        """The row of each key, or nothing where none is stored or it is older than the view's TTL."""
        name, ids = _table_name(config, table), _entity_ids(config, entity_keys)
        items = self._items(config, ((name, each) for each in ids))
        return [_row(items.get((name, each)), table.ttl, requested_features, _now()) for each in ids]

    def _read_features_per_fv(
        self,
        config: RepoConfig,
        grouped_refs: list[tuple[FeatureView, list[str]]],
        join_key_values: dict[str, Any],
        entity_name_to_join_key_map: dict[str, str],
        online_features_response: Any,
        full_feature_names: bool,
        include_feature_view_version_metadata: bool,
    ) -> None:
        """Read all views of a request at once, where Feast reads one after the other."""
        reads = []
        for view, features in grouped_refs:
            values, places, length = utils._get_unique_entities(view, join_key_values, entity_name_to_join_key_map)  # noqa: SLF001 - as the method that this one overrides
            ids = _entity_ids(config, utils._get_entity_key_protos(values))  # noqa: SLF001
            reads.append(_Read(view, _table_name(config, view), features, ids, places, length))
        items = self._items(config, ((read.table, each) for read in reads for each in read.ids))
        now = _now()
        for read in reads:
            rows = [_row(items.get((read.table, each)), read.view.ttl, read.features, now) for each in read.ids]
            utils._populate_response_from_feature_data(  # noqa: SLF001
                read.features,
                rows,
                read.places,
                online_features_response,
                full_feature_names,
                read.view,
                read.length,
                include_feature_view_version_metadata,
            )

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],  # noqa: ARG002 - Feast's interface
        entities_to_keep: Sequence[Entity],  # noqa: ARG002
        partial: bool,  # noqa: ARG002
    ) -> None:
        """Create the tables that are missing. A table that exists stays as its owner declared it."""
        client = self._client(config)
        for view in tables_to_keep:
            name = _table_name(config, view)
            if not _exists(client, name):
                if not config.online_store.create_tables:
                    raise ModelworksError(
                        f"feature view {view.name!r} has no table {name}, and this store creates none",
                        fix="Commit models/features.json with the view, and bring up the environment.",
                    )
                _create(client, name)
        self.teardown(config, tables_to_delete, [])

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:  # noqa: ARG002
        """Delete the tables that `update` created. Others belong to whoever declared them."""
        client = self._client(config)
        for view in tables:
            name = _table_name(config, view)
            if _exists(client, name) and _is_ours(client, name):
                client.delete_table(TableName=name)

    def _client(self, config: RepoConfig) -> Any:
        """The client of all that is no read."""
        return self._connected(config, config.online_store.attempts)

    def _reader(self, config: RepoConfig) -> Any:
        """The client of reads, which `read_items` repeats."""
        return self._connected(config, 1)

    def _connected(self, config: RepoConfig, attempts: int) -> Any:
        if attempts not in self._connections:
            settings = config.online_store
            self._connections[attempts] = boto3.client(
                "dynamodb",
                region_name=settings.region,
                endpoint_url=settings.endpoint_url,
                config=Config(
                    connect_timeout=settings.timeout_seconds,
                    read_timeout=settings.timeout_seconds,
                    max_pool_connections=max(10, settings.write_threads),
                    retries={"mode": "standard", "total_max_attempts": attempts},
                ),
            )
        return self._connections[attempts]

    def _items(self, config: RepoConfig, keys: Iterable[Key]) -> Mapping[Key, Item]:
        """The stored items by table and entity id; none if reading failed and the fallback allows it."""
        try:
            return self._read(config, keys)
        except (BotoCoreError, ClientError, UnprocessedKeysError) as error:
            self.counts["failed"] += 1
            if config.online_store.fallback == "error":
                raise ModelworksError(f"online features cannot be read: {error}") from error
            return {}

    def _read(self, config: RepoConfig, keys: Iterable[Key]) -> dict[Key, Item]:
        settings = config.online_store

        def again() -> None:
            self.counts["repeated"] += 1

        return read_items(
            self._reader(config), keys, attempts=settings.attempts, consistent=settings.consistent_reads, again=again
        )


def _newest_items(config: RepoConfig, view: FeatureView, data: list[Written]) -> list[dict[str, Any]]:
    """An item for each entity of `data`: of several rows the newest, of equal ones the last."""
    newest: dict[str, dict[str, Any]] = {}
    for key, features, event, created in data:
        item = _item(_entity_ids(config, [key])[0], features, event, created, view.ttl)
        before = newest.get(item["entity_id"]["S"])
        if before is None or before["version"]["S"] <= item["version"]["S"]:
            newest[item["entity_id"]["S"]] = item
    return list(newest.values())


def _item(
    entity: str, features: dict[str, Value], event: datetime, created: datetime | None, ttl: timedelta | None
) -> dict[str, Any]:
    event = utils.make_tzaware(event)
    item = {
        "entity_id": {"S": entity},
        "event_ts": {"S": str(event)},
        "values": {"M": {name: {"B": value.SerializeToString()} for name, value in features.items()}},
        # Text that sorts as the times do: events first, then creations, an unknown one before all.
        "version": {"S": f"{_order(event):019d}.{0 if created is None else _order(created):019d}"},
    }
    if ttl:
        expiry = event + ttl - _EPOCH
        item["expires_at"] = {"N": str(-(-expiry // timedelta(seconds=1)))}
    return item


def _order(moment: datetime) -> int:
    return (utils.make_tzaware(moment) - _EPOCH) // timedelta(microseconds=1) + _OFFSET


def _row(item: Item | None, ttl: timedelta | None, features: list[str] | None, now: datetime) -> Row:
    live = live_values(item, ttl, now)
    if live is None:
        return None, None
    event, stored = live
    names = stored if features is None else [name for name in features if name in stored]
    return event, {name: Value.FromString(stored[name]) for name in names}


def _now() -> datetime:
    return datetime.now(UTC)


def _table_name(config: RepoConfig, view: FeatureView) -> str:
    name = compute_versioned_name(view, config.registry.enable_online_feature_view_versioning)
    return str(config.online_store.table_name_template.format(project=config.project, table_name=name))


def _entity_ids(config: RepoConfig, keys: Iterable[EntityKey]) -> list[str]:
    return [compute_entity_id(key, config.entity_key_serialization_version) for key in keys]


def _exists(client: Any, name: str) -> bool:
    try:
        client.describe_table(TableName=name)
    except client.exceptions.ResourceNotFoundException:
        return False
    return True


def _create(client: Any, name: str) -> None:
    client.create_table(
        TableName=name,
        KeySchema=[{"AttributeName": "entity_id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "entity_id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
        Tags=[_OWNER],
    )
    client.get_waiter("table_exists").wait(TableName=name)
    client.update_time_to_live(TableName=name, TimeToLiveSpecification={"Enabled": True, "AttributeName": "expires_at"})


def _is_ours(client: Any, name: str) -> bool:
    arn = client.describe_table(TableName=name)["Table"]["TableArn"]
    return _OWNER in client.list_tags_of_resource(ResourceArn=arn)["Tags"]

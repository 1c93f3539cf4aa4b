"""Stored features of the rows of a request, read from DynamoDB: one request for all views and rows of it.

Feast's values are read without Feast, by the code that its store of modelworks uses too (`feature_items`).
"""

from __future__ import annotations

import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from modelworks import contract
from modelworks.errors import ModelworksError
from modelworks.feature_items import (
    NO_ENTITY,
    Item,
    Key,
    UnprocessedKeysError,
    decode,
    entity_id,
    live_values,
    read_items,
)
from modelworks.runtime.manifest import Manifest, StoredView
from modelworks.runtime.stored import Read

if TYPE_CHECKING:
    from modelworks.runtime.encoding import Row

READS_AT_ONCE = 32
"""Requests that are read at the same time."""
_ATTEMPTS = 3
"""How often a read is sent at most, throttled and failed ones included."""
_TIMEOUT_SECONDS = 0.5
"""How long one attempt waits for a connection, and for an answer: DynamoDB takes a few milliseconds."""
_CACHED_ITEMS = 50_000
"""Items that the fallback `cached` remembers."""
_NEVER = frozenset({"AccessDeniedException", "ResourceNotFoundException", "ValidationException"})
"""Errors of the settings: no retry helps."""


class UnreadableError(ModelworksError):
    """The features of a request cannot be read, and its service has no fallback for that."""


class OnlineFeatures:
    """Reads the stored features of a model. Any number of threads may use one.

    Args:
        manifest: Of a model with stored features.
        tables: Name of the DynamoDB table of each of its views.

    Raises:
        ModelworksError: A view has no table.
    """

    def __init__(self, manifest: Manifest, tables: Mapping[str, str]) -> None:
        from botocore.exceptions import BotoCoreError, ClientError  # only models with stored features pay for it

        if manifest.stored is None:  # pragma: no cover - the caller looks
            raise ModelworksError(f"{manifest.model} reads no features")
        self._stored = manifest.stored
        if missing := [view.name for view in self._stored.views if view.name not in tables]:
            raise ModelworksError(
                f"{manifest.model} reads the feature view {', '.join(missing)}, and {contract.ENV_FEATURE_TABLES} "
                "names no table of it",
                fix=f"Name the feature service {self._stored.service!r} in the endpoint's setting feature_services, or "
                "the views' tables in its argument feature_tables, and run `modelworks up`.",
            )
        place = {feature.name: number for number, feature in enumerate(manifest.request_features)}
        self._views = [_View(view, tables[view.name], place) for view in self._stored.views]
        self._client = _client()
        self._errors = (BotoCoreError, ClientError, UnprocessedKeysError)
        self._cache: OrderedDict[Key, Item | None] = OrderedDict()
        self._cache_lock = threading.Lock()

    def read(self, requests: Sequence[Row]) -> tuple[Read, bool]:
        """The stored features of the rows of a request, and whether the fallback replaced the store.

        Raises:
            UnreadableError: They cannot be read, and the fallback is `error`.
        """
        keys = [[view.key(row) for view in self._views] for row in requests]
        wanted = list(dict.fromkeys(key for row in keys for key in row if key))
        failed = False
        try:
            items: Mapping[Key, Item] = read_items(self._client, wanted, attempts=_ATTEMPTS) if wanted else {}
        except self._errors as error:
            if self._stored.fallback == "error":
                raise UnreadableError(f"features cannot be read: {error}") from error
            failed, items = True, self._remembered(wanted)
        else:
            if self._stored.fallback == "cached":
                self._remember(wanted, items)
        now = datetime.now(UTC)
        found = [
            [view.values(items.get(key) if key else None, now) for view, key in zip(self._views, row, strict=True)]
            for row in keys
        ]
        values = [tuple(itertools.chain.from_iterable(values for values, _ in row)) for row in found]
        return Read(values, [tuple(time for _, time in row) for row in found], now.timestamp()), failed

    def check(self, request: Row) -> str:
        """Read one row, so that a mistake in the settings shows before anything is served.

        Returns:
            Why the store does not answer just now; empty if it does.

        Raises:
            ModelworksError: A table does not exist, or may not be read.
        """
        wanted = [key for view in self._views if (key := view.key(request))]
        try:
            read_items(self._client, wanted, attempts=_ATTEMPTS)
        except self._errors as error:
            if getattr(error, "response", {}).get("Error", {}).get("Code") in _NEVER:
                raise ModelworksError(
                    f"the tables {', '.join(sorted({view.table for view in self._views}))} cannot be read: {error}",
                    fix="The endpoint's setting feature_services, or its argument feature_tables, must name what the "
                    "model reads: its role may read nothing else. Then run `modelworks up`.",
                ) from error
            return str(error)
        return ""

    def _remember(self, wanted: Sequence[Key], items: Mapping[Key, Item]) -> None:
        with self._cache_lock:
            for key in wanted:
                self._cache[key] = items.get(key)
                self._cache.move_to_end(key)
            while len(self._cache) > _CACHED_ITEMS:
                self._cache.popitem(last=False)

    def _remembered(self, wanted: Sequence[Key]) -> dict[Key, Item]:
        return {key: item for key in wanted if (item := self._cache.get(key))}


class _View:
    """How one view is read."""

    def __init__(self, view: StoredView, table: str, place: Mapping[str, int]) -> None:
        self.table = table
        self._names = list(view.features)
        self._ttl = timedelta(seconds=view.ttl_seconds) if view.ttl_seconds else None
        self._keys = [(name, kind, place[name]) for name, kind in view.keys.items()]
        self._everybody = None if view.keys else (table, entity_id(NO_ENTITY))

    def key(self, request: Row) -> Key | None:
        """The key of a row's entity; None if a part of it is missing, which matches nothing."""
        if self._everybody:
            return self._everybody
        keys = {name: (kind, request[position]) for name, kind, position in self._keys}
        if any(value is None or not _fits(kind, value) for kind, value in keys.values()):
            return None
        return self.table, entity_id(keys)

    def values(self, item: Item | None, now: datetime) -> tuple[tuple[Any, ...], float | None]:
        """The features in an item, and their event time."""
        live = live_values(item, self._ttl, now)
        if live is None:
            return (None,) * len(self._names), None
        event, stored = live
        return tuple(_value(stored.get(name)) for name in self._names), event.timestamp()


def _fits(kind: str, value: Any) -> bool:
    return kind != "Int32" or -(1 << 31) <= value < 1 << 31


def _value(encoded: bytes | None) -> Any:
    try:
        return None if encoded is None else decode(encoded)
    except ValueError:
        return None  # of another type than the definition has: as missing as one outside of its limits


def read_tables(text: str | None) -> dict[str, str]:
    """The tables that `MODELWORKS_FEATURE_TABLES` names.

    Raises:
        ModelworksError: It is no JSON object of texts.
    """
    try:
        return msgspec.json.decode(text or "{}", type=dict[str, str])
    except msgspec.DecodeError as error:
        raise ModelworksError(
            f'{contract.ENV_FEATURE_TABLES} must be a JSON object such as {{"weather": "flights.weather"}}: {error}'
        ) from error


def _client() -> Any:
    import botocore.session
    from botocore.config import Config

    options = Config(
        connect_timeout=_TIMEOUT_SECONDS,
        read_timeout=_TIMEOUT_SECONDS,
        max_pool_connections=READS_AT_ONCE,
        retries={"total_max_attempts": 1},  # `read_items` repeats
    )
    return botocore.session.get_session().create_client("dynamodb", config=options)


def from_environment(manifest: Manifest) -> OnlineFeatures | None:
    """The reader that the process's variables describe; None for a model without stored features."""
    return (
        OnlineFeatures(manifest, read_tables(os.environ.get(contract.ENV_FEATURE_TABLES))) if manifest.stored else None
    )

"""Feast's online values in DynamoDB: one request for all views and rows.

They are read without Feast, by the code that its store of modelworks uses too (`feature_items`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

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
from modelworks.runtime.manifest import Stored, StoredView
from modelworks.runtime.online_engine import ATTEMPTS, READS_AT_ONCE, TIMEOUT_SECONDS, View

if TYPE_CHECKING:
    from modelworks.runtime.encoding import Row

_NEVER = frozenset({"AccessDeniedException", "ResourceNotFoundException", "ValidationException"})
"""Errors of the settings: no retry helps."""


class FeatureTables:
    """The tables of a feature service.

    Args:
        model: Who reads.
        stored: The features of the model.
        tables: Name of the DynamoDB table of each view.
        place: Position of each value in the row of a request.

    Raises:
        ModelworksError: A view has no table.
    """

    def __init__(self, model: str, stored: Stored, tables: Mapping[str, str], place: Mapping[str, int]) -> None:
        from botocore.exceptions import BotoCoreError, ClientError  # only models with stored features pay for it

        if missing := [view.name for view in stored.views if view.name not in tables]:
            raise ModelworksError(
                f"{model} reads the feature view {', '.join(missing)}, and {contract.ENV_FEATURE_TABLES} "
                "names no table of it",
                fix=f"Name the feature service {stored.service!r} in the endpoint's setting feature_services, or "
                "the views' tables in its argument feature_tables, and run `modelworks up`.",
            )
        self.views: Sequence[View] = [_Table(view, tables[view.name], place) for view in stored.views]
        self._tables = sorted({tables[view.name] for view in stored.views})
        self.errors: tuple[type[Exception], ...] = (BotoCoreError, ClientError, UnprocessedKeysError)
        self._client = _client()

    def read(self, keys: Sequence[Key]) -> Mapping[Key, Item]:
        """The items of these keys."""
        return read_items(self._client, keys, attempts=ATTEMPTS)

    def mistake(self, error: Exception) -> ModelworksError | None:
        """The error of a table that is not there, or may not be read."""
        answer = getattr(error, "response", None) or {}  # None where nothing was answered
        if answer.get("Error", {}).get("Code") not in _NEVER:
            return None
        return ModelworksError(
            f"the tables {', '.join(self._tables)} cannot be read: {error}",
            fix="The endpoint's setting feature_services, or its argument feature_tables, must name what the "
            "model reads: its role may read nothing else. Then run `modelworks up`.",
        )


class _Table(View):
    """How one view is read."""

    def __init__(self, view: StoredView, table: str, place: Mapping[str, int]) -> None:
        super().__init__(view, place)
        self.table = table
        self._everybody = None if view.keys else (table, entity_id(NO_ENTITY))

    def key(self, request: Row) -> Key | None:
        if self._everybody:
            return self._everybody
        entity = self.entity(request)
        return None if entity is None else (self.table, entity_id(entity))

    def values(self, item: Item | None, now: datetime) -> tuple[tuple[Any, ...], float | None]:
        live = live_values(item, self.ttl, now)
        if live is None:
            return (None,) * len(self.features), None
        event, stored = live
        return tuple(_value(stored.get(name)) for name in self.features), event.timestamp()


def _value(encoded: bytes | None) -> Any:
    try:
        return None if encoded is None else decode(encoded)
    except ValueError:
        return None  # of another type than the definition has: as missing as one outside of its limits


def _client() -> Any:
    import botocore.session
    from botocore.config import Config

    options = Config(
        connect_timeout=TIMEOUT_SECONDS,
        read_timeout=TIMEOUT_SECONDS,
        max_pool_connections=READS_AT_ONCE,
        retries={"total_max_attempts": 1},  # `read_items` repeats
    )
    return botocore.session.get_session().create_client("dynamodb", config=options)

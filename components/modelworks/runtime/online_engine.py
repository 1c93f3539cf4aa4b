"""The interface of an engine of online features, its place, and how a row becomes a key.

An engine is given keys and returns values with their times. The rules for failures, missing values and values of the
wrong type are written once, above the engines: in `modelworks.runtime.online` and `modelworks.runtime.stored`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from modelworks import contract
from modelworks.errors import ModelworksError
from modelworks.feature_items import Key
from modelworks.runtime.manifest import StoredView

if TYPE_CHECKING:
    from modelworks.runtime.encoding import Row

READS_AT_ONCE = 32
"""Requests that are read at the same time."""
ATTEMPTS = 3
"""How often a read is sent at most, throttled and failed ones included."""
TIMEOUT_SECONDS = 0.5
"""How long one attempt waits for a connection, and for an answer: DynamoDB takes a few milliseconds."""


class Place(NamedTuple):
    """Where features are read, as the variables of a pod state it."""

    tables: Mapping[str, str] = {}
    """Name of the DynamoDB table of each view: Feast's."""
    url: str = ""
    """Address of the vendor's online API."""
    key_secret: str = ""
    """ARN of the secret that holds the vendor's API key."""


class View:
    """How the values of one view are requested and found.

    Args:
        view: Its definition.
        place: Position of each value in the row of a request, by its name.
    """

    def __init__(self, view: StoredView, place: Mapping[str, int]) -> None:
        self.name = view.name
        self.features = dict(view.features)
        self.ttl = timedelta(seconds=view.ttl_seconds) if view.ttl_seconds else None
        self._keys = [(name, kind, place[name]) for name, kind in view.keys.items()]

    def entity(self, request: Row) -> dict[str, tuple[str, Any]] | None:
        """Type and value of each key of a row; None if a part of it is missing, which matches nothing."""
        keys = {name: (kind, request[position]) for name, kind, position in self._keys}
        return None if any(value is None or not _fits(kind, value) for kind, value in keys.values()) else keys

    def key(self, request: Row) -> Key | None:
        """The key of a row's entity; None for one that matches nothing."""
        raise NotImplementedError

    def values(self, item: Any, now: datetime) -> tuple[tuple[Any, ...], float | None]:
        """The features in what was read for a key, None for nothing; and their event time."""
        raise NotImplementedError


class Engine(Protocol):
    """Reads values by their keys. Any number of threads may use one."""

    views: Sequence[View]
    errors: tuple[type[Exception], ...]
    """Of a read that failed for good."""

    def read(self, keys: Sequence[Key]) -> Mapping[Key, Any]:
        """The stored values of these keys. It raises one of `errors` after `ATTEMPTS` attempts."""

    def mistake(self, error: Exception) -> ModelworksError | None:
        """The error as one of the settings; None for one that passes by itself."""


def _fits(kind: str, value: Any) -> bool:
    return kind != "Int32" or -(1 << 31) <= value < 1 << 31


def read_place(environ: Mapping[str, str] = os.environ) -> Place:
    """The place that a process's variables describe.

    Raises:
        ModelworksError: One is not what it should be.
    """
    return Place(
        tables=read_tables(environ.get(contract.ENV_FEATURE_TABLES)),
        url=environ.get(contract.ENV_FEATURE_URL, "").rstrip("/"),
        key_secret=environ.get(contract.ENV_FEATURE_KEY_SECRET, ""),
    )


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

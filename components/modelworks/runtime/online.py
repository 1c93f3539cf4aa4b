"""Stored features of the rows of a request, read from the engine of their feature service.

The rules that hold for every engine are here: a read that failed for good is answered by the service's fallback, and
values that were read are remembered where the fallback is `cached`.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from modelworks.errors import ModelworksError
from modelworks.feature_items import Key
from modelworks.runtime.feature_tables import FeatureTables
from modelworks.runtime.feature_vectors import FeatureVectors
from modelworks.runtime.manifest import Manifest, Stored
from modelworks.runtime.online_engine import Engine, Place, read_place
from modelworks.runtime.stored import Read

if TYPE_CHECKING:
    from modelworks.runtime.encoding import Row

_CACHED_ITEMS = 50_000
"""Items that the fallback `cached` remembers."""


class UnreadableError(ModelworksError):
    """The features of a request cannot be read, and its service has no fallback for that."""


class OnlineFeatures:
    """Reads the stored features of a model. Any number of threads may use one.

    Args:
        manifest: Of a model with stored features.
        where: Where they are read.

    Raises:
        ModelworksError: `where` lacks what the engine needs.
    """

    def __init__(self, manifest: Manifest, where: Place) -> None:
        if manifest.stored is None:  # pragma: no cover - the caller looks
            raise ModelworksError(f"{manifest.model} reads no features")
        self._stored = manifest.stored
        self._engine = _engine(manifest, manifest.stored, where)
        self._views = self._engine.views
        self._cache: OrderedDict[Key, Any] = OrderedDict()
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
            items: Mapping[Key, Any] = self._engine.read(wanted) if wanted else {}
        except self._engine.errors as error:
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
            ModelworksError: The features do not exist, or may not be read.
        """
        wanted = list(dict.fromkeys(key for view in self._views if (key := view.key(request))))
        try:
            self._engine.read(wanted)
        except self._engine.errors as error:
            if mistake := self._engine.mistake(error):
                raise mistake from error
            return str(error)
        return ""

    def _remember(self, wanted: Sequence[Key], items: Mapping[Key, Any]) -> None:
        with self._cache_lock:
            for key in wanted:
                self._cache[key] = items.get(key)
                self._cache.move_to_end(key)
            while len(self._cache) > _CACHED_ITEMS:
                self._cache.popitem(last=False)

    def _remembered(self, wanted: Sequence[Key]) -> dict[Key, Any]:
        return {key: item for key in wanted if (item := self._cache.get(key))}


def _engine(manifest: Manifest, stored: Stored, where: Place) -> Engine:
    place = {feature.name: number for number, feature in enumerate(manifest.request_features)}
    if stored.engine == "feast":
        return FeatureTables(manifest.model, stored, where.tables, place)
    return FeatureVectors(manifest.model, stored, where, place)


def from_environment(manifest: Manifest) -> OnlineFeatures | None:
    """The reader that the process's variables describe; None for a model without stored features."""
    return OnlineFeatures(manifest, read_place()) if manifest.stored else None

"""Requests whose stored features are being read: in threads, so that the event loop answers others meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from modelworks.runtime.manifest import Manifest
from modelworks.runtime.online import OnlineFeatures
from modelworks.runtime.online_engine import READS_AT_ONCE, Place
from modelworks.runtime.schema import Rows
from modelworks.runtime.server.logs import line
from modelworks.runtime.stored import Inputs

if TYPE_CHECKING:
    from modelworks.runtime.encoding import Row
    from modelworks.runtime.server.logs import Scribe

_MOST_WAITING = 4 * READS_AT_ONCE
"""Requests that may be read or wait for it. With DynamoDB's few milliseconds the last of them waits for some twenty."""


class ReadRows(NamedTuple):
    """Rows of the model, complete."""

    rows: list[Row]
    logged: list[Row]
    """The same, each with what the prediction log keeps besides."""
    failed: bool
    """Whether the fallback replaced the feature store."""


class FeatureReads:
    """Completes the rows of requests.

    Args:
        manifest: Of a model with stored features.
        online: Reads them.
    """

    def __init__(self, manifest: Manifest, online: OnlineFeatures) -> None:
        self._inputs, self._online = Inputs(manifest), online
        self._pool = ThreadPoolExecutor(READS_AT_ONCE, thread_name_prefix="features")
        self.waiting = 0
        """Requests that are being read, or wait for it."""

    def begin(self, requests: list[Row], done: Callable[[ReadRows | Exception], None]) -> bool:
        """Read the features of a request, and call `done` from the event loop. False if too many are at it."""
        if self.waiting >= _MOST_WAITING:
            return False
        self.waiting += 1

        def settle(future: asyncio.Future[ReadRows | Exception]) -> None:
            self.waiting -= 1
            done(future.result())

        loop = asyncio.get_running_loop()
        loop.run_in_executor(self._pool, self._read, requests).add_done_callback(settle)
        return True

    def _read(self, requests: list[Row]) -> ReadRows | Exception:
        try:
            read, failed = self._online.read(requests)
            values, uncomputed = self._inputs.compute(requests, read.values)
            rows = self._inputs.complete(requests, values)
            return ReadRows(rows, self._inputs.logged(requests, rows, read), failed or uncomputed)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer to one request, not our end
            return error


def feature_reads_of(manifest: Manifest, where: Place, scribe: Scribe) -> FeatureReads | None:
    """The reader of a model's stored features; None for a model without.

    Raises:
        ModelworksError: The features are nowhere, or may not be read.
    """
    if manifest.stored is None:
        return None
    online = OnlineFeatures(manifest, where)
    [example] = Rows(manifest).decode(msgspec.json.encode(manifest.examples[0]))
    if trouble := online.check(example):
        scribe.add(line("warning", "the feature store does not answer yet", error=trouble))
    return FeatureReads(manifest, online)

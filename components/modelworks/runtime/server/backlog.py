"""Counters on their way to CloudWatch, in a file that outlives the publisher."""

from __future__ import annotations

from array import array
from pathlib import Path

import msgspec

from modelworks._files import write_whole
from modelworks.runtime.server.metrics import REQUESTS, Layout

KEPT = 360
"""Most snapshots that wait: an hour at ten seconds each. Then half of them go, and the intervals become longer."""


class Snapshot(msgspec.Struct, frozen=True, array_like=True):
    """The counters at a time."""

    at: float
    """Seconds since the epoch."""
    row: bytes

    def numbers(self) -> array[float]:
        """The counters."""
        return array("d", self.row)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Snapshot]).decode


class Backlog:
    """Snapshots of the counters: the first is what CloudWatch has, those after it wait.

    Published is the difference of two neighbours. So a snapshot may be left out, and nothing is lost but when
    within the longer interval it was counted.

    Args:
        path: Where they are kept.
        layout: Of the counters.
    """

    def __init__(self, path: Path, layout: Layout) -> None:
        self._path, self._layout = path, layout
        self._snapshots = self._read() or [Snapshot(0.0, layout.empty().tobytes())]

    @property
    def published(self) -> Snapshot:
        """The snapshot that CloudWatch has."""
        return self._snapshots[0]

    @property
    def newest(self) -> Snapshot:
        """The counters of last time."""
        return self._snapshots[-1]

    def __len__(self) -> int:
        return len(self._snapshots) - 1

    def add(self, at: float, row: array[float]) -> None:
        """Let the counters of now wait."""
        if row[REQUESTS] < self._snapshots[-1].numbers()[REQUESTS]:  # they began again
            self._snapshots = [Snapshot(at, self._layout.empty().tobytes())]
        self._snapshots.append(Snapshot(at, row.tobytes()))
        if len(self) > KEPT:
            del self._snapshots[2:-1:2]  # not the first that waits: a part of it may be published
        self.save()

    def oldest(self) -> tuple[Snapshot, Snapshot]:
        """The interval to publish next."""
        return self._snapshots[0], self._snapshots[1]

    def advance(self) -> None:
        """The oldest is published."""
        del self._snapshots[0]

    def save(self) -> None:
        """Keep this for the next life."""
        write_whole(self._path, _encode(self._snapshots))

    def _read(self) -> list[Snapshot]:
        try:
            snapshots = _decode(self._path.read_bytes())
        except (FileNotFoundError, msgspec.MsgspecError):
            return []
        return snapshots if all(len(snapshot.row) == 8 * self._layout.size for snapshot in snapshots) else []

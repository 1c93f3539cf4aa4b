"""The counters of a server, as Prometheus text and as CloudWatch data.

The server keeps cumulative numbers in one flat row of floats and copies the row into a shared file now and then. The
publisher reads it and subtracts the published values: nothing is lost, however often a publication fails. The request
path pays for a few additions; predicted rows are only noted there, and counted many at a time.
"""

from __future__ import annotations

import mmap
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

from modelworks import contract
from modelworks.runtime.manifest import Kind

REQUESTS, ERRORS, SLOW, REJECTED, ROWS, LATENCY_SUM, READS, UNREAD = range(8)
_FIRST_BUCKET = 8
_MAX_CLASSES = 256

LATENCY_EDGES = tuple(0.05 * 1.25**k for k in range(63))
"""Upper edges in milliseconds, from 0.05 ms to about a minute; the last bucket is open."""
_SATURATION_EDGES = tuple(k / 10 for k in range(1, 10))
_SCORE_EDGES = tuple(k / 50 for k in range(1, 50))
_POSITIVE_EDGES = tuple(10 ** (k / 8) for k in range(-24, 73))
_VALUE_EDGES = (*(-edge for edge in reversed(_POSITIVE_EDGES)), *_POSITIVE_EDGES)

_NOTED_ROWS = 4096
"""Predicted rows that are counted at once: about 0.2 ms of work."""
_MAX_VALUES = 150
"""Most distinct values that CloudWatch takes in one datum."""


class Layout:
    """Where in the row each number stands, for a model of this kind."""

    def __init__(self, kind: Kind, classes: int) -> None:
        self.prediction_edges = _VALUE_EDGES if kind == "regression" else _SCORE_EDGES
        self.classes = min(classes, _MAX_CLASSES)
        self.latency = _FIRST_BUCKET
        self.saturation = self.latency + len(LATENCY_EDGES) + 1
        self.prediction = self.saturation + len(_SATURATION_EDGES) + 1
        self.label = self.prediction + len(self.prediction_edges) + 1
        self.size = self.label + self.classes

    def empty(self) -> array[float]:
        """A row of zeros."""
        return array("d", bytes(8 * self.size))


class Counters:
    """The numbers of the server.

    Args:
        layout: Where each number stands.
        path: The shared file. The counts of an earlier life continue.
    """

    def __init__(self, layout: Layout, path: Path) -> None:
        self.layout = layout
        size = 8 * layout.size
        if not path.exists() or path.stat().st_size != size:
            path.write_bytes(bytes(size))
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), size)
        self.row = array("d", self._shared[:])
        self._values: list[float] = []
        self._labels: list[int] = []

    def request(self, latency_ms: float, *, error: bool, slow: bool) -> None:
        """Count a request that was answered after `latency_ms`."""
        row = self.row
        row[REQUESTS] += 1
        row[LATENCY_SUM] += latency_ms
        row[_FIRST_BUCKET + bisect_left(LATENCY_EDGES, latency_ms)] += 1
        if error:
            row[ERRORS] += 1
        if slow:
            row[SLOW] += 1

    def rejected(self) -> None:
        """Count a request that was turned away."""
        self.row[REQUESTS] += 1
        self.row[REJECTED] += 1

    def features(self, *, failed: bool) -> None:
        """Count a request whose stored features were read, or could not be."""
        self.row[READS] += 1
        if failed:
            self.row[UNREAD] += 1

    def predictions(self, values: list[float], labels: list[int]) -> None:
        """Count predicted rows: their score or value, and the index of their class."""
        self._values += values
        self._labels += labels
        if len(self._values) >= _NOTED_ROWS:
            self._count_predictions()

    def saturation(self, share: float) -> None:
        """Count one sample of how much of the admission limit is in use, 0 to 1."""
        self.row[self.layout.saturation + bisect_left(_SATURATION_EDGES, share)] += 1

    def share(self) -> None:
        """Show the numbers to whoever publishes them."""
        self._count_predictions()
        self._shared[:] = memoryview(self.row).cast("B")

    def _count_predictions(self) -> None:
        if not self._values:
            return
        import numpy as np  # the publisher, which only reads, does without

        row, layout = np.frombuffer(self.row), self.layout
        row[ROWS] += len(self._values)
        buckets = np.searchsorted(layout.prediction_edges, self._values)
        row[layout.prediction : layout.label] += np.bincount(buckets, minlength=layout.label - layout.prediction)
        row[layout.label :] += np.bincount(self._labels, minlength=layout.classes)[: layout.classes]
        self._values, self._labels = [], []


def read_row(path: Path, layout: Layout) -> array[float]:
    """The row in a shared file; zeros if there is none of this layout."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return layout.empty()
    return array("d", data) if len(data) == 8 * layout.size else layout.empty()


def counted_requests(path: Path) -> float:
    """The requests in a shared file of any layout; none if there is none."""
    try:
        return array("d", path.read_bytes()[:8])[REQUESTS]
    except (FileNotFoundError, IndexError):
        return 0.0


class Sample(NamedTuple):
    """A metric of `/metrics`, with a value for each value of its one label, or one without label under ""."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    values: Mapping[str, float]
    label: str = "reason"


def prometheus_samples(samples: Iterable[Sample]) -> str:
    """The samples in Prometheus' text format."""
    lines = []
    for sample in samples:
        lines += [f"# HELP {sample.name} {sample.help}", f"# TYPE {sample.name} {sample.kind}"]
        for value, number in sample.values.items():
            labels = f'{{{sample.label}="{_escaped(value)}"}}' if value else ""
            lines.append(f"{sample.name}{labels} {number:.15g}")
    return "\n".join(lines) + "\n"


def prometheus(row: Sequence[float], layout: Layout, labels: dict[str, str], classes: Sequence[str]) -> str:
    """The row in Prometheus' text format."""
    common = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    lines: list[str] = []

    def counter(name: str, help_text: str, value: float) -> None:
        lines.extend(
            (f"# HELP {name} {help_text}", f"# TYPE {name} counter", f"{name}{{{common}}} {_text(value)}"),
        )

    counter("modelworks_requests_total", "Predict requests.", row[REQUESTS])
    counter("modelworks_request_errors_total", "Requests that failed for a reason that is ours.", row[ERRORS])
    counter("modelworks_requests_slow_total", "Requests beyond the latency objective.", row[SLOW])
    counter("modelworks_requests_rejected_total", "Requests turned away because the server was full.", row[REJECTED])
    counter("modelworks_rows_total", "Rows predicted.", row[ROWS])
    if row[READS]:
        counter("modelworks_feature_reads_total", "Requests whose stored features were read.", row[READS])
        counter("modelworks_feature_reads_failed_total", "Those that the feature store did not answer.", row[UNREAD])
    name = "modelworks_request_duration_seconds"
    lines += [f"# HELP {name} Time to answer a request.", f"# TYPE {name} histogram"]
    seen = 0.0
    for index, edge in enumerate(LATENCY_EDGES):
        seen += row[layout.latency + index]
        if index % 3 == 2:  # a third of the buckets is plenty here: factors of two
            lines.append(f'{name}_bucket{{{common},le="{edge / 1000:.6g}"}} {_text(seen)}')
    seen += row[layout.latency + len(LATENCY_EDGES)]
    lines += [
        f'{name}_bucket{{{common},le="+Inf"}} {_text(seen)}',
        f"{name}_sum{{{common}}} {row[LATENCY_SUM] / 1000:.9g}",
        f"{name}_count{{{common}}} {_text(seen)}",
    ]
    name = "modelworks_predictions_total"
    if layout.classes:
        lines += [f"# HELP {name} Rows predicted, by label.", f"# TYPE {name} counter"]
        lines += [
            f'{name}{{{common},label="{_escaped(label)}"}} {_text(row[layout.label + index])}'
            for index, label in enumerate(classes[: layout.classes])
        ]
    return "\n".join(lines) + "\n"


def cloudwatch(
    before: Sequence[float],
    after: Sequence[float],
    layout: Layout,
    *,
    at: datetime,
    dimensions: dict[str, str],
    version: str,
    high_resolution: bool = False,
) -> list[dict[str, Any]]:
    """The difference of two rows, as `MetricData`: every series with and without the `version` dimension.

    CloudWatch answers for datapoints shorter than a minute only where they were sent with a high resolution.
    """
    resolution = {"StorageResolution": 1} if high_resolution else {}
    change = [max(0.0, now - then) for then, now in zip(before, after, strict=True)]
    series: list[tuple[str, str, dict[float, float]]] = []
    requests = change[REQUESTS]
    if requests:
        for name, index in (
            (contract.METRIC_ERROR, ERRORS),
            (contract.METRIC_SLOW, SLOW),
            (contract.METRIC_REJECTED, REJECTED),
        ):
            ones = min(requests, change[index])
            series.append((name, "None", {0.0: requests - ones, 1.0: ones}))
    if change[READS]:
        failed = min(change[READS], change[UNREAD])
        series.append((contract.METRIC_FEATURES_UNREAD, "None", {0.0: change[READS] - failed, 1.0: failed}))
    series += [
        (contract.METRIC_LATENCY, "Milliseconds", _histogram(change, layout.latency, LATENCY_EDGES)),
        (contract.METRIC_SATURATION, "None", _histogram(change, layout.saturation, _SATURATION_EDGES)),
        (contract.METRIC_PREDICTION, "None", _histogram(change, layout.prediction, layout.prediction_edges)),
    ]
    plain = [{"Name": name, "Value": value} for name, value in dimensions.items()]
    versioned = [*plain, {"Name": contract.DIMENSION_VERSION, "Value": version}]
    data = []
    for name, unit, counts in series:
        filled = [(value, count) for value, count in counts.items() if count]
        for start in range(0, len(filled), _MAX_VALUES):
            part = filled[start : start + _MAX_VALUES]
            data += [
                {
                    "MetricName": name,
                    "Dimensions": dims,
                    "Timestamp": at,
                    "Values": [value for value, _ in part],
                    "Counts": [count for _, count in part],
                    "Unit": unit,
                    **resolution,
                }
                for dims in (plain, versioned)
            ]
    return data


def _histogram(change: Sequence[float], start: int, edges: Sequence[float]) -> dict[float, float]:
    """Counts by the middle of each bucket; an open bucket counts as its edge."""
    middles = [
        edges[0] if edges[0] <= 0 or edges is LATENCY_EDGES else edges[0] / 2,
        *((low + high) / 2 for low, high in pairwise(edges)),
        1 - (1 - edges[-1]) / 2 if edges[-1] < 1 else edges[-1],
    ]
    return {round(middle, 9): change[start + index] for index, middle in enumerate(middles)}


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _text(value: float) -> str:
    return str(int(value))

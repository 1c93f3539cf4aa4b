"""Series of the laptop's CloudWatch, for its alarms and for expressions in `GetMetricData`.

Alarms read moto's data itself rather than over HTTP, because moto matches dimensions as a subset and starts periods at
the first value instead of the clock. An endpoint's alarm would count each version's requests a second time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from modelworks.laptop import metric_math
from modelworks.laptop.metric_math import MetricMathError

STATISTICS = ("Average", "Sum", "SampleCount", "Minimum", "Maximum")
"""The statistics that are evaluated."""
KEPT = timedelta(hours=24)
"""How long the laptop keeps metrics. CloudWatch keeps minutes for 15 days."""

_Dimensions = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Stat:
    """One statistic of one series."""

    namespace: str
    name: str
    dimensions: _Dimensions
    """Exactly those: CloudWatch does not aggregate over them."""
    statistic: str
    unit: str | None

    def datapoints(self, data: Iterable[Any], begins: Sequence[datetime], period: int) -> dict[datetime, float]:
        """The statistic by beginning of period. Periods without a value are absent.

        Args:
            data: moto's values.
            begins: Beginnings of the periods, oldest first, without gaps.
            period: Their length, in seconds.
        """
        first, end = begins[0], begins[-1] + timedelta(seconds=period)
        found: dict[datetime, list[Any]] = {}
        for datum in list(data):
            if (datum.namespace, datum.name) != (self.namespace, self.name):
                continue
            if (self.unit and datum.unit != self.unit) or _dimensions(datum) != self.dimensions:
                continue
            when = utc(datum.timestamp)
            if first <= when < end:
                begin = int(when.timestamp()) // period * period
                found.setdefault(datetime.fromtimestamp(begin, UTC), []).append(datum)
        return {begin: statistic(self.statistic, values) for begin, values in found.items()}


@dataclass(frozen=True)
class Watched:
    """The values that an alarm compares with its threshold: an expression over statistics, all of one period."""

    expression: str
    stats: Mapping[str, Stat]
    period: int
    """In seconds."""

    def datapoints(self, data: Iterable[Any], begins: Sequence[datetime]) -> dict[datetime, float]:
        """The value by beginning of period. Periods without one are absent.

        Args:
            data: moto's values.
            begins: Beginnings of the periods, oldest first, without gaps.
        """
        series = {name: stat.datapoints(data, begins, self.period) for name, stat in self.stats.items()}
        return metric_math.evaluate(self.expression, series)


def watched(alarm: Any) -> Watched | None:
    """The values that an alarm of moto's compares; None for the kinds that are only recorded.

    Raises:
        MetricMathError: Its expression is not evaluated here, and the message has the reason.
    """
    if alarm.rule is not None or alarm.extended_statistic or alarm.threshold_metric_id:
        return None
    if alarm.metric_data_queries:
        return _of_queries(alarm.metric_data_queries)
    if alarm.statistic not in STATISTICS:
        return None
    stat = Stat(alarm.namespace, alarm.metric_name, _dimensions(alarm), alarm.statistic, alarm.unit)
    return Watched("value", {"value": stat}, int(alarm.period))


def _of_queries(queries: Sequence[Any]) -> Watched:
    stats = {query.id: query.metric_stat for query in queries if query.metric_stat}
    # A query that does not say so returns its data.
    returned = [query for query in queries if query.return_data is not False]
    if len(returned) != 1:
        raise MetricMathError(
            f"one query of an alarm must have ReturnData and the others not, got {len(returned)} that have"
        )
    if unknown := {stat.stat for stat in stats.values()} - {*STATISTICS}:
        raise MetricMathError(f"it reads {', '.join(sorted(unknown))}, and only {', '.join(STATISTICS)} are evaluated")
    periods = {int(stat.period) for stat in stats.values()}
    if len(periods) != 1:
        raise MetricMathError(f"its metrics must have one period, got {sorted(periods)}")
    read = {
        name: Stat(stat.metric.namespace, stat.metric.metric_name, _dimensions(stat.metric), stat.stat, stat.unit)
        for name, stat in stats.items()
    }
    found = Watched(returned[0].expression or returned[0].id, read, periods.pop())
    metric_math.evaluate(found.expression, {name: {} for name in read})
    return found


def serve_expressions() -> None:
    """Let moto's `GetMetricData` evaluate metric math, of which it has bare ids alone."""
    from moto.cloudwatch import models  # only where moto runs
    from moto.cloudwatch.exceptions import ValidationError

    def parse_expression(expression: str, results: list[dict[str, Any]]) -> tuple[list[float], list[datetime]]:
        series = {
            each["id"]: dict(zip(each["timestamps"], map(float, each["values"]), strict=True)) for each in results
        }
        oldest_first = any(a < b for each in results for a, b in pairwise(each["timestamps"]))
        try:
            found = metric_math.evaluate(expression, series)
        except MetricMathError as error:
            raise ValidationError(f"Error in expression: {error}") from error
        times = sorted(found, reverse=not oldest_first)
        return [found[when] for when in times], times

    setattr(models, "parse_expression", parse_expression)  # noqa: B010 - a name that it imports


def delay(seconds: float) -> None:
    """Make published values readable only after `seconds`: on CloudWatch, up to two minutes for a new series.

    Source: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/publishingMetrics.html
    """
    from moto.cloudwatch.models import CloudWatchBackend  # only where moto runs

    put = CloudWatchBackend.put_metric_data

    def later(self: Any, *arguments: Any, **more: Any) -> None:
        timer = threading.Timer(seconds, put, (self, *arguments), more)
        timer.daemon = True
        timer.start()

    CloudWatchBackend.put_metric_data = later  # type: ignore[method-assign]


def statistic(name: str, values: Iterable[Any]) -> float:
    """One of `STATISTICS` over moto's values: single ones, and sets with sum, count, minimum and maximum."""
    sets = [
        (value.sum, value.sample_count, value.min, value.max)
        if hasattr(value, "sample_count")
        else (value.value, 1.0, value.value, value.value)
        for value in values
    ]
    total, count = sum(one[0] for one in sets), sum(one[1] for one in sets)
    every: dict[str, float] = {
        "Average": total / count,
        "Sum": total,
        "SampleCount": count,
        "Minimum": min(one[2] for one in sets),
        "Maximum": max(one[3] for one in sets),
    }
    return every[name]


def _dimensions(thing: Any) -> frozenset[tuple[str, str]]:
    return frozenset((dimension.name, dimension.value) for dimension in thing.dimensions)


def utc(when: datetime) -> datetime:
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)


def compact(backend: Any, now: datetime) -> None:
    """Keep memory bounded: moto stores a value with a count of 10,000 as 10,000 objects, and keeps all for ever.

    Values of one series and time become one set with the same sum, count, minimum and maximum, so that every statistic
    stays what it was; what is older than `KEPT` goes.
    """
    from moto.cloudwatch.models import MetricAggregatedDatum  # only where moto runs

    data = backend.metric_data
    seen = len(data)
    groups: dict[tuple[Any, ...], list[Any]] = {}
    for datum in data[:seen]:
        if now - utc(datum.timestamp) < KEPT:
            key = (datum.namespace, datum.name, _dimensions(datum), datum.unit, datum.timestamp)
            groups.setdefault(key, []).append(datum)
    if len(groups) == seen:
        return
    kept = []
    for group in groups.values():
        first = group[0]
        if len(group) > 1:
            first = MetricAggregatedDatum(
                namespace=first.namespace,
                name=first.name,
                min_stat=statistic("Minimum", group),
                max_stat=statistic("Maximum", group),
                sample_count=statistic("SampleCount", group),
                sum_stat=statistic("Sum", group),
                dimensions=[{"Name": dimension.name, "Value": dimension.value} for dimension in first.dimensions],
                timestamp=first.timestamp,
                unit=first.unit,
            )
        kept.append(first)
    # In one step, and only what was read: values may have come meanwhile, from other threads.
    data[:seen] = kept

"""An alarm, defined once and rendered twice.

The same definition pages a person (a CloudWatch metric alarm) and stops a canary (a measurement of a rollout's
analysis), so that the two always agree. Alarms here are ratios: the runtime publishes 0/1 metrics, whose `Sum` is what
went wrong and whose `SampleCount` is the traffic (see `modelworks.contract`). A ratio of few requests is chance, so
that a floor of bad requests is part of the definition.

Pure: plain values in, plain values out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from modelworks import contract, defaults

Comparison = Literal["GreaterThanThreshold", "GreaterThanOrEqualToThreshold", "LessThanThreshold"]
"""How a datapoint is compared with the threshold, in CloudWatch's words."""

FLOOR_REQUESTS = 5
"""Fewest bad requests in a datapoint that count: one in twenty is five per cent, and no reason to wake anybody."""

_RATIO = "ratio"
"""Id of the query that is compared."""
_TERMS: Mapping[str, str] = {"bad": "Sum", "requests": "SampleCount"}
"""The statistics that a ratio with a floor is made of, by the ids of their queries: of one metric, so that CloudWatch
never has one of them alone."""

_BREACHES: dict[str, str] = {
    "GreaterThanThreshold": ">",
    "GreaterThanOrEqualToThreshold": ">=",
    "LessThanThreshold": "<",
}


@dataclass(frozen=True)
class Alarm:
    """When a metric of an endpoint is bad, and for how long it must be so.

    Raises:
        ValueError: A number is out of its range.
    """

    name: str
    """Short and stable, such as `errors`: part of resource names and of what `status` prints."""
    meaning: str
    """The problem when it fires, in one sentence."""
    metric: str
    """Name of the metric, from `modelworks.contract`."""
    threshold: float
    """The limit, in the metric's unit; for a 0/1 metric the ratio."""
    statistic: Literal["Average", "Sum", "SampleCount", "Maximum"] = "Average"
    comparison: Comparison = "GreaterThanThreshold"
    period_seconds: int = defaults.LIMITS["period_seconds"]
    """Length of one datapoint. A multiple of 60, as CloudWatch demands of standard-resolution metrics."""
    datapoints: int = 2
    """How many of the last `evaluation_periods` datapoints must breach."""
    evaluation_periods: int = 3
    missing: Literal["notBreaching", "breaching"] = "notBreaching"
    """How a datapoint without values counts, in CloudWatch's words: without traffic, a ratio has none."""
    floor: int = 0
    """Of a 0/1 metric: a datapoint with fewer ones than this is 0. Without a floor the statistic itself is compared."""
    namespace: str = contract.METRIC_NAMESPACE
    """CloudWatch namespace of the metric."""

    def __post_init__(self) -> None:
        if self.period_seconds < 10 or (self.period_seconds % 60 and self.period_seconds not in {10, 20, 30}):
            raise ValueError(f"period_seconds must be 10, 20, 30 or a multiple of 60, got {self.period_seconds}")
        if not 1 <= self.datapoints <= self.evaluation_periods:
            raise ValueError(
                f"datapoints must be from 1 to evaluation_periods ({self.evaluation_periods}), got {self.datapoints}"
            )
        if self.floor < 0 or (self.floor and self.statistic != "Average"):
            raise ValueError(f"floor must be 0 or more, and 0 unless statistic is Average, got {self.floor}")

    @property
    def window_seconds(self) -> int:
        """How far back the alarm looks."""
        return self.period_seconds * self.evaluation_periods


def endpoint_alarms(
    *,
    error_ratio: float = defaults.LIMITS["error_ratio"],
    slow_ratio: float = defaults.LIMITS["slow_ratio"],
    rejected_ratio: float = defaults.LIMITS["rejected_ratio"],
    period_seconds: int = defaults.LIMITS["period_seconds"],
) -> tuple[Alarm, ...]:
    """The alarms of a model endpoint.

    Args:
        error_ratio: Share of requests, 0 to 1, that may fail for a reason that is ours.
        slow_ratio: Share of requests that may take longer than the latency objective.
        rejected_ratio: Share of requests that may be turned away (429) because the endpoint is full.
        period_seconds: Length of one datapoint.
    """
    return tuple(
        Alarm(
            name,
            f"more than {ratio:.1%} of requests, and at least {FLOOR_REQUESTS}, {went_wrong}",
            metric,
            ratio,
            period_seconds=period_seconds,
            floor=FLOOR_REQUESTS,
        )
        for name, metric, ratio, went_wrong in (
            ("errors", contract.METRIC_ERROR, error_ratio, "failed"),
            ("slow", contract.METRIC_SLOW, slow_ratio, "missed the latency objective"),
            ("rejected", contract.METRIC_REJECTED, rejected_ratio, "were turned away because the endpoint was full"),
        )
    )


def heartbeat_alarm(period_seconds: int = defaults.LIMITS["period_seconds"]) -> Alarm:
    """The alarm of an endpoint that has no pod left: pods publish their saturation whether or not they have requests.

    It judges no canary: the pods of the stable version keep the series alive.

    Args:
        period_seconds: Length of one datapoint. Five without a value are an outage, so that a pod which starts, or a
            publication that CloudWatch shows late, is none.
    """
    return Alarm(
        "silent",
        f"no pod has reported for {5 * period_seconds} s",
        contract.METRIC_SATURATION,
        1,
        statistic="SampleCount",
        comparison="LessThanThreshold",
        period_seconds=period_seconds,
        datapoints=5,
        evaluation_periods=5,
        missing="breaching",
    )


def uptime_alarm(namespace: str, period_seconds: int = defaults.LIMITS["period_seconds"]) -> Alarm:
    """The alarm of a host that answers no client, whatever its pods report.

    It judges no canary: a host has one address for all versions.

    Args:
        namespace: CloudWatch namespace of the metric.
        period_seconds: Length of one datapoint. Five without an answer are an outage, as for `heartbeat_alarm`.
    """
    return Alarm(
        "unanswered",
        f"the host has answered nobody for {5 * period_seconds} s: its load balancer, name, certificate or pods",
        contract.METRIC_ANSWERED,
        1,
        statistic="Maximum",
        comparison="LessThanThreshold",
        period_seconds=period_seconds,
        datapoints=5,
        evaluation_periods=5,
        missing="breaching",
        namespace=namespace,
    )


def cloudwatch_alarm(alarm: Alarm, dimensions: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of an `aws.cloudwatch.MetricAlarm` equal to `alarm`, in snake case.

    Args:
        alarm: The definition.
        dimensions: Which series: environment and model, for an endpoint. Values may be inputs of Pulumi.
    """
    return {
        **_compared(alarm, dimensions),
        "comparison_operator": alarm.comparison,
        "threshold": alarm.threshold,
        "evaluation_periods": alarm.evaluation_periods,
        "datapoints_to_alarm": alarm.datapoints,
        "treat_missing_data": alarm.missing,
        "alarm_description": alarm.meaning,
    }


def _compared(alarm: Alarm, dimensions: Mapping[str, Any]) -> dict[str, Any]:
    series = {"namespace": alarm.namespace, "metric_name": alarm.metric, "dimensions": dict(dimensions)}
    if not alarm.floor:
        return {**series, "statistic": alarm.statistic, "period": alarm.period_seconds}
    return {
        "metric_queries": [
            {"id": _RATIO, "expression": _expression(alarm), "label": alarm.name, "return_data": True},
            *(
                {"id": name, "metric": {**series, "stat": statistic, "period": alarm.period_seconds}}
                for name, statistic in _TERMS.items()
            ),
        ]
    }


def _expression(alarm: Alarm) -> str:
    """In CloudWatch's metric math; without requests it has no value.

    Source: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/using-metric-math.html
    """
    return f"IF(bad >= {alarm.floor}, bad / requests, 0)"


def analysis_metric(alarm: Alarm, dimensions: Mapping[str, str], *, interval_seconds: int) -> dict[str, Any]:
    """A metric of an Argo Rollouts `AnalysisTemplate` that fails when `alarm` would fire for one version.

    CloudWatch needs `datapoints` breaching ones of `evaluation_periods`; the analysis takes a measurement every
    `interval_seconds` over the same window and fails on the same count of breaching datapoints. A window without
    datapoints passes here: too little traffic is judged by a measurement of its own (`traffic_metric`) before a canary
    gets more traffic and before it takes all, which is what lets an idle one go back instead of waiting for ever.

    Args:
        alarm: The definition.
        dimensions: Which series: environment, model and version (Argo's `{{args.…}}` allowed).
        interval_seconds: Time between two measurements.
    """
    breaching = f"# {_BREACHES[alarm.comparison]} {alarm.threshold!r}"
    return {
        "name": alarm.name,
        "interval": f"{interval_seconds}s",
        "failureLimit": 0,
        "failureCondition": f"count(result[0].Values, {{{breaching}}}) >= {alarm.datapoints}",
        "successCondition": f"count(result[0].Values, {{{breaching}}}) < {alarm.datapoints}",
        "consecutiveErrorLimit": 4,
        "provider": _measured(alarm.window_seconds, _queries(alarm, dimensions)),
    }


def traffic_metric(
    alarm: Alarm, dimensions: Mapping[str, str], *, requests: int, deadline_seconds: int, interval_seconds: int
) -> dict[str, Any]:
    """A metric that succeeds as soon as a version answered `requests`, and fails if it has not by the deadline.

    Argo counts each measurement that still lacks traffic as a failure; only the last one is one too many. It is never
    inconclusive, because Argo pauses an inconclusive rollout for ever.

    Args:
        alarm: Whose metric is counted; every request has a value of it.
        dimensions: Which series: environment, model and version.
        requests: Fewest requests for a verdict.
        deadline_seconds: How long the version has to get them, and how far back they are counted.
        interval_seconds: Time between two measurements.
    """
    measurements = max(1, deadline_seconds // interval_seconds) + 1  # the first is taken at once
    enough = f"sum(result[0].Values) >= {requests}"
    return {
        "name": "traffic",
        "interval": f"{interval_seconds}s",
        "count": measurements,
        "failureLimit": measurements - 1,
        "consecutiveSuccessLimit": 1,
        "successCondition": f"len(result[0].Values) > 0 && {enough}",
        "provider": _measured(
            max(deadline_seconds, alarm.period_seconds), [_query("requests", alarm, "SampleCount", dimensions)]
        ),
    }


def _measured(seconds: int, queries: list[dict[str, Any]]) -> dict[str, Any]:
    """Argo's measurement by CloudWatch, of the last so many seconds."""
    return {"cloudWatch": {"interval": f"{seconds}s", "metricDataQueries": queries}}


def _queries(alarm: Alarm, dimensions: Mapping[str, str]) -> list[dict[str, Any]]:
    if not alarm.floor:
        return [_query(_RATIO, alarm, alarm.statistic, dimensions)]
    terms = [_query(name, alarm, statistic, dimensions) | {"returnData": False} for name, statistic in _TERMS.items()]
    return [{"id": _RATIO, "expression": _expression(alarm), "returnData": True}, *terms]


def _query(query_id: str, alarm: Alarm, statistic: str, dimensions: Mapping[str, str]) -> dict[str, Any]:
    return {
        "id": query_id,
        "metricStat": {
            "metric": {
                "namespace": alarm.namespace,
                "metricName": alarm.metric,
                "dimensions": [{"name": name, "value": value} for name, value in dimensions.items()],
            },
            "period": alarm.period_seconds,
            "stat": statistic,
        },
    }

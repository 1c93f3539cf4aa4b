"""An alarm, defined once and rendered twice.

The same definition pages a person (a CloudWatch metric alarm) and stops a canary (a measurement of a rollout's
analysis), so that the two always agree. Alarms here are ratios: the runtime publishes 0/1 metrics, whose `Average` is
the ratio and whose `SampleCount` is the traffic (see `modelworks.contract`).

Pure: plain values in, plain values out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from modelworks import contract, defaults

Comparison = Literal["GreaterThanThreshold", "GreaterThanOrEqualToThreshold", "LessThanThreshold"]
"""How a datapoint is compared with the threshold, in CloudWatch's words."""

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

    def __post_init__(self) -> None:
        if self.period_seconds < 10 or (self.period_seconds % 60 and self.period_seconds not in {10, 20, 30}):
            raise ValueError(f"period_seconds must be 10, 20, 30 or a multiple of 60, got {self.period_seconds}")
        if not 1 <= self.datapoints <= self.evaluation_periods:
            raise ValueError(
                f"datapoints must be from 1 to evaluation_periods ({self.evaluation_periods}), got {self.datapoints}"
            )

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
    return (
        Alarm(
            "errors",
            f"more than {error_ratio:.1%} of requests failed",
            contract.METRIC_ERROR,
            error_ratio,
            period_seconds=period_seconds,
        ),
        Alarm(
            "slow",
            f"more than {slow_ratio:.1%} of requests missed the latency objective",
            contract.METRIC_SLOW,
            slow_ratio,
            period_seconds=period_seconds,
        ),
        Alarm(
            "rejected",
            f"more than {rejected_ratio:.1%} of requests were turned away because the endpoint was full",
            contract.METRIC_REJECTED,
            rejected_ratio,
            period_seconds=period_seconds,
        ),
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


def cloudwatch_alarm(alarm: Alarm, dimensions: Mapping[str, str]) -> dict[str, Any]:
    """Arguments of an `aws.cloudwatch.MetricAlarm` equal to `alarm`, in snake case.

    Args:
        alarm: The definition.
        dimensions: Which series: environment and model.
    """
    return {
        "namespace": contract.METRIC_NAMESPACE,
        "metric_name": alarm.metric,
        "dimensions": dict(dimensions),
        "statistic": alarm.statistic,
        "comparison_operator": alarm.comparison,
        "threshold": alarm.threshold,
        "period": alarm.period_seconds,
        "evaluation_periods": alarm.evaluation_periods,
        "datapoints_to_alarm": alarm.datapoints,
        "treat_missing_data": alarm.missing,
        "alarm_description": alarm.meaning,
    }


def analysis_metric(alarm: Alarm, dimensions: Mapping[str, str], *, interval_seconds: int) -> dict[str, Any]:
    """A metric of an Argo Rollouts `AnalysisTemplate` that fails when `alarm` would fire for one version.

    CloudWatch needs `datapoints` breaching ones of `evaluation_periods`; the analysis takes a measurement every
    `interval_seconds` over the same window and fails on the same count of breaching datapoints. A window without
    datapoints passes here: too little traffic is judged by a measurement of its own (`traffic_metric`), which is what
    lets an idle canary go back instead of waiting for ever.

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
        "provider": {"cloudWatch": _query(alarm, alarm.metric, alarm.statistic, dimensions)},
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
        deadline_seconds: How long the version has to get them.
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
        "provider": {
            "cloudWatch": _query(alarm, alarm.metric, "SampleCount", dimensions, window=max(deadline_seconds, 60))
        },
    }


def _query(
    alarm: Alarm, metric: str, statistic: str, dimensions: Mapping[str, str], window: int | None = None
) -> dict[str, Any]:
    return {
        "interval": f"{window or alarm.window_seconds}s",
        "metricDataQueries": [
            {
                "id": "m",
                "metricStat": {
                    "metric": {
                        "namespace": contract.METRIC_NAMESPACE,
                        "metricName": metric,
                        "dimensions": [{"name": name, "value": value} for name, value in dimensions.items()],
                    },
                    "period": alarm.period_seconds,
                    "stat": statistic,
                },
            }
        ],
    }

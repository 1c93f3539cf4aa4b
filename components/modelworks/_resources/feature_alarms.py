"""Private: alarms of a feature store, as `paging_alarm` takes them."""

import math
from collections.abc import Mapping
from typing import Any

import pulumi

from modelworks import contract

_TOLERATED_SKEW = 0.01
"""Share of values that may differ: those whose history arrived after the last materialization do."""


def table_alarms(view: str, table: pulumi.Input[str]) -> list[tuple[str, Mapping[str, Any]]]:
    """Alarms on the online table of a view, each with the suffix of its name."""

    def minutes(metric: str, meaning: str, **dimensions: str) -> Mapping[str, Any]:
        """Three of five minutes: clients retry what lasts for a second."""
        return {
            "alarm_description": f"feature view {view}: {meaning}",
            "namespace": "AWS/DynamoDB",
            "metric_name": metric,
            "dimensions": {"TableName": table, **dimensions},
            "statistic": "Sum",
            "comparison_operator": "GreaterThanThreshold",
            "threshold": 0,
            "period": 60,
            "evaluation_periods": 5,
            "datapoints_to_alarm": 3,
            "treat_missing_data": "notBreaching",
        }

    return [
        ("reads-throttled", minutes("ReadThrottleEvents", "DynamoDB throttles reads")),
        ("writes-throttled", minutes("WriteThrottleEvents", "DynamoDB throttles writes")),
        ("read-errors", minutes("SystemErrors", "DynamoDB fails to read", Operation="BatchGetItem")),
        ("write-errors", minutes("SystemErrors", "DynamoDB fails to write", Operation="PutItem")),
    ]


def lag_alarm(view: str, environment: str, lag: int) -> tuple[str, Mapping[str, Any]]:
    """The alarm on a view that is not materialized within `lag` seconds, with the suffix of its name."""
    # Only a run that ends reports its lag: hours without one count as stale. CloudWatch takes a day of minutes at most.
    period = 60 if lag < 3600 else 3600
    periods = math.ceil(lag / period)
    return "stale", {
        "alarm_description": f"feature view {view}: no materialization reported a lag within {lag} s",
        **_of_view(view, environment, contract.METRIC_FEATURE_LAG),
        "statistic": "Minimum",
        "comparison_operator": "GreaterThanThreshold",
        "threshold": lag,
        "period": period,
        "evaluation_periods": periods,
        "datapoints_to_alarm": periods,
        "treat_missing_data": "breaching",
    }


def skew_alarm(view: str, environment: str) -> tuple[str, Mapping[str, Any]]:
    """The alarm on a view whose online values are not those of its history, with the suffix of its name."""
    return "skewed", {
        "alarm_description": f"feature view {view}: more than {_TOLERATED_SKEW:.0%} of the online values compared "
        "differ from history",
        **_of_view(view, environment, contract.METRIC_FEATURE_SKEW),
        "statistic": "Maximum",
        "comparison_operator": "GreaterThanThreshold",
        "threshold": _TOLERATED_SKEW,
        "period": 60,
        "evaluation_periods": 1,
        "treat_missing_data": "ignore",  # between two comparisons, what the last one found holds
    }


def _of_view(view: str, environment: str, metric: str) -> dict[str, Any]:
    """The series that runs of the store's jobs publish for a view."""
    return {
        "namespace": contract.FEATURE_METRIC_NAMESPACE,
        "metric_name": metric,
        "dimensions": {contract.DIMENSION_ENVIRONMENT: environment, contract.DIMENSION_VIEW: view},
    }

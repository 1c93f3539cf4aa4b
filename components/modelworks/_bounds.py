"""Private and pure: the bounds of every number, stated once: stack settings and components read them here.

They are keywords of Pydantic's `Field`; components check them without Pydantic. AWS or the cluster would refuse
a number beyond them, later and in the middle of an update, or do what nobody means.
"""

from collections.abc import Callable, Mapping
from operator import ge, gt, le, lt
from typing import Any, Final

Bounds = Mapping[str, Any]
"""`ge`, `gt`, `le` and `lt`."""

PERIODS: Final = (10, 60, 300)
"""Lengths of a datapoint, in seconds."""
MOST_STEPS: Final = 10
"""Of a canary."""

_DAYS: Final[Bounds] = {"ge": 1, "le": 3650}
_MILLICORES: Final[Bounds] = {"ge": 50, "le": 64_000}
_SHARE: Final[Bounds] = {"gt": 0, "lt": 1}
_PERCENT: Final[Bounds] = {"gt": 0, "le": 1000}
_REPLICAS: Final[Bounds] = {"ge": 1, "le": 1000}
_TRAINING_MILLICORES: Final[Bounds] = {"ge": 100, "le": 1_000_000}
_TRAINING_MIB: Final[Bounds] = {"ge": 256, "le": 4_194_304}
_WEEK_AT_MOST: Final[Bounds] = {"ge": 10, "le": 604_800}

ENVIRONMENT: Final[Mapping[str, Bounds]] = {
    "key_deletion_days": {"ge": 7, "le": 30},  # as KMS has it
}
BUDGET: Final[Mapping[str, Bounds]] = {
    "monthly_usd": {"gt": 0, "le": 10_000_000},
    "actual_percent": _PERCENT,
    "forecast_percent": _PERCENT,
}
REGISTRY: Final[Mapping[str, Bounds]] = {
    "volume_gib": {"ge": 1, "le": 16_384},
    "backup_hours": {"ge": 1, "le": 168},
    "backup_days": _DAYS,
    "noncurrent_days": _DAYS,
}
TRAINING: Final[Mapping[str, Bounds]] = {
    "cpu_millicores": _TRAINING_MILLICORES,
    "memory_mib": _TRAINING_MIB,
    "max_jobs": {"ge": 1, "le": 1000},
    "run_cpu_millicores": _TRAINING_MILLICORES,
    "run_memory_mib": _TRAINING_MIB,
    "active_deadline_seconds": _WEEK_AT_MOST,
    "retries": {"ge": 0, "le": 10},
    "ttl_seconds_after_finished": {"ge": 60, "le": 2_592_000},
}
FEATURES: Final[Mapping[str, Bounds]] = {
    "maximum_lag_seconds": {"ge": 60, "le": 604_800},  # CloudWatch looks back no further than a week
    "query_limit_gib": {"ge": 1, "le": 1_000_000},
    "query_result_days": _DAYS,
    "noncurrent_days": _DAYS,
}
MATERIALIZATION: Final[Mapping[str, Bounds]] = {
    "lookback_seconds": {"ge": 0, "le": 2_592_000},
    "cpu_millicores": _MILLICORES,
    "memory_mib": {"ge": 256, "le": 262_144},
    "active_deadline_seconds": _WEEK_AT_MOST,
}
PREDICTIONS: Final[Mapping[str, Bounds]] = {
    "days": _DAYS,
}
ENDPOINT: Final[Mapping[str, Bounds]] = {
    "minimum_replicas": _REPLICAS,
    "maximum_replicas": _REPLICAS,
    "cpu_millicores": _MILLICORES,
    "memory_mib": {"ge": 128, "le": 262_144},
    "latency_objective_ms": {"gt": 0, "le": 60_000},
    "log_sample_ratio": {"ge": 0, "le": 1},
}
CANARY: Final[Mapping[str, Bounds]] = {
    "steps": {"ge": 1, "le": 99},
    "step_seconds": {"ge": 10, "le": 86_400},
    "bake_seconds": {"ge": 0, "le": 86_400},
    "progress_deadline_seconds": {"ge": 30, "le": 3600},
    "minimum_requests": {"ge": 1, "le": 1_000_000},
}
LIMITS: Final[Mapping[str, Bounds]] = {
    "error_ratio": _SHARE,
    "slow_ratio": _SHARE,
    "rejected_ratio": _SHARE,
    "period_seconds": {"ge": PERIODS[0], "le": PERIODS[-1]},
}
RELEASE: Final[Mapping[str, Bounds]] = {
    "version": {"ge": 1},
}
POD: Final[Mapping[str, Bounds]] = {
    "extended_resources": {"ge": 1, "le": 64},
    "scratch_mib": {"ge": 64, "le": 1_048_576},
}
EGRESS: Final[Mapping[str, Bounds]] = {
    "ports": {"ge": 1, "le": 65_535},
}

OF_ARGUMENTS: Final[Mapping[str, Mapping[str, Bounds]]] = {
    "BudgetArgs": BUDGET,
    "CanaryArgs": CANARY,
    "EgressArgs": EGRESS,
    "EnvironmentArgs": ENVIRONMENT,
    "FeatureStoreArgs": FEATURES,
    "LimitsArgs": LIMITS,
    "MaterializationArgs": MATERIALIZATION,
    "ModelEndpointArgs": ENDPOINT,
    "ModelRegistryArgs": REGISTRY,
    "PodArgs": POD,
    "PredictionStoreArgs": PREDICTIONS,
    "ReleaseArgs": RELEASE,
    "TrainingComputeArgs": TRAINING,
}
"""The bounds of each kind of arguments, by its name. Those of a list or a mapping hold for each of its numbers."""

_RULES: Final[Mapping[str, tuple[Callable[[Any, Any], bool], str]]] = {
    "ge": (ge, "at least"),
    "gt": (gt, "above"),
    "le": (le, "at most"),
    "lt": (lt, "below"),
}


def broken(bounds: Bounds, number: float) -> str | None:
    """The bound that a number breaks, such as `at least 1`; None for none. NaN breaks any."""
    for rule, bound in bounds.items():
        holds, words = _RULES[rule]
        if not holds(number, bound):
            return f"{words} {bound}"
    return None

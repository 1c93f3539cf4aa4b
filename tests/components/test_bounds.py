"""Numbers at their bounds: settings and components take and refuse the same ones."""

from __future__ import annotations

import math
import typing

import pytest
from pydantic import BaseModel, ValidationError

from mocks import declare
from modelworks import ModelEndpoint, _bounds, feature_settings, settings, workload_settings
from modelworks._resources.arguments import checked
from smallest import FULLEST, SMALLEST, hints_of, kinds_of_arguments

KINDS = kinds_of_arguments()
SETTINGS: dict[str, type[BaseModel]] = {
    "BudgetArgs": settings.Budget,
    "CanaryArgs": settings.Canary,
    "EgressArgs": workload_settings.Egress,
    "EnvironmentArgs": settings.Settings,
    "FeatureStoreArgs": feature_settings.Features,
    "LimitsArgs": settings.Limits,
    "MaterializationArgs": feature_settings.Materialization,
    "ModelEndpointArgs": settings.Endpoint,
    "ModelRegistryArgs": settings.Registry,
    "PodArgs": workload_settings.Pod,
    "PredictionStoreArgs": settings.Predictions,
    "ReleaseArgs": settings.Release,
    "TrainingComputeArgs": settings.Training,
}


def numbers_in(hint: object) -> set[type]:
    """The kinds of numbers in a type, however deep."""
    inside = [numbers_in(item) for item in typing.get_args(hint)]
    return set().union(*inside, {hint} & {int, float})


def shaped(hint: object, number: float) -> object:
    """A value of an argument that holds this number."""
    origin = typing.get_origin(hint)
    return [number] if origin is list else {"nvidia.com/gpu": number} if origin is dict else number


NUMBERS = {
    (kind, name): hint for kind, found in KINDS.items() for name, hint in hints_of(found).items() if numbers_in(hint)
}


def edges(kind: str, name: str) -> typing.Iterator[tuple[float, bool]]:
    """Numbers next to the bounds of an argument, and whether they are within."""
    bounds, hint = _bounds.OF_ARGUMENTS[kind][name], NUMBERS[kind, name]
    whole = int in numbers_in(hint)
    for rule, bound in bounds.items():
        away = -math.inf if rule in {"ge", "gt"} else math.inf
        within, beyond = (
            bound + math.copysign(1, each) if whole else math.nextafter(bound, each) for each in (-away, away)
        )
        near = [(bound, True), (beyond, False)] if rule in {"ge", "le"} else [(within, True), (bound, False)]
        yield from ((int(number) if whole else number, sound) for number, sound in near)
    if not whole:
        yield from ((number, False) for number in (math.nan, math.inf, -math.inf))


EDGES = [
    (kind, name, number, sound)
    for kind, bounds in _bounds.OF_ARGUMENTS.items()
    for name in bounds
    for number, sound in edges(kind, name)
]


def argument_passes(kind: str, name: str, value: object) -> bool:
    try:
        checked("churn", KINDS[kind], {name: value})
    except ValueError as error:
        return not any(f"'churn': {name}" in line and " must be " in line for line in str(error).splitlines())
    return True


def setting_passes(kind: str, name: str, value: object) -> bool:
    try:
        SETTINGS[kind].model_validate({name: value})
    except ValidationError as error:
        return not any(each["loc"][:1] == (name,) for each in error.errors())
    return True


def test_every_number_that_an_argument_takes_has_bounds():
    bounded = {(kind, name) for kind, bounds in _bounds.OF_ARGUMENTS.items() for name in bounds}
    assert set(NUMBERS) - bounded == {("ClusterArgs", "log_retention_days")}  # one of those that CloudWatch Logs has
    assert bounded <= set(NUMBERS)


@pytest.mark.parametrize(("kind", "name", "number", "sound"), EDGES)
def test_a_component_takes_what_is_within_the_bounds_and_nothing_beyond(kind, name, number, sound):
    assert argument_passes(kind, name, shaped(NUMBERS[kind, name], number)) is sound


@pytest.mark.parametrize(("kind", "name", "number", "sound"), EDGES)
def test_settings_take_what_a_component_takes(kind, name, number, sound):
    assert setting_passes(kind, name, shaped(NUMBERS[kind, name], number)) is sound


def test_a_datapoint_has_one_of_the_lengths_that_settings_have():
    assert typing.get_args(settings.Limits.model_fields["period_seconds"].annotation) == _bounds.PERIODS


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"cpu_millicores": 0}, "cpu_millicores must be at least 50, got 0"),
        ({"memory_mib": -1}, "memory_mib must be at least 128, got -1"),
        ({"latency_objective_ms": 0}, "latency_objective_ms must be above 0, got 0"),
        ({"latency_objective_ms": math.nan}, "latency_objective_ms must be above 0, got nan"),
        ({"log_sample_ratio": 5.0}, "log_sample_ratio must be at most 1, got 5.0"),
        ({"canary": {"minimum_requests": -4}}, "canary.minimum_requests must be at least 1, got -4"),
        ({"canary": {"steps": [5, 100]}}, r"canary.steps\[1\] must be at most 99, got 100"),
        ({"limits": {"error_ratio": 7.0}}, "limits.error_ratio must be below 1, got 7.0"),
        ({"release": {"digest": "sha256:" + "0" * 64, "version": 0}}, "release.version must be at least 1, got 0"),
    ],
)
def test_a_number_out_of_its_bounds_is_named_with_its_path_and_the_bound(args, message):
    given = {**SMALLEST["ModelEndpoint"], **args}
    with pytest.raises(ValueError, match=rf"^ModelEndpoint 'churn': {message}$"):
        declare(lambda: ModelEndpoint("churn", given))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"limits": {"period_seconds": 120}}, "limits.period_seconds must be one of 10, 60, 300, got 120"),
        ({"canary": {"steps": list(range(1, 12))}}, "canary.steps must grow and be 1 to 10, got "),
        ({"canary": {"steps": []}}, "canary.steps must grow and be 1 to 10, got "),
    ],
)
def test_an_endpoint_takes_the_periods_and_as_many_steps_as_settings_take(args, message):
    given = {**SMALLEST["ModelEndpoint"], **FULLEST["ModelEndpoint"], **args}
    with pytest.raises(ValueError, match=message):
        declare(lambda: ModelEndpoint("churn", given))

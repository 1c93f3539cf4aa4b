"""Mistyped, forgotten and misplaced arguments, for every component alike."""

from __future__ import annotations

import re
from typing import Any, TypedDict

import pulumi
import pytest

from mocks import declare
from modelworks import Environment, ModelEndpoint
from modelworks._resources.arguments import checked
from smallest import COMPONENTS, FULLEST, SMALLEST, hints_of, kind_of_arguments, takes_outputs

every_component = pytest.mark.parametrize("component", COMPONENTS, ids=lambda item: item.__name__)
INTEGERS = [
    (component, name)
    for component in COMPONENTS
    for name, hint in hints_of(kind_of_arguments(component)).items()
    if hint is int
]


def refused(component, args):
    with pytest.raises(ValueError, match=component.__name__) as error:
        declare(lambda: component("churn", args))
    return str(error.value)


def endpoint(**args):
    return refused(ModelEndpoint, {**SMALLEST["ModelEndpoint"], **args})


def environment(**args):
    return refused(Environment, {**SMALLEST["Environment"], **args})


def test_every_component_is_held_to_these_tests():
    assert set(SMALLEST) == {component.__name__ for component in COMPONENTS}


@every_component
def test_the_required_arguments_are_enough(component):
    declared = declare(lambda: component("churn", SMALLEST[component.__name__]))
    assert declared.all(f"modelworks:index:{component.__name__}") == {"churn": {}}


@every_component
def test_a_mistyped_argument_is_refused_with_the_nearest_one(component):
    name = max(kind_of_arguments(component).__optional_keys__)
    message = refused(component, {**SMALLEST[component.__name__], name[:-1]: 1})
    assert message == f"{component.__name__} 'churn': {name[:-1]} is an unknown argument; did you mean {name!r}?"


@every_component
def test_arguments_that_are_no_mapping_are_refused(component):
    assert refused(component, 5) == f"{component.__name__} 'churn': args must be a mapping, got int 5"


@every_component
def test_all_forgotten_arguments_are_named_at_once(component):
    message = refused(component, {})
    required = kind_of_arguments(component).__required_keys__
    assert required <= set(re.findall(r"\w+", message))
    assert message.endswith("required and missing")
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(("component", "name"), INTEGERS)
def test_a_text_is_no_integer(component, name):
    message = refused(component, {**SMALLEST[component.__name__], name: "3"})
    assert message == f"{component.__name__} 'churn': {name} must be an integer, got str '3'"


@every_component
def test_an_output_passes_wherever_an_input_is_taken(component):
    given = {**SMALLEST[component.__name__], **FULLEST[component.__name__]}
    hints = hints_of(kind_of_arguments(component))

    def program():
        wrap = pulumi.Output.from_input
        component(
            "churn", {name: wrap(value) if takes_outputs(hints[name]) else value for name, value in given.items()}
        )

    plain = declare(lambda: component("churn", given))
    assert declare(program).resources == plain.resources


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"canary": {"step_second": 3}}, "canary.step_second is an unknown argument; did you mean 'step_seconds'?"),
        ({"limits": {"error_rate": 1}}, "limits.error_rate is an unknown argument; did you mean 'error_ratio'?"),
        ({"release": {"version": 1}}, "release.digest is required and missing"),
        (
            {"release": {"digest": "sha256:0", "vrsion": 1}},
            "release.vrsion is an unknown argument; did you mean 'version'?",
        ),
        ({"canary": {"steps": [5, "50"]}}, "canary.steps[1] must be an integer, got str '50'"),
        ({"canary": {"steps": 5}}, "canary.steps must be a list, got int 5"),
        ({"canary": None}, "canary must be a mapping, got None"),
        ({"canary": [5]}, "canary must be a mapping, got list [5]"),
        ({"trusted_keys": {"a.pem": 1}}, "trusted_keys['a.pem'] must be a text, got int"),
        ({"minimum_replicas": True}, "minimum_replicas must be an integer, got bool True"),
        ({"minimum_replicas": 2.5}, "minimum_replicas must be an integer, got float 2.5"),
        ({"minimum_replicas": None}, "minimum_replicas must be an integer, got None"),
        ({"allow_anonymous": "yes"}, "allow_anonymous must be true or false, got str 'yes'"),
        ({"latency_objective_ms": "50"}, "latency_objective_ms must be a number, got str '50'"),
        ({"zzz": 1, "host": "h"}, "zzz is an unknown argument; known here: account_id, alerts_topic_arn, "),
    ],
)
def test_a_mistake_is_named_with_its_path_the_rule_and_the_value(args, message):
    assert endpoint(**args).startswith(f"ModelEndpoint 'churn': {message}")


def test_a_mistake_in_a_budget_is_named_too():
    assert environment(budget={"monthly_eur": 5}).splitlines() == [
        "Environment 'churn': budget.monthly_eur is an unknown argument; did you mean 'monthly_usd'?",
        "Environment 'churn': budget.monthly_usd is required and missing",
    ]


def test_all_mistakes_are_listed_in_one_error():
    message = endpoint(minimum_replica=1, cpu_millicores="1", canary={"stepps": [5]})
    assert [line.split()[2] for line in message.splitlines()] == ["minimum_replica", "canary.stepps", "cpu_millicores"]


def test_what_decides_what_is_declared_is_no_output():
    def program():
        ModelEndpoint("churn", {**SMALLEST["ModelEndpoint"], "minimum_replicas": pulumi.Output.from_input(1)})

    with pytest.raises(
        ValueError, match="minimum_replicas decides what is declared, and so must be an integer, got an"
    ):
        declare(program)


def test_a_value_that_may_be_a_secret_is_not_shown():
    assert "hunter2" not in endpoint(tokens=["hunter2"])


class _Args(TypedDict):
    labels: dict[str, Any]
    place: Any


def test_an_argument_of_any_type_takes_what_it_is_given():
    args: _Args = {"labels": {"a": None, "b": [1]}, "place": None}
    assert checked("churn", _Args, args) == args


def test_a_long_value_is_shortened():
    assert len(endpoint(limits=list(range(1000)))) < 120


def test_a_whole_number_is_a_number():
    args = {**SMALLEST["ModelEndpoint"], **FULLEST["ModelEndpoint"], "latency_objective_ms": 50}
    assert declare(lambda: ModelEndpoint("churn", args)).resources

"""Every default is stated once: settings, components and their documentation follow one table."""

from __future__ import annotations

import re
import typing

import pytest
from component_analyzer import ComponentAnalyzer

from mocks import ROOT, declare
from modelworks import ModelEndpoint, alarms, cluster_settings, defaults, feature_settings, settings, workload_settings
from smallest import COMPONENTS, FULLEST, SMALLEST, hints_of, kind_of_arguments, kinds_of_arguments, may_be_none

ROLLOUT = "kubernetes:argoproj.io/v1alpha1:Rollout"
KINDS = kinds_of_arguments()
ANALYZED = ComponentAnalyzer().analyze(COMPONENTS)
DOCUMENTED = [
    (kind, name, described)
    for kind, definition in [
        *((f"{name}Args", item.inputs) for name, item in ANALYZED["component_definitions"].items()),
        *((name, item.properties) for name, item in ANALYZED["type_definitions"].items()),
    ]
    for name, described in ((re.sub("([A-Z])", r"_\1", key).lower(), item) for key, item in definition.items())
    if name in defaults.OF_ARGUMENTS[kind]
]


def stated(description: str) -> str:
    """What a docstring says of its default."""
    (found,) = re.findall(r"Default:? (.+?)(?:[.:](?:\s|$)|, and )", " ".join(description.split()))
    return found


def in_words(value: object) -> str:
    if value is None or value in ([], {}):
        return "none"
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, list) else f"{value:.15g}"


def test_the_table_holds_every_kind_of_arguments_that_there_is():
    assert set(defaults.OF_ARGUMENTS) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_holds_every_argument_that_may_be_left_out(kind):
    hints = hints_of(KINDS[kind])
    of_their_own = {name for name, hint in hints.items() if typing.is_typeddict(hint) and not may_be_none(hint)}
    assert set(defaults.OF_ARGUMENTS[kind]) == KINDS[kind].__optional_keys__ - of_their_own


@pytest.mark.parametrize(("kind", "name", "described"), DOCUMENTED, ids=lambda item: item if type(item) is str else "")
def test_a_docstring_states_the_default_of_the_table(kind, name, described):
    assert stated(described.description) == in_words(defaults.OF_ARGUMENTS[kind][name])


def test_every_default_of_the_table_is_documented():
    assert len(DOCUMENTED) == sum(len(table) for table in defaults.OF_ARGUMENTS.values())


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda item: item.__name__)
def test_a_component_without_optional_arguments_is_one_with_those_of_the_table(component):
    smallest = {**SMALLEST[component.__name__], **RELEASED.get(component.__name__, {})}
    kind = kind_of_arguments(component)
    nested = {
        name: dict(defaults.OF_ARGUMENTS[hint.__name__])
        for name, hint in hints_of(kind).items()
        if typing.is_typeddict(hint)
    }
    everything = {**defaults.OF_ARGUMENTS[kind.__name__], **nested, **smallest}
    found, wanted = (declare(lambda args=args: component("churn", args)).resources for args in (smallest, everything))
    assert found == wanted


RELEASED = {"ModelEndpoint": {"release": FULLEST["ModelEndpoint"]["release"], "allow_anonymous": True}}


def test_a_component_reads_the_table(monkeypatch):
    monkeypatch.setitem(defaults.CANARY, "steps", [33])
    monkeypatch.setitem(defaults.ENDPOINT, "minimum_replicas", 4)
    args = {**SMALLEST["ModelEndpoint"], **RELEASED["ModelEndpoint"]}
    spec = declare(lambda: ModelEndpoint("churn", args)).one(ROLLOUT)["spec"]
    assert (spec["replicas"], spec["strategy"]["canary"]["steps"][0]) == (4, {"setWeight": 33})


def test_a_component_leaves_the_table_as_it_is():
    args = {**SMALLEST["ModelEndpoint"], **RELEASED["ModelEndpoint"], "canary": {}}
    declare(lambda: ModelEndpoint("churn", args))
    assert args["canary"] == {}
    assert defaults.CANARY["steps"] == [5, 25, 50]


SETTINGS = [
    (settings.Registry(), defaults.REGISTRY),
    (settings.Training(), defaults.TRAINING),
    # A stack has a namespace and an image for the job: it is declared unless it is ruled out.
    (feature_settings.Features(materialization=None), defaults.FEATURES),
    (feature_settings.Materialization(), defaults.MATERIALIZATION),
    (workload_settings.Pod(), defaults.POD),
    (workload_settings.Toleration(operator="Exists"), {**defaults.TOLERATION, "operator": "Exists"}),
    (settings.Predictions(), defaults.PREDICTIONS),
    (settings.Canary(), defaults.CANARY),
    (settings.Limits(), defaults.LIMITS),
    (settings.Endpoint(), defaults.ENDPOINT),
    (settings.Ingress(), defaults.INGRESS),
    (settings.Budget(monthly_usd=1), defaults.BUDGET),
    (settings.Release(digest="sha256:" + "0" * 64), defaults.RELEASE),
    (settings.Settings(owner="me", cost_centre="1"), {**defaults.ENVIRONMENT, **defaults.ENDPOINT}),
    (cluster_settings.Cluster(), defaults.CLUSTER_ADDONS),
    (cluster_settings.Eks(administrators=["arn:aws:iam::111111111111:role/deploy"]), defaults.CLUSTER),
]


@pytest.mark.parametrize(("read", "table"), SETTINGS, ids=lambda item: type(item).__name__)
def test_settings_have_the_defaults_of_the_table(read, table):
    shared = set(type(read).model_fields) & set(table)
    assert shared
    assert {name: getattr(read, name) for name in shared} == {name: table[name] for name in shared}


@pytest.mark.parametrize(
    ("read", "table"),
    [
        # The stack's own store of features.
        (
            settings.Training(),
            {name: value for name, value in defaults.TRAINING.items() if name != "feature_history"}
            | {"pod": defaults.POD},
        ),
        (settings.Canary(), defaults.CANARY),
        (settings.Limits(), defaults.LIMITS),
        # The stack's own tags.
        (settings.Ingress(), {name: value for name, value in defaults.INGRESS.items() if name != "tags"}),
        (workload_settings.Pod(), defaults.POD),
    ],
)
def test_settings_leave_none_of_these_out(read, table):
    assert read.model_dump() == table


def test_alarms_have_the_limits_of_the_table():
    assert alarms.endpoint_alarms() == alarms.endpoint_alarms(**defaults.LIMITS)
    assert alarms.Alarm("a", "b", "c", 1).period_seconds == defaults.LIMITS["period_seconds"]


def test_the_guide_to_training_states_the_defaults_of_the_table():
    guide = (ROOT / "docs/guides/training.md").read_text(encoding="utf-8")
    found = {}
    for names, values in re.findall(r"^\| (`training\.[^|]+) \| ([^|]+) \|", guide, re.MULTILINE):
        keys = [name.removeprefix("training.") for name in re.findall(r"`([\w.]+)`", names)]
        found |= dict(zip(keys, map(int, values.split(", ")), strict=True))
    assert found == {name: value for name, value in defaults.TRAINING.items() if isinstance(value, int)}

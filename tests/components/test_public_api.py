from __future__ import annotations

import ast
import gc
import inspect

import pytest
from component_analyzer import ComponentAnalyzer

import modelworks
from smallest import COMPONENTS


def test_everything_that_is_promised_is_there():
    assert [name for name in modelworks.__all__ if not hasattr(modelworks, name)] == []


def test_a_name_that_is_not_there_is_answered_with_those_that_are():
    with pytest.raises(AttributeError, match="it has Cluster, ClusterAddons, Environment"):
        modelworks.NoSuchThing  # noqa: B018


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda item: item.__name__)
def test_a_schema_for_other_languages_can_be_inferred_and_documents_every_property(component):
    found = ComponentAnalyzer().analyze([component])
    definition = found["component_definitions"][component.__name__]
    described = [
        definition.inputs,
        definition.outputs,
        *(kind.properties for kind in found["type_definitions"].values()),
    ]
    undocumented = [name for properties in described for name, facts in properties.items() if not facts.description]
    assert undocumented == []
    assert definition.description


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda item: item.__name__)
def test_a_schema_holds_the_component_s_own_outputs_and_no_insides(component):
    definition = ComponentAnalyzer().analyze_component(component)
    assert set(definition.outputs_mapping.values()) == {
        name for name in inspect.get_annotations(component) if not name.startswith("_")
    }


def test_all_components_make_one_schema():
    found = ComponentAnalyzer().analyze(COMPONENTS)
    assert set(found["component_definitions"]) == set(modelworks.__all__)


def test_descriptions_are_read_while_a_collection_of_garbage_parses_too():
    gc.callbacks.append(parse)
    try:
        definition = ComponentAnalyzer().analyze_component(modelworks.Cluster)
    finally:
        gc.callbacks.remove(parse)
    assert all(facts.description for facts in definition.inputs.values())


def parse(*_):
    ast.parse("1")


def test_a_source_that_cannot_be_read_is_an_error(monkeypatch):
    monkeypatch.setattr(inspect, "getsource", lambda _: "class ClusterArgs(")
    with pytest.raises(LookupError, match=r"the source of modelworks.eks_cluster.ClusterArgs cannot be read"):
        ComponentAnalyzer().analyze_component(modelworks.Cluster)

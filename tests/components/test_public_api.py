from __future__ import annotations

import inspect

import pytest
from pulumi.provider.experimental.analyzer import Analyzer

import modelworks
from smallest import COMPONENTS


def test_everything_that_is_promised_is_there():
    assert [name for name in modelworks.__all__ if not hasattr(modelworks, name)] == []


def test_a_name_that_is_not_there_is_answered_with_those_that_are():
    with pytest.raises(AttributeError, match="it has Cluster, ClusterAddons, Environment"):
        modelworks.NoSuchThing  # noqa: B018


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda item: item.__name__)
def test_a_schema_for_other_languages_can_be_inferred_and_documents_every_property(component):
    found = Analyzer("modelworks").analyze([component])
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
    definition = Analyzer("modelworks").analyze_component(component)
    assert set(definition.outputs_mapping.values()) == {
        name for name in inspect.get_annotations(component) if not name.startswith("_")
    }


def test_all_components_make_one_schema():
    found = Analyzer("modelworks").analyze(COMPONENTS)
    assert set(found["component_definitions"]) == set(modelworks.__all__)

from __future__ import annotations

import inspect

import pulumi
import pytest
from pulumi.provider.experimental.analyzer import Analyzer

import modelworks

COMPONENTS = [
    item
    for name in modelworks.__all__
    if inspect.isclass(item := getattr(modelworks, name)) and issubclass(item, pulumi.ComponentResource)
]


def test_everything_that_is_promised_is_there():
    assert [name for name in modelworks.__all__ if not hasattr(modelworks, name)] == []


def test_a_name_that_is_not_there_is_answered_with_those_that_are():
    with pytest.raises(AttributeError, match="it has Environment"):
        modelworks.NoSuchThing  # noqa: B018


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda item: item.__name__)
def test_a_schema_for_other_languages_can_be_inferred_and_documents_every_property(component):
    definition = Analyzer("modelworks").analyze_component(component)
    undocumented = [
        name for name, facts in {**definition.inputs, **definition.outputs}.items() if not facts.description
    ]
    assert undocumented == []
    assert definition.description

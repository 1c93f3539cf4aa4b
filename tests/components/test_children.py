from __future__ import annotations

import dataclasses

import pulumi
import pytest

from mocks import declare
from smallest import COMPONENTS, FULLEST, SMALLEST


def reachable(value: object) -> set[pulumi.Resource]:
    """Resources behind an attribute: itself, those of a list, those of a record."""
    if isinstance(value, pulumi.Resource):
        return {value}
    if isinstance(value, list):
        return {found for item in value for found in reachable(item)}
    if dataclasses.is_dataclass(value):
        return {found for field in dataclasses.fields(value) for found in reachable(getattr(value, field.name))}
    return set()


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda item: item.__name__)
def test_every_child_is_an_attribute_of_its_component(component):
    hidden = []

    def program():
        made = component("churn", {**SMALLEST[component.__name__], **FULLEST[component.__name__]})
        public = {name: value for name, value in vars(made).items() if not name.startswith("_")}
        assert made._childResources
        hidden.extend(made._childResources - {found for value in public.values() for found in reachable(value)})

    declare(program)
    assert [child.pulumi_resource_name for child in hidden] == []

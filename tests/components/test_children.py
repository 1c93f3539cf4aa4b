from __future__ import annotations

import dataclasses

import pulumi
import pytest

from mocks import ACCOUNT, declare
from modelworks import FeatureStore
from smallest import COMPONENTS, FULLEST, SMALLEST

VENDORS = {
    "hopsworks": {"url": "https://features.example.com", "repository": "acme/hopsworks-base"},
    "tecton": {
        "url": "https://acme.tecton.ai",
        "deployment": "acme",
        "control_plane_account_id": ACCOUNT,
        "external_id": "an-external-id",
    },
}


def reachable(value: object) -> set[pulumi.Resource]:
    """Resources behind an attribute: itself, those of a list, those of a record."""
    if isinstance(value, pulumi.Resource):
        return {value}
    if isinstance(value, list):
        return {found for item in value for found in reachable(item)}
    if dataclasses.is_dataclass(value):
        return {found for field in dataclasses.fields(value) for found in reachable(getattr(value, field.name))}
    return set()


every_component = pytest.mark.parametrize("component", COMPONENTS, ids=lambda item: item.__name__)


def attributes(component, **args) -> set[str]:
    """Public attributes of a component."""
    made = []
    declare(lambda: made.append(component("churn", {**SMALLEST[component.__name__], **args})))
    return {name for name in vars(made[0]) if not name.startswith("_")}


@every_component
def test_every_child_is_an_attribute_of_its_component(component):
    hidden = []

    def program():
        made = component("churn", {**SMALLEST[component.__name__], **FULLEST[component.__name__]})
        public = {name: value for name, value in vars(made).items() if not name.startswith("_")}
        assert made._childResources
        hidden.extend(made._childResources - {found for value in public.values() for found in reachable(value)})

    declare(program)
    assert [child.pulumi_resource_name for child in hidden] == []


@every_component
def test_a_child_that_is_not_declared_is_an_attribute_all_the_same(component):
    """A program that reaches for it says so with `if`, before the first release as after it."""
    assert attributes(component, **FULLEST[component.__name__]) == attributes(component)


@pytest.mark.parametrize("engine", VENDORS)
def test_a_feature_store_of_a_vendor_has_the_attributes_of_any(engine):
    assert attributes(FeatureStore, engine=engine, vendor=VENDORS[engine]) == attributes(FeatureStore)

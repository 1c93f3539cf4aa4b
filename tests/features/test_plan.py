from __future__ import annotations

from dataclasses import replace

import pytest

from modelworks.errors import ModelworksError
from modelworks.feature_manifest import FeatureManifest, OnDemandView, Service, View
from modelworks.features.plan import Change, changes, refuse_breaking, users

WEATHER = View(
    model="flights", entities=("airport",), keys={"origin": "String"}, features={"wind": "Float64", "snow": "Float64"},
    ttl_seconds=7200, source="weather", event_time="hour", created_time=None, stored={}, online=True, digest="1",
)  # fmt: skip
FLIGHT = Service("flights", {"weather": ("wind",)})
GUSTS = OnDemandView("flights", ("weather:wind", "now"), {"gusts": "Float64"}, "1")


def manifest(*, weather=WEATHER, services=None, on_demand=None):
    views = {"weather": weather} if weather else {}
    return FeatureManifest(views, on_demand or {}, {"flight": FLIGHT} if services is None else services)


BEFORE = manifest()


def test_the_same_definitions_change_nothing():
    assert changes(BEFORE, BEFORE) == []


def test_a_new_view_and_a_new_feature_break_nobody():
    more = replace(WEATHER, features={**WEATHER.features, "rain": "Int64"})
    assert changes(BEFORE, manifest(weather=more)) == [Change("add", "feature weather:rain", "Int64")]
    assert changes(manifest(weather=None, services={}), manifest(services={})) == [
        Change("add", "view weather", "2 features")
    ]


@pytest.mark.parametrize(
    ("changed", "subject"),
    [
        (None, "view weather"),
        (replace(WEATHER, features={"snow": "Float64"}), "feature weather:wind"),
        (replace(WEATHER, features={**WEATHER.features, "wind": "Int64"}), "feature weather:wind"),
        (replace(WEATHER, keys={"origin": "Int64"}), "view weather"),
        (replace(WEATHER, online=False), "view weather"),
    ],
)
def test_what_a_service_uses_breaks_its_model_when_it_is_lost(changed, subject):
    broken = [change for change in changes(BEFORE, manifest(weather=changed)) if change.breaks]
    assert [(change.subject, change.breaks) for change in broken] == [(subject, ("flights",))]


def test_a_feature_that_no_service_uses_is_removed_without_a_break():
    less = replace(WEATHER, features={"wind": "Float64"})
    assert changes(BEFORE, manifest(weather=less)) == [Change("remove", "feature weather:snow", "Float64")]


@pytest.mark.parametrize(
    "changed", [{"ttl_seconds": 60.0}, {"source": "other"}, {"event_time": "at"}, {"stored": {"wind": "w"}}]
)
def test_another_source_or_ttl_affects_the_models_that_use_the_view(changed):
    (change,) = changes(BEFORE, manifest(weather=replace(WEATHER, **changed)))
    assert (change.affects, change.breaks) == (("flights",), ())


def test_a_service_that_loses_a_feature_or_goes_breaks_its_model():
    (change,) = changes(BEFORE, manifest(services={"flight": Service("flights", {"weather": ("snow",)})}))[:1]
    assert (change.detail, change.breaks) == ("without weather:wind", ("flights",))
    (gone,) = changes(BEFORE, manifest(services={}))
    assert (gone.action, gone.breaks) == ("remove", ("flights",))


def test_a_model_that_reads_through_a_view_on_demand_uses_the_view_below_it():
    through = manifest(services={"s": Service("seats", {"gusts": ("gusts",)})}, on_demand={"gusts": GUSTS})
    assert users(through, "weather", "wind") == ("seats",)
    assert users(through, "weather", "snow") == ()
    after = manifest(
        weather=replace(WEATHER, features={"snow": "Float64"}), services=through.services, on_demand={"gusts": GUSTS}
    )
    assert [change.breaks for change in changes(through, after)] == [("seats",)]


def test_a_break_of_a_released_model_is_refused_with_its_environments():
    planned = changes(BEFORE, manifest(weather=None))
    with pytest.raises(
        ModelworksError, match=r"flights, released in dev, prod, would break: remove view weather"
    ) as refused:
        refuse_breaking(planned, {"flights": ("dev", "prod")}, [])
    assert "--allow-breaking flights" in refused.value.fix


@pytest.mark.parametrize(
    ("released", "allowed"), [({}, []), ({"other": ("dev",)}, []), ({"flights": ("dev",)}, ["flights"])]
)
def test_a_break_of_what_is_not_released_or_is_accepted_goes_on(released, allowed):
    refuse_breaking(changes(BEFORE, manifest(weather=None)), released, allowed)

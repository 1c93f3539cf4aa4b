from __future__ import annotations

import sys

import pytest

from modelworks.errors import ModelworksError
from modelworks.feature_manifest import FeatureManifest, athena_type, parse, read_manifest
from modelworks.features.definitions import read_definitions
from modelworks.features.environment import apply, open_store, registered_manifest

FLIGHTS = """
from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Array, Float64, Int64

airport = Entity(name="airport", join_keys=["origin"], value_type=ValueType.STRING)
weather = FeatureView(
    name="weather", entities=[airport], ttl=timedelta(hours=2),
    schema=[Field(name="wind", dtype=Float64), Field(name="gusts", dtype=Array(Int64))],
    source=FileSource(name="weather", path="weather/", timestamp_field="hour", field_mapping={"wind_mph": "wind"}),
)
flight = FeatureService(name="flight", features=[weather[["wind"]]])
"""
SCHEMA = 'schema=[Field(name="wind", dtype=Float64), Field(name="gusts", dtype=Array(Int64))],'
SEATS = """
from feast import FeatureService
from flights.features import weather
seats = FeatureService(name="seats", features=[weather])
"""


@pytest.fixture
def project(tmp_path):
    def write(**files):
        for model, text in files.items():
            folder = tmp_path / "models" / model
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "features.py").write_text(text)
        return tmp_path

    return write


def test_a_view_is_in_the_manifest_with_its_keys_types_and_source(project):
    view = read_definitions(project(flights=FLIGHTS)).manifest.views["weather"]
    assert (view.model, view.keys, view.ttl_seconds) == ("flights", {"origin": "String"}, 7200)
    assert view.features == {"wind": "Float64", "gusts": "Array(Int64)"}
    assert (view.source, view.path) == ("weather", "weather")


def test_columns_of_the_catalog_are_those_of_the_source(project):
    columns = read_definitions(project(flights=FLIGHTS)).manifest.views["weather"].columns
    assert columns == {"origin": "string", "wind_mph": "double", "gusts": "array<bigint>", "hour": "timestamp"}


def test_a_service_names_the_features_that_its_model_uses(project):
    services = read_definitions(project(flights=FLIGHTS, plane_seats=SEATS)).manifest.services
    assert services["flight"].features == {"weather": ("wind",)}
    assert services["seats"].features == {"weather": ("wind", "gusts")}
    assert services["seats"].model == "plane-seats"


def test_a_model_uses_what_another_defines_and_does_not_own_it(project):
    manifest = read_definitions(
        project(plane_seats=SEATS, flights=FLIGHTS, a_first="from flights.features import *")
    ).manifest
    assert set(manifest.views) == {"weather"}


def test_the_same_definitions_give_the_same_bytes(project):
    root = project(flights=FLIGHTS)
    assert read_definitions(root).manifest.to_json() == read_definitions(root).manifest.to_json()


def test_a_changed_definition_is_read_again_and_has_another_digest(project):
    before = read_definitions(project(flights=FLIGHTS)).manifest.views["weather"]
    after = read_definitions(project(flights=FLIGHTS.replace("hours=2", "hours=3"))).manifest.views["weather"]
    assert (before.digest != after.digest, after.ttl_seconds) == (True, 10_800)


def test_a_view_of_a_registry_has_the_digest_of_its_definition(project, tmp_path):
    definitions = read_definitions(project(flights=FLIGHTS))
    before = definitions.manifest
    config = (
        f"project: p\nprovider: local\nregistry: {tmp_path}/registry.db\n"
        f"offline_store: {{type: modelworks.features.offline.PolarsOfflineStore, location: {tmp_path}}}\n"
        f"online_store: {{type: sqlite, path: {tmp_path}/online.db}}\nentity_key_serialization_version: 3\n"
    )
    store = open_store(config)
    apply(store, definitions)
    assert registered_manifest(store) == before
    assert before.views


def test_reading_definitions_leaves_no_module_and_no_path(project):
    before = set(sys.modules), list(sys.path)
    read_definitions(project(flights=FLIGHTS))
    assert "flights.features" not in set(sys.modules) - before[0]
    assert sys.path == before[1]


def test_a_manifest_comes_back_as_it_was(project):
    manifest = read_definitions(project(flights=FLIGHTS, plane_seats=SEATS)).manifest
    assert parse(manifest.to_json()) == manifest


def test_a_project_without_features_has_an_empty_manifest(tmp_path):
    assert read_definitions(tmp_path).manifest == FeatureManifest()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "views": {"w": {"x": 1}}}', "null"])
def test_a_damaged_manifest_is_named(tmp_path, text):
    (tmp_path / "models").mkdir()
    (tmp_path / "models/features.json").write_text(text)
    with pytest.raises(ModelworksError, match=r"features\.json is no manifest of features"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("airport = ", "airport = 1 / 0 #"), r"flights/features\.py:6: ZeroDivisionError"),
        ((SCHEMA, ""), "states no features"),
        ((", value_type=ValueType.STRING", ""), "entity 'airport' states no type"),
        (('weather[["wind"]]', 'weather[["snow"]]'), "snow"),
    ],
)  # fmt: skip
def test_an_incomplete_definition_is_refused_by_its_name(project, change, message):
    with pytest.raises(ModelworksError, match=message):
        read_definitions(project(flights=FLIGHTS.replace(*change))).manifest  # noqa: B018


def test_two_views_of_one_name_are_refused_with_both_models(project):
    with pytest.raises(ModelworksError, match="'airport' is defined by flights and by other"):
        read_definitions(project(flights=FLIGHTS, other=FLIGHTS))


def test_a_folder_that_bears_the_name_of_an_installed_package_is_refused(project):
    with pytest.raises(ModelworksError, match="feast"):
        read_definitions(project(feast=FLIGHTS))


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("weather", "weather"),
        ("a/b", "a/b"),
        ("s3://other/x", None),
        ("/data/x", None),
        ("x.parquet", None),
        ("x/*", None),
    ],
)
def test_only_a_folder_in_the_offline_store_is_in_the_catalog(project, source, path):
    text = FLIGHTS.replace('path="weather/"', f'path="{source}"')
    assert read_definitions(project(flights=text)).manifest.views["weather"].path == path


def test_a_type_that_athena_lacks_is_refused_with_those_that_it_has():
    with pytest.raises(ModelworksError, match="Athena has no type for Feast's Map") as refused:
        athena_type("Map")
    assert "Float64" in refused.value.fix

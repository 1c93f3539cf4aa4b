"""Features that a function makes of stored values and values of the request: one function to train, judge and serve."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from functools import partial

import msgspec
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, strategies

from lifecycle.test_stored_features import (
    FEATURES,
    MODEL,
    Flights,
    Served,
    _logged,
    flights_in,
    requests_of,
    scores_of,
    tables,
)
from modelworks.contract import Digest
from modelworks.errors import ModelworksError
from modelworks.features.definitions import read_definitions
from modelworks.features.recomputed import verify_computed
from modelworks.features.served import Served as ServedRows
from modelworks.lifecycle import stored_features
from modelworks.lifecycle.bundle import build_bundle
from modelworks.lifecycle.bundle_scores import score_bundle
from modelworks.lifecycle.data import SnapshotStore, read_rows
from modelworks.lifecycle.feature_services import features_of
from modelworks.lifecycle.rows import request_rows, rows_of
from modelworks.lifecycle.run_gates import judge
from modelworks.lifecycle.stored_features import stored_of, with_history
from modelworks.lifecycle.training import train
from modelworks.runtime.bundle import open_bundle
from modelworks.runtime.manifest import Code, Manifest
from modelworks.runtime.predictor import Predictor
from modelworks.runtime.schema import Rows
from modelworks.runtime.stored import Inputs, LoggedStored
from runtime.running import PATIENT, Server, settings
from waiting import eventually

TRANSFORMATIONS = """
def pace(inputs):
    if max(inputs["seats"]) > 10_000:
        raise ValueError("no aircraft has so many seats")
    return {
        "pace": [
            None if delay is None or not distance else delay / distance
            for delay, distance in zip(inputs["delays__mean_delay"], inputs["distance"])
        ],
        "crowd": [(flights or 0) * seats / 3 for flights, seats in zip(inputs["flights"], inputs["seats"])],
    }
"""
VIEWS = FEATURES.replace(
    "flight = FeatureService",
    """
from feast import RequestSource
from feast.on_demand_feature_view import on_demand_feature_view

from .transformations import pace

paced = on_demand_feature_view(
    name="paced",
    sources=[
        delays,
        RequestSource(name="asked", schema=[Field(name="distance", dtype=Float64), Field(name="seats", dtype=Int64)]),
    ],
    schema=[Field(name="pace", dtype=Float64), Field(name="crowd", dtype=Float64)],
    mode="python",
)(pace)
flight = FeatureService""",
).replace("features=[weather, delays]", 'features=[weather, delays[["flights"]], paced]')
MODEL_ON_DEMAND = (
    MODEL.replace(
        'Feature(name="mean_delay", type="number", minimum=-100, maximum=1000, nullable=True)',
        'Feature(name="pace", type="number", minimum=-0.5, nullable=True), '
        'Feature(name="crowd", type="number", nullable=True)',
    )
    .replace("    train=train,", "    train=train,\n    service=Service(trusted_code=True),")
    .replace("ModelSpec, StoredFeatures", "ModelSpec, Service, StoredFeatures")
    .replace(
        'pd.read_parquet(Path(__file__).with_name("rows.parquet"))',
        'pd.read_parquet(Path(__file__).with_name("rows.parquet")).assign(seats=lambda rows: range(len(rows)))',
    )
)


FILES = {"features": VIEWS, "model": MODEL_ON_DEMAND, "transformations": TRANSFORMATIONS}
ASKED = ("tail", "seats", "origin", "distance")


@pytest.fixture
def flights(tmp_path, monkeypatch):
    return partial(flights_in, tmp_path, monkeypatch, **FILES)


def test_a_request_gets_bit_for_bit_the_computed_values_that_the_gates_judged(flights, uploads, tmp_path):
    made = flights()
    run = train(made.spec, made.home)
    bundle = build_bundle(run, made.home)
    assert judge(run, made.home, bundle.path, bundle.digest)[0]["verdict"] in {"pass", "inconclusive"}
    manifest = open_bundle(bundle.path, bundle.digest, "flights", tmp_path / "bento")
    frame = read_rows(SnapshotStore(made.home.data).get(Digest(run.inputs["data"])))
    recent = frame[frame["departure"] > made.now - timedelta(hours=4)].head(60)
    judged = score_bundle(made.spec, Predictor(tmp_path / "bento", manifest), recent)[:, 1].tolist()
    made.materialize()  # which applies the definitions to a registry
    environ = tables(MODELWORKS_PREDICTION_LOG="s3://log/predictions/flights", MODELWORKS_PREDICTION_LOG_SECONDS="0.2")
    server = Server(settings(Served(bundle), **environ), tmp_path / "log", program=PATIENT).ready()
    try:
        asked = requests_of(recent, ASKED)
        alone, together = [scores_of(server, [row])[0] for row in asked], scores_of(server, asked)
        eventually(lambda: len(_logged(uploads)) == 2 * len(asked))
        schema = server.ask("GET", "/v1/schema")[1]["row"]
        [lacking, *_] = asked
        del lacking["seats"]
        refused = server.ask("POST", "/v1/predict", msgspec.json.encode({"rows": [lacking]}))
        failed = server.ask("POST", "/v1/predict", msgspec.json.encode({"rows": [{**lacking, "seats": 10_001}]}))
    finally:
        server.stop()
    assert alone == together == judged
    assert len(set(judged)) > 10
    assert list(schema["properties"]) == ["tail", "seats", "origin", "distance"]
    assert refused[0] == 422
    assert "seats" in str(refused[1])
    assert failed[0] == 500
    assert "pace raised ValueError: no aircraft has so many seats" in server.log.read_text()
    [row] = [row for row in _logged(uploads) if row["key_tail"] and row["key_seats"] == recent["seats"].iloc[-1]][:1]
    pace = row["read_delays__mean_delay"] / row["feature_distance"]
    assert row["feature_pace"] == (pace if pace >= -0.5 else None)
    skews = made.verify_served(uploads)
    assert {(skew.view, skew.feature) for skew in skews} == {
        ("weather", "wind"), ("weather", "sky"), ("weather", "storm"), ("delays", "flights"), ("delays", "mean_delay"),
        ("paced", "pace"), ("paced", "crowd"),
    }  # fmt: skip
    assert [(skew.compared, skew.different + skew.stale + skew.missing) for skew in skews] == [(120, 0)] * 7
    assert (
        features_of(run, bundle)["features"]["views"]["paced"]
        == read_definitions(made.folder).manifest.on_demand["paced"].digest
    )


def manifest_of(spec) -> Manifest:
    """As a bundle of the model has it, for what makes its rows."""
    return Manifest(
        model=spec.name,
        kind=spec.kind,
        task=spec.description,
        features=spec.served_features,
        examples=({},),
        code=Code(package=spec.package, files={}),
        stored=stored_of(spec),
    )


READ = {
    "wind": strategies.none() | strategies.floats(width=32),
    "sky": strategies.sampled_from(["rain", "fog", None]),
    "storm": strategies.sampled_from([True, False, None]),
    "flights": strategies.none() | strategies.integers(-(2**63), 2**63 - 1),
    "mean_delay": strategies.none() | strategies.floats(),
}
ROW = strategies.fixed_dictionaries(
    {
        **READ,
        "tail": strategies.sampled_from(["N1", None]),
        "origin": strategies.sampled_from(["EWR", "JFK"]),
        "distance": strategies.floats(0, 10_000),
        "seats": strategies.integers(-(2**53) + 1, 10_000),
    }
)


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    folder = tmp_path_factory.mktemp("on-demand")
    return Flights(folder, **FILES).spec


@given(rows=strategies.lists(ROW, min_size=1, max_size=8))
def test_training_gates_and_server_make_the_same_row_bit_for_bit(spec, rows):
    manifest = manifest_of(spec)
    assert manifest.stored is not None
    names = ["tail", "origin", "distance", "seats"]
    frame = pd.DataFrame({name: [row[name] for row in rows] for name in names})
    read = {name: [row[name] for row in rows] for name in manifest.stored.read}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored_features, "_history", lambda *_: nullcontext(""))
        patch.setattr(stored_features, "_read", lambda *_: read)
        trained = with_history(spec, frame, manifest.stored)
    [judged] = request_rows(trained, manifest, at_most=100)
    inputs, decode = Inputs(manifest), Rows(manifest).decode
    served = []
    for row in rows:
        request = decode(msgspec.json.encode({"rows": [{name: row[name] for name in names}]}))
        values, failed = inputs.compute(request, [tuple(row[name] for name in manifest.stored.read)])
        served += inputs.complete(request, values)
        assert not failed
    assert repr(rows_of(trained, spec.served_features)) == repr(judged) == repr(served)


@pytest.mark.parametrize(("fallback", "failed"), [("default", True), ("cached", True)])
def test_a_function_that_fails_is_answered_by_the_fallback(flights, fallback, failed):
    manifest = manifest_of(flights(fallback).spec)
    inputs = Inputs(manifest)
    request = ("N1", 10_001, "EWR", 100.0)  # and then what is read: flights, mean_delay, wind, sky, storm
    values, found = inputs.compute([request], [(7, 1.0, 2.0, "rain", True)])
    assert (values, found) == ([(7, 1.0, 2.0, "rain", True, None, None)], failed)


def replaced(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new)


IMPORT = "from .transformations import pace"
REFUSED = {
    "mode": (
        {"features": replaced(VIEWS, 'mode="python"', 'mode="pandas"')},
        r'has mode="pandas": a frame guesses',
    ),
    "feast": (
        {"features": replaced(VIEWS, IMPORT, TRANSFORMATIONS)},
        r"features\.py:\d+: the function of the on-demand view 'paced' is in a file that imports feast",
    ),
    "inner": (
        {"features": replaced(VIEWS, IMPORT, "def made():\n    def pace(inputs):\n        return {}\n    return pace\n")
         .replace("(pace)", "(made())")},
        "has a function that no module has at its top",
    ),
    "trust": (
        {"model": replaced(MODEL_ON_DEMAND, "trusted_code=True", "")},
        r"needs .*transformations\.py, which the server then runs",
    ),
    "sibling": (
        {"transformations": "from .other import two" + TRANSFORMATIONS, "other": "two = 2"},
        r"transformations\.py:1: the function .* imports \.other, a file of the project",
    ),
    "package": (
        {"transformations": "import polars" + TRANSFORMATIONS},
        r"transformations\.py:1: polars is imported by code that the server runs",
    ),
    "request": (
        {"features": replaced(VIEWS, 'name="distance", dtype=Float64', 'name="distance", dtype=Int64')},
        "takes 'distance' of type Int64; a request carries it as number",
    ),
    "output": (
        {"features": replaced(VIEWS, 'name="crowd", dtype=Float64', 'name="crowd", dtype=String')},
        "'paced' gives 'crowd' as String, and the model takes it as number",
    ),
    "type": (
        {"features": replaced(VIEWS, 'name="seats", dtype=Int64', 'name="seats", dtype=Bytes')
         .replace("import Bool,", "import Bool, Bytes,")},
        "takes 'seats' as Bytes; it may take",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_view_that_no_server_computes_is_refused_before_training(flights, case):
    files, message = REFUSED[case]
    made = flights(**files)
    with pytest.raises(ModelworksError, match=message):
        stored_of(made.spec)


def test_a_function_that_was_changed_after_the_definitions_were_applied_is_refused(flights):
    made = flights()
    file = made.folder / "models" / "flights" / "transformations.py"
    before = read_definitions(made.folder).manifest.on_demand["paced"].digest
    file.write_text(TRANSFORMATIONS.replace("/ 3", "/ 4"))
    with pytest.raises(ModelworksError, match=r"was defined with another .*transformations\.py than there is"):
        stored_of(made.spec)
    assert read_definitions(made.folder).manifest.on_demand["paced"].digest != before


def test_training_fails_at_a_row_that_the_function_fails_for(spec):
    stored = stored_of(spec)
    frame = pd.DataFrame({"tail": ["N1"], "origin": ["EWR"], "distance": [1.0], "seats": [10_001]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored_features, "_history", lambda *_: nullcontext(""))
        patch.setattr(stored_features, "_read", lambda *_: {name: [None] for name in stored.read})
        with pytest.raises(ModelworksError, match=r"model\.py:\d+: .*pace raised ValueError: no aircraft has so many"):
            with_history(spec, frame, stored)


def test_a_definition_has_one_digest_in_any_folder_and_at_any_time(flights, tmp_path):
    made = flights()
    shutil.copytree(made.folder / "models", tmp_path / "elsewhere" / "models")
    elsewhere = read_definitions(tmp_path / "elsewhere").manifest
    assert elsewhere == read_definitions(made.folder).manifest
    assert elsewhere.on_demand["paced"].function == "flights.transformations:pace"


LOG = pl.DataFrame(
    {
        "key_seats": [3, 6, 10_001],
        "feature_distance": [2.0, 4.0, 8.0],
        "read_delays__mean_delay": [1.0, None, 1.0],
        "read_delays__flights": [1, 2, 3],
        "feature_pace": [0.5, None, None],
        "feature_crowd": [1.0, 5.0, None],
        "read_at": [datetime(2026, 1, 1, tzinfo=UTC)] * 3,
    }
)


def computed_again(made, rows: pl.DataFrame) -> dict[str, tuple[int, int]]:
    logged = LoggedStored.of(manifest_of(made.spec))
    assert logged is not None
    skews = list(verify_computed([ServedRows("flights", rows, logged)], made.folder))
    return {skew.feature: (skew.compared, skew.different) for skew in skews}


def test_served_values_are_computed_again_of_their_logged_inputs(flights):
    made = flights("default")
    assert computed_again(made, LOG) == {"pace": (3, 0), "crowd": (3, 1)}, "5.0 is not 6 * 2 / 3"
    assert computed_again(made, LOG.drop("read_delays__flights")) == {}, "an input that is private"


def test_served_values_of_another_function_are_not_compared(flights):
    made = flights("default")
    logged = LoggedStored.of(manifest_of(made.spec))
    assert logged is not None
    (made.folder / "models" / "flights" / "transformations.py").write_text(TRANSFORMATIONS.replace("/ 3", "/ 4"))
    assert list(verify_computed([ServedRows("flights", LOG, logged)], made.folder)) == []
    made.apply()
    assert list(verify_computed([ServedRows("flights", LOG, logged)], made.folder)) == []

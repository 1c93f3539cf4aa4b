"""A model whose features Hopsworks or Tecton keeps: trained, judged, bundled and served by entity id, the same bits."""

from __future__ import annotations

import itertools
from datetime import timedelta

import msgspec
import pandas as pd
import polars as pl
import pytest

from lifecycle.test_stored_features import Flights, Served, _logged, requests_of, scores_of
from lifecycle.vendor_sdks import interpreter
from modelworks.contract import Digest
from modelworks.errors import ModelworksError
from modelworks.feature_manifest import FeatureManifest, parse, read_manifest
from modelworks.features.vendors import pull
from modelworks.lifecycle.bundle import build_bundle
from modelworks.lifecycle.bundle_scores import score_bundle
from modelworks.lifecycle.data import SnapshotStore, read_rows
from modelworks.lifecycle.feature_services import features_of
from modelworks.lifecycle.run_gates import judge
from modelworks.lifecycle.stored_features import stated_inputs, stored_of, with_history
from modelworks.lifecycle.training import train
from modelworks.runtime.bundle import open_bundle
from modelworks.runtime.predictor import Predictor
from runtime.running import PATIENT, Server, counted, settings
from runtime.vendor_server import KEY, Service, VendorServer, refuses
from waiting import eventually

PLACES = {"tecton": {"workspace": "prod"}, "hopsworks": {"project": "flights", "version": "3"}}
NAMES = {"weather": ("wind", "sky", "storm"), "delays": ("mean_delay", "flights")}
TIMES = {"weather": "hour", "delays": "landed"}
TYPES = {"wind": "float32", "sky": "string", "storm": "boolean", "mean_delay": "float64", "flights": "int64"}


def _hours(count: int) -> timedelta:
    return timedelta(hours=count)


both = pytest.mark.parametrize("engine", ["hopsworks", "tecton"])


def online_rows(made: Flights, engine: str) -> dict:
    """The newest value of each feature, for each pair of keys, in the vendor's words."""
    history = {name: pl.read_parquet(made.history / name) for name in NAMES}
    newest = {
        "weather": {row["origin"]: row for row in history["weather"].sort("hour").to_dicts()},
        "delays": {row["tail"]: row for row in history["delays"].sort("landed").to_dicts()},
    }
    rows = {}
    # Each view has values of its own: an aircraft that nobody knows starts from an airport that everybody does.
    for tail, origin in itertools.product([*newest["delays"], "N-new"], [*newest["weather"], "LGA"]):
        found = {"delays": newest["delays"].get(tail, {}), "weather": newest["weather"].get(origin, {})}
        times = {view: row[time].isoformat() for view, time in TIMES.items() if (row := found[view])}
        values = {(view, name): found[view].get(name) for view, names in NAMES.items() for name in names}
        if engine == "tecton":
            rows[tail, origin] = {f"{view}.{name}": (it, times.get(view)) for (view, name), it in values.items()}
        else:
            rows[tail, origin] = {name: (it, None) for (_, name), it in values.items()}
            rows[tail, origin]["landed"] = (times.get("delays"), None)
    return rows


@pytest.fixture
def vendor(tmp_path, monkeypatch):
    """A project whose definitions come from the vendor, and the vendor."""
    server = VendorServer()

    def make(engine: str, fallback: str = "error") -> tuple[Flights, VendorServer]:
        made = Flights(tmp_path / "project", fallback)
        (made.folder / "models" / "flights" / "features.py").unlink()
        monkeypatch.setenv(f"{engine.upper()}_API_KEY", KEY)
        monkeypatch.setenv("MODELWORKS_FEATURE_URL", server.url)
        monkeypatch.setenv("MODELWORKS_FEATURE_PYTHON", str(interpreter(tmp_path / "sdk", made.history)))
        named = [f"{view}.{name}" for view, names in NAMES.items() for name in names]
        tecton = {name: TYPES[name.partition(".")[2]] for name in named}
        hopsworks = {"landed": "timestamp", **TYPES}
        server.services["flight"] = Service(
            place="prod" if engine == "tecton" else "flights/3",
            keys={"tail": "string", "origin": "string"},
            features=tecton if engine == "tecton" else hopsworks,
            rows=online_rows(made, engine),
        )
        pulled = pull(engine, server.url, "flight", PLACES[engine], "flights")
        (made.folder / "models" / "features.json").write_text(pulled.to_json())
        return made, server

    yield make
    server.close()


def variables(server: VendorServer, **more: str) -> dict[str, str]:
    return {"MODELWORKS_MODEL": "flights", "MODELWORKS_FEATURE_URL": server.url, **more}


@both
def test_a_request_with_keys_gets_bit_for_bit_what_the_gates_judged(vendor, uploads, tmp_path, engine):
    made, vendors = vendor(engine)
    run = train(made.spec, made.home)
    bundle = build_bundle(run, made.home)
    digests = {name: view.digest for name, view in read_manifest(made.folder).views.items()}
    assert features_of(run, bundle) == {"features": {"service": "flight", "views": digests}}
    assert judge(run, made.home, bundle.path, bundle.digest)[0]["verdict"] in {"pass", "inconclusive"}
    manifest = open_bundle(bundle.path, bundle.digest, "flights", tmp_path / "bento")
    frame = read_rows(SnapshotStore(made.home.data).get(Digest(run.inputs["data"])))
    recent = frame[frame["departure"] > made.now - _hours(4)].head(40)
    judged = score_bundle(made.spec, Predictor(tmp_path / "bento", manifest), recent)[:, 1].tolist()
    log = {"MODELWORKS_PREDICTION_LOG": "s3://log/p", "MODELWORKS_PREDICTION_LOG_SECONDS": "0.2"}
    server = Server(settings(Served(bundle), **variables(vendors, **log)), tmp_path / "log", program=PATIENT).ready()
    try:
        asked = requests_of(recent)
        alone, together = [scores_of(server, [row])[0] for row in asked], scores_of(server, asked)
        eventually(lambda: uploads.list_objects_v2(Bucket="log").get("KeyCount"))
        schema = server.ask("GET", "/v1/schema")[1]["row"]
    finally:
        server.stop()
    assert alone == together == judged
    assert len(set(judged)) > 10
    assert list(schema["properties"]) == ["tail", "origin", "distance"]
    first = next(row for row in _logged(uploads) if row["time_flight__delays"])
    expected = frame[(frame["tail"] == first["key_tail"]) & (frame["departure"] > made.now - _hours(4))]
    assert first["time_flight__delays"] == made.now - _hours(5)
    assert first["time_flight__weather"] == (made.now - _hours(5) if engine == "tecton" else None)
    assert first["feature_flights"] == expected["flights"].iloc[0]
    assert first["read_at"] >= made.now


def test_an_outage_of_the_vendor_is_answered_by_the_stated_fallback_and_counted(vendor, tmp_path):
    made, vendors = vendor("tecton")
    bundle = build_bundle(train(made.spec, made.home), made.home)
    server = Server(settings(Served(bundle), **variables(vendors)), tmp_path / "log", program=PATIENT).ready()
    row = {"tail": "N3", "origin": "EWR", "distance": 700}
    try:
        [before] = scores_of(server, [row])
        vendors.for_ever = refuses(503)
        status, _, headers = server.ask("POST", "/v1/predict", msgspec.json.encode({"rows": [row]}))
        failed = counted(server, "feature_reads_failed")
        vendors.for_ever = None
        [after] = scores_of(server, [row])
    finally:
        server.stop()
    assert (status, headers["retry-after"], failed) == (503, "1", 1)
    assert before == after


# -- Definitions -----------------------------------------------------------------------------------------------------
@both
def test_a_bundle_records_the_vendors_definitions_by_digest(vendor, engine):
    made, _ = vendor(engine)
    stored = stored_of(made.spec)
    committed = read_manifest(made.folder)
    assert stored is not None
    assert (stored.engine, stored.service) == (engine, "flight")
    assert {**PLACES[engine]}.items() <= stored.place.items()
    assert {view.name: view.digest for view in stored.views} == {
        name: view.digest for name, view in committed.views.items()
    }
    assert [view.event_time for view in stored.views] == (["landed", ""] if engine == "hopsworks" else ["", ""])
    before = stated_inputs(made.spec)["features"]
    changed = committed.to_json().replace(stored.views[0].digest, "sha256:another")
    (made.folder / "models" / "features.json").write_text(changed)
    assert stated_inputs(made.spec)["features"] != before


@both
def test_a_manifest_of_a_vendor_survives_being_written_and_read(vendor, engine):
    made, server = vendor(engine)
    pulled = pull(engine, server.url, "flight", PLACES[engine], "flights")
    assert parse(pulled.to_json()) == pulled == read_manifest(made.folder)
    assert pulled.of_vendors == pulled
    assert pulled.without("flight") == FeatureManifest()


def test_the_digest_changes_with_the_vendors_definition(vendor):
    made, server = vendor("tecton")
    before = read_manifest(made.folder)
    server.services["flight"].features["delays.flights"] = "float64"
    after = pull("tecton", server.url, "flight", PLACES["tecton"], "flights")
    assert after.views["flight__delays"].digest != before.views["flight__delays"].digest
    assert after.views["flight__weather"].digest == before.views["flight__weather"].digest


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda service: service.features.update({"delays.last": "array"}), "of the type array, which no model"),
        (lambda service: service.keys.clear(), "has no keys"),
        (lambda service: setattr(service, "place", "dev"), "Tecton answered 404"),
    ],
)
def test_a_service_that_no_model_can_read_is_refused(vendor, change, match):
    _, server = vendor("tecton")
    change(server.services["flight"])
    with pytest.raises(ModelworksError, match=match):
        pull("tecton", server.url, "flight", PLACES["tecton"], "flights")


def joined(made: Flights) -> pd.DataFrame:
    """The rows of the model with their features, as a run gets them."""
    rows = pd.read_parquet(made.folder / "models" / "flights" / "rows.parquet")
    return with_history(made.spec, rows, stored_of(made.spec))


# -- The SDKs --------------------------------------------------------------------------------------------------------
@both
def test_each_row_gets_the_newest_value_not_after_its_time(vendor, engine):
    made, _ = vendor(engine)
    frame = joined(made)
    assert len(frame) == 600
    for age, landed in ((29, 30), (1, 5)):
        row = frame[(frame["tail"] == "N7") & (frame["departure"] == made.now - _hours(age))].iloc[0]
        history = pl.read_parquet(made.history / "delays").filter(pl.col("tail") == "N7")
        [expected] = history.filter(pl.col("landed") == made.now - _hours(landed))["flights"].to_list()
        assert row["flights"] == expected
    before = frame[frame["departure"] == made.now - _hours(100)]
    assert (before["flights"] == 0).all()  # the default: nothing was known then
    assert before["wind"].isna().all()
    assert (frame[frame["tail"].isna()]["flights"] == 0).all()


@both
@pytest.mark.parametrize(
    ("variable", "value", "match"),
    [
        ("MODELWORKS_FEATURE_URL", "", "MODELWORKS_FEATURE_URL is not set"),
        ("{}_API_KEY", "", "_API_KEY is not set"),
        ("{}_API_KEY", "another", "the SDK of .* failed: RuntimeError"),
        ("MODELWORKS_FEATURE_PYTHON", "/nowhere/python", "names no interpreter: /nowhere/python"),
    ],
)
def test_training_says_what_keeps_the_sdk_from_reading(vendor, monkeypatch, engine, variable, value, match):
    made, _ = vendor(engine)
    monkeypatch.setenv(variable.format(engine.upper()), value)
    with pytest.raises(ModelworksError, match=match):
        joined(made)


def test_an_sdk_that_is_not_installed_is_named_with_the_way_to_have_it(vendor, monkeypatch):
    made, _ = vendor("tecton")
    monkeypatch.delenv("MODELWORKS_FEATURE_PYTHON")
    with pytest.raises(ModelworksError, match="the SDK of tecton is not installed") as error:
        joined(made)
    assert "MODELWORKS_FEATURE_PYTHON" in error.value.fix

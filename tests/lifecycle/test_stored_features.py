"""A model whose features lie in a feature store: joined point-in-time to train, read by key to serve, the same bits."""

from __future__ import annotations

import io
import shutil
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore

from modelworks.contract import Digest
from modelworks.errors import ModelworksError
from modelworks.features.definitions import read_definitions
from modelworks.features.environment import apply, open_store, verify_log
from modelworks.features.materialization import materialize
from modelworks.features.served import Skew
from modelworks.lifecycle import load_spec
from modelworks.lifecycle.bundle import build_bundle
from modelworks.lifecycle.bundle_scores import score_bundle
from modelworks.lifecycle.data import SnapshotStore, read_rows
from modelworks.lifecycle.feature_services import features_of
from modelworks.lifecycle.run_gates import judge
from modelworks.lifecycle.runs import Home
from modelworks.lifecycle.training import train
from modelworks.runtime.bundle import open_bundle
from modelworks.runtime.predictor import Predictor
from runtime.running import PATIENT, Server, counted, settings
from waiting import eventually

ROOT = Path(__file__).parents[2]
TABLES = {"weather": "flights.weather", "delays": "flights.delays"}
FEATURES = """
from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Bool, Float32, Float64, Int64, String

airport = Entity(name="airport", join_keys=["origin"], value_type=ValueType.STRING)
aircraft = Entity(name="aircraft", join_keys=["tail"], value_type=ValueType.STRING)
weather = FeatureView(
    name="weather",
    entities=[airport],
    schema=[Field(name="wind", dtype=Float32), Field(name="sky", dtype=String), Field(name="storm", dtype=Bool)],
    ttl=timedelta(days=2),
    source=FileSource(name="weather", path="weather", timestamp_field="hour"),
)
delays = FeatureView(
    name="delays",
    entities=[aircraft],
    schema=[Field(name="mean_delay", dtype=Float64), Field(name="flights", dtype=Int64)],
    ttl=timedelta(days=2),
    source=FileSource(name="delays", path="delays", timestamp_field="landed"),
)
flight = FeatureService(name="flight", features=[weather, delays])
"""
MODEL = '''
"""Will the flight be late?"""

from pathlib import Path

import pandas as pd
import pandera.pandas as pa
from sklearn.ensemble import HistGradientBoostingClassifier

from modelworks.lifecycle import Card, DataSource, Feature, MetricGate, ModelSpec, StoredFeatures


def load():
    return pd.read_parquet(Path(__file__).with_name("rows.parquet"))


def train(data):
    return HistGradientBoostingClassifier(max_iter=20, random_state=data.seed).fit(data.x, data.y)


spec = ModelSpec(
    name="flights",
    description="Will the flight be late?",
    owner="tests",
    kind="binary",
    classes=(False, True),
    target="late",
    data=DataSource(load=load, description="Made up.", prediction_time="departure"),
    schema=pa.DataFrameSchema({}),
    features=(
        Feature(name="mean_delay", type="number", minimum=-100, maximum=1000, nullable=True),
        Feature(name="origin", type="string", categories=("EWR", "JFK", "LGA"), example="JFK"),
        Feature(name="wind", type="number", nullable=True),
        Feature(name="distance", type="number", minimum=0, maximum=10000, example=500),
        Feature(name="flights", type="integer", minimum=0, maximum=10000),
        Feature(name="sky", type="string", categories=("clear", "rain"), nullable=True),
        Feature(name="storm", type="boolean", nullable=True),
    ),
    stored=StoredFeatures(
        service="flight",
        keys=(Feature(name="tail", type="string", max_length=8, nullable=True, example="N1"),),
        defaults={"flights": 0},
        fallback="FALLBACK",
    ),
    train=train,
    metric="auc",
    gates=(MetricGate(metric="auc", at_least=0.5, because="tests"),),
    card=Card(intended_use="Tests."),
)
'''
STORE = """
project: flights
provider: local
registry: {registry}
offline_store: {{type: modelworks.features.offline.PolarsOfflineStore, location: {history}}}
online_store: {{type: modelworks.features.online.DynamoDBOnlineStore}}
entity_key_serialization_version: 3
"""


class Served:
    def __init__(self, bundle):
        self.archive, self.digest = bundle.path, bundle.digest


class Flights:
    """A project with history, and what was made of it."""

    def __init__(self, folder: Path, fallback: str = "error", **files: str) -> None:
        self.folder, self.history = folder, folder / "history"
        self.now = datetime.now(UTC).replace(microsecond=0)
        project = folder / "models" / "flights"
        project.mkdir(parents=True)
        shutil.copyfile(ROOT / "uv.lock", folder / "uv.lock")
        for name, text in {"features": FEATURES, "model": MODEL, **files}.items():
            (project / f"{name}.py").write_text(text.replace("FALLBACK", fallback))
        self._write(project / "rows.parquet")
        self.apply()
        self.home = Home(folder / "home")

    def apply(self) -> None:
        """Write the manifest of the definitions."""
        (self.folder / "models" / "features.json").write_text(read_definitions(self.folder).manifest.to_json())

    @property
    def spec(self):
        return load_spec(self.folder / "models" / "flights")

    def _write(self, rows: Path) -> None:
        """Two values of each entity, and rows between them and after: the newest value is what is online now."""
        rng, now = np.random.default_rng(0), self.now
        tails, origins = [f"N{number}" for number in range(40)], ["EWR", "JFK"]
        hours = [now - timedelta(hours=hours) for hours in (30, 5)]
        weather = pl.DataFrame(
            {
                "origin": origins * 2,
                "hour": [hours[0], hours[0], hours[1], hours[1]],
                "wind": [1.1, 22.2, 3.3, 1e300],  # the last one has no place in a Float32
                "sky": ["rain", "clear", "fog", None],
                "storm": [True, False, False, True],
            }
        ).with_columns(pl.col("wind").clip(upper_bound=3e38))
        delays = pl.DataFrame(
            {
                "tail": tails * 2,
                "landed": [hours[0]] * 40 + [hours[1]] * 40,
                "mean_delay": np.concatenate([rng.normal(10, 30, 40), np.linspace(-500, 1500, 40)]),
                "flights": [int(number) for number in rng.integers(0, 60, 80)],
            }
        )
        for name, frame in (("weather", weather), ("delays", delays)):
            (self.history / name).mkdir(parents=True)
            frame.write_parquet(self.history / name / "part-0.parquet")
        size = 600
        ages = rng.choice([100, 29, 6, 1], size)
        distance = np.round(rng.uniform(50, 3000, size), 1)
        pl.DataFrame(
            {
                "tail": [None if rng.random() < 0.1 else str(tail) for tail in rng.choice([*tails, "N-new"], size)],
                "origin": rng.choice([*origins, "LGA"], size).tolist(),
                "distance": distance,
                "departure": [now - timedelta(hours=int(age)) for age in ages],
                "late": distance + rng.normal(0, 500, size) > 1500,
            }
        ).write_parquet(rows)

    @property
    def store(self) -> FeatureStore:
        return open_store(STORE.format(registry=self.folder / "registry.db", history=self.history))

    def materialize(self) -> None:
        apply(self.store, read_definitions(self.folder))
        list(materialize(self.store))

    def verify_served(self, client) -> list[Skew]:
        """The log below `s3://log/predictions`, compared with history."""
        store, behind = self.store, timedelta(hours=1)
        log = "s3://log/predictions"
        views = store.list_feature_views()
        return list(verify_log(store, client, log, views, sample=1000, behind=behind, project=self.folder))


def flights_in(folder: Path, monkeypatch, fallback: str = "error", **files: str) -> Flights:
    """A project below `folder`, whose history is that of the environment."""
    made = Flights(folder / "project", fallback, **files)
    monkeypatch.setenv("MODELWORKS_FEATURE_HISTORY", str(made.history))
    return made


@pytest.fixture
def flights(tmp_path, monkeypatch):
    return partial(flights_in, tmp_path, monkeypatch)


def scores_of(server, rows):
    status, answer, _ = server.ask("POST", "/v1/predict", msgspec.json.encode({"rows": rows}))
    assert status == 200, answer
    return [each["score"] for each in answer["predictions"]]


def requests_of(table, names=("tail", "origin", "distance")):
    rows = table[list(names)].to_dict("records")
    return [{name: None if value != value else value for name, value in row.items()} for row in rows]  # noqa: PLR0124


def tables(**more):
    return {"MODELWORKS_MODEL": "flights", "MODELWORKS_FEATURE_TABLES": msgspec.json.encode(TABLES).decode(), **more}


def test_a_request_with_keys_gets_bit_for_bit_what_the_gates_judged(flights, uploads, tmp_path):
    made = flights()
    run = train(made.spec, made.home)
    bundle = build_bundle(run, made.home)
    assert judge(run, made.home, bundle.path, bundle.digest)[0]["verdict"] in {"pass", "inconclusive"}
    manifest = open_bundle(bundle.path, bundle.digest, "flights", tmp_path / "bento")
    frame = read_rows(SnapshotStore(made.home.data).get(Digest(run.inputs["data"])))
    recent = frame[frame["departure"] > made.now - timedelta(hours=4)].head(60)
    judged = score_bundle(made.spec, Predictor(tmp_path / "bento", manifest), recent)[:, 1].tolist()
    made.materialize()
    environ = tables(MODELWORKS_PREDICTION_LOG="s3://log/predictions/flights", MODELWORKS_PREDICTION_LOG_SECONDS="0.2")
    server = Server(settings(Served(bundle), **environ), tmp_path / "log", program=PATIENT).ready()
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
    logged = _logged(uploads)
    first = next(row for row in logged if row["key_tail"] and row["time_delays"])
    expected = frame[(frame["tail"] == first["key_tail"]) & (frame["departure"] > made.now - timedelta(hours=4))]
    assert first["time_delays"] == made.now - timedelta(hours=5)
    assert first["feature_flights"] == expected["flights"].iloc[0]
    assert first["read_at"] >= made.now
    skews = made.verify_served(uploads)
    assert {(skew.model, skew.view, skew.compared) for skew in skews} == {
        ("flights", view, len(logged)) for view in ("weather", "delays")
    }
    assert [skew.different + skew.stale + skew.missing for skew in skews] == [0] * 5


def _logged(client):
    keys = [item["Key"] for item in client.list_objects_v2(Bucket="log").get("Contents", ())]
    return [
        row
        for key in keys
        for row in pq.read_table(io.BytesIO(client.get_object(Bucket="log", Key=key)["Body"].read())).to_pylist()
    ]


def test_the_manifest_records_what_is_read_and_how(flights, tmp_path):
    made = flights("cached")
    run = train(made.spec, made.home)
    bundle = build_bundle(run, made.home)
    stored = open_bundle(bundle.path, bundle.digest, "flights", tmp_path / "bento").stored
    views = read_definitions(made.folder).manifest.views
    assert stored is not None
    assert {view.name: view.digest for view in stored.views} == {name: view.digest for name, view in views.items()}
    assert [dict(view.keys) for view in stored.views] == [{"tail": "String"}, {"origin": "String"}]
    assert [view.ttl_seconds for view in stored.views] == [172_800, 172_800]
    assert (stored.service, stored.fallback, stored.defaults) == ("flight", "cached", {"flights": 0})
    assert run.inputs["features"].startswith("sha256:")
    recorded = {"service": "flight", "views": {name: view.digest for name, view in views.items()}}
    assert features_of(run, bundle) == {"features": recorded}
    changed = FEATURES.replace(
        'ttl=timedelta(days=2),\n    source=FileSource(name="delays"',
        'ttl=timedelta(days=3),\n    source=FileSource(name="delays"',
    )
    (made.folder / "models" / "flights" / "features.py").write_text(changed)
    (made.folder / "models" / "features.json").write_text(read_definitions(made.folder).manifest.to_json())
    assert train(made.spec, made.home).inputs["features"] != run.inputs["features"]


@pytest.mark.parametrize(("fallback", "status"), [("error", 503), ("default", 200), ("cached", 200)])
def test_an_outage_is_answered_by_the_stated_fallback_and_counted(flights, dynamodb, tmp_path, fallback, status):
    made = flights(fallback)
    bundle = build_bundle(train(made.spec, made.home), made.home)
    made.materialize()
    server = Server(settings(Served(bundle), **tables()), tmp_path / "log", program=PATIENT).ready()
    row = {"tail": "N3", "origin": "EWR", "distance": 700}
    try:
        [before] = scores_of(server, [row])
        unknown = scores_of(server, [{**row, "tail": None, "origin": "LGA"}])
        for table in TABLES.values():
            dynamodb.delete_table(TableName=table)
        found, answer, headers = server.ask("POST", "/v1/predict", msgspec.json.encode({"rows": [row]}))
        failed = counted(server, "feature_reads_failed")
        errors = counted(server, "request_errors")
    finally:
        server.stop()
    assert (found, failed, errors) == (status, 1, int(status == 503))
    if status == 503:
        assert headers["retry-after"] == "1"
    elif fallback == "cached":
        assert answer["predictions"][0]["score"] == before
    else:
        assert answer["predictions"][0]["score"] != before
    assert unknown


def test_a_server_without_the_tables_of_its_views_does_not_start(flights, dynamodb, tmp_path):
    made = flights()
    bundle = build_bundle(train(made.spec, made.home), made.home)
    nowhere = Server(settings(Served(bundle), MODELWORKS_MODEL="flights"), tmp_path / "nowhere")
    assert nowhere.ended() == 1
    assert "MODELWORKS_FEATURE_TABLES names no table" in nowhere.log.read_text()
    absent = Server(settings(Served(bundle), **tables()), tmp_path / "absent", program=PATIENT)
    assert absent.ended() == 1
    assert "cannot be read" in absent.log.read_text()
    nowhere.stop()
    absent.stop()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('service="flight"', 'service="flihgt"', r"no feature service 'flihgt'; did you mean 'flight'"),
        (
            'name="tail", type="string", max_length=8, nullable=True, example="N1"',
            'name="tail", type="integer", nullable=True',
            "key 'tail' of type String",
        ),
        ('name="mean_delay", type="number"', 'name="mean_dealy", type="number"', "gives 'mean_delay', which is no fea"),
        ('defaults={"flights": 0}', "defaults={}", "'flights' may be missing"),
        ('defaults={"flights": 0}', 'defaults={"flights": -5}', "default of 'flights' is -5"),
        ('name="storm", type="boolean"', 'name="storm", type="string", categories=("a",)', "'storm' as Bool"),
        (', prediction_time="departure"', "", "need data.prediction_time"),
    ],
)
def test_a_spec_that_does_not_fit_the_definitions_is_refused(flights, old, new, message):
    made = flights()
    file = made.folder / "models" / "flights" / "model.py"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(ModelworksError, match=message):
        train(made.spec, made.home)


HISTORY = """
def write(folder):
    with open({made!r}, "a") as made:
        print("made", file=made)
    shutil.copytree({history!r}, folder, dirs_exist_ok=True)


spec = ModelSpec("""


def test_a_history_that_others_need_is_made_once_and_read_where_they_read_it(flights, monkeypatch, tmp_path):
    made = flights()
    file, written = made.folder / "models" / "flights" / "model.py", tmp_path / "made"
    write = HISTORY.format(made=str(written), history=str(made.history))
    text = (
        file.read_text().replace("spec = ModelSpec(", write).replace("from pathlib", "import shutil\nfrom pathlib", 1)
    )
    file.write_text(text.replace('service="flight",', 'service="flight", history=write,'))
    stated = train(made.spec, made.home)
    assert not written.exists()
    monkeypatch.delenv("MODELWORKS_FEATURE_HISTORY")
    steps: list[str] = []
    run = train(made.spec, made.home, history=tmp_path / "history", progress=lambda step, *_: steps.append(step))
    assert written.read_text() == "made\n"
    assert (tmp_path / "history" / "weather" / "part-0.parquet").is_file()
    assert run.inputs == stated.inputs
    assert steps.index("write history") < steps.index("load data")


def test_training_without_history_names_the_variable(flights, monkeypatch):
    made = flights()
    monkeypatch.delenv("MODELWORKS_FEATURE_HISTORY")
    with pytest.raises(ModelworksError, match="MODELWORKS_FEATURE_HISTORY is not set"):
        train(made.spec, made.home)

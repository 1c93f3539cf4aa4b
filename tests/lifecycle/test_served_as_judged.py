"""Whatever row the features allow, alone or in any company, the endpoint answers bit for bit what the gates judged."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from modelworks.errors import ModelworksError
from modelworks.lifecycle import load_spec
from modelworks.lifecycle.bundle import build_bundle
from modelworks.lifecycle.bundle_scores import score_bundle
from modelworks.lifecycle.edge_cases import edge_cases
from modelworks.lifecycle.rows import rows_of
from modelworks.lifecycle.runs import Home
from modelworks.lifecycle.training import train
from modelworks.runtime.bundle import open_bundle
from modelworks.runtime.predictor import Predictor
from runtime.running import Server, settings

ROOT = Path(__file__).parents[2]
MODEL = '''
"""Will the order be sent back?"""

import numpy as np
import pandas as pd
import pandera.pandas as pa
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from modelworks.lifecycle import Card, DataSource, Feature, ModelSpec, Service


FIRST = DAY
KINDS = ("book", "lamp", "shoe", "tent")


def load():
    rng = np.random.default_rng(0)
    size = 600
    price = np.round(rng.uniform(1, 2000, size), 2)
    day = FIRST + rng.integers(1, 28, size)
    paid = pd.Series(rng.random(size) < 0.5, dtype=object).where(rng.random(size) < 0.9, None)
    kind = pd.Series(rng.choice(["book", "lamp", "shoe"], size), dtype=object).where(rng.random(size) < 0.9, None)
    note = rng.choice(["gift", "late", ""], size)
    odds = price / 2000 + (kind == "shoe") * 0.4 + (day % 2) * 0.2 + rng.normal(0, 0.2, size)
    return pd.DataFrame(
        {"price": price, "day": day, "paid": paid, "kind": kind, "note": note, "back": odds > 0.9}
    )


def pipeline(name, seed):
    if name == "trees":
        return HistGradientBoostingClassifier(max_iter=30, random_state=seed)
    if name == "frame":
        names = ["kind", "note", "price"]
        encode = ColumnTransformer(
            [("names", OneHotEncoder(handle_unknown="ignore", sparse_output=False), names)], remainder="passthrough"
        )
        return make_pipeline(encode, RandomForestClassifier(12, random_state=seed, n_jobs=1))
    return make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression())


def train(data):
    return pipeline(data.parameters["pipeline"], data.seed).fit(data.x, data.y)


spec = ModelSpec(
    name="returns",
    description="Will the order be sent back?",
    owner="tests",
    kind="binary",
    classes=(False, True),
    target="back",
    data=DataSource(load=load, description="Made up."),
    schema=pa.DataFrameSchema({}),
    features=(
        Feature(name="price", type="number", minimum=0, maximum=1e6, example=9.99),
        Feature(name="day", type="integer", minimum=0, maximum=FIRST + 31, example=FIRST + 5),
        Feature(name="paid", type="boolean", nullable=True, example=True),
        Feature(name="kind", type="string", categories=KINDS, required=False, example="lamp"),
        NOTE
    ),
    parameters={"pipeline": "PIPELINE"},
    input="INPUT",
    train=train,
    metric="auc",
    card=Card(intended_use="Tests."),
    service=Service(onnx=ONNX, max_rows=200),
)
'''
NOTE = 'Feature(name="note", type="string", max_length=300, example="gift"),'


def project(folder: Path, pipeline: str, how: str, *, onnx: bool = True, day: int = 20240100):
    shutil.copyfile(ROOT / "uv.lock", folder / "uv.lock")
    file = folder / "models" / "returns" / "model.py"
    file.parent.mkdir(parents=True)
    changes = {
        "PIPELINE": pipeline,
        "INPUT": how,
        "NOTE": NOTE if how == "frame" else "",
        "ONNX": str(onnx),
        "DAY": str(day),
    }
    text = MODEL
    for name, value in changes.items():
        text = text.replace(name, value)
    file.write_text(text)
    return load_spec(file), Home(folder / "home")


@pytest.mark.parametrize(
    ("pipeline", "how", "day", "served"),
    [
        ("trees", "matrix", 0, "onnx"),
        ("trees", "matrix", 20240100, "skops"),  # a float32 knows no such day from the next
        ("linear", "matrix", 0, "onnx"),
        ("linear", "matrix", 20240100, "skops"),
        ("frame", "frame", 20240100, "skops"),
    ],
)
def test_any_row_alone_or_with_others_gets_over_http_what_the_gates_judged(tmp_path, pipeline, how, day, served):
    spec, home = project(tmp_path, pipeline, how, day=day)
    bundle = build_bundle(train(spec, home), home)
    manifest = open_bundle(bundle.path, bundle.digest, "returns", tmp_path / "bento")
    table = spec.data.load().head(40)
    rows = rows_of(table, spec.served_features)
    asked = [
        dict(zip(spec.feature_names, row, strict=True))
        for row in [*rows, *(edge.row for edge in edge_cases(spec.served_features, rows[0]))]
    ]
    for row in asked[40:]:
        if row["kind"] is None:
            del row["kind"]
    judged = score_bundle(spec, Predictor(tmp_path / "bento", manifest), table)[:, 1]
    server = Server(settings(Served(bundle), MODELWORKS_MODEL="returns"), tmp_path / "log").ready()
    try:
        alone = [scores_of(server, [row])[0] for row in asked]
        together, turned = scores_of(server, asked), scores_of(server, asked[::-1])[::-1]
    finally:
        server.stop()
    assert bundle.served == served
    assert alone[:40] == judged.tolist()
    assert alone == together == turned
    assert len(set(alone)) > 10


class Served:
    def __init__(self, bundle):
        self.archive, self.digest = bundle.path, bundle.digest


def scores_of(server, rows):
    status, answer, _ = server.ask("POST", "/v1/predict", msgspec.json.encode({"rows": rows}))
    assert status == 200, answer
    return [each["score"] for each in answer["predictions"]]


def test_a_category_that_the_pipeline_never_saw_is_named_before_it_serves(tmp_path):
    spec, home = project(tmp_path, "frame", "frame")
    file = spec.file
    text = file.read_text().replace('handle_unknown="ignore"', 'handle_unknown="error"')
    file.write_text(text.replace('names = ["kind", "note", "price"]', 'names = ["kind", "note"]'))
    spec = load_spec(file)
    with pytest.raises(
        ModelworksError, match=r"model\.py:\d+: returns does not answer .*'kind' at the category 'tent'"
    ) as caught:
        build_bundle(train(spec, home), home)
    assert "state what is allowed" in caught.value.fix


def test_an_optional_feature_that_the_pipeline_cannot_miss_is_named(tmp_path):
    spec, home = project(tmp_path, "linear", "matrix")
    file = spec.file
    file.write_text(file.read_text().replace("SimpleImputer(), ", "").replace("paid = ", "paid = True  # "))
    text = file.read_text().replace("random(size) < 0.9, None)\n    note", "random(size) < 2, None)\n    note")
    file.write_text(text)
    spec = load_spec(file)
    with pytest.raises(ModelworksError, match=r"does not answer .*feature 'paid' at missing.*NaN"):
        build_bundle(train(spec, home), home)

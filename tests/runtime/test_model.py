"""Manifests and loaded models of every kind, without a server."""

from __future__ import annotations

import hashlib

import msgspec
import numpy as np
import pytest

from modelworks.errors import ModelworksError
from modelworks.runtime import predictor as loaded
from modelworks.runtime.manifest import Feature, Manifest, Skops, decode, encode
from modelworks.runtime.predictions import json_encoder
from modelworks.runtime.predictor import NotANumberError, Predictor, WrongCountError
from modelworks.runtime.schema import Rows, openapi
from runtime import example_bundle


def scikit(tmp_path, estimator, kind, **more):
    """A predictor around an estimator of two columns, and its manifest."""
    import skops.io

    data = skops.io.dumps(estimator)
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "m.skops").write_bytes(data)
    manifest = Manifest(
        model="tiny",
        kind=kind,
        task="Something",
        features=(Feature(name="a b", type="number"), Feature(name="flag", type="boolean")),
        examples=({"a b": 1.5, "flag": True},),
        skops=Skops(path="m.skops", sha256=hashlib.sha256(data).hexdigest(), columns=("flag", "a b")),
        **more,
    )
    return Predictor(tmp_path, manifest), Rows(manifest).decode


def test_a_regression_answers_values(tmp_path):
    from sklearn.linear_model import LinearRegression

    table = np.array([[0, 1.0], [1, 2.0], [0, 3.0], [1, 5.0]])
    predictor, read = scikit(tmp_path, LinearRegression().fit(table, table[:, 1] * 2), "regression", unit="minutes")
    answer = predictor.predict(read(b'{"a b": 7, "flag": false}'))
    assert msgspec.json.decode(json_encoder(predictor.manifest)(answer)[0])["value"] == pytest.approx(14)


def test_a_multiclass_model_answers_every_probability(tmp_path):
    from sklearn.linear_model import LogisticRegression

    table = np.array([[0, 1.0], [1, 2.0], [0, 3.0]] * 5)
    model = LogisticRegression().fit(table, ["low", "mid", "top"] * 5)
    predictor, read = scikit(tmp_path, model, "multiclass", classes=("low", "mid", "top"))
    answer = predictor.predict(read(b'{"rows": [{"a b": 3, "flag": false}]}'))
    said = msgspec.json.decode(json_encoder(predictor.manifest)(answer)[0])
    assert said["label"] == "top"
    assert sum(said["probabilities"].values()) == pytest.approx(1, abs=1e-6)


def test_a_prediction_that_is_not_a_number_is_an_error(tmp_path):
    from sklearn.linear_model import LinearRegression

    predictor, read = scikit(tmp_path, LinearRegression().fit([[0, 1.0], [1, 2.0]], [1, 2]), "regression")
    predictor._infer = lambda rows: np.full(len(rows), np.nan)
    with pytest.raises(NotANumberError):
        predictor.predict(read(b'{"a b": 7, "flag": false}'))


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 2), (1, 2)])
def test_another_number_of_answers_than_rows_is_an_error(tmp_path, shape):
    from sklearn.linear_model import LinearRegression

    predictor, read = scikit(tmp_path, LinearRegression().fit([[0, 1.0], [1, 2.0]], [1, 2]), "regression")
    predictor._infer = lambda _: np.zeros(shape)
    row = '{"a b": 7, "flag": false}'
    with pytest.raises(WrongCountError, match="for 2 rows"):
        predictor.predict(read(f'{{"rows": [{row}, {row}]}}'.encode()))


def test_a_model_whose_rows_depend_on_each_other_is_refused(tmp_path, monkeypatch):
    from sklearn.linear_model import LinearRegression

    def among_others(rows):
        table = np.array([[0.0 if value is None else float(value) for value in row] for row in rows])
        return (table - table.mean(axis=0)).sum(axis=1)

    monkeypatch.setattr(loaded, "_load", lambda *_: among_others)
    with pytest.raises(ModelworksError, match=r"the answer to a row alone differs by .* from that among 3 rows"):
        scikit(tmp_path, LinearRegression().fit([[0, 1.0], [1, 2.0]], [1, 2]), "regression")


def test_a_type_that_nobody_vouched_for_is_not_loaded(tmp_path):
    from sklearn.preprocessing import FunctionTransformer

    with pytest.raises(ModelworksError, match="types that this server does not load"):
        scikit(tmp_path, FunctionTransformer(func=hashlib.sha256), "regression")


def test_a_manifest_survives_its_file(example):
    assert decode(encode(example.manifest)) == example.manifest


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"classes": ("one",)}, "2 classes"),
        ({"classes": ("true", True)}, "two classes have the name 'true'"),
        ({"features": (Feature(name="x", type="string", minimum=1),)}, "no minimum"),
        ({"onnx": None}, "needs an artifact"),
        ({"card": "../secret"}, "inside src/"),
        ({"features": (Feature(name="rows", type="number"),)}, "'rows'"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(example, change, reason):
    with pytest.raises(ModelworksError, match=reason):
        encode(msgspec.structs.replace(example.manifest, **change))


def test_openapi_names_every_feature(example):
    row = openapi(example.manifest, "12")["components"]["schemas"]["Row"]
    assert list(row["properties"]) == [feature.name for feature in example.manifest.features]


def test_serving_imports_neither_pulumi_nor_boto3_nor_pyarrow():
    import subprocess
    import sys

    server = (
        "app companion config custom_app custom_service delivery ends http logs metrics prediction_log spool tracing"
    )
    modules = ["bundle", "predictor", "schema", "serve", *(f"server.{name}" for name in server.split())]
    script = (
        f"import sys; [__import__('modelworks.runtime.' + m) for m in {modules!r}]; "
        "print([m for m in ('pulumi', 'boto3', 'botocore', 'pyarrow', 'sklearn', 'bentoml') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "[]"


def test_rows_of_the_example_are_valid(example):
    assert len(Rows(example.manifest).decode(msgspec.json.encode({"rows": example_bundle.rows(3)}))) == 3

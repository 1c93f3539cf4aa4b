"""One model, three protocols: whatever it predicts, each of them has the same values, bit for bit."""

from __future__ import annotations

import hashlib
import io
import math
import re
import struct
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given

from modelworks.runtime.encoding import matrix_encoder
from modelworks.runtime.manifest import Manifest
from modelworks.runtime.predictions import Predictions
from modelworks.runtime.server import spool, v2_messages
from modelworks.runtime.server.parquet import parquet
from modelworks.runtime.server.prediction_log import PredictionLog
from runtime import small
from runtime.small import ask, get, listening, post
from runtime.test_v2 import FEATURES, NAMES, ROWS, binary, build, tensors
from runtime.test_v2_grpc import outputs, raw, running, typed, values_of

EXAMPLE = {"price": 1.5, "day": 1, "paid": None, "kind": "a"}
LABELS = [
    pytest.param(("binary", ("no", "oui, à 5 %"), "BYTES"), id="two texts"),
    pytest.param(("binary", (0, 1), "INT64"), id="two numbers"),
    pytest.param(("binary", (False, True), "BOOL"), id="two booleans"),
    pytest.param(("multiclass", ("low", "middle", "top"), "BYTES"), id="texts"),
    pytest.param(("multiclass", (-(2**63), 7, 2**63 - 1), "INT64"), id="numbers"),
    pytest.param(("multiclass", (1, 2, 2**63), "BYTES"), id="numbers beyond an int64"),
    pytest.param(("multiclass", ("a", 1, True), "BYTES"), id="of all types"),
    pytest.param(("regression", (), ""), id="values"),
]


class Model:
    """Answers any float that there is, another one for any other row."""

    cost = small.Model.cost

    def __init__(self, manifest: Manifest) -> None:
        self.encode, self.kind, self.classes = matrix_encoder(FEATURES, NAMES), manifest.kind, len(manifest.classes)

    def predict(self, rows):
        codes = [hashlib.sha256(row.tobytes()).digest() for row in self.encode(rows)]
        if self.kind == "regression":
            numbers = [struct.unpack_from("<d", code)[0] for code in codes]
            return Predictions([each if math.isfinite(each) else -0.0 for each in numbers], [0] * len(rows))
        shares = [[each / 2**64 for each in struct.unpack_from("<3Q", code)] for code in codes]
        best = [code[31] % self.classes for code in codes]
        if self.kind == "binary":
            return Predictions([each[0] for each in shares], best)
        return Predictions([each[label] for each, label in zip(shares, best, strict=True)], best, shares)


def manifest_of(kind: str, classes: tuple[Any, ...]) -> Manifest:
    return Manifest(
        model="tiny", kind=kind, task="Something", features=FEATURES, classes=classes, max_rows=100, examples=(EXAMPLE,)
    )


@pytest.fixture(scope="module", params=LABELS)
def served(request, tmp_path_factory):
    """A running server, its manifest, and the datatype of its labels."""
    kind, classes, datatype = request.param
    manifest = manifest_of(kind, classes)
    with running(build(tmp_path_factory.mktemp("app"), manifest, Model(manifest))) as found:
        yield found, manifest, datatype


def bits(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """With floats as text of all their bits, so that 0 and -0 differ, and with the type of anything else."""
    return {
        name: [each.hex() if isinstance(each, float) else (type(each), each) for each in values]
        for name, values in columns.items()
    }


def columns_of(predictions: list[dict[str, Any]], manifest: Manifest, datatype: str) -> dict[str, list[Any]]:
    """Predictions of the JSON API as the outputs of the Open Inference Protocol."""
    if manifest.kind == "regression":
        return {"value": [each["value"] for each in predictions]}
    labels = [each["label"] for each in predictions]
    if datatype == "BYTES":
        labels = [str(label).lower() if isinstance(label, bool) else str(label) for label in labels]
    found = {"label": labels, "score": [each["score"] for each in predictions]}
    if manifest.kind == "multiclass":
        found["probabilities"] = [share for each in predictions for share in each["probabilities"].values()]
    return found


def in_binary(server: Any, rows: Any) -> dict[str, list[Any]]:
    """The outputs over REST, with binary tensors both ways."""
    inputs, tail = binary(rows)
    head, rest = server.post(
        "/v2/models/tiny/infer", {"inputs": inputs, "parameters": {"binary_data_output": True}}, tail
    )
    found = {}
    for each in head["outputs"]:
        size = each["parameters"]["binary_data_size"]
        found[each["name"]], rest = values_of(each["datatype"], rest[:size]), rest[size:]
    assert rest == b""
    return found


@given(ROWS)
def test_any_rows_have_the_same_predictions_in_every_protocol(served, rows):
    server, manifest, datatype = served
    json_rows = [dict(zip(NAMES, row, strict=True)) for row in rows]
    answer, _ = server.post("/v1/predict", {"rows": json_rows})
    expected = bits(columns_of(answer["predictions"], manifest, datatype))
    rest, _ = server.post("/v2/models/tiny/infer", {"inputs": tensors(rows)})
    assert bits({each["name"]: each["data"] for each in rest["outputs"]}) == expected
    assert bits(in_binary(server, rows)) == expected
    assert bits(outputs(server.client.call("ModelInfer", typed(rows)))) == expected
    assert bits(outputs(server.client.call("ModelInfer", raw(rows)))) == expected


def test_the_datatype_of_labels_is_the_same_in_metadata_and_answers(served):
    server, manifest, datatype = served
    answer = server.client.call("ModelInfer", raw([(1.0, 1, 2, True, "a")]))
    stated = server.client.call("ModelMetadata", v2_messages.ModelMetadataRequest(name="tiny")).outputs
    assert [(each.name, each.datatype) for each in answer.outputs] == [(each.name, each.datatype) for each in stated]
    assert [each.datatype for each in stated if each.name == "label"] == ([datatype] if manifest.classes else [])


async def test_a_class_has_one_name_in_answers_metrics_and_the_prediction_log(tmp_path):
    manifest = manifest_of("binary", (False, True))
    app = build(tmp_path, manifest, Model(manifest))
    row = b'{"price": 1, "day": 1, "paid": true, "kind": "a"}'
    async with listening(app) as (_, port):
        answered = (await ask(port, post(body=row)))[2]
        page = (await ask(port, get(b"/metrics")))[2].decode()
    name = "true" if b'"label":true' in answered else "false"
    counts = dict(re.findall(r'^modelworks_predictions_total{.*label="(.*)"} (.*)$', page, re.MULTILINE))
    assert counts == {"false": "0", "true": "0", name: "1"}

    log = PredictionLog(tmp_path / "spool", manifest, 1)
    log.start()
    log.add("id", 1.0, 1.0, [(1.0, 1, 2, True, "a")] * 2, Predictions([0.25, 0.75], [0, 1]))
    log.close()
    [batch] = spool.batches(tmp_path / "spool", "pod", "release")
    logged = pq.read_table(io.BytesIO(parquet(batch, manifest, "release", unreadable)))
    assert logged["label"].to_pylist() == ["false", "true"]


def unreadable(path: Any, error: Exception) -> None:
    raise AssertionError(path) from error

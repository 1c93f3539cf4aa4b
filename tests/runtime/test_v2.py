"""The Open Inference Protocol over REST: the same answers as the JSON API, in its own form."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.runtime.encoding import matrix_encoder
from modelworks.runtime.manifest import FLOAT32_MAX, INTEGER_MAX, Feature, Manifest
from modelworks.runtime.predictions import Predictions
from modelworks.runtime.server import metrics
from modelworks.runtime.server.app import App
from modelworks.runtime.server.config import Config
from modelworks.runtime.server.engine import Engine
from modelworks.runtime.server.http import Request, clock
from modelworks.runtime.server.logs import Scribe
from runtime import small
from runtime.small import ask, get, listening, post

FEATURES = (
    Feature(name="price", type="number", nullable=True),
    Feature(name="day", type="integer", minimum=0),
    Feature(name="seats", type="integer", required=False),
    Feature(name="paid", type="boolean", nullable=True),
    Feature(name="kind", type="string", categories=("a", "bé"), nullable=True),
)
NAMES = [feature.name for feature in FEATURES]
DATATYPES = dict(zip(NAMES, ("FP64", "INT64", "INT64", "BOOL", "BYTES"), strict=True))
ROW = st.tuples(
    st.none() | st.floats(-FLOAT32_MAX, FLOAT32_MAX),
    st.integers(0, INTEGER_MAX),
    st.none() | st.integers(-INTEGER_MAX, INTEGER_MAX),
    st.none() | st.booleans(),
    st.none() | st.sampled_from(("a", "bé")),
)
ROWS = st.lists(ROW, min_size=1, max_size=5)
FORMATS = {"FP64": "<d", "INT64": "<q", "BOOL": "?"}
INFER = b"/v2/models/tiny/infer"
CLASSES = ("low", "middle", "top")


class Model:
    """Scores that differ whenever the encoded rows do, of three classes."""

    cost = small.Model.cost

    def __init__(self) -> None:
        self.encode = matrix_encoder(FEATURES, NAMES)

    def predict(self, rows):
        seen = [hash(row.tobytes()) for row in self.encode(rows)]
        shares = [[(code >> shift) % 997 / 997 for shift in (0, 8, 16)] for code in seen]
        best = [max(range(3), key=each.__getitem__) for each in shares]
        return Predictions([each[label] for each, label in zip(shares, best, strict=True)], best, shares)


class Connection:
    def respond(self, request, status, body, media=b"application/json", headers=b"") -> None:
        self.status, self.body, self.headers = status, body, headers


def build(folder, manifest=None, model=None) -> App:
    manifest = manifest or Manifest(
        model="tiny",
        kind="multiclass",
        task="Something",
        features=FEATURES,
        classes=CLASSES,
        max_rows=100,
        examples=({"price": 1.5, "day": 1, "paid": None, "kind": "a"},),
    )
    config = Config(
        bundle_uri="here", digest="sha256:" + "0" * 64, model="tiny", version="12", allow_anonymous=True, access_log=0
    )
    layout = metrics.Layout(manifest.kind, len(manifest.classes))
    counters = metrics.Counters(layout, folder / "worker-0")
    scribe = Scribe()
    return App(Engine(config, manifest, model or Model(), counters, scribe), scribe, bento=folder)


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    return build(tmp_path_factory.mktemp("app"))


def send(app: App, path: bytes, body: bytes, headers: dict[bytes, bytes] | None = None) -> Connection:
    """The answer to one request, whole."""

    async def go() -> Connection:
        connection = Connection()
        app.handle(Request(b"POST", path, headers or {}, body, clock()), connection)
        while not app.engine.idle:  # noqa: ASYNC110 - the turns of the loop are what is awaited
            await asyncio.sleep(0)
        return connection

    return asyncio.run(go())


def infer(app: App, content: Any, tail: bytes = b"") -> tuple[int, Any, bytes]:
    """Status, JSON and what follows it."""
    head = json.dumps(content).encode()
    length = b"%d" % len(head)
    told = send(app, INFER, head + tail, {b"inference-header-content-length": length} if tail else {})
    size = len(told.body)
    for line in told.headers.splitlines():
        if line.startswith(b"inference-header-content-length: "):
            size = int(line.split(b": ")[1])
    return told.status, json.loads(told.body[:size]), told.body[size:]


def tensors(rows) -> list[dict[str, Any]]:
    columns = zip(NAMES, zip(*rows, strict=True), strict=True)
    return [
        {"name": name, "datatype": DATATYPES[name], "shape": [len(rows)], "data": list(values)}
        for name, values in columns
    ]


def binary(rows) -> tuple[list[dict[str, Any]], bytes]:
    """Every tensor in the binary form; what may be missing with a mask or as NaN."""
    made, tail = [], b""

    def add(name: str, datatype: str, data: bytes) -> None:
        nonlocal tail
        parameters = {"binary_data_size": len(data)}
        made.append({"name": name, "datatype": datatype, "shape": [len(rows), 1], "parameters": parameters})
        tail += data

    for name, values in zip(NAMES, zip(*rows, strict=True), strict=True):
        datatype = DATATYPES[name]
        if datatype == "BYTES":
            texts = [(value or "").encode() for value in values]
            add(name, datatype, b"".join(struct.pack("<I", len(text)) + text for text in texts))
        elif datatype == "FP64":
            add(name, datatype, b"".join(struct.pack("<d", math.nan if v is None else v) for v in values))
        else:
            add(name, datatype, b"".join(struct.pack(FORMATS[datatype], value or 0) for value in values))
        if datatype != "FP64":
            add(f"{name}.isnull", "BOOL", bytes(value is None for value in values))
    return made, tail


def predictions(app: App, rows) -> list[dict[str, Any]]:
    """As the JSON API answers."""
    body = json.dumps({"rows": [dict(zip(NAMES, row, strict=True)) for row in rows]}).encode()
    told = send(app, b"/v1/predict", body)
    assert told.status == 200, told.body
    return json.loads(told.body)["predictions"]


def named(answer: dict[str, Any]) -> dict[str, Any]:
    return {each["name"]: each["data"] for each in answer["outputs"]}


# -- One encoder -----------------------------------------------------------------------------------------------------
@given(ROWS)
def test_any_row_has_the_same_prediction_in_both_protocols(app, rows):
    expected = predictions(app, rows)
    status, answer, _ = infer(app, {"inputs": tensors(rows)})
    assert status == 200, answer
    outputs = named(answer)
    assert outputs["label"] == [each["label"] for each in expected]
    assert outputs["score"] == [each["score"] for each in expected]
    shares = itertools.chain.from_iterable(each["probabilities"].values() for each in expected)
    assert outputs["probabilities"] == list(shares)


@given(ROWS)
def test_any_row_has_the_same_prediction_in_binary_tensors(app, rows):
    inputs, tail = binary(rows)
    parameters = {"binary_data_output": True}
    status, answer, data = infer(app, {"inputs": inputs, "parameters": parameters}, tail)
    assert status == 200, answer
    sizes = [each["parameters"]["binary_data_size"] for each in answer["outputs"]]
    assert sum(sizes) == len(data)
    scores = np.frombuffer(data[sizes[0] : sizes[0] + sizes[1]], "<f8")
    expected = predictions(app, rows)
    assert scores.tolist() == [each["score"] for each in expected]
    labels = b"".join(struct.pack("<I", len(each["label"])) + each["label"].encode() for each in expected)
    assert data[: sizes[0]] == labels


@given(st.sampled_from(NAMES), st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text())
def test_both_protocols_refuse_the_same_values(app, name, value):
    row = {"price": 1.5, "day": 1, "seats": 2, "paid": True, "kind": "a", name: value}
    told = send(app, b"/v1/predict", json.dumps(row).encode())
    status, _, _ = infer(app, {"inputs": tensors([tuple(row[each] for each in NAMES)])})
    assert told.status == 200 or status in {400, 422}
    if status != 200:  # the datatype of a tensor is narrower: INT64 has no 3.0, and nothing above 2^63
        whole = DATATYPES[name] == "INT64" and isinstance(value, float)
        assert told.status in {400, 422} or whole


def test_fp32_has_the_precision_of_fp32_in_json_too(app):
    rows = [(0.1, 1, 2, True, "a")]
    inputs = tensors(rows)
    inputs[0]["datatype"] = "FP32"
    _, answer, _ = infer(app, {"inputs": inputs})
    near = float(np.float32(0.1))
    assert named(answer)["score"] == [predictions(app, [(near, 1, 2, True, "a")])[0]["score"]]


def test_an_optional_feature_may_have_no_tensor(app):
    inputs = [each for each in tensors([(1.0, 1, None, None, "a")]) if each["name"] != "seats"]
    status, answer, _ = infer(app, {"inputs": inputs})
    assert status == 200
    assert named(answer)["score"] == [predictions(app, [(1.0, 1, None, None, "a")])[0]["score"]]


# -- The form of requests and answers --------------------------------------------------------------------------------
GOOD = tensors([(1.0, 1, 2, True, "a"), (2.0, 1, 2, False, "bé")])


def changed(number: int, **more: Any) -> list[dict[str, Any]]:
    return [{**each, **more} if at == number else each for at, each in enumerate(GOOD)]


@pytest.mark.parametrize(
    ("inputs", "status", "said"),
    [
        ([], 422, "length"),
        (GOOD[1:], 422, "there is no tensor 'price'"),
        ([*GOOD, GOOD[0]], 422, "is there twice"),
        ([*GOOD, {**GOOD[0], "name": "prize"}], 422, "the model has no input 'prize'"),
        (changed(0, datatype="BYTES"), 422, "price: Expected `str"),
        (changed(0, datatype="COMPLEX"), 422, "datatype 'COMPLEX' is not supported"),
        (changed(4, datatype="FP64", data=[1.0, 2.0]), 422, "kind is BYTES, not FP64"),
        (changed(0, shape=[3]), 400, "has 2 values for 3 rows"),
        (changed(1, shape=[1, 2]), 422, "has shape"),
        (changed(0, shape=[]), 422, "a request has 1 to 100 rows"),
        (changed(0, shape=[-2]), 422, "a request has 1 to 100 rows"),
        (changed(0, shape=[101], data=[1.0] * 101), 422, "a request has 1 to 100 rows"),
        (changed(0, shape="2"), 422, "Expected `array`"),
        (changed(0, data=[1.0]), 400, "has 1 values for 2 rows"),
        (changed(0, data=[[1.0, 2.0]]), 422, "Expected `array` of length 1"),
        (changed(1, data=[1, -1]), 422, "day: Expected `int` >= 0"),
        (changed(1, data=[1, 1.5]), 422, "day: "),
        (changed(1, data=[1, None]), 422, "day: "),
        (changed(1, datatype="INT8", data=[1, 200]), 422, "day: Expected `int` <= 127"),
        (changed(4, data=["a", "c"]), 422, "kind: not one of its categories"),
        (changed(0, parameters={"binary_data_size": 8}), 400, "is no size of what follows the JSON"),
        (changed(0, parameters={"binary_data_size": True}), 400, "is no size"),
    ],
)
def test_what_is_no_row_of_the_model_is_refused_with_the_reason(app, inputs, status, said):
    got, answer, _ = infer(app, {"inputs": inputs})
    assert (got, list(answer)) == (status, ["error"])
    assert said.replace("`", "") in answer["error"].replace("`", "")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"inputs": NaN}', b"\xff", b"[" * 100_000])
def test_what_is_no_request_is_refused(app, body):
    told = send(app, INFER, body)
    assert told.status in {400, 422}
    assert list(json.loads(told.body)) == ["error"]


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [("price", b"1234567", "no whole number of FP64"), ("kind", b"\x05\0\0\0a", "end within a text")],
)
def test_bytes_that_are_no_tensor_are_refused(app, name, data, said):
    inputs = [each for each in GOOD if each["name"] != name]
    parameters = {"binary_data_size": len(data)}
    inputs.append({"name": name, "datatype": DATATYPES[name], "shape": [2], "parameters": parameters})
    status, answer, _ = infer(app, {"inputs": inputs}, data)
    assert status == 400
    assert said in answer["error"]


@pytest.mark.parametrize("length", [b"", b"x", b"-1", b"99999", b"9" * 5000])
def test_a_length_of_the_json_that_cannot_be_is_refused(app, length):
    told = send(app, INFER, b"{}", {b"inference-header-content-length": length})
    assert told.status == 400


def test_bytes_that_belong_to_no_tensor_are_refused(app):
    status, answer, _ = infer(app, {"inputs": GOOD}, b"12")
    assert (status, answer) == (400, {"error": "2 bytes follow the JSON that belong to no tensor"})


def test_data_may_be_nested_as_its_shape(app):
    nested = [{**each, "shape": [2, 1], "data": [[value] for value in each["data"]]} for each in GOOD]
    assert infer(app, {"inputs": nested, "id": "x"}) == infer(app, {"inputs": GOOD, "id": "x"})


def test_outputs_are_those_requested_in_their_order_and_form(app):
    outputs = [{"name": "score", "parameters": {"binary_data": True}}, {"name": "label"}]
    status, answer, data = infer(app, {"id": "mine", "inputs": GOOD, "outputs": outputs})
    assert (status, answer["id"], len(data)) == (200, "mine", 16)
    assert [each["name"] for each in answer["outputs"]] == ["score", "label"]
    assert (answer["model_name"], answer["model_version"]) == ("tiny", "0" * 12)


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ({"name": "odds"}, "there is no output 'odds'"),
        ({"name": "score", "parameters": {"classification": 2}}, "not supported"),
    ],
)
def test_an_output_that_cannot_be_is_refused(app, output, said):
    status, answer, _ = infer(app, {"inputs": GOOD, "outputs": [output]})
    assert status == 422
    assert said in answer["error"]


@pytest.mark.parametrize(
    ("classes", "datatype", "expected"),
    [((False, True), "BOOL", True), ((3, 7), "INT64", 7), ((1, "b"), "BYTES", "b"), ((1, 2**70), "BYTES", str(2**70))],
)
def test_labels_have_the_datatype_of_the_classes(tmp_path, classes, datatype, expected):
    class Certain(small.Model):
        def predict(self, rows):
            return Predictions([0.75] * len(rows), [1] * len(rows))

    manifest = Manifest(
        model="tiny", kind="binary", task="Something", features=FEATURES[1:2], classes=classes, examples=({"day": 1},)
    )
    day = {"name": "day", "datatype": "INT64", "shape": [1], "data": [1]}
    status, answer, _ = infer(build(tmp_path, manifest, Certain()), {"inputs": [day]})
    assert status == 200
    assert (answer["outputs"][0]["datatype"], answer["outputs"][0]["data"]) == (datatype, [expected])


# -- Around it -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/v2/health/live", {"live": True}),
        (b"/v2/health/ready", {"ready": True}),
        (b"/v2/models/tiny/ready", {"name": "tiny", "ready": True}),
        (b"/v2/models/tiny/versions/12/ready", {"name": "tiny", "ready": True}),
    ],
)
async def test_health_is_that_of_the_server(tmp_path, path, expected):
    async with listening(build(tmp_path)) as (_, port):
        status, _, body = await ask(port, get(path))
    assert (status, json.loads(body)) == (200, expected)


async def test_a_server_that_drains_is_not_ready(tmp_path):
    app = build(tmp_path)
    app.engine.draining = True
    async with listening(app) as (_, port):
        assert (await ask(port, get(b"/v2/health/ready")))[0] == 503
        assert (await ask(port, get(b"/v2/models/tiny/ready")))[0] == 503
        assert (await ask(port, get(b"/v2/health/live")))[0] == 200


async def test_metadata_is_what_requests_and_answers_hold(tmp_path):
    async with listening(build(tmp_path)) as (_, port):
        told = json.loads((await ask(port, get(b"/v2/models/tiny")))[2])
        server = json.loads((await ask(port, get(b"/v2")))[2])
    assert {each["name"]: each["datatype"] for each in told["inputs"]} == DATATYPES
    assert told["outputs"][2] == {"name": "probabilities", "datatype": "FP64", "shape": [-1, 3]}
    assert (told["versions"], server["extensions"]) == (["0" * 12], ["binary_tensor_data"])


@pytest.mark.parametrize("path", [b"/v2/models/other", b"/v2/models/tiny/versions/13", b"/v2/nothing", b"/v2/models"])
async def test_what_is_not_served_is_not_found(tmp_path, path):
    async with listening(build(tmp_path)) as (_, port):
        status, _, body = await ask(port, get(path))
    assert status == 404
    assert list(json.loads(body)) == ["error"]


async def test_tokens_are_those_of_the_json_api(tmp_path):
    file = tmp_path / "tokens"
    file.write_text("secret\n")
    body = json.dumps({"inputs": [{"name": "x", "datatype": "FP64", "shape": [1], "data": [1]}]}).encode()
    async with listening(small.build(tmp_path, token_file=file)) as (_, port):
        status, _, refused = await ask(port, post(body=body, path=INFER))
        assert (status, json.loads(refused)) == (401, {"error": "a bearer token is needed"})
        assert (await ask(port, get(b"/v2/models/tiny")))[0] == 401
        assert (await ask(port, get(b"/v2/health/ready")))[0] == 200
        assert (await ask(port, post(b"authorization: Bearer secret", body=body, path=INFER)))[0] == 200


async def test_a_request_is_counted_once_and_a_full_server_refuses(tmp_path):
    app = build(tmp_path)
    body = json.dumps({"inputs": GOOD}).encode()
    async with listening(app) as (_, port):
        assert (await ask(port, post(body=body, path=INFER)))[0] == 200
        assert (await ask(port, get(INFER)))[0] == 405
        small.fill(app)
        status, head, refused = await ask(port, post(body=body, path=INFER))
    assert (status, list(json.loads(refused)), b"retry-after: 1" in head) == (429, ["error"], True)
    row = app.engine.counters.row
    assert (row[metrics.REQUESTS], row[metrics.REJECTED], row[metrics.ERRORS]) == (2, 1, 0)


def test_a_model_that_fails_is_an_error_in_the_form_of_the_protocol(tmp_path):
    class Broken(Model):
        def predict(self, rows):
            raise ValueError("secret 4711")

    app = build(tmp_path, model=Broken())
    status, answer, _ = infer(app, {"inputs": GOOD})
    assert (status, answer) == (500, {"error": "the model failed to predict this request"})
    assert app.engine.counters.row[metrics.ERRORS] == 1


def test_what_a_request_holds_is_guessed_from_its_bytes(app):
    rows = [(1.5, 1, None, None, "a")] * 50
    inputs, tail = binary(rows)
    head = json.dumps({"inputs": inputs}).encode()
    length = {b"inference-header-content-length": b"%d" % len(head)}
    guess = app._v2.estimate_of(Request(b"POST", INFER, length))
    assert guess is not None
    assert 25 <= guess.rows(len(head + tail)) <= 100
    body = json.dumps({"inputs": tensors(rows)}).encode()
    assert 25 <= app._v2.estimate_of(Request(b"POST", INFER, {})).rows(len(body)) <= 100


@pytest.mark.parametrize("path", [b"/v2/models/tiny", b"/v2/models/other/infer", b"/v2/health/ready", b"/v2"])
def test_what_is_no_request_for_predictions_has_no_rows(app, path):
    assert app._v2.estimate_of(Request(b"POST", path, {})) is None

"""The Open Inference Protocol over gRPC: the answers of the JSON API, and its rules, in messages."""

from __future__ import annotations

import asyncio
import http.client
import json
import math
import struct
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import msgspec
import numpy as np
import pytest
from google.protobuf import descriptor_pb2
from hypothesis import given
from hypothesis import strategies as st

from modelworks import contract
from modelworks.runtime.online import UnreadableError
from modelworks.runtime.predictor import Cost
from modelworks.runtime.serve import _Calls
from modelworks.runtime.server import metrics, v2_grpc
from modelworks.runtime.server import v2_messages as messages
from modelworks.runtime.server.prediction_log import PredictionLog
from runtime import custom_bundle, small
from runtime.example_bundle import rows as example_rows
from runtime.published import logged
from runtime.running import SAME_PORT, counted
from runtime.small import listening
from runtime.test_v2 import DATATYPES, NAMES, Model, build
from waiting import PATIENCE, eventually, eventually_async, held_port

CONTENTS = {"FP64": "fp64_contents", "INT64": "int64_contents", "BOOL": "bool_contents", "BYTES": "bytes_contents"}
ROW = (1.0, 1, 2, True, "a")


# -- A server and its client -----------------------------------------------------------------------------------------
class Client:
    """Calls of one server, over one connection."""

    def __init__(self, port: int, authority: str = "localhost", **metadata: str) -> None:
        options = [("grpc.max_send_message_length", -1), ("grpc.default_authority", authority)]
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", options)
        self.metadata = list(metadata.items())
        self.trailers: dict[str, str] = {}

    def call(self, method: str, request: Any = None) -> Any:
        """The answer; `trailers` has what comes after it."""
        request = request if request is not None else getattr(messages, f"{method}Request")()
        ask = self.channel.unary_unary(
            f"/inference.GRPCInferenceService/{method}",
            request_serializer=lambda each: each if isinstance(each, bytes) else each.SerializeToString(),
            response_deserializer=getattr(messages, f"{method}Response", messages.ModelInferResponse).FromString,
        )
        try:
            answer, call = ask.with_call(request, PATIENCE, self.metadata, wait_for_ready=False)
        except grpc.RpcError as error:
            self.trailers = dict(error.trailing_metadata() or ())
            raise
        self.trailers = dict(call.trailing_metadata())
        return answer

    def refusal(self, method: str, request: Any = None) -> tuple[str, str]:
        """Code and words of a call that fails."""
        with pytest.raises(grpc.RpcError) as refused:
            self.call(method, request)
        return refused.value.code().name, refused.value.details()


class Running:
    """An app in a thread of its own, with a port for each protocol."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, app: Any, calls: _Calls, front: Any, http_port: int, grpc_port: int
    ) -> None:
        self.loop, self.app, self.calls, self.front = loop, app, calls, front
        self.http_port, self.grpc_port = http_port, grpc_port
        self.client = Client(grpc_port)

    def on_loop(self, call: Any, *args: Any) -> Any:
        """What a call returns that runs where the server does."""

        async def run() -> Any:
            return call(*args)

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(PATIENCE)

    def post(self, path: str, content: Any, tail: bytes = b"") -> tuple[Any, bytes]:
        """The JSON of an answer, and what follows it; `tail` follows that of the request."""
        head = json.dumps(content).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))} if tail else {}
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=PATIENCE)
        connection.request("POST", path, head + tail, headers)
        response = connection.getresponse()
        answer = response.read()
        connection.close()
        assert response.status == 200, answer
        size = int(response.headers.get("Inference-Header-Content-Length", len(answer)))
        return json.loads(answer[:size]), answer[size:]


@contextmanager
def running(app: Any, *, one_port: bool = False, **limits: int):
    """It drains at the end, as a process does."""
    ready, ended = threading.Event(), asyncio.Event()
    found: dict[str, Any] = {}

    async def serve() -> None:
        with held_port() as holder:
            port = app.config.port if one_port else holder.getsockname()[1]
            config = msgspec.structs.replace(app.config, grpc_port=port, host="127.0.0.1")
            async with listening(app, **limits) as (front, http_port):
                calls = await _Calls.listen(app, front, config, app._scribe)
                port = http_port if one_port else port
                loop = asyncio.get_running_loop()
                found.update(loop=loop, server=Running(loop, app, calls, front, http_port, port))
                ready.set()
                await ended.wait()
            calls.close()
            await eventually_async(lambda: not calls.open)
            calls.cut_off()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(PATIENCE)
    try:
        yield found["server"]
    finally:
        found["loop"].call_soon_threadsafe(ended.set)
        thread.join()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    with running(build(tmp_path_factory.mktemp("app"))) as found:
        yield found


def typed(rows, **more: Any) -> Any:
    """Values in the contents of their datatypes; what is missing as NaN, or with a mask."""
    request = messages.ModelInferRequest(model_name="tiny", **more)
    for name, datatype, values in _columns(rows):
        given = request.inputs.add(name=name, datatype=datatype, shape=[len(rows), 1])
        getattr(given.contents, CONTENTS[datatype]).extend(values)
    return request


def raw(rows, **more: Any) -> Any:
    """The same in bytes."""
    request = messages.ModelInferRequest(model_name="tiny", **more)
    for name, datatype, values in _columns(rows):
        request.inputs.add(name=name, datatype=datatype, shape=[len(rows)])
        if datatype == "BYTES":
            content = b"".join(struct.pack("<I", len(text)) + text for text in values)
        else:
            content = np.array(values, {"FP64": "<f8", "INT64": "<i8", "BOOL": "?"}[datatype]).tobytes()
        request.raw_input_contents.append(content)
    return request


def _columns(rows):
    for name, values in zip(NAMES, zip(*rows, strict=True), strict=True):
        datatype = DATATYPES[name]
        if datatype == "FP64":
            yield name, datatype, [math.nan if value is None else value for value in values]
            continue
        filled = [(value or "").encode() if datatype == "BYTES" else value or 0 for value in values]
        yield name, datatype, [bool(value) for value in filled] if datatype == "BOOL" else filled
        yield f"{name}.isnull", "BOOL", [value is None for value in values]


def outputs(answer: Any) -> dict[str, list[Any]]:
    """The values of an answer, from its contents or its bytes."""
    found = {}
    for number, output in enumerate(answer.outputs):
        if answer.raw_output_contents:
            assert not output.HasField("contents")
            found[output.name] = values_of(output.datatype, answer.raw_output_contents[number])
        else:
            values = list(getattr(output.contents, CONTENTS[output.datatype]))
            found[output.name] = [value.decode() for value in values] if output.datatype == "BYTES" else values
    return found


def values_of(datatype: str, content: bytes) -> list[Any]:
    """The values of a tensor in its binary form."""
    if datatype != "BYTES":
        return np.frombuffer(content, {"FP64": "<f8", "INT64": "<i8", "BOOL": "?"}[datatype]).tolist()
    texts = []
    while content:
        [length] = struct.unpack_from("<I", content)
        texts.append(content[4 : 4 + length].decode())
        content = content[4 + length :]
    return texts


# -- One prediction: see test_protocols.py ---------------------------------------------------------------------------
def test_an_optional_feature_may_have_no_tensor(model):
    request = typed([(1.0, 1, None, None, None)])
    kept = [each for each in request.inputs if not each.name.startswith("seats")]
    fewer = messages.ModelInferRequest(model_name="tiny", inputs=kept)
    assert outputs(model.client.call("ModelInfer", fewer)) == outputs(model.client.call("ModelInfer", request))


def test_narrow_integers_and_fp32_have_contents_too(model):
    request = typed([ROW])
    for each, datatype, contents, value in (
        (request.inputs[0], "FP32", "fp32_contents", 1.0),
        (request.inputs[1], "INT8", "int_contents", 1),
        (request.inputs[3], "UINT16", "uint_contents", 2),
    ):
        each.datatype = datatype
        each.ClearField("contents")
        getattr(each.contents, contents).append(value)
    assert outputs(model.client.call("ModelInfer", request)) == outputs(model.client.call("ModelInfer", typed([ROW])))


def test_an_answer_names_the_model_and_has_the_outputs_requested(model):
    request = typed([ROW], id="mine", model_version="12")
    request.outputs.add(name="score")
    answer = model.client.call("ModelInfer", request)
    assert (answer.model_name, answer.model_version, answer.id) == ("tiny", "0" * 12, "mine")
    assert [(each.name, each.datatype, list(each.shape)) for each in answer.outputs] == [("score", "FP64", [1])]
    assert model.client.trailers["x-request-id"] == "mine"


# -- What is refused -------------------------------------------------------------------------------------------------
def _without_raw(request: Any) -> None:
    del request.raw_input_contents[-1]


def _with_both(request: Any) -> None:
    request.inputs[0].contents.fp64_contents.append(1.0)


def _cut(request: Any) -> None:
    request.raw_input_contents[0] = request.raw_input_contents[0][:-1]


def _short(request: Any) -> None:
    request.raw_input_contents[0] = b""


def _cut_text(request: Any) -> None:
    request.raw_input_contents[-2] = b"\5\0\0\0a"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_without_raw, "raw_input_contents: there are 8 for 9 inputs"),
        (_with_both, "inputs[0].contents: a request has contents or raw_input_contents, not both"),
        (_cut, "inputs[0]: 7 bytes are no whole number of FP64"),
        (_short, "inputs[0].data: price has 0 values for 1 rows"),
        (_cut_text, "inputs[7]: the bytes end within a text"),
    ],
)
def test_raw_contents_that_are_no_tensors_are_refused_with_the_field(model, change, said):
    request = raw([ROW])
    change(request)
    assert model.client.refusal("ModelInfer", request) == ("INVALID_ARGUMENT", said)


def _elsewhere(request: Any) -> None:
    request.inputs[0].datatype = "FP32"


def _too_wide(request: Any) -> None:
    request.inputs[1].datatype = "INT8"
    request.inputs[1].contents.Clear()
    request.inputs[1].contents.int_contents.append(200)


def _half(request: Any) -> None:
    request.inputs[0].datatype = "FP16"


def _no_text(request: Any) -> None:
    request.inputs[-2].contents.bytes_contents[0] = b"\xff"


def _below(request: Any) -> None:
    request.inputs[1].contents.int64_contents[0] = -1


def _no_rows(request: Any) -> None:
    del request.inputs[0].shape[:]


def _other_output(request: Any) -> None:
    request.outputs.add(name="odds")


def _classification(request: Any) -> None:
    request.outputs.add(name="score").parameters["classification"].int64_param = 2


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (_elsewhere, "inputs[0].contents"),
        (_too_wide, "inputs[1].contents.int_contents[0]"),
        (_half, "inputs[0].datatype"),
        (_no_text, "inputs[7].contents"),
        (_below, "inputs[1].data[0]"),
        (_no_rows, "inputs[0].shape"),
        (_other_output, "outputs[0]"),
        (_classification, "outputs[0].parameters.classification"),
    ],
)
def test_what_is_no_row_of_the_model_is_refused_with_the_field(model, change, field):
    request = typed([ROW])
    change(request)
    code, said = model.client.refusal("ModelInfer", request)
    assert (code, said.partition(": ")[0]) == ("INVALID_ARGUMENT", field)


@pytest.mark.parametrize("method", ["ModelInfer", "ModelReady", "ModelMetadata"])
def test_what_is_no_message_is_refused(model, method):
    assert model.client.refusal(method, b"\xff") == ("INVALID_ARGUMENT", f"the message is no {method}Request")


@given(st.binary(max_size=200))
def test_no_bytes_are_an_unexpected_error(model, content):
    assert model.client.refusal("ModelInfer", content)[0] in {"INVALID_ARGUMENT", "NOT_FOUND"}


@pytest.mark.parametrize("named", [{"model_name": "other"}, {"model_name": "tiny", "model_version": "13"}])
def test_another_model_or_version_is_not_found(model, named):
    code, said = model.client.refusal("ModelInfer", messages.ModelInferRequest(**named))
    assert (code, said) == (
        "NOT_FOUND",
        "there is no such model or version here; there is tiny, version 000000000000",
    )
    asked = {name.removeprefix("model_"): value for name, value in named.items()}
    for method in ("ModelReady", "ModelMetadata"):
        request = getattr(messages, f"{method}Request")(**asked)
        assert model.client.refusal(method, request)[0] == "NOT_FOUND"


def test_a_method_that_is_not_of_the_protocol_is_unimplemented(model):
    assert model.client.refusal("RepositoryIndex", b"")[0] == "UNIMPLEMENTED"


# -- Around it -------------------------------------------------------------------------------------------------------
def test_metadata_is_what_requests_and_answers_hold(model):
    found = model.client.call("ModelMetadata", messages.ModelMetadataRequest(name="tiny"))
    assert {each.name: each.datatype for each in found.inputs} == DATATYPES
    assert [(each.name, list(each.shape)) for each in found.outputs][2] == ("probabilities", [-1, 3])
    assert (list(found.versions), found.platform) == (["0" * 12], "sklearn_skops")
    assert model.client.call("ServerMetadata").name == "modelworks"


def test_health_is_that_of_the_server(tmp_path):
    named = messages.ModelReadyRequest(name="tiny", version="12")
    with running(build(tmp_path)) as found:
        assert found.client.call("ServerLive").live
        assert found.client.call("ServerReady").ready
        assert found.client.call("ModelReady", named).ready
        found.app.engine.draining = True
        assert found.client.call("ServerLive").live
        assert not found.client.call("ServerReady").ready
        assert not found.client.call("ModelReady", named).ready


def _health(client: Client, service: str = "") -> int:
    ask = client.channel.unary_unary(
        "/grpc.health.v1.Health/Check", response_deserializer=messages.HealthCheckResponse.FromString
    )
    return ask(messages.HealthCheckRequest(service=service).SerializeToString(), PATIENCE).status


def test_health_is_that_of_the_health_protocol_and_needs_no_token(tmp_path):
    file = tmp_path / "tokens"
    file.write_text("secret\n")
    with running(small.build(tmp_path, token_file=file)) as found:
        assert _health(found.client) == _health(found.client, "inference.GRPCInferenceService") == 1
        found.app.engine.draining = True
        assert _health(found.client) == 2
        with pytest.raises(grpc.RpcError) as refused:
            _health(found.client, "other.Service")
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


def test_the_messages_of_the_health_protocol_have_its_numbers():
    assert messages.HealthCheckRequest(service="x").SerializeToString() == b"\x0a\x01x"
    assert messages.HealthCheckResponse(status=1).SerializeToString() == b"\x08\x01"


def test_tokens_are_those_of_the_json_api_and_probes_need_none(tmp_path):
    file = tmp_path / "tokens"
    file.write_text("secret\n")
    request = messages.ModelInferRequest(model_name="tiny")
    request.inputs.add(name="x", datatype="FP64", shape=[1]).contents.fp64_contents.append(1)
    with running(small.build(tmp_path, token_file=file)) as found:
        for client in (found.client, Client(found.grpc_port, authorization="Bearer wrong")):
            for method in ("ModelInfer", "ModelReady", "ModelMetadata", "ServerMetadata"):
                assert client.refusal(method) == ("UNAUTHENTICATED", "a bearer token is needed")
            assert client.call("ServerReady").ready
            assert client.call("ServerLive").live
        assert Client(found.grpc_port, authorization="Bearer secret").call("ModelInfer", request).outputs
        counts = found.app.engine.counters.row
    assert (counts[metrics.REQUESTS], counts[metrics.ERRORS]) == (1, 0)


def test_two_authorizations_are_none(tmp_path):
    file = tmp_path / "tokens"
    file.write_text("secret\n")
    with running(small.build(tmp_path, token_file=file)) as found:
        client = Client(found.grpc_port)
        client.metadata = [("authorization", "Bearer secret"), ("authorization", "Bearer secret")]
        assert client.refusal("ServerMetadata")[0] == "UNAUTHENTICATED"


def test_a_request_is_counted_once_and_a_full_server_refuses(tmp_path, monkeypatch):
    with running(build(tmp_path)) as found:
        found.client.call("ModelInfer", typed([ROW]))
        found.client.refusal("ModelInfer", messages.ModelInferRequest(model_name="tiny"))
        monkeypatch.setattr(found.app.engine, "admits", lambda rows: rows < 3)
        assert found.client.refusal("ModelInfer", typed([ROW] * 3))[0] == "RESOURCE_EXHAUSTED"
        assert found.client.trailers["grpc-retry-pushback-ms"] == "1000"
        found.client.call("ModelInfer", raw([ROW] * 2))
        counts = found.app.engine.counters.row
    assert (counts[metrics.REQUESTS], counts[metrics.REJECTED], counts[metrics.ERRORS]) == (4, 1, 0)


def test_probes_over_grpc_are_in_no_prediction_log_and_no_distribution(tmp_path):
    app = build(tmp_path)
    example = next(iter(app.engine._examples))
    app.engine._log = PredictionLog(tmp_path / "spool", app.manifest, 1)
    with running(app) as found:
        Client(found.grpc_port, **{contract.HEADER_PROBE: "1"}).call("ModelInfer", typed([example]))
        assert app.engine._log.waiting_rows() == 0
        found.client.call("ModelInfer", typed([example]))
    assert app.engine._log.waiting_rows() == 1
    assert len(app.engine.counters._values) + app.engine.counters.row[metrics.ROWS] == 1
    assert app.engine.counters.row[metrics.REQUESTS] == 2


def test_a_model_that_fails_is_internal_and_says_no_value(tmp_path):
    class Broken(Model):
        def predict(self, rows):
            raise ValueError("secret 4711")

    with running(build(tmp_path, model=Broken())) as found:
        assert found.client.refusal("ModelInfer", typed([ROW])) == (
            "INTERNAL",
            "the model failed to predict this request",
        )
        eventually(lambda: found.app.engine.counters.row[metrics.ERRORS] == 1)


def test_features_that_cannot_be_read_are_unavailable(tmp_path):
    class Unread(Model):
        def predict(self, rows):
            raise UnreadableError("the table is gone")

    with running(build(tmp_path, model=Unread())) as found:
        code, said = found.client.refusal("ModelInfer", typed([ROW]))
    assert (code, said) == ("UNAVAILABLE", "the features cannot be read; try again later")


def test_an_error_about_a_long_name_still_arrives(model):
    request = typed([ROW])
    request.inputs.add(name="é" * 50_000, datatype="FP64", shape=[1]).contents.fp64_contents.append(1)
    code, said = model.client.refusal("ModelInfer", request)
    assert (code, said[:36]) == ("INVALID_ARGUMENT", "inputs[9]: the model has no input 'é")


def test_an_error_about_a_name_of_any_characters_arrives_whole(model):
    """It is sent as a header, whose bytes are percent-encoded."""
    request = typed([ROW])
    request.inputs.add(name="50 %41\n\t\x7f~é", datatype="FP64", shape=[1]).contents.fp64_contents.append(1)
    code, said = model.client.refusal("ModelInfer", request)
    assert code == "INVALID_ARGUMENT"
    assert said.startswith(r"inputs[9]: the model has no input '50 %41\n\t\x7f~é'")


def test_calls_in_flight_are_answered_before_the_end(tmp_path):
    class Slow(Model):
        cost = Cost(call=1.0, row=0.0)  # so that its calls go to a thread

        def predict(self, rows):
            gate.wait(PATIENCE)
            return super().predict(rows)

    gate = threading.Event()
    with running(build(tmp_path, model=Slow())) as found:
        ask = found.client.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        call = ask.future(typed([ROW]).SerializeToString(), PATIENCE)
        eventually(lambda: found.calls.waiting)
        threading.Thread(target=lambda: (eventually(lambda: found.calls.open), gate.set())).start()
    assert call.code() is grpc.StatusCode.OK


def test_a_call_that_comes_too_late_is_unavailable_with_a_reason(tmp_path):
    with running(build(tmp_path)) as found:
        found.calls._service.closing = True
        assert found.client.refusal("ModelInfer", typed([ROW])) == (
            "UNAVAILABLE",
            "the server ends; retry with another",
        )


def test_fields_have_the_numbers_of_the_published_protocol():
    parameter = b"\x0a\x01k\x12\x02\x10\x07"  # a pair: key "k" is 1; value is 2, and in it int64_param is 2
    tensor = b"\x0a\x01x\x12\x04FP64\x1a\x01\x01\x22\x07" + parameter + b"\x2a\x0a\x3a\x08" + struct.pack("<d", 1.5)
    wire = b"\x0a\x01m\x12\x01v\x1a\x01i\x22\x07" + parameter
    wire += b"\x2a" + bytes([len(tensor)]) + tensor + b"\x32\x03\x0a\x01o" + b"\x3a\x01r"
    request = messages.ModelInferRequest.FromString(wire)
    [given] = request.inputs
    assert (request.model_name, request.model_version, request.id) == ("m", "v", "i")
    assert request.parameters["k"].int64_param == given.parameters["k"].int64_param == 7
    assert (given.name, given.datatype, list(given.shape)) == ("x", "FP64", [1])
    assert list(given.contents.fp64_contents) == [1.5]
    assert ([each.name for each in request.outputs], list(request.raw_input_contents)) == (["o"], [b"r"])
    assert request.SerializeToString(deterministic=True) == wire


def test_values_have_the_types_of_the_published_protocol():
    field = descriptor_pb2.FieldDescriptorProto
    contents = messages.ModelInferRequest.DESCRIPTOR.file.message_types_by_name["InferTensorContents"]
    assert [(each.number, each.type) for each in contents.fields] == [
        (1, field.TYPE_BOOL),
        (2, field.TYPE_INT32),
        (3, field.TYPE_INT64),
        (4, field.TYPE_UINT32),
        (5, field.TYPE_UINT64),
        (6, field.TYPE_FLOAT),
        (7, field.TYPE_DOUBLE),
        (8, field.TYPE_BYTES),
    ]


# -- Health ----------------------------------------------------------------------------------------------------------
def watch(client: Client, service: str = "") -> Any:
    """The stream of answers of `grpc.health.v1.Health/Watch`."""
    ask = client.channel.unary_stream(
        "/grpc.health.v1.Health/Watch",
        request_serializer=messages.HealthCheckRequest.SerializeToString,
        response_deserializer=messages.HealthCheckResponse.FromString,
    )
    return ask(messages.HealthCheckRequest(service=service), PATIENCE)


def test_a_watcher_is_told_the_health_and_its_changes_until_the_end(tmp_path):
    app = build(tmp_path)
    with running(app) as found:
        told, unknown = watch(found.client, contract.GRPC_SERVICE), watch(found.client, "other")
        assert (next(told).status, next(unknown).status) == (1, 3)
        app.engine.draining = True
        assert next(told).status == 2
        app.engine.draining = False
        assert next(told).status == 1
        unknown.cancel()
        eventually(lambda: len(found.calls._service._watchers) == 1)
        app.engine.draining = True
        assert next(told).status == 2
    with pytest.raises(grpc.RpcError) as ended:
        next(told)
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE


def test_watchers_have_a_bound_and_the_first_one_makes_room(tmp_path, monkeypatch):
    monkeypatch.setattr(v2_grpc, "MAX_WATCHERS", 2)
    with running(build(tmp_path)) as found:
        streams = []
        for _ in range(3):
            streams.append(watch(found.client))
            assert next(streams[-1]).status == 1
        with pytest.raises(grpc.RpcError) as ended:
            next(streams[0])
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        assert len(found.calls._service._watchers) == 2


# -- A process -------------------------------------------------------------------------------------------------------
@pytest.fixture
def grpc_port():
    with held_port() as holder:
        yield holder.getsockname()[1]


def example_request(rows) -> Any:
    """Rows of the example bundle, as tensors."""
    request = messages.ModelInferRequest(model_name="delays")
    for name in rows[0]:
        values = [row[name] for row in rows]
        if name == "carrier":
            given = request.inputs.add(name=name, datatype="BYTES", shape=[len(rows)])
            given.contents.bytes_contents.extend(value.encode() for value in values)
        else:
            given = request.inputs.add(name=name, datatype="FP64", shape=[len(rows)])
            given.contents.fp64_contents.extend(math.nan if value is None else value for value in values)
    return request


def test_a_process_answers_both_protocols_alike_and_counts_them_together(serve, example, grpc_port):
    server = serve(example, **{contract.ENV_GRPC_PORT: str(grpc_port), contract.ENV_ACCESS_LOG: "1"}).ready()
    rows = example_rows(50)
    expected = server.ask("POST", "/v1/predict", {"rows": rows})[1]["predictions"]
    client = Client(grpc_port, **{"x-request-id": "mine", "traceparent": f"00-{'a' * 32}-{'b' * 16}-01"})
    answer = outputs(client.call("ModelInfer", example_request(rows)))
    assert answer["score"] == [each["score"] for each in expected]
    assert client.trailers["traceparent"] == f"00-{'a' * 32}-{'b' * 16}-01"
    assert counted(server, "requests") == 2

    def access() -> Any:
        return [line for line in server.lines() if line.get("request_id") == "mine"]

    [line] = eventually(access)
    assert (line["path"], line["status"], line["trace_id"]) == (
        "/inference.GRPCInferenceService/ModelInfer",
        200,
        "a" * 32,
    )


def test_predictions_over_grpc_are_in_the_prediction_log(serve, example, published, aws, grpc_port):
    serve(example, **published, **{contract.ENV_GRPC_PORT: str(grpc_port)}).ready()
    answer = Client(grpc_port).call("ModelInfer", example_request(example_rows(3)))
    kept = eventually(lambda: logged(aws))
    assert [row["score"] for row in kept] == outputs(answer)["score"]
    assert {row["request_id"] for row in kept} == {answer.id}


def test_a_service_of_its_own_answers_over_grpc_with_its_own_refusals(serve, custom_example, grpc_port):
    serve(custom_example, **{contract.ENV_GRPC_PORT: str(grpc_port)}).ready()
    client = Client(grpc_port)
    row = {**example_rows(1)[0], "x0": 0.0}
    assert outputs(client.call("ModelInfer", example_request([row]))) == {"label": ["late"], "score": [0.75]}
    assert client.refusal("ModelInfer", example_request([{**row, "x0": float(custom_bundle.RAISES)}]))[0] == "INTERNAL"
    code, said = client.refusal("ModelInfer", example_request([{**row, "x0": float(custom_bundle.REFUSES)}]))
    assert code == "INVALID_ARGUMENT"
    assert "the service knows better" in said
    busy = example_request([{**row, "x0": float(custom_bundle.BUSY)}])
    assert client.refusal("ModelInfer", busy)[0] == "RESOURCE_EXHAUSTED"


def test_a_message_may_be_as_large_as_a_body(serve, example, grpc_port):
    limit = 64 << 10
    serve(example, **{contract.ENV_GRPC_PORT: str(grpc_port), contract.ENV_MAX_BODY_BYTES: str(limit)}).ready()
    client = Client(grpc_port)
    request = example_request(example_rows(100))
    size = len(request.SerializeToString())
    request.id = "x" * (limit - size - 4)  # its tag, and three bytes for its length
    assert len(request.SerializeToString()) == limit
    assert client.call("ModelInfer", request).id == request.id
    request.id += "x"
    assert client.refusal("ModelInfer", request)[0] == "RESOURCE_EXHAUSTED"


def test_after_its_end_a_server_is_unavailable(serve, example, grpc_port):
    server = serve(example, **{contract.ENV_GRPC_PORT: str(grpc_port)}).ready()
    client = Client(grpc_port)
    assert client.call("ServerLive").live
    assert server.stop() == 0
    assert (server.lines()[-1]["message"], server.lines()[-1]["cut_off"]) == ("ended", 0)
    assert client.refusal("ServerLive")[0] == "UNAVAILABLE"


def test_a_server_is_not_ready_and_still_answers_while_it_drains(serve, example, grpc_port):
    server = serve(example, **{contract.ENV_GRPC_PORT: str(grpc_port), contract.ENV_DRAIN_SECONDS: "600"}).ready()
    client = Client(grpc_port)
    server.process.terminate()
    eventually(lambda: not client.call("ServerReady").ready)
    assert client.call("ModelInfer", example_request(example_rows(1))).outputs
    server.process.send_signal(2)  # Ctrl-C ends the wait
    assert server.ended() == 0


def _loaded(server) -> str:
    """The libraries of its process."""
    return Path(f"/proc/{server.process.pid}/maps").read_text()


def test_without_a_port_there_is_no_grpc_and_its_modules_are_not_loaded(serve, example, grpc_port):
    assert "_upb" not in _loaded(serve(example).ready())
    assert "_upb" in _loaded(serve(example, **{contract.ENV_GRPC_PORT: str(grpc_port)}).ready())


def test_a_server_does_not_load_grpcio(serve, example, grpc_port):
    assert "cygrpc" not in _loaded(serve(example, **{contract.ENV_GRPC_PORT: str(grpc_port)}).ready())


def test_one_port_answers_both_protocols(serve, example):
    server = serve(example, **{contract.ENV_GRPC_PORT: SAME_PORT}).ready()
    rows = example_rows(50)
    expected = server.ask("POST", "/v1/predict", {"rows": rows})[1]["predictions"]
    client = Client(server.port)
    assert outputs(client.call("ModelInfer", example_request(rows)))["score"] == [each["score"] for each in expected]
    assert client.call("ServerLive").live
    assert counted(server, "requests") == 2
    assert server.stop() == 0
    assert server.lines()[-1]["cut_off"] == 0
    assert client.refusal("ServerLive")[0] == "UNAVAILABLE"


def test_a_server_without_the_packages_of_grpc_does_not_start_and_names_the_fix(serve, example, grpc_port, tmp_path):
    (tmp_path / "hpack.py").write_text("raise ModuleNotFoundError(\"No module named 'hpack'\", name='hpack')\n")
    server = serve(example, **{contract.ENV_GRPC_PORT: str(grpc_port), "PYTHONPATH": str(tmp_path)})
    assert server.ended() == 1
    line = server.lines()[-1]
    assert "hpack and protobuf" in line["message"]
    assert "runtime grpc" in line["fix"]


def test_a_port_that_is_taken_is_refused(serve, example):
    with held_port() as holder:
        holder.listen()
        server = serve(example, **{contract.ENV_GRPC_PORT: str(holder.getsockname()[1])})
        assert server.ended() == 1
    assert "cannot be listened on for gRPC" in server.lines()[-1]["message"]
